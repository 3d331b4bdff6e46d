"""Files that are whole or not there, and lines likewise."""

import contextlib
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any


def require_writable(directory: Path) -> None:
    """Make the directory where it is missing; an OSError says why it cannot be made or written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        otherwise = "" if isinstance(error, FileExistsError | NotADirectoryError) else ", or mend its permissions"
        raise OSError(
            error.errno,
            f"run_dir: got '{directory}', which cannot be written ({error.strerror}), allowed a directory that can be "
            f"made and written. Choose another directory{otherwise}",
        ) from error


def append(file: FileIO, data: bytes) -> None:
    """Append all of the data, or nothing: what a full disk took of it is taken back."""
    rest, end = memoryview(data), file.seek(0, os.SEEK_END)
    try:
        while rest:  # an unbuffered write may take a part and say so
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def write_atomically(target: Path, text: str | Iterable[str]) -> None:
    """Write a text file, whole or part by part; a reader sees the old one or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part, part.open("w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        if part != target:
            os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the target's place when the block ends well, and is gone when it does not.

    A link stays, and what it points to is replaced. A pipe or a device is no file that could be: it is yielded itself.
    """
    if is_stream(target):
        yield target
        return
    target = Path(os.path.realpath(target))
    part = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")  # some writers read the format off the name's end
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(directory: Path, *targets: str) -> None:
    """Remove what processes that were killed inside `replacing` left beside their targets.

    Args:
      directory: one that no other process writes those targets in.
      targets: patterns of their names.
    """
    for target in targets:
        for part in directory.glob(f".{'[0-9a-f]' * 8}.{target}"):
            with contextlib.suppress(OSError):
                part.unlink()


def is_stream(path: Path) -> bool:
    """Tell whether a path is there and neither a file nor a directory: /dev/null, /dev/stdout, a named pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def to_json(data: Any) -> str:
    """Return strict JSON: what is not finite becomes null, numpy becomes Python, and anything else its text."""
    return "".join(json_parts(data)) + "\n"


def json_parts(data: Any) -> Iterator[str]:
    """Yield the same JSON in parts, an item of a mapping at a time: a long run need not be there as one text."""
    if not isinstance(data, Mapping):
        yield _dumps(data)
        return
    separator = "{"
    for key, value in data.items():
        yield f"{separator}{json.dumps(str(key))}:"
        yield from json_parts(value)
        separator = ","
    yield "}" if data else "{}"


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):  # not finite, or not Python's own
        return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
