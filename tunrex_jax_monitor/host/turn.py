"""Turn: one thread at a time takes what is pending: that of training, or one that flushes, as when a signal comes."""

import threading
from types import TracebackType


class Turn:
    """A lock that nobody waits for longer than they say, held while something is enqueued and never for a sink.

    Args:
      patience_seconds: how long a step waits that has to emit, once.

    Attributes:
      is_missed: who waited last did so in vain.
    """

    def __init__(self, patience_seconds: float) -> None:
        self.lock, self.is_missed = threading.RLock(), False
        self._patience = patience_seconds

    def wait(self, seconds: float) -> "_Wait":
        """Return a context that waits for the turn, and tells whether it came."""
        return _Wait(self, seconds)

    def of_step(self, *, is_due: bool) -> "_Wait":
        """Return the context of a step: one that need not emit is taken in with the next, and waits for nothing."""
        return _Wait(self, self._patience if is_due and not self.is_missed else 0.0)


class _Wait:
    """Not a generator: each step enters one."""

    __slots__ = ("_is_ours", "_seconds", "_turn")

    def __init__(self, turn: Turn, seconds: float) -> None:
        self._turn, self._seconds, self._is_ours = turn, seconds, False

    def __enter__(self) -> bool:
        self._is_ours = self._turn.lock.acquire(timeout=self._seconds)
        if self._is_ours or self._seconds:
            self._turn.is_missed = not self._is_ours
        return self._is_ours

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_ours:
            self._turn.lock.release()
