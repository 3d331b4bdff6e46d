"""Workers of a run: one for each sink, begun together and ended together."""

import copy
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.host.arguments import require_callable, require_distinct
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.manifest import manifest
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.base import RunSink, Sink, label_of
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink
from tunrex_jax_monitor.host.sinks.memory import MemorySink
from tunrex_jax_monitor.host.worker import SinkWorker, require_sink


def check(acc: object, sinks: object, on_record: object) -> list[Sink]:
    """Return the sinks; nothing has begun in them when an argument is wrong."""
    if not isinstance(acc, RewardAccumulator):
        raise invalid("acc", type(acc).__name__, "a RewardAccumulator", "Pass the one whose update() you call.")
    if not isinstance(sinks, Iterable):
        raise invalid("sinks", sinks, "a sequence of sinks", "Put a single one in a list.")
    every = list(sinks)
    require_distinct("sinks", every)
    require_callable("on_record", on_record)
    for sink in every:
        require_sink(sink)
    return every


def start(
    acc: RewardAccumulator,
    sinks: Iterable[Sink],
    run_dir: str | Path | None,
    on_record: Callable[[Record], object] | None,
    *,
    leaves_out: bool = False,
) -> list[SinkWorker]:
    """Begin the run in every sink, and give each a worker; close those that have begun if one cannot.

    Args:
      leaves_out: one that cannot is switched off instead.
    """
    begins: list[tuple[str, Callable[[], Sink]]] = [(label_of(sink), partial(_begin, acc, sink)) for sink in sinks]
    if run_dir is not None:
        begins.append((JsonlSink.__name__, lambda: _begin(acc, JsonlSink(run_dir))))
    workers: list[SinkWorker] = []
    try:
        for label, begin in begins:
            sink, error = attempt(begin)
            if error is not None and not leaves_out:
                raise error
            worker = SinkWorker(MemorySink() if sink is None else sink, label=label)
            workers.append(worker)
            if error is not None:
                worker.switch_off(error)  # and what it does not get is counted
    except BaseException:
        finish(workers, time.monotonic() + 10.0)
        raise
    return workers if on_record is None else [*workers, SinkWorker(_OnRecord(on_record), label="on_record")]


def flush(workers: Iterable[SinkWorker], end: float) -> None:
    """Wait until all sinks have what is queued, or `end`; one that hangs takes no time from the others."""
    marks = [(worker, worker.mark()) for worker in workers]
    for worker, mark in marks:
        worker.wait_for(mark, max(0.0, end - time.monotonic()))


def finish(workers: Iterable[SinkWorker], end: float) -> None:
    """Close all workers at the same time, waiting until `end`."""
    workers = list(workers)
    for worker in workers:
        worker.finish()
    for worker in workers:
        worker.close(max(0.0, end - time.monotonic()))


def _begin(acc: RewardAccumulator, sink: Sink) -> Sink:
    if isinstance(sink, RunSink):
        _, error = attempt(lambda: sink.begin_run(manifest(acc)))
        if error is not None:
            attempt(sink.close)  # what it has opened
            raise error
    return sink


class _OnRecord:
    """The user's `on_record`, as a sink."""

    def __init__(self, function: Callable[[Record], object]) -> None:
        self._function = function

    def write(self, record: Record) -> None:
        self._function(copy.deepcopy(record))  # what a user's function changes in it must not reach the sinks

    def close(self) -> None:
        """There is nothing to close."""
