"""The GRPO example, run as a reader runs it: in a process of its own, with a shorter warm-up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "train_grpo.py"
# A small model and batch: what is tested here does not depend on how well it learns.
QUICK = """
import sys
import train_grpo as example
example.PROMPTS, example.WARM_UP_STEPS = 4, 5
example.MODEL = example.Transformer(width=16, layers=1, heads=2)
example.main(sys.argv[1:])
"""


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLE.parent), str(ROOT)]), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


def quick(*options: str, cwd: Path) -> str:
    done = run("-W", "error", "-c", QUICK, *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def parameters(output: str) -> str:
    match = re.search(r"^parameters: ([0-9a-f]{16}) ", output, re.MULTILINE)
    assert match, output
    return match[1]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> tuple[str, Path]:
    cwd = tmp_path_factory.mktemp("watched")
    return quick("--steps", "25", "--inject", "nan", "--run-dir", "run", cwd=cwd), cwd


def test_run_ends_with_summary_alerts_and_run_directory(watched):
    output, _ = watched
    assert output.isascii()
    positions = [output.index(part) for part in ("Reward Monitoring Summary", "\nalerts: ", "\nrun directory: run\n")]
    assert positions == sorted(positions)


def test_progress_line_for_every_interval(watched):
    output, _ = watched
    lines = re.findall(r"^ +(\d+)(?: +[0-9.]+){6}$", output, re.MULTILINE)
    assert [int(step) for step in lines] == [9, 19, 24]


def test_planted_nan_is_caught_in_its_step(watched):
    output, _ = watched
    assert "planted at step 12: nan; expected: NONFINITE answer; seen at step 12\n" in output


def test_run_directory_holds_records_of_all_rewards(watched):
    from tunrex_jax_monitor.host.rundir import read_records

    _, cwd = watched
    records = read_records(cwd / "run")
    assert records[-1].step == 24
    assert records[-1].names == ("format_exact", "format_approx", "answer", "length")
    assert records[-1].scalars["answer/nonfinite_count"] == 1


def test_monitor_does_not_change_the_parameters(watched, tmp_path):
    output, _ = watched
    bare = quick("--steps", "25", "--inject", "nan", "--no-monitor", cwd=tmp_path)
    assert parameters(bare) == parameters(output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "0"), "argument --steps: got '0', allowed: a whole number from 1"),
        (("--seed", "-1.5"), "argument --seed: got '-1.5', allowed: a whole number from 0"),
        (("--inject", "gremlin"), "invalid choice: 'gremlin'"),
        (("--run-dir", "."), "--run-dir: . is not an empty directory. Name a new one"),
        (("--run-dir", "x", "--no-monitor"), "--run-dir: there is nothing to write with --no-monitor"),
    ],
)
def test_bad_argument_is_refused_with_a_reason(options, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "precious").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import train_grpo

    with pytest.raises(SystemExit, match="2"):
        train_grpo.parse_arguments(options)
    assert message in capsys.readouterr().err
