"""The one place where an exception stops: what monitoring does must not end training."""

import functools
import inspect
import itertools
import signal
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
_LONGEST = 1e6  # seconds; a lock refuses to wait for ever in one go


def attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what the action returns and None, or None and what it raises.

    KeyboardInterrupt and SystemExit pass: on the training thread they are the owner's. So is what a signal handler of
    the owner's raises while the action is at work, also one that has put another in its place by then.
    """
    try:
        return action(), None
    except Exception as error:
        if threading.current_thread() is threading.main_thread() and _is_of_a_signal_handler(error):
            raise
        return None, error


def in_words(error: BaseException) -> str:
    """Return what an error says, for a message: some say nothing but what they are."""
    text, _ = attempt(lambda: str(error))  # an error of others may fail at that too
    return f"{type(error).__name__}: {text or ''}".removesuffix(": ")


def _is_of_a_signal_handler(error: Exception) -> bool:
    handlers = {_code_of(signal.getsignal(signum)) for signum in signal.valid_signals()} - {None}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_code in handlers or _was_given_a_signal(frame) for frame in frames)


def _was_given_a_signal(frame: FrameType) -> bool:
    """Tell whether a frame is of a function that was called as a signal handler is: with a number and its caller."""
    code, values = frame.f_code, frame.f_locals
    given = [values.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & inspect.CO_VARARGS:
        rest = values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        given += rest if type(rest) is tuple else ()  # the function may have given the name to anything
    return any(b is not None and b is frame.f_back and isinstance(a, int) for a, b in itertools.pairwise(given))


def _code_of(handler: Any) -> Any:
    """Return the code that a signal handler runs; None where it is no Python function."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    call = handler if hasattr(handler, "__code__") or not callable(handler) else type(handler).__call__
    return getattr(call, "__code__", None)


def as_seconds(timeout: Any, default: float = 30.0) -> float:
    """Return a time that can be waited; anything else must not hurt a training that is about to end."""
    seconds, _ = attempt(lambda: float(timeout))
    return min(max(seconds, 0.0), _LONGEST) if seconds is not None and seconds == seconds else default
