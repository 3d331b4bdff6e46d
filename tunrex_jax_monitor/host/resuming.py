"""Resuming: how a run that was stopped goes on in the directory it began in, with every step once.

A run restarts from a checkpoint, which is most often older than its last logged step, so it computes some steps again.
They stay as they were logged first. Who goes back for good, to try something else, names the step, and what was logged
beyond it moves to a file of its own. Nothing here needs JAX.
"""

import dataclasses
import logging
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from tunrex_jax_monitor.host.files import replacing
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.rundir import damaged

_BLOCK = 1 << 16
_logger = logging.getLogger("tunrex_jax_monitor")


def take_up(path: Path, file: FileIO) -> Record | None:
    """Make a run's records end with a whole line; return the last of them, or None.

    Args:
      path: of the records.
      file: the same, open for appending, and locked.

    Raises:
      ValueError: the last line is no record.
    """
    end = end_of_lines(path)
    if (torn := file.seek(0, os.SEEK_END) - end) > 0:
        _logger.warning("%s: took away a torn last line of %d bytes before going on", path, torn)
        file.truncate(end)
    return last_record(path, end)


def go_back(path: Path, file: FileIO, step: int, lock: Callable[[FileIO], FileIO]) -> FileIO:
    """Move what was logged beyond a step away; return the file to go on with, which has taken the other's place.

    What stays is written anew: a run that is killed meanwhile has all of its records, or those up to the step.

    Raises:
      ValueError: a line is no record.
    """
    end = end_of_lines(path)
    offset, following = split(path, step, end)
    if following is None:
        return file
    away, kept = move_away(path, offset, end, step), until(following, step)
    with replacing(path) as part:
        _copy(path, part, 0, offset, b"" if kept is None else kept.to_json().encode() + b"\n")
        new = lock(open(part, "ab", buffering=0))
    file.close()
    _logger.warning("%s: what was logged beyond step %d is in %s now", path, step, away.name)
    return new


def _copy(path: Path, target: Path, start: int, end: int, more: bytes = b"") -> None:
    """Copy what lies between the offsets, and more behind it; returns once the disk has it."""
    with path.open("rb") as source, target.open("wb") as copy:
        source.seek(start)
        for at in range(start, end, _BLOCK):
            copy.write(source.read(min(_BLOCK, end - at)))
        copy.write(more)
        copy.flush()
        os.fsync(copy.fileno())


def end_of_lines(path: Path) -> int:
    """Return the offset behind the last whole line; what follows was torn."""
    with path.open("rb") as file:
        at = file.seek(0, os.SEEK_END)
        return _newline_before(file, at) + 1


def last_record(path: Path, end: int) -> Record | None:
    """Return the last record before the offset `end`, or None where there is none.

    Raises:
      ValueError: the last line is no record.
    """
    if not end:
        return None
    with path.open("rb") as file:
        start = file.seek(_newline_before(file, end - 1) + 1)
        return _read(path, start, file.read(end - start))


def split(path: Path, step: int, end: int) -> tuple[int, Record | None]:
    """Return the offset behind the last record up to `step`, and the record that follows there, before `end`."""
    offset, following = 0, None
    with path.open("rb") as file:
        while (at := file.tell()) < end:
            record = _read(path, at, file.readline())
            if record.step <= step:
                offset, following = file.tell(), None
            elif following is None and at == offset:
                following = record
    return offset, following


def move_away(path: Path, offset: int, end: int, step: int) -> Path:
    """Copy what lies between the offsets into a file of its own beside the path; return it once the disk has it."""
    names = (path.with_name(f"abandoned-{step}{suffix}.jsonl") for suffix in ("", *(f"-{n}" for n in range(2, 10_000))))
    target = next(name for name in names if not name.exists())
    with replacing(target) as part:
        _copy(path, part, offset, end)
    return target


def beyond(record: Record, step: int) -> Record | None:
    """Return what a record says of the steps beyond `step`, or None where that is nothing.

    The per-step series and the alerts are cut; the scalars cover the interval that they cover.
    """
    if record.step <= step:
        return None
    return _restricted(record, [at > step for at in record.series.get("step", [])], range(step + 1, record.step + 1))


def until(record: Record, step: int) -> Record | None:
    """Return the per-step part of a record up to `step`, or None where there is none: what else it has covers more."""
    kept = [at <= step for at in record.series.get("step", [])]
    if not any(kept):
        return None
    cut = _restricted(record, kept, range(min(record.series["step"]), step + 1))
    update = record.update - kept.count(False)
    return dataclasses.replace(cut, step=step, update=update, scalars={}, histograms={}, counters={})


def tell_seam(path: Path, last: Record, new: Record) -> None:
    """Warn where what is new does not join what was logged last: updates are missing, or the state is another one."""
    steps = new.series.get("step", [])
    before = new.update - len(steps)
    if steps and before > last.update:
        _logger.warning(
            "%s: the log ends at step %d and goes on at step %d; %d updates that the restored state has seen are "
            "missing in between. Resume at the step of the checkpoint, or restore the checkpoint of that step.",
            *(path, last.step, steps[0], before - last.update),
        )
    elif steps and before < last.update:
        _logger.warning(
            "%s: the log holds %d updates up to step %d, and the state that goes on had seen %d: it is not the state "
            "of this run, and what it says of the whole run covers its own steps only. Restore the monitor's state "
            "with the model, see restore_or_init.",
            *(path, last.update, last.step, before),
        )


def _read(path: Path, at: int, line: bytes) -> Record:
    try:
        return Record.from_json(line.decode())
    except ValueError as error:
        raise damaged(path, f"byte {at}", line, error) from error


def _restricted(record: Record, kept: list[bool], steps: range) -> Record:
    if all(kept):
        return record
    series: dict[str, list[Any]] = {
        key: [value for value, keep in zip(values, kept, strict=True) if keep] for key, values in record.series.items()
    }
    alerts = tuple(alert for alert in record.alerts if alert.step in steps)
    return dataclasses.replace(record, series=series, alerts=alerts)


def _newline_before(file: BinaryIO, end: int) -> int:
    """Return where the last newline before `end` is, or -1."""
    while end > 0:
        start = file.seek(max(0, end - _BLOCK))
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found
        end = start
    return -1
