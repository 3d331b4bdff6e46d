"""The update: one step's rewards folded into the state.

`update(s, x)` equals `merge(s, update(init, x))` in every field that has no order: counters, moments, sketch, group
sums. The averages, the window, the trace and the alert rules see steps in order.

It has three parts. `_look` goes over the samples, a scatter files them in the bins of the sketch, and `_conclude`
judges the step and folds it in, which is arithmetic on a few numbers per reward.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tunrex_jax_monitor.device import alerts, correlation, ema, groups, moments, rarity, shards, sketch, window
from tunrex_jax_monitor.device.alerts import Averages, Evidence, Memory
from tunrex_jax_monitor.device.batch import LIMIT, Batch
from tunrex_jax_monitor.device.bits import add_counts, count_to_float, to_floats, to_words
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.ema import Ema
from tunrex_jax_monitor.device.kernel import one_kernel
from tunrex_jax_monitor.device.reduce import reduce_together
from tunrex_jax_monitor.device.sketch import Places, Planes, Sketch
from tunrex_jax_monitor.device.state import (
    EVENTS,
    RUN,
    Clock,
    Fields,
    MonitorState,
    Recent,
    Tally,
    TraceRow,
    join_fields,
    sketch_of,
    split_fields,
    tally,
)
from tunrex_jax_monitor.device.step import Step, reduce
from tunrex_jax_monitor.device.window import WindowStats

SMALL = 1 << 16  # samples that one thread goes over faster than many kernels do


class Seen(NamedTuple):
    """One step, and the state before it."""

    step: Step
    stats: WindowStats
    any_outlier: Array | None  # bool[R], for the literal rules


def update(config: Config, state: MonitorState, given: Batch) -> MonitorState:
    """Fold one step into a state of this configuration."""
    look = partial(_look, config, given.has_lengths, given.samples)
    is_small = given.raw.size <= SMALL and not config.correlations  # those are a product of matrices
    look_fast = one_kernel(look) if is_small else look
    seen, places, pushed = look_fast(state.fields, state.window, given.raw, given.present)
    planes = sketch.scatter(sketch_of(state), places)
    conclude = one_kernel(partial(_conclude, config))
    fields, row, at, low, high = conclude(state.fields, state.sketch_low, state.sketch_high, seen, planes)
    return MonitorState(
        fields=fields,
        trace=jax.lax.dynamic_update_slice(state.trace, row[None], (at, jnp.int32(0), jnp.int32(0))),
        window=_push(config, state.window, given) if pushed is None else pushed,
        sketch_low=low,
        sketch_high=high,
        sketch_greatest=planes.greatest,
        sketch_least=planes.least,
    )


def _look(
    config: Config, has_lengths: bool, samples: int, words: Array, window_: Array, raw: Array, present: Array | None
) -> tuple[Seen, Places, Array | None]:
    """Reduce the samples of the step and of the window; find the outliers, the bins, and the next window.

    That is None with a mask, which takes a scatter or a sort.
    """
    given, fields = Batch(raw, present, has_lengths, samples), split_fields(config, words)
    stats = window_stats(config, window_, fields)
    limits = one_kernel(partial(rarity.limits, config=config))(stats)
    outside = is_outside(given, *limits)
    any_outlier = reduce_together(counts=(outside,), axis=1)[0] > 0 if config.detect == "literal" else None
    pushed = _push(config, window_, given) if present is None else None
    return Seen(reduce(config, given, limits), stats, any_outlier), _place(config, given, outside), pushed


def _conclude(
    config: Config, words: Array, low: Array, high: Array, seen: Seen, planes: Planes
) -> tuple[Array, Array, Array, Array, Array]:
    """Judge the step and fold it in.

    Returns:
      The fields, the row of the trace and its place there, and both limbs of the sketch.
    """
    fields, (step, stats, any_outlier) = split_fields(config, words), seen
    added = sketch.join(Sketch(low, high, planes.greatest, planes.least), planes)
    outliers, outlying = _rare_outliers(config, fields, seen, added)
    counters = _count(step, outliers, outlying)
    counted = tally(config, counters)
    episodes = _judge(config, fields, stats, counted, any_outlier)
    averages = _advance_averages(config, fields.averages, step, counted)
    row = _trace_row(step, counted, averages, episodes)
    at = (Clock(*fields.clock).interval[0] % np.uint32(config.log_frequency)).astype(jnp.int32)
    after = _fold(config, fields, step, counters, episodes, averages)
    return join_fields(after), row, at, added.run.low, added.run.high


def window_stats(config: Config, window_: Array, fields: Fields, shift: Array | None = None) -> WindowStats:
    """Return the window's statistics, with `at_min` and `at_max` counted at the declared or observed bounds.

    Deviations are taken about `shift`; by default about the mean of the last step with data, which costs no pass of
    its own and lies inside the data even after a jump.
    """
    if shift is None:
        shift = Recent(*fields.recent).mean[: config.rewards]
    return window.stats(to_floats(window_), shift, *bounds(config, fields))


def bounds(config: Config, fields: Fields) -> tuple[Array, Array]:
    """Return the lower and upper bound of each reward: declared, else the run's extremes so far."""
    low, minus_high = fields.extremes[:, RUN, : config.rewards]
    declared = [np.array([np.nan if p[i] is None else p[i] for p in config.bounds], np.float32) for i in range(2)]
    at_least, at_most = (jnp.where(np.isnan(d), o, d) for d, o in zip(declared, (low, -minus_high), strict=True))
    return at_least, at_most


