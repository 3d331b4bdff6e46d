"""Turn: one thread at a time takes what is pending: that of training, or one that flushes, as when a signal comes."""

import threading
from types import TracebackType
from typing import Any


class Turn:
    """A lock that nobody waits for longer than they say, held while something is enqueued and never for a sink."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def wait(self, seconds: float) -> "_Wait":
        """Return a context that waits for the turn, and tells whether it came."""
        return _Wait(self._lock, seconds)


class _Wait:
    """Not a generator: a step enters one."""

    __slots__ = ("_is_ours", "_lock", "_seconds")

    def __init__(self, lock: Any, seconds: float) -> None:
        self._lock, self._seconds, self._is_ours = lock, seconds, False

    def __enter__(self) -> bool:
        self._is_ours = self._lock.acquire(timeout=self._seconds)
        return self._is_ours

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_ours:
            self._lock.release()
