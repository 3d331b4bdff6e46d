"""Differences between runs, against NumPy on the samples themselves."""

import math

import numpy as np
import pytest

from tests.host.support import make_record
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent
from tunrex_jax_monitor.host.report.differences import Difference, Limit, compare, rewards_of, shared_steps


def run_of(samples, first=0, alerts=()):
    """A history whose series say what these samples (float[steps, N], NaN for none) are; two steps to a record."""
    history, ema = History(), None
    for at in range(0, len(samples), 2):
        rows = samples[at : at + 2]
        series = {"step": list(range(first + at, first + at + len(rows)))}
        valid = [row[np.isfinite(row)] for row in rows]
        series["a/count"] = [len(row) for row in valid]
        for field, of in (("mean", np.mean), ("std", np.std)):
            series[f"a/{field}"] = [float(of(row)) if len(row) else None for row in valid]
        series["a/ema_short"] = []
        for mean in series["a/mean"]:
            ema = mean if ema is None else ema if mean is None else ema + 0.1 * (mean - ema)
            series["a/ema_short"].append(ema)
        series["a/frac_zero_std"] = [0.25 if len(row) else None for row in valid]
        began = tuple(alert for alert in alerts if alert.step in series["step"])
        history.write(make_record(series["step"][-1], names=("a",), series=series, alerts=began))
    return history


def drop(step):
    return AlertEvent(step, "a", "DROP", "DROP: a", "go back")


def by_metric(differences, reward="a"):
    return {d.metric: d for d in differences if d.reward == reward}


def test_figures_are_those_of_the_samples_of_the_shared_steps():
    rng = np.random.default_rng(0)
    before, after = rng.normal(2, 1, (40, 16)), rng.normal(1, 3, (30, 8))
    after[3], after[5, 2] = np.nan, np.nan
    runs = {"before": run_of(before, 10, [drop(12), drop(20)]), "after": run_of(after, 15, [drop(30), drop(49)])}
    assert shared_steps(runs) == (15, 44)  # the first run has steps 10 to 49, the second 15 to 44
    found = by_metric(compare(runs))
    one, two = before[5:35].ravel(), after[np.isfinite(after)]
    for metric, of in (("mean", np.mean), ("std", np.std)):
        assert found[metric].base == pytest.approx(of(one), rel=1e-9)
        assert found[metric].value == pytest.approx(of(two), rel=1e-9)
    assert (found["alerts"].base, found["alerts"].value) == (1, 1)
    assert found["zero_std"].points == 0
    assert found["now"].base == runs["before"].series["a/ema_short"][34]
    assert found["best"].value == max(runs["after"].series["a/ema_short"])


def test_figures_hold_at_the_end_of_what_a_float_holds():
    found = by_metric(compare({"one": run_of(np.ones((2, 1))), "two": run_of(np.array([[1.6e308], [1.7e308]]))}))
    assert found["mean"].value == pytest.approx(1.65e308)
    assert found["std"].value is None  # its square is not a float


def test_of_a_step_that_was_written_twice_the_newer_row_counts():
    history = run_of(np.array([[1.0], [1.0], [9.0], [9.0]]))
    again = run_of(np.array([[2.0], [4.0]]), first=2)
    history.write(make_record(3, names=("a",), series=dict(again.series)))
    assert by_metric(compare({"one": history, "two": history}))["mean"].base == pytest.approx(2.0)


def test_a_reward_of_one_run_alone_has_none_in_the_other():
    other = History()
    other.write(make_record(3, names=("b",), series={"step": [0, 1], "b/mean": [1.0, 1.0], "b/count": [2, 2]}))
    found = compare({"one": run_of(np.ones((2, 3))), "two": other})
    assert by_metric(found)["mean"].value is None
    assert by_metric(found, "b")["mean"].base is None
    assert by_metric(found, "b")["mean"].relative is None


def test_the_weighted_total_is_compared_too():
    history = run_of(np.ones((2, 3)))
    history.write(make_record(2, names=("a",), series={"step": [2], "reward/mean": [1.0]}))
    assert rewards_of(history) == ("a", "reward")


@pytest.mark.parametrize("other", [History(), run_of(np.ones((4, 3)), first=100)], ids=["empty", "later"])
def test_runs_without_a_common_step_have_no_figures(other):
    runs = {"one": run_of(np.ones((4, 3))), "two": other}
    assert shared_steps(runs) is None
    assert all(d.base is None and d.value is None for d in compare(runs))


def test_every_other_run_is_compared_with_the_first():
    runs = {name: run_of(np.full((4, 3), value)) for name, value in (("one", 1.0), ("two", 2.0), ("three", 3.0))}
    means = {d.run: (d.base, d.value) for d in compare(runs) if d.metric == "mean"}
    assert means == {"two": (1.0, 2.0), "three": (1.0, 3.0)}


@pytest.mark.parametrize(
    ("base", "value", "relative"),
    [(2.0, 1.0, -0.5), (-2.0, -3.0, -0.5), (0.0, -1.0, -math.inf), (0.0, 0.0, 0.0), (0.0, 3.0, math.inf)],
)
def test_relative_change_has_the_sign_of_the_change(base, value, relative):
    assert Difference("r", "a", "mean", base, value).relative == relative


@pytest.mark.parametrize(
    ("limit", "metric", "base", "value", "broken"),
    [
        ("mean:-5%", "mean", 1.0, 0.94, True),
        ("mean:-5%", "mean", 1.0, 0.96, False),
        ("mean:-5%", "mean", 1.0, 9.0, False),
        ("mean:-5%", "mean", -1.0, -1.06, True),
        ("mean:-5%", "mean", 0.0, -1e-9, True),
        ("mean:+5%", "mean", 1.0, 1.06, True),
        ("std:20%", "std", 1.0, 0.7, True),
        ("std:20%", "std", 1.0, 1.3, True),
        ("std:20%", "std", 1.0, 1.1, False),
        ("zero_std:+10pp", "zero_std", 0.2, 0.31, True),
        ("zero_std:+10pp", "zero_std", 0.2, 0.29, False),
        ("alerts:+0", "alerts", 1.0, 2.0, True),
        ("alerts:+0", "alerts", 1.0, 1.0, False),
        ("alerts:-0", "alerts", 1.0, 0.0, True),
        ("mean:-.5", "mean", 1.0, 0.4, True),
        ("mean:-5%", "now", 1.0, 0.0, False),
        ("mean:-5%", "mean", 1.0, 0.95, False),
        ("zero_std:+10pp", "zero_std", 0.7, 0.8, False),
        ("zero_std:10pp", "zero_std", 0.8, 0.7, False),
        ("alerts:+0", "alerts", 2.0, 1.0, False),
        ("mean:-5%", "mean", 1.0, None, True),
        ("mean:-5%", "mean", None, 1.0, False),
    ],
)
def test_limits(limit, metric, base, value, broken):
    assert Limit.parse(limit).is_broken_by(Difference("r", "a", metric, base, value)) is broken


@pytest.mark.parametrize(
    "text", ["mean", "mean:", "mean:-5 %", "median:-5%", "mean:-5pp", "mean:nan", "mean:1e3", "zero_std:+10", ""]
)
def test_a_limit_that_cannot_be_read_names_what_can(text):
    with pytest.raises(ValueError, match=r"limit: got .*, allowed"):
        Limit.parse(text)
