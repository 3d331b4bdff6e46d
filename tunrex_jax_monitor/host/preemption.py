"""Preemption: what is pending is written before a signal ends the process, and then the signal does what it did.

The interval is written first, on a thread of its own, since the signal may have come in the middle of anything. Then a
handler that was there is called; without one the process ends. While a step is at work, or its state has been donated
and the next one is still being computed, writing has to wait for the step: a handler that was there is called at once
all the same, and without one the process ends behind the step, or after `grace_seconds` without.

Whoever holds the same signal back is written before the process ends, also where handlers of others lie between.

Nobody's handler is replaced unasked.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType, TracebackType
from typing import ClassVar

from tunrex_jax_monitor.host.guard import attempt

_logger = logging.getLogger("tunrex_jax_monitor")
_FIRST_SECONDS = 2.0  # that a handler of others waits, at most: its checkpoint is worth more than our last interval


class Preemption:
    """Holds a signal back while its context is entered, which does not nest; does nothing before `install`.

    Args:
      flush: writes what is pending, in at most the seconds given; False where that has to wait for a step.
      write: does so where the process may go on; `flush` by default.

    Attributes:
      pending: the signal came, and what it found has not been written.
      is_busy: the context is entered. Who is interrupted on the way out enters it with the next step again.
      grace_seconds: how long `flush` may take.
    """

    def __init__(self, flush: Callable[[float], bool], write: Callable[[float], object] | None = None) -> None:
        self.pending = self.is_busy = False
        self.flush, self.write = flush, write or flush
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
            self.grace_seconds = grace_seconds
            return
        if signal.getsignal(signum) is None:
            _logger.warning("Signal %d has a handler that is not Python's and stays; close the reporter there.", signum)
            return
        self.grace_seconds, self._handler = grace_seconds, _Handler.of(signum)
        self._handler.holders.append(self)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the signal back where this is the main thread, which it may interrupt, and it is not held back yet."""
        if self._handler is None or self.is_busy or threading.current_thread() is not threading.main_thread():
            yield
            return
        with self:
            yield

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
        waiting = None if self._handler is None else self._handler.that_waits()
        if waiting is not None and waiting.is_written():
            waiting.end()

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
      is_waiting: the process is to end as soon as all is written.
    """

    _all: ClassVar[list["_Handler"]] = []  # that are in place, one over the other

    def __init__(self, signum: int) -> None:
        self.holders: list[Preemption] = []
        self._signum, self._pid = signum, os.getpid()
        self.is_waiting = self._is_due = False
        self._previous = signal.signal(signum, self._handle)
        self._all.append(self)

    @classmethod
    def of(cls, signum: int) -> "_Handler":
        """Return the one that is on top, or put one there."""
        found = getattr(signal.getsignal(signum), "__self__", None)
        return found if isinstance(found, cls) else cls(signum)

    @property
    def is_deadly(self) -> bool:
        """Whether the process ends of the signal."""
        return bool(self._previous == signal.SIG_DFL)

    def that_waits(self) -> "_Handler | None":
        """Return the one of the same signal that waits, if any; handlers of others may lie between."""
        return next((other for other in self._all if other._signum == self._signum and other.is_waiting), None)

    def restore(self) -> None:
        """Give the signal back, unless somebody holds it. Where that cannot be, it stays and calls the one before."""
        is_main = threading.current_thread() is threading.main_thread()
        if not self.holders and is_main and signal.getsignal(self._signum) == self._handle:
            signal.signal(self._signum, self._previous)
            self._all.remove(self)

    def is_written(self) -> bool:
        """Write what is pending, of all at the same time; False where something has to wait for a step."""
        holders = self._every_holder()
        waiting = [holder for holder in holders if holder.pending and not holder.is_busy]
        threads = self._run((partial(_flush, holder) for holder in waiting), self._grace_seconds)
        for holder, thread in zip(waiting, threads, strict=True):
            holder.pending = holder.pending and not thread.is_alive()  # one that hangs is not waited for again
        return not any(holder.pending for holder in holders)

    def _write_first(self) -> None:
        """Write what is pending before a handler that may end the process; what follows is due with the next step."""
        seconds = min(_FIRST_SECONDS, self._grace_seconds)
        self._run((partial(attempt, partial(h.write, seconds)) for h in self.holders if not h.is_busy), seconds)

    @staticmethod
    def _run(jobs: Iterable[Callable[[], object]], seconds: float) -> list[threading.Thread]:
        """Run jobs, which raise nothing, at the same time; return their threads, which have ended or had the time.

        A process that is ending takes no threads (Python 3.12 and later): there a job runs on this one.
        """
        threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        end = time.monotonic() + seconds
        for thread in threads:
            if not _start(thread):
                thread.run()
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))
        return threads

    def _every_holder(self) -> list[Preemption]:
        return [holder for other in self._all if other._signum == self._signum for holder in other.holders]

    def end(self) -> None:
        """Send the signal again, on any thread; the handler lets it through."""
        if self._every_holder():
            self._is_due = True
            os.kill(os.getpid(), self._signum)

    @property
    def _grace_seconds(self) -> float:
        return max((holder.grace_seconds for holder in self._every_holder()), default=0.0)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        """Run on the main thread, between any two of its instructions."""
        is_second = self._is_due or any(holder.pending for holder in self.holders)
        for holder in self.holders:
            holder.pending = True
        if callable(self._previous):
            if os.getpid() == self._pid:
                self._write_first()
            self._previous(signum, frame)
        elif self.is_deadly:
            if not self._every_holder() or is_second or os.getpid() != self._pid or self.is_written():
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            else:
                self.is_waiting = True
                timer = threading.Timer(self._grace_seconds, self.end)
                timer.daemon = True
                if not _start(timer) and not any(holder.is_busy for holder in self._every_holder()):
                    self.end()  # the process is ending, so no step comes that would


def _start(thread: threading.Thread) -> bool:
    """Start a thread; False where the process takes none: a signal handler must not raise into what it interrupts."""
    return attempt(thread.start)[1] is None


def _flush(holder: Preemption) -> None:
    written, _ = attempt(lambda: holder.flush(holder.grace_seconds))
    holder.pending = written is False
