"""What the owner of a W&B run defines for its keys: noted from the moment that a sink is made, since W&B does not tell.

W&B merges what several calls define for one name. A key without a definition gets that of a pattern that fits when it
is logged first; where several fit, W&B takes any, most often the first. A definition of ours stands in the way of that,
so when a key goes back to the owner, what they have called for the pattern is called again for the key.
"""

import functools
import inspect
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from tunrex_jax_monitor.host.guard import attempt

_logger = logging.getLogger("tunrex_jax_monitor")
_WATCHING = threading.RLock()  # a signal handler of the owner's may define as well
_NOTES = "_tunrex_jax_monitor"


class Definitions:
    """What others than us have defined for the keys of one run."""

    def __init__(self, run: Any, define: Callable[..., object]) -> None:
        self._misses_some, _ = attempt(lambda: bool(run._telemetry_obj.feature.metric))  # of before the first note
        self._run, self._define = weakref.ref(run), define  # the notes must not keep a run alive
        self._is_told = False
        self._calls: dict[str, list[dict[str, Any]]] = {}
        self._hear: Callable[[], Callable[[str], object] | None] = lambda: None

    @classmethod
    def of(cls, run: Any) -> "Definitions":
        """Return those of a run."""
        found: Definitions = watch_definitions(type(run))(run)
        return found

    def follow(self, hear: Callable[[str], object]) -> set[str]:
        """Call a method with each name before it is defined; return the keys that have been until now."""
        self._hear = weakref.WeakMethod(hear)
        return {name for name in self._calls if not name.endswith("*")}

    def announce(self, name: str) -> None:
        """Tell who follows that a name is about to be defined."""
        if (hear := self._hear()) is not None:
            hear(name)

    def note(self, name: str, overwrite: bool | None = None, **given: Any) -> None:
        """Take in a call."""
        axis = given.get("step_metric")
        if axis is not None:
            given["step_metric"] = getattr(axis, "name", axis)  # a Metric holds its run
        self._calls[name] = [*([] if overwrite else self._calls.get(name, [])), given]

    def define(self, key: str, **given: Any) -> None:
        """Define a key of ours; that is not noted."""
        self._define(self._run(), key, **given)

    def give_back(self, key: str, *, by_pattern: bool) -> None:
        """Undo what we have defined for a key; `by_pattern` leaves it as a pattern of the owner's has it."""
        fitting = [calls for name, calls in self._calls.items() if name[-1] == "*" and key.startswith(name[:-1])]
        self.define(key, overwrite=True)
        for given in fitting[0] if by_pattern and fitting else ():
            self.define(key, **given)
        if by_pattern and self._misses_some and not self._is_told:
            self._is_told = True
            _logger.warning(
                "W&B: %r is the run's own from now on. What define_metric had said of it before the monitor was made "
                "could not be read, and holds no more. Make the monitor before define_metric, call define_metric(%r) "
                "again, or give the monitor a prefix of its own.",
                key,
                key,
            )


def watch_definitions(kind: Any) -> Callable[[Any], Definitions]:
    """Note from now on what is defined for runs of a class; return what gives the notes of a run."""
    name = "_define_metric" if hasattr(kind, "_define_metric") else "define_metric"  # that is behind the module's too
    with _WATCHING:
        define = getattr(kind, name)
        if not hasattr(define, _NOTES):
            define = _noting(define)
            setattr(kind, name, define)
    notes_of: Callable[[Any], Definitions] = getattr(define, _NOTES)
    return notes_of


def _noting(define: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method with notes of what it is called with."""
    notes: weakref.WeakKeyDictionary[Any, Definitions] = weakref.WeakKeyDictionary()
    signature = inspect.signature(define)

    def notes_of(run: Any) -> Definitions:
        with _WATCHING:
            if run not in notes:
                notes[run] = Definitions(run, define)
            return notes[run]

    @functools.wraps(define)
    def define_and_note(run: Any, *args: Any, **kwargs: Any) -> Any:
        bound, _ = attempt(lambda: signature.bind(run, *args, **kwargs))
        given = {} if bound is None else {key: value for key, value in bound.arguments.items() if key != "self"}
        attempt(lambda: notes_of(run).announce(given["name"]))
        result = define(run, *args, **kwargs)
        attempt(lambda: notes_of(run).note(**given))
        return result

    setattr(define_and_note, _NOTES, notes_of)
    return define_and_note
