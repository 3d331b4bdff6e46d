"""A reward function under watch: called as before, counted, timed, and overheard.

A wrapper returns what the function returns, untouched, and raises what it raises. It keeps no argument and no result;
numbers are copied out of a result once, for whoever listens. As with a function, a copy of it is itself. In a forked
child it is the function alone: a lock there may be held by a thread that is gone. Around `async def` it is a coroutine
function too, and a call ends when what it returned has been awaited.
"""

import asyncio
import functools
import inspect
import logging
import os
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from tunrex_jax_monitor.device.config import invalid, require_flag
from tunrex_jax_monitor.host.arguments import require_callable
from tunrex_jax_monitor.host.at_work import at_work
from tunrex_jax_monitor.host.guard import attempt, in_words
from tunrex_jax_monitor.host.names import clean, name_of
from tunrex_jax_monitor.host.round_key import round_key
from tunrex_jax_monitor.host.samples import NO_SAMPLE, capture

_logger = logging.getLogger("tunrex_jax_monitor")
_RECENT = 100
_SHOWN_VALUES, _SHOWN_ERRORS = 10, 5


class Call(NamedTuple):
    """What a listener learns of one call."""

    name: str
    samples: Any  # a copy: float32[n], or an array on its device; None where there is no number to read
    error: BaseException | None  # what the function raised, or why its result holds no samples
    is_scalar: bool  # one number for all completions
    has_raised: bool
    completions: Any  # what it was given as such, or else its first argument that is not of prompts, or None
    is_named: bool  # they were given as such
    keywords: Mapping[str, Any]
    key: int  # of the round, see `round_key`, before the function has seen them


class _Given(NamedTuple):
    """The last fields of a `Call`."""

    completions: Any
    is_named: bool
    keywords: Mapping[str, Any]
    key: int


Listener = Callable[[Call], object]  # returns False where the samples are left out of the statistics
Hold = Callable[[], AbstractContextManager[None]]


