"""The GRPO example, small, in a process of its own: its libraries need not share this suite's strict settings."""

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
import train_grpo as example
example.PROMPTS, example.WARM_UP_STEPS = 4, 5
example.MODEL = example.Transformer(width=16, layers=1, heads=2)
fault = ["--steps", "25", "--inject", "nan"]
example.main([*fault, "--run-dir", "run"])
print("BARE")
example.main([*fault, "--no-monitor"])
"""


def parameters(output: str) -> str:
    match = re.search(r"^parameters: ([0-9a-f]{16}) ", output, re.MULTILINE)
    assert match, output
    return match[1]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Output of the monitored and of the bare run, and where they ran."""
    cwd = tmp_path_factory.mktemp("example")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLE.parent), str(ROOT)]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-c", QUICK]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return *done.stdout.split("BARE\n"), cwd


def test_run_ends_with_summary_alerts_and_run_directory(quick):
    output, _, _ = quick
    assert output.isascii()
    positions = [
        output.index(part)
        for part in (
            "Reward Monitoring Summary",
            "\nalerts: ",
            "\nrun directory: run\nits report: tunrex-jax-monitor report run\n",
        )
    ]
    assert positions == sorted(positions)


def test_progress_line_for_every_interval(quick):
    output, _, _ = quick
    lines = re.findall(r"^ +(\d+)(?: +[0-9.]+){6}$", output, re.MULTILINE)
    assert [int(step) for step in lines] == [9, 19, 24]


def test_planted_nan_is_caught_in_its_step(quick):
    output, _, _ = quick
    assert "planted at step 12: nan; expected: NONFINITE answer; seen at step 12\n" in output


def test_run_directory_holds_records_of_all_rewards(quick):
    from tunrex_jax_monitor.host.rundir import read_records

    *_, cwd = quick
    records = read_records(cwd / "run")
    assert records[-1].step == 24
    assert records[-1].names == ("format_exact", "format_approx", "answer", "length")
    assert records[-1].scalars["answer/nonfinite_count"] == 1


def test_monitor_does_not_change_the_parameters(quick):
    output, bare, cwd = quick
    assert parameters(bare) == parameters(output)
    assert [path.name for path in cwd.iterdir()] == ["run"]


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
