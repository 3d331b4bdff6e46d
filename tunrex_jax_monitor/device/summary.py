"""Summary: what travels. One small set of arrays, packed into one uint32 buffer.

One buffer because 40 separate leaves take 82 us to copy and read, one 6 us. Word 0 says which layout follows, so a
buffer read late, or by another version, cannot be taken for something else; word 1 is the update it was made at.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt

from tunrex_jax_monitor.device import ema, histogram, shards, window
from tunrex_jax_monitor.device.alerts import Averages, Memory
from tunrex_jax_monitor.device.bits import to_floats, to_words
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.state import INTERVAL, RUN, Clock, MonitorState, Tally, init, tally, unpack
from tunrex_jax_monitor.device.update import window_stats

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
NARROW = 2**16  # windows below it send two histogram counts in a word


Leaf = Any  # a JAX array where it is made, a numpy array once it is unpacked


class Summary(NamedTuple):
    """What an emission says; R rewards, T rows of the trace. Pairs of limbs are exact, pairs of floats unrounded."""

    updates: Leaf  # uint32[]
    interval: Leaf  # uint32[]: steps since the last emission
    events_seen: Leaf  # uint32[R + 1]
    window_size: Leaf  # uint32[]
    run_counts: Leaf  # uint32[2, 5, R]: valid, nan, posinf, neginf, masked
    interval_counts: Leaf  # uint32[2, R + 2]
    run_moments: Leaf  # float32[10, R]: mean, m2, m3, m4, their low words, min, max
    interval_moments: Leaf  # float32[6, R + 2]: mean, m2, their low words, min, max
    averages: Leaf  # float32[2, R + 1]: short, long
    alert_counts: Leaf  # uint32[8, R + 1]
    open_alerts: Leaf  # uint32[R + 1]
    window: Leaf  # float32[8, R], as in `window.WindowStats`
    order: Leaf  # float32[14, R]: order statistics below and above each of QUANTILES; its ends once
    bin_exponent: Leaf  # int32[R]
    bin_first: Leaf  # int32[R]
    bin_counts: Leaf  # uint32[R, 32 or 64]
    group_counts: Leaf  # uint32[2, 2, R + 1]: scored, zero_std
    total_groups: Leaf  # uint32[2, 2, 1]: of the total: groups, incomplete
    group_std: Leaf  # float32[2, R + 1]: sum of within-group std
    group_means: Leaf  # float32[4]: of the total: mean, m2, their low words
    share: Leaf  # float32[2, R]
    solved: Leaf  # uint32[2, G + 1]
    lengths: Leaf  # float32[3, R + 1]: covariance, variance of the length, variance of the reward
    products: Leaf  # float32[R, R]: co-moments, empty unless asked for
    atoms: Leaf  # uint32[2, A, R]
    events: Leaf  # uint32[8, 2, R + 1]: update, alert word
    trace: Leaf  # uint32[L, 9, R + 2]


def summarize(config: Config, state: MonitorState) -> Summary:
    """Reduce a state to what travels."""
    f, r = unpack(config, state), config.rewards
    samples = to_floats(state.window)
    stats = window_stats(config, state.window, f, shift=window.mean(samples))
    lower, upper = window.order_statistics(samples, stats.samples, QUANTILES)
    bins = histogram.compute(samples, ~jnp.isnan(samples))
    limbs = [tally(config, limb) for limb in (f.low, f.high)]
    clock, averages = Clock(*f.clock), Averages(*ema.value(f.averages))
    judged = r if config.correct_reward is None else config.reward_names.index(config.correct_reward)
    extremes = f.extremes * np.array([1.0, -1.0], np.float32)[:, None, None]  # min, max
    return Summary(
        updates=clock.updates[0],
        interval=clock.interval[0],
        events_seen=clock.events[: r + 1],
        window_size=jnp.uint32(state.window.shape[1]),
        run_counts=_limbs(limbs, ("valid", "nan", "posinf", "neginf", "masked"), RUN, r),
        interval_counts=jnp.stack([limb.valid[INTERVAL] for limb in limbs]),
        run_moments=jnp.concatenate([*f.moments, extremes])[:, RUN, :r],
        interval_moments=jnp.concatenate([*(v[:2] for v in f.moments), extremes])[:, INTERVAL],
        averages=jnp.stack([averages.short, averages.long])[:, : r + 1],
        alert_counts=f.alerts[:, : r + 1],
        open_alerts=Memory(*f.memory).flags[: r + 1] & 0xFF,
        window=jnp.stack(stats),
        order=jnp.concatenate([lower[:1], *_zip_rows(lower[1:-1], upper[1:-1]), lower[-1:]]),
        bin_exponent=bins.exponent,
        bin_first=bins.first,
        bin_counts=_narrow(bins.counts, state.window.shape[1]),
        group_counts=_limbs(limbs, ("scored", "zero_std"), INTERVAL, r + 1),
        total_groups=_limbs(limbs, ("groups", "incomplete"), INTERVAL, r + 1)[..., r:],
        group_std=jnp.stack([v[0, INTERVAL, : r + 1] for v in f.group_sums]),
        group_means=jnp.concatenate([v[:, INTERVAL, r] for v in f.group_means]),
        share=jnp.stack([v[1, INTERVAL, :r] for v in f.group_sums]),
        solved=jnp.stack([limb.solved[:, INTERVAL, judged] for limb in limbs]),
        lengths=f.group_sums.sums[2:, INTERVAL, : r + 1],
        products=jnp.zeros((0, 0), jnp.float32) if f.products is None else f.products.products,
        atoms=jnp.stack([limb.atoms[:, RUN, :r] for limb in limbs]),
        events=f.events[..., : r + 1],
        trace=state.trace,
    )


def _limbs(limbs: list[Tally], names: tuple[str, ...], horizon: int, rows: int) -> Array:
    """Return uint32[2, len(names), rows]: the counters of that name, low and high limb."""
    return jnp.stack([jnp.stack([getattr(limb, n)[horizon, :rows] for n in names]) for limb in limbs])


def _zip_rows(a: Array, b: Array) -> list[Array]:
    """Return the rows of `a` and `b` in turn."""
    return [row for pair in zip(a, b, strict=True) for row in (pair[0][None], pair[1][None])]


def _narrow(counts: Array, window_size: int) -> Array:
    """Put two counts in a word where they fit; the host tells by the number of words."""
    if window_size >= NARROW:
        return counts
    half = counts.shape[1] // 2
    return counts[:, :half] | (counts[:, half:] << 16)


@functools.cache
def layout(config: Config, wide: bool) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Return name, shape and dtype of every field of a Summary, from the configuration alone."""
    state = jax.eval_shape(lambda: init(config, NARROW if wide else min(config.window_size, NARROW - 1)))
    shapes = jax.eval_shape(functools.partial(summarize, config), state)
    return tuple((name, v.shape, v.dtype.name) for name, v in zip(Summary._fields, shapes, strict=True))


