"""History: a run as columns, step by step and emission by emission; what pictures, pages and exports are made of.

It is a sink, so it fills beside a run; it reads a run directory or a `monitoring_data.json` afterwards, without JAX,
also while the run goes on, and after it was killed. Memory is bounded: see `Columns` and `Emissions`.
"""

import bisect
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tunrex_jax_monitor.host.columns import Columns
from tunrex_jax_monitor.host.emissions import Emissions
from tunrex_jax_monitor.host.record import SCHEMA_VERSION, AlertEvent, Record
from tunrex_jax_monitor.host.rundir import MANIFEST, RECORDS, describe, iter_records, read_json, read_manifest
from tunrex_jax_monitor.host.schema import require_manifest

EXPORT = "monitoring_data.json"
PART = "part"  # in the manifest of a part of a run: which steps those are
_ALERTS = 10_000  # the newest; each is some 300 bytes


class History:
    """The series, the emissions, the alerts and the last record of a run; safe to read while it is being written.

    Attributes:
      names: the rewards, in order; from the manifest before the first record.
      series: `step`, and `<name>/mean`, `std`, `min`, `max`, `count`, `ema_short` ...: one value per step, None where
        there was no data.
      emissions: window quantiles, shares and histograms, one row per record.
      alerts: what began, oldest first.
      last: the newest record, or None.
      manifest: what the run is: versions, devices, start, `config`; empty where it is not known.
      axis: what `steps` counts: "step", or after `in_order` maybe "update".
    """

    durable = True  # an append is never slow

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.series = Columns()
        self.emissions = Emissions()
        self.alerts: list[AlertEvent] = []
        self.last: Record | None = None
        self.manifest: dict[str, Any] = {}
        self.axis = "step"
        self._lock = threading.Lock()

    @property
    def config(self) -> dict[str, Any]:
        """What the run was configured with, where it is known."""
        return dict(self.manifest.get("config", {}))

    @config.setter
    def config(self, config: Mapping[str, Any]) -> None:
        self.manifest = {**self.manifest, "config": dict(config)}

    def steps(self) -> np.ndarray:
        """Return the step of each row of the series, int64[T]."""
        return self.series.array("step").astype(np.int64)

    def array(self, key: str) -> np.ndarray:
        """Return a column of the series, float64[T] with NaN where there is no data, or int64[T]."""
        return self.series.array(key)

    def clear(self) -> None:
        """Forget everything but what the run is."""
        with self._lock:
            self.series, self.emissions, self.alerts, self.last = Columns(), Emissions(), [], None

    def begin_run(self, manifest: Mapping[str, Any]) -> None:
        """Take in what the run is."""
        self.manifest = describe(manifest)
        self.names = self.names or tuple(self.config.get("reward_names", ()))

    def write(self, record: Record) -> None:
        """Take in one record."""
        with self._lock:
            self.names, self.last = record.names or self.names, record
            self.series.append(record.series)
            self.emissions.write(record)
            self.alerts = [*self.alerts, *record.alerts][-_ALERTS:] if record.alerts else self.alerts

    def close(self) -> None:
        """Do nothing: what is here stays readable."""

    def with_record(self, record: Record) -> "History":
        """Return a copy that has this record too, unless it says nothing new."""
        copy = History()
        with self._lock:
            copy.series, copy.emissions = self.series.copy(), self.emissions.copy()
            copy.names, copy.alerts, copy.last, copy.manifest = self.names, self.alerts, self.last, self.manifest
        if copy.last is None or record.update > copy.last.update:
            copy.write(record)
        return copy

    @property
    def span(self) -> str:
        """Which steps are there, in words for a title."""
        if part := self.manifest.get(PART):
            return f"of {part}"
        return "of no step yet" if self.last is None else f"up to step {self.last.step:,}"

    def in_order(self) -> "History":
        """Return itself where the steps never go back, else a copy that counts updates in their place.

        A run that went back to a checkpoint, or counts each epoch from 0, has been at some steps twice.
        """
        steps = self.steps()
        if not (np.diff(steps) < 0).any():
            return self
        copy = self.with_record(Record(step=0, update=-1, time=0.0, scalars={}))
        copy.axis = "update"
        copy.series.set("step", range(len(steps)))
        copy.emissions.renumber(partial(_rows_of, steps.tolist()))
        rows = _rows_of(steps.tolist(), [event.step for event in copy.alerts])
        copy.alerts = [replace(event, step=row) for event, row in zip(copy.alerts, rows, strict=True)]
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
        """Read a run directory, or a `monitoring_data.json`.

        Raises:
          FileNotFoundError: there is neither.
          ValueError: it is damaged elsewhere than in a torn last line, or of an unknown schema.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            return cls._of_directory(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"path: got '{path}', which does not exist, allowed a run directory or a {EXPORT}. "
                "Pass the directory that holds records.jsonl."
            )
        return cls.from_export(read_json(path))

    @classmethod
    def from_export(cls, data: Any) -> "History":
        """Invert `to_export`.

        Raises:
          ValueError: the data is of another schema, or no export.
        """
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        if found != SCHEMA_VERSION or "series" not in data:
            raise ValueError(
                f"data: got schema {found!r}, allowed {SCHEMA_VERSION}. Pass the content of a {EXPORT} of this version."
            )
        try:
            return cls._of_export(data)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"data: got a damaged export ({type(error).__name__}: {error}), allowed what to_export returned. "
                "Read the run directory instead."
            ) from error

    @classmethod
    def _of_directory(cls, path: Path) -> "History":
        """Read a run directory; one without a record yet, or without a manifest, is still a run."""
        has_manifest, has_records = (path / MANIFEST).is_file(), (path / RECORDS).is_file()
        history = cls()
        if has_manifest:
            history.manifest = read_manifest(path)
            history.names = tuple(history.config.get("reward_names", ()))
        for record in iter_records(path) if has_records or not has_manifest else ():
            history.write(record)
        return history

    @classmethod
    def _of_export(cls, data: dict[str, Any]) -> "History":
        history = cls()
        history.manifest = {**data.get("manifest", {}), "config": data["config"]}
        require_manifest(history.manifest)
        history.names = tuple(data["reward_names"])
        if data["updates"] or data["scalars"]:
            record = _exported(data)
            history.write(record)
            history.series.stride = data.get("series_stride", 1)
            history.emissions = Emissions.from_export(data["emissions"]) if "emissions" in data else history.emissions
        return history

    def to_export(self, function_stats: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return everything as one JSON-ready object; see the README for its keys.

        Args:
          function_stats: calls, errors and times of the reward functions, by name.
        """
        data = self.to_compact_export(function_stats)
        return {**data, "series": dict(data["series"])}

    def to_compact_export(self, function_stats: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the same with the series as `Columns`, for `json_parts`: as lists, they take ten times the memory."""
        with self._lock:
            last = self.last or Record(step=0, update=0, time=0.0, scalars={})
            series, steps = self.series.copy(), self.steps()
            return {
                "schema": SCHEMA_VERSION,
                "version": metadata.version("tunrex-jax-monitor"),
                "reward_names": list(self.names),
                "global_step": last.step,
                "updates": last.update,
                "time": last.time,
                "stats": {name: _of_reward(name, last.scalars) for name in self.names},
                "alerts": [{**vars(event), "stats": _at(series, steps, event)} for event in self.alerts],
                "function_stats": dict(function_stats or {}),
                "steps": steps.tolist() if "step" in series else [],
                "history": {name: series.get(f"{name}/mean", []) for name in self.names},
                "series": series,
                "series_stride": series.stride,
                "emissions": self.emissions.to_export(),
                "histograms": {key: vars(histogram) for key, histogram in last.histograms.items()},
                "scalars": last.scalars,
                "counters": last.counters,
                "manifest": {key: value for key, value in self.manifest.items() if key != "config"},
                "config": self.config,
            }


def _rows_of(steps: list[int], given: list[int]) -> list[int]:
    """Return the row of each given step, where both go on in the same order, and steps may come again."""
    rows: dict[int, list[int]] = {}
    for row, step in enumerate(steps):
        rows.setdefault(step, []).append(row)
    found, row = [], 0
    for step in given:
        later = rows.get(step, [])
        row = later[at] if (at := bisect.bisect_left(later, row)) < len(later) else row
        found.append(row)
    return found


def _at(series: Columns, steps: np.ndarray, event: AlertEvent) -> dict[str, Any]:
    """Return what the step of an alert said of its reward."""
    at = int(np.searchsorted(steps, event.step))
    return series.row(at, f"{event.reward}/") if at < len(steps) and steps[at] == event.step else {}


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
