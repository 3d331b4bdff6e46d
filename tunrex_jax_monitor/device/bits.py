"""Exact pieces of 32-bit arithmetic: two-limb counters, two-float sums, order keys.

JAX computes in 32 bits by default. A float32 counter stops at 2^24 and an int32 one wraps at 2^31; a float32 sum loses
what is small beside it. A pair of words keeps both exact, or nearly so, on every backend and with x64 on or off.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

_SIGN = np.uint32(0x80000000)


def add_counts(
    low: UInt[Array, "*#s"], high: UInt[Array, "*#s"], low_b: UInt[Array, "*#s"], high_b: UInt[Array, "*#s"] | int = 0
) -> tuple[UInt[Array, "*#s"], UInt[Array, "*#s"]]:
    """Add two 64-bit counters that are kept as two uint32 limbs each."""
    total = low + low_b
    return total, high + jnp.uint32(high_b) + (total < low).astype(jnp.uint32)


def count_to_float(low: UInt[Array, "*#s"], high: UInt[Array, "*#s"]) -> Float[Array, "*#s"]:
    """Round a two-limb counter to float32 (relative error 6e-8)."""
    return high.astype(jnp.float32) * np.float32(2.0**32) + low.astype(jnp.float32)


def two_sum(a: Float[Array, "*#s"], b: Float[Array, "*#s"]) -> tuple[Float[Array, "*#s"], Float[Array, "*#s"]]:
    """Return the rounded sum and its exact rounding error (Knuth).

    An operand that is a product must come through a `where`, or be a quotient instead: the two results may be computed
    in two kernels, and one of them would contract product and sum into an FMA, which rounds otherwise (an ulp of 1e4 is
    a tenth of a std of 1e-2).
    """
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_float_add(
    high: Float[Array, "*#s"], low: Float[Array, "*#s"], x: Float[Array, "*#s"]
) -> tuple[Float[Array, "*#s"], Float[Array, "*#s"]]:
    """Add a float32 to an unevaluated pair `high + low`; the result is again such a pair."""
    total, error = two_sum(high, x)
    error = error + low
    rounded = total + error
    return rounded, error - (rounded - total)


def order_key(x: Float[Array, "*#s"]) -> UInt[Array, "*#s"]:
    """Map float32 to uint32 so that integer order is float order (-0.0 < 0.0; NaN is beyond the infinities)."""
    bits = to_words(x)
    mask: Array = jnp.uint32(0) - (bits >> 31) | _SIGN  # no branch: a CPU is three times as fast
    return bits ^ mask


def from_order_key(key: UInt[Array, "*#s"]) -> Float[Array, "*#s"]:
    """Invert `order_key`."""
    mask: Array = (key >> 31) - jnp.uint32(1) | _SIGN
    return to_floats(key ^ mask)


def to_words(x: Array) -> UInt[Array, "*#s"]:
    """Reinterpret any 32-bit array as uint32, bit by bit."""
    return x if x.dtype == jnp.uint32 else jax.lax.bitcast_convert_type(x, jnp.uint32)


def to_floats(words: UInt[Array, "*#s"]) -> Float[Array, "*#s"]:
    """Reinterpret uint32 words as float32, bit by bit."""
    return jax.lax.bitcast_convert_type(words, jnp.float32)
