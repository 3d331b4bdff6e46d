"""JsonlSink: a run directory on disk, the source of truth of a run.

Every record is one line, handed to the operating system before `write` returns, so a killed process loses at most the
record in hand. A write that fails (disk full) takes its part of a line back and leaves whole records only. The disk
itself is waited for once, in `close`. Reports and the command line read nothing else; see `host/rundir.py`.
"""

import contextlib
import logging
import operator
import os
import weakref
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, SupportsIndex

from tunrex_jax_monitor.host import resuming
from tunrex_jax_monitor.host.files import append, remove_parts, require_writable
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.rundir import MANIFEST, RECORDS, going_on, require_same_rewards, write_manifest

_logger = logging.getLogger("tunrex_jax_monitor")


class JsonlSink:
    """Writes `manifest.json` and `records.jsonl` into a directory.

    Construction makes the directory and checks that it takes files; what is in it is touched at the first write. A
    directory whose `records.jsonl` has a byte in it holds a run; a run that ended before its first record is none.

    Args:
      run_dir: a local or mounted directory; made, with its parents, where it does not exist.
      overwrite: True removes the run that the directory holds when this one begins. Other files stay.
      resume: True goes on with the run that the directory holds, if it holds one: steps up to the last logged one are
        not written again. A step goes back to it: what was logged beyond moves to `abandoned-<step>.jsonl`.

    Raises:
      FileExistsError: the directory holds a run, and neither `overwrite` nor `resume` is given, or another sink is
        writing it.
      ValueError: an argument is wrong, or the run to go on with has other rewards, or is damaged.
      OSError: the directory cannot be made or written (the subclass says why).
    """

    durable = True

    def __init__(
        self, run_dir: str | os.PathLike[str], *, overwrite: bool = False, resume: bool | SupportsIndex = False
    ) -> None:
        if not isinstance(overwrite, bool):
            remedy = "Leave it out to keep the run that is there."
            raise ValueError(f"overwrite: got {overwrite!r}, allowed: True or False. {remedy}")
        self.run_dir = _local_path(run_dir)
        self._overwrite = overwrite
        self._goes_on, self._back_to = _resume(resume, overwrite)
        self._last: Record | None = None  # of the resumed run, until this one is beyond it
        self._file: FileIO | None = None
        self._closed = self._told = False
        require_writable(self.run_dir)
        self._require_vacant()

    def begin_run(self, manifest: Mapping[str, Any]) -> None:
        """Open the run: write the manifest (`config`, `devices`, ...) beside versions, host and start time."""
        file = self._opened()
        try:
            remove_parts(self.run_dir, MANIFEST, RECORDS, "abandoned-*.jsonl")
            if self._goes_on:
                before = require_same_rewards(self.run_dir, manifest)
                if self._back_to is not None:
                    file = self._file = resuming.go_back(self.run_dir / RECORDS, file, self._back_to, self._lock)
                self._last = resuming.take_up(self.run_dir / RECORDS, file)
                if self._last is None and self._back_to:
                    message = "%s holds no run to go back in to step %d; a new one begins."
                    _logger.warning(message, self.run_dir, self._back_to)
                step = None if self._last is None else self._last.step
                manifest = going_on(before, manifest, step) if before else manifest
            write_manifest(self.run_dir, manifest)
        except BaseException:
            self.close()
            raise

    def write(self, record: Record) -> None:
        """Append the record as one line; without `begin_run` before it, begin a run that knows no configuration."""
        if self._file is None:
            self.begin_run({})
        file, new = self._opened(), self._new(record)
        if new is not None:
            self._require_there(file)
            append(file, new.to_json().encode() + b"\n")

    def _require_there(self, file: FileIO) -> None:
        path, own = self.run_dir / RECORDS, os.fstat(file.fileno())
        if not own.st_nlink or (path.exists() and not os.path.samestat(own, path.stat())):
            raise FileNotFoundError(
                f"run_dir: got '{self.run_dir}', whose {RECORDS} somebody has removed or replaced, allowed a directory "
                "that stays while the run is written. Copy a run before you remove it."
            )

    def _new(self, record: Record) -> Record | None:
        """Return what the resumed run has not logged yet of a record; None where that is nothing."""
        if self._last is None:
            return record
        new = resuming.beyond(record, self._last.step)
        if new is None and not self._told:
            self._told = True
            _logger.warning(
                "%s holds steps up to %d; steps that are computed again after the checkpoint are not written twice. To "
                "give up what was logged beyond a step and log anew from there, pass JsonlSink(run_dir, resume=step).",
                self.run_dir,
                self._last.step,
            )
        if new is not None:
            resuming.tell_seam(self.run_dir, self._last, new)
            self._last = None
        return new

    def close(self) -> None:
        """Wait until the disk has the records, then close the file. A second call does nothing."""
        self._closed = True
        file, self._file = self._file, None
        if file is not None:
            with file:
                os.fsync(file.fileno())
                _unlock(file)  # a forked child may hold the file open for long

    def _opened(self) -> FileIO:
        if self._closed:
            raise ValueError(
                f"JsonlSink: got a write after close, allowed one before. Make a new sink ({self.run_dir})."
            )
        if self._file is None:
            file = self._lock(open(self.run_dir / RECORDS, "ab", buffering=0))
            try:
                self._require_vacant()  # another writer may have come and gone since the first look
            except FileExistsError:
                file.close()
                raise
            if self._overwrite:
                (self.run_dir / MANIFEST).unlink(missing_ok=True)
                file.truncate(0)
            self._file = file
            _OPEN.add(self)
        return self._file

    def _let_go(self) -> None:
        """Close the file of the parent process in a child of a fork, which would keep it locked."""
        file, self._file, self._closed = self._file, None, True
        if file is not None:
            file.close()

    def _lock(self, file: FileIO) -> FileIO:
        """Hold the file while it is open, against this process too; where there are no locks, go without."""
        if os.name == "nt":
            return file
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise FileExistsError(
                f"run_dir: got '{self.run_dir}', which another reporter is writing, allowed a directory without one. "
                "Choose another directory, or close that reporter first."
            ) from error
        except OSError:
            pass
        return file

    def _require_vacant(self) -> None:
        records = self.run_dir / RECORDS
        if not self._overwrite and not self._goes_on and records.exists() and records.stat().st_size:
            raise FileExistsError(
                f"run_dir: got '{self.run_dir}', which holds a run, allowed a directory without one. "
                "Choose another directory, or pass sinks=[JsonlSink(run_dir, resume=True)] to go on with that run, "
                "or overwrite=True to lose it."
            )


