"""Several reductions of the same samples as one kernel.

A variadic reduce is one launch on an accelerator and one small program on CPU, and takes in whatever made its operands.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tunrex_jax_monitor.device.bits import from_order_key, order_key

Arrays = tuple[Array, ...]
BLOCK = 32


def reduce_together(counts: Arrays = (), sums: Arrays = (), mins: Arrays = (), *, axis: int) -> list[Array]:
    """Reduce arrays of one shape over one axis.

    Args:
      counts: bool, to be counted.
      sums: float32.
      mins: float32, without NaN.
      axis: 0, or 1 of [rows, N] arrays, which may be long.

    Returns:
      The counts as uint32, then the sums, then the minima.
    """
    plainly, as_integers = (partial(how, axis=axis) for how in (_plainly, _as_integers))
    return list(jax.lax.platform_dependent(counts, sums, mins, cpu=as_integers, default=plainly))


def _plainly(counts: Arrays, sums: Arrays, mins: Arrays, *, axis: int) -> Arrays:
    added = len(counts) + len(sums)
    operands = (*(v.astype(jnp.uint32) for v in counts), *sums, *mins)
    neutral = tuple(np.asarray(0 if i < added else np.inf, v.dtype) for i, v in enumerate(operands))

    def combine(a: Arrays, b: Arrays) -> Arrays:
        return tuple(x + y if i < added else jnp.minimum(x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))

    return tuple(jax.lax.reduce(operands, neutral, combine, (axis,)))


def _as_integers(counts: Arrays, sums: Arrays, mins: Arrays, *, axis: int) -> Arrays:
    """The same for a CPU.

    Integers may be reordered, so their loop is vectorised; one minimum of floats makes all of [5, 8192] seven times as
    slow. Counts share words, an extreme is an order key. Sums run in blocks: 8192 samples in one go are 5e-6 off, in
    blocks 1e-7.
    """
    bits = counts[0].shape[axis].bit_length() if counts else 1
    in_word = 32 // bits
    words = tuple(_pack(counts[i : i + in_word], bits) for i in range(0, len(counts), in_word))
    arrays = (*words, *sums, *(~order_key(v) for v in mins))
    added = len(words) + len(sums)
    neutral = tuple(np.zeros((), v.dtype) for v in arrays)

    def combine(a: Arrays, b: Arrays) -> Arrays:
        return tuple(x + y if i < added else jnp.maximum(x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))

    while axis == 1 and arrays[0].shape[1] > BLOCK:
        arrays = tuple(jax.lax.reduce(tuple(map(_blocks, arrays)), neutral, combine, (2,)))
    reduced = jax.lax.reduce(arrays, neutral, combine, (axis,))
    mask = np.uint32((1 << bits) - 1)
    counted = (reduced[i // in_word] >> np.uint32(bits * (i % in_word)) & mask for i in range(len(counts)))
    return (*counted, *reduced[len(words) : added], *(from_order_key(~key) for key in reduced[added:]))


def _pack(counts: Arrays, bits: int) -> Array:
    word = counts[0].astype(jnp.uint32)
    for i, where in enumerate(counts[1:], 1):
        word = word | where.astype(jnp.uint32) << np.uint32(bits * i)
    return word


def _blocks(v: Array) -> Array:
    """Split the last axis, filled up with zeros."""
    blocks = -(-v.shape[1] // BLOCK)
    return jnp.pad(v, ((0, 0), (0, blocks * BLOCK - v.shape[1]))).reshape(v.shape[0], blocks, BLOCK)
