"""History: a run as lists, step by step, and what its last record said; what pictures and exports are made of.

It is a sink, so it fills beside a run, and it reads a run directory or a `monitoring_data.json` afterwards.
"""

import bisect
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.host.record import SCHEMA_VERSION, AlertEvent, Record
from tunrex_jax_monitor.host.rundir import iter_records, read_json, read_manifest

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
            had, new = (max(map(len, series.values()), default=0) for series in (self.series, record.series))
            for key in {**self.series, **record.series}:  # a run that goes on may have other columns
                self.series.setdefault(key, [None] * had).extend(record.series.get(key, [None] * new))
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
        if not path.is_file():
            raise FileNotFoundError(
                f"path: got '{path}', which is not there, allowed a run directory or a {EXPORT}. Is it another one?"
            )
        return cls.from_export(read_json(path))

    @classmethod
    def from_export(cls, data: dict[str, Any]) -> "History":
        """Invert `to_export`.

        Raises:
          ValueError: the data is of another schema, or no export.
        """
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        if found != SCHEMA_VERSION or "series" not in data:
            raise ValueError(
                f"data: got schema {found!r}, allowed {SCHEMA_VERSION}. Pass the content of a {EXPORT} of this version."
            )
        record = _exported(data)
        history = cls()
        history.config = data["config"]
        if record.names:
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


def _exported(data: Mapping[str, Any]) -> Record:
    """Return the record that an export holds."""
    own = {"step": "global_step", "update": "updates", "names": "reward_names"}
    keys = {field.name: own.get(field.name, field.name) for field in fields(Record)}
    missing = [key for key in (*keys.values(), "config") if key not in data]
    if missing or not isinstance(data["config"], dict):
        raise ValueError(
            f"data: got no {', '.join(missing) or 'config that is an object'}, allowed all that to_export() returns. "
            f"Pass the content of a whole {EXPORT}."
        )
    alerts = data["alerts"]
    if isinstance(alerts, list) and all(isinstance(alert, dict) for alert in alerts):
        known = {field.name for field in fields(AlertEvent)}
        alerts = [{key: value for key, value in alert.items() if key in known} for alert in alerts]
    return Record.from_fields({name: data[key] for name, key in keys.items()} | {"alerts": alerts})


def _of_reward(name: str, scalars: Mapping[str, float]) -> dict[str, float]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in scalars.items() if key.startswith(prefix)}
