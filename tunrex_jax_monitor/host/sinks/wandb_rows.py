"""Rows on a W&B run that somebody else opened: none of the owner's is lost, and none of ours.

W&B drops a row whose step lies behind the run's own counter, and every committed row moves that counter. So a row of
ours joins the owner's (`commit=False`, no `step=`). Where the owner has logged nothing since our last row, the next
would overwrite it: it is held, and logged when the run ends, since nothing of the owner's can come behind it then. The
x axis of our keys is our own, so the order of rows does not matter.

In a joined row a key of ours would replace one of that name, so we look at what the owner logs: from the moment that a
key is theirs, ours has another name.
"""

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
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
        self._counters: dict[str, int] = {}  # of the run, at the last row of each prefix
        self._lost, self._is_told = 0, False
        self._pid = os.getpid()
        self._watch_keys()
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

    def key(self, own: str) -> str:
        """Return what a key is called: aside where the run's owner logs one of that name."""
        return _ASIDE + own if own in self._taken else own

    def log(self, row: Mapping[str, Any], commit: bool | None = None) -> None:
        """Log a row of ours."""
        self._ours.is_logging = True
        try:
            self._run.log(dict(row), commit=commit)
        finally:
            self._ours.is_logging = False

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
        self._run.summary.update(numbers)
        if waiting >= _TOLD_AT and not self._is_told:
            self._is_told = True
            _logger.warning(
                "W&B: this run is logged to less often than the monitor emits, so %d rows wait for its end; the run "
                "summary shows the newest. Where nobody else logs, commit=True (wandb_commit=True) shows them at once.",
                waiting,
            )

    def _watch_keys(self) -> None:
        name = "_log" if hasattr(self._run, "_log") else "log"  # the first is behind `wandb.log` as well
        log = getattr(self._run, name)

        def note_and_log(*args: Any, **kwargs: Any) -> Any:
            if not getattr(self._ours, "is_logging", False):
                attempt(lambda: self._note(*args, **kwargs))
            return log(*args, **kwargs)

        setattr(self._run, name, note_and_log)

    def _note(self, data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        if not data.keys() <= self._taken:
            with self.lock:  # a row of ours that may have one of them goes first
                self._taken |= data.keys()

    def _watch_end(self) -> None:
        name = _finish_of(self._run)
        finish = getattr(self._run, name)

        def release_and_finish(*args: Any, **kwargs: Any) -> Any:
            attempt(self._let_out)
            return finish(*args, **kwargs)

        setattr(release_and_finish, _ATTRIBUTE, self)  # a run takes no attribute of ours
        setattr(self._run, name, release_and_finish)
        atexit.register(lambda: attempt(self._let_out))

    def _let_out(self) -> None:
        """Log what is held; the summary then says the newest again."""
        if os.getpid() != self._pid:  # the rows are the parent's
            return
        with self.lock:
            if not self._held:
                return
            self.log({}, commit=True)  # what has joined a row stays there
            while self._held:
                self.log(self._rename(self._held.popleft()))
            self._run.summary.update(self._rename(self._newest))
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
