"""Exponential averages against the definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from tests.device import support
from tunrex_jax_monitor.device import ema


def run(x: np.ndarray, alpha: float, start: ema.Ema | None = None) -> ema.Ema:
    """The average of x, a step each; NaN is a step without data."""

    def step(e, v):
        return ema.update(e, v, alpha), None

    start = ema.init(()) if start is None else start
    return jax.jit(lambda s, v: jax.lax.scan(step, s, v)[0])(start, jnp.asarray(x, jnp.float32))


STEPS = np.random.default_rng(0).normal(3.0, 1.0, size=500).astype(np.float32)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1, 0.01, 1e-4])
@pytest.mark.parametrize("steps", [1, 2, 20, 500])
def test_value_is_the_bias_corrected_average(alpha, steps):
    want = reference.ema([v[None].astype(np.float64) for v in STEPS[:steps]], alpha)
    assert float(ema.value(run(STEPS[:steps], alpha))) == pytest.approx(want, rel=1e-6)


def test_the_first_value_is_the_first_step():
    assert float(ema.value(run(np.array([0.7]), 0.01))) == pytest.approx(float(np.float32(0.7)), rel=2e-7)


def test_no_step_is_no_value():
    assert np.isnan(ema.value(ema.init(())))
    assert np.isnan(ema.value(run(np.full(3, np.nan), 0.1)))


def test_a_step_without_data_changes_no_bit():
    with_gaps = np.stack([STEPS[:50], np.full(50, np.nan)], axis=1).ravel()
    support.assert_same_bits(run(with_gaps, 0.1), run(STEPS[:50], 0.1))


def test_a_slow_average_does_not_stall():
    x = np.concatenate([np.zeros(1000), np.ones(200_000)]).astype(np.float32)
    alpha = 1e-5  # float32 alone stops where alpha (x - e) falls below half a unit in the last place of e
    t = len(x)
    want = (1 - (1 - alpha) ** 200_000) / (1 - (1 - alpha) ** t)
    assert float(ema.value(run(x, alpha))) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("cut", [0, 1, 250, 499, 500])
def test_merge_continues_where_the_first_part_ended(cut):
    a, b = run(STEPS[:cut], 0.01), run(STEPS[cut:], 0.01)
    whole = run(STEPS, 0.01)
    merged = ema.merge(a, b)
    assert float(ema.value(merged)) == pytest.approx(float(ema.value(whole)), rel=1e-6)
    assert float(merged.weight) == pytest.approx(float(whole.weight), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.01, 1e-4])
def test_a_long_run_of_one_value_reads_as_that_value(alpha):
    """A weight in float32 alone stops 3e-8 / alpha short of 1."""
    assert float(ema.value(run(np.full(100_000, 0.7), alpha))) == pytest.approx(float(np.float32(0.7)), rel=2e-7)


def test_merge_keeps_the_order_of_its_sides():
    a, b = run(np.zeros(10), 0.1), run(np.ones(10), 0.1)
    assert float(ema.value(ema.merge(a, b))) > 0.5 > float(ema.value(ema.merge(b, a)))


def test_no_data_is_the_identity_of_merge_to_the_bit():
    a = run(STEPS, 0.1)
    support.assert_same_bits(ema.merge(a, ema.init(())), a)
    support.assert_same_bits(ema.merge(ema.init(()), a), a)
