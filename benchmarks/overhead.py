"""What it costs a real GRPO train step to be watched: by this monitor, and by what else a user would pick.

    python benchmarks/overhead.py                            # the model of examples/train_grpo.py; larger on a chip
    python benchmarks/overhead.py --prompts 4                # a shorter step
    python benchmarks/overhead.py --json overhead.json --picture overhead.png --profile trace

In each round every variant runs one block of steps that nobody waits for, until everything is computed and written,
and one in which each step is waited for. All blocks of a round come in random order, and ratios are taken within it:

    ms per step   of the first block, its end included: what training pays
    thread        of the same, until the last call came back: how long Python was held
    dispatch      of the second block: the call of the jitted step, until it returns
    device        from there until `jax.block_until_ready` returns
    host          what follows a step on the training thread: `Reporter.step`, numpy, reading a peer's metrics

"bare again" is the bare step once more: what it differs by is noise. "jitted x + 1" is the bare step and one call of
that behind it: a yardstick for host times, since a step leaves no cache warm for what comes after it. `device_get`
waits for the device by itself, which only the first block shows. Emissions lie in the middle between the ends of a
block, so that what they start is in it. The peers hold a mean and a standard deviation; numpy and the callback add
extremes and five percentiles.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from drawing import draw
from measuring import add_json, environment, in_rounds, progress, publish, quartiles, table, uncached, whole
from variants import EVERY, NAMES, SIZES, Variant, accumulator, load_example, packed_bytes, variants

import tunrex_jax_monitor as trm

COLUMNS = {
    "watched by": 0, "ms per step": 3, "x bare": 3, "added, us": 0, "thread, ms": 3, "dispatch, us": 0,
    "device, ms": 3, "host, us": 0, "bytes to host per 10 steps": 0,
}  # fmt: skip


class Block(NamedTuple):
    """What one round says of one variant; seconds."""

    wall: float  # per step, nobody waiting
    thread: float
    dispatch: np.ndarray  # float[steps], each waited for; so are the next two
    device: np.ndarray
    host: np.ndarray


class Loop:
    """A training loop of one variant."""

    def __init__(self, variant: Variant, inputs: tuple[Any, Any]):
        self.variant, self.inputs = variant, inputs
        self.count = 0

    def advance(self, *, wait: bool = False) -> tuple[float, float, float]:
        """Make one step; returns the seconds of its dispatch, of the device (0 unless waited for) and of the host."""
        variant, (train, mon) = self.variant, self.variant.held
        begun = time.perf_counter()
        train, mon, _ = variant.step(train, mon, *self.inputs)
        called = time.perf_counter()
        if wait:
            jax.block_until_ready((train, mon))
        ready = time.perf_counter() if wait else called
        mon = variant.after(self.count, mon)
        done = time.perf_counter()
        variant.held, self.count = (train, mon), self.count + 1
        return called - begun, ready - called, done - ready

    def settle(self) -> None:
        """Wait for the device and the file."""
        jax.block_until_ready(self.variant.held)
        self.variant.finish()

    def stream(self, steps: int) -> tuple[float, float]:
        """Return the seconds per step of a block that nobody waits for: all of it, and of the Python thread."""
        start = time.perf_counter()
        for _ in range(steps):
            self.advance()
        returned = time.perf_counter()
        self.settle()
        return (time.perf_counter() - start) / steps, (returned - start) / steps

    def wait(self, steps: int) -> np.ndarray:
        """Return the seconds of dispatch, device and host of each step, float[3, steps], each waited for."""
        times = np.array([self.advance(wait=True) for _ in range(steps)]).T
        self.settle()
        return times

    def block(self, steps: int) -> Block:
        """Run both blocks."""
        return Block(*self.stream(steps), *self.wait(steps))


def compile_steps(example: ModuleType, found: dict[str, Variant], seed: int) -> tuple[Any, Any]:
    """Compile each variant's step and make its first states; returns the inputs that all share."""
    warm_up_key, key = jax.random.split(jax.random.key(seed))
    reference = jax.block_until_ready(example.warm_up(warm_up_key))
    for name in progress(list(found), "compiling step"):
        variant, fault = found[name], example.Fault(None, 0)
        params = jax.tree.map(jnp.copy, reference)
        train = example.TrainState(params, example.OPTIMIZER.init(params), jnp.zeros((), jnp.int32))
        variant.held = (train, variant.start())
        variant.step = example.train_step.lower(*variant.held, reference, key, variant.watcher, fault).compile()
    return reference, key


