"""Verdicts: numbers of the records, and words that a person would use."""

import numpy as np
import pytest

from tests.host.report import runs
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.report.episodes import TYPES, episodes
from tunrex_jax_monitor.host.report.verdict import total_verdict, verdicts

STEPS = 1000


def judged(run):
    return {v.reward: v for v in verdicts(run, episodes(run))}


@pytest.fixture(scope="module")
def run():
    return History.of(runs.records(STEPS))


@pytest.fixture(scope="module")
def of(run):
    return judged(run)


def history(mean, kind=None, span=(0, 0), scalars=(), also=(), short=None):
    """A run of one reward with these step means, whose averages follow at once and after ten steps."""
    steps, bits = np.arange(len(mean)), np.zeros(len(mean), int)
    for k, (first, last) in [(kind, span), *also] if kind else ():
        bits[first : last + 1] |= 1 << TYPES.index(k)
    mean = np.asarray(mean, float)
    late = np.concatenate([np.full(min(10, len(mean)), mean[0]), mean[:-10]])
    columns = {"mean": mean, "ema_short": mean if short is None else short, "ema_long": late}
    series = {f"a/{key}": [None if np.isnan(v) else float(v) for v in values] for key, values in columns.items()}
    series |= {"step": steps.tolist(), "a/alerts": bits.tolist()}
    return History.of([Record(len(mean) - 1, len(mean), 0.0, dict(scalars), {}, series, names=("a",))])


def words(*given, **options):
    return judged(history(*given, **options))["a"].words


def test_now_best_and_change_are_those_of_the_series(run, of):
    short, mean = run.array("format/ema_short"), run.array("format/mean")
    v = of["format"]
    assert v.now == short[-1]
    assert (v.best, v.best_step) == (short[20:].max(), 20 + short[20:].argmax())
    assert v.start_steps == (0, 99)
    assert v.start == pytest.approx(mean[:100].mean())
    assert v.change == pytest.approx(short[-1] - mean[:100].mean())


def test_counts_and_shares_are_those_of_the_last_record(run, of):
    assert of["safety"].nonfinite == run.last.scalars["safety/nonfinite_count"] > 0
    assert of["style"].zero_variance == run.last.scalars["style/frac_zero_std"]
    assert of["answer"].alerts == 1


def test_planted_faults_are_named_and_the_rest_has_no_alert(of):
    assert {name: (v.status, v.words) for name, v in of.items()} == {
        "format": ("ok", "no alert"),
        "answer": ("watch", "DROP at steps 620-660, ended"),
        "length": ("watch", "OUTLIER at step 500, ended"),
        "style": ("bad", "flat since step 800"),
        "safety": ("watch", "NONFINITE at steps 300-302, ended"),
        "tool_use": ("ok", "no alert"),
        "language": ("ok", "no alert"),
        "brevity": ("ok", "no alert"),
    }


def test_the_total_tells_of_collapsed_groups(run):
    assert total_verdict(run, episodes(run)).words == "GROUP_COLLAPSE at steps 900-940, ended"


@pytest.mark.parametrize("last", [99, 70])
def test_a_fall_that_stands_is_told_also_when_the_rule_has_got_used_to_it(last):
    fallen = [1.0] * 60 + [0.37] * 40
    assert words(fallen, "DROP", (60, last)) == "dropped at step 60, -63 %"
    assert judged(history(fallen, "DROP", (60, last)))["a"].status == "bad"


def test_a_fall_that_came_back_is_over():
    assert words([1.0] * 60 + [0.2] * 10 + [0.9] * 30, "DROP", (60, 75)) == "DROP at steps 60-75, ended"


def test_a_fall_of_a_negative_reward_is_a_fall():
    assert words([-1.0] * 60 + [-5.0] * 40, "DROP", (60, 99)) == "dropped at step 60, -400 %"


def test_a_fall_from_zero_is_told_without_percent():
    assert words([0.0] * 60 + [-2.0] * 40, "DROP", (60, 99)) == "dropped at step 60, from 0 to -2"


