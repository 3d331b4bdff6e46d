"""Cost of an update on the CPU, beside numpy on the host and clu's metrics, as ratios measured in one run.

    python benchmarks/update.py            # about three minutes, most of them compilation; --json for a program

In each round every candidate runs once, in random order, so that other load meets all alike; a ratio is taken within a
round. Rewards are a dict of device arrays, 16 batches in turn, half of the samples on five atoms and half around them.

    in-scan   one `lax.scan` over 16 batches, by 16: what an update adds to a step that is jitted already
    call      one jitted call that donates the state (`acc.update_jit`), and the wait for it
    streamed  60 such calls and one wait, by 60: what a training loop pays that does not wait
    pack      one emission's device program, `jax.jit(acc.pack)`, and the wait for it

numpy: mean, std, min, max and 5 of np.percentile, of a host array [R, N]; no copy from the device is counted.
clu: a jitted, donated Collection of Average and Std per reward, each row against its like; it holds nothing else.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from clu import metrics

import tunrex_jax_monitor as trm

SIZES = ((4, 512), (4, 8192), (8, 8192), (16, 512), (32, 512))
BATCHES, STREAM, REPEATS, GROUP = 16, 60, 4, 8
OURS = {"plain": None, "grouped": GROUP}
KINDS = ("in-scan", "call", "streamed")
BARS = ((4, 512, "x numpy", 1.0), (4, 8192, "x numpy", 0.5), (4, 512, "x clu", 1.0), (16, 512, "x clu", 0.5))
JAX, MONITOR = "import jax", "import jax, tunrex_jax_monitor as trm; trm.RewardAccumulator, trm.Reporter"
ADDED = "added, within a round"
Run = tuple[Callable[[], object], int]  # a function to time, and how many updates it makes


def host_stats(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what a training script logs without a monitor."""
    return x.mean(1), x.std(1), x.min(1), x.max(1), np.percentile(x, (5, 25, 50, 75, 95), axis=1)


def clu_metrics(names: tuple[str, ...]) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Return an empty Collection of Average and Std per reward, and its update."""
    kinds = (metrics.Average, metrics.Std)
    parts = {f"{kind.__name__}_{name}": kind.from_output(name) for name in names for kind in kinds}
    collection = metrics.Collection.create(**parts)
    return collection.empty(), lambda state, rewards: state.merge(collection.single_from_model_output(**rewards))


def carry(jitted: Callable[..., Any], state: Any, inputs: Sequence[Any], *, wait_for_each: bool) -> Callable[[], None]:
    """Return a function that folds `inputs` into a state of its own, and waits."""
    held = [jax.tree.map(jax.numpy.array, state)]

    def run() -> None:
        for x in inputs:
            held[0] = jitted(held[0], x)
            if wait_for_each:
                jax.block_until_ready(held[0])
        jax.block_until_ready(held[0])

    return run


def in_kinds(label: str, state: Any, update: Callable[..., Any], jitted: Callable[..., Any], x: Any) -> dict[str, Run]:
    """Return an update of `state` by `x`, a dict of arrays [BATCHES, N], in the three `KINDS`."""
    batches = [{name: values[i] for name, values in x.items()} for i in range(BATCHES)]
    scan = jax.jit(lambda s, x: jax.lax.scan(lambda s, x: (update(s, x), None), s, x)[0], donate_argnums=0)
    return {
        f"{label} in-scan": (carry(scan, state, [x], wait_for_each=True), BATCHES),
        f"{label} call": (carry(jitted, state, batches[:REPEATS], wait_for_each=True), REPEATS),
        f"{label} streamed": (carry(jitted, state, (4 * batches)[:STREAM], wait_for_each=False), STREAM),
    }


def candidates(n_rewards: int, n_samples: int) -> dict[str, Run]:
    """Return everything to be timed at one size, by name."""
    rng, shape = np.random.default_rng(0), (BATCHES, n_rewards, n_samples)
    noise = (rng.random(shape) < 0.5) * rng.normal(0, 0.1, shape)
    host = (rng.choice([-1, 0, 0.5, 1, 3], shape) + noise).astype(np.float32)
    x = {f"r{i}": jax.numpy.asarray(host[:, i]) for i in range(n_rewards)}
    empty, step = clu_metrics(tuple(x))
    runs: dict[str, Run] = {"numpy": (lambda: [host_stats(host[0]) for _ in range(REPEATS)], REPEATS)}
    runs |= in_kinds("clu", empty, step, jax.jit(step, donate_argnums=0), x)
    for label, group_size in OURS.items():
        acc = trm.RewardAccumulator(tuple(x), group_size=group_size)
        state = acc.init(batch_size=n_samples)
        runs |= in_kinds(label, state, acc.update, acc.update_jit, x)
        pack, full = jax.jit(acc.pack), acc.update_jit(state, {name: values[0] for name, values in x.items()})
        wait = lambda pack=pack, full=full: [jax.block_until_ready(pack(full)) for _ in range(REPEATS)]  # noqa: E731
        runs[f"{label} pack"] = (wait, REPEATS)
    return runs


def interleave(runs: dict[str, Run], rounds: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return microseconds per update, float[rounds], by name."""
    for function, _ in runs.values():  # compile, and compile again if the first state differed in weak types
        function(), function()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in (name for _ in range(rounds) for name in rng.permutation(list(runs))):
        function, updates = runs[name]
        start = time.perf_counter()
        function()
        times[name].append(1e6 * (time.perf_counter() - start) / updates)
    return {name: np.array(values) for name, values in times.items()}


