"""Follow: the records of a run directory as they come, while another process writes them.

A line counts once it has its end, so a torn one is read when it is whole. A file that was replaced, cut or written anew
is read from its start, and that is told. A whole line that is no record is counted and left out. Needs no JAX.
"""

import dataclasses
import os
from pathlib import Path

from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.rundir import RECORDS

_HEAD = 256  # bytes that tell one run from the next: each record holds its time
_CHUNK = 1 << 24  # bytes read at once; a poll that finds more is followed by another


@dataclasses.dataclass
class News:
    """What one look at a run found.

    Attributes:
      records: new ones, oldest first.
      restarted: another run has taken the place of the one before; its records are these.
      damaged: whole lines that are no records.
    """

    records: list[Record] = dataclasses.field(default_factory=list)
    restarted: bool = False
    damaged: int = 0

    def __bool__(self) -> bool:
        """Tell whether there is any."""
        return bool(self.records or self.restarted or self.damaged)


class Follower:
    """Reads what has been added to a run since the last look.

    Args:
      run_dir: a run directory; it need not exist yet.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.run_dir = Path(run_dir)
        self._file: tuple[int, int] | None = None  # device and inode
        self._head = b""
        self._read, self._rest = 0, b""

    def poll(self) -> News:
        """Return what is new; nothing while there is no file, or while it cannot be read."""
        news = News()
        try:
            with (self.run_dir / RECORDS).open("rb") as file:
                stat = os.fstat(file.fileno())
                here = (stat.st_dev, stat.st_ino)
                head = file.read(len(self._head))
                if self._file is not None and (here != self._file or stat.st_size < self._read or head != self._head):
                    news.restarted = self._read > 0
                    self._head, self._read, self._rest = b"", 0, b""
                self._file = here
                file.seek(self._read)
                added = file.read(_CHUNK)
        except OSError:
            return news
        self._head = (self._head + added)[:_HEAD] if self._read < _HEAD else self._head
        self._read += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            self._take(line, news)
        return news

    def _take(self, line: bytes, news: News) -> None:
        try:
            news.records.append(Record.from_json(line.decode()))
        except (ValueError, KeyError, TypeError, AttributeError):
            news.damaged += 1