def is_outside(given: Batch, low: Array, high: Array) -> Array:
    """Return bool[R, N]: the valid samples strictly outside the limits."""
    r = low.shape[0]
    x = given.raw[:r]
    return given.valid[:r] & ((x < low[:, None]) | (x > high[:, None]))


def samples_so_far(fields: Fields, name: str = "valid") -> Array:
    """Return a counter over both horizons, rounded: float32[2, rows]."""
    row = Tally._fields.index(name)
    return count_to_float(fields.low[row], fields.high[row])


def _fold(config: Config, fields: Fields, step: Step, counters: Array, episodes: alerts.Step, averages: Ema) -> Fields:
    """Add the step to RUN and INTERVAL alike."""
    counted = tally(config, counters)
    changed = alerts.changed(episodes)
    one = jnp.ones_like(changed)
    low, high = add_counts(fields.low, fields.high, _both(counters))
    group_means, products = fields.group_means, fields.products
    if step.groups is not None:
        scored = counted.scored.astype(jnp.float32)
        means = jax.tree.map(_both, step.groups.means)
        group_means = moments.merge(group_means, means, samples_so_far(fields, "scored"), scored[None])
    if products is not None and step.products is not None:
        joint = samples_so_far(fields, "joint")[RUN, 0]
        products = correlation.merge(products, step.products, joint, counted.joint[0].astype(jnp.float32))
    return Fields(
        clock=fields.clock + shards.stack(Clock(updates=one, interval=one, events=changed)),
        memory=episodes.memory,
        alerts=fields.alerts + episodes.began.astype(jnp.uint32),
        events=_write_event(fields, episodes, changed),
        low=low,
        high=high,
        moments=moments.merge(
            fields.moments, jax.tree.map(_both, step.moments), samples_so_far(fields), step.samples[None]
        ),
        extremes=jnp.minimum(fields.extremes, _both(step.extremes)),
        group_means=group_means,
        group_sums=groups.add_sums(fields.group_sums, _both(step.sums)),
        averages=averages,
        recent=_advance_recent(fields.recent, step),
        products=products,
    )


def _advance_recent(recent: Array, step: Step) -> Array:
    low, minus_high = step.extremes
    was = Recent(*recent)
    before = jnp.where(was.value == low, was.repeats, 0.0)
    repeats = jnp.where(low == -minus_high, before + step.samples, 0.0)
    now = jnp.stack(Recent(step.moments.mean, low, repeats))
    return jnp.where((step.samples > 0)[None], now, recent)


def _count(step: Step, outliers: Array, outlying: Array) -> Array:
    """Return everything that is counted, as one array: uint32[K, rows]."""
    rows = step.tally.valid.shape[0]
    rare, groups_with = (v[:rows].astype(jnp.uint32) for v in (outliers, outlying))
    *single, solved, atoms = step.tally._replace(outliers=rare, outlying=groups_with)
    counters = jnp.concatenate([shards.stack(single), solved, atoms])
    return jnp.pad(counters, ((0, 0), (0, len(outliers) - rows)))


def _both(step: Array) -> Array:
    """Give an array [..., rows] the axis on which RUN and INTERVAL lie: both get the step."""
    return step[..., None, :]


def _push(config: Config, window_: Array, given: Batch) -> Array:
    x, r = given.raw[: config.rewards], config.rewards
    x = jnp.where(jnp.abs(x) <= LIMIT, x, np.float32(np.nan))
    return window.push(window_, to_words(x), None if given.present is None else given.present[:r])


def _place(config: Config, given: Batch, outside: Array) -> Places:
    """Find the bins of the rewards, without the samples that an atom counts; outliers are marked."""
    x, in_bins = given.raw[: config.rewards], given.valid[: config.rewards]
    for atom in config.atoms:
        in_bins = in_bins & (x != np.float32(atom))
    return sketch.place(x, in_bins, outside, np.asarray(config.centers, np.float32))


