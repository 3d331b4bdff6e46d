"""SinkWorker: one sink on one daemon thread behind one queue, so that no sink can stop or slow training.

`put` never blocks and never raises. Records reach the sink in order. A sink that raises is reported once with its
traceback, closed and switched off. A sink that hangs costs `flush` and `close` their timeouts, once, and the process
can still exit. What a sink did not get is counted in `dropped`.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from tunrex_jax_monitor.host.guard import attempt, in_words
from tunrex_jax_monitor.host.lane import Lane
from tunrex_jax_monitor.host.latch import Latch
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.base import Sink, is_durable, label_of

_logger = logging.getLogger("tunrex_jax_monitor")
_PATIENCE_SECONDS = 10.0  # that are waited for a sink that writes nothing meanwhile, however often


class SinkWorker:
    """Feeds records to one sink.

    Args:
      sink: what to feed; the worker closes it.
      capacity: how many records may wait. At that number a new one is dropped, unless the sink is durable: its queue
        has no bound, so a durable sink that hangs costs memory.
      on_failure: called once with the exception of a sink that failed, on the worker's thread. What it raises itself
        is discarded.
      label: what messages call the sink; by default its own `label`, or else its class name.

    Attributes:
      error: the exception that switched the sink off, or None.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int = 64,
        on_failure: Callable[[Exception], None] | None = None,
        label: str | None = None,
    ) -> None:
        require_sink(sink)
        _require_capacity(capacity)
        self.error: Exception | None = None
        self._sink = sink
        self._label = label or label_of(sink)
        self._capacity = None if is_durable(sink) else capacity
        self._on_failure = on_failure
        self._accepted = self._finished = self._dropped = 0
        self._waited = 0, 0.0  # how many records were finished, and how long has been waited in vain since
        self._count_lock = threading.Lock()
        self._closed = False
        self._told = False
        self._pid = os.getpid()
        self._lane: Lane[Record | Latch] = Lane(self._take, f"tunrex-{self._label}", self._close_sink)

    @property
    def dropped(self) -> int:
        """How many records the sink did not get: queue full, switched off, after `close`, waiting while it hangs."""
        return self._dropped + (self._accepted - self._finished if self._hangs() else 0)

    def put(self, record: Record) -> None:
        """Hand the record over and return at once; a record that cannot be taken is counted, not raised."""
        if self._refuses():
            self._drop()
        else:
            with self._count_lock:
                self._accepted += 1
            self._lane.put(record)

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Wait until the sink has written what is queued; False when it has not in `timeout_seconds`."""
        _require_timeout(timeout_seconds)
        return self.wait_for(self.mark(), timeout_seconds)

    def mark(self) -> Latch | None:
        """Return what is set when the sink has written what is queued now; None when it gets nothing any more."""
        if self._closed or not self._lane.is_alive():
            return None
        reached = Latch()
        self._lane.put(reached)
        return reached

    def wait_for(self, mark: Latch | None, timeout_seconds: float) -> bool:
        """Wait for a mark, unless the sink has been waited for in vain, and has written nothing since."""
        if mark is None:
            return False
        finished, start, hung = self._finished, time.monotonic(), self._hangs()
        reached = self._lane.wait_for(mark, 0.0 if hung else timeout_seconds)
        in_vain = self._waited[1] if self._waited[0] == finished else 0.0
        self._waited = finished, 0.0 if reached else in_vain + time.monotonic() - start
        if not hung and self._hangs():
            message = "%s has written nothing for %.0f s; it is not waited for until it goes on"
            _logger.warning(message, self._label, self._waited[1])
        return reached

    def finish(self) -> None:
        """Let the sink write what is queued and close it, without waiting; `close` then waits."""
        if not self._closed:
            self._lane.end()
            self._closed = True

    def close(self, timeout_seconds: float = 30.0) -> bool:
        """Let the sink write what is queued and close it, for at most `timeout_seconds`.

        Returns:
          True when the worker has ended. False when the sink hangs: that is logged once, a later call does not wait
          again, and the worker goes on in the background for as long as the process lives.
        """
        _require_timeout(timeout_seconds)
        if os.getpid() != self._pid:  # a forked child has the queue but not the thread; the parent's will finish
            return False
        self.finish()
        ended = self._lane.join(0.0 if self._told else timeout_seconds)
        if ended:
            self._drop_leftovers()
        self._tell(ended, timeout_seconds)
        return ended

    def switch_off(self, error: Exception) -> None:
        """Give the sink no record any more, and say so."""
        self.error = error
        message = "%s failed and is switched off (%s); training goes on, and its further records are counted as dropped"
        _attempt(lambda: _logger.error(message, self._label, in_words(error), exc_info=error))
        if (notify := self._on_failure) is not None:
            _attempt(lambda: notify(error))

    def _hangs(self) -> bool:
        finished, seconds = self._waited
        return finished == self._finished and seconds >= _PATIENCE_SECONDS

    def _refuses(self) -> bool:
        off = self._closed or self.error is not None or not self._lane.is_alive()
        return off or (self._capacity is not None and self._lane.waiting >= self._capacity)

    def _take(self, item: Record | Latch) -> None:
        if isinstance(item, Latch):
            item.set()
        else:
            self._deliver(item)
            self._finished += 1

    def _close_sink(self) -> None:
        if self.error is None and (error := _attempt(self._sink.close)) is not None:
            self.switch_off(error)

    def _deliver(self, record: Record) -> None:
        if self.error is not None:
            self._drop()
        elif (error := _attempt(lambda: self._sink.write(record))) is not None:
            self._drop()
            self.switch_off(error)
            _attempt(self._sink.close)  # most often raises once more what has just been reported

    def _drop(self) -> None:
        with self._count_lock:
            self._dropped += 1

    def _drop_leftovers(self) -> None:
        """Count what came in behind the end mark, or after the thread was ended from outside."""
        for item in self._lane.leftovers():
            if isinstance(item, Record):
                self._drop()

    def _tell(self, ended: bool, timeout_seconds: float) -> None:
        if self._told:
            return
        if not ended:
            self._told = True
            waiting = self._lane.waiting  # the end mark in it stands for the record in the sink's hands
            message = "%s is still busy after %g s with %d records to go; not waiting for it any longer"
            _logger.warning(message, self._label, timeout_seconds, waiting)
        elif self._dropped:
            self._told = True
            _logger.warning("%s did not get %d records", self._label, self._dropped)


def _attempt(action: Callable[[], object]) -> Exception | None:
    """Run a sink's code; return what it raises."""
    return attempt(lambda: _without_exit(action))[1]


def _without_exit(action: Callable[[], object]) -> None:
    try:
        action()
    except SystemExit as error:  # sys.exit in a thread would end it without a word
        raise RuntimeError(f"called sys.exit({error.code!r})") from error


def require_sink(sink: object) -> None:
    """Refuse what cannot take records."""
    if isinstance(sink, type) or not isinstance(sink, Sink):
        raise TypeError(
            f"sink: got {sink!r}, allowed an object with write(record) and close(). "
            "Pass an instance, for example MemorySink()."
        )


def _require_capacity(capacity: int) -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"capacity: got {capacity!r}, allowed an int of at least 1. Leave it out for 64.")


def _require_timeout(seconds: float) -> None:
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"timeout_seconds: got {seconds!r}, allowed 0 to {threading.TIMEOUT_MAX:g}. Pass for example 30.0."
        )
