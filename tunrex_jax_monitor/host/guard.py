"""The one place where an exception stops: what monitoring does must not end training."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what the action returns and None, or None and what it raises.

    KeyboardInterrupt and SystemExit pass: on the training thread they are the owner's.
    """
    try:
        return action(), None
    except Exception as error:
        return None, error
