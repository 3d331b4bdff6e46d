"""Reporter: takes emissions off the training loop and hands records to sinks.

The training thread enqueues a small jitted pack, starts an asynchronous copy and returns; the words are read at a later
step, when they are there. Unpacking and writing happen on other threads. Nothing here raises into training.
"""

import atexit
import heapq
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import transfer
from tunrex_jax_monitor.host.manifest import manifest
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.base import RunSink, Sink
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink
from tunrex_jax_monitor.host.worker import SinkWorker

_logger = logging.getLogger("tunrex_jax_monitor")
_IN_FLIGHT = 64  # emissions that may wait for the device; beyond it the oldest is dropped and counted
_HELD = 8  # callback emissions that may wait for an earlier one


class _Emission(NamedTuple):
    words: Any  # a device array on its way, or numpy
    step: int | None
    time: float
    overhead_ms: float | None
    state: MonitorState | None  # to read the run sketch from, in the last emission


class Reporter:
    """Turns the states of a training loop into records.

        with Reporter(acc, [JsonlSink("runs/a"), ConsoleSink()]) as reporter:
            for step, batch in enumerate(data):
                train_state, mon = train_step(train_state, mon, batch)
                mon = reporter.step(step, mon)

    Args:
      acc: the accumulator that made the states.
      sinks: where records go, each on a thread of its own.
      run_dir: shortcut for one more `JsonlSink(run_dir)`.
      on_record: your function of each `Record`; it runs off the training thread, and is switched off if it raises.

    In a multi-process job every process calls `step`; only process 0 reads and writes.
    """

    def __init__(
        self,
        acc: RewardAccumulator,
        sinks: Iterable[Sink] = (),
        run_dir: str | Path | None = None,
        on_record: Callable[[Record], object] | None = None,
    ) -> None:
        if not isinstance(acc, RewardAccumulator):
            raise invalid("acc", type(acc).__name__, "a RewardAccumulator", "Pass the one whose update() you call.")
        if on_record is not None and not callable(on_record):
            raise invalid("on_record", on_record, "a function of one Record, or None", "Pass the function itself.")
        self._acc = acc
        self._reads = jax.process_index() == 0
        every = [*sinks, *([] if run_dir is None else [JsonlSink(run_dir)])]
        every += [] if on_record is None else [_CallbackSink(on_record)]
        self._workers = self._start(every) if self._reads else []
        self._pending: deque[_Emission] = deque()
        self._order = _Order(acc.log_frequency)
        self._lock = threading.Lock()  # of the order buffer; held for a heap operation only, never while waiting
        self._queue: queue.SimpleQueue[_Emission | threading.Event | None] = queue.SimpleQueue()
        self._builder = threading.Thread(target=self._build, name="tunrex-builder", daemon=True)
        self._builder.start()
        self._steps = self._dropped = 0
        self._seconds = 0.0
        self._state: MonitorState | None = None
        self._closed = self._broken = False
        atexit.register(self.close)

    def _start(self, sinks: list[Any]) -> list[SinkWorker]:
        for sink in sinks:
            if isinstance(sink, RunSink):
                sink.begin_run(manifest(self._acc))
        return [SinkWorker(sink) for sink in sinks]

    def step(self, step: int, state: MonitorState) -> MonitorState:
        """Take note of a training step; every `log_frequency` calls, emit. Never blocks, never raises.

        Args:
          step: the owner's step number, for the records.
          state: the state after the step.

        Returns:
          The state to go on with.
        """
        if self._closed or self._broken:
            return state
        start = time.perf_counter()
        try:
            state = self._step(step, state)
        except Exception:
            self._broken = True
            _logger.exception("The reward monitor has switched itself off; training goes on without it.")
        self._seconds += time.perf_counter() - start
        return state

    def _step(self, step: int, state: MonitorState) -> MonitorState:
        self._collect()
        self._steps += 1
        if self._steps >= self._acc.log_frequency:
            state = self._emit(step, state)
        self._state, self._last_step = state, step
        return state

    def _emit(self, step: int, state: MonitorState, *, with_run: bool = False) -> MonitorState:
        words, fresh = transfer.emit(self._acc, state)  # every process dispatches, or the others wait for ever
        if self._reads:
            words.copy_to_host_async()
            overhead = 1e3 * self._seconds / max(self._steps, 1)
            self._pending.append(_Emission(words, step, time.time(), overhead, state if with_run else None))
            if len(self._pending) > _IN_FLIGHT:
                self._pending.popleft()
                self._dropped += 1
        self._steps, self._seconds = 0, 0.0
        return fresh

    def _collect(self) -> None:
        while self._pending and self._pending[0].words.is_ready():
            emission = self._pending.popleft()
            self._queue.put(emission._replace(words=np.asarray(emission.words)))

    @property
    def callback(self) -> Callable[[Any], None]:
        """What `acc.update_and_emit` calls with packed words; sorts them by step and drops duplicates."""
        return self._receive

    def _receive(self, words: Any) -> None:
        try:
            if self._reads and not self._closed:
                emission = _Emission(np.array(words), None, time.time(), None, None)
                with self._lock:
                    for ready in self._order.add(emission):
                        self._queue.put(ready)
        except Exception:  # an exception here would cost the trainer its donated state
            self._dropped += 1

    def write_rows(self, rows: Any) -> None:
        """Hand over the packed rows [n, words] that a `lax.scan` of `acc.scan_chunk` returned; blocks for the copy."""
        for row in np.asarray(rows):
            self._receive(row)

    def flush(self, state: MonitorState | None = None) -> MonitorState | None:
        """Wait until everything emitted so far has been built; with a state, emit it first, with run quantiles.

        Returns:
          The state to go on with, when one was given.
        """
        if state is not None and not (self._closed or self._broken):
            state = self._emit(getattr(self, "_last_step", 0), state, with_run=True)
        while self._pending:
            emission = self._pending.popleft()
            self._queue.put(emission._replace(words=np.asarray(emission.words)))
        with self._lock:
            for held in self._order.drain():
                self._queue.put(held)
        done = threading.Event()
        self._queue.put(done)
        done.wait(timeout=60.0)
        return state

    def close(self, state: MonitorState | None = None) -> None:
        """Emit what is left with run quantiles, drain, close the sinks. Safe to call twice; never raises.

        Args:
          state: the last state; by default the one that `step` returned last, unless it has been donated since.
        """
        if self._closed:
            return
        try:
            jax.effects_barrier()
            self.flush(self._final_state(state))
        except Exception:
            _logger.exception("The last emission of the reward monitor failed; what was written before is complete.")
        self._closed = True
        self._queue.put(None)
        self._builder.join(timeout=60.0)
        for worker in self._workers:
            worker.close()
        atexit.unregister(self.close)

    def _final_state(self, state: MonitorState | None) -> MonitorState | None:
        state = self._state if state is None else state
        if state is None or not any(leaf.is_deleted() for leaf in state):
            return state
        _logger.warning("The last monitor state was donated after Reporter.step: pass it to close() for run quantiles.")
        return None

    def _build(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                record = self._record(item)
            except Exception:
                self._dropped += 1
                _logger.exception("An emission of the reward monitor could not be read; it is counted as dropped.")
                continue
            for worker in self._workers:
                worker.put(record)

    def _record(self, item: _Emission) -> Record:
        summary = self._acc.unpack(item.words)
        record = transfer.to_record(self._acc, summary, item.step, item.time)
        if item.state is not None:
            transfer.with_run(self._acc, record, summary, item.state)
        if item.overhead_ms is not None:
            record.scalars["monitoring/overhead_ms"] = item.overhead_ms
        dropped = self._dropped + sum(worker.dropped for worker in self._workers)
        record.scalars["monitoring/dropped_records"] = float(dropped)
        return record

    def __enter__(self) -> Self:
        """Return the reporter."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, whatever happened in the loop."""
        self.close()


class _Order:
    """Puts callback emissions in the order of their update, and drops those seen before (remat, vmap)."""

    def __init__(self, log_frequency: int) -> None:
        self._every, self._last = log_frequency, 0
        self._heap: list[tuple[int, int, _Emission]] = []
        self._seen: set[int] = set()
        self._count = 0

    def add(self, emission: _Emission) -> list[_Emission]:
        update = int(emission.words[1])
        if update <= self._last or update in self._seen:
            return []
        self._seen.add(update)
        self._count += 1
        heapq.heappush(self._heap, (update, self._count, emission))
        ready = []
        while self._heap and (self._heap[0][0] <= self._last + self._every or len(self._heap) > _HELD):
            ready.append(self._pop())
        return ready

    def drain(self) -> list[_Emission]:
        return [self._pop() for _ in range(len(self._heap))]

    def _pop(self) -> _Emission:
        update, _, emission = heapq.heappop(self._heap)
        self._seen.discard(update)
        self._last = update
        return emission


class _CallbackSink:
    """The user's `on_record`, as a sink."""

    def __init__(self, function: Callable[[Record], object]) -> None:
        self._function = function

    def write(self, record: Record) -> None:
        self._function(record)

    def close(self) -> None:
        """There is nothing to close."""
