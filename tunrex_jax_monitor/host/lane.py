"""Lane: a queue, and the daemon thread that works through it in order, so that whoever puts something in need not wait.

A process that is ending takes no new threads (Python 3.12 and later). A lane that begins there, behind a first step
that was still being compiled when the program ended, does its work in `put`.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from tunrex_jax_monitor.host.latch import Latch

T = TypeVar("T")
_GLANCE_SECONDS = 0.2  # between two looks whether the thread has ended


class Lane(Generic[T]):
    """Hands items to a function, one after the other.

    Args:
      work: called with each item; it may not raise.
      name: of the thread.
      at_end: called behind the last item, on the same thread.
    """

    def __init__(self, work: Callable[[T], object], name: str, at_end: Callable[[], object] = lambda: None) -> None:
        self._work, self._at_end = work, at_end
        # SimpleQueue: its put takes no lock that a Python thread could hold, and may be interrupted anywhere.
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._pid = os.getpid()
        self._ended = Latch()  # CPython 3.11 takes a thread for ended when a signal handler has raised in `join`
        self._is_direct = not start(self._thread)

    @property
    def waiting(self) -> int:
        """How many items wait; an end counts as one."""
        return self._queue.qsize()

    def put(self, item: T) -> None:
        """Take an item, and return at once."""
        self._queue.put(item)
        self._do_now()

    def end(self) -> None:
        """End behind what has been put."""
        self._queue.put(None)
        self._do_now()

    def is_alive(self) -> bool:
        """Tell whether items are still being worked through."""
        return not self._ended.is_set() and os.getpid() == self._pid  # a forked child has no threads

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end; False when it took too long."""
        if not self._is_direct:
            self._ended.wait(timeout_seconds)
        return not self.is_alive()

    def wait_for(self, mark: Latch, timeout_seconds: float) -> bool:
        """Wait for what an item of the queue sets; False when it took too long, or came in behind the end."""
        end = time.monotonic() + timeout_seconds
        while self.is_alive() and (left := end - time.monotonic()) > 0:
            if mark.wait(min(left, _GLANCE_SECONDS)):
                return True
        return mark.is_set()

    def leftovers(self) -> Iterator[T | None]:
        """Take out what came in behind the end."""
        while not self._queue.empty():
            yield self._queue.get()

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                self._work(item)
            self._at_end()
        finally:
            self._ended.set()

    def _do_now(self) -> None:
        while self._is_direct and not self._ended.is_set() and not self._queue.empty():
            if (item := self._queue.get()) is not None:
                self._work(item)
            else:
                self._ended.set()
                self._at_end()


def do_beside(job: Callable[[], object], name: str) -> Lane[Callable[[], object]]:
    """Do one thing beside the caller; what is returned can be waited for."""
    lane: Lane[Callable[[], object]] = Lane(lambda job: job(), name)
    lane.put(job)
    lane.end()
    return lane


def start(thread: threading.Thread) -> bool:
    """Start a thread; False where the process is ending and takes none. Raises where it has too many of them."""
    try:
        thread.start()
    except RuntimeError as error:
        if "interpreter shutdown" in str(error):
            return False
        raise
    return True
