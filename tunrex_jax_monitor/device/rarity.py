"""Rarity: which samples of a step are far from the window, and how many of those are rare in the run."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tunrex_jax_monitor.device.bits import count_to_float
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.reduce import reduce_together
from tunrex_jax_monitor.device.sketch import Added, bin_extremes
from tunrex_jax_monitor.device.window import WindowStats

FREQUENT = 0.005  # a value with this share of the run is an atom of the distribution, not an outlier
SCALE_FLOOR = 1e-6  # of |mean|: below it a deviation is float32 rounding


def limits(stats: WindowStats, config: Config) -> tuple[Float[Array, " R"], Float[Array, " R"]]:
    """Return (low, high): a sample strictly outside is an outlier; infinite until the window is warm."""
    mean = stats.mean + stats.mean_low
    std = jnp.sqrt(stats.m2 / jnp.maximum(stats.samples, 1.0))
    width = np.float32(config.std_threshold) * jnp.maximum(std, np.float32(SCALE_FLOOR) * jnp.abs(mean))
    is_warm = stats.samples >= config.min_samples
    # What ends in a division XLA's CPU compiler does not compute again for each sample: by one, or by zero.
    ends = (jnp.where(is_warm, v, np.float32(sign)) for v, sign in ((mean - width, -1.0), (mean + width, 1.0)))
    low, high = (v / jnp.where(is_warm, np.float32(1.0), np.float32(0.0)) for v in ends)
    return low, high


def count_rare(
    added: Added, samples: Float[Array, " R"], stats: WindowStats
) -> tuple[Float[Array, " R"], Float[Array, " R"]]:
    """Count the marked samples of a batch whose bin is not an atom of the run, 0.5 % of the samples in a narrow bin.

    Args:
      added: the run with the batch in it, whose outliers are marked. (To read the run as it was before would keep the
        compiler from updating it in place.)
      samples: valid samples of the run before the step.
      stats: the window before the step.

    Returns:
      Their number, and that of all marked samples.
    """
    run = added.run
    before = count_to_float(run.low, run.high) - added.batch.astype(jnp.float32)
    frequent = (samples[:, None] > 0) & (before >= np.float32(FREQUENT) * samples[:, None])
    least, greatest = bin_extremes(run)
    std = jnp.sqrt(stats.m2 / jnp.maximum(stats.samples, 1.0))
    atom = frequent & (greatest - least <= 0.5 * std[:, None])
    marked = added.marked.astype(jnp.float32)
    rare, every = reduce_together(sums=(jnp.where(atom, 0.0, marked), marked), axis=1)
    return rare, every