def test_a_fall_across_zero_is_told_without_percent():
    assert words([0.5] * 60 + [-0.2] * 40, "DROP", (60, 99)) == "dropped at step 60, from 0.5 to -0.2"


def test_a_jump_is_to_be_looked_at():
    v = judged(history([1.0] * 60 + [3.0] * 40, "SPIKE", (60, 80)))["a"]
    assert (v.status, v.words) == ("watch", "jumped at step 60, +200 %")


def test_a_jump_that_brings_back_what_fell_is_no_news():
    given = [1.0] * 40 + [0.3] * 30 + [1.1] * 30
    v = judged(history(given, "DROP", (40, 60), also=[("SPIKE", (70, 90))]))["a"]
    assert (v.status, v.words) == ("watch", "DROP at steps 40-60, ended; SPIKE at steps 70-90, ended")
    given[70:] = [2.5] * 30
    assert words(given, "DROP", (40, 60), also=[("SPIKE", (70, 90))]) == "jumped at step 70, +733 %"


def test_flat_is_told_from_the_first_constant_step_on():
    ends = [0.1, 0.7, 0.3] * 10 + [0.7] * 70
    assert words(ends, "FLATLINE", (60, 99)) == "flat since step 30"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NONFINITE", "NaN or infinite since step 60"),
        ("SATURATION", "at its maximum since step 60"),
        ("NEGATIVE", "negative since step 60"),
        ("OUTLIER", "outliers since step 60"),
    ],
)
def test_what_still_holds_is_told(kind, expected):
    assert words([1.0] * 100, kind, (60, 99)) == expected


def test_groups_without_variance_are_told():
    v = judged(history([1.0] * 50, scalars={"a/frac_zero_std": 0.92}))["a"]
    assert (v.status, v.words) == ("watch", "no variance in 92 % of the groups")


def test_many_episodes_of_a_type_are_counted():
    also = [("OUTLIER", (at, at)) for at in range(1, 1001, 2)]
    v = judged(history([1.0] * 1010, "NONFINITE", (5, 8), also=also))["a"]
    assert v.words == "NONFINITE at steps 5-8, ended; 500 times OUTLIER, last at step 999"
    assert v.alerts == 501


def test_one_step_is_enough():
    v = judged(history([0.5]))["a"]
    assert (v.now, v.change, v.best, v.best_step, v.words) == (0.5, 0.0, 0.5, 0, "no alert")


def test_nothing_but_missing_values_is_no_number():
    v = judged(history([np.nan] * 30, scalars={"a/nonfinite_count": 90.0}))["a"]
    assert (v.now, v.change, v.best, v.start, v.nonfinite) == (None, None, None, None, 90)
    assert (v.status, v.words) == ("bad", "only NaN or infinite")


def test_no_data_yet_is_said():
    run = History()
    run.begin_run({"config": {"reward_names": ["a"]}})
    assert (judged(run)["a"].status, judged(run)["a"].words) == ("empty", "no data yet")


def test_a_reward_without_a_sample_beside_others_is_bad():
    run = history([0.5] * 12)
    run.names = ("a", "b")
    assert (judged(run)["b"].status, judged(run)["b"].words) == ("bad", "no sample in 12 steps")


def test_a_slow_fall_that_no_rule_saw_is_told_where_noise_cannot_be_it():
    noise = np.random.default_rng(0).normal(0, 0.02, 1000)
    v = judged(history(np.linspace(0.6, 0.35, 1000) + noise))["a"]
    assert (v.status, v.words) == ("watch", f"no alert; down from {v.best:.3g} to {v.now:.3g}")
    noise = smoothed(np.random.default_rng(0).normal(0, 0.2, 10_000))
    assert words(0.6 + noise[0], short=0.6 + noise[1]) == "no alert"
    assert words([0.6] * 50 + [0.59] * 50) == "no alert"


def smoothed(values, alpha=0.1):
    """Step means, and their short averages."""
    short = [values[0]]
    for value in values[1:]:
        short.append(short[-1] + alpha * (value - short[-1]))
    return values, np.array(short)
