"""Record: everything one emission says, as plain Python values.

A record is what every sink, report and user callback receives. It holds Python floats and lists only, so that writing
it needs no accelerator and no JAX. `to_json` and `from_json` are inverse; the JSON is strict (no NaN, no Infinity).
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tunrex_jax_monitor.host.schema import ALLOWED, CHECKS, read_object, short

SCHEMA_VERSION = 1
_REMEDY = "Read it with the version that wrote it, or restore it from a copy."


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Integer counts between increasing edges; `len(edges) == len(counts) + 1`."""

    counts: list[int]
    edges: list[float]


@dataclasses.dataclass(frozen=True)
class AlertEvent:
    """One alert that began at `step`. `message` starts with `TYPE: reward`, as the original document prints it."""

    step: int
    reward: str
    type: str
    message: str
    remedy: str
    value: float | None = None
    threshold: float | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """One emission.

    Attributes:
      step: the owner's training step at the emission.
      update: how many updates the state had seen.
      time: seconds since the epoch, when the summary was enqueued.
      names: the rewards, in the order of the configuration.
      scalars: every key of the README table that has a value now. A key without data is absent.
      histograms: window histograms, by key.
      series: per-step lists since the last emission: `step`, and `<name>/mean` and so on; None where there is no data.
      alerts: the alert events that began in this interval.
      counters: what was counted beside the statistics: non-finite and masked samples, drops.
    """

    step: int
    update: int
    time: float
    names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    scalars: dict[str, float]
    histograms: dict[str, Histogram] = dataclasses.field(default_factory=dict)
    series: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    alerts: tuple[AlertEvent, ...] = ()
    counters: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """Return one line of strict JSON."""
        fields = {"schema": SCHEMA_VERSION, **vars(self)}  # not `asdict`: its deep copy takes three times as long
        return json.dumps(fields, default=_nested, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Read a line that `to_json` wrote.

        Raises:
          ValueError: it is no strict JSON (then a `json.JSONDecodeError`), of another schema, or no record.
        """
        try:
            fields = read_object(line)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise ValueError(f"record: got {error}, allowed: one JSON object. {_REMEDY}") from error
        schema = fields.pop("schema", None)
        if schema != SCHEMA_VERSION:
            raise ValueError(
                f"schema: got {schema!r}, allowed {SCHEMA_VERSION}. Read it with the version that wrote it."
            )
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Record":
        """Return the record of fields as JSON has them; a ValueError names the one that is wrong."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        missing = [name for name in ("step", "update", "time", "scalars") if name not in fields]
        if missing or not fields.keys() <= known.keys():
            got, allowed = ", ".join(map(str, fields)), ", ".join(known)
            raise ValueError(f"record: got the fields {got}, allowed: {allowed}. {_REMEDY}")
        for name, value in fields.items():
            if not CHECKS[name](value):
                raise ValueError(f"{name}: got {short(value)}, allowed: {ALLOWED[name]}. {_REMEDY}")
        read = dict(fields)
        read["names"] = tuple(read.get("names", ()))
        read["histograms"] = {key: Histogram(**value) for key, value in read.get("histograms", {}).items()}
        read["alerts"] = tuple(AlertEvent(**value) for value in read.get("alerts", ()))
        return cls(**read)


def _nested(value: object) -> dict[str, Any]:
    if isinstance(value, Histogram | AlertEvent):
        return vars(value)
    raise TypeError(f"record: got a {type(value).__name__}, allowed: plain Python values. Convert it with .tolist().")
