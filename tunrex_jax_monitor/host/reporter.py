"""Reporter: takes emissions off the training loop and hands records to sinks.

The training thread enqueues a small jitted pack, starts an asynchronous copy and returns. Waiting for the device,
unpacking and writing happen on other threads. Nothing here raises into training.

The first call traces the pack, and another thread compiles it; the first emission waits for what is left of that.
"""

import atexit
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, SupportsInt

import jax
import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.config import require_flag
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import processes, workers
from tunrex_jax_monitor.host.arguments import require_callable
from tunrex_jax_monitor.host.builder import Builder, Emission
from tunrex_jax_monitor.host.emitter import Emitter
from tunrex_jax_monitor.host.guard import as_seconds, attempt
from tunrex_jax_monitor.host.pending import Interval, Pending, is_concrete, require_kept
from tunrex_jax_monitor.host.preemption import Preemption
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.base import Sink
from tunrex_jax_monitor.host.turn import Turn
from tunrex_jax_monitor.host.worker import SinkWorker

_logger = logging.getLogger("tunrex_jax_monitor")
_FLUSH_SECONDS = 10.0  # after SIGTERM there is little time
_TURN_SECONDS = 2.0  # that a step waits, where it has to emit while another thread flushes
_SETTLE_SECONDS = 1.0  # that sinks get before the last record, which counts what they have lost


