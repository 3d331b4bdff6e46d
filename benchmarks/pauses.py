"""How long drawing holds up a training loop: not at all, in a process of its own, or on a thread.

    python benchmarks/pauses.py                # about three minutes
    python benchmarks/pauses.py --rounds 30

A run directory of 8 rewards and 10,000 steps is written first. The loop is a jitted step of a few milliseconds and a
little Python; its result is awaited in every step. In each round the loop runs once with each
variant, in random order, for as long as its drawing takes, or for a fixed time where there is none. A pause is the time
between the ends of two steps, beyond the median of the same loop. Ratios are taken within a round, to "nothing";
"nothing, again" shows what is noise.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from measuring import add_json, cell, environment, publish, quartiles, table, whole

from tunrex_jax_monitor import JsonlSink
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Histogram, Record
from tunrex_jax_monitor.host.report.child import RenderChild
from tunrex_jax_monitor.host.report.render import write_step
from tunrex_jax_monitor.host.report.visualizer import RewardVisualizer

COLUMNS = (
    "drawn",
    "worst pause, ms",
    "against nothing",
    "1 in 100 pauses for, ms",
    "step, ms",
    "steps per s, relative",
)

NAMES = tuple(f"reward_{i}" for i in range(8))
STEPS, EVERY = 10_000, 10
QUIET_SECONDS = 3.0  # of a loop beside which nothing is drawn, about as long as a drawing
FIELDS = ("mean", "std", "min", "max", "ema_short", "ema_long", "frac_zero_std")


def write_run(path: Path) -> Path:
    """Write a run of noise around curves that learn."""
    rng, sink = np.random.default_rng(0), JsonlSink(path)
    sink.begin_run({"config": {"reward_names": NAMES}})
    for first in range(0, STEPS, EVERY):
        steps = np.arange(first, first + EVERY)
        series, scalars, histograms = {"step": steps.tolist()}, {}, {}
        for name in NAMES:
            level = 1 / (1 + np.exp(-(steps - STEPS / 2) / 800))
            for field in FIELDS:
                series[f"{name}/{field}"] = np.float32(level + rng.normal(0, 0.05, EVERY)).tolist()
            series[f"{name}/alerts"] = [0] * EVERY
            window = rng.normal(level[-1], 0.3, 1000)
            for key, q in (("p10", 10), ("p25", 25), ("median", 50), ("p75", 75), ("p90", 90)):
                scalars[f"{name}/{key}"] = float(np.percentile(window, q))
            counts, edges = np.histogram(window, 48)
            histograms[f"{name}/histogram"] = Histogram(counts.tolist(), edges.tolist())
        last = int(steps[-1])
        sink.write(Record(last, last + 1, time.time(), scalars, histograms, series, names=NAMES))
    sink.close()
    return path


@jax.jit
def train_step(params: jax.Array) -> jax.Array:
    """Return weights that a few multiplications have gone into; some milliseconds on one core."""
    for _ in range(3):
        params = jnp.tanh(params @ params) * 0.1 + params * 0.9
    return params


def loop(draw: Callable[[], object]) -> np.ndarray:
    """Train until the drawing, on another thread, is over; return the seconds between the ends of steps."""
    params, thread = jnp.eye(384), threading.Thread(target=draw)
    train_step(params).block_until_ready()
    ends = [time.perf_counter()]
    thread.start()
    while thread.is_alive():
        params = train_step(params)
        params.block_until_ready()
        sum(i * i for i in range(2000))  # what a loop does in Python besides
        ends.append(time.perf_counter())
    return np.diff(ends)


def variants(run_dir: Path, output_dir: Path) -> dict[str, Callable[[], object]]:
    """Return what is drawn beside the loop; begun on a thread of its own, as the monitor does."""

    def in_child() -> None:
        child = RenderChild(run_dir, output_dir)
        child.start(STEPS)
        child.wait(60.0)

    def in_thread() -> None:
        write_step(History.read(run_dir), output_dir, RewardVisualizer(), STEPS)

    return {
        "nothing": partial(time.sleep, QUIET_SECONDS),
        "nothing, again": partial(time.sleep, QUIET_SECONDS),
        "in a child process": in_child,
        "on a thread": in_thread,
    }


def measure(rounds: int) -> dict[str, np.ndarray]:
    """Return, per variant, [rounds, 4]: the worst pause, that of one step in 100, the step (ms), steps per second."""
    rng, found = np.random.default_rng(1), {}
    with tempfile.TemporaryDirectory() as folder:
        draws = variants(write_run(Path(folder) / "run"), Path(folder) / "out")
        loop(draws["on a thread"])  # imports, fonts and compilation, so that the rounds are alike
        found = {name: np.zeros((rounds, 4)) for name in draws}
        for i in range(rounds):
            for name in rng.permutation(list(draws)):
                steps = 1e3 * loop(draws[name])
                middle, late = np.percentile(steps, (50, 99))
                found[name][i] = steps.max() - middle, late - middle, middle, 1e3 * len(steps) / steps.sum()
    return found


def measure_dashboard(folder: Path) -> tuple[np.ndarray, float]:
    """Return the CPU seconds that a dashboard takes from its history to the file, and the size of that in kB."""
    run, target, seconds = History.read(write_run(folder / "run")), folder / "dashboard.png", []
    for _ in range(6):
        start = time.process_time()
        RewardVisualizer().plot_reward_dashboard(run, target)
        seconds.append(time.process_time() - start)
    return np.array(seconds[1:]), target.stat().st_size / 1e3


def main() -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=whole, default=10)
    add_json(parser)
    options = parser.parse_args()
    found = measure(options.rounds)
    base, rows = found["nothing"], []
    for name, values in found.items():
        worst, late, step, rate = values.T
        columns = (worst, worst / base[:, 0], late, step, rate / base[:, 3])
        rows.append({"drawn": name} | {k: quartiles(v) for k, v in zip(COLUMNS[1:], columns, strict=True)})
    with tempfile.TemporaryDirectory() as folder:
        seconds, size = measure_dashboard(Path(folder))
    dashboard = {"s of CPU": quartiles(seconds), "kB": size}
    text = f"Median (p25-p75) of {options.rounds} interleaved rounds; ratios within a round.\n\n"
    text += table(rows, dict.fromkeys(COLUMNS, 2))
    text += f"\n\nOne dashboard of it: {cell(dashboard['s of CPU'])} s of CPU (5 times), {size:.0f} kB."
    publish({"environment": environment("pauses"), "rows": rows, "dashboard": dashboard}, text, options.json)


if __name__ == "__main__":
    main()
