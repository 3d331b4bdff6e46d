"""One step's rewards as one array: checked while tracing, stacked, weighted, gathered over devices.

Rows 0 .. R-1 are the rewards, row R is the weighted total that the trainer optimises, row R+1 the completion lengths.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from tunrex_jax_monitor.device import shards
from tunrex_jax_monitor.device.config import Config, invalid
from tunrex_jax_monitor.device.reduce import reduce_together

Samples = ArrayLike | Sequence[Any]  # a list of numbers, of rows, or inside a jitted function of tracers
_NO_NUMBERS = "OSUMmT"  # kinds of numpy: objects, texts, times
EXTRA_ROWS = 2  # the weighted total, the lengths
LIMIT = np.float32(1e16)  # a larger magnitude counts as infinite: its square would overflow the variance


class Batch(NamedTuple):
    """N samples of a step."""

    raw: Array  # float32[R + 1 or 2, N], as given, then the total, then lengths if there are any; NaN where none exists
    present: Array | None  # bool of that shape: the mask; None when there is none
    has_lengths: bool
    samples: int  # N, or 0 where a masked group stands in for no sample at all

    @property
    def valid(self) -> Array:
        """Where a sample counts: bool, of the shape of `raw`."""
        finite = jnp.abs(self.raw) <= LIMIT
        return finite if self.present is None else finite & self.present


def rows(config: Config) -> int:
    """Return the number of rows of the per-row arrays."""
    return config.rewards + EXTRA_ROWS


def collect(
    config: Config,
    rewards: Mapping[str, Samples],
    mask: Samples | Mapping[str, Samples] | None,
    lengths: Samples | None,
    axis_name: shards.AxisName | None = None,
    beside: Any = None,
) -> Batch:
    """Check and stack a step's arrays; what lies on many devices is joined by one collective.

    Args:
      config: what to watch.
      rewards: as in `RewardAccumulator.update`.
      mask: likewise.
      lengths: likewise.
      axis_name: likewise.
      beside: as in `shards.join`; here, the state.

    Raises:
      ValueError: a name, shape or dtype is wrong; raised while tracing.
    """
    arrays = to_arrays(config, rewards)
    shape = _check_rewards(config, arrays, axis_name)
    present = _stack_mask(config, mask, shape)
    raw = shards.stack([_to_float32(f"rewards[{n!r}]", arrays[n]) for n in config.reward_names])
    length_row = None
    if lengths is not None:
        given = _from_list("lengths", lengths)
        if jnp.shape(given) != shape:
            raise invalid("lengths", jnp.shape(given), f"the rewards' shape {shape}", "Give one length per completion.")
        length_row = _to_float32("lengths", given)[None]
    if axis_name is not None:
        shards.check_axes(axis_name, raw, present, length_row)
    empty = raw.size == 0
    if empty:  # no sample at all: a masked group says the same, and has a minimum
        n = config.group_size or 1
        raw, present = jnp.zeros((config.rewards, n), jnp.float32), jnp.zeros((config.rewards, n), bool)
        length_row = None if length_row is None else jnp.zeros((1, n), jnp.float32)
    # What is watched is not learned from, also where rewards are computed inside a loss.
    raw, length_row = jax.lax.stop_gradient((raw, length_row))
    step = _with_totals(config, *shards.join(raw, present, length_row, axis_name, beside))
    return step._replace(samples=0) if empty else step


def _with_totals(config: Config, raw: Array, present: Array | None, length_row: Array | None) -> Batch:
    """Append the weighted total over the rewards that count, and the lengths."""
    nan = np.float32(np.nan)
    valid = jnp.abs(raw) <= LIMIT
    if present is not None:
        valid = valid & present
    weights = jnp.asarray(config.weights, jnp.float32)[:, None]
    total = reduce_together(sums=(jnp.where(valid, raw * weights, 0.0),), axis=0)[0]
    total = jnp.where(jnp.any(valid, axis=0), total, nan)[None]
    extra = [total]
    if length_row is not None:
        extra.append(length_row if present is None else jnp.where(jnp.any(present, axis=0), length_row, nan))
    if present is not None:
        present = jnp.concatenate([present, jnp.ones((len(extra), raw.shape[1]), bool)])
    # Computed once: without the barrier the compiler inlines it into every reduction, and launches each on its own.
    raw = jax.lax.optimization_barrier(jnp.concatenate([raw, *extra]))
    return Batch(raw, present, length_row is not None, raw.shape[1])


def to_arrays(config: Config, rewards: Mapping[str, Samples]) -> dict[str, Any]:
    """Return the rewards by name, with an array in the place of each list."""
    if not isinstance(rewards, Mapping):
        allowed = f"a mapping with the keys {config.reward_names}"
        raise invalid("rewards", type(rewards).__name__, allowed, "Pass {name: array}.")
    return {name: _from_list(f"rewards[{name!r}]", value) for name, value in rewards.items()}


def _from_list(argument: str, value: Any) -> Any:
    """Make an array of a Python list, which inside a jitted function holds tracers, or of lists of them."""
    if not isinstance(value, list | tuple):
        is_array = hasattr(value, "dtype") and getattr(value.dtype, "kind", "f") not in _NO_NUMBERS
        return value if is_array else _to_array(argument, value)
    rows_ = [_from_list(argument, item) for item in value]
    if len({jnp.shape(row) for row in rows_}) > 1:
        raise invalid(argument, "a ragged list", "rows of one length", "Pad them, and mask what is not there.")
    return shards.stack([jnp.asarray(row) for row in rows_]) if rows_ else jnp.zeros(0, jnp.float32)


def _to_array(argument: str, value: Any) -> Array:
    try:
        return jnp.asarray(value)
    except (OverflowError, TypeError, ValueError) as error:
        got = f"{type(value).__name__} {value!r}"[:80]
        raise invalid(argument, got, "numbers that fit 32 bits", "Replace it by a number, or mask it.") from error


def _check_rewards(
    config: Config, rewards: Mapping[str, ArrayLike], axis_name: shards.AxisName | None
) -> tuple[int, ...]:
    names = config.reward_names
    missing = [name for name in names if name not in rewards]
    unknown = [name for name in rewards if name not in names]
    if missing or unknown:
        found = [f"{word}: {names_}" for word, names_ in (("Missing", missing), ("unknown", unknown)) if names_]
        remedy = f"{', '.join(found)}. Change the dictionary or reward_names."
        raise invalid("rewards", tuple(rewards), f"exactly the names {names}", remedy)
    shapes = {name: jnp.shape(rewards[name]) for name in names}
    shape = shapes[names[0]]
    if len(set(shapes.values())) > 1:
        raise invalid("rewards", shapes, f"one shape for all, as {names[0]!r} has: {shape}", "Broadcast or mask them.")
    if len(shape) not in (1, 2):
        raise invalid("rewards", shape, "[N] or [B, G]", "One number per completion: sum or mask token rewards first.")
    _check_groups(config.group_size, shape, axis_name)
    return shape


def _check_groups(group_size: int | None, shape: tuple[int, ...], axis_name: shards.AxisName | None) -> None:
    if group_size is None:
        return
    where = "" if axis_name is None else f" on each shard of {axis_name!r}"
    whole = "" if axis_name is None else " A group lies whole on one shard: shard the prompts, not the completions."
    if len(shape) == 2 and shape[1] != group_size and 0 not in shape:
        allowed = f"[B, {group_size}]{where} with group_size={group_size}"
        raise invalid("rewards", shape, allowed, f"Put the group on the last axis.{whole}")
    if shape[0] % group_size and len(shape) == 1:
        remedy = f"Each prompt's completions stand side by side; mask what is missing.{whole}"
        raise invalid("rewards", shape, f"N divisible by group_size={group_size}{where}", remedy)


def _stack_mask(config: Config, mask: Samples | Mapping[str, Samples] | None, shape: tuple[int, ...]) -> Array | None:
    if mask is None:
        return None
    if isinstance(mask, Mapping):
        unknown = [name for name in mask if name not in config.reward_names]
        if unknown:
            raise invalid(
                "mask", unknown, f"keys among {config.reward_names}", "A reward without a mask counts everywhere."
            )
        rows_ = [
            _check_mask(mask[name], shape) if name in mask else jnp.ones(shape, bool) for name in config.reward_names
        ]
        return shards.stack(rows_)
    return jnp.broadcast_to(_check_mask(mask, shape), (config.rewards, *shape))


def _check_mask(mask: Samples, shape: tuple[int, ...]) -> Array:
    given = _from_list("mask", mask)
    if jnp.shape(given) != shape:
        raise invalid("mask", jnp.shape(given), f"the rewards' shape {shape}", "One flag per completion.")
    array = _to_real("mask", given)
    return array if array.dtype == jnp.bool_ else (array != 0) & (array == array)  # NaN is no flag


def _to_float32(argument: str, x: ArrayLike) -> Array:
    return _to_real(argument, x).astype(jnp.float32)


def _to_real(argument: str, x: ArrayLike) -> Array:
    array = jnp.asarray(x)
    if not (
        jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == bool
    ):
        raise invalid(argument, array.dtype.name, "a real dtype, integer or bool", "Cast it first.")
    return array
