"""Faults of a process that writes: it is killed, its disk fills up, its directory goes, a sink misbehaves."""

import random
import resource
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.harness import (
    DROPPED,
    EMITTED,
    FLAG,
    WARNINGS,
    WRITTEN,
    Acknowledged,
    Board,
    Child,
    Outcome,
    account,
    count_warnings,
    make_record,
)
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.base import Sink
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink
from tunrex_jax_monitor.host.sinks.memory import MemorySink
from tunrex_jax_monitor.host.worker import SinkWorker

RECORDS = 40


class Training:
    """A process that emits records to a run directory, and to a list beside it."""

    def __init__(self, rng: random.Random, run_dir: Path, board: Board) -> None:
        self.rng, self.run_dir, self.board = rng, run_dir, board
        self.memory = MemorySink()

    def run(
        self, records: int = RECORDS, beside: Sink | None = None, at: int = -1, fault: Callable[[], object] = int
    ) -> None:
        """Emit; at record `at` call `fault`. What sinks beside the directory do must not matter."""
        count_warnings(self.board)
        sink = JsonlSink(self.run_dir)
        sink.begin_run({"config": {"reward_names": ["a"]}})
        files = SinkWorker(Acknowledged(sink, self.board))
        workers = [files, SinkWorker(self.memory), *([] if beside is None else [SinkWorker(beside)])]
        for step in range(records):
            if step == at:
                files.flush()
                fault()
            record = make_record(self.rng, step)
            self.board[EMITTED] = step + 1
            for worker in workers:
                worker.put(record)
            time.sleep(self.rng.random() * 5e-4)
        for worker in workers:
            worker.finish()
        for worker in workers:
            worker.close(0.3 if worker is workers[-1] and beside is not None else 10.0)
        self.board[DROPPED] = files.dropped
        self.board[FLAG] = len(self.memory.records)


def kill(rng: random.Random, folder: Path) -> Outcome:
    """SIGKILL, or SIGTERM without a handler, at any moment of a run."""
    board, outcome = Board(), Outcome()
    child = Child(lambda: Training(rng, folder / "run", board).run(10**6), folder)
    wanted = rng.randrange(30)
    child.wait(lambda: board[WRITTEN] >= wanted)
    time.sleep(rng.random() * 4e-3)
    child.kill(rng.choice((9, 9, 15)))
    outcome.expect(child.wait(), "the child hangs")
    outcome.expect(child.status in (-9, -15), f"the child ended with {child.status}")
    account(outcome, folder / "run", board, may_be_torn=True)
    return outcome


def fill(rng: random.Random, folder: Path) -> Outcome:
    """No file may grow beyond a size that the run reaches."""
    limit = rng.randrange(100, 20_000)

    def no_space() -> None:
        size = (folder / "run" / "records.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + limit, resource.RLIM_INFINITY))

    return _survive(rng, folder, no_space)


def vanish(rng: random.Random, folder: Path) -> Outcome:
    """Somebody removes the directory."""
    outcome = _survive(rng, folder, lambda: shutil.rmtree(folder / "run"), is_gone=True)
    outcome.expect(not (folder / "run" / "records.jsonl").exists(), "a second file")
    return outcome


def _survive(rng: random.Random, folder: Path, fault: Callable[[], object], *, is_gone: bool = False) -> Outcome:
    board, outcome = Board(), Outcome()
    training = Training(rng, folder / "run", board)
    child = Child(lambda: training.run(at=rng.randrange(1, RECORDS - 10), fault=fault), folder)
    outcome.expect(child.wait(), "the child hangs")
    outcome.expect(child.status == 0, f"training ended with {child.status}")
    outcome.expect(board[FLAG] == RECORDS, f"the other sink has {board[FLAG]} of {RECORDS} records")
    outcome.expect(board[DROPPED] == RECORDS - board[WRITTEN], f"counted {board[DROPPED]} as dropped")
    told = 2 * (board[DROPPED] > 0)  # the failure, and at the end how many were dropped
    outcome.expect(board[WARNINGS] == told, f"told {board[WARNINGS]} times, expected {told}")
    if is_gone:
        outcome.emitted, outcome.kept = board[EMITTED], 0
        outcome.expect(board[DROPPED] > 0, "nothing was noticed")
    else:
        account(outcome, folder / "run", board, may_be_torn=False)
    return outcome


class Hangs:
    def __init__(self, at: int) -> None:
        self.left = at

    def write(self, record: Record) -> None:
        self.left -= 1
        if self.left < 0:
            threading.Event().wait()

    def close(self) -> None:
        pass


class Raises(Hangs):
    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__(at)
        self.error = error

    def write(self, record: Record) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error

    def close(self) -> None:
        raise self.error


def hang(rng: random.Random, folder: Path) -> Outcome:
    """A sink beside the directory never returns."""
    return _beside(rng, folder, Hangs(rng.randrange(RECORDS)), warnings=1)


def fail(rng: random.Random, folder: Path) -> Outcome:
    """A sink beside the directory raises, and once more when it is closed."""
    errors = (OSError(28, "No space left on device"), MemoryError(), RecursionError(), SystemExit(3), ConnectionError())
    return _beside(rng, folder, Raises(rng.randrange(RECORDS), rng.choice(errors)), warnings=2)


def _beside(rng: random.Random, folder: Path, sink: Hangs, *, warnings: int) -> Outcome:
    board, outcome = Board(), Outcome()
    child = Child(lambda: Training(rng, folder / "run", board).run(beside=sink), folder)
    outcome.expect(child.wait(), "the child hangs")
    outcome.expect(child.status == 0, f"training ended with {child.status}")
    outcome.expect(board[WRITTEN] == board[FLAG] == RECORDS, f"written {board[WRITTEN]}, in memory {board[FLAG]}")
    outcome.expect(board[WARNINGS] == warnings, f"told {board[WARNINGS]} times, expected {warnings}")
    account(outcome, folder / "run", board, may_be_torn=False)
    return outcome
