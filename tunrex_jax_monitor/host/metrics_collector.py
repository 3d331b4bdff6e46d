"""MetricsCollector: the original document's buffer of values, over the device state: bounded, however much is added."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import pool
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.samples import to_samples
from tunrex_jax_monitor.host.sinks.wandb import coarsen

_FIELDS = ("mean", "std", "min", "max", "median", "count")
_ONE = RewardAccumulator(("value",), detect="off", log_frequency=1)  # each value has a state of its own


class MetricsCollector:
    """Keeps the newest 1000 samples of each name, or a whole block where one is larger. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # an update takes the memory of the state before; a signal may interrupt one
        self._states: dict[str, MonitorState] = {}
        self._added: dict[str, int] = {}

    def add(self, name: str, value: Any) -> None:
        """Add a scalar, a list or an array of samples.

        Raises:
          TypeError, ValueError: the value holds something else than numbers.
        """
        samples = to_samples(value)
        batch = pool.join([{"value": samples}], _ONE.reward_names, 1, 0)
        with self._lock:
            state = self._states.get(name)
            state = _ONE.init(batch_size=len(batch.mask["value"])) if state is None else state
            self._states[name] = pool.fold(_ONE, state, batch)
            self._added[name] = self._added.get(name, 0) + len(samples)

    def add_dict(self, values: Mapping[str, Any]) -> None:
        """Add samples by name."""
        for name, value in values.items():
            self.add(name, value)

    def get_stats(self, name: str) -> dict[str, float]:
        """Return mean, std, min, max, median and count; nothing of a name without a sample."""
        record = self._read(name)
        scalars = {} if record is None else record.scalars
        return {field: scalars[f"value/{field}"] for field in _FIELDS if scalars.get("value/count")}

    def get_all_stats(self) -> dict[str, dict[str, float]]:
        """Return `get_stats` of every name."""
        return {name: self.get_stats(name) for name in list(self._states)}

    def get_histogram_data(self, name: str, bins: int = 50) -> tuple[np.ndarray, np.ndarray]:
        """Return counts and edges, of at most so many bins; both empty where there is no sample."""
        record = self._read(name)
        found = None if record is None else record.histograms.get("value/histogram")
        return (np.zeros(0), np.zeros(0)) if found is None else coarsen(found, bins)

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._states.clear()
            self._added.clear()

    def __len__(self) -> int:
        """Return how many samples have been added since the last reset."""
        return sum(self._added.values())

    def _read(self, name: str) -> Record | None:
        with self._lock:
            state = self._states.get(name)
            return None if state is None else _ONE.record(state)
