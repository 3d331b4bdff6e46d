"""Decimation: fewer points of a long series, with every extreme and every given step still among them.

A stride loses what happens between its points: one of 16 lost a spike of a single step completely.
"""

from collections.abc import Callable, Iterable

import numpy as np

FURTHEST = 1e300  # what an axis may reach, so that no difference overflows; the device's numbers end at 3.4e38

_Reduce = Callable[[np.ndarray, np.ndarray], np.ndarray]
_REDUCE: dict[str, _Reduce] = {"min": np.fmin.reduceat, "max": np.fmax.reduceat}


def bucket_starts(rows: int, buckets: int) -> np.ndarray:
    """Return where each of at most `buckets` runs of neighbouring rows begins, int64[at most buckets].

    >>> bucket_starts(10, 3)
    array([0, 3, 6])
    """
    if rows <= buckets:
        return np.arange(rows)
    return np.linspace(0, rows, buckets, endpoint=False).astype(np.int64)


def newest_rows(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each step once, ascending, and the newest of its rows."""
    ascending, back = np.unique(steps[::-1], return_index=True)
    return ascending, len(steps) - 1 - back


def aggregate(values: np.ndarray, starts: np.ndarray, how: str) -> np.ndarray:
    """Return one value per bucket; NaN where a bucket has no data.

    Args:
      values: float64[T]; NaN is no data.
      starts: of the buckets, from `bucket_starts`.
      how: "mean", "min" or "max".
    """
    if not len(values):
        return np.empty(0)
    if how != "mean":
        return _REDUCE[how](values, starts)
    known = ~np.isnan(values)
    count = np.add.reduceat(known.astype(np.float64), starts)
    total = np.add.reduceat(np.where(known, values, 0.0), starts)
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def to_unit(values: np.ndarray) -> np.ndarray:
    """Return the values between 0, for the least, and 1, for the greatest; all 0 where they are one value.

    Args:
      values: float64[T], not all of them NaN, which stays.
    """
    halves = values / 2  # the span of the whole may be more than a float holds
    low, high = np.nanmin(halves), np.nanmax(halves)
    return np.asarray((halves - low) / ((high - low) or 1.0))


def keep_extremes(values: np.ndarray, points: int, always: Iterable[int] = ()) -> np.ndarray:
    """Return the rows to draw, in order: of each bucket the least and the greatest value, both ends, and `always`.

    Args:
      values: float64[T]; NaN is no data. A bucket that has some keeps the row of its first NaN too, so that a line
        shows a gap.
      points: about how many rows to keep, at least four; `always` comes on top.
      always: rows that must be among them, such as those of alerts.
    """
    rows = len(values)
    if rows <= points:
        return np.arange(rows)
    starts = bucket_starts(rows, max(points // 2, 1))
    ends = np.append(starts[1:], rows)
    missing = np.isnan(values)
    low, high = np.where(missing, np.inf, values), np.where(missing, -np.inf, values)
    kept = [0, rows - 1, *(int(row) for row in always if 0 <= row < rows)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        kept += [start + int(low[start:end].argmin()), start + int(high[start:end].argmax())]
        if missing[start:end].any():
            kept.append(start + int(missing[start:end].argmax()))
    return np.unique(np.array(kept, np.int64))
