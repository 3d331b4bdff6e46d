"""Points: the steps of a run, or of several, as the few that a chart can show, the same ones for every reward.

Neighbouring steps become one point, which keeps their least and greatest mean. A step that matters (where an alert
began or ended, the extremes of each reward) stays a point of its own, with those around it as far as there is room, so
that its value is the recorded one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.decimate import aggregate, bucket_starts, newest_rows

_SINGLE_SHARE = 4  # at most one point of so many is kept for a single step
_NEIGHBOURS = 25  # steps before and after an important one that stay single too, where there is room


class Points(NamedTuple):
    """Which steps make which point."""

    steps: np.ndarray  # int64[T], ascending: every step that a run has
    starts: np.ndarray  # int64[P]: where each point begins in `steps`

    @property
    def is_whole(self) -> bool:
        """Whether every step is a point."""
        return len(self.steps) == len(self.starts)

    @property
    def first(self) -> np.ndarray:
        """The first step of each point, int64[P]."""
        return np.asarray(self.steps[self.starts])

    @property
    def last(self) -> np.ndarray:
        """The last step of each point, int64[P]."""
        stops = np.append(self.starts[1:], len(self.steps)).astype(np.int64)
        return np.asarray(self.steps[stops - 1] if len(self.steps) else self.steps)


class Sampled:
    """Columns of a run at points; of a step that was written twice the newer row counts.

    Args:
      run: whose columns.
      points: where.
    """

    def __init__(self, run: History, points: Points) -> None:
        self._run, self._points = run, points
        own, newest = newest_rows(run.steps())
        at = np.searchsorted(own, points.steps)
        self._is_there = np.isin(points.steps, own)
        self._rows = newest[at[self._is_there]]

    def reduce(self, key: str, how: str) -> np.ndarray:
        """Return a value per point, float64[P]: "mean", "min", "max" or "last" of its steps; NaN without data."""
        values, column = np.full(len(self._points.steps), np.nan), self._run.array(key)
        if len(column):  # else the run has no such column
            values[self._is_there] = column[self._rows]
        if how != "last" or not len(values):
            return aggregate(values, self._points.starts, how)
        known = np.where(np.isnan(values), -1, np.arange(len(values)))
        latest = np.maximum.reduceat(known, self._points.starts)
        return np.where(latest >= self._points.starts, values[latest], np.nan)

    def hold(self, key: str) -> np.ndarray:
        """Return, for each point, what the emission said that its first step went into, float64[P]."""
        values = self._run.emissions.array(key)
        if not len(values):
            return np.full(len(self._points.starts), np.nan)
        steps, newest = newest_rows(self._run.emissions.steps)
        values, at = values[newest], np.searchsorted(steps, self._points.first)
        return np.where(at < len(steps), values[np.minimum(at, len(steps) - 1)], np.nan)


def choose(runs: Sequence[History], rewards: Sequence[str], marked: Sequence[int], limit: int) -> Points:
    """Return about `limit` points at most.

    Args:
      runs: whose steps.
      rewards: whose extremes stay single steps.
      marked: steps that stay single, such as those of alerts.
      limit: how many points; every step is one where they are fewer.
    """
    steps = np.unique(np.concatenate([run.steps() for run in runs]))
    starts = bucket_starts(len(steps), limit)
    if len(steps) > limit:
        extremes = [step for run in runs for step in _extremes(run, rewards)]
        important = np.flatnonzero(np.isin(steps, np.array([*marked, *extremes], np.int64)))
        single = _with_neighbours(important, len(steps), limit // _SINGLE_SHARE)
        ends = np.union1d(single, single + 1)
        starts = np.union1d(bucket_starts(len(steps), limit - len(ends)), ends)
        starts = starts[starts < len(steps)]
    return Points(steps, starts)


def _extremes(run: History, rewards: Sequence[str]) -> list[int]:
    steps, found = run.steps(), []
    for reward in rewards:
        mean = run.array(f"{reward}/mean")
        if np.isfinite(mean).any():
            found += [int(steps[np.nanargmin(mean)]), int(steps[np.nanargmax(mean)])]
    return found


def _with_neighbours(important: np.ndarray, rows: int, limit: int) -> np.ndarray:
    """Return at most `limit` rows: the given ones, and as far as there is room the ones around them."""
    found = important
    if len(found) > limit:
        found = found[np.linspace(0, len(found) - 1, limit).astype(np.int64)]
    for distance in range(1, _NEIGHBOURS + 1):
        wider = np.unique(np.concatenate([found, important - distance, important + distance]))
        wider = wider[(wider >= 0) & (wider < rows)]
        if len(wider) > limit:
            break
        found = wider
    return found
