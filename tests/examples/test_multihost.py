"""The example of several processes, run as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "examples/multihost.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_two_processes_train_together_and_one_of_them_writes(tmp_path):
    done = run("--devices", "2", "--steps", "30", "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-2000:]
    digests = re.findall(r"process (\d): summary (\w+)", done.stdout)
    assert sorted(index for index, _ in digests) == ["0", "1"]
    assert len({digest for _, digest in digests}) == 1
    assert "2 x 2 devices, 4 records" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [(("--processes", "3"), 2, "got 12, allowed: what 32"), (("--timeout", "0.1"), 1, "failed, exit statuses")],
)
def test_what_cannot_work_ends_with_a_message(arguments, status, text):
    done = run(*arguments)
    assert done.returncode == status
    assert text in done.stderr
