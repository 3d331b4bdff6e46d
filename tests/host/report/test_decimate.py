"""Fewer points, and every extreme, gap and given step still among them."""

import numpy as np
import pytest

from tunrex_jax_monitor.host.report.decimate import aggregate, bucket_starts, keep_extremes

ROWS = 10_000


def noisy(seed=3):
    return np.random.default_rng(seed).normal(size=ROWS)


@pytest.mark.parametrize("rows", [0, 1, 2, 99, 100, 101, ROWS])
@pytest.mark.parametrize("buckets", [1, 7, 100])
def test_buckets_divide_all_rows(rows, buckets):
    starts = bucket_starts(rows, buckets)
    assert len(starts) == min(rows, buckets)
    sizes = np.diff(np.append(starts, rows))
    assert sizes.sum() == rows
    assert (sizes >= 1).all()
    assert not len(sizes) or sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("row", [0, 1, 4999, 5003, ROWS - 1])
@pytest.mark.parametrize("value", [50.0, -50.0])
def test_a_spike_of_one_step_is_kept_with_its_value(row, value):
    values = noisy()
    values[row] = value
    kept = keep_extremes(values, 400)
    assert row in kept
    assert len(kept) <= 402
    starts = bucket_starts(ROWS, 200)
    drawn = np.concatenate([aggregate(values, starts, "min"), aggregate(values, starts, "max")])
    assert value in drawn


def test_steps_of_alerts_are_kept_and_rows_are_in_order():
    always = [17, 4242, 4243, 9998]
    kept = keep_extremes(noisy(), 100, always)
    assert set(always) <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert kept[[0, -1]].tolist() == [0, ROWS - 1]


def test_a_gap_of_one_step_stays_a_gap():
    values = noisy()
    values[1234] = np.nan
    assert 1234 in keep_extremes(values, 100)


def test_rows_that_do_not_exist_are_left_out():
    assert keep_extremes(noisy(), 100, [-5, ROWS, ROWS + 7]).max() == ROWS - 1


def test_a_short_series_is_left_as_it_is():
    np.testing.assert_array_equal(keep_extremes(np.arange(5.0), 10), np.arange(5))
    assert keep_extremes(np.empty(0), 10).size == 0


def test_aggregates_equal_numpy_per_bucket_and_skip_missing_values():
    values = noisy()
    values[::7] = np.nan
    starts = bucket_starts(ROWS, 33)
    parts = np.split(values, starts[1:])
    for how, reference in (("mean", np.nanmean), ("min", np.nanmin), ("max", np.nanmax)):
        np.testing.assert_allclose(aggregate(values, starts, how), [reference(part) for part in parts], rtol=1e-12)


def test_a_bucket_without_data_is_nan():
    values = np.array([1.0, np.nan, np.nan, 4.0])
    for how in ("mean", "min", "max"):
        np.testing.assert_array_equal(aggregate(values, np.array([0, 1, 3]), how), [1.0, np.nan, 4.0])
    assert aggregate(np.empty(0), np.empty(0, int), "mean").size == 0
