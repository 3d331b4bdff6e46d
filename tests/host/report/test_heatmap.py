"""Heat maps keep the mass of every histogram, and one far-off value does not squash the rest."""

import numpy as np
import pytest

from tests.host.report import runs
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Histogram, Record
from tunrex_jax_monitor.host.report.heatmap import heat_map, rebin


def emissions(windows):
    """The emissions of windows of samples of reward a, 10 steps apart."""
    made = []
    for i, window in enumerate(windows):
        quantiles = np.percentile(window, (0, 10, 50, 90, 100)).tolist()
        keys = ("a/min", "a/p10", "a/median", "a/p90", "a/max")
        scalars = dict(zip(keys, quantiles, strict=True))
        made.append(Record(10 * i + 9, i + 1, 0.0, scalars, {"a/histogram": runs.histogram(window)}, names=("a",)))
    return History.of(made).emissions


def windows(count=50, size=1000):
    return np.random.default_rng(8).normal(size=(count, size))


@pytest.mark.parametrize("edges", [np.linspace(-5, 5, 49), np.array([0.1, 0.15]), np.array([100.0, 101.0, 105.0])])
def test_rebinning_keeps_the_mass(edges):
    shares = rebin(runs.histogram(windows()[0]), edges)
    assert shares.shape == (len(edges) + 1,)
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1, abs=1e-12)


def test_rebinning_onto_the_same_edges_changes_nothing():
    histogram = runs.histogram(windows()[0])
    np.testing.assert_allclose(rebin(histogram, np.array(histogram.edges))[1:-1], np.array(histogram.counts) / 1000)


def test_rebinning_agrees_with_the_samples_where_bins_are_finer():
    x = windows(size=200_000)[0]
    fine = np.histogram(x, np.linspace(-6, 6, 1201))
    edges = np.linspace(-3, 3, 13)
    shares = rebin(Histogram(fine[0].tolist(), fine[1].tolist()), edges)[1:-1]
    np.testing.assert_allclose(shares, np.histogram(x, edges)[0] / len(x), atol=2e-5)


def test_columns_sum_to_one():
    found = heat_map(emissions(windows()), "a")
    np.testing.assert_allclose(found.shares.sum(axis=0), 1, atol=1e-12)
    assert (found.below, found.above, found.clipped) == (0, 0, "")
    assert found.shares.shape == (48, 50)
    assert found.steps.tolist() == [-1, *range(9, 500, 10)]


def test_buckets_of_time_average_and_do_not_skip():
    given = windows(count=100)
    given[50] += 2.0  # one emission of a hundred
    found = heat_map(emissions(given), "a", columns=10)
    assert found.shares.shape == (48, 10)
    centers = (found.edges[1:] + found.edges[:-1]) / 2
    means = centers @ found.shares
    assert means[5] == pytest.approx(given[50:60].mean(), abs=0.05)
    assert means[5] - means[4] > 0.15


def test_one_far_value_does_not_squash_the_rest_and_is_told():
    given = windows()
    given[20, 0] = 1e6
    found = heat_map(emissions(given), "a")
    assert found.edges[-1] < 20
    assert found.above > 0
    assert "above not shown" in found.clipped


def test_a_sparse_reward_shows_its_rare_ones():
    given = (np.random.default_rng(2).random((50, 1000)) < 0.03).astype(float)
    found = heat_map(emissions(given), "a")
    assert found.edges[-1] > 1
    assert found.clipped == ""


def test_a_constant_is_a_stripe_with_room_around_it():
    found = heat_map(emissions(np.full((5, 100), 0.7)), "a")
    used = found.shares.sum(axis=1) > 0
    assert 0 < used.sum() < 48
    assert found.edges[0] < 0.7 < found.edges[-1]


def test_old_records_without_p10_still_have_a_heat_map():
    record = Record(9, 1, 0.0, {}, {"a/histogram": runs.histogram(windows()[0])}, names=("a",))
    found = heat_map(History.of([record]).emissions, "a")
    np.testing.assert_allclose(found.shares.sum(axis=0), 1, atol=1e-12)


def test_without_histograms_there_is_none():
    assert heat_map(History().emissions, "a") is None
    assert heat_map(emissions(windows()), "b") is None
