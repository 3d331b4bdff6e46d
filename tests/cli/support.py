"""What the tests of the command line share: a run of a few hundred steps on disk, and two ways to call a command."""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner, Result

from tests.host.report import runs
from tunrex_jax_monitor.cli import commands
from tunrex_jax_monitor.host.files import to_json
from tunrex_jax_monitor.host.history import History

STEPS, REWARDS = 400, 4
ROOT = Path(__file__).parents[2]


def call(*arguments: object, code: int = 0) -> Result:
    """Call a command in this process, and check how it ends."""
    result = CliRunner().invoke(commands, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def call_json(*arguments: object, code: int = 0) -> dict:
    """Call a command with --json: what it prints is one strict JSON document with a schema."""
    document = json.loads(call(*arguments, "--json", code=code).stdout, parse_constant=refuse)
    assert document["schema"] == 1
    return document


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def spawn(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    """Call a command as a process; output is text unless said."""
    return subprocess.run(command(*arguments), **{"capture_output": True, "text": True, **environment(), **options})


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tunrex_jax_monitor", *map(str, arguments)]


def environment(**variables: str) -> dict:
    return {"env": {**os.environ, "PYTHONPATH": str(ROOT), **variables}, "timeout": 120}


@functools.cache
def run_dir() -> Path:
    """Return a run with faults; tests read it and write nothing into it."""
    folder = tempfile.mkdtemp(prefix="tunrex-cli-")
    atexit.register(shutil.rmtree, folder)
    return runs.write(Path(folder) / "run-a", steps=STEPS, rewards=REWARDS)


def healthy(path: Path, **options: object) -> Path:
    """Write a run without faults."""
    return runs.write(path, **{"steps": STEPS, "rewards": REWARDS, "faults": False, **options})


def export_file(path: Path) -> Path:
    """Write the run as a monitoring_data.json."""
    path.write_text(to_json(History.read(run_dir()).to_export()))
    return path
