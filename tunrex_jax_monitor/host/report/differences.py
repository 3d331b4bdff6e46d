"""What differs between runs, in numbers: over the steps that all of them have, against the first one.

    differences = compare({"before": History.read(a), "after": History.read(b)})
    broken = [d for d in differences if Limit.parse("mean:-5%").is_broken_by(d)]

Nothing here draws or prints; the comparison page and the command line show what this says.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.decimate import newest_rows
from tunrex_jax_monitor.host.report.episodes import TOTAL

METRICS = {
    "mean": "mean of the samples",
    "std": "standard deviation of the samples",
    "now": "short average at the last shared step",
    "best": "greatest short average",
    "zero_std": "share of groups without variance, mean of the steps",
    "alerts": "alerts that began",
}
OF_RUN = {"steps": "last step of the run"}  # what a run has once, beside the figures of its rewards
RUN = "run"  # their reward
SHARES = frozenset({"zero_std"})  # in 0..1: their changes are told in percentage points
_ROUNDING = 1e-9  # of a limit: a change from 0.7 to 0.8 is one of ten points
_OF_MEAN = 1e-7  # a spread this small beside the mean is the rounding of float32
_LIMIT = re.compile(r"(?P<metric>\w+):(?P<sign>[+-]?)(?P<size>\d+\.?\d*|\.\d+)(?P<unit>%|pp|)")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One figure of one reward, in the first run and in another one; None where a run does not have it."""

    run: str
    reward: str
    metric: str
    base: float | None
    value: float | None

    @property
    def absolute(self) -> float | None:
        """The change, in the figure's own unit."""
        return None if self.base is None or self.value is None else self.value - self.base

    @property
    def relative(self) -> float | None:
        """The change as a part of the base's size: below 0 is always a fall. Infinite where the base is 0."""
        if self.base is None or self.value is None:
            return None
        change = self.value - self.base
        if self.base == 0:
            return math.copysign(math.inf, change) if change else 0.0
        return change / abs(self.base)

    @property
    def points(self) -> float | None:
        """The change in percentage points; None for a figure that is no share."""
        change = self.absolute
        return None if change is None or self.metric not in SHARES else 100.0 * change