class RewardFunctionWrapper:
    """A reward function with counters; the same signature, and a `__name__` that a trainer can log under.

    Args:
      reward_fn: any callable, also a `functools.partial` or an object with `__call__`.
      name: what it is called; its own name by default. Slashes and reserved words are replaced.
      log_errors: log each distinct error type of the function once; errors are re-raised in any case.
      track_timing: measure how long a call takes.
      listener: told of each `Call`. What it raises is logged once and goes no further.
      hold: makes the context in which a call is counted and told.

    Attributes:
      name: what it is called.
      call_count: calls so far.
      error_count: calls that raised.
      left_out_count: calls whose result is in no statistic: no numbers, or not one per completion.
      max_recent: how many of the newest samples and errors are kept.
      Any other, without an underscore in front, is the function's.

    Raises:
      ValueError: an argument is wrong.
    """

    def __init__(
        self,
        reward_fn: Callable[..., Any],
        name: str | None = None,
        log_errors: bool = True,
        track_timing: bool = True,
        *,
        listener: Listener | None = None,
        hold: Hold = nullcontext,
    ) -> None:
        if not callable(reward_fn):
            raise invalid("reward_fn", reward_fn, "a callable", "Pass the function itself.")
        if not isinstance(name, str | None):
            raise invalid("name", name, "a text", "Leave it out for the name of the function.")
        require_flag("log_errors", log_errors)
        require_flag("track_timing", track_timing)
        require_callable("listener", listener)
        functools.update_wrapper(self, reward_fn, updated=())  # its attributes must not overwrite ours
        self.__name__ = self.name = clean(name_of(reward_fn, "reward") if name is None else name)
        self.max_recent = _RECENT
        self._reward_fn = reward_fn
        self._log_errors, self._track_timing = log_errors, track_timing
        self._listener, self._hold = listener, hold
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._told: set[str] = set()
        if inspect.iscoroutinefunction(reward_fn) or inspect.iscoroutinefunction(type(reward_fn).__call__):
            _mark_as_coroutine_function(self)
        self.reset()

    def reset(self) -> None:
        """Forget every call."""
        with self._lock:
            self.call_count = self.error_count = self.left_out_count = 0
            self._seconds: list[float] = [0.0, np.inf, 0.0]  # total, least, greatest
            self._values: deque[float] = deque(maxlen=self.max_recent)
            self._errors: deque[str] = deque(maxlen=self.max_recent)

    def __get__(self, owner: Any, _: type | None = None) -> Any:
        """Bind to an object, as a function does that is a method."""
        return self if owner is None else types.MethodType(self, owner)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        if os.getpid() != self._pid:
            return self._reward_fn(*args, **kwargs)
        given = self._note_given(args, kwargs)
        start = time.perf_counter()
        with at_work(self.name, id(given.completions), given.key):
            try:
                result = self._reward_fn(*args, **kwargs)
            except BaseException as error:  # a call that is cancelled is none that succeeded
                self._end(start, None, error, given)
                raise
            if not inspect.iscoroutine(result):
                self._end(start, result, None, given)
                return result
        return self._await(start, result, given)

    async def _await(self, start: float, pending: Awaitable[Any], given: "_Given") -> Any:
        with at_work(self.name, id(given.completions), given.key):
            try:
                result = await pending
            except BaseException as error:  # a call that is cancelled is none that succeeded
                self._end(start, None, error, given)
                raise
            self._end(start, result, None, given)
        return result

    def _end(self, start: float, result: Any, raised: BaseException | None, given: "_Given") -> None:
        seconds = time.perf_counter() - start
        with self._hold():
            self._count(seconds, raised)
            self._report(result, raised, given)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that the function was given, such as a weight."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._reward_fn, name)

    def __copy__(self) -> "RewardFunctionWrapper":
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> "RewardFunctionWrapper":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process without counters and listener: what is called there is counted there."""
        return type(self), (self._reward_fn, self.name, self._log_errors, self._track_timing)

    @property
    def recent_values(self) -> list[float]:
        """The newest samples it returned, oldest first."""
        with self._lock:
            return list(self._values)

    @property
    def recent_errors(self) -> list[str]:
        """The newest errors it raised, as text, oldest first."""
        with self._lock:
            return list(self._errors)

    def get_stats(self) -> dict[str, Any]:
        """Return calls, errors, calls left out, and times in seconds; times are 0.0 before the first call."""
        with self._lock:
            calls, (total, least, greatest) = self.call_count, self._seconds
            return {
                "name": self.name,
                "calls": calls,
                "errors": self.error_count,
                "error_rate": self.error_count / max(calls, 1),
                "left_out": self.left_out_count,
                "total_time": total,
                "avg_time": total / max(calls, 1),
                "min_time": least if calls and self._track_timing else 0.0,
                "max_time": greatest,
                "recent_values": list(self._values)[-_SHOWN_VALUES:],
                "recent_errors": list(self._errors)[-_SHOWN_ERRORS:],
            }

    def _count(self, seconds: float, error: BaseException | None) -> None:
        with self._lock:
            self.call_count += 1
            if self._track_timing:
                total, least, greatest = self._seconds
                self._seconds = [total + seconds, min(least, seconds), max(greatest, seconds)]
            if error is not None:
                self.error_count += 1
                self._errors.append(in_words(error))
        if error is not None and self._log_errors:
            self._tell(
                type(error).__name__, f"Reward function {self.name} raised; the error goes on to its caller", error
            )

    def _report(self, result: Any, raised: BaseException | None, given: "_Given") -> None:
        if result is None and raised is None:
            self._tell("None", f"Reward function {self.name} returned None, which counts as NaN. Is a return missing?")
        samples, error = (NO_SAMPLE, raised) if raised is not None else attempt(lambda: capture(result))
        if isinstance(samples, np.ndarray):  # what lies on a device is not worth a wait
            with self._lock:
                self._values.extend(samples[-self.max_recent :].tolist())
        if (listener := self._listener) is None:
            self._leave_out(samples is None)
            return

        def tell() -> None:  # a result may raise wherever it is asked
            is_scalar = error is None and not isinstance(result, list | tuple) and np.ndim(result) == 0
            self._leave_out(listener(Call(self.name, samples, error, is_scalar, raised is not None, *given)) is False)

        _, failure = attempt(tell)
        if failure is not None:
            self._tell(f"monitor {type(failure).__name__}", f"A result of {self.name} could not be recorded", failure)

    def _leave_out(self, is_left_out: bool) -> None:
        with self._lock:
            self.left_out_count += is_left_out

    def _note_given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "_Given":
        completions, is_named = self._completions(args, kwargs)
        key, _ = (0, None) if self._listener is None else attempt(lambda: round_key(completions, kwargs))
        return _Given(completions, is_named, kwargs, key or 0)

    def _completions(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, bool]:
        """Return the completions of a call, and whether they were named so."""
        if not args or "completions" in kwargs:
            return kwargs.get("completions"), "completions" in kwargs
        given, _ = attempt(lambda: inspect.signature(self._reward_fn).bind_partial(*args, **kwargs).arguments)
        bound = given or {}
        if "completions" in bound:
            return bound["completions"], True
        return next((value for name, value in bound.items() if "prompt" not in name), args[0]), False

    def _tell(self, what: str, message: str, error: BaseException | None = None) -> None:
        with self._lock:
            is_new = what not in self._told
            self._told.add(what)
        if is_new:
            _logger.warning("%s", message if error is None else f"{message}: {in_words(error)}")


def _mark_as_coroutine_function(wrapper: Any) -> None:
    """Let a trainer see that calls have to be awaited; in Python 3.11 only asyncio can see it."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(wrapper)
    else:
        wrapper._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
