"""Moments of a batch and their merge, against correctly rounded float64 sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from tests.datasets import Case, grid, upcast
from tests.device import support
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import moments

merge = jax.jit(moments.merge)
from_batch = jax.jit(moments.from_batch)


def of(x: np.ndarray) -> tuple[moments.Moments, jax.Array]:
    """The moments of each row of x, and its count of finite samples."""
    valid = np.isfinite(x)
    count = jnp.asarray(valid.sum(axis=1), jnp.float32)
    total = jnp.asarray(np.where(valid, x, 0.0).sum(axis=1), jnp.float32)
    return from_batch(jnp.asarray(x, jnp.float32), jnp.asarray(valid), count, total), count


def pair(m: moments.Moments, field: str) -> np.ndarray:
    high, low = (v[("mean", "m2", "m3", "m4").index(field)] for v in m)
    return np.asarray(high, np.float64) + np.asarray(low, np.float64)


def assert_close(m: moments.Moments, x: np.ndarray, *, std: float = 1e-5) -> None:
    for i, row in enumerate(x):
        row = reference.valid(row)
        n, spread = len(row), reference.std(row)
        assert abs(pair(m, "mean")[i] - reference.mean(row)) <= 1e-7 * max(np.abs(row).max(), spread)
        assert abs(np.sqrt(pair(m, "m2")[i] / n) - spread) <= std * spread + 1e-9 * np.abs(row).max()
        if spread > 1e-6 * np.abs(row).max():
            for field, order in (("m3", 3), ("m4", 4)):
                got, want = pair(m, field)[i] / n / spread**order, reference.central_moment(row, order) / spread**order
                assert abs(got - want) <= 1e-4 * max(1.0, abs(want))


@pytest.mark.parametrize("case", grid(("constant", "normal", "large_offset", "bimodal", "heavy_tail", "with_nan_inf")))
def test_a_batch_equals_float64(case):
    x = upcast(case.rewards(3))
    assert_close(of(x)[0], x)


@pytest.mark.parametrize("name", ["normal", "large_offset", "bimodal", "lognormal", "with_nan_inf"])
def test_merging_64_parts_in_a_row_or_as_a_tree_equals_the_whole(name):
    x = upcast(Case(name, 64 * 64, "float32").rewards(2))
    parts = [of(part) for part in np.split(x, 64, axis=1)]
    m, count = parts[0]
    for other, n in parts[1:]:
        m, count = merge(m, other, count, n), count + n
    assert_close(m, x)
    while len(parts) > 1:
        parts = [(merge(a, b, n, k), n + k) for (a, n), (b, k) in zip(parts[::2], parts[1::2], strict=True)]
    assert_close(parts[0][0], x)


def test_parts_of_very_different_mean_and_size_merge():
    rng = np.random.default_rng(1)
    small, large = rng.normal(size=(2, 3)) + 1e4, rng.normal(size=(2, 1000))
    small, large = small.astype(np.float32), large.astype(np.float32)
    (a, n), (b, k) = of(small), of(large)
    whole = np.concatenate([small, large], axis=1).astype(np.float64)
    assert_close(merge(a, b, n, k), whole)
    assert_close(merge(b, a, k, n), whole)


def test_no_data_is_the_identity_to_the_bit():
    m, count = of(upcast(Case("large_offset", 100, "float32").rewards(4)))
    m = merge(m, m, count, count)  # low words that are not zero
    empty, none = moments.init((4,)), jnp.zeros(4, jnp.float32)
    support.assert_same_bits(merge(empty, m, none, count), m)
    support.assert_same_bits(merge(m, empty, count, none), m)
    support.assert_same_bits(merge(empty, empty, none, none), empty)


def test_a_batch_without_valid_samples_is_no_data():
    m, _ = of(np.full((2, 5), np.nan))
    support.assert_same_bits(m, moments.init((2,)))


def test_samples_that_do_not_count_leave_no_trace():
    x = upcast(Case("with_nan_inf", 500, "float32").rewards(1))
    kept = x[np.isfinite(x)][None]
    m, count = of(x)
    assert float(count[0]) == kept.shape[1]
    assert_close(m, kept)


def test_a_thousand_merges_with_the_same_batch_do_not_drift():
    x = upcast(Case("large_offset", 64, "float32").rewards(1))
    b, n = of(x)

    def step(carry, _):
        m, count = carry
        return (moments.merge(m, b, count, n), count + n), None

    (m, _), _ = jax.lax.scan(step, (moments.init((1,)), jnp.zeros(1, jnp.float32)), length=1000)
    assert abs(pair(m, "mean")[0] - reference.mean(x[0])) <= 1e-10 * 1e4
    assert np.sqrt(pair(m, "m2")[0] / 64_000) == pytest.approx(reference.std(x[0]), rel=1e-5)


@pytest.mark.parametrize("rewards", [4, 8])
@pytest.mark.parametrize("n", [6, 10, 12, 20, 48, 64])
def test_a_large_offset_keeps_its_spread_in_the_whole_program_for_any_batch_size(n, rewards):
    """Where 1 / n is not a power of two, an FMA in one of two kernels once put the mean an ulp of 1e4 off."""
    rng, names = np.random.default_rng(n), tuple(f"r{i}" for i in range(rewards))
    acc = RewardAccumulator(names, window_size=64)
    x = rng.normal(1e4, 1e-2, (6, rewards, n)).astype(np.float32)
    state = acc.init()
    for step in x:
        state = acc.update_jit(state, dict(zip(names, step, strict=True)))
    found, exact = acc.record(state).scalars, x.astype(np.float64)
    for i, name in enumerate(names):
        assert found[f"{name}/run/std"] == pytest.approx(exact[:, i].std(), rel=1e-6)
        assert found[f"{name}/interval/std"] == pytest.approx(exact[:, i].std(), rel=1e-6)


@pytest.mark.parametrize("n", [6, 10])
def test_correlations_of_a_large_offset_survive_in_the_whole_program(n):
    rng, acc = np.random.default_rng(n), RewardAccumulator(("a", "b"), window_size=64, correlations=True)
    z = rng.normal(size=(6, 2, n))
    z[:, 1] += z[:, 0]
    x, state = (1e4 + 1e-2 * z).astype(np.float32), acc.init()
    for a, b in x:
        state = acc.update_jit(state, {"a": a, "b": b})
    want = np.corrcoef(x.astype(np.float64).transpose(1, 0, 2).reshape(2, -1))[0, 1]
    assert acc.record(state).scalars["rewards/corr/a/b"] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(("scale", "kept"), [(1e-8, "std skew kurtosis"), (1e-10, "std"), (1e-16, "std"), (1e-18, "")])
def test_a_spread_too_small_for_float32_is_absent_and_not_wrong(scale, kept):
    x = (np.random.default_rng(4).exponential(size=(20, 32)) * scale).astype(np.float32)
    acc = support.LEAN
    state = acc.init()
    for step in x:
        state = support.update(acc, state, {"x": step})
    found = acc.record(state).scalars
    truth = {"std": reference.std(x), "skew": reference.skew(x), "kurtosis": reference.kurtosis(x)}
    assert {key for key in truth if f"x/run/{key}" in found} == set(kept.split())
    for key in kept.split():
        assert found[f"x/run/{key}"] == pytest.approx(truth[key], rel=1e-5)
    assert ("x/std" in found) is ("std" in kept)
