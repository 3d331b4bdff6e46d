"""Exponential moving averages of per-step values, bias-corrected.

`e <- e + alpha (x - e)` from zero, divided by `1 - (1 - alpha)^t`: the first value is the first step's, and a step
without data changes nothing. Order matters here, so `merge(a, b)` means "a, then b", and is exact: both the numerator
and the weight are linear in what came before. Both are two-float pairs: a float32 weight stops 3e-8 / alpha short of 1,
and the value is off by as much.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tunrex_jax_monitor.device.bits import two_float_add


class Ema(NamedTuple):
    """Numerator `total + total_low` and weight `weight + weight_low`; the value is their ratio."""

    total: Array  # float32[...]
    total_low: Array
    weight: Array  # 0 before the first step, then 1 - (1 - alpha)^t
    weight_low: Array


def init(shape: tuple[int, ...]) -> Ema:
    """Return an average that has seen nothing."""
    return Ema(*(jnp.zeros(shape, jnp.float32) for _ in Ema._fields))


def update(ema: Ema, x: Float[Array, "*s"], alpha: Float[np.ndarray, "*#s"] | float) -> Ema:
    """Fold one step's value into the average; a step without data, where `x` is NaN, is the identity."""
    has_data = ~jnp.isnan(x)
    rate = np.asarray(alpha, np.float32)
    total_step = jnp.where(has_data, rate * ((x - ema.total) - ema.total_low), 0.0)
    weight_step = jnp.where(has_data, rate * ((1.0 - ema.weight) - ema.weight_low), 0.0)
    total = two_float_add(ema.total, ema.total_low, total_step)
    return Ema(*total, *two_float_add(ema.weight, ema.weight_low, weight_step))


def merge(a: Ema, b: Ema) -> Ema:
    """Return the average after the steps of `a` and then those of `b`."""
    keep = (1.0 - b.weight) - b.weight_low
    kept = Ema(*(jnp.where(a.weight > 0, keep * v, 0.0) for v in a))
    total = two_float_add(*two_float_add(b.total, b.total_low, kept.total), kept.total_low)
    weight = two_float_add(*two_float_add(b.weight, b.weight_low, kept.weight), kept.weight_low)
    return Ema(*total, *weight)


def value(ema: Ema) -> Float[Array, "*s"]:
    """Return the bias-corrected average; NaN before the first step with data."""
    return jnp.where(
        ema.weight > 0,
        (ema.total + ema.total_low) / jnp.where(ema.weight > 0, ema.weight + ema.weight_low, 1.0),
        np.float32(np.nan),
    )
