"""Run quantiles and the run histogram, read from the sketch in float64 and exact integers."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.histogram import BINS, edges
from tunrex_jax_monitor.host.record import Histogram

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Points(NamedTuple):
    """A reward's filled bins in increasing order: `count` samples spread evenly from `low` to `high`."""

    counts: list[int]
    low: list[float]
    high: list[float]


class RunSketch(NamedTuple):
    """The sketch of a state, as numpy arrays [R, bins], and the counts of the atoms, [limb, A, R]."""

    low: np.ndarray
    high: np.ndarray
    greatest: np.ndarray
    least: np.ndarray
    atoms: np.ndarray

    def points(self, config: Config, i: int) -> Points:
        """Return the filled bins and atoms of reward i."""
        used = np.flatnonzero(self.low[i] | self.high[i])
        counts = self.low[i][used].astype(object) + (self.high[i][used].astype(object) << 32)
        rows = list(zip(counts, _floats(~self.least[i][used]), _floats(self.greatest[i][used]), strict=True))
        for atom, low, high in zip(config.atoms, self.atoms[0, :, i], self.atoms[1, :, i], strict=True):
            if count := int(low) + (int(high) << 32):
                rows.append((count, np.float64(np.float32(atom)), np.float64(np.float32(atom))))
        rows.sort(key=lambda row: (row[1] + row[2], row[1]))
        return Points([int(r[0]) for r in rows], [float(r[1]) for r in rows], [float(r[2]) for r in rows])


def run_scalars(config: Config, sketch: RunSketch) -> Iterator[tuple[str, float]]:
    """Yield `<name>/run/p01` ... `p99` of every reward that has samples."""
    for i, name in enumerate(config.reward_names):
        points = sketch.points(config, i)
        if points.counts:
            yield from ((f"{name}/run/p{p:02d}", percentile(points, p)) for p in PERCENTILES)


def run_histograms(config: Config, sketch: RunSketch) -> Iterator[tuple[str, Histogram]]:
    """Yield `<name>/run/histogram` of every reward that has samples."""
    for i, name in enumerate(config.reward_names):
        points = sketch.points(config, i)
        if points.counts:
            yield f"{name}/run/histogram", histogram(points)


def percentile(points: Points, p: int) -> float:
    """Return the p-th percentile, linear between order statistics as numpy's default."""
    rank, rest = divmod(p * (sum(points.counts) - 1), 100)
    below = _order_statistic(points, rank)
    return below if not rest else below + (_order_statistic(points, rank + 1) - below) * rest / 100


def _order_statistic(points: Points, rank: int) -> float:
    for count, low, high in zip(*points, strict=True):
        if rank < count:
            return low if low == high else low + (high - low) * rank / max(count - 1, 1)
        rank -= count
    return points.high[-1]


def histogram(points: Points) -> Histogram:
    """Rebin into at most 64 bins whose edges are half-odd multiples of a power of two; counts stay whole."""
    least, greatest = min(points.low), max(points.high)
    exponent = _exponent_of_spread(least, greatest) if greatest > least else _exponent_of_one(least)
    first = math.floor(least / 2.0**exponent + 0.5)
    bins = math.floor(greatest / 2.0**exponent + 0.5) - first + 1
    grid = edges(exponent, first, bins)
    below = [sum(_below(edge, *point) for point in zip(*points, strict=True)) for edge in grid]
    return Histogram([b - a for a, b in pairwise(below)], grid.tolist())


def _exponent_of_spread(least: float, greatest: float) -> int:
    return math.ceil(math.log2((greatest - least) / (BINS - 2)))


def _exponent_of_one(value: float) -> int:
    """Return -3 where a float64 can say the edges of such a bin; 2^-40 of the value is far within."""
    return max(-3, math.frexp(value)[1] - 40)


def _below(edge: float, count: int, low: float, high: float) -> int:
    """Return how many of `count` samples spread evenly over [low, high] are less than `edge`."""
    if edge <= low:
        return 0
    if edge > high:
        return count
    return min(count - 1, max(1, math.ceil((edge - low) / (high - low) * (count - 1))))


def _floats(keys: np.ndarray) -> np.ndarray:
    """Invert `device.bits.order_key`."""
    sign = np.uint32(0x80000000)
    bits = np.where(keys & sign == 0, ~keys, keys ^ sign).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)
