"""GRPO groups: G completions of one prompt stand side by side, and only differences inside a group carry a gradient.

A group with a missing member is `incomplete`. Spread is taken over the members that are there, two or more; pass@k
needs all G. "Zero variance" is max - min <= tolerance: the std of six equal float32 rewards of 0.3 is 3.3e-8.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from tunrex_jax_monitor.device import moments
from tunrex_jax_monitor.device.bits import two_float_add


class GroupCounts(NamedTuple):
    """How many groups of a step were what; uint32[rows]."""

    groups: Array  # with at least one member
    scored: Array  # with two members or more (one, if G = 1)
    zero_std: Array  # scored, and max - min <= tolerance
    incomplete: Array  # with a missing member


class GroupSums(NamedTuple):
    """Sums over groups, each a two-float pair; float32[..., rows]."""

    std: Array  # within-group standard deviation, ddof 1
    std_low: Array
    share: Array  # w (r - mean_g r) (R - mean_g R), R the weighted total
    share_low: Array
    length_cov: Array  # (length - mean_g) (r - mean_g)
    length_cov_low: Array
    length_var: Array  # (length - mean_g)^2
    length_var_low: Array
    reward_var: Array  # (r - mean_g)^2 over the same members
    reward_var_low: Array


class GroupBatch(NamedTuple):
    """One step's groups."""

    counts: GroupCounts
    solved: Array  # uint32[G + 1, rows]: complete groups with c members >= threshold
    means: moments.Moments  # of the group means: float32[rows]
    std: Array  # float32[rows]
    share: Array
    zero_share: Array  # float32[rows], NaN without a scored group


def init_sums(shape: tuple[int, ...]) -> GroupSums:
    """Return sums over no groups."""
    return GroupSums(*(jnp.zeros(shape, jnp.float32) for _ in GroupSums._fields))


def add_sums(a: GroupSums, b: GroupSums) -> GroupSums:
    """Add two-float sums pair by pair; shapes broadcast."""
    out: list[Array] = []
    for i in range(0, len(a), 2):
        high, low = two_float_add(a[i], a[i + 1], b[i])
        out += two_float_add(high, low, b[i + 1])
    return GroupSums(*out)


def from_batch(
    x: Float[Array, "rows N"],
    valid: Bool[Array, "rows N"],
    weights: Float[np.ndarray, " R"],
    *,
    group_size: int,
    tolerance: float,
    threshold: float,
) -> GroupBatch:
    """Return the group statistics of one step; row R of `x` is the weighted total of rows 0 .. R-1."""
    x, valid = _split(x, valid, group_size)
    n = jnp.sum(valid.astype(jnp.float32), axis=0)
    center, d, offset = _deviations(x, valid, n)
    m2 = jnp.maximum(jnp.sum(d * d, axis=0) - n * offset * offset, 0.0)
    std = jnp.sqrt(m2 / jnp.maximum(n - 1.0, 1.0))
    low = jnp.min(jnp.where(valid, x, np.float32(np.inf)), axis=0)
    high = jnp.max(jnp.where(valid, x, np.float32(-np.inf)), axis=0)
    scored = n >= min(2, group_size)
    complete = n == group_size
    zero = scored & (high - low <= np.float32(tolerance))
    counts = GroupCounts(*(_count(v) for v in (n > 0, scored, zero, (n > 0) & ~complete)))
    correct = jnp.sum((valid & (x >= np.float32(threshold))).astype(jnp.int32), axis=0, dtype=jnp.int32)
    correct = jnp.where(complete, correct, -1)
    levels = jnp.arange(group_size + 1, dtype=jnp.int32)[:, None, None]
    solved = jnp.sum((correct[None] == levels).astype(jnp.uint32), axis=2, dtype=jnp.uint32)
    scored_groups = counts.scored.astype(jnp.float32)
    zero_share = counts.zero_std.astype(jnp.float32) / jnp.maximum(scored_groups, 1.0)
    return GroupBatch(
        counts=counts,
        solved=solved,
        means=moments.from_batch(center + offset, scored, scored_groups),
        std=jnp.sum(jnp.where(scored, std, 0.0), axis=1),
        share=_advantage_share(x, valid, center, (d, offset), weights),
        zero_share=jnp.where(scored_groups > 0, zero_share, np.float32(np.nan)),
    )


def _split(x: Array, valid: Array, group_size: int) -> tuple[Array, Array]:
    """Return [G, rows, groups]: members lead, so that sums over a group run along whole vectors, not along 8 lanes.

    One array is moved, with NaN where a sample does not count: moving data is what a TPU pays for here.
    """
    x = jnp.where(valid, x, np.float32(np.nan))
    x = jax.lax.optimization_barrier(x.reshape(x.shape[0], -1, group_size).transpose(2, 0, 1))
    return x, ~jnp.isnan(x)


def _deviations(x: Array, valid: Array, n: Array) -> tuple[Array, Array, Array]:
    """Return the rounded group mean, the deviations from it, and what the rounding left: mean = center + offset."""
    scale = 1.0 / jnp.maximum(n, 1.0)
    center = jnp.sum(jnp.where(valid, x, 0.0), axis=0) * scale
    d = jnp.where(valid, x - center[None], 0.0)
    return center, d, jnp.sum(d, axis=0) * scale


def _count(where: Array) -> Array:
    return jnp.sum(where.astype(jnp.uint32), axis=1, dtype=jnp.uint32)


def _advantage_share(x: Array, valid: Array, center: Array, total: tuple[Array, Array], weights: np.ndarray) -> Array:
    """Return sum (w r - mean_g w r)(R - mean_g R) per row: the columns of the within-group co-moment matrix times w.

    A reward that is missing where the total is there counted as zero in the total, so it does here.
    """
    r, (d, offset) = len(weights), total
    deviation = jnp.where(valid[:, r], d[:, r] - offset[None, r], 0.0)  # sums to zero in a group: any shift will do
    shifted = jnp.where(valid[:, :r], x[:, :r], 0.0) - center[None, :r]
    share = jnp.sum(jnp.sum(shifted * deviation[:, None], axis=0), axis=1) * jnp.asarray(weights)
    return jnp.concatenate([share, jnp.zeros(x.shape[1] - r, jnp.float32)])


def length_sums(
    x: Float[Array, "rows N"], valid: Bool[Array, "rows N"], group_size: int
) -> tuple[Float[Array, " rows"], Float[Array, " rows"], Float[Array, " rows"]]:
    """Return covariance and variances, summed within groups, of each row with the last row, the lengths."""
    x, valid = _split(x, valid, group_size)
    both = valid & valid[:, -1:]
    n = jnp.sum(both.astype(jnp.float32), axis=0)
    _, d, offset = _deviations(x, both, n)
    _, dl, offset_l = _deviations(jnp.broadcast_to(x[:, -1:], x.shape), both, n)
    covariance = jnp.sum(d * dl, axis=0) - n * offset * offset_l
    variance_l = jnp.sum(dl * dl, axis=0) - n * offset_l * offset_l
    variance = jnp.sum(d * d, axis=0) - n * offset * offset
    return jnp.sum(covariance, axis=1), jnp.sum(variance_l, axis=1), jnp.sum(variance, axis=1)
