"""MonitorState: seven arrays that ride through the train step, and the named fields inside the first.

A jitted call costs about 2 us per leaf on CPU, and each leaf a kernel on an accelerator, so all small fields share one
leaf of words. `Fields` is the unpacked view that the code works on; `unpack` and `pack` are inverse. What is computed
alike lies in one array, and small tuples (`Clock`, `Tally` ...) name its rows: that is one kernel, not one per name.
RUN covers everything since `init`, INTERVAL everything since the last emission.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tunrex_jax_monitor.device import batch, correlation, ema, groups, moments, sketch, window
from tunrex_jax_monitor.device.alerts import TYPES, Averages, Memory
from tunrex_jax_monitor.device.bits import to_floats, to_words
from tunrex_jax_monitor.device.config import Config, invalid
from tunrex_jax_monitor.device.correlation import CoMoments
from tunrex_jax_monitor.device.ema import Ema
from tunrex_jax_monitor.device.groups import GroupSums
from tunrex_jax_monitor.device.moments import Moments
from tunrex_jax_monitor.device.sketch import Sketch

RUN, INTERVAL = 0, 1
HORIZONS = 2
EVENTS = 8  # steps with an alert that the event ring holds


class MonitorState(NamedTuple):
    """The state of the monitor. W is the window, L the log frequency; rows are R rewards, the total, the lengths."""

    fields: Array  # uint32[F, R + 2]: everything small, floats bit by bit; see `Fields`
    trace: Array  # uint32[L, 9, R + 2]: ring of the interval's steps; see `TraceRow`
    window: Array  # uint32[R, W]: bits of the last samples, oldest first, NaN where there is none
    sketch_low: Array  # uint32[R, 2047]: bin counts of the run, low limb
    sketch_high: Array  # uint32[R, 2047]
    sketch_greatest: Array  # uint32[R, 2047]: order key of each bin's greatest value
    sketch_least: Array  # uint32[R, 2047]: complement of that of the least


class TraceRow(NamedTuple):
    """One step, as words; float32 unless said."""

    mean: Array
    std: Array
    min: Array
    max: Array
    samples: Array  # uint32
    ema_short: Array
    ema_long: Array
    zero_share: Array
    alerts: Array  # uint32, see `alerts.step_word`


class Clock(NamedTuple):
    """Steps seen; uint32[rows]. The first two are the same in every row."""

    updates: Array
    interval: Array  # since the last emission
    events: Array  # steps that went into the event ring


class Recent(NamedTuple):
    """The last step with data; float32[rows]."""

    mean: Array  # 0 before the first
    value: Array  # its least sample
    repeats: Array  # samples in a row that were all equal to `value`, by whole steps; 0 where that step had two values


class Tally(NamedTuple):
    """What is counted exactly, in the order in which one array [K, ...] holds it."""

    valid: Any
    nan: Any
    posinf: Any
    neginf: Any
    masked: Any
    outliers: Any  # rare outliers, for the OUTLIER rule
    outlying: Any  # groups that have some
    joint: Any  # samples where every reward counts
    groups: Any
    scored: Any
    zero_std: Any
    incomplete: Any
    solved: Any  # [G + 1, ...]
    atoms: Any  # [A, ...]


class Fields(NamedTuple):
    """The first leaf, by name; axes of length 2 are RUN and INTERVAL, unless said."""

    clock: Array  # uint32[3, rows], as in `Clock`
    memory: Array  # uint32[2, rows], as in `alerts.Memory`
    alerts: Array  # uint32[8, rows]: episodes since init
    events: Array  # uint32[8, 2, rows]: ring of steps with an alert: update, alert word
    low: Array  # uint32[K, 2, rows]: low limbs of the counters, as in `Tally`
    high: Array  # uint32[K, 2, rows]
    moments: Moments  # float32[4, 2, rows]
    extremes: Array  # float32[2, 2, rows]: min, and -max, so that both take the minimum
    group_means: Moments  # float32[2, 2, rows]
    group_sums: GroupSums  # float32[5, 2, rows]
    averages: Ema  # float32[7, rows], as in `alerts.Averages`
    recent: Array  # float32[3, rows], as in `Recent`
    products: CoMoments | None  # of the R rewards


def tally(config: Config, counters: Any) -> Tally:
    """Name the rows of an array [K, ...] of counters."""
    single = len(Tally._fields) - 2
    solved = single + _levels(config)
    return Tally._make([*counters[:single], counters[single:solved], counters[solved:]])


def init(config: Config, window_size: int) -> MonitorState:
    """Return a state that has seen nothing; every leaf is a buffer of its own."""
    rows = batch.rows(config)
    empty = sketch.init(config.rewards)
    return MonitorState(
        fields=join_fields(init_fields(config)),
        trace=jnp.zeros((config.log_frequency, len(TraceRow._fields), rows), jnp.uint32),
        window=window.init(config.rewards, window_size),
        sketch_low=empty.low,
        sketch_high=empty.high,
        sketch_greatest=empty.greatest,
        sketch_least=empty.least,
    )


def unpack(config: Config, state: MonitorState) -> Fields:
    """Name what is in the first leaf.

    Raises:
      ValueError: `state` is no state of this configuration.
    """
    return split_fields(config, check(config, state).fields)


def pack(state: MonitorState, fields: Fields) -> MonitorState:
    """Put the named fields back into the first leaf."""
    return state._replace(fields=join_fields(fields))


def split_fields(config: Config, words: Array) -> Fields:
    """Name the fields in the words of the first leaf."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: init_fields(config)))
    at, parts = 0, []
    for leaf in leaves:
        n = math.prod(leaf.shape[:-1])
        part = words[at : at + n].reshape(*leaf.shape[:-1], -1)[..., : leaf.shape[-1]]
        parts.append(part if leaf.dtype == jnp.uint32 else to_floats(part))
        at += n
    fields: Fields = jax.tree.unflatten(tree, parts)
    return fields


