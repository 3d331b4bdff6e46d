"""Cost of an update on the CPU, beside numpy on the host and clu's metrics, as ratios measured in one run.

    python benchmarks/update.py            # about two minutes
    python benchmarks/update.py --quick    # about one, with fewer rounds
    python benchmarks/update.py --json     # the same figures for a program

In each round every candidate runs once, in random order, so that other load meets all alike; a ratio is taken within a
round. Rewards are a dict of device arrays, 16 batches in turn, half of the samples on five atoms and half around them.

    in-scan   one `lax.scan` over 16 batches, by 16: what an update adds to a step that is jitted already
    call      one jitted call that donates the state (`acc.update_jit`), and the wait for it
    streamed  60 such calls and one wait, by 60: what a training loop pays that does not wait
    pack      one emission's device program, `jax.jit(acc.pack)`, and the wait for it

numpy: mean, std, min, max and np.percentile of 5 on a host array [R, N], no copy from the device counted. clu: a jitted,
donated Collection of Average and Std per reward, which is all it holds; each of its rows stands against the same row here.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
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
IMPORTS = {
    "jax": "import jax",
    "monitor": "import jax, tunrex_jax_monitor as trm; trm.RewardAccumulator, trm.Reporter",
}
Rewards = dict[str, jax.Array]
Run = tuple[Callable[[], object], int]  # a function to time, and how many updates it makes
Rows = list[dict[str, Any]]


def sample(n_rewards: int, n_samples: int) -> np.ndarray:
    """Return rewards float32[BATCHES, R, N]."""
    rng = np.random.default_rng(0)
    shape = (BATCHES, n_rewards, n_samples)
    x = rng.choice([-1, 0, 0.5, 1, 3], shape) + (rng.random(shape) < 0.5) * rng.normal(0, 0.1, shape)
    return x.astype(np.float32)


def host_stats(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what a training script logs without a monitor."""
    return x.mean(1), x.std(1), x.min(1), x.max(1), np.percentile(x, (5, 25, 50, 75, 95), axis=1)


def clu_step(names: tuple[str, ...]) -> tuple[Any, Callable[[Any, Rewards], Any]]:
    """Return an empty Collection of Average and Std per reward, and its update."""
    parts = {f"mean_{name}": metrics.Average.from_output(name) for name in names}
    parts |= {f"std_{name}": metrics.Std.from_output(name) for name in names}
    collection = metrics.Collection.create(**parts)
    return collection.empty(), lambda state, rewards: state.merge(collection.single_from_model_output(**rewards))


def update_runs(state: Any, update: Callable[..., Any], jitted: Callable[..., Any], batches: list[Rewards]) -> list[Run]:
    """Return an update in the three `KINDS`; each carries a state of its own, which it donates."""
    stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *batches)
    scan = jax.jit(
        lambda state, xs: jax.lax.scan(lambda state, x: (update(state, x), None), state, xs)[0], donate_argnums=0
    )
    states = [jax.tree.map(jax.numpy.array, state) for _ in KINDS]

    def in_scan() -> None:
        states[0] = jax.block_until_ready(scan(states[0], stacked))

    def call() -> None:
        for rewards in batches[:REPEATS]:
            states[1] = jax.block_until_ready(jitted(states[1], rewards))

    def streamed() -> None:
        for i in range(STREAM):
            states[2] = jitted(states[2], batches[i % BATCHES])
        jax.block_until_ready(states[2])

    return [(in_scan, BATCHES), (call, REPEATS), (streamed, STREAM)]


def repeated(call: Callable[[], object]) -> Run:
    """Return a function that calls and waits REPEATS times."""
    return lambda: [jax.block_until_ready(call()) for _ in range(REPEATS)], REPEATS


def candidates(n_rewards: int, n_samples: int) -> dict[str, Run]:
    """Return everything to be timed at one size, by name."""
    x = sample(n_rewards, n_samples)
    names = tuple(f"r{i}" for i in range(n_rewards))
    batches = [{name: jax.numpy.asarray(batch[i]) for i, name in enumerate(names)} for batch in x]
    runs = {"numpy": repeated(lambda: host_stats(x[0]))}
    state, step = clu_step(names)
    for kind, run in zip(KINDS, update_runs(state, step, jax.jit(step, donate_argnums=0), batches), strict=True):
        runs[f"clu {kind}"] = run
    for label, group_size in OURS.items():
        acc = trm.RewardAccumulator(names, group_size=group_size)
        state = acc.init(batch_size=n_samples)
        for kind, run in zip(KINDS, update_runs(state, acc.update, acc.update_jit, batches), strict=True):
            runs[f"{label} {kind}"] = run
        pack, full = jax.jit(acc.pack), acc.update(state, batches[0])
        runs[f"{label} pack"] = repeated(lambda pack=pack, full=full: pack(full))
    return runs


