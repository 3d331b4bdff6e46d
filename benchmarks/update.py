"""Cost of an update on the device that is there, beside numpy on the host and the peers, as ratios measured in one run.

    python benchmarks/update.py            # about three minutes on a CPU, most of them compilation
    python benchmarks/update.py --grid     # every R with every N, masks, metrax and nnx as well: half an hour
    python benchmarks/update.py --json update.json

In each round every candidate runs once, in random order, so that other load meets all alike; a ratio is taken within a
round. Rewards are a dict of device arrays, 16 batches in turn, half of the samples on five atoms and half around them.

    in-scan   one `lax.scan` over 16 batches, by 16: what an update adds to a step that is jitted already
    call      one jitted call that donates the state (`acc.update_jit`), and the wait for it
    streamed  60 such calls and one wait, by 60: what a training loop pays that does not wait
    pack      one emission's device program, `jax.jit(acc.pack)`, and the wait for it

floor: a jitted sum of the same arrays, one pass over them and nothing else.
numpy: mean, std, min, max and 5 of np.percentile, of a host array [R, N]; no copy from the device is counted.
clu: a jitted, donated Collection of Average and Std per reward, each row against its like; it holds nothing else.
kernels: what the compiled program starts by itself, fusions, copies, sorts and calls; counted, not timed.
"""

import argparse
import functools
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hlo import Program
from measuring import add_json, environment, in_rounds, publish, quartiles, table, uncached, whole
from peers import installed

import tunrex_jax_monitor as trm
from tunrex_jax_monitor.accumulator import _update_jit

SIZES = ((4, 512), (4, 8192), (8, 8192), (16, 512), (32, 512))
GRID = tuple((r, n) for r in (1, 4, 8, 32) for n in (64, 512, 8192, 262_144))
BATCHES, STREAM, REPEATS, GROUP = 16, 60, 4, 8
LARGE = 2**22  # samples of all batches together: beyond it there are fewer batches and shorter streams
OURS = {"plain": None, "grouped": GROUP}
KINDS = ("in-scan", "call", "streamed")
BARS = (  # R, N, kinds, ratio, at most
    (4, 512, KINDS, "x numpy", 1.0),
    (4, 8192, KINDS, "x numpy", 0.5),
    (4, 512, ("in-scan",), "x numpy", 0.333),
    (4, 8192, ("in-scan",), "x numpy", 0.2),
    (4, 512, ("streamed",), "x clu", 0.4),
    (16, 512, ("streamed",), "x clu", 0.15),
)
JAX, MONITOR = "import jax", "import jax, tunrex_jax_monitor as trm; trm.RewardAccumulator, trm.Reporter"
ADDED = "added, within a round"
COLUMNS = {"R": 0, "N": 0, "what": 0, "us": 0, "x floor": 1, "x numpy": 2, "x clu": 2}
COUNTED = {
    "R": 0, "N": 0, "update": 0, "leaves": 0, "kernels": 0, "fusions": 0, "state bytes": 0, "bytes accessed": 0,
    "temporary bytes": 0, "to compile, s": 1,
}  # fmt: skip
Timed = Callable[[], float]  # runs, and returns microseconds per update


class Candidate(NamedTuple):
    """An update of a state by a batch `x`, and the jitted function that a loop would call."""

    state: Any
    update: Callable[[Any, Any], Any]
    jitted: Callable[[Any, Any], Any]
    x: Any  # leaves [batches, N]


