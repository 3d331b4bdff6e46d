"""What the faults share: a forked child, a board that outlives it, and the account of what it wrote.

The promise that is checked: what a sink's `write` has returned from is in the file, whole, once and in order. What was
emitted but not yet acknowledged is in flight, and may be lost when a process is killed.
"""

import dataclasses
import logging
import mmap
import os
import random
import signal
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.rundir import iter_records
from tunrex_jax_monitor.host.sinks.base import Sink

EMITTED, WRITTEN, DROPPED, WARNINGS, STEP, FLAG = range(6)
PATIENCE = 20.0  # seconds that a child may take; only one that hangs takes as long


@dataclasses.dataclass
class Outcome:
    """What came of one run.

    Attributes:
      problems: what broke a promise; empty when the run survived.
      emitted: records that were handed over.
      kept: records, or for runs that go on steps, found afterwards.
      lost: acknowledged records, or steps, that are not there.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    emitted: int = 0
    kept: int = 0
    lost: int = 0

    def expect(self, holds: bool, problem: str) -> None:
        """Note a problem unless it holds."""
        if not holds:
            self.problems.append(problem)


class Board:
    """Numbers shared with a child that may die at any moment."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 8 * 8)).cast("q")

    def __getitem__(self, at: int) -> int:
        return int(self._numbers[at])

    def __setitem__(self, at: int, number: int) -> None:
        self._numbers[at] = number


class Acknowledged:
    """A durable sink that counts on a board what another one has taken."""

    durable = True

    def __init__(self, sink: Sink, board: Board) -> None:
        self._sink, self._board = sink, board

    def write(self, record: Record) -> None:
        self._sink.write(record)
        self._board[WRITTEN] += 1

    def close(self) -> None:
        self._sink.close()


class Torn:
    """A file that kills its process in the middle of a write, at a random one of the next 20."""

    def __init__(self, file: FileIO, rng: random.Random) -> None:
        self._file, self._rng, self._left = file, rng, rng.randrange(20)

    def write(self, data: memoryview) -> int:
        self._left -= 1
        if self._left < 0:
            self._file.write(data[: self._rng.randrange(1, len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Child:
    """A forked process that runs a function and exits with 0, or with 1 where it raises."""

    def __init__(self, run: Callable[[], object], folder: Path) -> None:
        self.status: int | None = None
        self._pid = os.fork()
        if not self._pid:
            status = 1
            try:
                _redirect(folder / "stderr.txt")
                run()
                status = 0
            finally:
                os._exit(status)

    def is_alive(self) -> bool:
        """Tell whether it still runs; take its status when it does not."""
        if self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is None

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        if self.is_alive():
            os.kill(self._pid, signum)

    def wait(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait until it ends or something holds; False when it was killed for taking too long."""
        end = time.monotonic() + PATIENCE
        while self.is_alive() and not until():
            if time.monotonic() > end:
                self.kill()
                self.wait()
                return False
            time.sleep(0.0005)
        return True


def _redirect(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)


def count_warnings(board: Board) -> None:
    """Count on the board what the package logs as a warning or worse, in place of printing it."""

    class Counter(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            board[WARNINGS] += 1

    logger = logging.getLogger("tunrex_jax_monitor")
    logger.handlers, logger.propagate = [Counter(logging.WARNING)], False


def make_record(rng: random.Random, at: int) -> Record:
    """A record of between some hundred bytes and, rarely, a megabyte."""
    size = rng.choice((1, 3, 30, 30, 300, 50_000 if rng.random() < 0.1 else 3))
    series = {"step": list(range(size)), "a/mean": [rng.random() for _ in range(size)]}
    return Record(step=at, update=at, time=float(at), names=("a",), scalars={"a/mean": float(at)}, series=series)


def account(outcome: Outcome, run_dir: Path, board: Board, *, may_be_torn: bool) -> None:
    """Compare what is in the file with what the board says; only a killed process may leave a torn last line."""
    outcome.emitted = board[EMITTED]
    if not (run_dir / "records.jsonl").exists():
        outcome.expect(board[WRITTEN] == 0, "the file is gone")
        return
    torn: list[int] = []
    found = [record.step for record in iter_records(run_dir, on_torn=torn.append)]
    outcome.kept = len(found)
    outcome.lost = max(0, board[WRITTEN] - len(found))
    outcome.expect(found == list(range(len(found))), f"not every record once and in order: {found[:20]}")
    outcome.expect(not outcome.lost, f"{outcome.lost} acknowledged records are not there")
    outcome.expect(may_be_torn or not torn, f"a torn line of {torn} bytes")
