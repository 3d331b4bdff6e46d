"""The update: one step's rewards folded into the state, and one state folded into another.

`update(s, x)` equals `merge(s, update(init, x))` in every field that has no order: counters, moments, sketch, group
sums. The averages, the window, the trace and the alert rules see steps in order; for them `merge(a, b)` means "a, then
b".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tunrex_jax_monitor.device import alerts, correlation, ema, groups, moments, sketch, window
from tunrex_jax_monitor.device.alerts import Averages, Evidence
from tunrex_jax_monitor.device.batch import LIMIT, Batch
from tunrex_jax_monitor.device.bits import add_counts, count_to_float, to_words
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.groups import GroupBatch, GroupSums
from tunrex_jax_monitor.device.moments import Moments
from tunrex_jax_monitor.device.sketch import Sketch
from tunrex_jax_monitor.device.state import (
    EVENTS,
    INTERVAL,
    RUN,
    Clock,
    Fields,
    MonitorState,
    Tally,
    TraceRow,
    pack,
    sketch_of,
    unpack,
)
from tunrex_jax_monitor.device.window import WindowStats


class _Step(NamedTuple):
    """One batch, reduced."""

    tally: Tally  # uint32[rows], [G + 1, rows], [A, rows]
    samples: Array  # float32[rows]
    moments: Moments  # float32[rows]
    sketch: Sketch
    groups: GroupBatch | None
    sums: GroupSums  # float32[rows]
    products: correlation.CoMoments | None


def update(config: Config, state: MonitorState, batch: Batch) -> MonitorState:
    """Fold one step into the state."""
    fields = unpack(config, state)
    step = _with_all_rows(_reduce(config, batch), fields.alerts.shape[1])
    stats = window_stats(config, state, fields)
    outliers = _rare_outliers(config, state, fields, step, stats)
    step = step._replace(tally=step.tally._replace(outliers=outliers.astype(jnp.uint32)))
    episodes = _judge(config, fields, batch, step, stats, outliers)
    averages = _advance_averages(config, fields.averages, step, outliers)
    low, high = _add_tally(fields, step.tally)
    merged = sketch.merge(sketch_of(state), step.sketch)
    now = Fields(
        clock=Clock(
            fields.clock.updates + 1, fields.clock.interval + 1, fields.clock.events + alerts.changed(episodes)
        ),
        memory=episodes.memory,
        alerts=fields.alerts + episodes.began.astype(jnp.uint32),
        events=_write_event(fields, episodes),
        low=low,
        high=high,
        moments=moments.merge(fields.moments, _both(step.moments), _valid(fields), step.samples[None]),
        group_means=fields.group_means if step.groups is None else _merge_group_means(fields, step.groups),
        group_sums=groups.add_sums(fields.group_sums, _both(step.sums)),
        averages=averages,
        products=_merge_products(fields, step),
    )
    return pack(state, now)._replace(
        trace=_write_trace(config, state.trace, fields.clock, step, averages, episodes),
        window=_push(state.window, batch, config.rewards),
        sketch_low=merged.low,
        sketch_high=merged.high,
        sketch_greatest=merged.greatest,
        sketch_least=merged.least,
    )


def merge(config: Config, a: MonitorState, b: MonitorState) -> MonitorState:
    """Return the state after the steps of `a` and then those of `b`; a state without steps is the identity."""
    fa, fb = unpack(config, a), unpack(config, b)
    low, high = add_counts_tree(fa.low, fa.high, fb.low, fb.high)
    merged = sketch.merge(sketch_of(a), sketch_of(b))
    b_stepped = fb.clock.updates > 0
    events_b = fb.events.at[:, 0].add(fa.clock.updates[None])  # its steps come after those of a
    now = Fields(
        clock=Clock(*(x + y for x, y in zip(fa.clock, fb.clock, strict=True))),
        memory=alerts.Memory(*(jnp.where(b_stepped, y, x) for x, y in zip(fa.memory, fb.memory, strict=True))),
        alerts=fa.alerts + fb.alerts,
        events=_merge_rings(fa.events, events_b, fa.clock.events, fb.clock.events),
        low=low,
        high=high,
        moments=moments.merge(fa.moments, fb.moments, _valid(fa), _valid(fb)),
        group_means=moments.merge(fa.group_means, fb.group_means, _scored(fa), _scored(fb)),
        group_sums=groups.add_sums(fa.group_sums, fb.group_sums),
        averages=Averages(*(ema.merge(x, y) for x, y in zip(fa.averages, fb.averages, strict=True))),
        products=_merge_co_moments(fa, fb),
    )
    return pack(a, now)._replace(
        trace=_merge_rings(a.trace, b.trace, fa.clock.interval, fb.clock.interval),
        window=window.join(a.window, b.window),
        sketch_low=merged.low,
        sketch_high=merged.high,
        sketch_greatest=merged.greatest,
        sketch_least=merged.least,
    )


def reset_interval(config: Config, state: MonitorState) -> MonitorState:
    """Forget the interval: its counters, moments, group sums and trace position. The run goes on."""
    fields = unpack(config, state)
    empty = Moments(*(v[INTERVAL] for v in moments.init(fields.moments.mean.shape)))

    def clear(v: Array) -> Array:
        return v.at[..., INTERVAL, :].set(jnp.zeros((), v.dtype))

    def refill(m: Moments) -> Moments:
        return Moments(*(v.at[INTERVAL].set(e) for v, e in zip(m, empty, strict=True)))

    return pack(
        state,
        fields._replace(
            clock=fields.clock._replace(interval=jnp.zeros_like(fields.clock.interval)),
            low=jax.tree.map(clear, fields.low),
            high=jax.tree.map(clear, fields.high),
            moments=refill(fields.moments),
            group_means=refill(fields.group_means),
            group_sums=jax.tree.map(clear, fields.group_sums),
        ),
    )


def window_stats(config: Config, state: MonitorState, fields: Fields, shift: Array | None = None) -> WindowStats:
    """Return the window's statistics, with `at_min` and `at_max` counted at the declared or observed bounds.

    Deviations are taken about `shift`; by default about the newest sample (or the oldest, if that is not finite), which
    costs no pass of its own and lies inside the data even after a jump.
    """
    assert config.flatline_samples is not None  # the constructor has set it
    if shift is None:
        newest, oldest = state.window[:, -1], state.window[:, 0]
        shift = jnp.where(jnp.isnan(newest), jnp.where(jnp.isnan(oldest), 0.0, oldest), newest)
    return window.stats(state.window, shift, *bounds(config, fields), config.flatline_samples)


def bounds(config: Config, fields: Fields) -> tuple[Array, Array]:
    """Return the lower and upper bound of each reward: declared, else the run's extremes so far."""
    observed = (fields.moments.min[RUN, : config.rewards], fields.moments.max[RUN, : config.rewards])
    declared = [np.array([np.nan if p[i] is None else p[i] for p in config.bounds], np.float32) for i in range(2)]
    low, high = (jnp.where(np.isnan(d), o, d) for d, o in zip(declared, observed, strict=True))
    return low, high