def sketch_of(state: MonitorState) -> Sketch:
    """Return the run sketch."""
    return Sketch(*state[3:])


def check(config: Config, state: object) -> MonitorState:
    """Return the state as JAX arrays; what is none of this configuration, its window's size aside, is a ValueError."""
    allowed = "the MonitorState that init() or update() of this accumulator returned"
    if not isinstance(state, MonitorState):
        raise invalid("state", type(state).__name__, allowed, "Pass that, not the train state or the parameters.")
    got = {name: _kind(leaf) for name, leaf in state._asdict().items()}
    shape = np.shape(state.window)
    want = _kinds(config, shape[1] if len(shape) == 2 and shape[1] else config.window_size)
    other = [name for name in want if got[name] != want[name]]
    if other:
        was, is_ = ({name: kinds[name] for name in other} for kinds in (got, want))
        remedy = "Keep the dtypes that init() made; a state of another configuration starts anew with init()."
        theirs, ours = _made_by(state), _of(config.rewards, config.log_frequency)
        if theirs in (None, ours):
            raise invalid("state", was, f"{is_}, {allowed}", remedy)
        raise invalid("state", f"{theirs}: {was}", f"{ours}: {is_}, {allowed}", remedy)
    return MonitorState(*map(jnp.asarray, state))


def _made_by(state: MonitorState) -> str | None:
    """Return of how many rewards a state is, and how often emitted, where its shapes say that."""
    shapes = np.shape(state.window), np.shape(state.trace)
    return _of(shapes[0][0], shapes[1][0]) if tuple(map(len, shapes)) == (2, 3) else None


def _of(rewards: int, log_frequency: int) -> str:
    return f"one of {rewards} rewards and log_frequency {log_frequency}"


@functools.cache
def _kinds(config: Config, window_size: int) -> dict[str, str]:
    state = jax.eval_shape(lambda: init(config, window_size))
    return {name: _type(leaf) for name, leaf in state._asdict().items()}


def _kind(leaf: Any) -> str:
    return _type(leaf) if isinstance(leaf, jax.Array | np.ndarray) else type(leaf).__name__


def _type(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _levels(config: Config) -> int:
    return 0 if config.group_size is None else config.group_size + 1


def init_fields(config: Config) -> Fields:
    """Return the fields of a state that has seen nothing."""
    rows = batch.rows(config)
    counters = len(Tally._fields) - 2 + _levels(config) + len(config.atoms)

    def words(*shape: int) -> Array:
        return jnp.zeros((*shape, rows), jnp.uint32)

    return Fields(
        clock=words(len(Clock._fields)),
        memory=words(len(Memory._fields)),
        alerts=words(len(TYPES)),
        events=words(EVENTS, 2),
        low=words(counters, HORIZONS),
        high=words(counters, HORIZONS),
        moments=moments.init((HORIZONS, rows)),
        extremes=jnp.full((2, HORIZONS, rows), np.float32(np.inf)),
        group_means=moments.init((HORIZONS, rows), orders=2),
        group_sums=groups.init_sums((HORIZONS, rows)),
        averages=ema.init((len(Averages._fields), rows)),
        recent=jnp.zeros((len(Recent._fields), rows), jnp.float32),
        products=correlation.init(config.rewards) if config.correlations else None,
    )


def join_fields(fields: Fields) -> Array:
    """Invert `split_fields`."""
    rows = fields.alerts.shape[-1]
    parts = [to_words(v).reshape(-1, v.shape[-1]) for v in jax.tree.leaves(fields)]
    return jnp.concatenate([jnp.pad(v, ((0, 0), (0, rows - v.shape[1]))) for v in parts])
