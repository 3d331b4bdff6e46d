"""Who draws when: all files at the end, each on its own; those of a step in a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.host.report import runs
from tunrex_jax_monitor import RewardVisualizer
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.child import RenderChild
from tunrex_jax_monitor.host.report.render import main, write_final
from tunrex_jax_monitor.host.rundir import read_records

PICTURES = ["final_dashboard.png", "reward_history.png", "reward_distributions.png", "reward_statistics.png"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return runs.write(tmp_path_factory.mktemp("run") / "run", steps=60, rewards=2)


def names(path):
    return {file.name for file in path.iterdir()}


@pytest.mark.parametrize("name", ["one step", "empty", "named", "hostile", "whole"])
def test_the_final_files_are_there_for_any_run(tmp_path, name):
    named = History()
    named.begin_run({"config": {"reward_names": ["a", "b"]}})
    given = {
        "one step": lambda: History.of(runs.records(1, 2)),
        "empty": History,
        "named": lambda: named,
        "hostile": lambda: History.of(runs.records(60, names=runs.HOSTILE)),
        "whole": lambda: History.of(runs.records(60, 4)),
    }
    written = write_final(given[name](), tmp_path, RewardVisualizer())
    assert set(written) == names(tmp_path) == {"final_summary.html", *PICTURES}


def test_without_matplotlib_the_page_is_written_and_the_rest_is_told_once(tmp_path, caplog):
    assert write_final(History.of(runs.records(10, 2)), tmp_path, None) == ["final_summary.html"]
    assert caplog.text.count("matplotlib is not installed, so there are no pictures: pip install") == 1


def test_a_picture_that_fails_costs_itself_and_leaves_the_file_of_before(tmp_path, monkeypatch, caplog):
    (tmp_path / "reward_history.png").write_text("before")
    visualizer = RewardVisualizer()
    monkeypatch.setattr(visualizer, "plot_reward_history", lambda *_, **__: 1 / 0)
    written = write_final(History.of(runs.records(10, 2)), tmp_path, visualizer)
    assert set(written) == {"final_summary.html", *PICTURES} - {"reward_history.png"}
    assert (tmp_path / "reward_history.png").read_text() == "before"
    assert "reward_history.png was not written: ZeroDivisionError" in caplog.text


def test_a_child_draws_the_pictures_of_a_step(run_dir, tmp_path):
    child = RenderChild(run_dir, tmp_path)
    child.start(50)
    child.start(60)  # still busy with the first
    child.wait(120.0)
    assert names(tmp_path) == {"dashboard_step_50.png", "summary_step_50.html"}


def test_a_child_that_fails_is_told_once_with_what_it_said(tmp_path, caplog):
    child = RenderChild(tmp_path / "no_run", tmp_path)
    for step in (1, 2):
        child.start(step)
        child.wait(120.0)
    assert caplog.text.count("Pictures of a step could not be drawn (exit status 1: ") == 1
    assert "FileNotFoundError" in caplog.text


def test_a_child_that_takes_too_long_is_ended(run_dir, tmp_path, caplog):
    child = RenderChild(run_dir, tmp_path)
    child.start(1)
    child.wait(0.0)
    assert "exit status -9" in caplog.text
    assert not [name for name in names(tmp_path) if not name.startswith(".")]


HANGS = [sys.executable, "-c", "import time; time.sleep(3600)"]


def hanging(monkeypatch, child):
    """Let the next drawing process of a child do nothing, for ever; return it."""
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: real(HANGS, **options))
    child.start(1)
    monkeypatch.setattr(subprocess, "Popen", real)
    return child._running[0]


def test_a_child_that_hangs_is_ended_when_the_next_pictures_are_due(run_dir, tmp_path, monkeypatch, caplog):
    child = RenderChild(run_dir, tmp_path, longest_seconds=0.0)
    process = hanging(monkeypatch, child)
    child.start(2)
    assert process.wait(60) == -9
    child.start(3)
    child.wait(120.0)
    assert "exit status -9" in caplog.text
    assert "dashboard_step_3.png" in names(tmp_path)


def test_a_child_that_cannot_be_ended_is_left_behind(run_dir, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tunrex_jax_monitor.host.report.child._END_SECONDS", 0.1)
    child = RenderChild(run_dir, tmp_path)
    process = hanging(monkeypatch, child)
    with monkeypatch.context() as stuck:
        stuck.setattr(process, "kill", lambda: None)
        child.wait(0.1)
    assert not child.is_drawing
    assert "exit status None" in caplog.text
    process.kill()
    process.wait()


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="this system has no such priorities")
def test_the_child_has_low_priority_from_its_start(run_dir, tmp_path):
    child = RenderChild(run_dir, tmp_path)
    child.start(1)
    assert os.getpriority(os.PRIO_PROCESS, child._running[0].pid) == 19
    child.wait(120.0)


def test_drawing_a_step_loads_no_jax(run_dir, tmp_path):
    code = """
import sys
from tunrex_jax_monitor.host.report.render import main
print(main(sys.argv[1:]), *{"jax", "wandb", "matplotlib.pyplot"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(run_dir), str(tmp_path), "7"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["0"]


def test_what_is_drawn_is_the_run_up_to_the_step(run_dir, tmp_path):
    steps = [record.step for record in read_records(run_dir)]
    assert main([str(run_dir), str(tmp_path), str(steps[1])]) == 0
    assert f"Rewards up to step {steps[1]}<" in (tmp_path / f"summary_step_{steps[1]}.html").read_text()
    assert steps[-1] > steps[1]


def test_a_file_that_cannot_be_written_is_a_failure(run_dir, tmp_path):
    (tmp_path / "dashboard_step_3.png").mkdir()
    assert main([str(run_dir), str(tmp_path), "3"]) == 1
    assert (tmp_path / "summary_step_3.html").is_file()
