"""The example that is killed twice, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.rundir import read_manifest

ROOT = Path(__file__).parents[2]


def test_a_run_of_three_lives_and_two_kinds_of_machine_is_one_run(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, ROOT / "examples" / "resume.py", "--run-dir", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == ["begins at step 0 on 8 devices", "killed", "begins at step 15 on 1 devices", "killed"]
    assert lines[-2].endswith("60, each once and in order: True")
    history = History.read(tmp_path / "log")
    assert history.series["step"] == list(range(60))
    assert history.last.scalars["answer/run/count"] == 60 * 32
    second, third = (entry["after_step"] for entry in read_manifest(tmp_path / "log")["resumed"])
    assert (second, third) in ((14, 29), (14, 39))  # the emission of step 39 may have been in flight at the kill