def _rare_outliers(config: Config, fields: Fields, seen: Seen, added: sketch.Added) -> tuple[Array, Array]:
    """Count the rare outliers, and about how many groups have some: float32[rows] each."""
    run_samples = samples_so_far(fields)[RUN, : config.rewards]
    rare, marked = rarity.count_rare(added, run_samples, seen.stats)
    outlying = rare
    if seen.step.groups is not None:  # which of the marked samples are rare is known by bin, not by group
        groups_with = seen.step.groups.outlying[: config.rewards].astype(jnp.float32)
        outlying = jnp.ceil(rare * groups_with / jnp.maximum(marked, 1.0))
    extra = (0, fields.alerts.shape[1] - config.rewards)
    return jnp.pad(rare, extra), jnp.pad(outlying, extra)


def _judge(
    config: Config, fields: Fields, stats: WindowStats, counted: Tally, any_outlier: Array | None
) -> alerts.Step:
    r, memory = config.rewards, Memory(*fields.memory)
    low, high = bounds(config, fields)
    declared = np.array([pair[1] is not None for pair in config.bounds])
    nonfinite = counted.nan + counted.posinf + counted.neginf
    evidence = Evidence(
        stats=stats,
        varied=jnp.asarray(declared) | (low < high),
        samples=samples_so_far(fields)[RUN, :r],
        outliers=samples_so_far(fields, "outliers")[RUN, :r],
        outlying=samples_so_far(fields, "outlying")[RUN, :r],
        groups=samples_so_far(fields, "groups")[RUN, :r],
        batch_samples=counted.valid[:r].astype(jnp.float32),
        batch_outliers=counted.outliers[:r].astype(jnp.float32),
        batch_outlying=counted.outlying[:r].astype(jnp.float32),
        batch_groups=counted.groups[:r].astype(jnp.float32),
        any_outlier=any_outlier,
        nonfinite=nonfinite[:r] > 0,
        steps=Clock(*fields.clock).updates,
        constant=Recent(*fields.recent).repeats[:r] >= np.float32(config.flatline_samples),
    )
    rule = alerts.evaluate(evidence, fields.averages, memory, config)
    zeros = stats.zeros / jnp.maximum(stats.samples, 1.0)
    ready = stats.samples >= 0.9 * config.window_size  # a short window of a rare reward can miss its zeros by chance
    rearm = jnp.pad(ready & (zeros < np.float32(0.95 * config.zero_threshold)), (0, len(nonfinite) - r))
    return alerts.advance(memory, rule, counted.valid + nonfinite > 0, rearm, config)


def _advance_averages(config: Config, averages: Ema, step: Step, counted: Tally) -> Ema:
    nan, has_data = np.float32(np.nan), step.samples > 0
    mean = step.moments.mean
    deviation = mean - Averages(*ema.value(averages)).short  # NaN before the first step with data
    of_step = Averages(
        short=mean,
        long=mean,
        noise=deviation * deviation,
        outliers=counted.outliers.astype(jnp.float32),
        outlying=counted.outlying.astype(jnp.float32),
        samples=step.samples,
        zero_share=mean,
    )
    seen = Averages(*(jnp.where(has_data, v, nan) for v in of_step))
    return alerts.advance_averages(averages, seen._replace(zero_share=step.zero_share), config)


def _write_event(fields: Fields, episodes: alerts.Step, changed: Array) -> Array:
    """Put the step into the ring of each row where an episode began or ended."""
    clock = Clock(*fields.clock)
    entry = jnp.stack([clock.updates + 1, alerts.step_word(episodes)])[None]
    slot = jnp.arange(EVENTS, dtype=jnp.uint32)[:, None] == clock.events[None] % np.uint32(EVENTS)
    return jnp.where((slot & (changed > 0)[None])[:, None], entry, fields.events)


def _trace_row(step: Step, counted: Tally, averages: Ema, episodes: alerts.Step) -> Array:
    """Return what the trace keeps of the step: uint32[9, rows]."""
    nan, some = np.float32(np.nan), step.samples > 0
    std = jnp.sqrt(step.moments.m2 / jnp.maximum(step.samples, 1.0))
    low, minus_high = step.extremes
    value = Averages(*ema.value(averages))
    row = TraceRow(
        mean=jnp.where(some, step.moments.mean, nan),
        std=jnp.where(some, std, nan),
        min=jnp.where(some, low, nan),
        max=jnp.where(some, -minus_high, nan),
        samples=counted.valid,
        ema_short=value.short,
        ema_long=value.long,
        zero_share=step.zero_share,
        alerts=alerts.step_word(episodes),
    )
    return shards.stack([to_words(v) for v in row])
