"""One process of a job: `python -m tests.distributed.worker SCENARIO FOLDER PROCESSES DEVICES INDEX PORT`."""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tunrex_jax_monitor as trm
from tests.device.support import LEAN as ACC
from tunrex_jax_monitor.host import processes

SHAPE, STEPS, DIES_AT = (8, 4), 22, 13  # ACC emits every four steps
P = PartitionSpec


def batch(seed: int) -> np.ndarray:
    """A step of the whole job: an offset that float32 can just see, another scale at each step, and a NaN."""
    rng = np.random.default_rng([41, seed])
    x = 1e4 + 10.0 ** rng.uniform(-2, 2) * rng.normal(size=SHAPE)
    x[0, 0] = np.nan
    return x.astype(np.float32)


def wait_for_lines(path: Path, count: int, seconds: float = 60.0) -> None:
    """Wait until another process has written its records, so that none is in flight."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (not path.exists() or path.read_text().count("\n") < count):
        time.sleep(0.05)


class Job:
    """A mesh over all devices of the job, and the jitted update on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        self.whole, self.split = (NamedSharding(mesh, spec) for spec in (P(), P("data")))
        shards = {"mesh": mesh, "in_specs": (P(), P("data")), "out_specs": P()}
        self.steps = {
            "jit": lambda state, x: ACC.update(state, {"x": x}),
            "shard_map": jax.shard_map(lambda state, x: ACC.update(state, {"x": x}, axis_name="data"), **shards),
        }

    def place(self, x: np.ndarray) -> jax.Array:
        mine = np.split(x, jax.process_count())[jax.process_index()]
        return jax.make_array_from_process_local_data(self.split, mine)

    def train(self, how: str, dies: bool = False) -> trm.MonitorState:
        """Run the loop of a user, the same in every process."""
        state = jax.jit(ACC.init, out_shardings=self.whole)()
        step = jax.jit(self.steps[how], donate_argnums=0)
        with trm.Reporter(ACC, run_dir=self.folder / how) as reporter:
            for seed in range(STEPS):
                state = jax.block_until_ready(step(state, self.place(batch(seed))))  # gloo deadlocks on several steps
                state = reporter.step(seed, state)
                if dies and seed == DIES_AT and jax.process_index() == 1:
                    wait_for_lines(self.folder / how / "records.jsonl", seed // ACC.log_frequency)
                    os._exit(9)
        return state


def everything(job: Job) -> dict[str, object]:
    """Both ways over shards; a reporter of another configuration; one that the others do not make."""
    found: dict[str, object] = {}
    for how in job.steps:
        leaves = [np.asarray(leaf) for leaf in job.train(how)]
        found[how] = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
        np.savez(job.folder / f"{how}-{jax.process_index()}.npz", *leaves)
    found["differ"] = refusal_of(5 + jax.process_index())
    trm.Reporter(trm.RewardAccumulator(("y",), log_frequency=5 + jax.process_index()), shared=False).close()
    found |= facade(job.folder / "facade")
    if jax.process_index() == 0:
        processes.WAIT_SECONDS = 1.0
        trm.Reporter(ACC).close()
    return found


def refusal_of(log_frequency: int, run_dir: Path | None = None) -> str | None:
    """What a reporter of that frequency is refused with."""
    try:
        trm.Reporter(trm.RewardAccumulator(("x",), log_frequency=log_frequency), run_dir=run_dir).close()
    except (ValueError, FileExistsError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def refusals(folder: Path) -> dict[str, str | None]:
    """What each of four processes hears: one differs; one is late and another differs; the directory is in use."""
    index = jax.process_index()
    found = {"differ": refusal_of(5 + (index == 1))}
    processes.WAIT_SECONDS = 3.0
    if index == 1:
        next(processes._reporters)  # it does not come
    else:
        found["one missing"] = refusal_of(5 + (index == 3))
    multihost_utils.sync_global_devices("late")
    processes.WAIT_SECONDS = 60.0
    found["in use"] = refusal_of(5, folder / "jit")
    trm.Reporter(ACC).flush_on_sigterm()
    trm.setup_grpo_monitoring(
        [lambda completions: [0.0]], output_dir=folder / f"of-{index}", use_wandb=False, verbose=False
    ).flush_on_sigterm()
    found["handler"] = str(signal.getsignal(signal.SIGTERM))
    return found


def facade(folder: Path) -> dict[str, object]:
    monitoring = trm.setup_grpo_monitoring(
        [lambda completions: [float(len(c)) for c in completions]],
        reward_names=["length"],
        output_dir=folder / f"of-{jax.process_index()}",
        visualization_frequency=0,
        log_frequency=1,
    )
    (length,) = monitoring.get_wrapped_reward_functions()
    for step in range(2):
        length(["a", "abc"])
        monitoring.update_step(step)
    monitoring.finalize()
    return {"uses_wandb": monitoring.metrics_logger.use_wandb, "draws": monitoring.visualizer is not None}


def main(scenario: str, folder: Path, count: int, devices: int, index: int, port: str) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    bounds = {"initialization_timeout": 60, "heartbeat_timeout_seconds": 10, "shutdown_timeout_seconds": 30}
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index, **bounds)
    job = Job(folder)
    if scenario == "everything":
        found = everything(job)
    else:
        state = job.train("jit", dies=scenario == "dies")
        found = {"jit": hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in state)).hexdigest()}
        found |= refusals(job.folder) if scenario == "plain" else {}
    (folder / f"result-{index}.json").write_text(json.dumps(found))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
