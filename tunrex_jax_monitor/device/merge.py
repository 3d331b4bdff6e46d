"""One state folded into another, and the interval forgotten.

Counters, moments, sketch and group sums add up in any order; for the averages, the window, the trace and the events
`merge(a, b)` means "a, then b".
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tunrex_jax_monitor.device import correlation, ema, groups, moments, sketch, window
from tunrex_jax_monitor.device.bits import add_counts
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.correlation import CoMoments
from tunrex_jax_monitor.device.state import (
    HORIZONS,
    INTERVAL,
    RUN,
    Clock,
    Fields,
    MonitorState,
    Recent,
    check,
    init_fields,
    pack,
    sketch_of,
    split_fields,
    unpack,
)
from tunrex_jax_monitor.device.update import samples_so_far


def merge(config: Config, a: MonitorState, b: MonitorState) -> MonitorState:
    """Return the state after the steps of `a` and then those of `b`; a state without steps is the identity."""
    a, b = check(config, a), check(config, b)
    fa, fb = split_fields(config, a.fields), split_fields(config, b.fields)
    clock_a, clock_b = Clock(*fa.clock), Clock(*fb.clock)
    merged = sketch.merge(sketch_of(a), sketch_of(b))
    return pack(a, _merge_fields(config, fa, fb))._replace(
        trace=_merge_rings(a.trace, b.trace, clock_a.interval, clock_b.interval),
        window=window.join(*_of_one_size(a.window, b.window)),
        sketch_low=merged.low,
        sketch_high=merged.high,
        sketch_greatest=merged.greatest,
        sketch_least=merged.least,
    )


def _of_one_size(*windows: Array) -> list[Array]:
    """Return windows of the size of the largest, with places in front of the others that were never filled."""
    size = max(w.shape[1] for w in windows)
    return [jnp.concatenate([window.init(w.shape[0], size - w.shape[1]), w], axis=1) for w in windows]


def reset_interval(config: Config, state: MonitorState) -> MonitorState:
    """Forget the interval: its counters, moments, group sums and trace position. The run goes on."""
    fields, empty = unpack(config, state), init_fields(config)
    interval = np.arange(HORIZONS)[:, None] == INTERVAL
    forgotten = {
        name: jax.tree.map(lambda v, e: jnp.where(interval, e, v), getattr(fields, name), getattr(empty, name))
        for name in ("low", "high", "moments", "extremes", "group_means", "group_sums")
    }
    steps = np.arange(len(Clock._fields))[:, None] == Clock._fields.index("interval")
    return pack(state, fields._replace(clock=jnp.where(steps, np.uint32(0), fields.clock), **forgotten))


def _merge_fields(config: Config, a: Fields, b: Fields) -> Fields:
    low, high = add_counts(a.low, a.high, b.low, b.high)
    clock_a, clock_b = Clock(*a.clock), Clock(*b.clock)
    events_b = b.events.at[:, 0].add(clock_a.updates[None])  # its steps come after those of a
    return Fields(
        clock=a.clock + b.clock,
        memory=jnp.where(clock_b.updates > 0, b.memory, a.memory),
        alerts=a.alerts + b.alerts,
        events=_merge_rings(a.events, events_b, clock_a.events, clock_b.events),
        low=low,
        high=high,
        moments=moments.merge(a.moments, b.moments, *(samples_so_far(f) for f in (a, b))),
        extremes=jnp.minimum(a.extremes, b.extremes),
        group_means=moments.merge(a.group_means, b.group_means, *(samples_so_far(f, "scored") for f in (a, b))),
        group_sums=groups.add_sums(a.group_sums, *b.group_sums),
        averages=ema.merge(a.averages, b.averages),
        recent=_merge_recent(config, a, b),
        products=_merge_products(config, a, b),
    )


def _merge_recent(config: Config, a: Fields, b: Fields) -> Array:
    before, last, samples = Recent(*a.recent), Recent(*b.recent), samples_so_far(b)[RUN]
    goes_on = (last.repeats == samples) & (last.value == before.value)  # all of b is one value, and a ended with it
    last = last._replace(repeats=last.repeats + jnp.where(goes_on, before.repeats, 0.0))
    return jnp.where((samples > 0)[None], jnp.stack(last), a.recent)


def _merge_products(config: Config, a: Fields, b: Fields) -> CoMoments | None:
    if a.products is None or b.products is None:
        return None
    joint = (samples_so_far(f, "joint")[RUN, 0] for f in (a, b))
    return correlation.merge(a.products, b.products, *joint)


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
