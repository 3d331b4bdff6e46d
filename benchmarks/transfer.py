"""What it costs a train step to be monitored, by each way the summaries can leave the device.

    python benchmarks/transfer.py                # about three minutes, one of them compilation
    python benchmarks/transfer.py --json         # for a program
    python benchmarks/transfer.py --rounds 60

The step is a two-layer transformer under Adam, all its leaves donated, that ends with four rewards of 64 x 8 samples.
In each round every variant runs once, in random order, so that other load meets all alike. A ratio is taken within a
round: to the bare step, and for the scans to the bare scan. "bare again" shows what is noise. Each run ends when its
records are in the file. Records are made every ten steps and written to a run directory.

Nothing here speaks for an accelerator: on a CPU a copy to the host is free, and the host competes with the step for the
cores; a chip leaves the host idle, and makes every wait for it expensive.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import add_json, environment, publish, quartiles, table, whole

import tunrex_jax_monitor as trm

COLUMNS = {"what": 0, "ms per step": 3, "least ms": 3, "x bare": 3, "added us": 0, "in step(), us": 0}

Tree = Any
Run = Callable[[], None]

NAMES = ("format", "answer", "length", "style")
BATCH, TOKENS, WIDTH, LAYERS, GROUP = 64, 16, 48, 2, 8
STEPS, EVERY = 40, 10  # of one run
ACC = trm.RewardAccumulator(NAMES, group_size=GROUP, log_frequency=EVERY)
RATIOS_TO = {"scan, packed rows": "scan, bare"}  # all others: to "bare"


# The step


def init_params(rng: np.random.Generator) -> Tree:
    """Return the weights of the transformer."""

    def weight(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)

    def layer() -> Tree:
        square = {name: weight(WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
        norms = {name: jnp.ones(WIDTH, jnp.float32) for name in ("norm_1", "norm_2")}
        mlp = {"up": weight(WIDTH, 4 * WIDTH), "up_bias": jnp.zeros(4 * WIDTH, jnp.float32)}
        return square | norms | mlp | {"down": weight(4 * WIDTH, WIDTH), "down_bias": jnp.zeros(WIDTH, jnp.float32)}

    return {"layers": [layer() for _ in range(LAYERS)], "read": weight(WIDTH, len(NAMES))}


def apply(params: Tree, x: jax.Array) -> jax.Array:
    """Return one score per reward, [4, 64, 8]."""

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        return scale * x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    for p in params["layers"]:
        y = norm(x, p["norm_1"])
        scores = (y @ p["query"]) @ jnp.swapaxes(y @ p["key"], -1, -2) / np.float32(np.sqrt(WIDTH))
        x = x + jax.nn.softmax(scores) @ (y @ p["value"]) @ p["out"]
        x = x + jax.nn.gelu(norm(x, p["norm_2"]) @ p["up"] + p["up_bias"]) @ p["down"] + p["down_bias"]
    pooled = x.reshape(BATCH, GROUP, -1, WIDTH).mean(2)
    return jnp.moveaxis(jnp.tanh(pooled @ params["read"]), -1, 0)


def step(train: Tree, x: jax.Array) -> tuple[Tree, dict[str, jax.Array]]:
    """Return the training state after one step of Adam, and the rewards."""

    def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
        rewards = apply(params, x)
        return -rewards.mean(), jax.lax.stop_gradient(rewards)

    slope, rewards = jax.grad(loss, has_aux=True)(train["params"])
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, train["mean"], slope)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, train["square"], slope)
    move = jax.tree.map(lambda p, m, v: p - 1e-3 * m / (jnp.sqrt(v) + 1e-8), train["params"], mean, square)
    return {"params": move, "mean": mean, "square": square}, dict(zip(NAMES, rewards, strict=True))


def init_train() -> Tree:
    """Return a training state of its own, for one variant."""
    params = init_params(np.random.default_rng(0))
    return {
        "params": params,
        "mean": jax.tree.map(jnp.zeros_like, params),
        "square": jax.tree.map(jnp.ones_like, params),
    }


# The variants: each returns a function that makes STEPS steps and waits for them


def bare(x: jax.Array) -> Run:
    """The step alone."""
    train_step, held = jax.jit(step, donate_argnums=0), [init_train()]

    def run() -> None:
        for _ in range(STEPS):
            held[0], rewards = train_step(held[0], x)
        jax.block_until_ready((held[0], rewards))

    return run


def fused(x: jax.Array, reporter: trm.Reporter | None) -> Run:
    """The update inside the step; with a reporter, read every ten steps."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(train: Tree, mon: trm.MonitorState, x: jax.Array) -> tuple[Tree, trm.MonitorState]:
        train, rewards = step(train, x)
        return train, ACC.update(mon, rewards)

    held = [init_train(), ACC.init()]

    def run() -> None:
        train, mon = held
        for i in range(STEPS):
            train, mon = train_step(train, mon, x)
            mon = mon if reporter is None else reporter.step(i, mon)
        finish(held, train, mon, reporter)

    return run


def beside(x: jax.Array, reporter: trm.Reporter) -> Run:
    """The update as a program of its own, behind the step."""
    train_step = jax.jit(step, donate_argnums=0)
    held = [init_train(), ACC.init()]

    def run() -> None:
        train, mon = held
        for i in range(STEPS):
            train, rewards = train_step(train, x)
            mon = reporter.step(i, ACC.update_jit(mon, rewards))
        finish(held, train, mon, reporter)

    return run