@functools.cache
def layout_hash(config: Config, wide: bool) -> int:
    """Return word 0 of a packed summary."""
    text = repr((config.reward_names, layout(config, wide)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def pack(config: Config, state: MonitorState) -> UInt[Array, " n"]:
    """Return the summary of a state as one uint32 buffer."""
    summary = summarize(config, state)
    first = jnp.uint32(layout_hash(config, state.window.shape[1] >= NARROW))
    parts = shards.beside((first, summary.updates, *summary), state.fields)
    return jnp.concatenate([to_words(v).reshape(-1) for v in parts if v.size])


def unpack_words(config: Config, words: np.ndarray) -> Summary:
    """Invert `pack` on the host, bit by bit.

    Raises:
      ValueError: the words are not a summary of this configuration.
    """
    words = np.asarray(words)
    if words.dtype != np.uint32 or words.ndim != 1 or words.size < 2:
        raise ValueError(f"words: got {words.dtype}{list(words.shape)}, allowed: uint32[n]. Pass what pack() returned.")
    for wide in (False, True):
        if int(words[0]) == layout_hash(config, wide):
            return _split(layout(config, wide), words[2:])
    raise ValueError(
        f"words: got layout {int(words[0]):#010x}, allowed: {layout_hash(config, False):#010x} of this configuration. "
        "Unpack with the accumulator and the version that packed them."
    )


def _split(fields: tuple[tuple[str, tuple[int, ...], str], ...], words: np.ndarray) -> Summary:
    sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape, _ in fields]
    if words.size != sum(sizes):
        raise ValueError(f"words: got {words.size + 2}, allowed: {sum(sizes) + 2}. The buffer was cut or joined.")
    parts = np.split(words, np.cumsum(sizes)[:-1])
    pairs = zip(parts, fields, strict=True)
    return Summary(*(part.view(dtype).reshape(shape) for part, (_, shape, dtype) in pairs))
