"""At work: which reward functions are being computed now, so that a round of calls that goes on is not cut off."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Work(NamedTuple):
    """A call that has not returned."""

    name: str  # of the reward function
    batch: int  # identity of what it was given
    key: int  # of its contents, as in `round_key`


_NOW: dict[object, Work] = {}


@contextmanager
def at_work(name: str, batch: int, key: int) -> Iterator[None]:
    """Note that this thread, or a coroutine on it, is in a reward function."""
    token = object()
    _NOW[token] = Work(name, batch, key)
    try:
        yield
    finally:
        _NOW.pop(token, None)


def now() -> list[Work]:
    """Return the calls that have not returned, of all threads."""
    return list(_NOW.values())
