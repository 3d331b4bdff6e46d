"""The references themselves, against NumPy, SciPy-free closed forms and hand-worked examples."""

import math

import numpy as np
import pytest

from tests import reference
from tests.datasets import DATASETS, DTYPES, FINITE, Case, cast, grid, upcast


@pytest.mark.parametrize("case", grid(FINITE, (7, 1000)))
def test_statistics_equal_numpy(case):
    x = upcast(case.rewards())[0]
    got = reference.statistics(x)
    assert got["mean"] == pytest.approx(x.mean(), rel=1e-14)
    assert got["std"] == pytest.approx(x.std(), rel=1e-9)
    for key, q in {"p10": 10, "p25": 25, "median": 50, "p75": 75, "p90": 90, "p99": 99}.items():
        assert got[key] == pytest.approx(np.percentile(x, q), rel=1e-14)
    assert got["zeros_fraction"] + got["negative_fraction"] + got["positive_fraction"] == pytest.approx(1)


def test_invalid_samples_are_left_out_and_counted():
    x = upcast(Case("with_nan_inf", 1000, "float32").rewards())[0]
    mask = np.arange(1000) % 5 != 0
    finite = x[np.isfinite(x) & mask]
    assert reference.mean(reference.valid(x, mask)) == pytest.approx(finite.mean())
    counts = reference.nonfinite_counts(x, mask)
    assert all(counts.values())
    assert sum(counts.values()) + len(finite) == 1000


@pytest.mark.parametrize("name", ["mean", "std", "minimum", "maximum", "skew", "kurtosis", "zeros_fraction"])
def test_no_data_is_nan(name):
    assert math.isnan(getattr(reference, name)(np.array([])))
    assert math.isnan(getattr(reference, name)(np.array([np.nan, np.inf])))


def test_skew_and_kurtosis_of_a_coin():
    coin = np.array([1.0] * 3 + [0.0] * 7)  # Bernoulli(p): skew (1-2p)/sqrt(pq), excess kurtosis (1-6pq)/(pq)
    assert reference.skew(coin) == pytest.approx(0.4 / math.sqrt(0.21))
    assert reference.kurtosis(coin) == pytest.approx((1 - 6 * 0.21) / 0.21)


def test_constant_rewards_have_zero_std():
    assert reference.std(np.full(6, np.float64(np.float32(0.3)))) == 0


def test_ema_of_a_constant_is_the_constant_from_the_first_step():
    steps = [np.full(4, 0.7)] * 3
    assert [reference.ema(steps[:t], 0.1) for t in (1, 2, 3)] == pytest.approx([0.7] * 3)
    assert math.isnan(reference.ema([], 0.1))


def test_ema_ignores_steps_without_data():
    data, nothing = [np.array([1.0]), np.array([3.0])], np.array([np.nan])
    assert reference.ema([data[0], nothing, data[1]], 0.1) == reference.ema(data, 0.1)
    assert reference.ema(data, 0.5) == pytest.approx((0.5 * 1 * 0.5 + 0.5 * 3) / 0.75)


def test_pass_at_k_by_hand():
    groups = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], float)
    counts = reference.solve_counts(groups, 1.0)
    assert counts == [1, 1, 0, 0, 1]
    assert reference.solve_shares(counts) == {"solve_none": 1 / 3, "solve_all": 1 / 3, "solve_partial": 1 / 3}
    assert [reference.pass_at_k(counts, k) for k in (1, 2, 4)] == pytest.approx([5 / 12, 0.5, 2 / 3])


def test_pass_at_1_is_the_share_of_correct_samples():
    groups = (np.random.default_rng(0).random((50, 8)) < 0.4).astype(float)
    assert reference.pass_at_k(reference.solve_counts(groups, 0.5), 1) == pytest.approx(groups.mean())


def test_group_statistics_by_hand():
    groups = np.array([[0.0, 2.0], [1.0, 1.0], [5.0, 9.0]])
    assert reference.frac_zero_std(groups) == pytest.approx(1 / 3)
    assert reference.frac_zero_std(groups, tolerance=2.0) == pytest.approx(2 / 3)
    assert reference.group_std(groups) == pytest.approx((math.sqrt(2) + 0 + math.sqrt(8)) / 3)
    assert reference.std_of_group_means(groups) == pytest.approx(np.std([1, 1, 7]))


def test_incomplete_groups_are_dropped():
    values = np.array([[1.0, np.nan], [1.0, 2.0], [3.0, 4.0]])
    mask = np.array([[True, True], [True, True], [True, False]])
    assert reference.complete_groups(values, mask).tolist() == [[1.0, 2.0]]


def test_weighted_total_skips_invalid_rewards():
    rewards = np.array([[1.0, np.nan, np.nan], [10.0, 10.0, np.inf]])
    np.testing.assert_array_equal(reference.weighted_total(rewards, (2.0, 0.5)), [7.0, 5.0, np.nan])


def test_advantage_shares_sum_to_one_and_ignore_what_is_constant_in_a_group():
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(3, 20, 8))
    rewards[2] = rng.normal(size=(20, 1))  # the same for a whole group: no part in any advantage
    shares = reference.advantage_shares(rewards, (1.0, 2.0, 5.0))
    assert sum(shares) == pytest.approx(1)
    assert shares[2] == pytest.approx(0, abs=1e-12)
    assert shares[1] > shares[0]


def test_within_group_correlation_does_not_see_group_means():
    rng = np.random.default_rng(2)
    noise, offset = rng.normal(size=(30, 8)), 100 * rng.normal(size=(30, 1))
    assert reference.within_group_correlation(noise, -noise + offset) == pytest.approx(-1)
    assert reference.pearson(noise.ravel(), noise.ravel()) == pytest.approx(1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DATASETS)
def test_datasets_are_reproducible_in_every_dtype(name, dtype):
    case = Case(name, 64, dtype)
    first, again = case.rewards(2), case.rewards(2)
    assert first.shape == (2, {"empty": 0, "single": 1}.get(name, 64))
    assert str(first.dtype) == dtype
    np.testing.assert_array_equal(upcast(first), upcast(again))


def test_rewards_beyond_float16_become_infinite():
    assert np.isposinf(cast([1e6], "float16")).all()
