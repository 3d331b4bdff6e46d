"""The one place where an exception stops: what monitoring does must not end training."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_LONGEST = 1e6  # seconds; a lock refuses to wait for ever in one go


def attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what the action returns and None, or None and what it raises.

    KeyboardInterrupt and SystemExit pass: on the training thread they are the owner's.
    """
    try:
        return action(), None
    except Exception as error:
        return None, error


def as_seconds(timeout: Any, default: float = 30.0) -> float:
    """Return a time that can be waited; anything else must not hurt a training that is about to end."""
    seconds, _ = attempt(lambda: float(timeout))
    return min(max(seconds, 0.0), _LONGEST) if seconds is not None and seconds == seconds else default