@dataclasses.dataclass(frozen=True)
class Limit:
    """How far a figure may go.

    Attributes:
      metric: a key of METRICS or OF_RUN.
      change: the greatest allowed change; below 0 limits a fall, above 0 a rise.
      unit: "%" of the base, "pp" for percentage points, "" for the figure's own unit.
      both: the change is limited in both directions.
    """

    metric: str
    change: float
    unit: str = ""
    both: bool = False

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Read `mean:-5%` (a fall by more than 5 %), `zero_std:+10pp`, `steps:-0` (any fall), `std:20%` (either way).

        Raises:
          ValueError: it reads otherwise, or names no metric.
        """
        found = _LIMIT.fullmatch(text.strip())
        if found is None or found["metric"] not in (*METRICS, *OF_RUN):
            raise ValueError(
                f"limit: got {text!r}, allowed METRIC:[+|-]NUMBER[%|pp] with a metric of {(*METRICS, *OF_RUN)}. "
                "Write for example mean:-5%, zero_std:+10pp or alerts:+0."
            )
        if found["unit"] == "pp" and found["metric"] not in SHARES:
            raise ValueError(
                f"limit: got {text!r}, allowed pp for shares alone: {tuple(SHARES)}. Write % for a relative change."
            )
        size = float(found["size"])
        if not found["unit"] and found["metric"] in SHARES and size > 1:
            raise ValueError(
                f"limit: got {text!r}, allowed without a unit: a share of at most 1. "
                f"Write {found['metric']}:{found['sign'] or ''}{found['size']}pp for percentage points."
            )
        return cls(
            found["metric"], math.copysign(size, -1 if found["sign"] == "-" else 1), found["unit"], not found["sign"]
        )

    def is_broken_by(self, difference: Difference) -> bool:
        """Tell whether a difference goes beyond the limit; a figure that only the base has does."""
        if difference.metric != self.metric or difference.base is None:
            return False
        change = self._change(difference)
        if change is None:
            return True
        allowed = abs(self.change) * (1 + _ROUNDING)
        is_fall = math.copysign(1.0, self.change) < 0
        return (abs(change) if self.both else -change if is_fall else change) > allowed

    def _change(self, difference: Difference) -> float | None:
        if self.unit == "pp":
            return difference.points
        relative = difference.relative
        return difference.absolute if not self.unit else None if relative is None else 100.0 * relative


def compare(runs: Mapping[str, History]) -> list[Difference]:
    """Return every figure of every reward of every run but the first, against the first.

    Figures are over the steps from the latest first to the earliest last one, so that a run that ended early is judged
    by what it did. Of a step that was written twice the newer row counts. A reward that a run does not have has None.

    Args:
      runs: by the name that the differences shall carry; the first is the base.
    """
    span = shared_steps(runs)
    base, *others = runs
    figures = {run: dict(_figures(history, span)) for run, history in runs.items()}
    rewards = dict.fromkeys(reward for run in runs for reward, _ in figures[run])
    return [
        Difference(run, reward, metric, figures[base].get((reward, metric)), figures[run].get((reward, metric)))
        for run in others
        for reward in rewards
        for metric in METRICS
        if (reward, metric) in figures[base] or (reward, metric) in figures[run]
    ]


def lengths(runs: Mapping[str, History]) -> list[Difference]:
    """Return how far each run but the first went, against the first: figures are only of the steps that all have."""
    base, *others = runs
    last = {name: float(max(steps)) if (steps := run.series.get("step")) else None for name, run in runs.items()}
    return [Difference(other, RUN, "steps", last[base], last[other]) for other in others]


def shared_steps(runs: Mapping[str, History]) -> tuple[int, int] | None:
    """Return the first and the last step of the range that all runs cover; None where there is none."""
    steps = [history.series.get("step") for history in runs.values()]
    if not all(steps):
        return None
    first, last = max(min(s) for s in steps if s), min(max(s) for s in steps if s)
    return (first, last) if first <= last else None


def rewards_of(history: History) -> tuple[str, ...]:
    """Return the rewards of a run, and last its weighted total where it is in the series."""
    return tuple(dict.fromkeys([*history.names, *([TOTAL] if f"{TOTAL}/mean" in history.series else [])]))


def _figures(history: History, span: tuple[int, int] | None) -> Iterator[tuple[tuple[str, str], float | None]]:
    first, last = span or (0, -1)
    steps, rows = newest_rows(history.steps())
    rows = rows[(steps >= first) & (steps <= last)]
    for reward in rewards_of(history):
        columns = {
            field: history.array(f"{reward}/{field}").astype(float)[rows]
            for field in ("mean", "std", "count", "ema_short", "frac_zero_std")
        }
        began = [a for a in history.alerts if a.reward == reward and first <= a.step <= last]
        yield from (((reward, metric), value) for metric, value in _of_columns(columns))
        yield (reward, "alerts"), float(len(began)) if span else None


def _of_columns(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float | None]]:
    """Yield the figures of one reward's steps; None without data."""
    seen = np.isfinite(columns["mean"]) & (columns["count"] > 0)
    mean, std, count = (columns[field][seen] for field in ("mean", "std", "count"))
    if count.size:
        weights = count / count.sum()
        overall = (weights * mean).sum()
        yield "mean", float(overall)
        with np.errstate(over="ignore"):
            spread = float(np.sqrt((weights * (std**2 + (mean - overall) ** 2)).sum()))
        spread = spread if spread > _OF_MEAN * abs(overall) else 0.0
        yield "std", spread if math.isfinite(spread) else None
    else:
        yield from (("mean", None), ("std", None))
    averages = columns["ema_short"][np.isfinite(columns["ema_short"])]
    yield "now", float(averages[-1]) if averages.size else None
    yield "best", float(averages.max()) if averages.size else None
    shares = columns["frac_zero_std"][np.isfinite(columns["frac_zero_std"])]
    if shares.size:
        yield "zero_std", float(shares.mean())
