"""What grows when a run does: with devices, with rewards, with steps.

    python benchmarks/scaling.py                       # about two minutes on two CPU cores
    python benchmarks/scaling.py devices --json
    python benchmarks/scaling.py steps --steps 10000

    devices   1 to 8 CPU devices that are made up, rewards sharded over them, under jit and under shard_map: collectives
              in the compiled program, its temporary memory, and time relative to one device. Made-up devices share the
              cores of one machine: what they show is what a program does, not what a chip would take. With several
              devices in the process no part of an update is compiled as one kernel, on one of them neither.
    rewards   R from 1 to 256 in one state: leaves, kernels, bytes, compile time, time of an update and of a pack.
    steps     one run of 100,000 steps with a run directory, in ten parts: time per step, against the first part and, in
              turns, a run in the same process that has just begun; memory of the process, live arrays, bytes of JSONL
              per step, and records that a full queue lost. All should stay what they were. What slows down the whole
              process shows in the first of these ratios alone, and so does what the machine does besides.

Each part is a process of its own, since JAX fixes its devices once.
"""

import argparse
import functools
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hlo import COLLECTIVES, Program
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from measuring import add_json, environment, in_rounds, progress, publish, quartiles, table

import tunrex_jax_monitor as trm
from tunrex_jax_monitor.accumulator import _update_jit

DEVICES, REWARDS, PARTS = (1, 2, 4, 8), (1, 4, 16, 64, 256), 10
SAMPLES, CALLS = 512, 10
RATIO, FRESH = "x the first", "x a fresh run"
TURNS = 10  # of the long run and a fresh one, within a tenth


def stream(function: Callable[[Any, Any], Any], state: Any, rewards: Any) -> Callable[[], float]:
    """Return a function that makes `CALLS` updates, waits once, and returns the microseconds of one."""
    held = [state]

    def run() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            held[0] = function(held[0], rewards)
            if jax.device_count() > 1:  # collectives of calls in flight may wait for each other on a CPU
                jax.block_until_ready(held[0])
        jax.block_until_ready(held[0])
        return 1e6 * (time.perf_counter() - start) / CALLS

    return run


