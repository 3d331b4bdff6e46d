"""Run quantiles: a log-binned sketch with integer arithmetic only.

K = 1023 bins per sign and one for zero, 38 to the octave, for 1.22e-4 <= |x| <= 1.5e4; what is beyond goes to the end
bin. Each bin keeps its count and the least and greatest value that fell in it, so a quantile is within 2.01 % of an
order statistic for any data (no bin is wider), exact where an atom is alone in its bin, and exact at both ends.
Counts add and extremes take the maximum: any order, sharding or merge tree gives the same bits.

Method: DDSketch (Masson, Rim & Lee 2019, PVLDB 12(12):2195-2205) with quadratic interpolation of the logarithm, taken
from the bits of the float. `log` is not used because it differs between backends.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tunrex_jax_monitor.device.bits import add_counts, from_order_key, order_key

SUB_BINS = 38  # per octave
BINS_PER_SIGN = 1023
LOWEST_OCTAVE = -13
BINS = 2 * BINS_PER_SIGN + 1  # [negative, from large to small | zero | positive, from small to large]


class Sketch(NamedTuple):
    """Counts and extremes of each bin; zeros everywhere are the empty sketch."""

    low: Array  # uint32[R, BINS], low limb of the counts
    high: Array  # uint32[R, BINS]
    greatest: Array  # uint32[R, BINS], order key of the greatest value
    least: Array  # uint32[R, BINS], complement of the least value's order key, so that both take the maximum


def init(rewards: int) -> Sketch:
    """Return the empty sketch: the identity of `merge`."""
    return Sketch(*(jnp.zeros((rewards, BINS), jnp.uint32) for _ in Sketch._fields))


def bin_index(x: Float[Array, "*s"]) -> Int[Array, "*s"]:
    """Return the bin of each float32, from its bits."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    magnitude = bits & np.int32(0x7FFFFFFF)
    mantissa = ((magnitude >> 11) & 0xFFF).astype(jnp.uint32)  # top 12 bits, t in [0, 4096)
    # q = t (4 - t) / 3 is within 0.9 % of log2(1 + t); in integers: 16384 t - t^2, times 38, over 3 * 2^24
    sub = ((mantissa * (np.uint32(16384) - mantissa) * np.uint32(SUB_BINS)) >> 24) // np.uint32(3)
    octave = (magnitude >> 23) - np.int32(127 + LOWEST_OCTAVE)
    index = jnp.clip(octave * np.int32(SUB_BINS) + sub.astype(jnp.int32), 0, BINS_PER_SIGN - 1) + 1
    index = jnp.where(magnitude == 0, 0, index)
    return BINS_PER_SIGN + jnp.where(bits < 0, -index, index)


def from_batch(x: Float[Array, "R N"], counted: Bool[Array, "R N"], center: Float[np.ndarray, " R"]) -> Sketch:
    """Return the sketch of one batch.

    Args:
      x: float32.
      counted: True where a sample enters a bin.
      center: subtracted before binning, per reward; resolution is relative to the distance from it.
    """
    rewards = x.shape[0]
    row = jnp.arange(rewards, dtype=jnp.int32)[:, None] * np.int32(BINS)
    index = bin_index(x - jnp.asarray(center)[:, None]) + row
    operands = (v.reshape(-1) for v in (index, counted, order_key(x)))
    by_plane, in_turn = (partial(how, size=rewards * BINS) for how in (_scatter_by_plane, _scatter_in_turn))
    planes = jax.lax.platform_dependent(*operands, cuda=in_turn, default=by_plane)
    low, greatest, least = (plane.reshape(rewards, BINS) for plane in planes)
    return Sketch(low, jnp.zeros_like(low), greatest, least)


def _scatter_by_plane(index: Array, counted: Array, key: Array, *, size: int) -> tuple[Array, Array, Array]:
    """Count, and take extremes, each in a fresh constant.

    Into a carried array, or one that was scattered into before, a TPU copies and serialises (estimate 1463 us, not 3);
    on CPU, joining the operands of the extremes takes three times as long as a third scatter.
    """
    index = jnp.where(counted, index, np.int32(size))  # out of range: dropped
    fresh = [jnp.zeros(size, jnp.uint32) for _ in range(3)]
    low = fresh[0].at[index].add(np.uint32(1), mode="drop")
    return low, fresh[1].at[index].max(key, mode="drop"), fresh[2].at[index].max(~key, mode="drop")


def _scatter_in_turn(index: Array, counted: Array, key: Array, *, size: int) -> tuple[Array, Array, Array]:
    """The same in one constant and two scatters: each constant and each scatter costs a GPU a kernel."""
    nowhere = np.int32(3 * size)
    low, greatest, least = (jnp.where(counted, index + np.int32(i * size), nowhere) for i in range(3))
    planes = jnp.zeros(3 * size, jnp.uint32).at[low].add(np.uint32(1), mode="drop")
    places, keys = jnp.concatenate([greatest, least]), jnp.concatenate([key, ~key])
    planes = planes.at[places].max(keys, mode="drop")
    return planes[:size], planes[size : 2 * size], planes[2 * size :]


def merge(a: Sketch, b: Sketch) -> Sketch:
    """Add counts and join extremes: associative, commutative, to the bit."""
    low, high = add_counts(a.low, a.high, b.low, b.high)
    return Sketch(low, high, jnp.maximum(a.greatest, b.greatest), jnp.maximum(a.least, b.least))


def bin_extremes(sketch: Sketch) -> tuple[Float[Array, "R BINS"], Float[Array, "R BINS"]]:
    """Return the least and the greatest value of each bin; meaningless where a bin is empty."""
    return from_order_key(~sketch.least), from_order_key(sketch.greatest)
