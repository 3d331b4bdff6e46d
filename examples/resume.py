"""A run that is killed and goes on: `python examples/resume.py` kills itself twice and shows that no step is missing.

The monitor's state is an item of its own in an Orbax checkpoint, and the log goes on in the directory it began in. The
first life has eight (pretended) devices, the others one: a checkpoint does not mind.
"""

import argparse
import functools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import tunrex_jax_monitor as trm

STEPS, SAVE_EVERY = 60, 15
LIVES = ((8, 23), (1, 41), (1, None))  # devices, and the step that the life does not survive
Params = dict[str, jax.Array]
ACC = trm.RewardAccumulator(("format", "answer"), group_size=4, log_frequency=10)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params: Params, mon: trm.MonitorState, key: jax.Array) -> tuple[Params, trm.MonitorState]:
    """Stand in for yours."""
    x = jax.random.uniform(key, (2, 8, 4))
    return {"skill": params["skill"] * 1.01}, ACC.update(mon, {"format": x[0] < 0.9, "answer": x[1] < params["skill"]})


def train(folder: Path, dies_at: int | None) -> None:
    """Go on behind the newest checkpoint, if there is one, to the end."""
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        saved_at = manager.latest_step()
        params = {"skill": jnp.full((), 0.3)}
        if saved_at is not None:
            params = manager.restore(saved_at, args=ocp.args.Composite(train=ocp.args.StandardRestore(params))).train
        mon = trm.restore_or_init(ACC, manager)
        first = 0 if saved_at is None else saved_at + 1
        print(f"begins at step {first} on {jax.device_count()} devices", flush=True)
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        params, mon = jax.device_put((params, mon), everywhere)
        with trm.Reporter(ACC, [trm.JsonlSink(folder / "log", resume=True)]) as reporter:
            reporter.flush_on_sigterm()
            for step in range(first, STEPS):
                key = jax.device_put(jax.random.fold_in(jax.random.key(0), step), everywhere)
                params, mon = train_step(params, mon, key)
                mon = reporter.step(step, mon)
                if step == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if (step + 1) % SAVE_EVERY == 0:
                    mon = reporter.flush(mon)
                    items = {"train": params, "monitor": trm.to_checkpoint(ACC, mon)}
                    args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
                    manager.save(step, args=ocp.args.Composite(**args))
                    manager.wait_until_finished()  # so that the next life is sure to find it


def main() -> None:
    """Live three times, then read the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--life", type=int, choices=range(len(LIVES)), help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    folder = (options.run_dir or Path(tempfile.mkdtemp(prefix="resume-"))).resolve()
    if options.life is not None:
        devices, dies_at = LIVES[options.life]
        jax.config.update("jax_num_cpu_devices", devices)
        train(folder, dies_at)
        return
    for life in range(len(LIVES)):
        command = [sys.executable, __file__, "--life", str(life), "--run-dir", str(folder)]
        status = subprocess.run(command, check=False).returncode
        print("killed" if status == -signal.SIGKILL else f"ended with {status}", flush=True)
    history = trm.History.read(folder / "log")
    means = np.array(history.series["answer/mean"])
    is_whole = history.series["step"] == list(range(STEPS)) and bool(np.isfinite(means).all())
    print(f"steps in {folder / 'log'}: {len(means)}, each once and in order: {is_whole}")
    print(f"samples of the whole run: {history.last.scalars['answer/run/count']:.0f}" if history.last else "no record")


if __name__ == "__main__":
    main()
