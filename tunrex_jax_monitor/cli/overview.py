"""The table of a run: how each reward is, the one that needs a person most first, and last their weighted total."""

from collections.abc import Iterable

import numpy as np

from tunrex_jax_monitor.cli.tables import Cell, Table
from tunrex_jax_monitor.cli.text import speaks_unicode
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.decimate import aggregate, bucket_starts, to_unit
from tunrex_jax_monitor.host.report.episodes import TOTAL, by_severity, called, episodes
from tunrex_jax_monitor.host.report.text import number, share, signed
from tunrex_jax_monitor.host.report.verdict import Verdict, total_verdict, verdicts

_COURSE = 12  # columns
_STYLES = {"bad": "bold red", "watch": "yellow", "ok": "green", "empty": "dim"}


def judged(history: History) -> list[Verdict]:
    """Return the verdicts in the order of the table."""
    found = episodes(history)
    of = {verdict.reward: verdict for verdict in verdicts(history, found)}
    total = [total_verdict(history, found)] if f"{TOTAL}/mean" in history.series else []
    return [*(of[name] for name in by_severity(history.names, found)), *total]


def overview(history: History) -> Table:
    """Return the table."""
    titles = ("reward", "verdict", "now", "change", "best", "zero var.", "alerts", "course")
    rows: list[list[Cell | str]] = [
        [
            called(v.reward),
            Cell(v.words, _STYLES.get(v.status, "")),
            number(v.now),
            signed(v.change),
            number(v.best),
            share(v.zero_variance),
            Cell(str(v.alerts), "bold" if v.alerts else "dim"),
            course(history.array(f"{v.reward}/ema_short")),
        ]
        for v in judged(history)
    ]
    return Table(titles, rows, left=("verdict", "course"), optional=("course", "best", "zero var."))


def course(values: np.ndarray, columns: int = _COURSE) -> str:
    """Return a small curve in one line of text; a space where there is no data.

    Args:
      values: float64[T]; NaN is no data.
      columns: how wide, at most.
    """
    blocks = "▁▂▃▄▅▆▇█" if speaks_unicode() else "_.,-=+*#"
    means = aggregate(values, bucket_starts(len(values), columns), "mean")
    if not np.isfinite(means).any():
        return ""
    return "".join(_blocks(to_unit(means) * (len(blocks) - 1), blocks))


def _blocks(levels: np.ndarray, blocks: str) -> Iterable[str]:
    return (" " if np.isnan(level) else blocks[round(float(level))] for level in levels)
