"""Turn: one thread at a time works on what is pending: that of training, or the one that writes when a signal comes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """A lock that nobody waits for longer than they say; whoever has it may take it again."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def wait(self, seconds: float) -> Iterator[bool]:
        """Wait for the turn; False where the other thread had it all that time."""
        is_ours = self._lock.acquire(timeout=seconds)
        try:
            yield is_ours
        finally:
            if is_ours:
                self._lock.release()
