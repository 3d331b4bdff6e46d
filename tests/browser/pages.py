"""The pages that are looked at, and the runs behind them."""

import dataclasses
import functools
import math

from tests.host.report import runs
from tests.host.support import make_record
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent
from tunrex_jax_monitor.host.report.page import comparison_page, page

LONG, SHORT = 10_000, 1_000  # steps; a short run is drawn step by step


@functools.cache
def run(steps, rewards, **options):
    return History.of(runs.records(steps, rewards, **options))


def blind():
    """A run whose rewards were never finite."""
    return History.of(_without_values(record) for record in runs.records(200, 2, faults=False))


def _without_values(record):
    known = ("step", "count", "alerts")
    series = {k: v if k.endswith(known) else [None] * len(v) for k, v in record.series.items()}
    scalars = {f"{name}/nonfinite_count": 32.0 * record.update for name in record.names}
    return dataclasses.replace(record, series=series, scalars=scalars, histograms={})


def noisy():
    """A run with 500 alerts."""
    *records, last = runs.records(SHORT, 2, faults=False)
    kinds = (("format", "OUTLIER"), ("answer", "DROP"))
    alerts = tuple(
        AlertEvent(2 * at, *kinds[at % 2], f"{kinds[at % 2][1]}: {kinds[at % 2][0]} - as planted", "Look.")
        for at in range(500)
    )
    return History.of([*records, dataclasses.replace(last, alerts=alerts)])


def gaps():
    """A run in which every second step has no data."""
    wave = [None if step % 2 else math.sin(step / 20) for step in range(200)]
    series = {"step": list(range(200)), **{f"a/{key}": wave for key in ("mean", "ema_short", "ema_long")}}
    return History.of([make_record(199, names=("a",), series=series)])


def compared():
    return {
        "baseline": run(SHORT, 4),
        "lr-3e-6": run(SHORT // 2, 3, seed=1, faults=False),
        runs.HOSTILE[0]: run(SHORT, 4, seed=2),
    }


MAKERS = {
    "long": lambda: page(run(LONG, 8)),
    "many": lambda: page(run(LONG, 32)),
    "short": lambda: page(run(SHORT, 3)),
    "hostile": lambda: page(run(300, 8, names=runs.HOSTILE)),
    "empty": lambda: page(History()),
    "one": lambda: page(run(1, 3)),
    "blind": lambda: page(blind()),
    "noisy": lambda: page(noisy()),
    "gaps": lambda: page(gaps()),
    "no-groups": lambda: page(run(300, 1, group_size=None)),
    "comparison": lambda: comparison_page(compared()),
}