def _reduce(config: Config, batch: Batch) -> _Step:
    x, valid, r = batch.raw, batch.valid, config.rewards
    here = jnp.ones_like(valid) if batch.present is None else batch.present
    valid_count = _sum(valid)
    nan, posinf, neginf = (_on_rewards(_sum(v & here), r) for v in (jnp.isnan(x), x > LIMIT, x < -LIMIT))
    atoms = [valid & (x == np.float32(atom)) for atom in config.atoms]
    counts = {
        "valid": valid_count,
        "nan": nan,
        "posinf": posinf,
        "neginf": neginf,
        "masked": np.uint32(batch.samples) - valid_count - nan - posinf - neginf,
        "atoms": jnp.stack([_sum(at) for at in atoms]) if atoms else jnp.zeros((0, *nan.shape), jnp.uint32),
    }
    count = valid_count.astype(jnp.float32)
    in_bins = valid[:r] & ~sum((at[:r] for at in atoms), jnp.zeros_like(valid[:r]))
    bins = sketch.from_batch(x[:r], in_bins, np.asarray(config.centers, np.float32))
    full = moments.from_batch(x, valid, count)
    products, joint = None, jnp.zeros_like(nan)
    if config.correlations:
        everywhere = jnp.all(valid[:r], axis=0)
        products = correlation.from_batch(x[:r], everywhere, jnp.sum(everywhere.astype(jnp.float32)))
        joint = jnp.full_like(nan, jnp.sum(everywhere, dtype=jnp.uint32))
    grouped, sums = _reduce_groups(config, batch, valid)
    zero = jnp.zeros_like(nan)
    if grouped is None:
        none = jnp.zeros((0, *zero.shape), jnp.uint32)
        group_counts = dict.fromkeys(groups.GroupCounts._fields, zero) | {"solved": none}
    else:
        group_counts = grouped.counts._asdict() | {"solved": grouped.solved}
    return _Step(
        Tally(**counts, **group_counts, outliers=zero, joint=joint), count, full, bins, grouped, sums, products
    )