def with_callback(x: jax.Array, reporter: trm.Reporter) -> Run:
    """A callback inside the step, which fires every ten steps."""
    callback = reporter.callback

    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(train: Tree, mon: trm.MonitorState, x: jax.Array) -> tuple[Tree, trm.MonitorState]:
        train, rewards = step(train, x)
        return train, ACC.update_and_emit(mon, rewards, callback)

    held = [init_train(), ACC.init()]

    def run() -> None:
        train, mon = held
        for _ in range(STEPS):
            train, mon = train_step(train, mon, x)
        finish(held, train, mon, reporter)

    return run


def bare_scan(x: jax.Array) -> Run:
    """All steps in one program, without the monitor."""
    xs = jnp.broadcast_to(x, (STEPS // EVERY, EVERY, *x.shape))
    inner = lambda train, x: (step(train, x)[0], None)  # noqa: E731
    scan = jax.jit(lambda train, xs: jax.lax.scan(lambda t, x: jax.lax.scan(inner, t, x), train, xs), donate_argnums=0)
    held = [init_train()]

    def run() -> None:
        held[0], _ = scan(held[0], xs)
        jax.block_until_ready(held[0])

    return run


def scan_with_rows(x: jax.Array, reporter: trm.Reporter) -> Run:
    """All steps in one program, one packed row per ten."""
    xs = jnp.broadcast_to(x, (STEPS // EVERY, EVERY, *x.shape))
    scan = jax.jit(lambda train, mon, xs: jax.lax.scan(ACC.scan_chunk(step), (train, mon), xs), donate_argnums=(0, 1))
    held = [init_train(), ACC.init()]

    def run() -> None:
        (train, mon), rows = scan(*held, xs)
        reporter.write_rows(rows)
        finish(held, train, mon, reporter)

    return run


def finish(held: list[Any], train: Tree, mon: trm.MonitorState, reporter: trm.Reporter | None) -> None:
    """Keep the states for the next run, and wait for the device and the file."""
    held[:] = jax.block_until_ready((train, mon))
    if reporter is not None:
        reporter.flush()


def variants(directory: Path) -> tuple[dict[str, Run], list[trm.Reporter]]:
    """Return what is timed, by name, and what has to be closed."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, TOKENS, WIDTH)), jnp.float32)
    names = ("fused, pull", "beside, pull", "fused, callback", "scan, packed rows")
    pull, pull_beside, callback, rows = reporters = [trm.Reporter(ACC, run_dir=directory / name) for name in names]
    runs = {
        "bare": bare(x),
        "bare again": bare(x),
        "fused, not read": fused(x, None),
        "fused, pull": fused(x, pull),
        "beside, pull": beside(x, pull_beside),
        "fused, callback": with_callback(x, callback),
        "scan, bare": bare_scan(x),
        "scan, packed rows": scan_with_rows(x, rows),
    }
    return runs, reporters


# Measuring and printing


def interleave(runs: dict[str, Run], rounds: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return milliseconds per step, float[rounds], by name."""
    for run in runs.values():  # compile
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in (name for _ in range(rounds) for name in rng.permutation(list(runs))):
        start = time.perf_counter()
        runs[name]()
        times[name].append(1e3 * (time.perf_counter() - start) / STEPS)
    return {name: np.array(values) for name, values in times.items()}


def overhead(directory: Path, name: str) -> float | None:
    """Return the median of what the training thread spent in `Reporter.step`, in microseconds per step."""
    if not (directory / name).is_dir():
        return None
    key = "monitoring/overhead_ms"
    values = [r.scalars[key] for r in trm.read_records(directory / name) if key in r.scalars]
    return 1e3 * float(np.median(values)) if values else None


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return one row per variant."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        runs, reporters = variants(directory)
        times = interleave(runs, rounds, np.random.default_rng(2))
        for reporter in reporters:
            reporter.close()
        rows = []
        for what, values in times.items():
            base = times[RATIOS_TO.get(what, "bare")]
            ratio = None if what in ("bare", "scan, bare") else quartiles(values / base)
            added = None if ratio is None else quartiles(1e3 * (values - base))
            row = {"what": what, "ms per step": quartiles(values), "least ms": float(values.min()), "x bare": ratio}
            rows.append(row | {"added us": added, "in step(), us": overhead(directory, what)})
    return rows


def text_of(result: dict[str, Any]) -> str:
    """Return the table."""
    lines = [f"{key}: {result[key]}" for key in ("rounds", "step")]
    lines += ["", "Median (p25-p75) over the rounds; ratios and differences within a round.", ""]
    lines += [table(result["rows"], COLUMNS), ""]
    return "\n".join(
        [*lines, '"in step(), us": wall time of the training thread in Reporter.step, without compilation.']
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole, default=30, help="default: %(default)s")
    add_json(parser)
    options = parser.parse_args()
    rows = measure(options.rounds)
    leaves = len(jax.tree.leaves(init_train()))
    result = {
        "environment": environment("transfer"),
        "rounds": f"{options.rounds} of {STEPS} steps each",
        "step": f"{leaves} leaves in and out, {LAYERS} layers of {WIDTH}, {BATCH * TOKENS} tokens; 4 x 512 rewards",
        "rows": rows,
    }
    publish(result, text_of(result), options.json)


if __name__ == "__main__":
    main()
