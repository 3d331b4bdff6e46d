"""Latch: something that happens once, and can be waited for where a signal handler may raise.

`threading.Event` is Python inside: a handler that raises there can leave its lock taken, and whoever sets the event
then waits for ever. This one has a lock of C alone.
"""

import threading


class Latch:
    """Set once, by a thread; waited for by any number of others."""

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let everybody go who waits."""
        if not self._is_set:
            self._is_set = True
            self._lock.release()

    def is_set(self) -> bool:
        """Tell whether it has happened."""
        return self._is_set

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait; False when it took too long."""
        timeout = -1 if timeout_seconds is None else timeout_seconds
        if not self._is_set and self._lock.acquire(timeout=timeout):  # who is interrupted here finds it set
            self._lock.release()
        return self._is_set
