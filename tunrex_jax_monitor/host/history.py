"""History: a run as lists, step by step, and what its last record said; what pictures and exports are made of.

It is a sink, so it fills beside a run, and it reads a run directory or a `monitoring_data.json` afterwards.
"""

import bisect
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.host.record import SCHEMA_VERSION, AlertEvent, Histogram, Record
from tunrex_jax_monitor.host.rundir import iter_records, read_manifest

EXPORT = "monitoring_data.json"
_ALERTS = 10_000  # the newest; each is some 300 bytes


class History:
    """The series, the alerts and the last record of a run; safe to read while it is being written.

    Attributes:
      names: the rewards, in order; empty before the first record.
      series: `step`, and `<name>/mean`, `std`, `min`, `max`, `count`, `ema_short` ...: one value per step, None where
        there was no data. 8 bytes per value and more.
      alerts: what began, oldest first.
      last: the newest record, or None.
      config: what the run was configured with, where it is known.
    """

    durable = True  # an append is never slow

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.series: dict[str, list[Any]] = {}
        self.alerts: list[AlertEvent] = []
        self.last: Record | None = None
        self.config: dict[str, Any] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.series, self.alerts, self.last = {}, [], None

    def write(self, record: Record) -> None:
        """Take in one record."""
        with self._lock:
            self.names, self.last = record.names, record
            for key, values in record.series.items():
                self.series.setdefault(key, []).extend(values)
            self.alerts = [*self.alerts, *record.alerts][-_ALERTS:] if record.alerts else self.alerts

    def close(self) -> None:
        """Do nothing: what is here stays readable."""

    def with_record(self, record: Record) -> "History":
        """Return a copy that has this record too, unless it says nothing new."""
        copy = History()
        with self._lock:
            copy.series = {key: list(values) for key, values in self.series.items()}
            copy.names, copy.alerts, copy.last, copy.config = self.names, self.alerts, self.last, self.config
        if copy.last is None or record.update > copy.last.update:
            copy.write(record)
        return copy

    @classmethod
    def of(cls, records: Iterable[Record]) -> "History":
        """Return the history of records."""
        history = cls()
        for record in records:
            history.write(record)
        return history

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "History":
        """Read a run directory, or a `monitoring_data.json`."""
        path = Path(path).expanduser()
        if path.is_dir():
            history = cls.of(iter_records(path))
            history.config = read_manifest(path).get("config", {})
            return history
        return cls.from_export(json.loads(path.read_text()))

    @classmethod
    def from_export(cls, data: dict[str, Any]) -> "History":
        """Invert `to_export`.

        Raises:
          ValueError: the data is of another schema, or no export.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA_VERSION or "series" not in data:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise ValueError(
                f"data: got schema {found!r}, allowed {SCHEMA_VERSION}. Pass the content of a {EXPORT} of this version."
            )
        alerts = tuple(AlertEvent(**{f.name: a.get(f.name) for f in fields(AlertEvent)}) for a in data["alerts"])
        history = cls()
        history.config = data["config"]
        if data["reward_names"]:
            record = Record(
                step=data["global_step"],
                update=data["updates"],
                time=data["time"],
                names=tuple(data["reward_names"]),
                scalars=data["scalars"],
                histograms={key: Histogram(**value) for key, value in data["histograms"].items()},
                series=data["series"],
                alerts=alerts,
                counters=data["counters"],
            )
            history.write(record)
        return history

    def to_export(self, function_stats: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return everything as one JSON-ready object; see the README for its keys.

        Args:
          function_stats: calls, errors and times of the reward functions, by name.
        """
        with self._lock:
            last = self.last or Record(step=0, update=0, time=0.0, scalars={})
            return {
                "schema": SCHEMA_VERSION,
                "version": metadata.version("tunrex-jax-monitor"),
                "reward_names": list(self.names),
                "global_step": last.step,
                "updates": last.update,
                "time": last.time,
                "stats": {name: _of_reward(name, last.scalars) for name in self.names},
                "alerts": [{**vars(event), "stats": self._at(event)} for event in self.alerts],
                "function_stats": dict(function_stats or {}),
                "steps": list(self.series.get("step", [])),
                "history": {name: list(self.series.get(f"{name}/mean", [])) for name in self.names},
                "series": {key: list(values) for key, values in self.series.items()},
                "histograms": {key: vars(histogram) for key, histogram in last.histograms.items()},
                "scalars": last.scalars,
                "counters": last.counters,
                "config": self.config,
            }

    def _at(self, event: AlertEvent) -> dict[str, Any]:
        """Return what the step of an alert said of its reward."""
        steps = self.series.get("step", [])
        at = bisect.bisect_left(steps, event.step)
        if at == len(steps) or steps[at] != event.step:
            return {}
        prefix = f"{event.reward}/"
        return {key.removeprefix(prefix): v[at] for key, v in self.series.items() if key.startswith(prefix)}


def _of_reward(name: str, scalars: Mapping[str, float]) -> dict[str, float]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in scalars.items() if key.startswith(prefix)}