def _with_all_rows(step: _Step, rows: int) -> _Step:
    """Give a step without lengths their row, as one that saw no sample."""
    missing = rows - step.samples.shape[0]

    def extend(v: Array, fill: float = 0) -> Array:
        return jnp.pad(v, ((0, 0),) * (v.ndim - 1) + ((0, missing),), constant_values=np.asarray(fill, v.dtype))

    if not missing:
        return step
    tally, samples, grouped, sums = jax.tree.map(extend, (step.tally, step.samples, step.groups, step.sums))
    full = Moments(*map(extend, step.moments, (0.0,) * 8 + (np.inf, -np.inf)))
    if step.groups is not None:  # no share, not a share of 0: an average would take that in
        grouped = grouped._replace(zero_share=extend(step.groups.zero_share, np.nan))
    return step._replace(tally=tally, samples=samples, groups=grouped, sums=sums, moments=full)


def _reduce_groups(config: Config, batch: Batch, valid: Array) -> tuple[GroupBatch | None, GroupSums]:
    sums = groups.init_sums(batch.raw.shape[:1])
    grouped = None
    if config.group_size is not None:
        grouped = groups.from_batch(
            batch.raw,
            valid,
            np.asarray(config.weights, np.float32),
            group_size=config.group_size,
            tolerance=config.zero_std_tolerance,
            threshold=config.correct_threshold,
        )
        sums = sums._replace(std=grouped.std, share=grouped.share)
    if batch.has_lengths:
        covariance, variance_l, variance = groups.length_sums(batch.raw, valid, config.group_size or batch.raw.shape[1])
        sums = sums._replace(length_cov=covariance, length_var=variance_l, reward_var=variance)
    return grouped, sums


def is_outside(batch: Batch, low: Array, high: Array) -> Array:
    """Return bool[R, N]: the valid samples strictly outside the limits."""
    r = low.shape[0]
    x = batch.raw[:r]
    return batch.valid[:r] & ((x < low[:, None]) | (x > high[:, None]))


def _push(window_: Array, batch: Batch, rewards: int) -> Array:
    x = jnp.where(jnp.abs(batch.raw[:rewards]) <= LIMIT, batch.raw[:rewards], np.float32(np.nan))
    return window.push(window_, x, None if batch.present is None else batch.present[:rewards])


def _sum(where: Array) -> Array:
    return jnp.sum(where.astype(jnp.uint32), axis=1, dtype=jnp.uint32)


def _on_rewards(count: Array, rewards: int) -> Array:
    """Count for the rewards only: in the total's and the lengths' rows NaN means that there is none."""
    return jnp.where(jnp.arange(count.shape[0]) < rewards, count, 0)


def _rare_outliers(config: Config, state: MonitorState, fields: Fields, step: _Step, stats: WindowStats) -> Array:
    run_samples = _valid(fields)[RUN, : config.rewards]
    rare = alerts.count_rare_outliers(step.sketch, sketch_of(state), run_samples, stats, config)
    return jnp.concatenate([rare, jnp.zeros(2, jnp.float32)])


def _judge(
    config: Config, fields: Fields, batch: Batch, step: _Step, stats: WindowStats, outliers: Array
) -> alerts.Step:
    r = config.rewards
    low, high = bounds(config, fields)
    limit_low, limit_high = alerts.limits(stats, config)
    outside = is_outside(batch, limit_low, limit_high)
    declared = np.array([pair[1] is not None for pair in config.bounds])
    nonfinite = step.tally.nan + step.tally.posinf + step.tally.neginf
    evidence = Evidence(
        stats=stats,
        varied=jnp.asarray(declared) | (low < high),
        samples=_valid(fields)[RUN, :r],
        outliers=count_to_float(fields.low.outliers, fields.high.outliers)[RUN, :r],
        batch_samples=step.samples[:r],
        batch_outliers=outliers[:r],
        any_outlier=jnp.any(outside, axis=1),
        nonfinite=nonfinite[:r] > 0,
    )
    rule = alerts.evaluate(evidence, fields.averages, fields.memory, config)
    zeros = stats.zeros / jnp.maximum(stats.samples, 1.0)
    ready = stats.samples >= 0.9 * config.window_size  # a short window of a rare reward can miss its zeros by chance
    rearm = jnp.concatenate([ready & (zeros < np.float32(0.95 * config.zero_threshold)), jnp.zeros(2, bool)])
    return alerts.advance(fields.memory, rule, step.tally.valid + nonfinite > 0, rearm, config)


def _advance_averages(config: Config, averages: Averages, step: _Step, outliers: Array) -> Averages:
    mean, has_data = step.moments.mean, step.samples > 0
    short, long = config.ema_alpha_short, config.ema_alpha_long
    deviation = mean - ema.value(averages.short)
    zero_share = jnp.full_like(mean, np.float32(np.nan)) if step.groups is None else step.groups.zero_share
    return Averages(
        short=ema.update(averages.short, mean, has_data, short),
        long=ema.update(averages.long, mean, has_data, long),
        noise=ema.update(averages.noise, deviation * deviation, has_data & (averages.short.weight > 0), long),
        outliers=ema.update(averages.outliers, outliers, has_data, short),
        samples=ema.update(averages.samples, step.samples, has_data, short),
        zero_share=ema.update(averages.zero_share, zero_share, ~jnp.isnan(zero_share), short),
    )


