import json

import pytest

from tests.cli.support import REWARDS, STEPS, call, call_json, export_file, healthy, run_dir
from tests.host.report import runs
from tunrex_jax_monitor.host.history import History


def test_the_table_has_a_row_per_reward_and_one_for_the_total():
    lines = call("show", run_dir()).stdout.splitlines()
    assert lines[0].split()[:3] == ["reward", "verdict", "now"]
    assert {line.split()[0] for line in lines[1:]} == {*runs.NAMES[:REWARDS], "weighted"}


def test_what_needs_a_person_comes_first():
    first = call("show", run_dir()).stdout.splitlines()[1]
    assert first.startswith("style ")  # flat until the end, as planted
    assert "flat since step" in first


def test_data_is_on_stdout_and_the_rest_on_stderr():
    result = call("show", run_dir())
    assert f"step {STEPS - 1}" in result.stderr
    assert str(run_dir()) not in result.stdout


def test_json_holds_what_the_last_record_says():
    document = call_json("show", run_dir())
    last = runs.records(steps=STEPS, rewards=REWARDS)[-1]
    assert (document["step"], document["updates"]) == (STEPS - 1, STEPS)
    assert document["scalars"] == last.scalars
    now = {reward["reward"]: reward["now"] for reward in document["rewards"]}
    assert now == {name: last.series[f"{name}/ema_short"][-1] for name in (*runs.NAMES[:REWARDS], "reward")}


def test_an_export_file_shows_what_its_run_shows(tmp_path):
    assert call("show", export_file(tmp_path / "monitoring_data.json")).stdout == call("show", run_dir()).stdout


def test_a_directory_of_runs_stands_for_its_newest(tmp_path):
    for name, start, rewards in (("train-b", 1.0, 3), ("a", 2.0, 2)):  # not the last by name
        manifest = healthy(tmp_path / name, rewards=rewards, steps=30) / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "start_time": start}))
    result = call("show", tmp_path)
    assert "the newest run is a\n" in result.stderr
    assert len(result.stdout.splitlines()) == 1 + 2 + 1


@pytest.mark.parametrize(
    "command", [("show",), ("alerts",), ("report", "-o", "-"), ("export", "--to", "csv", "-o", "-")]
)
@pytest.mark.parametrize("missing", ["manifest.json", "records.jsonl"])
def test_what_holds_either_file_of_a_run_is_one_whatever_its_name(tmp_path, command, missing):
    run = healthy(tmp_path / "runs" / "first", steps=30)
    (run / missing).unlink()
    name, *more = command
    assert "the newest run is first" in call(name, tmp_path / "runs", *more).stderr


def test_an_output_directory_without_runs_stands_for_its_export(tmp_path):
    export_file(tmp_path / "monitoring_data.json")
    assert "format" in call("show", tmp_path).stdout


def test_the_course_goes_the_way_of_the_reward(tmp_path):
    history = History.read(healthy(tmp_path / "run", steps=STEPS))
    from tunrex_jax_monitor.cli.overview import course

    drawn = course(history.array("format/ema_short"))
    assert (drawn[0], drawn[-1]) == ("▁", "█")
    assert len(drawn) == 12
