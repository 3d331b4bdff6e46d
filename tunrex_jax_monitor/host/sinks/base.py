"""Sink: where records go, a Protocol of two methods.

Any object with `write` and `close` is a sink; nothing needs to be inherited. Three things are optional: the class
attributes `durable = True` (the sink gets every record, see `SinkWorker`) and `label` (what messages call it), and a
method `begin_run(manifest)` for a sink that wants to know what the run is before its first record.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.record import Record


@runtime_checkable
class Sink(Protocol):
    """Takes records, one at a time and in order, all from one thread."""

    def write(self, record: Record) -> None:
        """Take one record. An exception switches the sink off; training goes on."""

    def close(self) -> None:
        """Write out what is held and let go of files and connections. A second call does nothing."""


@runtime_checkable
class RunSink(Sink, Protocol):
    """A sink that is told about the run once, before the first record, on the thread that builds the reporter."""

    def begin_run(self, manifest: Mapping[str, Any]) -> None:
        """Take what is known about the run: `config`, `devices` and so on, as plain Python values."""


def is_durable(sink: Sink) -> bool:
    """Tell whether the sink must get every record. Ordinary sinks lose records when they cannot keep up."""
    return bool(getattr(sink, "durable", False))


def label_of(sink: Sink) -> str:
    """Return what messages call the sink; the name of its class by default."""
    label, _ = attempt(lambda: str(getattr(sink, "label", type(sink).__name__)))
    return label or type(sink).__name__