def _valid(fields: Fields) -> Array:
    return count_to_float(fields.low.valid, fields.high.valid)


def _scored(fields: Fields) -> Array:
    return count_to_float(fields.low.scored, fields.high.scored)


def _joint(fields: Fields) -> Array:
    return count_to_float(fields.low.joint, fields.high.joint)[RUN, 0]


def _both(step: Any) -> Any:
    """Give a step's [rows] arrays the axis on which RUN and INTERVAL lie: both get the step."""
    return jax.tree.map(lambda v: v[..., None, :], step)


def _add_tally(fields: Fields, tally: Tally) -> tuple[Tally, Tally]:
    tally = _both(tally)
    return add_counts_tree(fields.low, fields.high, tally, jax.tree.map(jnp.zeros_like, tally))


def add_counts_tree(low: Tally, high: Tally, low_b: Tally, high_b: Tally) -> tuple[Tally, Tally]:
    """Add two sets of two-limb counters."""
    pairs = [add_counts(*limbs) for limbs in zip(low, high, low_b, high_b, strict=True)]
    return Tally(*(p[0] for p in pairs)), Tally(*(p[1] for p in pairs))


def _merge_group_means(fields: Fields, grouped: GroupBatch) -> Moments:
    scored = grouped.counts.scored.astype(jnp.float32)
    return moments.merge(fields.group_means, _both(grouped.means), _scored(fields), scored[None])


def _merge_products(fields: Fields, step: _Step) -> correlation.CoMoments | None:
    if fields.products is None or step.products is None:
        return None
    return correlation.merge(fields.products, step.products, _joint(fields), step.tally.joint[0].astype(jnp.float32))


def _merge_co_moments(a: Fields, b: Fields) -> correlation.CoMoments | None:
    if a.products is None or b.products is None:
        return None
    return correlation.merge(a.products, b.products, _joint(a), _joint(b))


def _write_event(fields: Fields, episodes: alerts.Step) -> Array:
    """Put the step into the ring of each row where an episode began or ended."""
    entry = jnp.stack([fields.clock.updates + 1, alerts.step_word(episodes)])[None]
    slot = jnp.arange(EVENTS, dtype=jnp.uint32)[:, None] == fields.clock.events[None] % np.uint32(EVENTS)
    return jnp.where((slot & (alerts.changed(episodes) > 0)[None])[:, None], entry, fields.events)


def _write_trace(
    config: Config, trace: Array, clock: Clock, step: _Step, averages: Averages, episodes: alerts.Step
) -> Array:
    nan = np.float32(np.nan)
    some = step.samples > 0
    std = jnp.sqrt(step.moments.m2 / jnp.maximum(step.samples, 1.0))
    row = TraceRow(
        mean=jnp.where(some, step.moments.mean, nan),
        std=jnp.where(some, std, nan),
        min=jnp.where(some, step.moments.min, nan),
        max=jnp.where(some, step.moments.max, nan),
        samples=step.tally.valid,
        ema_short=ema.value(averages.short),
        ema_long=ema.value(averages.long),
        zero_share=jnp.full_like(std, nan) if step.groups is None else step.groups.zero_share,
        alerts=alerts.step_word(episodes),
    )
    at = (clock.interval[0] % np.uint32(config.log_frequency)).astype(jnp.int32)
    words = jnp.stack([to_words(v) for v in row])[None]
    return jax.lax.dynamic_update_slice(trace, words, (at, jnp.int32(0), jnp.int32(0)))


def _merge_rings(a: Array, b: Array, count_a: Array, count_b: Array) -> Array:
    """Join two rings [size, k, rows] whose j-th entry of a row lies in slot j mod size; the newest entries stay."""
    size = np.uint32(a.shape[0])
    slot = jnp.arange(a.shape[0], dtype=jnp.uint32)[:, None]
    end = (count_a + count_b)[None] + size  # unsigned, so one turn is added: nothing is below zero
    entry = end - 1 - (end - 1 - slot) % size  # the last entry of both that belongs into the slot, plus one turn
    from_b = entry >= count_a[None] + size
    source = ((entry - count_a[None]) % size).astype(jnp.int32)
    moved = jnp.take_along_axis(b, source[:, None], axis=0)
    return jnp.where(from_b[:, None], moved, a)
