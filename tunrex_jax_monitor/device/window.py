"""The last W samples of each reward, exactly, oldest first.

A sample whose mask is False never enters. One that is not finite takes its place as NaN and is skipped by every
statistic; so do places that were never filled. Without a mask a step is one dense shift; with one, the samples that
stay are compacted first: by a scatter of unique places on CPU, by a sort of int32 places on accelerators, where such a
scatter is slow. Both give the same array.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt

from tunrex_jax_monitor.device.bits import from_order_key, order_key, to_floats, two_sum
from tunrex_jax_monitor.device.places import WITHIN
from tunrex_jax_monitor.device.reduce import reduce_together


class WindowStats(NamedTuple):
    """Statistics of the samples in a window; counts are float32 and exact (W < 2^24)."""

    samples: Array  # float32[R]
    mean: Array  # float32[R]
    mean_low: Array
    m2: Array  # sum of squared deviations
    zeros: Array
    negatives: Array
    at_min: Array  # samples equal to the lower bound
    at_max: Array


def init(rewards: int, size: int) -> UInt[Array, "R W"]:
    """Return the words of an empty window: as floats, their NaN would stop `jax_debug_nans`."""
    return jnp.full((rewards, size), np.float32(np.nan).view(np.uint32))


def push(window: UInt[Array, "R W"], x: UInt[Array, "R N"], present: Bool[Array, "R N"] | None) -> UInt[Array, "R W"]:
    """Append the words of a batch: NaN where a sample is not finite. `present` None means every sample is there."""
    size = window.shape[1]
    if present is not None:
        return _compact(window, x, present)
    if x.shape[1] >= size:
        return x[:, x.shape[1] - size :]
    return jnp.concatenate([window[:, x.shape[1] :], x], axis=1)


def join(a: UInt[Array, "R W"], b: UInt[Array, "R W"]) -> UInt[Array, "R W"]:
    """Append what window `b` holds to `a`. Places that `b` never filled are its leading NaN."""
    filled = jnp.cumsum((~jnp.isnan(to_floats(b))).astype(jnp.int32), axis=1) > 0
    return _compact(a, b, filled)


def _compact(window: Array, x: Array, present: Array) -> Array:
    values = jnp.concatenate([window, x], axis=1)
    keep = jnp.concatenate([jnp.ones(window.shape, bool), present], axis=1)
    size = window.shape[1]
    scatter, sort = (partial(how, size=size) for how in (_compact_by_scatter, _compact_by_sort))
    compacted: Array = jax.lax.platform_dependent(values, keep, cpu=scatter, default=sort)
    return compacted


def _compact_by_scatter(values: Array, keep: Array, *, size: int) -> Array:
    rows, n = values.shape
    newer = jnp.cumsum(keep.astype(jnp.int32), axis=1)
    place = size - 1 - (newer[:, -1:] - newer)
    spill = rows * size + jnp.arange(rows * n, dtype=jnp.int32).reshape(rows, n)  # unique, out of range: dropped
    row = jnp.arange(rows, dtype=jnp.int32)[:, None] * np.int32(size)
    index = jnp.where(keep & (place >= 0), row + place, spill)
    fresh = init(rows, size).reshape(-1)
    fresh = fresh.at[index.reshape(-1)].set(values.reshape(-1), **WITHIN, unique_indices=True)
    return fresh.reshape(rows, size)


def _compact_by_sort(values: Array, keep: Array, *, size: int) -> Array:
    position = jnp.broadcast_to(jnp.arange(values.shape[1], dtype=jnp.int32)[None], values.shape)
    place = jnp.where(keep, position, position - np.int32(values.shape[1]))
    return jax.lax.sort((place, values), dimension=1, num_keys=1)[1][:, -size:]


def stats(
    window: Float[Array, "R W"], shift: Float[Array, " R"], low: Float[Array, " R"], high: Float[Array, " R"]
) -> WindowStats:
    """Return statistics of the window in one pass.

    Args:
      window: the samples.
      shift: deviations are summed about it; a shift z standard deviations off the mean costs `m2` a relative
        (1 + z^2) 1e-7.
      low: the bound that `at_min` counts.
      high: the bound that `at_max` counts.
    """
    valid = ~jnp.isnan(window)
    d = jnp.where(valid, window - shift[:, None], 0.0)
    where = (valid, window == 0, window < 0, window == low[:, None], window == high[:, None])
    *counts, s1, s2 = reduce_together(counts=where, sums=(d, d * d), axis=1)
    count, zeros, negatives, at_min, at_max = (v.astype(jnp.float32) for v in counts)
    offset = s1 / jnp.maximum(count, 1.0)
    mean, mean_low = two_sum(shift, offset)
    m2 = jnp.maximum(s2 - s1 * offset, 0.0)
    return WindowStats(count, mean, mean_low, m2, zeros, negatives, at_min, at_max)


def mean(window: Float[Array, "R W"]) -> Float[Array, " R"]:
    """Return the rounded mean, the best shift for `stats`; 0 for an empty window."""
    valid = ~jnp.isnan(window)
    count = jnp.sum(valid.astype(jnp.float32), axis=1)
    return jnp.sum(jnp.where(valid, window, 0.0), axis=1) / jnp.maximum(count, 1.0)


def order_statistics(
    window: Float[Array, "R W"], count: Float[Array, " R"], quantiles: tuple[float, ...]
) -> tuple[Float[Array, "Q R"], Float[Array, "Q R"]]:
    """Return, for each quantile q, the order statistics floor(q (n - 1)) and the next one; NaN when empty.

    The host interpolates between the two in float64, as numpy's `linear` does. Keys are sorted as integers: 3 to 5
    times faster than floats on CPU, and the radix path on GPU.
    """
    keys = jnp.where(jnp.isnan(window), np.uint32(2**32 - 1), order_key(window))  # empty places go last
    keys = jax.lax.sort(keys, dimension=1)
    last = jnp.maximum(count.astype(jnp.int32) - 1, 0)
    lower = jnp.stack([_rank(q, last) for q in quantiles])
    upper = jnp.minimum(lower + 1, last[None])

    def value(index: Array) -> Array:
        key = jnp.take_along_axis(keys[None], index[:, :, None], axis=2)[:, :, 0]
        return jnp.where(count[None] > 0, from_order_key(key), np.float32(np.nan))

    return value(lower), value(upper)


def _rank(quantile: float, last: Array) -> Array:
    """Return floor(quantile * last) exactly: quantile is a multiple of 1/1000 and last < 2^24 would overflow int32."""
    mille = round(quantile * 1000)
    whole, rest = last // 1000, last % 1000
    return whole * mille + (rest * mille) // 1000
