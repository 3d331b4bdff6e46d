"""One monitored run over several processes, as on several hosts; here all of them are on this machine.

    python examples/multihost.py                              # two processes of four devices each
    python examples/multihost.py --processes 4 --devices 1    # the same numbers, to the bit

Every process runs the same loop on its part of the batch. The state is replicated, so each of them could read it; only
the first one writes `records.jsonl`. On real hosts leave the launcher out, start `train` on each of them, and let
`jax.distributed.initialize()` find the others.
"""

import argparse
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tunrex_jax_monitor as trm

PROMPTS, COMPLETIONS = 32, 8
ACC = trm.RewardAccumulator(("format", "answer"), group_size=COMPLETIONS, correct_reward="answer", log_frequency=10)


@partial(jax.jit, donate_argnums=(0, 1))
def train_step(skill, mon, luck):
    """A policy of one number: it learns, and forgets the format at the end."""
    answer = (luck[..., 0] < jax.nn.sigmoid(skill)).astype(jnp.float32)
    form = (luck[..., 1] < 1.0 - 0.8 * jax.nn.sigmoid(skill)).astype(jnp.float32)
    return skill + 0.05, ACC.update(mon, {"format": form, "answer": answer})


def train(options: argparse.Namespace) -> None:
    """What runs on every host."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    skill, mon = jax.jit(lambda: (jnp.float32(-2.0), ACC.init()), out_shardings=whole)()
    with trm.Reporter(ACC, [trm.ConsoleSink()], run_dir=options.run_dir) as reporter:
        for step in range(options.steps):
            luck = np.random.default_rng(step).random((PROMPTS, COMPLETIONS, 2), np.float32)
            mine = np.split(luck, jax.process_count())[jax.process_index()]  # a host loads its own part
            luck = jax.make_array_from_process_local_data(split, mine)
            skill, mon = train_step(skill, mon, luck)
            skill.block_until_ready()  # CPU devices only: steps in flight at once may wait for each other for ever
            mon = reporter.step(step, mon)
    words = np.asarray(jax.jit(ACC.pack)(mon))
    print(f"process {jax.process_index()}: summary {hashlib.sha256(words.tobytes()).hexdigest()[:12]}", flush=True)


def join_job(options: argparse.Namespace) -> None:
    """Meet the other processes; over loopback, on CPUs."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{options.port}",
        options.processes,
        options.index,
        initialization_timeout=60,
        heartbeat_timeout_seconds=10,
        shutdown_timeout_seconds=30,
    )


def launch(options: argparse.Namespace) -> int:
    """Start the processes, wait for them, and leave none behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options.run_dir = options.run_dir or tempfile.mkdtemp(prefix="multihost-")
    command = [sys.executable, __file__, "--port", str(port)]
    for name in ("processes", "devices", "steps", "run_dir"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(options.processes):
            quiet = {**os.environ, "GLOG_minloglevel": "2"}
            running.append(subprocess.Popen([*command, "--index", str(index)], env=quiet))
        statuses = wait_for_all(running, time.monotonic() + options.timeout)
    finally:
        for process in running:
            process.kill()  # no effect on one that has ended
            process.wait()
    if any(status != 0 for status in statuses):
        print(f"failed, exit statuses {statuses} (None: still running, and ended now)", file=sys.stderr)
        return 1
    records = trm.read_records(options.run_dir)
    print(f"{options.processes} x {options.devices} devices, {len(records)} records in {options.run_dir}")
    for record in records[:: max(1, len(records) // 5)]:
        print(f"step {record.step:4d}  answer {record.scalars['answer/interval/mean']:.3f}", end="  ")
        print(f"format {record.scalars['format/interval/mean']:.3f}")
    return 0


def wait_for_all(running: list[subprocess.Popen[bytes]], end: float) -> list[int | None]:
    """Return the exit statuses, as soon as all have ended or one has failed."""
    while True:
        statuses = [process.poll() for process in running]
        if all(status == 0 for status in statuses) or any(statuses) or time.monotonic() > end:
            return statuses
        time.sleep(0.1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, and refuse what does not divide."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="processes to start (default: %(default)s)")
    parser.add_argument("--devices", type=int, default=4, help="CPU devices of each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="training steps (default: %(default)s)")
    parser.add_argument("--run-dir", type=Path, help="where records go (default: a temporary directory)")
    parser.add_argument(
        "--timeout", type=float, default=180.0, help="seconds until all is ended (default: %(default)s)"
    )
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if min(options.processes, options.devices, options.steps) < 1:
        parser.error("--processes, --devices and --steps: allowed is 1 or more")
    if PROMPTS % (options.processes * options.devices):
        parser.error(
            f"--processes times --devices: got {options.processes * options.devices}, allowed: what {PROMPTS} "
            "prompts can be divided by, such as 2 x 4 or 4 x 1"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Launch, or be one of those that were launched."""
    options = parse(arguments)
    if options.index is None:
        return launch(options)
    join_job(options)
    train(options)
    jax.distributed.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
