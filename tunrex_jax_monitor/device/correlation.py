"""Streaming co-moments of all rewards with each other, over the samples where every reward counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tunrex_jax_monitor.device.bits import two_float_add
from tunrex_jax_monitor.device.moments import choose


class CoMoments(NamedTuple):
    """Means and sums of products of deviations; each pair is one number."""

    mean: Array  # float32[R]
    mean_low: Array
    products: Array  # float32[R, R]
    products_low: Array


def init(rewards: int) -> CoMoments:
    """Return the co-moments of no data."""
    means = [jnp.zeros(rewards, jnp.float32) for _ in range(2)]
    return CoMoments(*means, *(jnp.zeros((rewards, rewards), jnp.float32) for _ in range(2)))


def from_batch(x: Float[Array, "R N"], joint: Bool[Array, " N"], count: Float[Array, ""]) -> CoMoments:
    """Return the co-moments of one batch about its own mean."""
    scale = 1.0 / jnp.maximum(count, 1.0)
    center = jnp.where(count > 0, jnp.sum(jnp.where(joint[None], x, 0.0), axis=1) * scale, 0.0)
    d = jnp.where(joint[None], x - center[:, None], 0.0)
    offset = jnp.sum(d, axis=1) * scale
    products = jnp.matmul(d, d.T, precision=jax.lax.Precision.HIGHEST) - count * offset[:, None] * offset[None, :]
    return CoMoments(center, offset, products, jnp.zeros_like(products))


def merge(a: CoMoments, b: CoMoments, count_a: Float[Array, ""], count_b: Float[Array, ""]) -> CoMoments:
    """Merge the co-moments of two disjoint sets of samples."""
    scale = 1.0 / jnp.maximum(count_a + count_b, 1.0)
    d = (b.mean - a.mean) + (b.mean_low - a.mean_low)
    some = count_a + count_b > 0  # a `where` around each product, see `two_sum`
    mean = two_float_add(a.mean, a.mean_low, jnp.where(some, d * (count_b * scale), 0.0))
    products = two_float_add(a.products, a.products_low, b.products)
    products = two_float_add(*products, b.products_low)
    step = d[:, None] * d[None, :] * (count_a * scale * count_b)
    products = two_float_add(*products, jnp.where(some, step, 0.0))
    merged = CoMoments(*mean, *products)
    return CoMoments(*(choose(count_a, count_b, *v) for v in zip(a, b, merged, strict=True)))
