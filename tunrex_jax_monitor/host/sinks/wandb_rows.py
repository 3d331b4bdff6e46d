"""Rows on a W&B run that somebody else opened: none of the owner's is lost, and none of ours.

W&B drops a row whose step lies behind the run's own counter, and every committed row moves that counter. So a row of
ours joins the owner's (`commit=False`, no `step=`). Where the owner has logged nothing since our last row, the next
would overwrite it: it is held, and logged when the run ends, since nothing of the owner's can come behind it then. The
x axis of our keys is our own, so the order of rows does not matter.

In a joined row a key of ours would replace one of that name, so we look at what the owner logs, defines and puts into
the summary: from the moment that a key is theirs, ours has another name. What the owner has put into the row that is
open when we begin cannot be seen, so our first row waits for their next one.
"""

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunrex_jax_monitor.host.guard import attempt

_logger = logging.getLogger("tunrex_jax_monitor")
_HELD = 10_000  # rows; each is some kB
_TOLD_AT = 20
_ATTRIBUTE = "_tunrex_jax_monitor"
_MAKING = threading.Lock()
_MARK = "tunrex_jax_monitor"  # in the configuration of a run that we have logged to
_ASIDE = "monitor/"  # before a key that is the owner's as well


class SharedRun:
    """What all our sinks know of one run.

    Attributes:
      prefixes: of the sinks that log there now.
      lock: held from the choice of a key to the row that it is logged in.
    """

    def __init__(self, run: Any) -> None:
        self.prefixes: list[str] = []
        self.lock = threading.RLock()
        self._run = run
        self._taken = _keys_of_owner(run)
        self._ours = threading.local()
        self._held: deque[dict[str, Any]] = deque(maxlen=_HELD)
        self._newest: dict[str, Any] = {}
        self._summary_of_owner: dict[str, Any] = {}  # under keys that were ours: a row that is open yet may have them
        self._counters: dict[str, int] = {}  # of the run, at the last row of each prefix
        self._lost, self._is_told = 0, False
        self._pid = os.getpid()
        self._defined: set[str] = set()
        self._watch("log", self._note)
        self._watch("define_metric", self._note_definition)
        self._watch_summary()
        self._watch_end()

    @classmethod
    def of(cls, run: Any) -> "SharedRun":
        """Return the one of a run; it is made when first asked for."""
        with _MAKING:  # each sink has a thread of its own
            found: SharedRun | None = getattr(getattr(run, _finish_of(run)), _ATTRIBUTE, None)
            return cls(run) if found is None else found

    def claim(self, prefix: str) -> str:
        """Return a prefix that no other sink uses, for as long as this one logs; a change is told."""
        number, own = 1, prefix
        while own in self.prefixes:
            number += 1
            own = f"{prefix}monitor_{number}/"
        self.prefixes.append(own)
        self._counters[own] = self._run.step
        if own != prefix:
            message = "W&B: another monitor logs to this run, so the keys of this one begin with %r."
            _logger.warning(message + " Pass a prefix of your own.", own)
        return own

    def release(self, prefix: str) -> None:
        """Leave the prefix to others."""
        if prefix in self.prefixes:
            self.prefixes.remove(prefix)

    def key(self, own: str) -> str:
        """Return what a key is called: aside where the run's owner logs one of that name."""
        return _ASIDE + own if own in self._taken else own

    def log(self, row: Mapping[str, Any], commit: bool | None = None) -> None:
        """Log a row of ours."""
        with self._as_ours():
            self._run.log(dict(row), commit=commit)

    def define(self, key: str, axis: str) -> None:
        """Give a key of ours its x axis."""
        self._defined.add(key)
        with self._as_ours():
            self._run.define_metric(key, step_metric=None if key == axis else axis)

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Put values into the run's summary."""
        with self.lock, self._as_ours():
            self._run.summary.update(self._rename(values))

    def join(self, row: Mapping[str, Any], prefix: str) -> None:
        """Log a row, now or at the end: values by key, all with this prefix."""
        numbers = {key: value for key, value in row.items() if isinstance(value, float | int)}
        self._newest |= numbers
        if self._run.step != self._counters.get(prefix):
            self.log(row, commit=False)
            self._counters[prefix] = self._run.step
            return
        with self.lock:
            self._lost += len(self._held) == _HELD
            self._held.append(dict(row))
            waiting = len(self._held)
        self.summarize(numbers)
        if waiting >= _TOLD_AT and not self._is_told:
            self._is_told = True
            _logger.warning(
                "W&B: this run is logged to less often than the monitor emits, so %d rows wait for its end; the run "
                "summary shows the newest. Where nobody else logs, commit=True (wandb_commit=True) shows them at once.",
                waiting,
            )

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        """Tell what this thread does meanwhile from what the owner does."""
        self._ours.is_active = True
        try:
            yield
        finally:
            self._ours.is_active = False

    def _watch(self, name: str, note: Callable[..., object]) -> None:
        """Let `note` see what the owner calls, before it happens."""
        name = f"_{name}" if hasattr(self._run, f"_{name}") else name  # that is behind `wandb.log` as well
        call = getattr(self._run, name)

        def note_and_call(*args: Any, **kwargs: Any) -> Any:
            if not getattr(self._ours, "is_active", False):
                attempt(lambda: note(*args, **kwargs))
            return call(*args, **kwargs)

        setattr(self._run, name, note_and_call)

    def _note(self, data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for key in data.keys() & self._summary_of_owner.keys():
            del self._summary_of_owner[key]  # what is logged last counts
        if data.keys() <= self._taken:
            return
        with self.lock:  # a row of ours that may have one of them goes first
            new = data.keys() - self._taken
            self._taken |= new
            for key in new & self._defined:  # or W&B would write our step into their rows
                with self._as_ours():
                    self._run.define_metric(key, overwrite=True)

    def _note_summary(self, values: Mapping[str, Any]) -> None:
        self._note(values)
        self._summary_of_owner |= {key: value for key, value in values.items() if key in self._defined}

    def _note_definition(self, name: str, *_: Any, **__: Any) -> None:
        with self.lock:
            self._taken.add(name)

    def _watch_summary(self) -> None:
        """See what the owner puts into the summary: a row of ours would replace it there."""
        summary = self._run.summary
        call = getattr(summary, "_update_callback", None)
        if call is None:
            return

        def note_and_call(record: Any) -> Any:
            if not getattr(self._ours, "is_active", False):
                attempt(lambda: self._note_summary({item.key[0]: item.value for item in record.update}))
            return call(record)

        summary._set_update_callback(note_and_call)

    def _watch_end(self) -> None:
        name = _finish_of(self._run)
        finish = getattr(self._run, name)

        def release_and_finish(*args: Any, **kwargs: Any) -> Any:
            attempt(self._let_out)
            return finish(*args, **kwargs)

        setattr(release_and_finish, _ATTRIBUTE, self)  # a run takes no attribute of ours
        setattr(self._run, name, release_and_finish)
        _before_the_end(lambda: attempt(self._let_out))

    def _let_out(self) -> None:
        """Log what is held; the summary then says the newest again."""
        if os.getpid() != self._pid:  # the rows are the parent's
            return
        with self.lock:
            if not self._held and not self._summary_of_owner:
                return
            self.log({}, commit=True)  # what has joined a row stays there
            while self._held:
                self.log(self._rename(self._held.popleft()))
            self.summarize(self._newest)
            with self._as_ours():
                self._run.summary.update(self._summary_of_owner)
            if self._lost:
                _logger.warning("W&B: the oldest %d of the rows that waited for the end were given up.", self._lost)

    def _rename(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Give keys that have become the owner's since another name."""
        return {self.key(key): value for key, value in row.items()}


def _keys_of_owner(run: Any) -> set[str]:
    """Return the keys of a run that are not ours; where we have logged to it before, those that ours gave way to."""
    keys = set(run.summary.keys())
    return keys if _MARK not in run.config else {key for key in keys if _ASIDE + key in keys}


def _finish_of(run: Any) -> str:
    return "_finish" if hasattr(run, "_finish") else "finish"  # the first is behind `with` as well


def _before_the_end(action: Callable[[], object]) -> None:
    """Do something when the process ends, behind what the owner does then, and before W&B ends."""
    import wandb

    service, _ = attempt(lambda: wandb.setup().ensure_service())
    if (teardown := getattr(service, "teardown", None)) is None:
        atexit.register(action)
        return

    def act_and_end(*args: Any, **kwargs: Any) -> Any:
        action()
        return teardown(*args, **kwargs)

    service.teardown = act_and_end  # type: ignore[method-assign, union-attr]
