import dataclasses

import numpy as np
import pytest

from tests.cli.support import REWARDS, STEPS, call, call_json, healthy, run_dir
from tests.host.report import runs
from tunrex_jax_monitor import JsonlSink


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return healthy(tmp_path_factory.mktemp("base") / "base")


def scaled(path, name, factor):
    """Write the healthy run with the values of one reward's series multiplied."""
    sink = JsonlSink(path)
    sink.begin_run({"config": {"reward_names": list(runs.NAMES[:REWARDS])}})
    for record in runs.records(steps=STEPS, rewards=REWARDS, faults=False):
        keys = [f"{name}/{field}" for field in ("mean", "std", "min", "max", "ema_short", "ema_long")]
        series = {**record.series, **{key: [factor * v for v in record.series[key]] for key in keys}}
        sink.write(dataclasses.replace(record, series=series))
    sink.close()
    return path


def test_the_differences_are_those_of_the_samples(base, tmp_path):
    document = call_json("compare", base, scaled(tmp_path / "other", "answer", 0.9))
    x = runs.samples(STEPS, REWARDS, False, 0)[:, runs.NAMES.index("answer")].astype(np.float64)
    (found,) = (d for d in document["differences"] if (d["reward"], d["metric"]) == ("answer", "mean"))
    assert (document["first_step"], document["last_step"]) == (0, STEPS - 1)
    assert found["base"] == pytest.approx(x.mean(), rel=1e-6)
    assert found["absolute"] == pytest.approx(-0.1 * x.mean(), rel=1e-6)
    assert found["relative"] == pytest.approx(-0.1, rel=1e-6)


@pytest.mark.parametrize(("factor", "limits", "code"), [
    (0.9, "mean:-5%", 1),
    (0.9, "mean:-15%", 0),
    (0.9, "mean:+5%", 0),
    (1.1, "mean:+5%", 1),
    (1.1, "mean:-5%", 0),
    (1.1, "mean:5%", 1),
    (0.9, "mean:5%", 1),
    (0.9, "zero_std:+10pp,mean:-5%", 1),
    (0.9, "zero_std:+10pp,alerts:+0", 0),
])  # fmt: skip
def test_a_limit_fires_beyond_its_change_and_not_before(base, tmp_path, factor, limits, code):
    other = scaled(tmp_path / "other", "answer", factor)
    assert call("compare", base, other, "--fail-on", limits, code=code)


def test_what_fires_says_which_reward_and_by_how_much(base, tmp_path):
    other = scaled(tmp_path / "other", "answer", 0.9)
    result = call("compare", base, other, "--fail-on", "mean:-5%", code=1)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("FAILED"))
    assert line.startswith("FAILED mean:-5%: mean of answer is")
    assert "in other against" in line
    assert "-10.0 %" in line
    (failed,) = call_json("compare", base, other, "--fail-on", "mean:-5%", code=1)["failed"]
    assert (failed["limit"], failed["reward"], failed["run"]) == ("mean:-5%", "answer", "other")


def test_a_limit_that_nothing_can_break_is_told(tmp_path):
    one, two = (healthy(tmp_path / name, steps=30, rewards=1, group_size=None) for name in ("one", "two"))
    arguments = ("compare", one, two, "--fail-on", "zero_std:+10pp,mean:-5%")
    assert "NOT CHECKED zero_std:+10pp: the first run has no zero_std" in call(*arguments).stderr
    assert call_json(*arguments)["unchecked"] == ["zero_std:+10pp"]


def test_faults_break_a_limit_on_alerts(base):
    assert "alerts of style" in call("compare", base, run_dir(), "--fail-on", "alerts:+0", code=1).stderr


def test_a_run_does_not_differ_from_its_copy(base, tmp_path):
    copy = healthy(tmp_path / "copy")
    call("compare", base, copy, "--fail-on", "mean:0%,std:0%,now:0%,best:0%,zero_std:0pp,alerts:0", code=0)


def test_a_reward_that_is_gone_breaks_every_limit_on_it(base, tmp_path):
    result = call("compare", base, healthy(tmp_path / "fewer", rewards=2), "--fail-on", "mean:-5%", code=1)
    assert "fewer has no mean of style, which was" in result.stderr


def test_runs_are_compared_where_all_of_them_have_steps(base, tmp_path):
    document = call_json("compare", base, healthy(tmp_path / "short", steps=100), healthy(tmp_path / "mid", steps=200))
    assert document["runs"] == ["base", "short", "mid"]
    assert document["last_step"] == 99
    assert {d["run"] for d in document["differences"]} == {"short", "mid"}


