"""Preemption: what is pending is written before a signal ends the process, and then the signal does what it did.

A handler that was there is called at once, and the pending interval is written with the next step, or at `close`.
Without one the process ends: the interval is written first, on a thread of its own, since the signal may have come in
the middle of anything. While a step is at work, or its state has been donated and the next one is still being computed,
that waits for the step; after `grace_seconds` the process ends without.

Who hold the same signal back share one handler: all of them write before the process ends.

Nobody's handler is replaced unasked: JAX's distributed runtime has one of its own that Python does not see.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from tunrex_jax_monitor.host.guard import attempt

_logger = logging.getLogger("tunrex_jax_monitor")


class Preemption:
    """Holds a signal back while its context is entered, which does not nest; does nothing before `install`.

    Args:
      flush: writes what is pending, in at most the seconds given; False where that has to wait for a step.

    Attributes:
      pending: the signal came, and what it found has not been written.
      is_busy: the context is entered. Who is interrupted on the way out enters it with the next step again.
      grace_seconds: how long `flush` may take.
    """

    def __init__(self, flush: Callable[[float], bool]) -> None:
        self.pending = self.is_busy = False
        self.flush = flush
        self.grace_seconds = 0.0
        self._handler: _Handler | None = None

    def install(self, signum: int = signal.SIGTERM, grace_seconds: float = 10.0) -> None:
        """Take the signal until `restore`. Call it after whoever else does.

        Raises:
          ValueError: this is not the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(
                f"flush_on_sigterm: got a call on {threading.current_thread().name!r}, allowed: on the main thread, "
                "where Python handles signals. Call it before the threads start."
            )
        if self._handler is not None:
            return
        if signal.getsignal(signum) is None:
            _logger.warning("Signal %d has a handler that is not Python's and stays; close the reporter there.", signum)
            return
        self.grace_seconds, self._handler = grace_seconds, _Handler.of(signum)
        self._handler.holders.append(self)

    def restore(self) -> None:
        """Leave the signal to the others that hold it, and behind the last of them to the handler before."""
        if self._handler is not None:
            handler, self._handler = self._handler, None
            handler.holders.remove(self)
            handler.restore()

    def __enter__(self) -> None:
        """Hold the signal back: what is pending is being worked on."""
        self.is_busy = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let a signal that came meanwhile do what it does, whenever in the context that was."""
        self.is_busy = False
        if self.pending and self._handler is not None and self._handler.is_deadly and self._handler.is_written():
            self._handler.end()

    def take(self) -> bool:
        """Tell whether a signal came that the process outlives, once: what is pending is to be written now."""
        due = self.pending and not (self._handler is not None and self._handler.is_deadly)
        if due:
            self.pending = False
        return due


class _Handler:
    """The handler of one signal, in this process.

    Attributes:
      holders: who hold the signal back.
    """

    def __init__(self, signum: int) -> None:
        self.holders: list[Preemption] = []
        self._signum, self._pid = signum, os.getpid()
        self._is_due = False
        self._previous = signal.signal(signum, self._handle)

    @classmethod
    def of(cls, signum: int) -> "_Handler":
        """Return the one that is on top, or put one there."""
        found = getattr(signal.getsignal(signum), "__self__", None)
        return found if isinstance(found, cls) else cls(signum)

    @property
    def is_deadly(self) -> bool:
        """Whether the process ends of the signal."""
        return bool(self._previous == signal.SIG_DFL)

    def restore(self) -> None:
        """Give the signal back, unless somebody holds it. Where that cannot be, it stays and calls the one before."""
        is_main = threading.current_thread() is threading.main_thread()
        if not self.holders and is_main and signal.getsignal(self._signum) == self._handle:
            signal.signal(self._signum, self._previous)

    def is_written(self) -> bool:
        """Write what is pending, of all at the same time; False where something has to wait for a step."""
        waiting = [holder for holder in self.holders if holder.pending and not holder.is_busy]
        threads = [threading.Thread(target=_write, args=(holder,), daemon=True) for holder in waiting]
        end = time.monotonic() + self._grace_seconds
        for thread in threads:
            thread.start()
        for holder, thread in zip(waiting, threads, strict=True):
            thread.join(max(0.0, end - time.monotonic()))
            holder.pending = holder.pending and not thread.is_alive()  # one that hangs is not waited for again
        return not any(holder.pending for holder in self.holders)

    def end(self) -> None:
        """Send the signal again, on any thread; the handler lets it through."""
        if self.holders:
            self._is_due = True
            os.kill(os.getpid(), self._signum)

    @property
    def _grace_seconds(self) -> float:
        return max((holder.grace_seconds for holder in self.holders), default=0.0)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        """Run on the main thread, between any two of its instructions."""
        is_second = self._is_due or any(holder.pending for holder in self.holders)
        for holder in self.holders:
            holder.pending = True
        if callable(self._previous):
            self._previous(signum, frame)
        elif self.is_deadly:
            if not self.holders or is_second or os.getpid() != self._pid or self.is_written():
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            else:
                timer = threading.Timer(self._grace_seconds, self.end)
                timer.daemon = True
                timer.start()


def _write(holder: Preemption) -> None:
    written, _ = attempt(lambda: holder.flush(holder.grace_seconds))
    holder.pending = written is False