class Reporter:
    """Turns the states of one training run into records.

        with Reporter(acc, [JsonlSink("runs/a"), ConsoleSink()]) as reporter:
            for step, batch in enumerate(data):
                train_state, mon = train_step(train_state, mon, batch)
                mon = reporter.step(step, mon)

    Before a checkpoint, `mon = reporter.flush(mon)` ends the interval, so that a restored run begins with a fresh one.
    In a multi-process job every process calls the same methods; only process 0 reads and writes.

    Args:
      acc: the accumulator that made the states.
      sinks: where records go, each on a thread of its own.
      run_dir: shortcut for one more `JsonlSink(run_dir)`.
      on_record: your function of each `Record`; it runs off the training thread, and is switched off if it raises.
      extra_scalars: your function that returns more scalars for a record; it runs off the training thread as well.
      shared: whether all processes of a multi-process job hold the state together, each with a reporter of its own;
        their configurations are compared. False for a state of one process alone.

    Raises:
      ValueError: an argument is wrong, another process was given another configuration, or the first could not begin.
      OSError: `run_dir` holds a run already, or cannot be written. What a sink's own `begin_run` raises comes out too.
    """

    _leaves_out = False  # a sink that cannot begin, and go on without

    def __init__(
        self,
        acc: RewardAccumulator,
        sinks: Iterable[Sink] = (),
        run_dir: str | Path | None = None,
        on_record: Callable[[Record], object] | None = None,
        extra_scalars: Callable[[], Mapping[str, float]] | None = None,
        *,
        shared: bool = True,
    ) -> None:
        sinks = workers.check(acc, sinks, on_record)
        require_callable("extra_scalars", extra_scalars)
        require_flag("shared", shared)
        self._acc = acc
        self._reads = processes.is_writer()
        start = partial(workers.start, acc, sinks, run_dir, on_record, leaves_out=self._leaves_out)
        begin = start if self._reads else list[SinkWorker]
        self._workers = processes.begin_together(dataclasses.asdict(acc), begin) if shared else begin()
        processes.announce()
        self._builder = Builder(acc, self._workers, extra_scalars)
        self._emitter = Emitter(acc)
        self._pending = Pending()
        self._turn = Turn(_TURN_SECONDS if jax.process_count() == 1 else processes.WAIT_SECONDS)  # all emit, or none
        self._has_callback = self._is_pushed = False  # emissions come by callback; or so, or as rows
        self._closed = self._broken = self._told = self._is_over = False
        self._pid = os.getpid()
        self._signals = Preemption(self._flush_now)
        atexit.register(self.close)

    def step(self, step: SupportsInt, state: MonitorState) -> MonitorState:
        """Take note of a training step; every `log_frequency` calls, emit. Never waits for the device, never raises.

        Args:
          step: the owner's step number, for the records; a number on the device is read later.
          state: the state after the step.

        Returns:
          The state to go on with.
        """
        number = self._pending.add(step, state)  # first of all
        if not self._is_on():
            self._pending.forget_calls()
            return state
        is_due = self._pending.is_due(number, self._acc.log_frequency)
        if not is_due and self._emitter.is_begun and not self._signals.pending:
            return self._pending.current(state)  # of most steps this is all
        with self._signals, self._turn.of_step(is_due=is_due) as is_ours:
            after, error = attempt(partial(self._step, number, state)) if is_ours else (None, None)
            if after is not None and self._signals.take():
                after = self._flush(after, _FLUSH_SECONDS)
        if error is not None:
            self._broken = True
            _logger.error("The reward monitor has switched itself off; training goes on without it.", exc_info=error)
            return state
        if after is None or after is state:
            return self._pending.current(state)
        return self._hand_over(state, after)

    def _step(self, number: int, state: MonitorState) -> MonitorState | None:
        if not is_concrete(state):
            return None
        is_due = self._pending.is_due(number, self._acc.log_frequency)
        require_kept(state)
        self._emitter.prepare(state, wait=is_due)
        start = time.perf_counter()  # behind the compilation: it comes once, and the key says what each step costs
        if is_due and (ended := self._pending.read()).held:  # a handler may have emitted them meanwhile
            state = self._emit(state, ended)
        self._pending.seconds += time.perf_counter() - start
        return state

    def _hand_over(self, given: MonitorState, after: MonitorState) -> MonitorState:
        """Return what an emission left; an interval ends here, or who is interrupted would go on with the last."""
        self._pending.begin(after, given)
        return after

    def _emit(self, state: MonitorState, ended: Interval, *, with_run: bool = False) -> MonitorState:
        state = self._pending.current(state)  # a handler or another thread may have emitted it meanwhile
        words, fresh = self._emitter.emit(state)  # every process dispatches, or the others wait for ever
        if self._reads:
            words.copy_to_host_async()
            overhead = 1e3 * self._pending.seconds / ended.length if ended.length else None
            self._pending.seconds = 0.0
            emission = Emission(words, time.time(), ended.steps, overhead, state if with_run else None, ended.key)
            self._builder.put(emission)
        self._pending.note_emitted(ended)
        return fresh

    @property
    def callback(self) -> Callable[[Any], None]:
        """What `acc.update_and_emit` calls with packed words. It neither blocks nor raises, on whatever thread."""
        self._has_callback = self._is_pushed = True
        return self._receive

    def _receive(self, words: Any) -> None:
        if self._reads and not self._closed:
            self._is_pushed = True
            self._put(partial(self._put_words, words))  # raised on, it would cost the trainer its donated state

    def _put_words(self, words: Any) -> None:
        self._builder.put_unordered(Emission(np.array(words), time.time()), shortest=self._acc.log_frequency)

    def _put(self, action: Callable[[], None]) -> None:
        """Hand words to the builder; what cannot be read is counted as lost."""
        _, error = attempt(action)
        if error is not None:
            self._builder.lose(error)

    def write_rows(self, rows: Any) -> None:
        """Hand over the packed rows [n, words] that a `lax.scan` of `acc.scan_chunk` returned; blocks for the copy."""
        self._is_pushed = True
        if self._reads and self._is_on():
            self._put(lambda: self._builder.put_rows(np.asarray(rows), time.time()))

    def lose(self) -> None:
        """Count a step that was lost before it came here, in `monitoring/dropped_records`. Waits for nothing."""
        self._builder.lose()

    def flush(self, state: MonitorState | None = None, timeout_seconds: float = 60.0) -> MonitorState | None:
        """Wait until everything emitted so far is written; with a state, emit it first, with run quantiles.

        Args:
          state: the state of now; without it the steps since the last emission stay with the next one.
          timeout_seconds: how long to wait for the device and the sinks together.

        Returns:
          The state to go on with, when one was given. Never raises.
        """
        if os.getpid() != self._pid:
            return state
        with self._signals:
            after = self._flush(state, as_seconds(timeout_seconds))
        if state is None or after is None or after is state:
            return after
        return self._hand_over(state, after)

    def _flush(self, state: MonitorState | None, seconds: float) -> MonitorState | None:
        end = time.monotonic() + seconds
        after = self._emit_rest(lambda: state, end)
        workers.flush(self._workers, end)
        return state if after is None else after

    def flush_on_sigterm(self, grace_seconds: float = 10.0) -> None:
        """Write the pending interval when the process gets SIGTERM; then the signal does what it did before.

        Until `close`. A handler that is there already is called behind that, two seconds later at most, and the next
        step writes again. Without one the process ends as it would have, after the flush or `grace_seconds`. Call it on
        the main thread, behind whatever else installs handlers. Where the job is one of JAX's distributed runtime it
        does nothing but say so: one process alone must not dispatch, and the notice of the signal is JAX's.

        Raises:
          ValueError: this is not the main thread.
        """
        processes.hold_sigterm(self._signals, as_seconds(grace_seconds, _FLUSH_SECONDS))

    def _flush_now(self, seconds: float) -> bool:
        """Write what is pending without handing a state back; False where the state is inside the owner's step."""
        end = time.monotonic() + seconds
        with self._turn.wait(seconds) as is_ours:
            if not is_ours:
                return False
            pending = self._pending.read()
            state = None if pending.is_deleted else pending.state
            if state is None and pending.length and not (self._closed or self._broken):
                return False
            _, error = attempt(partial(self._emit_last, state, pending))
            if error is not None and pending.is_deleted:  # another thread has begun its step meanwhile
                return False
        self._settle(error, end)
        workers.flush(self._workers, end)
        return True

    def close(self, state: MonitorState | None = None, timeout_seconds: float = 30.0) -> None:
        """Emit what is left with run quantiles, drain, close the sinks. Safe to call twice; never raises.

        Args:
          state: the last state; by default the one that `step` returned last, unless it has been donated since. A loop
            that emits by `callback` or `write_rows` has to give it.
          timeout_seconds: how long to wait for the device, and then for the sinks; those that hang are left behind.
        """
        if self._is_over or os.getpid() != self._pid:  # a forked child has none of the threads
            return
        with self._signals:
            self._close(state, as_seconds(timeout_seconds))
        self._is_over = True
        self._signals.restore()

    def _close(self, state: MonitorState | None, timeout_seconds: float) -> None:
        if not self._closed:  # or the one before was interrupted
            self._emit_final(state, timeout_seconds)
            self._closed = True
        self._emitter.settle(timeout_seconds)
        self._builder.close(timeout_seconds)
        workers.finish(self._workers, time.monotonic() + timeout_seconds)
        self._pending = Pending()
        atexit.unregister(self.close)

    def _emit_final(self, state: MonitorState | None, timeout_seconds: float) -> None:
        _, error = attempt(partial(self._pending.keep_final, state))
        if error is not None:
            text = "What close was given is no monitor state; the last that came to Reporter.step is written."
            _logger.error(text, exc_info=error)
        self._flush(None, min(timeout_seconds, _SETTLE_SECONDS))
        # Only now: a loop on another thread may have gone on meanwhile.
        take = partial(self._pending.take_final, self._is_pushed, is_told=self._broken)
        self._emit_rest(take, time.monotonic() + timeout_seconds)

    def _emit_rest(self, take: Callable[[], MonitorState | None], end: float) -> MonitorState | None:
        with self._turn.wait(max(0.0, end - time.monotonic())):
            after, error = attempt(lambda: self._emit_last(take(), self._pending.read()))
        self._settle(error, end)
        return after

    def _settle(self, error: Exception | None, end: float) -> None:
        """Tell what was wrong with the last emission, and wait until the ones before it have become records."""
        if error is not None:
            _logger.error("The last emission failed; what was written before is complete.", exc_info=error)
        self._builder.drain(max(0.0, end - time.monotonic()))

    def _emit_last(self, state: MonitorState | None, ended: Interval) -> MonitorState | None:
        if self._has_callback:
            jax.effects_barrier()
        if state is None or not self._is_on():
            return state
        self._emitter.prepare(state, wait=True)
        self._is_pushed = False  # what was missing until now is there
        return self._emit(state, ended, with_run=True)

    def _is_on(self) -> bool:
        if self._closed and not self._told:
            self._told = True
            _logger.warning("The reporter is closed: steps after close are not recorded. Make a new Reporter.")
        return not (self._closed or self._broken) and os.getpid() == self._pid

    def __enter__(self) -> "Reporter":
        """Return the reporter."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close, whatever happened in the loop."""
        self.close()
