"""Points: the steps of a run, as the few that a chart can show, the same ones for every reward.

Neighbouring steps become one point, which keeps their least and greatest mean. A step that matters (where an alert
began or ended, the extremes of each reward) stays a point of its own, so that its value is the recorded one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.decimate import aggregate, bucket_starts

_SINGLE_SHARE = 4  # at most one point of so many is kept for a single step
_NEIGHBOURS = 25  # steps before and after an important one that stay single too, where there is room


class Points(NamedTuple):
    """Which rows of the series make which point."""

    rows: np.ndarray  # int64[T]: rows of the series in ascending steps, of each step the newest
    starts: np.ndarray  # int64[P]: where each point begins in `rows`
    first: np.ndarray  # int64[P]: its first step
    last: np.ndarray  # int64[P]: its last step

    @property
    def is_whole(self) -> bool:
        """Whether every step is a point."""
        return len(self.rows) == len(self.starts)

    def reduce(self, column: np.ndarray, how: str) -> np.ndarray:
        """Return a value per point, float64[P]: the "mean", "min", "max" or "last" of its steps; NaN without data."""
        if not len(column):  # the run has no such column
            return np.full(len(self.starts), np.nan)
        values: np.ndarray = column[self.rows].astype(np.float64)
        return aggregate(values, self.starts, how) if how != "last" else np.asarray(values[self.stops - 1])

    @property
    def stops(self) -> np.ndarray:
        """Where each point ends in `rows`, exclusive."""
        stops: np.ndarray = np.append(self.starts[1:], len(self.rows)).astype(np.int64)
        return stops


def choose(run: History, rewards: Sequence[str], marked: Sequence[int], limit: int) -> Points:
    """Return about `limit` points at most.

    Args:
      run: whose steps.
      rewards: whose extremes stay single steps.
      marked: steps that stay single, such as those of alerts.
      limit: how many points; every step is one where they are fewer.
    """
    steps, newest_first = np.unique(run.steps()[::-1], return_index=True)
    rows = len(run.steps()) - 1 - newest_first
    starts = bucket_starts(len(rows), limit)
    if len(rows) > limit:
        important = np.union1d(
            np.flatnonzero(np.isin(steps, np.asarray(marked, np.int64))), _extremes(run, rewards, rows)
        )
        single = _with_neighbours(important, len(rows), limit // _SINGLE_SHARE)
        ends = np.union1d(single, single + 1)
        starts = np.union1d(bucket_starts(len(rows), limit - len(ends)), ends)
        starts = starts[starts < len(rows)]
    stops = np.append(starts[1:], len(rows)).astype(np.int64)
    return Points(rows, starts, steps[starts], steps[stops - 1] if len(steps) else steps)


def _extremes(run: History, rewards: Sequence[str], rows: np.ndarray) -> np.ndarray:
    found = [0, len(rows) - 1]
    for reward in rewards:
        column = run.array(f"{reward}/mean")
        if len(column) and not np.isnan(column).all():
            found += [int(np.nanargmin(column[rows])), int(np.nanargmax(column[rows]))]
    return np.array(found, np.int64)


def _with_neighbours(important: np.ndarray, rows: int, limit: int) -> np.ndarray:
    """Return at most `limit` rows: the given ones, and as far as there is room the ones around them."""
    found = (
        important[np.linspace(0, len(important) - 1, limit).astype(np.int64)] if len(important) > limit else important
    )
    for distance in range(1, _NEIGHBOURS + 1):
        wider = np.unique(np.concatenate([found, important - distance, important + distance]))
        wider = wider[(wider >= 0) & (wider < rows)]
        if len(wider) > limit:
            break
        found = wider
    return found
