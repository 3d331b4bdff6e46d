"""Rows on a W&B run that somebody else opened: none of the owner's is lost, and none of ours.

W&B drops a row whose step lies behind the run's own counter, and every committed row moves that counter. So a row of
ours joins the owner's (`commit=False`, no `step=`). Where the owner has logged nothing since our last row, the next
would overwrite it: it is held, and logged when the run ends, since nothing of the owner's can come behind it then. The
x axis of our keys is our own, so the order of rows does not matter.

In a joined row a key of ours would replace one of that name, so we look at what the owner logs, defines and puts into
the summary: from the moment that a key is theirs, ours has another name. What the owner has put into the row that is
open when we come cannot be seen, so our first row waits for their next one, when the summary tells.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.sinks.wandb_definitions import Definitions
from tunrex_jax_monitor.host.sinks.wandb_end import call_at_the_end

_logger = logging.getLogger("tunrex_jax_monitor")
_HELD = 10_000  # rows; each is some kB
_TOLD_AT = 20
_ATTRIBUTE = "_tunrex_jax_monitor"
_MAKING = threading.Lock()
_PATIENCE_SECONDS = 2.0  # that the owner waits for a call of ours to W&B's service, once
SECTION = "tunrex_jax_monitor"  # of ours in a run's configuration
_ASIDE = "monitor/"  # before a key that is the owner's as well


class SharedRun:
    """What all our sinks know of one run.

    Attributes:
      prefixes: of the sinks that log there now.
    """

    def __init__(self, run: Any) -> None:
        self.prefixes: list[str] = []
        self._run = run
        self._lock = threading.RLock()  # held from the choice of a key to the row that it is logged in
        self._ours = threading.local()
        self._is_resumed = section_of(run) in run.config
        self._taken = self._keys_of_owner()
        self._definitions, self._defined = Definitions.of(run), dict[str, str]()  # our keys, with their x axis
        self._shown: dict[str, Any] = {}  # what the summary has of us before we begin
        self._open: tuple[int, set[str]] = run.step, set()  # the run's counter, and our keys in the row that is open
        self._held: deque[tuple[dict[str, Any], str]] = deque(maxlen=_HELD)
        self._newest: dict[str, Any] = {}
        self._summary_of_owner: dict[str, Any] = {}  # under keys that are in the row that is open, as ours
        self._lost, self._pid = 0, os.getpid()
        self._has_begun = self._is_told = self._hangs = False
        self._taken |= self._definitions.follow(self._note_definition)
        self._watch_log()
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
        if own != prefix:
            message = "W&B: another monitor logs to this run, so the keys of this one begin with %r."
            _logger.warning(message + " Pass a prefix of your own.", own)
        return own

    def release(self, prefix: str) -> None:
        """Leave the prefix to others."""
        if prefix in self.prefixes:
            self.prefixes.remove(prefix)

    def log(self, row: Mapping[str, Any], axis: str, *, commit: bool = True) -> None:
        """Log a row of ours; `axis` is the key of its x axis."""
        with self._lock:
            named = self._named(row, axis)
            earlier, counter = self._keys_of_open_row(), self._open[0]
            with self._as_ours():
                self._run.log(named, commit=commit)
            now = self._run.step  # the owner may have closed a row meanwhile, before ours came or behind it
            self._open = now, set() if commit else {*named, *(earlier if now == counter else ())}

    def join(self, row: Mapping[str, Any], axis: str) -> None:
        """Log a row together with the owner's, or at the end."""
        numbers = {key: value for key, value in row.items() if isinstance(value, float | int)}
        with self._lock:
            self._newest |= numbers
            is_free = self._has_begun or self._run.step != self._open[0]
            if is_free and self._keys_of_open_row().isdisjoint(map(self._key, row)):
                self.log(row, axis, commit=False)
                return
            self._lost += len(self._held) == _HELD
            self._held.append((dict(row), axis))
            waiting = len(self._held)
            self.summarize(numbers)
        if waiting >= _TOLD_AT and not self._is_told:
            self._is_told = True
            _logger.warning(
                "W&B: this run is logged to less often than the monitor emits, so %d rows wait for its end; the run "
                "summary shows the newest. Where nobody else logs, commit=True (wandb_commit=True) shows them at once.",
                waiting,
            )

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Put values into the run's summary."""
        with self._lock, self._as_ours():
            named = {self._key(key): value for key, value in values.items()}
            self._run.summary.update(named)
            if not self._has_begun:
                self._shown |= named

    def _key(self, own: str) -> str:
        """Return what a key is called: aside where the run's owner has one of that name."""
        while own in self._taken:
            own = _ASIDE + own
        return own

    def _keys_of_open_row(self) -> set[str]:
        """Return our keys in the row that is open; where the owner has closed one, there are none."""
        counter, keys = self._open
        if counter == self._run.step:
            return keys
        if self._summary_of_owner:
            with self._as_ours():
                self._run.summary.update(self._summary_of_owner)
            self._summary_of_owner = {}
        return set()

    def _named(self, row: Mapping[str, Any], axis: str) -> dict[str, Any]:
        """Return a row under the keys that it gets, each defined with our own x axis.

        Key by key, since a pattern would catch the owner's keys as well.
        """
        if not self._has_begun:
            self._begin()
        names = {key: self._key(key) for key in row}
        new = [key for key, name in names.items() if name not in self._defined]
        if moved := sorted(names[key] for key in new if names[key] != key):
            message = "W&B: the run has keys of its own that the monitor uses too; ours are %s."
            _logger.warning(message + " A prefix keeps all apart.", ", ".join(moved))
        for key in new:
            self._defined[names[key]] = self._key(axis)
            self._definitions.define(names[key], step_metric=None if key == axis else self._key(axis))
        return {names[key]: value for key, value in row.items()}

    def _begin(self) -> None:
        """Learn which keys were in the row that was open at first: by now, the summary has their values."""
        self._has_begun = True
        summary = dict(self._run.summary)
        self._taken |= {key for key in self._keys_of_owner() if self._shown.get(key) != summary.get(key)}
        self._shown = {}

    def _keys_of_owner(self) -> set[str]:
        """Return the keys in the summary that are not ours; of a run that goes on, those that ours gave way to."""
        keys = set(self._run.summary.keys())
        return {key for key in keys if _ASIDE + key in keys} if self._is_resumed else keys

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        """Tell what this thread does meanwhile from what the owner does."""
        before, self._ours.is_active = getattr(self._ours, "is_active", False), True
        try:
            yield
        finally:
            self._ours.is_active = before

    def _watch_log(self) -> None:
        """See what the owner logs, before it happens."""
        name = "_log" if hasattr(self._run, "_log") else "log"  # the first is behind `wandb.log` as well
        log = getattr(self._run, name)

        def note_and_log(*args: Any, **kwargs: Any) -> Any:
            if not getattr(self._ours, "is_active", False):
                attempt(lambda: self._note(*args, **kwargs))
            return log(*args, **kwargs)

        setattr(self._run, name, note_and_log)

    def _note(self, data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        """Take in what the owner logs."""
        if data.keys() <= self._taken and not self._summary_of_owner:
            return
        with self._turn_of_owner() as may:  # a row of ours that may have one of them goes first
            for key in data.keys() & self._summary_of_owner.keys():
                del self._summary_of_owner[key]  # what is logged last counts
            for key in data.keys() - self._taken if may else ():
                self._give_way(key)

    @contextmanager
    def _turn_of_owner(self) -> Iterator[bool]:
        """Hold the lock for the owner; False where a call of ours hangs with it: that must not stop training."""
        is_held = self._lock.acquire(timeout=0.0 if self._hangs else _PATIENCE_SECONDS)
        self._hangs = not is_held
        try:
            yield is_held
        finally:
            if is_held:
                self._lock.release()

    def _note_definition(self, name: str) -> None:
        """Leave a key to the owner, who is about to define it."""
        if not name.endswith("*"):
            with self._turn_of_owner():
                self._give_way(name, is_defined=True)

    def _give_way(self, key: str, *, is_defined: bool = False) -> None:
        """Leave a key to the owner; what we have defined of it goes, or W&B would write our step into their rows."""
        is_ours = key in self._defined and key not in self._taken
        self._taken.add(key)
        if is_ours:
            self._definitions.give_back(key, by_pattern=not is_defined)
            self._defined = {name: axis for name, axis in self._defined.items() if axis != key}  # defined once more

    def _watch_summary(self) -> None:
        """See what the owner puts into the summary: a row of ours would replace it there."""
        summary = self._run.summary
        if (call := getattr(summary, "_update_callback", None)) is None:
            return

        def call_and_note(record: Any) -> Any:
            result = call(record)
            if not getattr(self._ours, "is_active", False):
                attempt(lambda: self._note_summary({item.key: item.value for item in record.update}))
            return result

        summary._set_update_callback(call_and_note)

    def _note_summary(self, values: Mapping[tuple[str, ...], Any]) -> None:
        """Take in what the owner puts there, by path; nothing is asked of W&B here, which may hang."""
        with self._turn_of_owner() as may:
            for path, value in values.items() if may else ():
                if path[0] in self._open[1] and len(path) == 1:  # where that row is closed by now, it does no harm
                    self._summary_of_owner[path[0]] = value
                if path[0] not in self._taken:
                    self._give_way(path[0])

    def _watch_end(self) -> None:
        name = _finish_of(self._run)
        finish = getattr(self._run, name)

        def release_and_finish(*args: Any, **kwargs: Any) -> Any:
            attempt(self._let_out)
            return finish(*args, **kwargs)

        setattr(release_and_finish, _ATTRIBUTE, self)  # a run takes no attribute of ours
        setattr(self._run, name, release_and_finish)
        call_at_the_end(self._let_out)

    def _let_out(self) -> None:
        """Log what is held; the summary then says the newest again."""
        if os.getpid() != self._pid:  # the rows are the parent's
            return
        with self._lock:
            if not self._held and not self._summary_of_owner:
                return
            with self._as_ours():
                self._run.log({}, commit=True)  # what has joined a row stays there
            self._keys_of_open_row()
            while self._held:
                self.log(*self._held.popleft())
            self.summarize(self._newest)
            if self._lost:
                _logger.warning("W&B: the oldest %d of the rows that waited for the end were given up.", self._lost)


def section_of(run: Any) -> str:
    """Return the key of our section in a run's configuration: another where the owner has one of that name."""
    found = run.config.get(SECTION)
    is_owners = found is not None and not (isinstance(found, Mapping) and "reward_names" in found)
    return f"{SECTION}_2" if is_owners else SECTION


def _finish_of(run: Any) -> str:
    return "_finish" if hasattr(run, "_finish") else "finish"  # the first is behind `with` as well
