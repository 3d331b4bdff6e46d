"""The bars of the design that no other monitor meets, one test each; the best peer's figure stands beside it.

Those that need other programs are tested with them: NaN, masks and dtypes in `device/test_statistics.py`, empty steps
in `test_laws.py`, scan, donation and sharding in `test_jax_contract.py`, sketch order in `device/test_sketch.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.device import support
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import bits, moments

ACC = RewardAccumulator(("x",))


@functools.partial(jax.jit, donate_argnums=0)
def stream(state, batches):
    return jax.lax.scan(lambda s, x: (ACC.update(s, {"x": x}), None), state, batches)[0]


@pytest.mark.parametrize("way", ["streamed", "merged over 8 shards"])
def test_std_of_a_hundredth_beside_a_mean_of_ten_thousand_to_1e_5(way):
    """Best peer: 9.3e-4."""
    x = (1e4 + 1e-2 * np.random.default_rng(1).normal(size=(8, 250, 64))).astype(np.float32)
    if way == "streamed":
        state = ACC.init()
        for part in x:
            state = stream(state, part)
    else:
        shards = [stream(ACC.init(), part) for part in x]
        state = functools.reduce(lambda a, b: support.merge(ACC, a, b), shards)
    got, exact = ACC.record(state).scalars, x.astype(np.float64)
    for horizon in ("run", "interval"):
        assert got[f"x/{horizon}/std"] == pytest.approx(exact.std(), rel=1e-5)
        assert got[f"x/{horizon}/mean"] == pytest.approx(exact.mean(), rel=1e-10)
        assert got[f"x/{horizon}/count"] == x.size
    last = exact.ravel()[-1000:]
    if way == "streamed":
        assert got["x/std"] == pytest.approx(last.std(), rel=1e-5)
        assert got["x/mean"] == pytest.approx(last.mean(), rel=1e-9)


def test_count_and_mean_survive_two_to_the_31_samples():
    """Best peer: none. The batch of 4096 is seen 2^19 times by merging a state with itself, then 16 times more."""
    rng = np.random.default_rng(2)
    x = (rng.random(4096) < 0.3).astype(np.float16)
    state = ACC.init(batch_size=4096)
    state = support.update(ACC, state, {"x": x})
    for _ in range(19):
        state = support.merge(ACC, state, state)
    for _ in range(16):
        state = support.update(ACC, state, {"x": x})
    got, exact = ACC.record(state).scalars, x.astype(np.float64)
    assert got["x/run/count"] == got["x/interval/count"] == 2**31 + 65536
    assert got["x/run/mean"] == pytest.approx(exact.mean(), rel=1e-6)
    assert got["x/run/std"] == pytest.approx(exact.std(), rel=1e-6)
    for _ in range(3):
        state = support.merge(ACC, state, state)
    got = ACC.record(state)
    assert got.scalars["x/run/count"] == 8 * (2**31 + 65536) > 2**33
    assert got.scalars["x/run/mean"] == pytest.approx(exact.mean(), rel=1e-6)
    assert sum(got.histograms["x/run/histogram"].counts) == 8 * (2**31 + 65536)


def test_thirty_two_thousand_batches_of_65536_keep_count_and_mean():
    """Best peer: a mean of -0.500031 and a count of -2,147,418,112. Moments only: 64 batches, in turn."""
    x = np.random.default_rng(3).normal(0.5, 0.5, size=(64, 65536)).astype(np.float32)
    n = jnp.full(1, 65536.0, jnp.float32)
    one = jax.jit(lambda v: moments.from_batch(v[None], jnp.ones((1, 65536), bool), n, jnp.sum(v)[None]))
    batches = jax.tree.map(lambda *v: jnp.stack(v), *[one(row) for row in x])

    def step(carry, i):
        m, low, high = carry
        batch = jax.tree.map(lambda v: v[i % 64], batches)
        m = moments.merge(m, batch, bits.count_to_float(low, high), n)
        return (m, *bits.add_counts(low, high, jnp.full(1, 65536, jnp.uint32))), None

    start = (moments.init((1,)), jnp.zeros(1, jnp.uint32), jnp.zeros(1, jnp.uint32))
    (m, low, high), _ = jax.jit(lambda s, i: jax.lax.scan(step, s, i))(start, jnp.arange(32_769, dtype=jnp.int32))
    count = int(low[0]) + (int(high[0]) << 32)
    assert count == 2**31 + 65536
    sums = np.tile(x.astype(np.float64).sum(axis=1), 513)[:32_769]
    squares = np.tile((x.astype(np.float64) ** 2).sum(axis=1), 513)[:32_769]
    mean = math.fsum(sums) / count
    std = math.sqrt(math.fsum(squares) / count - mean**2)
    assert float(m.sums[0, 0]) + float(m.sums_low[0, 0]) == pytest.approx(mean, rel=1e-6)
    assert math.sqrt((float(m.sums[1, 0]) + float(m.sums_low[1, 0])) / count) == pytest.approx(std, rel=1e-6)


def test_mean_of_two_hundred_thousand_batches_of_256_to_1e_7():
    """Best peer: 6.9e-6. Moments only, and every batch is different."""
    rng, n = np.random.default_rng(4), jnp.full(1, 256.0, jnp.float32)
    every = jnp.ones((1, 256), bool)

    def step(carry, x):
        m, count = carry
        return (moments.merge(m, moments.from_batch(x[None], every, n, jnp.sum(x)[None]), count, n), count + n), None

    scan = jax.jit(lambda carry, x: jax.lax.scan(step, carry, x)[0])
    carry, total = (moments.init((1,)), jnp.zeros(1, jnp.float32)), []
    for _ in range(20):
        x = rng.standard_normal((10_000, 256), np.float32) + np.float32(0.7)
        carry = scan(carry, jnp.asarray(x))
        total.append(x.sum(dtype=np.float64))
    mean = float(carry[0].sums[0, 0]) + float(carry[0].sums_low[0, 0])
    assert mean == pytest.approx(math.fsum(total) / (200_000 * 256), rel=1e-7)


def test_one_nan_and_one_inf_are_counted_and_change_nothing_else():
    """Best peer in JAX: none."""
    x = np.random.default_rng(5).normal(size=(4, 64)).astype(np.float32)
    x[1, 7], x[2, 9] = np.nan, np.inf
    got = ACC.record(stream(ACC.init(), x))
    exact = x[np.isfinite(x)].astype(np.float64)
    want = {"mean": exact.mean(), "std": exact.std(), "min": exact.min(), "max": exact.max(), "count": 254}
    for horizon in ("", "run/", "interval/"):
        for key, value in want.items():
            assert got.scalars[f"x/{horizon}{key}"] == pytest.approx(value, rel=1e-6, abs=1e-7)
    for p, q in {"p10": 10, "p25": 25, "median": 50, "p99": 99}.items():
        assert got.scalars[f"x/{p}"] == pytest.approx(np.percentile(exact, q), rel=1e-12)
    assert got.scalars["x/nonfinite_count"] == 2
    assert (got.counters["x/nan"], got.counters["x/posinf"], got.counters["x/neginf"]) == (1, 1, 0)
    assert got.scalars["alerts/x/NONFINITE"] >= 1


def test_a_float16_sum_does_not_overflow():
    """4096 x 20.0 is 81,920, past the end of float16."""
    state = support.update(ACC, ACC.init(batch_size=4096), {"x": np.full(4096, 20.0, np.float16)})
    got = ACC.record(state).scalars
    for key in ("mean", "run/mean", "interval/mean", "min", "max", "median", "ema_short", "ema_long", "reward"):
        assert got[key if key == "reward" else f"x/{key}"] == 20.0
    assert got["x/std"] == got["x/run/std"] == 0.0
    assert "x/run/kurtosis" not in got


def test_float16_equals_float64_on_the_upcast_values_to_1e_6():
    """Best peer: none. bfloat16 and every other statistic: `device/test_statistics.py`."""
    x = np.random.default_rng(6).lognormal(size=4096).astype(np.float16)
    got, exact = ACC.record(support.update(ACC, ACC.init(batch_size=4096), {"x": x})).scalars, x.astype(np.float64)
    assert got["x/mean"] == pytest.approx(exact.mean(), rel=1e-6)
    assert got["x/std"] == pytest.approx(exact.std(), rel=1e-6)
    assert got["x/p99"] == pytest.approx(np.percentile(exact, 99), rel=1e-12)
