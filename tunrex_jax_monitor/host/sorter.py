"""Sorter: emissions that come by callback, in any order and more than once, in the order of their updates."""

from collections import OrderedDict
from typing import Any

import numpy as np

from tunrex_jax_monitor.device.summary import Summary

_REMEMBERED = 16_384  # emissions of which a copy is known as one, however late it comes
_ROUNDING = 1e-4  # by which a copy may differ, since a program may compute one in two ways


class Sorter:
    """Puts emissions in the order of their updates, and drops those seen before (remat, vmap, one per device).

    Attributes:
      last: the update of the newest one taken.

    An interval says at which update the emission before it was made, so a gap is known as such. A run that goes on from
    a checkpoint begins with one, and waits for two more emissions once.
    """

    def __init__(self) -> None:
        self.last = 0
        self._seen: OrderedDict[int, np.ndarray] = OrderedDict()
        self._waiting: dict[int, tuple[int, Any]] = {}

    def add(self, update: int, interval: int, item: tuple[Any, Summary]) -> bool:
        """Take an emission; False when there has been one of this update."""
        if update <= self.last or update in self._waiting:
            return False
        self._waiting[update] = interval, item
        self._seen[update] = _features(item[1])
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def has_copy(self, summary: Summary) -> bool:
        """Tell whether the emission of this update says the same."""
        seen, own = self._seen.get(int(summary.updates)), _features(summary)
        if seen is None:
            return False
        size = float(np.max(np.abs(own), initial=0.0, where=np.isfinite(own)))
        return np.allclose(seen, own, rtol=_ROUNDING, atol=_ROUNDING * size, equal_nan=True)

    def take(self, held: int) -> list[Any]:
        """Return what follows without a gap, and the oldest beyond `held`."""
        taken = []
        while self._waiting:
            update = min(self._waiting)
            interval, item = self._waiting[update]
            if update - interval > self.last and len(self._waiting) <= (held if self.last else min(held, 2)):
                break
            del self._waiting[update]
            self.last = update
            taken.append(item)
        return taken


def _features(summary: Summary) -> np.ndarray:
    """Return what tells an emission from that of another run: averages, and mean and extremes of the interval."""
    return np.concatenate([np.ravel(summary.averages), np.ravel(summary.interval_moments[[0, 4, 5]])])
