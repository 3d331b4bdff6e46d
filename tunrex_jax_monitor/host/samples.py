"""Samples: the numbers in what a reward function returned, whatever holds them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NO_SAMPLE = np.zeros(0, np.float32)
_BEYOND = 10**300  # float32


def capture(result: Any) -> Any:
    """Return a copy of what a function returned; what lies on a device is copied there, and read later."""
    if not isinstance(result, jax.Array):
        return to_samples(result)
    if isinstance(result, jax.core.Tracer) or jnp.iscomplexobj(result):
        got = "a traced array" if isinstance(result, jax.core.Tracer) else result.dtype
        raise TypeError(f"got {got}, allowed: numbers and None. Return one per completion.")
    return jnp.copy(result)


def to_samples(result: Any) -> np.ndarray:
    """Return a result as a new float32 array of one axis; None is NaN, and a scalar one sample.

    Raises:
      TypeError, ValueError: it holds something else than numbers; a text is none, whatever it says.
    """
    given = np.asarray(_filled(result) if isinstance(result, np.ma.MaskedArray) else result)
    if given.dtype.kind == "O":
        given = np.array([_bounded(value) for value in given.flat])
    is_text = given.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in given.flat)
    if given.dtype.kind in "USmMc" or is_text:
        raise TypeError(
            f"got {'text' if is_text else given.dtype}, allowed: numbers and None. Return one per completion."
        )
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and counted as that
        return np.array(given, np.float32).reshape(-1)


def _filled(masked: Any) -> Any:
    """Return a masked array with NaN where there is no value."""
    return masked.astype(float).filled(np.nan)


def _bounded(value: Any) -> Any:
    """Return NaN for None, and an int as one that a float64 can hold."""
    if value is None:
        return np.nan
    return max(min(value, _BEYOND), -_BEYOND) if isinstance(value, int) else value
