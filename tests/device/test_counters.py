"""`device.bits`: counters, pairs of floats and order keys, against Python integers and exact fractions."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunrex_jax_monitor.device import bits

SPECIAL = np.array([-np.inf, -3.4e38, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 3.4e38, np.inf], np.float32)
PAYLOADS = np.array([0x7FC00000, 0x7FC12345, 0xFFC00001, 0x7F800001, 0x80000000, 0], np.uint32)  # two are signalling


def _limbs(*values: int) -> tuple[jax.Array, jax.Array]:
    numbers = np.array(values, np.uint64)
    return jnp.asarray(numbers.astype(np.uint32)), jnp.asarray((numbers >> np.uint64(32)).astype(np.uint32))


@pytest.mark.parametrize(
    ("a", "b"),
    [(0, 0), (2**31, 65536), (2**32 - 1, 1), (2**32 - 1, 2**32 - 1), (2**33, 2**33), (2**63, 2**63 - 1), (5, 2**40)],
)
def test_counters_add_as_64_bit_integers(a, b):
    low, high = jax.jit(bits.add_counts)(*_limbs(a), *_limbs(b))
    assert (int(high[0]) << 32) + int(low[0]) == a + b


def test_a_counter_takes_a_plain_count():
    low, high = bits.add_counts(*_limbs(2**32 - 1), jnp.full(1, 7, jnp.uint32))
    assert (int(high[0]) << 32) + int(low[0]) == 2**32 + 6


def test_counters_are_rounded_to_float_within_their_docstring():
    values = np.array([0, 1, 2**24 + 1, 2**31 + 65536, 2**33, 2**40 + 12345, 2**64 - 1], np.uint64)
    got = np.asarray(bits.count_to_float(*_limbs(*values.tolist())), np.float64)
    np.testing.assert_allclose(got, values.astype(np.float64), rtol=1.2e-7)


def test_two_sum_loses_nothing():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=500).astype(np.float32) * np.float32(10) ** rng.integers(-9, 9, 500) for _ in range(2))
    a, b = a.astype(np.float32), b.astype(np.float32)
    total, error = (np.asarray(v) for v in jax.jit(bits.two_sum)(a, b))
    np.testing.assert_array_equal(total, a + b)
    for x, y, t, e in zip(a, b, total, error, strict=True):
        assert Fraction(float(x)) + Fraction(float(y)) == Fraction(float(t)) + Fraction(float(e))


def test_a_pair_of_floats_sums_a_million_small_terms():
    x = np.float32(0.1)

    def step(pair, _):
        return bits.two_float_add(*pair, jnp.float32(x)), None

    (high, low), _ = jax.lax.scan(step, (jnp.float32(1e4), jnp.float32(0)), length=1_000_000)
    want = 1e4 + 1e6 * float(x)
    assert abs(float(high) + float(low) - want) <= 1e-12 * want
    assert np.float32(float(high) + float(low)) == high  # a normalised pair: the high word is the rounded number


def test_order_keys_keep_the_order_of_floats():
    keys = np.asarray(bits.order_key(jnp.asarray(SPECIAL)))
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    nan = np.asarray(bits.order_key(jnp.asarray(np.array([np.nan, -np.nan], np.float32))))
    assert nan.max() > keys.max()


def test_order_keys_and_words_give_every_bit_back():
    words = np.concatenate([SPECIAL.view(np.uint32), PAYLOADS])
    x = bits.to_floats(jnp.asarray(words))
    np.testing.assert_array_equal(np.asarray(bits.to_words(x)), words)
    np.testing.assert_array_equal(np.asarray(bits.to_words(bits.from_order_key(bits.order_key(x)))), words)
