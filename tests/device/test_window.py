"""The exact window: contents, percentiles and statistics, against numpy on the last samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from tests.datasets import Case, grid, upcast
from tests.device import support
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import window
from tunrex_jax_monitor.device.bits import to_floats, to_words
from tunrex_jax_monitor.device.summary import QUANTILES

order_statistics = jax.jit(window.order_statistics, static_argnums=2)
stats = jax.jit(window.stats)
NEVER = jnp.array([np.inf, np.inf], jnp.float32)


@jax.jit
def push(w, x, present):
    return to_floats(window.push(to_words(w), to_words(x), present))


@jax.jit
def join(a, b):
    return to_floats(window.join(to_words(a), to_words(b)))


def pushed(parts, masks=None, size=50):
    w = to_floats(window.init(2, size))
    for i, part in enumerate(parts):
        w = push(w, jnp.asarray(part), None if masks is None else jnp.asarray(masks[i]))
    return w


def parts(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, n)).astype(np.float32) for n in sizes]


def last(x: np.ndarray, size: int) -> np.ndarray:
    """The last `size` places, NaN before the first sample."""
    return np.concatenate([np.full((x.shape[0], size), np.nan, np.float32), x], axis=1)[:, -size:]


@pytest.mark.parametrize("sizes", [(7,), (7, 7, 40, 7), (50,), (49, 2), (80,), (20, 130, 3)])
def test_holds_the_last_samples_oldest_first(sizes):
    x = parts(*sizes)
    np.testing.assert_array_equal(np.asarray(pushed(x)), last(np.concatenate(x, axis=1), 50))


@pytest.mark.parametrize("sizes", [(7,), (7, 7, 40, 7), (20, 130, 3)])
def test_masked_samples_never_enter(sizes):
    x, rng = parts(*sizes), np.random.default_rng(1)
    masks = [rng.random(p.shape) < 0.5 for p in x]
    got = np.asarray(pushed(x, masks))
    for row in range(2):
        kept = np.concatenate([p[row][m[row]] for p, m in zip(x, masks, strict=True)])
        np.testing.assert_array_equal(got[row], last(kept[None], 50)[0])


def test_a_full_mask_is_no_mask_and_an_empty_one_the_identity():
    x = parts(7, 30, 30)
    ones = [np.ones(p.shape, bool) for p in x]
    support.assert_same_bits(pushed(x, ones), pushed(x))
    before = pushed(x)
    support.assert_same_bits(push(before, jnp.asarray(x[0]), jnp.zeros(x[0].shape, bool)), before)


def test_both_ways_of_compaction_give_the_same_bits():
    rng = np.random.default_rng(2)
    values = jnp.asarray(rng.normal(size=(3, 90)).astype(np.float32)).at[:, :20].set(jnp.float32(np.nan))
    values = to_words(values)
    for share in (0.0, 0.3, 0.9, 1.0):
        keep = jnp.asarray(rng.random((3, 90)) < share).at[:, :50].set(True)
        support.assert_same_bits(
            window._compact_by_scatter(values, keep, size=50), window._compact_by_sort(values, keep, size=50)
        )


def test_join_appends_what_the_second_window_holds():
    a, b = parts(30, 35)
    joined = join(pushed([a]), pushed([b]))
    np.testing.assert_array_equal(np.asarray(joined), last(np.concatenate([a, b], axis=1), 50))
    support.assert_same_bits(join(to_floats(window.init(2, 50)), pushed([a])), pushed([a]))
    support.assert_same_bits(join(pushed([a]), to_floats(window.init(2, 50))), pushed([a]))


@pytest.mark.parametrize("case", grid(sizes=(1, 2, 7, 50), dtypes=("float32", "bfloat16")))
def test_percentiles_equal_numpy_linear(case):
    x = case.rewards(2).astype(np.float32)
    w = pushed([np.where(np.isfinite(x), x, np.float32(np.nan))])
    count = jnp.sum(~jnp.isnan(w), axis=1).astype(jnp.float32)
    lower, upper = (np.asarray(v, np.float64) for v in order_statistics(w, count, QUANTILES))
    for row in range(2):
        kept = reference.valid(upcast(x[row]))
        for k, q in enumerate(QUANTILES):
            if not len(kept):
                assert np.isnan(lower[k, row])
                continue
            part = q * (len(kept) - 1) % 1
            got = lower[k, row] + (upper[k, row] - lower[k, row]) * part
            assert got == pytest.approx(np.percentile(kept, 100 * q), rel=1e-12, abs=1e-12)


def test_ranks_are_exact_for_every_count_up_to_2_to_24():
    last_ = np.unique(np.concatenate([np.arange(5000), np.random.default_rng(0).integers(0, 2**24, 50_000), [2**24]]))
    for q in QUANTILES:
        got = np.asarray(window._rank(q, jnp.asarray(last_, jnp.int32)))
        np.testing.assert_array_equal(got, round(q * 1000) * last_.astype(np.int64) // 1000)


@pytest.mark.parametrize("name", ["normal", "large_offset", "bimodal", "heavy_tail", "with_nan_inf", "negative"])
def test_statistics_equal_numpy(name):
    x = upcast(Case(name, 50, "float32").rewards(2))
    w = pushed([np.where(np.isfinite(x), x, np.nan).astype(np.float32)])
    rows = [reference.valid(row) for row in x]
    low, high = (jnp.asarray([f(r) for r in rows], jnp.float32) for f in (np.min, np.max))
    s = stats(w, window.mean(w), low, high)
    for i, row in enumerate(rows):
        assert float(s.samples[i]) == len(row)
        mean = float(s.mean[i]) + float(s.mean_low[i])
        assert abs(mean - reference.mean(row)) <= 1e-7 * max(np.abs(row).max(), reference.std(row))
        assert np.sqrt(float(s.m2[i]) / len(row)) == pytest.approx(reference.std(row), rel=1e-5)
        counts = [int(v[i]) for v in (s.zeros, s.negatives, s.at_min, s.at_max)]
        assert counts == [(row == 0).sum(), (row < 0).sum(), (row == row.min()).sum(), (row == row.max()).sum()]


def test_an_empty_window_has_no_statistics():
    s = stats(to_floats(window.init(2, 50)), jnp.zeros(2, jnp.float32), NEVER, NEVER)
    assert not any(np.asarray(v).any() for v in s)


def test_median_of_a_32_to_68_split_of_0_and_3_is_exactly_3():
    acc = RewardAccumulator(("x",), window_size=100)
    x = np.repeat(np.array([0, 3], np.float32), (32, 68))
    state = acc.init()._replace(window=to_words(push(to_floats(window.init(1, 100)), jnp.asarray(x[None]), None)))
    assert acc.record(state).scalars["x/median"] == 3.0


def test_a_step_that_does_not_fit_is_told_while_tracing():
    acc = RewardAccumulator(("x",), window_size=10)
    rewards = {"x": jax.ShapeDtypeStruct((12,), jnp.float32)}
    shape = jax.eval_shape(acc.init)
    with pytest.warns(UserWarning, match=r"12 samples.*window of 10.*batch_size=12.*window_size=12"):
        jax.eval_shape(acc.update, shape, rewards)
    jax.eval_shape(acc.update, jax.eval_shape(lambda: acc.init(batch_size=12)), rewards)  # a warning would be an error


@pytest.mark.parametrize(("batch_size", "held"), [(None, 10), (4, 10), (10, 10), (12, 12), (np.int64(12), 12)])
def test_init_holds_a_whole_step(batch_size, held):
    acc = RewardAccumulator(("x",), window_size=10)
    assert acc.init(batch_size).window.shape == (1, held)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, "8"])
def test_init_refuses_what_is_no_batch_size(batch_size):
    with support.without_runtime_types(), pytest.raises(ValueError, match=r"batch_size: got .*, allowed: .*1 or more"):
        RewardAccumulator(("x",)).init(batch_size)
