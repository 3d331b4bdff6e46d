"""Pending: the steps that no emission has taken yet, whatever interrupts the calls that bring them.

An owner's signal handler may raise between any two lines of `Reporter.step`. So a call is put into a queue first of
all, and what is pending is one value, replaced as a whole: whoever looks later finds every step, once.
"""

import itertools
import logging
from collections import deque
from typing import Any, NamedTuple

import jax

from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import transfer

_logger = logging.getLogger("tunrex_jax_monitor")


class Interval(NamedTuple):
    """What the next emission is of."""

    key: list[Any]  # the owner's steps since the last emission, with one too many after an interruption
    length: int = 0  # how many of them count
    state: MonitorState | None = None
    call: int = -1  # the number of the newest call in it
    last: Any = None  # the owner's newest step, an emitted one too

    @property
    def steps(self) -> list[Any]:
        """The owner's steps; without one since the last emission, the newest."""
        return self.key[: self.length] or ([] if self.last is None else [self.last])

    @property
    def is_deleted(self) -> bool:
        """Whether a later step has taken the state's memory."""
        return self.state is not None and is_deleted(self.state)


class Pending:
    """The interval that is going on.

    Attributes:
      seconds: that `Reporter.step` has taken in it.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[int, Any, MonitorState]] = deque()
        self._numbers = itertools.count()
        self._interval = Interval([])
        self.seconds = 0.0
        self._is_told = False

    def add(self, step: Any, state: MonitorState) -> None:
        """Take a step and the state after it; behind this line no interruption loses them."""
        self._calls.append((next(self._numbers), step, state))

    @property
    def length(self) -> int:
        """How many steps there are since the last emission."""
        return self._interval.length + len(self._calls)

    def forget_calls(self) -> None:
        """Leave out what has been added and not been read."""
        self._calls.clear()

    def read(self) -> Interval:
        """Return the interval, with all that has been added."""
        while self._calls:
            call, step, state = self._calls[0]
            if not is_concrete(state):
                self._tell(state)
            elif call > self._interval.call:
                key, length, *_ = self._interval
                key[length:] = [transfer.hold(step)]
                self._interval = Interval(key, length + 1, state, call, key[length])
            self._calls.popleft()
        return self._interval

    def _tell(self, state: object) -> None:
        if not self._is_told:
            self._is_told = True
            _logger.warning(
                "state: Reporter.step got a %s, allowed: the MonitorState that init() or update() of this accumulator "
                "returned. Write mon = reporter.step(step, mon), outside of jit; the step is left out.",
                "traced MonitorState" if isinstance(state, MonitorState) else type(state).__name__,
            )

    def take_final(self, given: MonitorState | None, is_pushed: bool, *, is_told: bool) -> MonitorState | None:
        """Return the state to emit at the end; a close that was interrupted may be called again, and finds it.

        Args:
          given: the owner's last state, or None.
          is_pushed: emissions came by callback or as rows, so a state has to be given.
          is_told: why there is no state is known.
        """
        state = self.read().state if given is None else given
        is_gone = state is not None and is_deleted(state)
        self._interval = self._interval._replace(state=state)
        if state is None and is_pushed:
            _logger.warning(
                "The reporter is closed without the last monitor state: the steps since the last emission and the "
                "run quantiles are missing. Call close(state) when a loop emits by callback or by write_rows."
            )
        if not is_gone:
            return state
        if not is_told:
            _logger.warning(
                "The last monitor state never came to Reporter.step: the loop was interrupted, does not go on with the "
                "state that step returns, or does not call it behind each update. The steps since the last emission "
                "and the run quantiles are missing; close(state) takes them from the last state."
            )
        return None

    def begin(self, state: MonitorState) -> None:
        """Begin an interval behind an emission, with the state that it left."""
        self._interval = self._interval._replace(key=[], length=0, state=state)
        self.seconds = 0.0


def is_concrete(state: object) -> bool:
    """Tell whether this is a state whose numbers are there, or will be: no tracer."""
    return isinstance(state, MonitorState) and not isinstance(state.fields, jax.core.Tracer)


def is_deleted(state: MonitorState) -> bool:
    """Tell whether a later step has taken the state's memory; raises for what is no state."""
    return any(leaf.is_deleted() for leaf in state if isinstance(leaf, jax.Array))
