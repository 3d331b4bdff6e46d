"""Emissions: what each record said of the window, over the run: quantiles, shares, and histograms in between.

Bounded: 4096 rows of scalars, and 1024 histograms of a reward. Beyond, rows become one of two, and of the histograms
every second one is left out, so that each one kept is a window as it was. 32 rewards: some 12 MB and 20 MB.
"""

from array import array
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tunrex_jax_monitor.host.columns import Columns
from tunrex_jax_monitor.host.record import Histogram, Record
from tunrex_jax_monitor.host.schema import is_histogram, is_step

ROWS, HISTOGRAMS = 4096, 1024
OF_REWARD = ("mean", "std", "min", "max", "p10", "p25", "median", "p75", "p90", "zeros_fraction", "frac_zero_std")
_SHARED = ("reward", "reward_std", "frac_reward_zero_std")
_GROUPS = ("groups/", "completions/")
_SUFFIX = "/histogram"


class _Packed(NamedTuple):
    """A histogram in a tenth of the memory; its edges are `low + i * width` wherever that says them exactly."""

    step: int
    counts: "array[int]"
    low: float
    width: float
    edges: "array[float] | None"

    @classmethod
    def of(cls, step: int, histogram: Histogram) -> "_Packed":
        edges, counts = histogram.edges, array("q", histogram.counts)
        low, width = edges[0], edges[1] - edges[0]
        even = all(low + i * width == edge for i, edge in enumerate(edges))
        return cls(step, counts, low, width, None if even else array("d", edges))

    def unpack(self) -> tuple[int, Histogram]:
        even = [self.low + i * self.width for i in range(len(self.counts) + 1)]
        return self.step, Histogram(self.counts.tolist(), even if self.edges is None else self.edges.tolist())

    def to_export(self) -> dict[str, Any]:
        edges = {"low": self.low, "width": self.width} if self.edges is None else {"edges": self.edges.tolist()}
        return {"step": self.step, "counts": self.counts.tolist(), **edges}

    @classmethod
    def from_export(cls, data: Mapping[str, Any]) -> "_Packed":
        counts = data["counts"]
        edges = data["edges"] if "edges" in data else [data["low"] + i * data["width"] for i in range(len(counts) + 1)]
        if not is_step(data["step"]) or not is_histogram({"counts": counts, "edges": edges}):
            raise ValueError(
                "emissions: got a histogram with odd counts, edges or step, allowed what to_export returned."
            )
        return cls.of(data["step"], Histogram(counts, edges))


class Emissions:
    """Rows of scalars, and window histograms by reward.

    Attributes:
      scalars: `step`, and by key, as in the records, those that pictures need; one row per emission.
    """

    def __init__(self) -> None:
        self.scalars = Columns(rows=ROWS)
        self._histograms: dict[str, list[_Packed]] = {}
        self._every, self._seen = 1, 0
        self._last_update = -1

    @property
    def steps(self) -> np.ndarray:
        """The step of each row, int64[E]."""
        return self.scalars.array("step").astype(np.int64)

    def array(self, key: str) -> np.ndarray:
        """Return a scalar over the emissions, float64[E]; NaN where it was absent."""
        return self.scalars.array(key)

    def histograms(self, name: str) -> list[tuple[int, Histogram]]:
        """Return the window histograms of a reward that are kept, as (step, histogram), oldest first."""
        return [packed.unpack() for packed in self._histograms.get(name, ())]

    @property
    def histogram_stride(self) -> int:
        """Of how many emissions one histogram is kept."""
        return self._every

    def write(self, record: Record) -> None:
        """Take in a record; one that repeats the update of the last takes its place."""
        row: dict[str, list[float]] = {"step": [record.step], **{key: [record.scalars[key]] for key in _kept(record)}}
        again = record.update == self._last_update
        self._last_update = record.update
        if again:
            self.scalars.replace_last(row)
            return
        self.scalars.append(row)
        if self._seen % self._every == 0:
            self._keep(record)
        self._seen += 1

    def copy(self) -> "Emissions":
        """Return a copy."""
        copy = Emissions()
        copy.scalars = self.scalars.copy()
        copy._histograms = {name: list(kept) for name, kept in self._histograms.items()}
        copy._every, copy._seen, copy._last_update = self._every, self._seen, self._last_update
        return copy

    def renumber(self, rows_of: Callable[[list[int]], list[int]]) -> None:
        """Put something else in the place of the steps; `rows_of` gets those of all rows, or histograms, in order."""
        self.scalars.set("step", rows_of(self.steps.tolist()))
        for name, kept in self._histograms.items():
            rows = rows_of([packed.step for packed in kept])
            self._histograms[name] = [p._replace(step=row) for p, row in zip(kept, rows, strict=True)]

    def to_export(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return {
            "scalars": dict(self.scalars),
            "histograms": {name: [p.to_export() for p in kept] for name, kept in self._histograms.items()},
            "histogram_stride": self._every,
        }

    @classmethod
    def from_export(cls, data: Mapping[str, Any]) -> "Emissions":
        """Invert `to_export`; an empty object has no emissions."""
        emissions = cls()
        emissions.scalars.append(data.get("scalars", {}))
        emissions._histograms = {
            name: [_Packed.from_export(packed) for packed in kept] for name, kept in data.get("histograms", {}).items()
        }
        emissions._every = data.get("histogram_stride", 1)
        return emissions

    def _keep(self, record: Record) -> None:
        for name in record.names:
            histogram = record.histograms.get(f"{name}{_SUFFIX}")
            if histogram is not None:
                self._histograms.setdefault(name, []).append(_Packed.of(record.step, histogram))
        if max(map(len, self._histograms.values()), default=0) > HISTOGRAMS:
            self._histograms = {name: kept[::2] for name, kept in self._histograms.items()}
            self._every *= 2


def _kept(record: Record) -> list[str]:
    own = [f"{name}/{field}" for name in record.names for field in OF_REWARD]
    shared = [key for key in record.scalars if key.startswith(_GROUPS)]
    return [key for key in (*own, *_SHARED, *shared) if key in record.scalars]
