"""Jobs of several processes on this machine: started over loopback, bounded in time, ended whatever happens."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 150.0


def run(scenario: str, processes: int, devices: int, folder: Path) -> list[int]:
    """Run `tests.distributed.worker` as every process of a job; return the exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running: list[subprocess.Popen] = []
    end = time.monotonic() + TIMEOUT_SECONDS
    try:
        for index in range(processes):
            running.append(_start([scenario, folder, processes, devices, index, port], folder, index))
        return [process.wait(max(0.1, end - time.monotonic())) for process in running]
    finally:
        for process in running:
            process.kill()  # no effect on one that has ended
            process.wait()


def _start(arguments: list[object], folder: Path, index: int) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.distributed.worker", *map(str, arguments)]
    with (folder / f"output-{index}.txt").open("w") as file:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)


def output(folder: Path, index: int) -> str:
    return (folder / f"output-{index}.txt").read_text()


def result(folder: Path, index: int) -> dict[str, Any]:
    """What a process wrote down of its scenario."""
    return json.loads((folder / f"result-{index}.json").read_text())