def packing(pack: Callable[[Any], Any], state: Any) -> Callable[[], float]:
    """Return a function that packs `CALLS` times, waits for each, and returns the microseconds of one."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            jax.block_until_ready(pack(state))
        return 1e6 * (time.perf_counter() - start) / CALLS

    return run


def timed(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, Any]]:
    """Return the time of each in microseconds, and its ratio to the first within a round."""
    for run in runs.values():
        run()
    times = {name: np.array(v) for name, v in in_rounds(runs, rounds, np.random.default_rng(0)).items()}
    first = next(iter(times.values()))
    return {name: {"us": quartiles(v), RATIO: quartiles(v / first)} for name, v in times.items()}


def updates_on(count: int, acc: trm.RewardAccumulator, x: np.ndarray) -> dict[str, tuple[Any, Any, Any]]:
    """Return the update over `count` devices, by how it is spread: compiled, with its state and its rewards."""
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    whole, data = PartitionSpec(), PartitionSpec("data")
    rewards = jax.device_put(
        dict(zip(acc.reward_names, x, strict=True)), NamedSharding(mesh, data if count > 1 else whole)
    )
    ways: dict[str, Callable[..., Any]] = {"jit": acc.update}
    if count > 1:
        shards = functools.partial(acc.update, axis_name="data")
        ways["shard_map"] = jax.shard_map(shards, mesh=mesh, in_specs=(whole, data), out_specs=whole)
    out = {}
    for way, function in ways.items():
        state = jax.device_put(acc.init(batch_size=x[0].size), NamedSharding(mesh, whole))
        jitted = jax.jit(function, donate_argnums=0, out_shardings=NamedSharding(mesh, whole))
        out[way] = (jitted.lower(state, rewards).compile(), state, rewards)
    return out


def over_devices(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one update on 1 to 8 devices."""
    acc = trm.RewardAccumulator(tuple(f"r{i}" for i in range(4)), group_size=8)
    x = np.random.default_rng(0).normal(size=(4, SAMPLES // 8, 8)).astype(np.float32)
    made = {(n, way): v for n in progress(DEVICES, "devices") for way, v in updates_on(n, acc, x).items()}
    times = timed({str(key): stream(*value) for key, value in made.items()}, options.rounds)
    rows = []
    for (count, way), (compiled, _, _) in made.items():
        program = Program(compiled.as_text())
        found = program.count(*COLLECTIVES, *(f"{opcode}-start" for opcode in COLLECTIVES))
        size = compiled.memory_analysis().temp_size_in_bytes
        rows.append({"devices": count, "under": way, "collectives": found, "temporary bytes": size})
        rows[-1] |= times[str((count, way))]
    return rows


def over_rewards(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one update and one pack for R from 1 to 256."""
    rows, runs = [], {}
    for count in progress([n for n in REWARDS if n <= options.most], "rewards"):
        acc = trm.RewardAccumulator(tuple(f"r{i}" for i in range(count)), group_size=8)
        x = np.random.default_rng(0).normal(size=(count, SAMPLES // 8, 8)).astype(np.float32)
        rewards, state = dict(zip(acc.reward_names, map(jnp.asarray, x), strict=True)), acc.init()
        pack = jax.jit(acc.pack)
        start = time.perf_counter()
        compiled = _update_jit.lower(acc, state, rewards).compile()  # what `update_jit` runs
        seconds = time.perf_counter() - start
        rows.append({
            "R": count,
            "leaves": len(state),
            "kernels": Counter(Program(compiled.as_text()).launched()).total(),
            "state bytes": sum(leaf.nbytes for leaf in state),
            "bytes to host": pack(state).nbytes,
            "to compile, s": seconds,
        })  # fmt: skip
        runs[f"{count}"] = stream(acc.update_jit, state, rewards)
        runs[f"{count} pack"] = packing(pack, acc.init())
    times = timed(runs, options.rounds)
    return [
        row | {"update, us": times[f"{row['R']}"]["us"], "x R = 1": times[f"{row['R']}"][RATIO]}
        | {"pack, us": times[f"{row['R']} pack"]["us"]}
        for row in rows
    ]  # fmt: skip


class Loop:
    """Updates that go into a run directory, four rewards of 8 x 8 samples a step."""

    def __init__(self, directory: Path) -> None:
        self.acc = trm.RewardAccumulator(tuple(f"r{i}" for i in range(4)), group_size=8, log_frequency=10)
        x = np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)
        self.inputs = [dict(zip(self.acc.reward_names, map(jnp.asarray, of_step), strict=True)) for of_step in x]
        self.reporter, self.directory = trm.Reporter(self.acc, run_dir=directory), directory
        self.mon, self.step = self.acc.init(), 0
        self.run(100)  # compile, and fill the caches

    def run(self, steps: int) -> float:
        """Make so many steps, and wait until they are written; returns the microseconds of one."""
        start = time.perf_counter()
        for step in range(self.step, self.step + steps):
            self.mon = self.reporter.step(step, self.acc.update_jit(self.mon, self.inputs[step % 16]))
        self.reporter.flush()
        self.step += steps
        return 1e6 * (time.perf_counter() - start) / steps

    def written(self) -> tuple[int, int]:
        """Return bytes and lines of the records."""
        text = (self.directory / "records.jsonl").read_bytes()
        return len(text), text.count(b"\n")


def over_steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run many steps, in turn with a run that has just begun, and look at the process after each tenth of them."""
    rows: list[dict[str, Any]] = []
    part, rng = options.steps // PARTS, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        long = Loop(Path(name, "long"))
        size, lines = long.written()
        for i in progress(range(PARTS), "part"):
            fresh = Loop(Path(name, f"fresh-{i}"))
            runs = {
                "long": functools.partial(long.run, part // TURNS),
                "fresh": functools.partial(fresh.run, part // TURNS),
            }
            times = {key: np.array(v) for key, v in in_rounds(runs, TURNS, rng).items()}
            fresh.reporter.close()
            del fresh, runs
            before, (size, lines) = (size, lines), long.written()
            gc.collect()
            rows.append({
                "steps": (i + 1) * part,
                "us per step": quartiles(times["long"]),
                RATIO: np.median(times["long"]) / rows[0]["us per step"][0] if rows else 1.0,
                FRESH: quartiles(times["long"] / times["fresh"]),
                "process, MB": resident_bytes() / 1e6,
                "live arrays": len(jax.live_arrays()),
                "JSONL bytes per step": (size - before[0]) / part,
                "records lost": part // long.acc.log_frequency - (lines - before[1]),
            })  # fmt: skip
        long.reporter.close()
    return rows


def resident_bytes() -> int:
    """Return the memory of this process; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


PART = {"devices": over_devices, "rewards": over_rewards, "steps": over_steps}
COLUMNS = {
    "devices": {"devices": 0, "under": 0, "collectives": 0, "temporary bytes": 0, "us": 0, RATIO: 2},
    "rewards": {
        "R": 0, "leaves": 0, "kernels": 0, "state bytes": 0, "bytes to host": 0, "to compile, s": 1, "update, us": 0,
        "x R = 1": 2, "pack, us": 0,
    },
    "steps": {
        "steps": 0, "us per step": 0, RATIO: 2, FRESH: 2, "process, MB": 0, "live arrays": 0, "JSONL bytes per step": 1,
        "records lost": 0,
    },
}  # fmt: skip


def in_child(part: str) -> list[dict[str, Any]]:
    """Run one part in a process of its own, with the same options; its progress is on stderr."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}  # or compile times are those of reading it
    if part == "devices":
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(max(DEVICES))}
    command = [sys.executable, __file__, "--child", part, *sys.argv[1:]]
    child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        raise SystemExit(f"{part} failed with exit status {child.returncode}; its messages are above")
    rows: list[dict[str, Any]] = json.loads(child.stdout.splitlines()[-1])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PART)} (default: all)")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=100_000, help="of the long run (default: %(default)s)")
    parser.add_argument("--most", type=int, default=max(REWARDS), help="rewards (default: %(default)s)")
    parser.add_argument("--child", choices=PART, help=argparse.SUPPRESS)
    add_json(parser)
    options = parser.parse_args()
    if options.steps < 1 or options.steps % (PARTS * TURNS):
        parser.error(f"--steps: got {options.steps}, allowed: a multiple of {PARTS * TURNS}.")
    if unknown := set(options.parts) - PART.keys():
        parser.error(f"PART: got {', '.join(sorted(unknown))}, allowed: {', '.join(PART)}.")
    if options.child:
        print(json.dumps(PART[options.child](options)))
        return
    rows = {part: in_child(part) for part in options.parts or PART}
    text = "\n\n".join(f"{part}:\n\n{table(rows[part], COLUMNS[part])}" for part in rows)
    note = "Median (p25-p75) of the rounds, or of ten turns of the long run; ratios within a round or turn.\n\n"
    publish({"environment": environment("scaling"), "rounds": options.rounds, **rows}, note + text, options.json)


if __name__ == "__main__":
    main()
