"""At work: which reward functions each thread is in now, so that a round of calls that goes on is not cut off."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_AT_WORK: dict[int, list[str]] = {}  # by thread; each thread changes its own


@contextmanager
def at_work(name: str) -> Iterator[None]:
    """Note that this thread is in a reward function."""
    thread = threading.get_ident()
    names = _AT_WORK.setdefault(thread, [])
    names.append(name)
    try:
        yield
    finally:
        names.remove(name)  # of coroutines on one thread any may end first
        if not names:
            _AT_WORK.pop(thread, None)


def functions_of(thread: int) -> tuple[str, ...]:
    """Return the names of the reward functions that a thread, by its identity, is in now."""
    return tuple(_AT_WORK.get(thread, ()))
