"""Run directory: the files of one run, how they are read, and its manifest.

    manifest.json   what the run is: configuration, devices, versions, host, start; replaced atomically
    records.jsonl   one line of strict JSON per record; only ever appended to

A process killed in mid-write leaves at most one torn line, the last: it is skipped and told. Any other damage is an
error that names the line. Nothing here needs JAX or an accelerator.
"""

import contextlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.host.files import write_atomically
from tunrex_jax_monitor.host.record import SCHEMA_VERSION, Record
from tunrex_jax_monitor.host.schema import read_object, require_manifest

MANIFEST = "manifest.json"
RECORDS = "records.jsonl"

_PACKAGES = ("tunrex-jax-monitor", "jax", "jaxlib", "numpy")
_logger = logging.getLogger("tunrex_jax_monitor")


def write_manifest(run_dir: Path, given: Mapping[str, Any]) -> None:
    """Write `manifest.json`: what is known here (versions, host, start), then what is `given`.

    A reader sees the old manifest or the new one, never a part. What JSON cannot say (infinity, a dtype) becomes text.
    """
    write_atomically(run_dir / MANIFEST, json.dumps(describe(given), indent=2, allow_nan=False) + "\n")


def require_same_rewards(run_dir: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest that a directory holds, or {}; a ValueError where its run watches other rewards."""
    manifest = read_manifest(run_dir) if (run_dir / MANIFEST).exists() else {}
    before, now = (_jsonable(dict(m.get("config") or {}).get("reward_names")) for m in (manifest, given))
    if None not in (before, now) and before != now:
        raise ValueError(
            f"run_dir: got '{run_dir}', which holds a run of the rewards {before}, allowed: a run of {now}. "
            "Choose another directory, or go on with the rewards of that run."
        )
    return manifest


def going_on(before: Mapping[str, Any], given: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    """Return the manifest of a run that goes on behind `step`: the start stays, and `resumed` says when and where."""
    here = {"time": time.time(), "host": platform.node(), "pid": os.getpid(), "after_step": step}
    kept = before if not given else {"start_time": before.get("start_time")}
    return {**kept, **given, "resumed": [*before.get("resumed", []), here]}


def describe(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run that begins now, JSON-ready."""
    known = {"start_time": time.time(), "host": platform.node(), "pid": os.getpid(), "versions": _versions()}
    return {str(k): _jsonable(v) for k, v in {"schema": SCHEMA_VERSION, **known, **given}.items()}


def read_manifest(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of a run; a missing, damaged or foreign one is an error that says which."""
    path = _existing(run_dir, MANIFEST)
    manifest = read_json(path)
    schema = manifest.get("schema")
    if schema != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: got schema {schema!r}, allowed {SCHEMA_VERSION}. Read it with the version that wrote it."
        )
    try:
        require_manifest(manifest)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; a ValueError names the file."""
    try:
        return read_object(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: got {error}, allowed one JSON object. Restore the file from a copy.") from error


def read_records(run_dir: str | os.PathLike[str]) -> list[Record]:
    """Return all whole records of a run, in the order they were written. See `iter_records`."""
    return list(iter_records(run_dir))


def iter_records(run_dir: str | os.PathLike[str], *, on_torn: Callable[[int], None] | None = None) -> Iterator[Record]:
    """Yield the records of a run one by one, also while it is being written.

    Args:
      run_dir: the directory that holds `records.jsonl`.
      on_torn: called with the length in bytes of a torn last line; by default that is logged as a warning.

    Raises:
      FileNotFoundError: there is no `records.jsonl`.
      ValueError: a line other than a torn last one is no record of this schema.
    """
    path = _existing(run_dir, RECORDS)
    return _records(path, on_torn or _log_torn(path))


def _records(path: Path, on_torn: Callable[[int], None]) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = Record.from_json(line.decode())
            except ValueError as error:
                is_cut = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
                if not is_cut or line.endswith(b"\n"):
                    raise damaged(path, f"line {number}", line, error) from error
                on_torn(len(line))
            else:
                yield record


def _existing(run_dir: str | os.PathLike[str], name: str) -> Path:
    path = Path(run_dir).expanduser() / name
    if not path.is_file():
        raise FileNotFoundError(
            f"run_dir: got {os.fspath(run_dir)!r}, which has no {name}, allowed a directory that JsonlSink wrote. "
            f"{_nearest(Path(run_dir), name)}"
        )
    return path


def _nearest(directory: Path, name: str) -> str:
    """Say where the file is instead, if it is near."""
    below = [file.parent for file in directory.glob(f"*/{name}")]
    if below:
        return f"Name the run inside; the newest is '{max(below, key=lambda run: run.stat().st_mtime)}'."
    return "Is it the directory above, or below?"


def _log_torn(path: Path) -> Callable[[int], None]:
    return lambda size: _logger.warning(
        "%s: skipped a torn last line of %d bytes; its writer was stopped in mid-write", path, size
    )


def damaged(path: Path, where: str, line: bytes, error: ValueError) -> ValueError:
    """Return the error that names the place of what is no record."""
    start = line[:40] + b"..." if len(line) > 40 else line
    return ValueError(
        f"{path}, {where}: got {start!r} ({type(error).__name__}: {error}), "
        f"allowed one record of schema {SCHEMA_VERSION}. Restore the file from a copy, or take the line out."
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