def _resume(resume: Any, overwrite: bool) -> tuple[bool, int | None]:
    """Return whether to go on with a run, and which step to go back to, if any."""
    is_step = not isinstance(resume, bool) and hasattr(type(resume), "__index__") and operator.index(resume) >= 0
    if not isinstance(resume, bool) and not is_step:
        remedy = "True goes on behind the last logged step."
        raise ValueError(f"resume: got {resume!r}, allowed: True, False or a step from 0 on. {remedy}")
    if overwrite and resume is not False:
        remedy = "Leave one of them out."
        raise ValueError(f"resume: got {resume!r} with overwrite=True, allowed: one of the two. {remedy}")
    return resume is not False, operator.index(resume) if is_step else None


def _let_all_go() -> None:
    for sink in list(_OPEN):
        sink._let_go()


_OPEN: weakref.WeakSet[JsonlSink] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_all_go)


def _unlock(file: FileIO) -> None:
    if os.name != "nt":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _local_path(run_dir: str | os.PathLike[str]) -> Path:
    text = os.fspath(run_dir) if isinstance(run_dir, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"run_dir: got {run_dir!r}, allowed a str or a path. Pass for example 'runs/first'.")
    if not text or "://" in text:
        raise ValueError(
            f"run_dir: got {text!r}, allowed a local or mounted directory. "
            "Pass for example 'runs/first'; mount a bucket, or copy the directory there afterwards."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"run_dir: got {text!r} ({error}), allowed a home of somebody known. Write it out.") from error
