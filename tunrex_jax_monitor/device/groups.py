"""GRPO groups: G completions of one prompt stand side by side, and only differences inside a group carry a gradient.

A group with a missing member is `incomplete`. Spread is taken over the members that are there, two or more; pass@k
needs all G. "Zero variance" is max - min <= tolerance: the std of six equal float32 rewards of 0.3 is 3.3e-8.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float

from tunrex_jax_monitor.device import moments
from tunrex_jax_monitor.device.bits import two_float_add
from tunrex_jax_monitor.device.reduce import reduce_together

_ROUNDING = 1e-6  # eight units in the last place, what a sum of as many rewards may lack


class GroupBatch(NamedTuple):
    """One step's groups."""

    groups: Array  # uint32[rows]: with at least one member
    scored: Array  # uint32[rows]: with two members or more (one, if G = 1)
    zero_std: Array  # uint32[rows]: scored, and max - min <= tolerance
    incomplete: Array  # uint32[rows]: with a missing member
    outlying: Array  # uint32[rows]: with a member outside the limits
    solved: Array  # uint32[G + 1, rows]: complete groups with c members >= threshold
    means: moments.Moments  # of the group means, to second order: float32[2, rows]
    std: Array  # float32[rows]: sum of the within-group standard deviations, ddof 1
    share: Array  # float32[rows]: sum of w (r - mean_g r) (R - mean_g R), R the weighted total
    zero_share: Array  # float32[rows], NaN without a scored group


class LengthSums(NamedTuple):
    """Sums within groups, over the members that have the reward and a length; float32[rows]."""

    covariance: Array  # of (length - mean_g) (r - mean_g)
    length: Array  # of (length - mean_g)^2
    reward: Array  # of (r - mean_g)^2


class GroupSums(NamedTuple):
    """What adds up over groups: axis 0 is std and share as in `GroupBatch`, then `LengthSums`."""

    sums: Array  # float32[5, ...]; with `sums_low` one number each
    sums_low: Array


def init_sums(shape: tuple[int, ...]) -> GroupSums:
    """Return sums over no groups."""
    return GroupSums(*(jnp.zeros((5, *shape), jnp.float32) for _ in GroupSums._fields))


def add_sums(a: GroupSums, sums: Array, sums_low: Array | float = 0.0) -> GroupSums:
    """Add to the sums; shapes broadcast."""
    return GroupSums(*two_float_add(*two_float_add(a.sums, a.sums_low, sums), jnp.float32(sums_low)))


def from_batch(
    x: Float[Array, "rows N"],
    valid: Bool[Array, "rows N"],
    weights: Float[np.ndarray, " R"],
    limits: tuple[Float[Array, " R"], Float[Array, " R"]],
    *,
    group_size: int,
    tolerance: float,
    threshold: float,
) -> GroupBatch:
    """Return the group statistics of one step; row R of `x` is the weighted total of rows 0 .. R-1."""
    x, valid = _split(x, valid, group_size)
    of_group = _reduce_members(x, valid, len(weights), _thresholds(threshold, weights, x.shape[1]))
    n, mean = of_group.members, of_group.mean
    std = jnp.sqrt(of_group.m2 / jnp.maximum(n - 1.0, 1.0))
    some, scored, complete = n > 0, n >= min(2, group_size), n == group_size
    zero = scored & (of_group.greatest - of_group.least <= np.float32(tolerance))
    low, high = (_with_extra_rows(limit, x.shape[1]) for limit in limits)
    outlying = (of_group.least < low[:, None]) | (of_group.greatest > high[:, None])
    *counts, total_std, total_share, total = reduce_together(
        counts=(some, scored, zero, some & ~complete, outlying),
        sums=(jnp.where(scored, std, 0.0), of_group.share, jnp.where(scored, mean, 0.0)),
        axis=1,
    )
    groups, scored_count, zero_std, incomplete, with_outliers = counts
    scored_groups, zero_groups = scored_count.astype(jnp.float32), zero_std.astype(jnp.float32)
    return GroupBatch(
        groups=groups,
        scored=scored_count,
        zero_std=zero_std,
        incomplete=incomplete,
        outlying=with_outliers,
        solved=_count_levels(of_group.correct, complete, group_size),
        means=moments.from_batch(mean, scored, scored_groups, total, orders=2),
        std=total_std,
        share=total_share * np.pad(weights, (0, len(total_share) - len(weights))),
        zero_share=jnp.where(scored_groups > 0, zero_groups / jnp.maximum(scored_groups, 1.0), np.float32(np.nan)),
    )


