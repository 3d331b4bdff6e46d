"""Runs of several lives: killed, restarted from their last checkpoint, killed again; and preempted ones."""

import contextlib
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from tests.faults.harness import (
    FLAG,
    STEP,
    WARNINGS,
    WRITTEN,
    Acknowledged,
    Board,
    Child,
    Outcome,
    Torn,
    count_warnings,
)
from tunrex_jax_monitor.host.files import write_atomically
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.preemption import Preemption
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink
from tunrex_jax_monitor.host.worker import SinkWorker

STEPS = 120


class Life:
    """One process of a run: begins behind its checkpoint, emits every few steps, and writes checkpoints."""

    def __init__(self, run_dir: Path, board: Board, log_frequency: int, save_every: int) -> None:
        self.run_dir, self.board = run_dir, board
        self.log_frequency, self.save_every = log_frequency, save_every
        self.steps: list[int] = []

    def run(self, pace: float, preemption: Preemption | None = None, tears: random.Random | None = None) -> None:
        """Train to the end, at `pace` seconds per step; with `tears`, to a write that is cut."""
        sink = JsonlSink(self.run_dir / "log", resume=True)
        sink.begin_run({"config": {"reward_names": ["a"]}})
        if tears is not None:
            sink._file = Torn(sink._file, tears)
        self.worker = SinkWorker(Acknowledged(sink, self.board))
        checkpoint = self.run_dir / "checkpoint"
        first = int(checkpoint.read_text()) if checkpoint.exists() else 0
        held = contextlib.nullcontext() if preemption is None else preemption  # as in `step` and `flush` of a reporter
        for step in range(first, STEPS):
            time.sleep(pace)
            with held:
                self._step(step)
            if (step + 1) % self.save_every == 0:
                with held:
                    self.flush()
                write_atomically(checkpoint, str(step + 1))
        with held:
            self.flush()
        self.worker.close()

    def _step(self, step: int) -> None:
        self.steps.append(step)
        self.board[STEP] = step + 1
        if len(self.steps) >= self.log_frequency:
            self.emit()

    def emit(self) -> None:
        steps, self.steps = self.steps, []
        if steps:
            series = {"step": steps, "a/mean": [float(step) for step in steps]}
            fields = {"step": steps[-1], "update": steps[-1] + 1, "time": 0.0, "names": ("a",), "scalars": {}}
            self.worker.put(Record(**fields, series=series))

    def flush(self, seconds: float = 10.0) -> bool:
        self.emit()
        return self.worker.flush(seconds)


def resume(rng: random.Random, folder: Path) -> Outcome:
    """Up to five lives are killed, some in mid-write; the last one comes to the end. Each step is logged once."""
    outcome, frequency, save_every = Outcome(), rng.randrange(1, 12), rng.randrange(3, 40)
    for _ in range(rng.randrange(1, 6)):
        life = Life(folder, Board(), frequency, save_every)
        child = Child(partial(life.run, 2e-4, tears=rng.choice((None, rng))), folder)
        child.wait(partial(_has_written, life.board, rng.randrange(6)))
        time.sleep(rng.random() * 3e-3)
        child.kill()
        outcome.expect(child.wait() and child.status in (0, -9), f"a life ended with {child.status}")
    last = Child(lambda: Life(folder, Board(), frequency, save_every).run(0.0), folder)
    outcome.expect(last.wait() and last.status == 0, f"the last life ended with {last.status}")
    _count_steps(outcome, folder, STEPS)
    return outcome


def _has_written(board: Board, wanted: int) -> bool:
    return board[WRITTEN] >= wanted


def preempt(rng: random.Random, folder: Path) -> Outcome:
    """SIGTERM at any moment: no step that was taken is lost, and the signal does what it would have done."""
    board, outcome, before = Board(), Outcome(), rng.choice(("default", "ignored", "owner"))
    life = Life(folder, board, rng.randrange(2, 50), STEPS)

    def train() -> None:
        count_warnings(board)
        handlers = {"default": signal.SIG_DFL, "ignored": signal.SIG_IGN, "owner": lambda *_: _note(board)}
        signal.signal(signal.SIGTERM, handlers[before])
        preemption = Preemption(life.flush)
        preemption.install(grace_seconds=10.0)
        life.run(2e-4, preemption)

    child = Child(train, folder)
    wanted = rng.randrange(1, STEPS)
    child.wait(lambda: board[STEP] >= wanted)
    child.kill(signal.SIGTERM)
    outcome.expect(child.wait(), "the child hangs")
    ended = -signal.SIGTERM if before == "default" and board[STEP] < STEPS else 0
    outcome.expect(child.status in (ended, -signal.SIGTERM if before == "default" else 0), f"{before}: {child.status}")
    outcome.expect(before != "owner" or board[FLAG] <= 1, "the owner's handler was called twice")
    outcome.expect(board[WARNINGS] == 0, f"told {board[WARNINGS]} times")
    _count_steps(outcome, folder, board[STEP])
    return outcome


def _note(board: Board) -> None:
    board[FLAG] += 1


def _count_steps(outcome: Outcome, folder: Path, steps: int) -> None:
    logged = History.read(folder / "log").series.get("step", [])
    outcome.emitted, outcome.kept = steps, len(logged)
    outcome.lost = len(set(range(steps)) - set(logged))
    outcome.expect(not outcome.lost, f"{outcome.lost} steps are missing")
    outcome.expect(logged == sorted(set(logged)), f"steps twice or out of order: {logged[:40]}")


def second(rng: random.Random, folder: Path) -> Outcome:
    """A second process on the directory of a live one is refused, whatever it asks for."""
    board, outcome = Board(), Outcome()
    live = Child(lambda: Life(folder, board, 2, STEPS).run(3e-4), folder)
    live.wait(lambda: board[WRITTEN] >= 1)
    options = rng.choice(({}, {"resume": True}, {"overwrite": True}, {"resume": rng.randrange(9)}))

    def intrude() -> None:
        try:
            JsonlSink(folder / "log", **options).begin_run({})
        except FileExistsError as error:
            os._exit(42 if "run_dir: got" in str(error) and "allowed" in str(error) else 43)

    other = Child(intrude, folder)
    outcome.expect(other.wait() and (other.status == 42 or not live.is_alive()), f"{options}: {other.status}")
    outcome.expect(live.wait() and live.status == 0, f"the first ended with {live.status}")
    _count_steps(outcome, folder, STEPS)
    return outcome
