"""Run quantiles: a log-binned sketch with integer arithmetic only.

K = 1023 bins per sign and one for zero, 38 to the octave, for 1.22e-4 <= |x| <= 1.5e4; what is beyond goes to the end
bin. Each bin keeps its count and the least and greatest value that fell in it, so a quantile between those bounds is
within 2.01 % of an order statistic for any data (no bin is wider), exact where an atom is alone in its bin, and exact
at both ends. Beyond the bounds all values of a sign share a bin, and a quantile is only known to lie among them.
Counts add and extremes take the maximum: any order, sharding or merge tree gives the same bits.

Method: DDSketch (Masson, Rim & Lee 2019, PVLDB 12(12):2195-2205) with quadratic interpolation of the logarithm, taken
from the bits of the float. `log` is not used because it differs between backends.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tunrex_jax_monitor.device.bits import add_counts, from_order_key, order_key
from tunrex_jax_monitor.device.places import WITHIN

SUB_BINS = 38  # per octave
BINS_PER_SIGN = 1023
LOWEST_OCTAVE = -13
BINS = 2 * BINS_PER_SIGN + 1  # [negative, from large to small | zero | positive, from small to large]
SAMPLES_PER_COPY, MAX_COPIES = 2048, 16  # of the planes that a GPU scatters into


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
    thirds = (mantissa * (np.uint32(16384) - mantissa) * np.uint32(SUB_BINS)) >> 24
    sub = thirds * np.uint32(171) >> 9  # thirds // 3 as long as thirds <= 255; a division is not vectorised
    octave = (magnitude >> 23) - np.int32(127 + LOWEST_OCTAVE)
    index = jnp.clip(octave * np.int32(SUB_BINS) + sub.astype(jnp.int32), 0, BINS_PER_SIGN - 1) + 1
    index = jnp.where(magnitude == 0, 0, index)
    return BINS_PER_SIGN + jnp.where(bits < 0, -index, index)


class Places(NamedTuple):
    """Where the samples of a batch go: [R, N]."""

    slot: Array  # int32: row and bin in one; out of range where a sample does not count
    word: Array  # uint32: what is added there: 1, and 2^16 more where a sample is marked and both counts fit in a word
    mark: Array | None  # uint32: 1 where a sample is marked, if they do not
    key: Array  # uint32: order key


class Planes(NamedTuple):
    """The batch by bins: uint32[R, BINS]."""

    words: Array  # sums of `Places.word`
    marks: Array | None
    greatest: Array  # of the run with the batch in it, as in `Sketch`
    least: Array


class Added(NamedTuple):
    """What became of a batch."""

    run: Sketch  # with the batch in it
    batch: Array  # uint32[R, BINS]: samples of the batch
    marked: Array  # uint32[R, BINS]: those that were marked


def place(
    x: Float[Array, "R N"], counted: Bool[Array, "R N"], marked: Bool[Array, "R N"], center: Float[np.ndarray, " R"]
) -> Places:
    """Find the bins of a batch.

    Args:
      x: float32.
      counted: True where a sample enters a bin.
      marked: True where it is also counted apart.
      center: subtracted before binning, per reward; resolution is relative to the distance from it.
    """
    row = jnp.arange(len(x), dtype=jnp.int32)[:, None] * np.int32(BINS)
    index = jnp.where(counted, bin_index(x - jnp.asarray(center)[:, None]) + row, np.int32(len(x) * BINS))
    mark = marked.astype(jnp.uint32)
    if x.shape[1] < 2**16:
        return Places(index, 1 + (mark << 16), None, order_key(x))
    return Places(index, jnp.ones_like(mark), mark, order_key(x))


def scatter(run: Sketch, places: Places) -> Planes:
    """Sum and take the extremes of a batch by bins."""
    index, word, key = (v.reshape(-1) for v in (places.slot, places.word, places.key))
    words, greatest, least = jax.lax.platform_dependent(
        index, word, key, run.greatest, run.least, cpu=_in_place, cuda=_in_turn, default=_by_plane
    )
    marks = None if places.mark is None else _count_marks(index, places.mark.reshape(-1), run.low.shape)
    return Planes(words, marks, greatest, least)


def join(run: Sketch, planes: Planes) -> Added:
    """Add a batch that has been scattered."""
    if planes.marks is None:
        batch, marked = planes.words & 0xFFFF, planes.words >> 16
    else:
        batch, marked = planes.words, planes.marks
    low, high = add_counts(run.low, run.high, batch)
    return Added(Sketch(low, high, planes.greatest, planes.least), batch, marked)


def _count(index: Array, word: Array, shape: tuple[int, ...]) -> Array:
    return jnp.zeros(math.prod(shape), jnp.uint32).at[index].add(word, **WITHIN).reshape(shape)


def _count_marks(index: Array, mark: Array, shape: tuple[int, ...]) -> Array:
    """Count the few that are marked: adding the zeros of the others would take as long as counting all."""
    return _count(jnp.where(mark > 0, index, np.int32(math.prod(shape))), mark, shape)


def _raise(plane: Array, index: Array, key: Array) -> Array:
    return plane.reshape(-1).at[index].max(key, **WITHIN).reshape(plane.shape)


def _in_place(index: Array, word: Array, key: Array, greatest: Array, least: Array) -> tuple[Array, ...]:
    """Take the extremes where they lie: a bin that is not touched costs nothing."""
    return _count(index, word, greatest.shape), _raise(greatest, index, key), _raise(least, index, ~key)


def _by_plane(index: Array, word: Array, key: Array, greatest: Array, least: Array) -> tuple[Array, ...]:
    """Scatter into fresh constants, then join.

    Into a carried array, or one that was scattered into before, a TPU copies and serialises (estimate 1463 us, not 3).
    """
    highest, lowest = (_raise(jnp.zeros_like(greatest), index, v) for v in (key, ~key))
    return _count(index, word, greatest.shape), jnp.maximum(greatest, highest), jnp.maximum(least, lowest)


def _in_turn(index: Array, word: Array, key: Array, greatest: Array, least: Array) -> tuple[Array, ...]:
    """The same in one constant and two scatters: each constant and each scatter costs a GPU a kernel.

    A GPU's atomic operations on one address queue up, and rewards like to be all equal. So a large batch is dealt out
    to several copies of the planes, sample by sample, and these are joined where the state is.
    """
    size, copies = greatest.size, int(np.clip(index.size // len(greatest) // SAMPLES_PER_COPY, 1, MAX_COPIES))
    copy = jnp.arange(index.size, dtype=jnp.int32) % np.int32(copies) * np.int32(3 * size)
    first, second, third = (
        jnp.where(index < size, index + copy + np.int32(i * size), np.int32(3 * size * copies)) for i in range(3)
    )
    planes = jnp.zeros(3 * size * copies, jnp.uint32).at[first].add(word, **WITHIN)
    places, keys = jnp.concatenate([second, third]), jnp.concatenate([key, ~key])
    planes = planes.at[places].max(keys, **WITHIN).reshape(copies, 3, *greatest.shape)
    words = functools.reduce(jnp.add, planes[:, 0])
    highest, lowest = functools.reduce(jnp.maximum, planes[:, 1:])
    return words, jnp.maximum(greatest, highest), jnp.maximum(least, lowest)


def merge(a: Sketch, b: Sketch) -> Sketch:
    """Add counts and join extremes: associative, commutative, to the bit."""
    low, high = add_counts(a.low, a.high, b.low, b.high)
    return Sketch(low, high, jnp.maximum(a.greatest, b.greatest), jnp.maximum(a.least, b.least))


def bin_extremes(sketch: Sketch) -> tuple[Float[Array, "R BINS"], Float[Array, "R BINS"]]:
    """Return the least and the greatest value of each bin; meaningless where a bin is empty."""
    return from_order_key(~sketch.least), from_order_key(sketch.greatest)
