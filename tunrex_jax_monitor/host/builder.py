"""Builder: from packed words to records, on one thread beside the training loop.

Whatever is put returns at once and raises nothing. The thread waits for the device, unpacks, brings what came out of
order into order, and hands records to the sinks' workers. What is lost on the way is counted in `dropped`.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsInt

import numpy as np

from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.device.summary import Summary
from tunrex_jax_monitor.host import reading, transfer
from tunrex_jax_monitor.host.events import AlertHistory, count_back, without_abandoned
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.lane import Lane
from tunrex_jax_monitor.host.latch import Latch
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sorter import Sorter
from tunrex_jax_monitor.host.worker import SinkWorker

if TYPE_CHECKING:
    from tunrex_jax_monitor.accumulator import RewardAccumulator

_logger = logging.getLogger("tunrex_jax_monitor")
_BACKLOG = 1024  # emissions that may wait; each is a few kB
_HELD = 8  # unordered emissions that may wait for an earlier one
_KNOWN = 16  # intervals that may come again
_STALE = (
    "The interval of the monitor state was not reset after an emission, so its statistics overlap. "
    "Go on with the state that Reporter.step returns: mon = reporter.step(step, mon)."
)

_SEEN = (
    "The reporter was given updates by callback or write_rows that it has recorded already; they are counted as "
    "dropped. A second run, another seed, or a run that went back to a checkpoint needs a Reporter of its own."
)
_SPARSE = (
    "There were more updates than calls of Reporter.step, so steps are labelled wrong and come late. "
    "Call it behind each update, mon = reporter.step(step, mon): it emits only every log_frequency calls."
)

_MISSING = (
    "Some updates came in no record: emissions were dropped, rows came behind a flush, the state is of a later "
    "checkpoint, or another Reporter ended their interval. Hand a state to one alone; it takes any number of sinks."
)

_UNUSED = (
    "The reporter was given a monitor state that no update has seen, so there is nothing to report. "
    "Go on with the state that update() returns: mon = acc.update(mon, rewards)."
)


class Emission(NamedTuple):
    """Packed words, and what the host knows about them."""

    words: Any  # uint32[n]: numpy, or a device array that may not be computed yet
    time: float  # seconds since the epoch
    steps: Sequence[SupportsInt] = ()  # the owner's since the last emission; () counts updates, from 0
    overhead_ms: float | None = None
    state: MonitorState | None = None  # to read the run sketch from
    interval: object = None  # which: one comes again when the owner's signal handler has raised while it was emitted


class Builder:
    """Builds records and feeds them to workers.

    Args:
      acc: the accumulator that packed the words.
      workers: who gets the records.
      extra_scalars: called for each record, on this thread; returns scalars to add.
    """

    def __init__(
        self,
        acc: "RewardAccumulator",
        workers: Sequence[SinkWorker],
        extra_scalars: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self._acc = acc
        self._workers = workers
        self._extra_scalars = extra_scalars
        self._sorter = Sorter()
        self._history = AlertHistory()
        self._last: Record | None = None
        self._last_update: int | None = None
        self._intervals: deque[object] = deque(maxlen=_KNOWN)
        self._dropped = 0
        self._drop_lock = threading.Lock()
        self._told: set[str] = set()
        self._lane: Lane[Callable[[], object]] = Lane(self._attempt, "tunrex-builder")

    @property
    def dropped(self) -> int:
        """How many emissions and records were lost, here and by the workers."""
        return self._dropped + sum(worker.dropped for worker in self._workers)

    def put(self, emission: Emission) -> None:
        """Take an emission whose predecessors have all been put."""
        self._offer(partial(self._build, emission))

    def put_unordered(self, emission: Emission, *, shortest: int = 0) -> None:
        """Take an emission that may come late or more than once; one whose interval is below `shortest` was not due."""
        self._offer(partial(self._sort, emission, shortest))

    def put_rows(self, rows: np.ndarray, time: float) -> None:
        """Take packed rows [n, words], however many."""
        self._lane.put(partial(self._sort_rows, rows, time))

    def run(self, job: Callable[[], object]) -> Latch:
        """Run a job on the thread; return the event that is set when it is done, or has failed."""
        done = Latch()
        self._lane.put(partial(_run_and_set, job, done))
        return done

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until everything put so far has gone to the workers; False when it took too long, or after `close`."""
        return self._lane.is_alive() and self._lane.wait_for(self.run(self._release), timeout_seconds)

    def close(self, timeout_seconds: float) -> None:
        """End the thread after what has been put."""
        self._lane.end()
        self._lane.join(timeout_seconds)

    def lose(self, error: Exception | None = None) -> None:
        """Count a lost emission; its error is logged the first time that its type occurs."""
        with self._drop_lock:
            self._dropped += 1
        if error is not None and type(error).__name__ not in self._told:
            self._told.add(type(error).__name__)
            message = "An emission of the reward monitor could not be read; it and further ones are counted as dropped."
            _logger.error(message, exc_info=error)

    def _offer(self, job: Callable[[], object]) -> None:
        if self._lane.waiting < _BACKLOG and self._lane.is_alive():
            self._lane.put(job)
        else:
            self.lose()

    def _attempt(self, job: Callable[[], object]) -> None:
        _, error = attempt(job)
        if error is not None:
            self.lose(error)

    def _build(self, emission: Emission) -> None:
        summary = self._acc.unpack(np.asarray(emission.words))
        is_again = emission.interval in self._intervals
        self._check_calls(emission, summary, is_again)
        if emission.interval is not None:
            self._intervals.append(emission.interval)
        self._release()  # what came by callback before
        if int(summary.updates) - int(summary.interval) > self._sorter.last > 0:
            self._tell(_MISSING)
        self._sorter.last = int(summary.updates)
        self._deliver(emission, summary, is_again)

    def _sort(self, emission: Emission, shortest: int) -> None:
        summary = self._acc.unpack(emission.words)
        if int(summary.interval) < shortest:
            return
        updates, interval = int(summary.updates), int(summary.interval)
        if self._sorter.add(updates, interval, (emission, summary)):
            self._release(_HELD)
        elif not (shortest and self._sorter.has_copy(summary)):  # made by remat, or by another device
            self.lose()
            self._tell(_SEEN)

    def _sort_rows(self, rows: np.ndarray, time: float) -> None:
        if rows.ndim != 2:
            remedy = "Of a vmapped scan, hand one seed's rows to one reporter."
            raise invalid("rows", f"{rows.dtype}{list(rows.shape)}", "uint32[n, words]", remedy)
        for row in rows:
            self._attempt(partial(self._sort, Emission(row, time), 0))
        self._release()  # rows come in order

    def _release(self, held: int = 0) -> None:
        for emission, summary in self._sorter.take(held):
            self._deliver(emission, summary)

    def _deliver(self, emission: Emission, summary: Summary, is_again: bool = False) -> None:
        record = self._record(emission, summary, is_again)
        for worker in self._workers:
            worker.put(record)

    def _record(self, emission: Emission, summary: Summary, is_again: bool) -> Record:
        steps = self._numbers(emission.steps) or count_back(summary, int(summary.updates) - 1)
        if int(summary.interval) % len(steps):
            steps = without_abandoned(steps)
        lost = self.dropped + sum(worker.error is not None for worker in self._workers)  # this one too, where it is off
        record = reading.build(self._acc, summary, steps, emission.time, self._history, dropped=lost)
        if emission.state is not None:
            self._add_run(record, summary, emission.state)
        if emission.overhead_ms is not None:
            record.scalars["monitoring/overhead_ms"] = emission.overhead_ms
        if not summary.interval:
            self._keep_interval(record)
        if is_again and self._last is not None:
            record = _without_seen(record, self._last)
        self._add_extra(record)
        self._last = record
        return record

    def _add_run(self, record: Record, summary: Summary, state: MonitorState) -> None:
        """Add what the run sketch says, unless a later step has taken its memory: the record itself has come whole."""
        _, error = attempt(partial(transfer.with_run, self._acc, record, summary, state))
        if error is not None:
            self._tell(f"A record has no run quantiles: the state went on before they were read ({error}).")

    def _numbers(self, steps: Sequence[Any]) -> list[int]:
        """Return the owner's steps; one that is no number counts on from the last, since the statistics need none."""
        numbers: list[int] = []
        for step in steps:
            number, error = attempt(partial(transfer.as_step, step))
            if number is None:
                last = -1 if self._last is None else self._last.step
                number = (numbers[-1] if numbers else last) + 1
                self._tell(f"{error} Counting on.")
            numbers.append(number)
        return numbers

    def _add_extra(self, record: Record) -> None:
        """Add the owner's scalars, those that are numbers; the record's own keys stay."""
        given = self._extra_scalars
        if given is None:
            return
        extra, error = attempt(lambda: {str(k): float(v) for k, v in given().items() if math.isfinite(v)})
        if extra is None:
            self._tell(f"extra_scalars failed, and records go without them: {type(error).__name__}: {error}")
        else:
            record.scalars.update(extra | record.scalars)

    def _keep_interval(self, record: Record) -> None:
        """Let a record made right behind another, to read out the run, say of the interval what that one said."""
        if self._last is not None and self._last.update == record.update:
            own = {key: value for key, value in record.scalars.items() if key.startswith("monitoring/")}
            record.scalars.update(self._last.scalars | own)

    def _check_calls(self, emission: Emission, summary: Summary, is_again: bool) -> None:
        """Warn once of a loop that does not go on with the state that it got, or does so only now and then."""
        last, self._last_update = self._last_update or 0, int(summary.updates)
        new = int(summary.updates) - last  # negative where a loop has gone back to a checkpoint
        if not int(summary.updates):
            self._tell(_UNUSED)
        elif not is_again and int(summary.interval) > new > 0:
            self._tell(_STALE)
        elif not is_again and last and emission.state is None and new > len(emission.steps):  # no flush, no close
            self._tell(_SPARSE)

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _logger.warning(message)


def _without_seen(record: Record, last: Record) -> Record:
    """Take the steps out that are in the last record: its emission was interrupted, and comes again."""
    new = record.update - last.update
    series = {key: values[max(0, len(values) - new) :] for key, values in record.series.items()}
    alerts = tuple(event for event in record.alerts if event.step in series["step"])
    return replace(record, series=series, alerts=alerts)


def _run_and_set(job: Callable[[], object], done: Latch) -> None:
    try:
        job()
    finally:
        done.set()
