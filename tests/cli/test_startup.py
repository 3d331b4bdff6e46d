"""What a command loads. (What that costs is measured elsewhere: tests assert no times.)"""

import json
import subprocess
import sys
import tomllib

import pytest

from tests.cli.support import ROOT, environment, run_dir, spawn

ASK = """
import sys
from tunrex_jax_monitor.cli import commands
try:
    commands(sys.argv[1:])
finally:
    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)
"""
HEAVY = {"jax", "jaxlib", "jaxtyping", "wandb", "tensorboardX", "rich"}


def loaded_by(*arguments):
    command = [sys.executable, "-c", ASK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **environment())
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [
    ("--help",), ("--version",), ("show", run_dir()), ("alerts", run_dir()), ("report", run_dir(), "-o", "-"),
    ("compare", run_dir(), "COPY"), ("export", run_dir(), "--to", "csv", "-o", "-"),
], ids=lambda arguments: arguments[0])  # fmt: skip
def test_reading_a_run_loads_neither_jax_nor_what_it_does_not_use(arguments, tmp_path):
    copy = tmp_path / "copy"
    copy.symlink_to(run_dir())
    loaded = loaded_by(*(copy if argument == "COPY" else argument for argument in arguments))
    assert "click" in loaded
    assert not loaded & (HEAVY | {"matplotlib"})


def test_help_needs_no_numpy_and_names_every_command():
    assert "numpy" not in loaded_by("--version")
    out = spawn("--help").stdout
    assert all(
        f"  {name} " in out for name in ("demo", "show", "alerts", "report", "compare", "export", "watch", "doctor")
    )


@pytest.mark.parametrize("command", ["demo", "show", "alerts", "report", "compare", "export", "watch", "doctor"])
def test_every_command_has_help_and_json(command):
    out = spawn(command, "-h").stdout
    assert out.startswith(f"Usage: python -m tunrex_jax_monitor {command}")
    assert "--json" in out


def test_the_console_script_is_the_same_program():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"tunrex-jax-monitor": "tunrex_jax_monitor.cli:commands"}
    assert spawn("--version").stdout.startswith("tunrex-jax-monitor, version ")


def test_an_unknown_command_is_wrong_usage():
    done = spawn("shwo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'shwo'" in done.stderr


def test_json_is_written_without_escapes_for_terminals():
    assert json.loads(spawn("show", run_dir(), "--json").stdout)["schema"] == 1
