"""Faults beside a real training step: its parameters must not feel them, and its log survives a kill."""

import functools
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.device.support import LEAN
from tests.faults.harness import WARNINGS, Board, Outcome, count_warnings
from tests.faults.writers import Hangs, Raises
from tests.host.support import ROOT
from tunrex_jax_monitor import JsonlSink, MemorySink, Record, Reporter, read_records

STEPS = 22


@functools.partial(jax.jit, donate_argnums=(0, 1), static_argnums=2)
def train_step(params, mon, monitored, x):
    params = params - 0.1 * jnp.tanh(params * x.mean())
    return params, LEAN.update(mon, {"x": x * params[0]}) if monitored else mon


def x_of(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=8).astype(np.float32)


@functools.cache
def bare() -> bytes:
    """The parameters of a run without a monitor."""
    params, mon = jnp.ones(5), LEAN.init()
    for step in range(STEPS):
        params, mon = train_step(params, mon, False, x_of(step))
    return np.asarray(params).tobytes()


class Vanishes(JsonlSink):
    """A run directory that somebody removes."""

    def __init__(self, run_dir: Path, at: int) -> None:
        super().__init__(run_dir)
        self.left = at

    def write(self, record: Record) -> None:
        self.left -= 1
        if self.left < 0:
            shutil.rmtree(self.run_dir, ignore_errors=True)
        super().write(record)


def train(rng: random.Random, folder: Path) -> Outcome:
    """One to three sinks fail beside a training: its parameters are those of a run without a monitor, to the bit."""
    outcome, good, board = Outcome(), MemorySink(), Board()
    count_warnings(board)
    kinds = {
        "hangs": lambda: Hangs(rng.randrange(5)),
        "raises": lambda: Raises(rng.randrange(5), rng.choice((OSError(28, "full"), MemoryError(), ConnectionError()))),
        "vanishes": lambda: Vanishes(folder / "gone", rng.randrange(1, 5)),
    }
    faulty = [kinds[kind]() for kind in rng.sample(sorted(kinds), rng.randrange(1, 4))]
    params, mon = jnp.ones(5), LEAN.init()
    reporter = Reporter(LEAN, [good, *faulty])
    for step in range(STEPS):
        params, mon = train_step(params, mon, True, x_of(step))
        mon = reporter.step(step, mon)
    reporter.close(timeout_seconds=0.2 if any(type(sink) is Hangs for sink in faulty) else 10.0)
    outcome.expect(np.asarray(params).tobytes() == bare(), "other parameters")
    logged = [step for record in good.records for step in record.series["step"]]
    outcome.expect(logged == list(range(STEPS)), f"another sink has the steps {logged}")
    outcome.emitted, outcome.kept, outcome.lost = STEPS, len(logged), STEPS - len(logged)
    raised = sum(type(sink) is not Hangs for sink in faulty)
    told = len(faulty) + raised  # each fails or hangs, and at the end it is said how many records were dropped
    outcome.expect(board[WARNINGS] == told, f"told {board[WARNINGS]} times, expected {told}")
    dropped = good.records[-1].scalars["monitoring/dropped_records"]
    outcome.expect(dropped >= raised, f"the last record counts {dropped} as dropped")
    return outcome


TRAINS = """
import sys
from tests.faults.device import LEAN, jnp, train_step, x_of
from tunrex_jax_monitor import JsonlSink, Reporter
params, mon = jnp.ones(5), LEAN.init()
with Reporter(LEAN, [JsonlSink(sys.argv[1], resume=True)]) as reporter:
    for step in range(10**6):
        params, mon = train_step(params, mon, True, x_of(step % 50))
        mon = reporter.step(step, mon)
"""


def kill_training(rng: random.Random, folder: Path) -> Outcome:
    """A real training is killed at any moment, twice: what was logged is whole, in order and without a gap."""
    outcome, path = Outcome(), folder / "run" / "records.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for _ in range(2):
        wanted = (path.stat().st_size if path.exists() else 0) + rng.randrange(10_000)
        command = [sys.executable, "-c", TRAINS, str(path.parent)]
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < end and (not path.exists() or path.stat().st_size <= wanted):
            time.sleep(0.001)
        child.kill()
        outcome.expect(child.wait() == -9, f"the training ended with {child.returncode}")
    logged = [step for record in read_records(path.parent) for step in record.series["step"]]
    outcome.emitted = outcome.kept = len(logged)
    outcome.expect(logged == list(range(len(logged))), f"not every step once and in order: {logged[:40]}")
    outcome.expect(bool(logged), "nothing was logged")
    return outcome
