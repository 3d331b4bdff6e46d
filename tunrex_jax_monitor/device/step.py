"""One step's rewards, reduced: everything that is summed or counted over samples, before the state comes in."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tunrex_jax_monitor.device import batch, correlation, groups, moments, shards
from tunrex_jax_monitor.device.batch import LIMIT, Batch
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.groups import GroupBatch
from tunrex_jax_monitor.device.moments import Moments
from tunrex_jax_monitor.device.reduce import reduce_together
from tunrex_jax_monitor.device.state import Tally


class Step(NamedTuple):
    """One batch, reduced; rows are R rewards, the total, the lengths."""

    tally: Tally  # uint32[rows], [G + 1, rows], [A, rows], without a row for lengths that were not given
    samples: Array  # float32[rows]
    moments: Moments  # float32[4, rows]
    extremes: Array  # float32[2, rows]: min, -max
    groups: GroupBatch | None
    sums: Array  # float32[5, rows], as in `groups.GroupSums`
    products: correlation.CoMoments | None

    @property
    def zero_share(self) -> Array:
        """Share of this step's groups without variance: float32[rows], NaN without a scored group."""
        return jnp.full_like(self.samples, np.nan) if self.groups is None else self.groups.zero_share


def reduce(config: Config, given: Batch, limits: tuple[Array, Array]) -> Step:
    """Reduce one batch; `limits` are those of `rarity.limits`."""
    x, valid = given.raw, given.valid
    here = jnp.ones_like(valid) if given.present is None else given.present
    nonfinite = (here & jnp.isnan(x), here & (x > LIMIT), here & (x < -LIMIT))
    at_atoms = [valid & (x == np.float32(atom)) for atom in config.atoms]
    *counts, total, low, minus_high = reduce_together(
        counts=(valid, *nonfinite, *at_atoms),
        sums=(jnp.where(valid, x, 0.0),),
        mins=tuple(jnp.where(valid, v, np.float32(np.inf)) for v in (x, -x)),
        axis=1,
    )
    samples = counts[0].astype(jnp.float32)
    grouped, sums = _reduce_groups(config, given, valid, limits)
    products, joint = _reduce_products(config, given, valid)
    step = Step(
        _tally(config, given, counts, grouped, joint),
        samples,
        moments.from_batch(x, valid, samples, total),
        jnp.stack([low, minus_high]),
        grouped,
        sums,
        products,
    )
    return _with_all_rows(step, batch.rows(config))


def _tally(config: Config, given: Batch, counts: list[Array], grouped: GroupBatch | None, joint: Array) -> Tally:
    valid, *nonfinite = counts[:4]
    is_reward = np.arange(len(valid)) < config.rewards  # elsewhere NaN means that there is none
    nan, posinf, neginf = (jnp.where(is_reward, v, 0) for v in nonfinite)
    zero, none = jnp.zeros_like(valid), jnp.zeros((0, *valid.shape), jnp.uint32)
    return Tally(
        valid=valid,
        nan=nan,
        posinf=posinf,
        neginf=neginf,
        masked=np.uint32(given.samples) - valid - nan - posinf - neginf,
        outliers=zero,
        outlying=zero,
        joint=jnp.broadcast_to(joint, valid.shape),
        groups=zero if grouped is None else grouped.groups,
        scored=zero if grouped is None else grouped.scored,
        zero_std=zero if grouped is None else grouped.zero_std,
        incomplete=zero if grouped is None else grouped.incomplete,
        solved=none if grouped is None else grouped.solved,
        atoms=jnp.stack(counts[4:]) if config.atoms else none,
    )


def _reduce_groups(
    config: Config, given: Batch, valid: Array, limits: tuple[Array, Array]
) -> tuple[GroupBatch | None, Array]:
    none = jnp.zeros(given.raw.shape[0], jnp.float32)
    grouped, lengths = None, (none, none, none)
    if config.group_size is not None:
        grouped = groups.from_batch(
            given.raw,
            valid,
            np.asarray(config.weights, np.float32),
            limits,
            group_size=config.group_size,
            tolerance=config.zero_std_tolerance,
            threshold=config.correct_threshold,
        )
    if given.has_lengths:
        lengths = groups.length_sums(given.raw, valid, config.group_size or given.raw.shape[1])
    of_groups = (none, none) if grouped is None else (grouped.std, grouped.share)
    return grouped, shards.stack([*of_groups, *lengths])


def _reduce_products(config: Config, given: Batch, valid: Array) -> tuple[correlation.CoMoments | None, Array]:
    if not config.correlations:
        return None, jnp.uint32(0)
    everywhere = jnp.all(valid[: config.rewards], axis=0)
    joint = jnp.sum(everywhere.astype(jnp.uint32), dtype=jnp.uint32)
    return correlation.from_batch(given.raw[: config.rewards], everywhere, joint.astype(jnp.float32)), joint


def _with_all_rows(step: Step, rows: int) -> Step:
    """Give a step without lengths their row, as one that saw no sample."""
    missing = rows - step.samples.shape[0]

    def extend(v: Array, fill: float = 0) -> Array:
        return jnp.pad(v, ((0, 0),) * (v.ndim - 1) + ((0, missing),), constant_values=np.asarray(fill, v.dtype))

    grouped = step.groups
    if grouped is not None:  # no share, not a share of 0: an average would take that in
        means = Moments(*map(extend, grouped.means))
        grouped = grouped._replace(means=means, zero_share=extend(grouped.zero_share, np.nan))
    return step._replace(
        samples=extend(step.samples),
        moments=Moments(*map(extend, step.moments)),
        extremes=extend(step.extremes, np.inf),
        groups=grouped,
        sums=extend(step.sums),
    )