def _thresholds(threshold: float, weights: Float[np.ndarray, " R"], rows: int) -> np.ndarray:
    """Return from where on a member is correct; of the total a little less, as its sum is rounded: float32[rows]."""
    limits = np.full(rows, threshold)
    limits[len(weights)] -= _ROUNDING * abs(threshold)
    return limits.astype(np.float32)


def _with_extra_rows(limit: Array, rows: int) -> Array:
    """Return a limit that no value of the rows behind the rewards exceeds."""
    return jnp.pad(limit, (0, rows - limit.shape[0]), constant_values=np.float32(np.nan))


def _count_levels(correct: Array, complete: Array, group_size: int) -> Array:
    """Return how many complete groups have c correct members: uint32[G + 1, rows]."""
    levels = jnp.arange(group_size + 1, dtype=jnp.uint32)[:, None, None]
    is_level = complete[None] & (correct[None] == levels)
    counts = reduce_together(counts=(is_level.reshape(-1, is_level.shape[2]),), axis=1)[0]
    return counts.reshape(is_level.shape[:2])


class _Groups(NamedTuple):
    """Each group, reduced over its members; float32[rows, groups] unless said."""

    members: Array
    correct: Array  # uint32: members >= threshold
    least: Array  # inf without a member
    greatest: Array
    mean: Array
    m2: Array
    share: Array  # sum over members of (r - mean_g r)(R - mean_g R); times the weight, a reward's share


def _reduce_members(x: Array, valid: Array, total: int, thresholds: np.ndarray) -> _Groups:
    """Reduce [G, rows, groups] over its members, in two passes; `total` is the row of R.

    For the share, a reward that is missing where R is there counts as zero, as it did in R.
    """
    n, correct, sums, low, minus_high = reduce_together(
        counts=(valid, valid & (x >= thresholds[None, :, None])),
        sums=(jnp.where(valid, x, 0.0),),
        mins=tuple(jnp.where(valid, v, np.float32(np.inf)) for v in (x, -x)),
        axis=0,
    )
    n = n.astype(jnp.float32)
    some = jnp.maximum(n, 1.0)
    center = sums / some  # a quotient, see `bits.two_sum`
    d = jnp.where(valid, x - center[None], 0.0)
    row = slice(total, total + 1)
    has_total = ~jnp.isnan(x[:, row])  # not cut out of `valid` and `d`, which would then be written out whole
    of_total = jnp.where(has_total, x[:, row] - center[None, row], 0.0)
    shifted = jnp.where(has_total, jnp.where(valid, x, 0.0) - center[None], 0.0)
    s1, s2, product, beside_total = reduce_together(sums=(d, d * d, shifted * of_total, shifted), axis=0)
    offset = s1 / some  # what the rounded mean left over
    m2 = jnp.maximum(s2 - s1 * offset, 0.0)
    return _Groups(
        n, correct, low, -minus_high, center + offset, m2, product - offset[total : total + 1] * beside_total
    )


def _split(x: Array, valid: Array, group_size: int) -> tuple[Array, Array]:
    """Return [G, rows, groups]: members lead, so that sums over a group run along whole vectors, not along 8 lanes.

    One array is moved, with NaN where a sample does not count: moving data is what a TPU pays for here.
    """
    x = jnp.where(valid, x, np.float32(np.nan)).reshape(x.shape[0], -1, group_size).transpose(2, 0, 1)
    x = jax.lax.platform_dependent(x, tpu=_move, default=jax.lax.optimization_barrier)
    return x, ~jnp.isnan(x)


def _move(x: Array) -> Array:
    """Lay an array out by its axes. A TPU would leave members on the lanes, 8 of 128 (estimate 67 us, not 39)."""
    moved: Array = jax.lax.optimization_barrier(with_layout_constraint(x, Layout((0, 1, 2))))
    return moved


def length_sums(x: Float[Array, "rows N"], valid: Bool[Array, "rows N"], group_size: int) -> LengthSums:
    """Return covariance and variances, summed within groups, of each row with the last row, the lengths."""
    x, valid = _split(x, valid, group_size)
    both = valid & valid[:, -1:]
    length = jnp.broadcast_to(x[:, -1:], x.shape)
    n, *sums = reduce_together(counts=(both,), sums=tuple(jnp.where(both, v, 0.0) for v in (x, length)), axis=0)
    scale = 1.0 / jnp.maximum(n.astype(jnp.float32), 1.0)
    d, dl = (jnp.where(both, v - (total * scale)[None], 0.0) for v, total in zip((x, length), sums, strict=True))
    s1, l1, product, l2, s2 = reduce_together(sums=(d, dl, d * dl, dl * dl, d * d), axis=0)
    of_groups = (product - s1 * l1 * scale, l2 - l1 * l1 * scale, s2 - s1 * s1 * scale)
    return LengthSums(*reduce_together(sums=of_groups, axis=1))
