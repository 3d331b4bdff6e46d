"""Moments to fourth order of a masked stream, merged without loss.

Every sum is an unrounded pair of float32, and deviations are taken about the batch's own mean, so that mean 1e4 with
std 1e-2 keeps a variance and 1e8 samples do not stall it (plain float32 Welford is 3.7e-5 off there). `update` is
`merge` with a batch: one formula. Values are NaN where a sample does not count.

Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3):242-247; Pebay 2008, SAND2008-6212 for orders 3, 4.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tunrex_jax_monitor.device.bits import two_float_add, two_sum
from tunrex_jax_monitor.device.reduce import reduce_rows


class Moments(NamedTuple):
    """Central power sums; `x` and `x_low` are one number. `m2` is in squared reward units, and so on."""

    mean: Array  # float32[...]
    mean_low: Array
    m2: Array
    m2_low: Array
    m3: Array
    m3_low: Array
    m4: Array
    m4_low: Array
    min: Array  # +inf when empty
    max: Array  # -inf when empty


def init(shape: tuple[int, ...]) -> Moments:
    """Return the moments of no data: the identity of `merge`."""
    values = [0.0] * 8 + [np.inf, -np.inf]
    return Moments(*(jnp.full(shape, np.float32(value)) for value in values))


def from_batch(x: Float[Array, "rows N"], valid: Bool[Array, "rows N"], count: Float[Array, " rows"]) -> Moments:
    """Return the moments of one batch, about its own mean. `count` is the number of valid samples."""
    scale = 1.0 / jnp.maximum(count, 1.0)
    center = jnp.sum(jnp.where(valid, x, 0.0), axis=1) * scale
    d = jnp.where(valid, x - center[:, None], 0.0)
    d2 = d * d
    s1, s2, s3, s4 = reduce_rows(sums=(d, d2, d2 * d, d2 * d2))
    a = s1 * scale  # what the rounded mean left over; tiny, so the corrections below cancel nothing
    mean, mean_low = two_sum(center, a)
    m2 = jnp.maximum(s2 - a * s1, 0.0)
    m3 = s3 - 3.0 * a * s2 + 2.0 * a * a * s1
    m4 = jnp.maximum(s4 - 4.0 * a * s3 + 6.0 * a * a * s2 - 3.0 * a * a * a * s1, 0.0)
    zero = jnp.zeros_like(center)
    low = jnp.min(jnp.where(valid, x, jnp.float32(np.inf)), axis=1)
    high = jnp.max(jnp.where(valid, x, jnp.float32(-np.inf)), axis=1)
    return Moments(mean, mean_low, m2, zero, m3, zero, m4, zero, low, high)


def merge(a: Moments, b: Moments, count_a: Float[Array, "*#s"], count_b: Float[Array, "*#s"]) -> Moments:
    """Merge the moments of two disjoint sets of samples; shapes broadcast.

    Args:
      a: moments of `count_a` samples.
      b: moments of `count_b` samples.
      count_a: float32, may be rounded (relative error 6e-8).
      count_b: as `count_a`.
    """
    scale = 1.0 / jnp.maximum(count_a + count_b, 1.0)
    fa, fb = count_a * scale, count_b * scale
    d = (b.mean - a.mean) + (b.mean_low - a.mean_low)
    d2 = d * d
    weight = fa * count_b
    step2 = d2 * weight
    step3 = step2 * d * (fa - fb) + 3.0 * d * (fa * b.m2 - fb * a.m2)
    step4 = (
        step2 * d2 * (fa * fa - fa * fb + fb * fb)
        + 6.0 * d2 * (fa * fa * b.m2 + fb * fb * a.m2)
        + 4.0 * d * (fa * b.m3 - fb * a.m3)
    )
    mean = two_float_add(a.mean, a.mean_low, d * fb)
    m2 = _add3(a.m2, a.m2_low, b.m2, b.m2_low, step2)
    m3 = _add3(a.m3, a.m3_low, b.m3, b.m3_low, step3)
    m4 = _add3(a.m4, a.m4_low, b.m4, b.m4_low, step4)
    merged = Moments(*mean, *m2, *m3, *m4, jnp.minimum(a.min, b.min), jnp.maximum(a.max, b.max))
    # An empty side must be the exact identity: a pair folded through `d` would lose the low word of the first mean.
    return Moments(*(choose(count_a, count_b, *v) for v in zip(a, b, merged, strict=True)))


def _add3(high: Array, low: Array, high_b: Array, low_b: Array, step: Array) -> tuple[Array, Array]:
    high, low = two_float_add(high, low, high_b)
    high, low = two_float_add(high, low, low_b)
    return two_float_add(high, low, step)


def choose(count_a: Float[Array, "*#s"], count_b: Float[Array, "*#s"], a: Array, b: Array, merged: Array) -> Array:
    """Return `merged`, or the other side where one has no sample."""
    return jnp.where(count_b == 0, a, jnp.where(count_a == 0, b, merged))
