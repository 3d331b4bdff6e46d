"""RUN, the argument: which files it stands for, and what they hold."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from tunrex_jax_monitor.cli.options import Problem, tell, telling
from tunrex_jax_monitor.host.history import EXPORT, History
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.rundir import MANIFEST, RECORDS, iter_records, read_manifest

_LONG = 30_000_000  # bytes; a second or more


def find(given: Path) -> Path:
    """Return the run directory, or the export file, that a path stands for.

    Raises:
      Problem: there is none; the message says what is there instead.
    """
    path = given.expanduser()
    with reading(path):
        if path.is_file():
            return path.parent if path.name in (RECORDS, MANIFEST) else path
        newest = newest_in(path)
        if newest is not None:
            if newest != path:
                tell(f"{given}: the newest run is {newest.name}")
            return newest
        if (path / EXPORT).is_file():
            return path / EXPORT
        raise Problem(
            f"RUN: got '{given}', {_seen(path)}, allowed: a run directory, a directory of them or a {EXPORT}."
        )


def newest_in(path: Path) -> Path | None:
    """Return a run directory, or the newest of those in a directory; None where there is no run yet."""
    if is_run(path):
        return path
    children = sorted(path.iterdir()) if path.is_dir() else []
    return max(filter(is_run, children), key=_start, default=None)


def read(path: Path) -> History:
    """Read what `find` returned; what is damaged, foreign or not readable ends the command with its reason."""
    with reading(path):
        _tell_if_long(path / RECORDS if path.is_dir() else path)
        return History.read(path)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read inside of it; what cannot be read is the caller's to mend."""
    with telling(f"RUN: got '{path}', which cannot be read", "Mend its permissions."):
        try:
            yield
        except ValueError as error:
            raise Problem(f"RUN: {error}") from error


def load(given: Path) -> tuple[Path, History]:
    """Return what a path stands for, and its history."""
    path = find(given)
    return path, read(path)


def records_of(path: Path, history: History) -> Iterator[Record]:
    """Yield every record of what has been read; of an export file there is one, which holds all steps."""
    if path.is_dir():
        yield from iter_records(path, on_torn=lambda _: None) if (path / RECORDS).is_file() else ()
    elif history.last is not None:
        yield dataclasses.replace(history.last, series=dict(history.series), alerts=tuple(history.alerts))


def count_records(path: Path) -> int:
    """Return how many records `records_of` yields."""
    if not path.is_dir() or not (path / RECORDS).is_file():
        return int(not path.is_dir())
    with reading(path), (path / RECORDS).open("rb") as lines:
        return sum(line.endswith(b"\n") for line in lines)


def is_run(path: Path) -> bool:
    """Tell whether a directory holds a run, be it one that has not written a record yet."""
    return (path / RECORDS).is_file() or (path / MANIFEST).is_file()


def beside(path: Path, name: str) -> Path:
    """Return where a file about a run goes by default: into its directory."""
    return (path if path.is_dir() else path.parent) / name


def _tell_if_long(file: Path) -> None:
    """Say to a person what there is to wait for."""
    size = file.stat().st_size if file.is_file() else 0
    if size > _LONG and sys.stderr.isatty():
        tell(f"reading {file}, {size / 1e6:.0f} MB")


def _start(run: Path) -> float:
    """Return when a run began; file times are those of a copy."""
    try:
        return float(read_manifest(run)["start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return run.stat().st_mtime


def _seen(path: Path) -> str:
    return f"which has neither {RECORDS} nor {MANIFEST}" if path.exists() else "which does not exist"