def quartiles(values: np.ndarray) -> list[float]:
    """Return the median and the quartiles around it."""
    return [float(v) for v in np.percentile(values, (50, 25, 75))]


def measure(rounds: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return one row per size and candidate."""
    rows = []
    for n_rewards, n_samples in SIZES:
        times = interleave(candidates(n_rewards, n_samples), rounds, rng)
        for name, values in times.items():
            peers = {"x numpy": "numpy", "x clu": f"clu {name.partition(' ')[2]}"}
            ratios = {k: quartiles(values / times[v]) if v in times and v != name else None for k, v in peers.items()}
            rows.append({"R": n_rewards, "N": n_samples, "what": name, "us": quartiles(values)} | ratios)
    return rows


def import_seconds(rounds: int, rng: np.random.Generator) -> dict[str, list[float]]:
    """Return wall seconds of fresh interpreters, and of what the monitor adds to `import jax`."""
    times = np.zeros((rounds + 1, 2))
    for row in times:
        for i in rng.permutation(2):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", (JAX, MONITOR)[i]], check=True)
            row[i] = time.perf_counter() - start
    alone, monitor = times[1:].T  # the first round compiles bytecode and fills the disk cache
    return {JAX: quartiles(alone), MONITOR: quartiles(monitor), ADDED: quartiles(monitor - alone)}


def claims(rows: list[dict[str, Any]], imports: dict[str, list[float]]) -> list[tuple[str, float, float]]:
    """Return what is claimed, its median, and the most that it may be."""
    found = {(row["R"], row["N"], row["what"]): row for row in rows}
    result = [
        (f"{label} {kind}, R = {r}, N = {n}: {column}", found[r, n, f"{label} {kind}"][column][0], most)
        for label in OURS
        for r, n, column, most in BARS
        for kind in (KINDS if column == "x numpy" else ("streamed",))
    ]
    return [*result, ("import, seconds over `import jax`", imports[ADDED][0], 0.1)]


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, list):
        return "{:.{d}f} ({:.{d}f}-{:.{d}f})".format(*value, d=digits)
    return "-" if value is None else str(value)


def show(result: dict[str, Any]) -> None:
    """Print the tables and the claims."""
    for key in ("command", "machine", "versions", "load", "rounds"):
        print(f"{key}: {result[key]}")
    print("\nMedian (p25-p75) of the rounds, microseconds per update or call, and ratios within a round.\n")
    columns = {"R": 0, "N": 0, "what": 0, "us": 0, "x numpy": 2, "x clu": 2}
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in result["rows"]:
        print("| " + " | ".join(_cell(row[column], digits) for column, digits in columns.items()) + " |")
    print("\n| import in a fresh interpreter | s |\n|---|---|")
    print("\n".join(f"| {name} | {_cell(seconds, 3)} |" for name, seconds in result["imports"].items()))
    print("\n| claim | median | at most | |\n|---|---|---|---|")
    for text, value, most in result["claims"]:
        print(f"| {text} | {value:.3f} | {most} | {'met' if value <= most else 'not met'} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds per size (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="10 rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    rounds, rng, before = 10 if options.quick else options.rounds, np.random.default_rng(1), os.getloadavg()[0]
    rows, imports = measure(rounds, rng), import_seconds(max(5, rounds // 3), rng)
    packages = ("jax", "jaxlib", "numpy", "clu", "tunrex-jax-monitor")
    result = {
        "command": " ".join(["python benchmarks/update.py", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, JAX on {jax.default_backend()}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "load": f"{before:.2f} before, {os.getloadavg()[0]:.2f} after; this program is 1 to {os.cpu_count()} of it",
        "rounds": rounds,
    } | {"rows": rows, "imports": imports, "claims": claims(rows, imports)}
    print(json.dumps(result, indent=1)) if options.json else show(result)


if __name__ == "__main__":
    main()
