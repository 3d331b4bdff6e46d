"""Preemption: what is pending is written before a signal ends the process, and then the signal does what it did.

A handler that was there is called at once, and the pending interval is written with the next step, or at `close`.
Without one the process ends: the interval is written first, on a thread of its own, since the signal may have come in
the middle of anything. While a step is at work, or its state has been donated and the next one is still being computed,
that waits for the step; after `grace_seconds` the process ends without.

Nobody's handler is replaced unasked: JAX's distributed runtime has one of its own that Python does not see.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from tunrex_jax_monitor.host.guard import attempt

_logger = logging.getLogger("tunrex_jax_monitor")


class Preemption:
    """Holds a signal back while its context is entered; does nothing before `install`.

    Args:
      flush: writes what is pending, in at most the seconds given; False where that has to wait for a step.

    Attributes:
      pending: the signal came, and what it found has not been written.
    """

    def __init__(self, flush: Callable[[float], bool]) -> None:
        self.pending = False
        self._flush = flush
        self._depth = 0
        self._is_on = self._is_due = False
        self._previous: Any = None
        self._pid = os.getpid()

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
        if self._is_on:
            return
        if signal.getsignal(signum) is None:
            _logger.warning("Signal %d has a handler that is not Python's and stays; close the reporter there.", signum)
            return
        self._signum, self._grace = signum, grace_seconds
        self._previous = signal.signal(signum, self._handle)
        self._is_on = True

    def restore(self) -> None:
        """Give the signal back. Where that cannot be, the handler stays and only calls the one before."""
        if not self._is_on:
            return
        self._is_on = False
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(self._signum) == self._handle:
            signal.signal(self._signum, self._previous)

    def __enter__(self) -> None:
        """Hold the signal back: what is pending is being worked on."""
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let a signal that came meanwhile do what it does, whenever in the context that was."""
        self._depth -= 1
        if self.pending and self._is_deadly() and self._is_written():
            self._end()

    def take(self) -> bool:
        """Tell whether a signal came that the process outlives, once: what is pending is to be written now."""
        due = self.pending and not self._is_deadly()
        if due:
            self.pending = False
        return due

    def _is_deadly(self) -> bool:
        return bool(self._previous == signal.SIG_DFL)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        """Run on the main thread, between any two of its instructions."""
        is_second, self.pending = self.pending or self._is_due, self._is_on
        if callable(self._previous):
            self._previous(signum, frame)
        elif self._is_deadly():
            if not self._is_on or is_second or os.getpid() != self._pid or self._is_written():
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            else:
                timer = threading.Timer(self._grace, self._end)
                timer.daemon = True
                timer.start()

    def _is_written(self) -> bool:
        if self._depth:
            return False
        written: list[bool | None] = []
        thread = threading.Thread(target=lambda: written.append(attempt(lambda: self._flush(self._grace))[0]))
        thread.daemon = True
        thread.start()
        thread.join(self._grace)
        return written != [False]

    def _end(self) -> None:
        """Send the signal again, on any thread; the handler lets it through."""
        self.pending = False
        if self._is_on:
            self._is_due = True
            os.kill(os.getpid(), self._signum)