def compile_seconds(example: ModuleType, repeats: int) -> dict[str, np.ndarray]:
    """Return the seconds to trace and compile the bare and the monitored step, float[repeats], in turn, uncached."""
    acc, fault, key = accumulator(example), example.Fault(None, 0), jax.random.key(0)
    reference = jax.eval_shape(example.warm_up, key)
    train = example.TrainState(reference, jax.eval_shape(example.OPTIMIZER.init, reference), jnp.int32(0))
    mon = acc.init(batch_size=example.PROMPTS * example.GROUP_SIZE)
    seconds: dict[str, list[float]] = {"bare": [], "monitored": []}
    for i in progress(range(2 * repeats), "compilation"):
        name = ("bare", "monitored")[(i + i // 2) % 2]  # neither is always the first of its pair
        watched = (mon, acc) if name == "monitored" else (None, None)
        jax.clear_caches()
        with uncached():
            start = time.perf_counter()
            example.train_step.lower(train, watched[0], reference, key, watched[1], fault).compile()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def rows_of(found: dict[str, Variant], blocks: dict[str, list[Block]]) -> list[dict[str, Any]]:
    """Return one row per variant."""
    bare = np.array([block.wall for block in blocks["bare"]])
    rows = []
    for name, measured in blocks.items():
        wall = np.array([block.wall for block in measured])
        mean = {part: [getattr(block, part).mean() for block in measured] for part in ("dispatch", "device", "host")}
        rows.append({
            "watched by": name,
            "ms per step": quartiles(1e3 * wall),
            "x bare": None if name == "bare" else quartiles(wall / bare),
            "added, us": None if name == "bare" else quartiles(1e6 * (wall - bare)),
            "thread, ms": quartiles([1e3 * block.thread for block in measured]),
            "dispatch, us": quartiles(1e6 * np.array(mean["dispatch"])),
            "device, ms": quartiles(1e3 * np.array(mean["device"])),
            "host, us": quartiles(1e6 * np.array(mean["host"])),
            "bytes to host per 10 steps": found[name].bytes_per_interval,
        })  # fmt: skip
    return rows


def figures(blocks: list[Block], compiling: dict[str, np.ndarray], example: ModuleType) -> list[dict[str, Any]]:
    """Return the other things that the monitor costs; `blocks` are its own."""
    host = 1e6 * np.concatenate([block.host for block in blocks])  # emissions come in the middle of each EVERY steps
    emits = np.arange(len(host)) % EVERY == EVERY // 2 - 1
    wide = trm.RewardAccumulator(tuple(f"r{i}" for i in range(8)), log_frequency=EVERY)
    grouped = trm.RewardAccumulator(wide.reward_names, group_size=8, log_frequency=EVERY)
    rows = [
        {"what": "Reporter.step that does not emit, us", "value": quartiles(host[~emits])},
        {"what": "Reporter.step that emits, us", "value": quartiles(host[emits])},
        {"what": "bytes to the host per interval of 10 steps, here", "value": packed_bytes(accumulator(example), 1)},
        {"what": "the same for 8 rewards", "value": packed_bytes(wide, 1)},
        {"what": "the same for 8 rewards in groups of 8", "value": packed_bytes(grouped, 1)},
    ]
    if len(compiling["bare"]):
        added = 100 * (compiling["monitored"] / compiling["bare"] - 1)
        rows += [{"what": f"to compile the {name} step, s", "value": quartiles(v)} for name, v in compiling.items()]
        rows += [{"what": "compile time added, percent", "value": quartiles(added)}]
    return rows


def profile(loop: Loop, directory: Path, steps: int) -> None:
    """Write a trace of some monitored steps, for TensorBoard or Perfetto."""
    with jax.profiler.trace(str(directory)):
        for _ in range(steps):
            with jax.profiler.StepTraceAnnotation("train", step_num=loop.count):
                loop.advance()
        loop.settle()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    width, layers, prompts = SIZES["cpu" if jax.default_backend() == "cpu" else "chip"]
    parser.add_argument("--rounds", type=whole, default=20, help="default: %(default)s")
    parser.add_argument(
        "--steps", type=whole, default=20, help=f"of a block, a multiple of {EVERY} (default: %(default)s)"
    )
    parser.add_argument(
        "--width", type=whole, default=width, help="of the model, a multiple of 64 (default here: %(default)s)"
    )
    parser.add_argument("--layers", type=whole, default=layers, help="of the model (default here: %(default)s)")
    parser.add_argument(
        "--prompts", type=whole, default=prompts, help="per step, 8 completions each (default here: %(default)s)"
    )
    parser.add_argument(
        "--compilations", type=int, default=3, help="of both steps, without cache; 0 for none (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up-steps", type=int, help="of imitation, before anything is timed (default: the example's)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants to run beside `bare`")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write a jax.profiler trace of 20 monitored steps")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the table")
    add_json(parser)
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(NAMES):
        parser.error(f"--only: got {', '.join(sorted(unknown))}, allowed: {', '.join(NAMES)}.")
    if options.width % 64:
        parser.error(f"--width: got {options.width}, allowed: a multiple of 64. Use {64 * -(-options.width // 64)}.")
    if options.compilations < 0:
        parser.error(f"--compilations: got {options.compilations}, allowed: 0 for none, or more.")
    if options.steps % EVERY:
        parser.error(f"--steps: got {options.steps}, allowed: a multiple of {EVERY}. Use {EVERY} or {2 * EVERY}.")
    return options


def describe(example: ModuleType, params: Any, bare: Variant) -> str:
    """Say how large the step is."""
    parameters, leaves = sum(leaf.size for leaf in jax.tree.leaves(params)), len(jax.tree.leaves(bare.held))
    batch = f"{example.PROMPTS} x {example.GROUP_SIZE} completions, {len(example.REWARD_WEIGHTS)} rewards"
    return f"{parameters:,} parameters, {leaves} leaves in and out, {batch}"


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Return everything that is printed."""
    example = load_example(options.width, options.layers, options.prompts, options.warm_up_steps)
    compiling = compile_seconds(example, options.compilations)
    found, missing = variants(example, directory, ("bare", *(options.only or NAMES)))
    inputs = compile_steps(example, found, seed=0)
    loops = {name: Loop(variant, inputs) for name, variant in found.items()}
    for loop in loops.values():
        loop.stream(2 * EVERY + EVERY // 2)  # from here on emissions come in the middle
    blocks = in_rounds(
        {k: partial(v.block, options.steps) for k, v in loops.items()}, options.rounds, np.random.default_rng(0)
    )
    prints = {name: example.digest(variant.held[0].params) for name, variant in found.items()}
    if options.profile and "monitored" in loops:
        profile(loops["monitored"], options.profile, 2 * EVERY)
    for variant in found.values():
        variant.close()
    reference, _ = inputs
    return {
        "environment": environment("overhead"),
        "step": describe(example, reference, found["bare"]),
        "rounds": f"{options.rounds} of two blocks of {options.steps} steps each",
        "not installed": missing,
        "other parameters": [name for name, value in prints.items() if value != prints["bare"]],
        "rows": rows_of(found, blocks),
        "figures": figures(blocks["monitored"], compiling, example) if "monitored" in blocks else [],
    }


def text_of(result: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [f"step: {result['step']}", f"rounds: {result['rounds']}"]
    lines += (
        [f"not installed, and so not measured: {', '.join(result['not installed'])}"] if result["not installed"] else []
    )
    others = "; ".join(result["other parameters"])
    lines += [f"parameters at the end: {f'not those of the bare step: {others}' if others else 'bit-identical in all'}"]
    lines += ["", "Median (p25-p75) of the rounds; ratios within a round.", "", table(result["rows"], COLUMNS)]
    return "\n".join([*lines, "", table(result["figures"], {"what": 0, "value": 1})])


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        result = measure(options, Path(name))
    publish(result, text_of(result), options.json)
    if options.picture:
        draw(result, options.picture)


if __name__ == "__main__":
    main()
