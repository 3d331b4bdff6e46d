"""What `update_step` and a wrapped reward function cost the training thread, by rewards and window.

    python benchmarks/update_step.py

Each step calls every wrapped function once on 64 completions, then `update_step`; the thread beside the training folds
the step in meanwhile, and is waited for between the timed calls.
"""

import argparse
import itertools
import tempfile
import time

import numpy as np
from measuring import add_json, environment, progress, publish, quartiles, table

import tunrex_jax_monitor as trm

REWARDS, WINDOWS = (1, 4, 16), (100, 1000, 5000, 20_000)
STEPS, WARM, COMPLETIONS = 60, 10, 64
COLUMNS = {"rewards": 0, "window": 0, "update_step": 0, "wrapper, per call": 0}


def measure(rewards: int, window: int, folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the microseconds of `update_step`, and of what a wrapper adds to one call, per step."""
    values = np.random.default_rng(0).normal(size=COMPLETIONS).tolist()

    def reward(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        return values

    monitoring = trm.setup_grpo_monitoring(
        [reward] * rewards, reward_names=[f"r{i}" for i in range(rewards)], use_wandb=False, verbose=False,
        output_dir=folder, visualization_frequency=0, window_size=window,
    )  # fmt: skip
    wrapped, prompts = monitoring.get_wrapped_reward_functions(), ["p"] * COMPLETIONS
    of_step, of_call = [], []
    for step in range(STEPS):
        completions = ["c"] * COMPLETIONS
        start = time.perf_counter()
        for function in wrapped:
            function(prompts=prompts, completions=completions, mode="train")
        called = time.perf_counter()
        for _ in wrapped:
            reward(prompts=prompts, completions=completions)
        bare = time.perf_counter()
        monitoring.update_step(step)
        of_step.append(time.perf_counter() - bare)
        of_call.append((2 * called - start - bare) / rewards)
        monitoring.flush(60.0) if step % 10 == 9 else time.sleep(0.02)
    monitoring.finalize()
    return 1e6 * np.array(of_step[WARM:]), 1e6 * np.array(of_call[WARM:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    options = parser.parse_args()
    rows = []
    for rewards, window in progress(list(itertools.product(REWARDS, WINDOWS)), "size"):
        with tempfile.TemporaryDirectory() as folder:
            of_step, of_call = measure(rewards, window, folder)
        cells = {"update_step": quartiles(of_step), "wrapper, per call": quartiles(of_call)}
        rows.append({"rewards": rewards, "window": window, **cells})
    text = f"Microseconds: median (quartiles) of {STEPS - WARM} steps.\n\n" + table(rows, COLUMNS)
    publish({"environment": environment("update_step"), "rows": rows}, text, options.json)


if __name__ == "__main__":
    main()
