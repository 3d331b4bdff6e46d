"""Columns against lists: what is appended is read back, exactly, and in bounded memory."""

import numpy as np
import pytest

from tunrex_jax_monitor.host.columns import Columns


def test_values_read_back_exactly_and_none_stays_none():
    columns = Columns()
    given = {"step": [0, 2**40], "a/mean": [0.1, None], "a/count": [3, 0], "a/alerts": [255, 0]}
    columns.append(given)
    assert dict(columns) == given
    assert columns["a/mean"] == [0.1, None]


def test_floats_of_the_device_take_four_bytes_and_others_eight():
    columns = Columns()
    columns.append({"a/mean": [float(np.float32(0.1)), None], "b/mean": [0.5, 0.1]})
    assert [columns._columns[name].itemsize for name in columns] == [4, 8]
    assert columns["a/mean"] == [float(np.float32(0.1)), None]


def test_a_column_that_gets_wider_keeps_what_it_had():
    columns = Columns()
    columns.append({"a/mean": [0.5, None]})
    columns.append({"a/mean": [0.1, 1e300]})
    assert columns["a/mean"] == [0.5, None, 0.1, 1e300]


def test_a_name_that_comes_late_or_stays_away_has_no_data_there():
    columns = Columns()
    columns.append({"step": [0], "a/mean": [1.0]})
    columns.append({"step": [1, 2], "b/mean": [2.0, 3.0], "b/count": [4, 5]})
    assert columns["a/mean"] == [1.0, None, None]
    assert columns["b/mean"] == [None, 2.0, 3.0]
    assert columns["b/count"] == [0, 4, 5]
    np.testing.assert_array_equal(columns.array("nobody"), np.full(3, np.nan))


def test_a_copy_goes_its_own_way():
    columns = Columns()
    columns.append({"step": [0]})
    copy = columns.copy()
    copy.append({"step": [1]})
    assert (columns["step"], copy["step"]) == ([0], [0, 1])


def test_beyond_the_limit_memory_is_bounded_and_extremes_stay():
    columns, rng = Columns(limit=7 * 400), np.random.default_rng(5)
    means = rng.normal(size=10_000)
    means[[777, 6001]] = 50.0, -50.0  # one step each
    for step, value in enumerate(means):
        columns.append(
            {"step": [step], "a/mean": [value], "a/min": [value], "a/max": [value], "a/count": [2],
             "a/alerts": [8 if step == 777 else 0], "a/ema_short": [value]}
        )  # fmt: skip
    assert columns.rows <= 400
    assert columns.stride == 64
    assert np.diff(columns.array("step")).max() == 64
    for key in ("a/mean", "a/min", "a/max"):
        values = columns.array(key)
        assert key == "a/min" or values.max() == 50.0
        assert key == "a/max" or values.min() == -50.0
    assert columns.array("a/count").sum() == 20_000
    spiked = columns.array("step")[np.flatnonzero(columns.array("a/alerts"))]
    assert spiked.size == 1
    assert 777 <= spiked[0] < 777 + columns.stride
    assert columns["step"][-1] == 9999
    assert columns["step"] == sorted(columns["step"])


def test_until_the_limit_every_row_stays():
    columns = Columns(rows=100)
    columns.append({"step": list(range(100)), "a/mean": [None] * 100})
    assert (columns.rows, columns.stride) == (100, 1)
    columns.append({"step": [100], "a/mean": [1.0]})
    assert (columns.rows, columns.stride) == (51, 2)
    assert columns["step"][-2:] == [99, 100]


def test_folding_looks_past_missing_values():
    columns = Columns(rows=5)
    columns.append({"a/mean": [None, 1.0, 2.0, None, None, None], "a/median": [None, 1.0, 2.0, None, 1.0, 2.0]})
    assert columns["a/mean"] == [1.0, 2.0, None]
    assert columns["a/median"] == [1.0, 2.0, 1.5]


@pytest.mark.parametrize("garbage", ["text", [1], {}])
def test_what_is_no_number_is_refused(garbage):
    with pytest.raises((TypeError, ValueError)):
        Columns().append({"a/mean": [garbage]})
