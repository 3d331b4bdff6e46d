"""Heat map: how the distribution of a reward moved, from the window histograms of the emissions.

Every histogram is spread over one grid of bins without losing mass, then the columns are averaged in buckets of time. A
far-off value must not squash the rest: the grid covers p10 to p90 of every emission and the extremes of the usual one,
with half that width on either side where there is something; what lies outside is counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunrex_jax_monitor.host.emissions import Emissions
from tunrex_jax_monitor.host.record import Histogram
from tunrex_jax_monitor.host.report.decimate import FURTHEST, bucket_starts

COLUMNS, BINS = 240, 48
_MARGIN = 0.5


@dataclass(frozen=True)
class HeatMap:
    """A grid of shares.

    Attributes:
      steps: edges of the columns, float64[C + 1], in steps.
      edges: edges of the bins, float64[K + 1], in units of the reward.
      shares: float64[K, C]: share of the window's samples; a column sums to 1 less what is clipped.
      below: the greatest share of a column below the grid, and `above`, above it.
      above: see `below`.
      histograms: of how many histograms it is made.
    """

    steps: np.ndarray
    edges: np.ndarray
    shares: np.ndarray
    below: float
    above: float
    histograms: int

    @property
    def clipped(self) -> str:
        """What the grid leaves out, in words; empty when it is nothing."""
        parts = [f"{100 * s:.2g} % {where}" for s, where in ((self.below, "below"), (self.above, "above")) if s > 1e-4]
        return f"up to {', '.join(parts)} not shown" if parts else ""


def heat_map(emissions: Emissions, name: str, *, columns: int = COLUMNS, bins: int = BINS) -> HeatMap | None:
    """Return the heat map of a reward; None where it has no histogram."""
    kept = [(step, h) for step, h in emissions.histograms(name) if sum(h.counts)]
    if not kept:
        return None
    edges = _grid(emissions, name, [h for _, h in kept], bins)
    spread = np.stack([rebin(h, edges) for _, h in kept])  # [E, K + 2]: below, the bins, above
    starts = bucket_starts(len(kept), columns)
    sizes = np.diff(np.append(starts, len(kept)))
    mean = np.add.reduceat(spread, starts, axis=0) / sizes[:, None]
    steps = np.array([step for step, _ in kept], np.float64)
    return HeatMap(
        steps=_column_edges(steps[np.append(starts[1:] - 1, len(kept) - 1)], float(steps[0])),
        edges=edges,
        shares=mean[:, 1:-1].T,
        below=float(spread[:, 0].max()),
        above=float(spread[:, -1].max()),
        histograms=len(kept),
    )


def rebin(histogram: Histogram, edges: np.ndarray) -> np.ndarray:
    """Return the shares of a histogram below, in and above the bins of a grid, float64[K + 2]; they sum to 1.

    A bin that straddles an edge is divided as if its samples lay evenly in it.
    """
    counts, own = np.asarray(histogram.counts, np.float64), np.asarray(histogram.edges, np.float64)
    cumulative = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    at = np.interp(edges, own, cumulative)
    return np.diff(np.concatenate([[0.0], at, [1.0]]))


def _grid(emissions: Emissions, name: str, histograms: list[Histogram], bins: int) -> np.ndarray:
    first = max(min(h.edges[0] for h in histograms), -FURTHEST)
    last = min(max(h.edges[-1] for h in histograms), FURTHEST)
    low = min(_of(emissions, name, "p10", np.nanmin, last), _of(emissions, name, "min", np.nanmedian, last))
    high = max(_of(emissions, name, "p90", np.nanmax, first), _of(emissions, name, "max", np.nanmedian, first))
    margin = _MARGIN * (high - low)
    if margin > 0:
        first, last = max(first, low - margin), min(last, high + margin)
    else:  # one value, or no quantiles: then nothing can be squashed
        width = min(h.edges[1] - h.edges[0] for h in histograms)
        first, last = first - width, last + width
    return np.linspace(first, last, bins + 1)


def _of(emissions: Emissions, name: str, key: str, pick: Callable[[np.ndarray], Any], missing: float) -> float:
    values = emissions.array(f"{name}/{key}")
    return float(pick(values)) if np.isfinite(values).any() else missing


def _column_edges(ends: np.ndarray, first: float) -> np.ndarray:
    """Return the edges of columns that end at the given steps; the first is as wide as the second."""
    if len(ends) == 1:
        return np.array([first - 0.5, ends[0] + 0.5])
    return np.concatenate([[min(first, 2 * ends[0] - ends[1])], ends])
