"""Display histogram of a window: at most 64 bins, on a grid where no value can land on the wrong side of an edge.

The width is a power of two and the edges are half-odd multiples of it, so binning is exact in float32 and the common
atoms (0, 1, 0.5, -1 ...) lie in the middle of a bin. The host rebuilds the edges from two integers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tunrex_jax_monitor.device.places import WITHIN

BINS = 64


class WindowHistogram(NamedTuple):
    """Bin i holds the samples in [(first + i - 1/2) width, (first + i + 1/2) width), width = 2^exponent."""

    exponent: Array  # int32[R]
    first: Array  # int32[R]
    counts: Array  # uint32[R, BINS]


def edges(exponent: int, first: int, bins: int) -> np.ndarray:
    """Return the `bins + 1` edges in float64, exactly."""
    return (first + np.arange(bins + 1) - 0.5) * 2.0**exponent


def compute(x: Float[Array, "R W"], valid: Bool[Array, "R W"]) -> WindowHistogram:
    """Bin the valid samples of each row between their least and greatest value."""
    low = jnp.min(jnp.where(valid, x, np.float32(np.inf)), axis=1)
    high = jnp.max(jnp.where(valid, x, np.float32(-np.inf)), axis=1)
    empty = low > high
    low, high = jnp.where(empty, 0.0, low), jnp.where(empty, 0.0, high)
    exponent = _width_exponent(low, high)
    first = _grid_index(low, exponent)
    index = jnp.clip(_grid_index(x, exponent[:, None]) - first[:, None], 0, BINS - 1)
    rows = x.shape[0]
    row = jnp.arange(rows, dtype=jnp.int32)[:, None] * np.int32(BINS)
    flat = jnp.where(valid, row + index, np.int32(rows * BINS)).reshape(-1)
    counts = jnp.zeros(rows * BINS, jnp.uint32).at[flat].add(np.uint32(1), **WITHIN)
    return WindowHistogram(exponent, first, counts.reshape(rows, BINS))


def _exponent(x: Array) -> Int[Array, " R"]:
    """Return floor(log2 |x|) of normal floats; -127 for zero."""
    return ((jax.lax.bitcast_convert_type(x, jnp.int32) >> 23) & 0xFF) - 127


def _width_exponent(low: Array, high: Array) -> Array:
    spread = _exponent((high - low) / np.float32(BINS - 2)) + 1
    magnitude = jnp.maximum(jnp.abs(low), jnp.abs(high))
    constant = jnp.where(magnitude > 0, _exponent(magnitude) - 3, 0)  # one bin, an eighth of the value wide
    finest = jnp.where(magnitude > 0, _exponent(magnitude) - 22, -100)  # keeps 2 x / width below 2^24
    return jnp.where(high > low, jnp.maximum(jnp.maximum(spread, finest), -100), jnp.maximum(constant, -100))


def _grid_index(x: Array, exponent: Array) -> Array:
    """Return floor(x / 2^exponent + 1/2) without rounding."""
    doubled = jnp.floor(jnp.where(jnp.isnan(x), 0.0, x) * _power_of_two(1 - exponent))
    return (doubled.astype(jnp.int32) + 1) >> 1


def _power_of_two(exponent: Array) -> Array:
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
