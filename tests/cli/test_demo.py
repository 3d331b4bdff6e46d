"""`demo` as a process: the whole way from rewards to a report, through the real accumulator and reporter."""

import itertools
import json

import numpy as np
import pytest

from tests.cli.support import call, spawn
from tunrex_jax_monitor import read_manifest, read_records
from tunrex_jax_monitor.cli import synthetic
from tunrex_jax_monitor.cli.synthetic import FAULTS


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    run = tmp_path_factory.mktemp("demo") / "run"
    return run, spawn("demo", "--steps", 300, "-o", run, "--json")


def test_every_planted_fault_is_seen_where_it_was_planted(demo):
    _, done = demo
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {one["fault"] for one in document["planted"]} == set(FAULTS)
    for one in document["planted"]:
        assert one["first"] <= one["seen"] <= one["last"] + 30
    assert document["steps"] == 300


def test_what_is_recorded_are_the_rewards_of_the_stream(demo):
    run, _ = demo
    names = synthetic.reward_names(4)
    truth = list(synthetic.stream(names, 300, synthetic.plant(list(FAULTS), names, 300)))
    records = read_records(run)
    means = [mean for record in records for mean in record.series["format/mean"]][:300]
    with np.errstate(invalid="ignore"):
        expected = [np.nanmean(rewards["format"].astype(np.float64)) for rewards in truth]
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    assert read_manifest(run)["config"]["group_size"] == synthetic.GROUP_SIZE
    assert read_manifest(run)["devices"][0]["platform"] == "cpu"


def test_it_writes_a_report_and_says_how_far_it_is(demo):
    run, done = demo
    assert json.loads(done.stdout)["written"][0] == str(run / "report.html")
    assert (run / "report.html").is_file()
    assert "step 300 of 300" in done.stderr


def test_a_run_that_is_there_is_kept_and_so_is_a_report(demo, tmp_path):
    run, _ = demo
    assert "which holds records.jsonl" in call("demo", "-o", run, code=2).stderr
    (tmp_path / "report.html").write_text("mine")
    assert "which holds report.html" in call("demo", "-o", tmp_path, code=2).stderr


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--inject", "flood"), "--inject: got 'flood', allowed: nan, drop, collapse, flatline, or none"),
    (("--inject", ""), "--inject: got ''"),
    (("--steps", "50"), "--steps: got 50, allowed: at least 200"),
    (("--steps", "0"), "0 is not in the range"),
    (("--rewards", "x"), "'x' is not a valid integer"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused_at_once(tmp_path, arguments, expected):
    assert expected in call("demo", "-o", tmp_path / "run", *arguments, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_faults_do_not_overlap_and_hit_the_reward_they_name():
    names = synthetic.reward_names(1)
    planted = synthetic.plant(list(FAULTS), names, 200)
    assert [one.reward for one in planted] == ["format", "format", "reward", "format"]
    for one, after in itertools.pairwise(planted):
        assert one.last < after.first
    assert synthetic.reward_names(6) == ("format", "answer", "brevity", "helpfulness", "reward_5", "reward_6")


def test_a_fault_that_was_not_seen_is_a_finding():
    (drop,) = synthetic.plant(["drop"], ("format", "answer"), 400)
    assert drop.seen([]) is None