def test_the_table_has_one_part_per_run(base, tmp_path):
    out = call("compare", base, healthy(tmp_path / "b", steps=50), healthy(tmp_path / "c", steps=50)).stdout
    assert [line.split()[3] for line in out.splitlines() if " metric " in line] == ["b", "c"]


def test_the_runs_of_an_output_dir_are_called_by_what_was_typed(base, tmp_path):
    healthy(tmp_path / "out" / "run-20260101-000000-1-abc", steps=50)
    assert call_json("compare", base, tmp_path / "out")["runs"] == ["base", "out"]


def test_runs_of_one_name_are_told_apart_by_their_paths(base, tmp_path):
    document = call_json("compare", base, healthy(tmp_path / "base"))
    assert document["runs"] == [str(base), str(tmp_path / "base")]


@pytest.mark.parametrize(
    "limits", ["mean", "mean:five", "mean:-5pp", "nonsense:-5%", "", "mean:-5%,", "mean:-5%;std:+1%"]
)
def test_a_limit_that_cannot_be_read_is_refused_before_anything_is(limits):
    result = call("compare", "nowhere", "nowhere-else", "--fail-on", limits, code=2)
    assert "--fail-on: got '" in result.stderr
    assert "allowed" in result.stderr
    assert result.stderr.count("Write ") == 1
    assert result.stdout == ""


def test_runs_without_a_step_in_common_are_refused(base, tmp_path):
    sink = JsonlSink(tmp_path / "late")
    for record in runs.records(steps=20, rewards=2, faults=False):
        series = {**record.series, "step": [step + 10_000 for step in record.series["step"]]}
        sink.write(dataclasses.replace(record, step=record.step + 10_000, series=series))
    sink.close()
    stderr = call("compare", base, tmp_path / "late", code=2).stderr
    assert "without a step in common (base: steps 0 to 399; late: steps 10000 to 10019)" in stderr


def test_one_run_is_not_enough(base):
    assert "Missing argument" in call("compare", base, code=2).stderr
    assert "each run once" in call("compare", base, base, code=2).stderr


def test_the_page_is_written_where_it_is_told(base, tmp_path):
    other, page = healthy(tmp_path / "other", steps=50), tmp_path / "page.html"
    result = call("compare", base, other, "-o", page)
    assert page.read_text().startswith("<!doctype html>")
    assert " metric " in result.stdout
    assert "add --force" in call("compare", base, other, "-o", page, code=2).stderr
    streamed = call("compare", base, other, "-o", "-").stdout
    assert streamed == page.read_text()


def test_limits_of_several_options_all_count(base, tmp_path):
    other = scaled(tmp_path / "other", "answer", 0.9)
    for options in (("mean:-5%", "std:+50%"), ("std:+50%", "mean:-5%")):
        given = [word for limit in options for word in ("--fail-on", limit)]
        assert "FAILED mean:-5%: mean of answer" in call("compare", base, other, *given, code=1).stderr


@pytest.mark.parametrize("steps", [1, 100, STEPS - 1])
def test_a_candidate_that_ends_early_does_not_pass_a_gate(base, tmp_path, steps):
    short = healthy(tmp_path / "short", steps=steps)
    sentence = f"short ends at step {steps - 1}, the first run at {STEPS - 1}"
    assert f"CUT SHORT {sentence}" in call("compare", base, short).stderr
    result = call("compare", base, short, "--fail-on", "mean:-99999%", code=1)
    assert f"FAILED steps:-0: {sentence}" in result.stderr
    longer = call("compare", short, base, "--fail-on", "steps:-0")
    assert "CUT SHORT" not in longer.stderr


@pytest.mark.parametrize(
    ("limit", "code"), [("steps:-50%", 1), ("steps:-80%", 0), ("steps:-300", 0), ("steps:-299", 1)]
)
def test_a_limit_on_steps_says_how_much_earlier_a_run_may_end(base, tmp_path, limit, code):
    call("compare", base, healthy(tmp_path / "short", steps=100), "--fail-on", limit, code=code)


def test_a_candidate_without_a_record_does_not_pass_a_gate(base, tmp_path):
    sink = JsonlSink(tmp_path / "dead")
    sink.begin_run({})
    sink.close()
    assert "dead: no step" in call("compare", base, tmp_path / "dead", "--fail-on", "mean:-5%", code=2).stderr
