"""Pending: the steps that no emission has taken yet, whatever interrupts the calls that bring them.

An owner's signal handler may raise between any two lines of `Reporter.step`, or call the reporter itself, and other
threads flush. So a call is put into a queue first of all, and looking at the queue changes nothing in it: whoever looks
finds every step, once. A call leaves it behind the emission that it was in.
"""

import itertools
import logging
import operator
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

import jax

from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import transfer
from tunrex_jax_monitor.host.guard import attempt

_logger = logging.getLogger("tunrex_jax_monitor")
_ALLOWED = "the MonitorState that init() or update() of this accumulator returned"
_KNOWN = 8  # states that were emitted without a step between them


@dataclass(eq=False, slots=True)
class _Call:
    """One call of `Reporter.step`."""

    number: int
    step: Any
    state: MonitorState | None  # until there is a newer one


class _Begin(NamedTuple):
    """Where an interval begins."""

    number: int = -1  # of the last call before it
    state: MonitorState | None = None
    last: Any = None  # the owner's step then
    key: object = None
    emitted: Mapping[int, object] = MappingProxyType({})  # `fields`, by `id`, of the states that have been emitted


class Interval(NamedTuple):
    """What the next emission is of."""

    key: object  # one object for each interval, however often it is read
    held: list[Any]  # the owner's steps since the last emission
    state: MonitorState | None
    number: int  # of the newest call in it
    last: Any  # the owner's newest step, an emitted one too

    @property
    def length(self) -> int:
        """How many steps there are."""
        return len(self.held)

    @property
    def steps(self) -> list[Any]:
        """The owner's steps; without one since the last emission, the newest."""
        return self.held or ([] if self.last is None else [self.last])

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
        self._calls: deque[_Call] = deque()
        self._numbers = itertools.count()
        self._begin = _Begin(key=object())
        self._newest: _Call | None = None
        self._final: tuple[int, MonitorState | None] | None = None  # what close was given, behind which call
        self._emitted = self.read()
        self.seconds = 0.0
        self._is_told = False

    def add(self, step: Any, state: MonitorState) -> int:
        """Take a step and the state after it; behind the first line no interruption loses them.

        Returns:
          The number of the call.
        """
        self._calls.append(call := _Call(next(self._numbers), step, state))
        start = time.perf_counter()
        if not is_concrete(state):
            self._drop(call)
            self._tell(state)
            return call.number
        call.step = transfer.hold(step)
        before, self._newest = self._newest, call
        if before is not None:
            before.state = None  # the newest is enough, and they are large
        while self._calls and (first := self._calls[0]).number <= self._begin.number:
            self._drop(first)
        self.seconds += time.perf_counter() - start
        return call.number

    def is_due(self, number: int, every: int) -> bool:
        """Say whether `every` steps have come since the last emission, when call `number` has just been added."""
        return len(self._calls) >= every and number > self._begin.number

    def current(self, given: MonitorState) -> MonitorState:
        """Return the state to go on with: given, or what is left of it where its interval has been emitted."""
        begin, current = self._begin, given
        if (after := begin.state) is not None and _is_state(given) and id(given.fields) in begin.emitted:
            current = after if _differ_in_fields(given, after) else given
        # Where it returns this is one line without a call, so no handler runs in it.
        return current if begin is self._begin else self.current(given)

    def forget_calls(self) -> None:
        """Leave out what has been added."""
        self._calls.clear()

    def read(self) -> Interval:
        """Return the interval, with all that has been added."""
        begin, final = self._begin, self._final
        calls = [call for call in list(self._calls) if call.number > begin.number and _counts(call)]
        number, last = (calls[-1].number, calls[-1].step) if calls else (begin.number, begin.last)
        states = (call.state for call in reversed(calls) if call.state is not None)
        state = final[1] if final is not None and final[0] == number else next(states, begin.state)
        return Interval(begin.key, [call.step for call in calls], state, number, last)

    def note_emitted(self, interval: Interval) -> None:
        """Take note of an emission: the next interval begins behind it, once its state has been handed over."""
        self._emitted = interval

    def begin(self, state: MonitorState, emitted: MonitorState) -> None:
        """Begin an interval behind an emission, with the state that it left.

        Who is interrupted here goes on with the state before it, so only the last line may change anything.
        """
        before = self._begin
        known: list[object] = [emitted.fields]  # which are small, and tell a state from every other
        if before.state is not None and self.current(emitted) is before.state:  # nothing came between the two
            known = [*before.emitted.values(), before.state.fields][-_KNOWN:]
        by_id = {id(fields): fields for fields in known}
        self._begin = _Begin(self._emitted.number, state, self._emitted.last, object(), by_id)

    def _drop(self, call: _Call) -> None:
        attempt(partial(self._calls.remove, call))  # or somebody else has

    def _tell(self, state: object) -> None:
        if not self._is_told:
            self._is_told = True
            _logger.warning(
                "state: Reporter.step got a %s, allowed: %s. Write mon = reporter.step(step, mon), outside of jit; the "
                "step is left out.",
                "traced MonitorState" if _is_state(state) else type(state).__name__,
                _ALLOWED,
            )

    def keep_final(self, given: MonitorState | None) -> None:
        """Keep the owner's last state, if any: a close that was interrupted may be called again without it.

        Raises:
          ValueError: it is no state.
        """
        if given is None:
            return
        if not is_concrete(given):
            raise invalid("state", type(given).__name__, _ALLOWED, "Pass what Reporter.step returned last.")
        self._final = self.read().number, given

    def take_final(self, is_pushed: bool, *, is_told: bool) -> MonitorState | None:
        """Return the state to emit at the end.

        Args:
          is_pushed: emissions came by callback or as rows, so a state has to be given.
          is_told: why there is no state is known.
        """
        pending = self.read()
        if pending.state is None and is_pushed:
            _logger.warning(
                "The reporter is closed without the last monitor state: the steps since the last emission and the "
                "run quantiles are missing. Call close(state) when a loop emits by callback or by write_rows."
            )
        if not pending.is_deleted:
            return pending.state
        if not is_told:
            _logger.warning(
                "The last monitor state never came to Reporter.step: the loop was interrupted, does not go on with the "
                "state that step returns, or does not call it behind each update. The steps since the last emission "
                "and the run quantiles are missing; close(state) takes them from the last state."
            )
        return None