def interleave(runs: dict[str, Run], rounds: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return microseconds per update, float[rounds], by name."""
    for function, _ in runs.values():  # compile, and compile again if the first state differed in weak types
        function(), function()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in rng.permutation(list(runs)):
            function, updates = runs[name]
            start = time.perf_counter()
            function()
            times[name].append(1e6 * (time.perf_counter() - start) / updates)
    return {name: np.array(values) for name, values in times.items()}


def quartiles(values: np.ndarray) -> list[float]:
    """Return the median and the quartiles around it."""
    return [float(v) for v in np.percentile(values, (50, 25, 75))]


def measure(rounds: int, rng: np.random.Generator) -> Rows:
    """Return one row per size and candidate."""
    rows: Rows = []
    for n_rewards, n_samples in SIZES:
        times = interleave(candidates(n_rewards, n_samples), rounds, rng)
        for name, values in times.items():
            row: dict[str, Any] = {"R": n_rewards, "N": n_samples, "what": name, "us": quartiles(values)}
            row["x numpy"] = quartiles(values / times["numpy"]) if name != "numpy" else None
            peer = f"clu {name.partition(' ')[2]}"
            row["x clu"] = quartiles(values / times[peer]) if peer in times and name != peer else None
            rows.append(row)
    return rows


def import_seconds(rounds: int, rng: np.random.Generator) -> dict[str, list[float]]:
    """Return wall seconds of fresh interpreters, and of what the monitor adds to `import jax`."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for i in range(rounds + 1):
        for name in rng.permutation(list(IMPORTS)):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", IMPORTS[name]], check=True, env=environment)
            if i:  # the first round fills the disk cache and compiles bytecode
                times[name].append(time.perf_counter() - start)
    arrays = {name: np.array(values) for name, values in times.items()}
    return {name: quartiles(v) for name, v in (arrays | {"added": arrays["monitor"] - arrays["jax"]}).items()}


def claims(rows: Rows, imports: dict[str, list[float]]) -> list[tuple[str, float, float]]:
    """Return what is claimed, its median, and the most that it may be."""
    found = {(row["R"], row["N"], row["what"]): row for row in rows}
    result = []
    for label in OURS:
        for samples, most in ((512, 1.0), (8192, 0.5)):
            for kind in KINDS:
                value = found[4, samples, f"{label} {kind}"]["x numpy"][0]
                result.append((f"{label}, {kind}, R = 4, N = {samples}: x numpy", value, most))
        for rewards, most in ((4, 1.0), (16, 0.5)):
            value = found[rewards, 512, f"{label} streamed"]["x clu"][0]
            result.append((f"{label}, streamed, R = {rewards}, N = 512: x clu", value, most))
    return [*result, ("import, seconds over `import jax`", imports["added"][0], 0.1)]


def _cell(value: object, digits: int) -> str:
    if isinstance(value, list):
        middle, low, high = (f"{v:.{digits}f}" for v in value)
        return f"{middle} ({low}-{high})"
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
    for name, seconds in result["imports"].items():
        print(f"| {IMPORTS.get(name, 'added, within a round')} | {_cell(seconds, 3)} |")
    print("\n| claim | median | at most | |\n|---|---|---|---|")
    for text, value, most in result["claims"]:
        print(f"| {text} | {value:.2f} | {most} | {'met' if value <= most else 'not met'} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="rounds per size (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="10 rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    rounds, rng, before = 10 if options.quick else options.rounds, np.random.default_rng(1), os.getloadavg()
    rows = measure(rounds, rng)
    imports = import_seconds(max(3, rounds // 5), rng)
    result = {
        "command": " ".join(["python benchmarks/update.py", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("jax", "jaxlib", "numpy", "clu", "tunrex-jax-monitor")},
        "load": "before and after {:.2f}, {:.2f}".format(before[0], os.getloadavg()[0]),
        "rounds": rounds,
        "rows": rows,
        "imports": imports,
        "claims": claims(rows, imports),
    }
    print(json.dumps(result, indent=1)) if options.json else show(result)


if __name__ == "__main__":
    main()
