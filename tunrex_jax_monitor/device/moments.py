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
from tunrex_jax_monitor.device.reduce import reduce_together


class Moments(NamedTuple):
    """Central power sums; axis 0 is the mean, m2, m3 and m4, or the first two. `sums + sums_low` is one number."""

    sums: Array  # float32[P, ...]: in reward units, squared reward units, and so on
    sums_low: Array

    @property
    def mean(self) -> Array:
        """The rounded mean: float32[...]."""
        return self.sums[0]

    @property
    def m2(self) -> Array:
        """The rounded sum of squared deviations: float32[...]."""
        return self.sums[1]


def init(shape: tuple[int, ...], orders: int = 4) -> Moments:
    """Return the moments of no data: the identity of `merge`."""
    return Moments(*(jnp.zeros((orders, *shape), jnp.float32) for _ in Moments._fields))


def from_batch(
    x: Float[Array, "rows N"],
    valid: Bool[Array, "rows N"],
    count: Float[Array, " rows"],
    total: Float[Array, " rows"],
    orders: int = 4,
) -> Moments:
    """Return the moments of one batch, about its own mean.

    Args:
      x: the samples.
      valid: where a sample counts.
      count: the number of valid samples.
      total: their sum, which may be rounded: it only says where deviations are taken about.
      orders: 4, or 2 for the mean and m2 alone.
    """
    some = jnp.maximum(count, 1.0)
    center = total / some  # a quotient, and so is `a`: see `two_sum`
    d = jnp.where(valid, x - center[:, None], 0.0)
    d2 = d * d
    s1, s2, *higher = reduce_together(sums=(d, d2, d2 * d, d2 * d2)[:orders], axis=1)
    a = s1 / some  # what the rounded mean left over; tiny, so the corrections below cancel nothing
    mean, mean_low = two_sum(center, a)
    sums = [mean, jnp.maximum(s2 - a * s1, 0.0)]
    if higher:
        s3, s4 = higher
        sums.append(s3 - 3.0 * a * s2 + 2.0 * a * a * s1)
        sums.append(jnp.maximum(s4 - 4.0 * a * s3 + 6.0 * a * a * s2 - 3.0 * a * a * a * s1, 0.0))
    first = np.arange(orders)[:, None] == 0
    return Moments(jnp.stack(sums), jnp.where(first, mean_low, np.float32(0.0)))


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
    d = (b.sums[0] - a.sums[0]) + (b.sums_low[0] - a.sums_low[0])
    d2 = d * d
    step2 = d2 * (fa * count_b)
    steps = [d * fb, step2]
    if len(a.sums) > 2:
        (_, a2, a3, _), (_, b2, b3, _) = a.sums, b.sums
        steps.append(step2 * d * (fa - fb) + 3.0 * d * (fa * b2 - fb * a2))
        steps.append(
            step2 * d2 * (fa * fa - fa * fb + fb * fb)
            + 6.0 * d2 * (fa * fa * b2 + fb * fb * a2)
            + 4.0 * d * (fa * b3 - fb * a3)
        )
    # The mean moves by its step alone; of the others the two sides add up.
    adds = np.arange(len(steps)).reshape(-1, *(1,) * d.ndim) > 0
    sums, low = two_float_add(a.sums, a.sums_low, jnp.where(adds, b.sums, 0.0))
    sums, low = two_float_add(sums, low, jnp.where(adds, b.sums_low, 0.0))
    steps = [jnp.where(count_a + count_b > 0, step, 0.0) for step in steps]
    merged = Moments(*two_float_add(sums, low, jnp.stack(steps)))
    # An empty side must be the exact identity: a pair folded through `d` would lose the low word of the first mean.
    return Moments(*(choose(count_a, count_b, *v) for v in zip(a, b, merged, strict=True)))


def choose(count_a: Float[Array, "*#s"], count_b: Float[Array, "*#s"], a: Array, b: Array, merged: Array) -> Array:
    """Return `merged`, or the other side where one has no sample."""
    return jnp.where(count_b == 0, a, jnp.where(count_a == 0, b, merged))
