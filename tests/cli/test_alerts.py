import pytest

from tests.cli.support import REWARDS, STEPS, call, call_json, healthy, run_dir
from tests.host.report import runs
from tunrex_jax_monitor.host.report.episodes import called

PLANTED = {at: span for at, span in runs.planted(STEPS).items() if at[0] in (*runs.NAMES[:REWARDS], "reward")}


def test_every_planted_fault_is_listed_with_its_first_and_last_step():
    found = call_json("alerts", run_dir())["alerts"]
    assert {(e["reward"], e["type"]): (e["first"], e["last"]) for e in found} == PLANTED
    assert [e["first"] for e in found] == sorted(e["first"] for e in found)


def test_the_list_tells_steps_types_rewards_and_remedies():
    out = call("alerts", run_dir()).stdout
    for (reward, kind), (first, _) in PLANTED.items():
        assert any(
            line.split()[:1] == [str(first)] and kind in line and called(reward) in line for line in out.splitlines()
        )
    assert "what to do\n" in out


@pytest.mark.parametrize(("option", "value", "kept"), [
    ("--kind", "DROP", [("answer", "DROP")]),
    ("--kind", "drop", [("answer", "DROP")]),
    ("--reward", "style", [("style", "FLATLINE")]),
    ("--reward", "weighted total", [("reward", "GROUP_COLLAPSE")]),
    ("--reward", "reward", [("reward", "GROUP_COLLAPSE")]),
])  # fmt: skip
def test_a_filter_keeps_what_it_names(option, value, kept):
    found = call_json("alerts", run_dir(), option, value)["alerts"]
    assert [(e["reward"], e["type"]) for e in found] == kept


def test_filters_may_repeat():
    found = call_json("alerts", run_dir(), "--kind", "DROP", "--kind", "FLATLINE")["alerts"]
    assert {e["type"] for e in found} == {"DROP", "FLATLINE"}


def test_alerts_are_a_finding_only_where_that_is_asked_for(tmp_path):
    call("alerts", run_dir(), code=0)
    call("alerts", run_dir(), "--exit-code", code=1)
    call("alerts", run_dir(), "--reward", "format", "--exit-code", code=0)
    result = call("alerts", healthy(tmp_path / "run"), "--exit-code", code=0)
    assert (result.stdout, result.stderr) == ("", "0 alerts\n")


def test_an_unknown_reward_is_refused_with_those_that_there_are():
    result = call("alerts", run_dir(), "--reward", "formt", code=2)
    assert "--reward: got 'formt', allowed: 'format', 'answer'" in result.stderr
    assert result.stdout == ""


def test_an_unknown_type_is_refused():
    assert "'DRIP' is not one of" in call("alerts", run_dir(), "--kind", "DRIP", code=2).stderr
