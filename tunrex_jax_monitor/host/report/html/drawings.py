"""Small drawings that need no script: the course in the summary table, and the histogram of a run. SVG path data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Histogram
from tunrex_jax_monitor.host.report.decimate import keep_extremes, to_unit
from tunrex_jax_monitor.host.report.episodes import Episode
from tunrex_jax_monitor.host.report.heatmap import heat_map, rebin
from tunrex_jax_monitor.host.report.text import number

WIDTH, HEIGHT, POINTS = 150, 30, 120
BARS_WIDTH, BARS_HEIGHT = 240, 90


class Course(NamedTuple):
    """A small curve: its path, and for each type of alert the path of where it held."""

    path: str
    marks: list[tuple[str, str]]
    width: int = WIDTH
    height: int = HEIGHT


class Bars(NamedTuple):
    """A histogram: its path, the least and the greatest value in it, what it covers, and what it leaves out."""

    path: str
    low: str
    high: str
    title: str
    clipped: str
    width: int = BARS_WIDTH
    height: int = BARS_HEIGHT


def course(run: History, name: str, own: Sequence[Episode]) -> Course | None:
    """Return the course of the short average; None where it has fewer than two values."""
    steps, values = run.steps(), run.array(f"{name}/ema_short")
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        return None
    kept = known[keep_extremes(values[known], POINTS)]
    span = max(float(steps.max() - steps.min()), 1.0)
    x = (steps - steps.min()) / span * WIDTH
    y = HEIGHT - 3 - to_unit(values[kept]) * (HEIGHT - 6)
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[kept], y, strict=True))
    kinds = dict.fromkeys(e.type for e in own)
    return Course(path, [(k, _held([e for e in own if e.type == k], int(steps.min()), span)) for k in kinds])


def _held(own: Sequence[Episode], first: int, span: float) -> str:
    """Return the path of the pixels in which any of the episodes held: no longer for ten thousand than for fifty."""
    pixels = np.zeros(WIDTH + 1, bool)
    for e in own:
        left, right = ((step - first) / span * (WIDTH - 1) for step in (e.first, e.last))
        pixels[max(int(left), 0) : max(int(right), 0) + 1] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], pixels, [False]]).astype(np.int8))).tolist()
    return "".join(f"M{a} 0H{b}V{HEIGHT}H{a}Z" for a, b in zip(edges[::2], edges[1::2], strict=True))


def bars(run: History, name: str) -> Bars | None:
    """Return the histogram of the whole run, or while it goes on that of its last window; None without either."""
    last = {} if run.last is None else run.last.histograms
    key = next((key for key in (f"{name}/run/histogram", f"{name}/histogram") if key in last), None)
    if key is None or not sum(last[key].counts):
        return None
    return _bars(last[key], run, name, "/run/" in key)


def _bars(histogram: Histogram, run: History, name: str, is_run: bool) -> Bars:
    """Draw the run over the range of its heat map, so that a far-off value does not squash the rest."""
    found = heat_map(run.emissions, name, columns=1) if is_run else None
    edges = np.asarray(histogram.edges, float)  # its own: over other bins, one value would be spread over several
    if found is not None:
        edges = np.unique(np.clip(edges, found.edges[0], found.edges[-1]))
    shares = rebin(histogram, edges)
    below, inside, above = float(shares[0]), shares[1:-1], float(shares[-1])
    heights = inside / (inside.max() or 1.0) * (BARS_HEIGHT - 2)
    x = to_unit(edges) * BARS_WIDTH
    path = f"M0 {BARS_HEIGHT}" + "".join(
        f"H{left:.1f}V{BARS_HEIGHT - height:.1f}H{right:.1f}"
        for left, right, height in zip(x[:-1], x[1:], heights, strict=True)
    )
    outside = [f"{100 * s:.2g} % {where}" for s, where in ((below, "below"), (above, "above")) if s > 1e-4]
    title = f"{sum(histogram.counts):,} samples of the {'run' if is_run else 'last window'}"
    clipped = f"{' and '.join(outside)} not shown" if outside else ""
    scalars, key = {} if run.last is None else run.last.scalars, f"{name}/run/" if is_run else f"{name}/"
    low, high = float(edges[0]), float(edges[-1])  # may lie half a bin beyond: bins have common values in the middle
    low, high = max(low, scalars.get(f"{key}min", low)), min(high, scalars.get(f"{key}max", high))
    return Bars(f"{path}V{BARS_HEIGHT}Z", number(low), number(high), title, clipped)
