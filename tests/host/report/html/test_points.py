"""Points: fewer of them than steps, and nothing that matters is lost; against NumPy on the series."""

import numpy as np
import pytest

from tests.host.report import runs
from tests.host.support import make_record
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.html.points import Sampled, choose

LONG = History.of(runs.records(3000, 3))
NAMES = ("format", "answer", "length")


def history(steps, means):
    return History.of([make_record(steps[-1], names=("a",), series={"step": steps, "a/mean": means})])


def test_a_short_run_is_drawn_step_by_step():
    run = history([3, 5, 9], [1.0, None, 2.0])
    points = choose([run], ("a",), [], 100)
    assert points.is_whole
    assert points.first.tolist() == points.last.tolist() == [3, 5, 9]
    np.testing.assert_array_equal(Sampled(run, points).reduce("a/mean", "mean"), [1, np.nan, 2])


@pytest.mark.parametrize("limit", [40, 300, 2999])
def test_points_cover_every_step_once_within_the_limit(limit):
    points = choose([LONG], NAMES, [1500, 1860], limit)
    assert len(points.starts) <= limit
    assert points.first[0] == 0
    assert points.last[-1] == 2999
    np.testing.assert_array_equal(points.first[1:], points.last[:-1] + 1)


@pytest.mark.parametrize(("how", "pick"), [("min", np.nanmin), ("max", np.nanmax), ("mean", np.nanmean)])
def test_a_point_says_what_its_steps_say(how, pick):
    points, mean = choose([LONG], NAMES, [], 300), LONG.array("answer/mean")
    found = Sampled(LONG, points).reduce("answer/mean", how)
    spans = zip(points.first, points.last, strict=True)
    np.testing.assert_allclose(found, [pick(mean[a : b + 1]) for a, b in spans], rtol=1e-12)


def test_steps_that_matter_are_points_of_their_own():
    points = choose([LONG], NAMES, [1860, 1980], 300)
    single = set(points.first[points.first == points.last].tolist())
    assert {1860, 1980} <= single  # of the alerts
    assert {int(np.argmax(LONG.array(f"{name}/mean"))) for name in NAMES} <= single


def test_more_marks_than_room_leave_points_for_the_rest():
    points = choose([LONG], NAMES, range(3000), 200)
    assert len(points.starts) <= 200
    assert (points.last - points.first).max() < 100


def test_the_last_value_of_a_point_skips_steps_without_data():
    run = history(list(range(10)), [0.0, 1.0, None, None, None, 5.0, 6.0, None, None, None])
    points = choose([run], (), [], 2)
    np.testing.assert_array_equal(Sampled(run, points).reduce("a/mean", "last"), [1, 6])


def test_a_step_written_twice_counts_as_the_newer():
    run = history([0, 1, 2, 1, 2, 3], [0.0, 1.0, 2.0, 10.0, 20.0, 30.0])
    points = choose([run], ("a",), [], 100)
    np.testing.assert_array_equal(Sampled(run, points).reduce("a/mean", "mean"), [0, 10, 20, 30])


def test_runs_share_their_points_by_step():
    one, two = history([0, 1, 2], [0.0, 1.0, 2.0]), history([1, 3], [10.0, 30.0])
    points = choose([one, two], ("a",), [], 100)
    assert points.first.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(Sampled(two, points).reduce("a/mean", "last"), [np.nan, 10, np.nan, 30])


@pytest.mark.parametrize("key", ["a/mean", "a/nothing"])
def test_a_run_without_a_step_has_no_point(key):
    points = choose([History()], ("a",), [], 100)
    sampled = Sampled(History(), points)
    assert [len(sampled.reduce(key, how)) for how in ("mean", "min", "last")] == [0, 0, 0]


def test_emissions_are_held_over_the_steps_that_went_into_them():
    points = choose([LONG], NAMES, [], 10_000)
    held = Sampled(LONG, points).hold("answer/p10")
    recorded = {record.step: record.scalars["answer/p10"] for record in runs.records(3000, 3)}
    expected = [recorded[step // 10 * 10 + 9] for step in range(3000)]
    np.testing.assert_allclose(held, expected, rtol=1e-6)