def host_stats(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what a training script logs without a monitor."""
    return x.mean(1), x.std(1), x.min(1), x.max(1), np.percentile(x, (5, 25, 50, 75, 95), axis=1)


def timed(function: Callable[[], object], updates: int) -> Timed:
    """Return a function that runs `function` and returns the microseconds of one of its updates."""

    def run() -> float:
        start = time.perf_counter()
        function()
        return 1e6 * (time.perf_counter() - start) / updates

    return run


def carry(jitted: Callable[..., Any], state: Any, inputs: Sequence[Any], *, wait_for_each: bool) -> Callable[[], None]:
    """Return a function that folds `inputs` into a state of its own, and waits."""
    held = [jax.tree.map(jnp.array, state)]

    def run() -> None:
        for x in inputs:
            held[0] = jitted(held[0], x)
            if wait_for_each:
                jax.block_until_ready(held[0])
        jax.block_until_ready(held[0])

    return run


def in_kinds(label: str, candidate: Candidate) -> dict[str, Timed]:
    """Return the candidate in the three `KINDS`."""
    state, update, jitted, x = candidate
    count = len(jax.tree.leaves(x)[0])
    batches = [jax.tree.map(lambda v, i=i: v[i], x) for i in range(count)]
    calls, stream = batches[:REPEATS], (-(-STREAM // BATCHES) * batches)[: STREAM * count // BATCHES]
    scan = jax.jit(lambda s, x: jax.lax.scan(lambda s, x: (update(s, x), None), s, x)[0], donate_argnums=0)
    return {
        f"{label} in-scan": timed(carry(scan, state, [x], wait_for_each=True), count),
        f"{label} call": timed(carry(jitted, state, calls, wait_for_each=True), len(calls)),
        f"{label} streamed": timed(carry(jitted, state, stream, wait_for_each=False), len(stream)),
    }


def counted(candidate: Candidate) -> dict[str, Any]:
    """Compile a candidate's jitted function, which then finds it compiled, and count what is in it."""
    jitted, x = candidate.jitted, jax.tree.map(lambda v: v[0], candidate.x)
    start = time.perf_counter()
    with uncached():
        if isinstance(jitted, functools.partial):  # acc.update_jit: the jitted function under it can be lowered
            compiled = _update_jit.lower(*jitted.args, candidate.state, x).compile()
        else:
            compiled = jitted.lower(candidate.state, x).compile()
    seconds = time.perf_counter() - start
    launched, memory = Counter(Program(compiled.as_text()).launched()), compiled.memory_analysis()
    return {
        "leaves": len(jax.tree.leaves(candidate.state)),
        "kernels": launched.total(),
        "fusions": launched["fusion"],
        "state bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(candidate.state)),
        "bytes accessed": int((compiled.cost_analysis() or {}).get("bytes accessed", 0)),
        "temporary bytes": memory.temp_size_in_bytes,
        "to compile, s": seconds,
    }


def batches_of(n_rewards: int, n_samples: int) -> np.ndarray:
    """Return float32[batches, R, N]: half of the samples on five atoms, half around them."""
    count = int(np.clip(LARGE // (n_rewards * n_samples), 2, BATCHES))
    rng, shape = np.random.default_rng(0), (count, n_rewards, n_samples)
    noise = (rng.random(shape) < 0.5) * rng.normal(0, 0.1, shape)
    return (rng.choice([-1, 0, 0.5, 1, 3], shape) + noise).astype(np.float32)


def candidates(host: np.ndarray, *, grid: bool) -> tuple[dict[str, Candidate], dict[str, Timed]]:
    """Return what updates a state, and what is timed besides, by name."""
    _, n_rewards, n_samples = host.shape
    x = {f"r{i}": jnp.asarray(host[:, i]) for i in range(n_rewards)}
    peers, missing = installed(tuple(x))
    if "clu" in missing:
        raise SystemExit('clu is what updates are compared with, and it is not installed: pip install -e ".[bench]"')
    total = lambda state, rewards: state + sum(jnp.sum(v) for v in rewards.values())  # noqa: E731
    found = {"floor": Candidate(jnp.zeros(()), total, jax.jit(total, donate_argnums=0), x)}
    for label, peer in peers.items() if grid else [("clu", peers["clu"])]:
        found[label] = Candidate(peer.empty(), peer.update, jax.jit(peer.update, donate_argnums=0), x)
    repeats = min(REPEATS, len(host))
    others = {"numpy": timed(lambda: [host_stats(x) for x in host[:repeats]], repeats)}
    for label, group_size in OURS.items():
        acc = trm.RewardAccumulator(tuple(x), group_size=group_size)
        state = acc.init(batch_size=None if grid else n_samples)
        found[label] = Candidate(state, acc.update, acc.update_jit, x)
        others[f"{label} pack"] = timed(packing(acc, found[label]), REPEATS)
        if grid:
            mask = jnp.asarray(np.random.default_rng(1).random((len(host), n_samples)) < 0.9)
            masked = functools.partial(masked_update, acc)
            found[f"{label} masked"] = Candidate(state, masked, jax.jit(masked, donate_argnums=0), (x, mask))
    return found, others


def packing(acc: trm.RewardAccumulator, candidate: Candidate) -> Callable[[], None]:
    """Return a function that packs a state that has seen a batch, and waits for it."""
    pack = jax.jit(acc.pack)

    @functools.cache
    def full() -> Any:
        first = jax.tree.map(lambda v: v[0], candidate.x)
        return candidate.jitted(jax.tree.map(jnp.array, candidate.state), first)

    def run() -> None:
        for _ in range(REPEATS):
            jax.block_until_ready(pack(full()))

    return run


def masked_update(acc: trm.RewardAccumulator, state: Any, x: tuple[Any, Any]) -> Any:
    """Fold rewards with their mask in."""
    return acc.update(state, x[0], mask=x[1])


def measure(sizes: Sequence[tuple[int, int]], rounds: int, *, grid: bool) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return one row per size and timed candidate, and one per size and compiled update."""
    rows, programs, rng = [], [], np.random.default_rng(1)
    for n_rewards, n_samples in sizes:
        print(f"R = {n_rewards}, N = {n_samples}", file=sys.stderr, flush=True)
        size = {"R": n_rewards, "N": n_samples}
        found, runs = candidates(batches_of(n_rewards, n_samples), grid=grid)
        for label, candidate in found.items():
            programs.append(size | {"update": label} | counted(candidate))
            runs |= in_kinds(label, candidate)
        for run in runs.values():  # compile, and compile again if the first state differed in weak types
            run(), run()
        times = {name: np.array(values) for name, values in in_rounds(runs, rounds, rng).items()}
        rows += [size | row(name, times) for name in times]
    return rows, programs


def row(name: str, times: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return a candidate's time, and its ratios to what it is compared with."""
    kind = name.rpartition(" ")[2]
    bases = {"x floor": f"floor {kind}", "x numpy": "numpy", "x clu": f"clu {kind}"}
    ratios = {k: quartiles(times[name] / times[v]) if v in times and v != name else None for k, v in bases.items()}
    return {"what": name, "us": quartiles(times[name])} | ratios


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
        for r, n, kinds, column, most in BARS
        for kind in kinds
    ]
    return [*result, ("import, seconds over `import jax`", imports[ADDED][0], 0.1)]


def text_of(result: dict[str, Any]) -> str:
    """Return the tables and the claims."""
    imports = [{"import in a fresh interpreter": k, "s": v} for k, v in result["imports"].items()]
    made = [
        {"claim": text, "median": value, "at most": str(most), "": "met" if value <= most else "not met"}
        for text, value, most in result["claims"]
    ]
    parts = [
        f"rounds: {result['rounds']}",
        "Median (p25-p75) of the rounds, microseconds per update or call, and ratios within a round.",
        table(result["rows"], COLUMNS),
        table(result["programs"], COUNTED),
    ]
    parts += [table(imports, {"import in a fresh interpreter": 0, "s": 3})] if imports else []
    parts += [table(made, {"claim": 0, "median": 3, "at most": 0, "": 0})] if made else []
    return "\n\n".join(parts)


def size(text: str) -> tuple[int, int]:
    """Read a size from the command line."""
    n_rewards, times, n_samples = text.partition("x")
    if not (times and n_rewards.isdecimal() and n_samples.isdecimal() and int(n_rewards) and int(n_samples)):
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: rewards x samples, such as 4x512")
    if int(n_samples) % GROUP:
        raise argparse.ArgumentTypeError(f"got {n_samples} samples, allowed: a multiple of the group size, {GROUP}")
    return int(n_rewards), int(n_samples)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=whole, default=30, help="rounds per size: 10 for a quick look (default %(default)s)"
    )
    parser.add_argument(
        "--grid", action="store_true", help="R in 1, 4, 8, 32 with N in 64, 512, 8192, 262144; all peers"
    )
    parser.add_argument(
        "--sizes", nargs="+", type=size, metavar="RxN", help="only these sizes, such as 4x512; no claims"
    )
    add_json(parser)
    options = parser.parse_args()
    sizes, rounds = options.sizes or (GRID if options.grid else SIZES), options.rounds
    if options.grid:
        warnings.filterwarnings("ignore", message="A step of .* does not fit the window")  # the default one is meant
    rows, programs = measure(sizes, rounds, grid=options.grid)
    is_whole = sizes == SIZES
    imports = import_seconds(max(5, rounds // 3), np.random.default_rng(1)) if is_whole else {}
    result = {
        "environment": environment("update"),
        "rounds": rounds,
        "rows": rows,
        "programs": programs,
        "imports": imports,
        "claims": claims(rows, imports) if is_whole else [],
    }
    publish(result, text_of(result), options.json)


if __name__ == "__main__":
    main()
