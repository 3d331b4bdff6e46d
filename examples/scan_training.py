"""Whole runs on the device: thousands of GRPO steps in `lax.scan`, a population of seeds in `vmap`, all of it watched.

    python examples/scan_training.py                      # four seeds of 3000 steps, each at another learning rate
    python examples/scan_training.py --seeds 8 --steps 5000

The host sees nothing until the program is done. Then it gets one packed row per seed and chunk of steps, and a
reporter of its own writes the log of each seed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

import tunrex_jax_monitor as trm

PROMPTS, COMPLETIONS, ACTIONS = 8, 8, 6
ACC = trm.RewardAccumulator(("answer", "style"), group_size=COMPLETIONS, correct_reward="answer", log_frequency=50)


class Learner(NamedTuple):
    """What one seed carries through its run."""

    logits: jax.Array  # float32[PROMPTS, ACTIONS]: a policy without context but the prompt
    rate: jax.Array  # float32[]
    key: jax.Array


def step(learner: Learner, _: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
    """One step of GRPO on a bandit: action 0 is the answer, and the later actions have more style."""
    key, draw = jax.random.split(learner.key)
    action = jax.random.categorical(draw, learner.logits[:, None], shape=(PROMPTS, COMPLETIONS))
    rewards = {"answer": (action == 0).astype(jnp.float32), "style": action.astype(jnp.float32) / ACTIONS}
    total = rewards["answer"] + rewards["style"]
    centered = total - total.mean(axis=1, keepdims=True)
    advantage = centered / (total.std(axis=1, keepdims=True) + 1e-4)
    chosen = jax.nn.one_hot(action, ACTIONS) - jax.nn.softmax(learner.logits)[:, None]
    gradient = jnp.mean(advantage[..., None] * chosen, axis=1)
    return learner._replace(logits=learner.logits + learner.rate * gradient, key=key), rewards


def train(seed: jax.Array, rate: jax.Array, numbers: jax.Array) -> tuple[Learner, trm.MonitorState, jax.Array]:
    """Run one seed from its first to its last step; `numbers` are those of the steps, [chunks, steps of a chunk]."""
    learner = Learner(jnp.zeros((PROMPTS, ACTIONS)), rate, jax.random.key(seed))
    (learner, mon), rows = jax.lax.scan(ACC.scan_chunk(step), (learner, ACC.init()), numbers)
    return learner, mon, rows


def report(mon: trm.MonitorState, rows: jax.Array, run_dir: Path) -> list[trm.Record]:
    """Write the log of one seed, and return its records."""
    with trm.Reporter(ACC, run_dir=run_dir) as reporter:
        reporter.write_rows(rows)
        reporter.close(mon)
    return trm.read_records(run_dir)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=4, help="runs side by side (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="steps of each, in chunks of 50 (default: %(default)s)")
    parser.add_argument("--run-dir", type=Path, help="where the logs go (default: a temporary directory)")
    options = parser.parse_args(arguments)
    if min(options.seeds, options.steps) < 1:
        parser.error("--seeds and --steps: allowed is 1 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Train the population, then tell how each seed went."""
    options = parse(arguments)
    run_dir = options.run_dir or Path(tempfile.mkdtemp(prefix="scan-"))
    chunks = -(-options.steps // ACC.log_frequency)
    numbers = jnp.arange(chunks * ACC.log_frequency).reshape(chunks, -1)
    rates = 0.02 * 4.0 ** jnp.arange(options.seeds)
    population = jax.jit(jax.vmap(train, in_axes=(0, 0, None)))
    print("compiling the whole run into one program ...", flush=True)
    start = time.perf_counter()
    compiled = population.lower(jnp.arange(options.seeds), rates, numbers).compile()
    print(f"compiled in {time.perf_counter() - start:.1f} s; longer runs and more seeds do not add to it")
    start = time.perf_counter()
    _, mons, rows = jax.block_until_ready(compiled(jnp.arange(options.seeds), rates, numbers))
    seconds = time.perf_counter() - start
    print(f"{options.seeds} seeds x {numbers.size} steps in {seconds:.1f} s; logs in {run_dir}")
    for seed in range(options.seeds):
        mon = jax.tree.map(lambda leaf, seed=seed: leaf[seed], mons)
        records = report(mon, rows[seed], run_dir / f"seed-{seed}")
        last = records[-1].scalars
        first = {f"{alert.reward}/{alert.type}": alert.step for r in reversed(records) for alert in reversed(r.alerts)}
        print(f"seed {seed}, rate {rates[seed]:.2f}: answer {last['answer/interval/mean']:.3f},", end=" ")
        print(f"groups without variance {last['frac_reward_zero_std']:.3f}; first alerts:", end=" ")
        print(", ".join(f"{what} {step}" for what, step in sorted(first.items(), key=lambda item: item[1])) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