def _counts(call: _Call) -> bool:
    return call.state is None or is_concrete(call.state)  # else it is about to be left out


def is_concrete(state: object) -> TypeGuard[MonitorState]:
    """Tell whether this is a state whose numbers are there, or will be: no tracer."""
    return _is_state(state) and not isinstance(state.fields, jax.core.Tracer)


def _is_state(state: object) -> TypeGuard[MonitorState]:
    return issubclass(type(state), MonitorState)  # `isinstance` asks the object itself, which may raise


def _differ_in_fields(emitted: MonitorState, after: MonitorState) -> bool:
    """Tell whether one state is what an emission has left of another: all but the first leaf are the same arrays.

    Arrays of numpy tell nothing, since an owner may write the next state into them.
    """
    if is_deleted(after) or not isinstance(emitted.fields, jax.Array):
        return False
    return all(map(operator.is_, emitted[1:], after[1:]))


def is_deleted(state: MonitorState) -> bool:
    """Tell whether a later step has taken the state's memory; raises for what is no state."""
    return any(leaf.is_deleted() for leaf in state if isinstance(leaf, jax.Array))


def require_kept(state: MonitorState) -> None:
    """Raise a ValueError for a state whose memory a later step has taken."""
    if is_deleted(state):
        remedy = "Go on with what it returned: params, mon = train_step(params, mon); mon = reporter.step(step, mon)."
        raise invalid("state", "a state whose memory a later step has taken (donated)", "the newest one", remedy)
