"""MonitorState: seven arrays that ride through the train step, and the named fields inside the first.

A jitted call costs about 2 us per leaf on CPU, and each leaf a kernel on an accelerator, so all small fields share one
leaf of words. `Fields` is the unpacked view that the code works on; `unpack` and `pack` are inverse. RUN covers
everything since `init`, INTERVAL everything since the last emission.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tunrex_jax_monitor.device import batch, correlation, ema, groups, moments, sketch, window
from tunrex_jax_monitor.device.alerts import TYPES, Averages, Memory
from tunrex_jax_monitor.device.bits import to_floats, to_words
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.correlation import CoMoments
from tunrex_jax_monitor.device.ema import Ema
from tunrex_jax_monitor.device.groups import GroupSums
from tunrex_jax_monitor.device.moments import Moments
from tunrex_jax_monitor.device.sketch import Sketch

RUN, INTERVAL = 0, 1
HORIZONS = 2
SINGLE = 11  # fields of `Tally` that are one counter
EVENTS = 8  # steps with an alert that the event ring holds


class MonitorState(NamedTuple):
    """The state of the monitor. W is the window, L the log frequency; rows are R rewards, the total, the lengths."""

    fields: Array  # uint32[F, R + 2]: everything small, floats bit by bit; see `Fields`
    trace: Array  # uint32[L, 9, R + 2]: ring of the interval's steps; see `TraceRow`
    window: Array  # float32[R, W]: the last samples, oldest first, NaN where there is none
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


class Tally(NamedTuple):
    """What is counted exactly, over RUN and INTERVAL: two uint32 limbs [2, rows] each."""

    valid: Array
    nan: Array
    posinf: Array
    neginf: Array
    masked: Array
    outliers: Array  # rare outliers, for the OUTLIER rule
    joint: Array  # samples where every reward counts
    groups: Array
    scored: Array
    zero_std: Array
    incomplete: Array
    solved: Array  # [G + 1, 2, rows]
    atoms: Array  # [A, 2, rows]


class Fields(NamedTuple):
    """The first leaf, by name."""

    clock: Clock
    memory: Memory
    alerts: Array  # uint32[8, rows]: episodes since init
    events: Array  # uint32[8, 2, rows]: ring of steps with an alert: update, alert word
    low: Tally  # low limbs
    high: Tally
    moments: Moments  # float32[2, rows]
    group_means: Moments  # float32[2, rows], to second order
    group_sums: GroupSums  # float32[2, rows]
    averages: Averages  # float32[rows]
    products: CoMoments | None  # of the R rewards


def tally_sizes(config: Config) -> tuple[int, ...]:
    """Return how many counters each field of `Tally` holds."""
    solved = 0 if config.group_size is None else config.group_size + 1
    return (1,) * 11 + (solved, len(config.atoms))


def init(config: Config, window_size: int) -> MonitorState:
    """Return a state that has seen nothing; every leaf is a buffer of its own."""
    rows = batch.rows(config)
    empty = sketch.init(config.rewards)
    return MonitorState(
        fields=_join(_init_fields(config, rows)),
        trace=jnp.zeros((config.log_frequency, len(TraceRow._fields), rows), jnp.uint32),
        window=window.init(config.rewards, window_size),
        sketch_low=empty.low,
        sketch_high=empty.high,
        sketch_greatest=empty.greatest,
        sketch_least=empty.least,
    )


def _init_fields(config: Config, rows: int) -> Fields:

    def words(*shape: int) -> Array:
        return jnp.zeros((*shape, rows), jnp.uint32)

    def tally() -> Tally:
        sizes = _tally_sizes(config)
        return Tally(*(words(HORIZONS) for _ in sizes[:SINGLE]), *(words(n, HORIZONS) for n in sizes[SINGLE:]))

    shape = (HORIZONS, rows)
    return Fields(
        clock=Clock(*(words() for _ in Clock._fields)),
        memory=Memory(*(words() for _ in Memory._fields)),
        alerts=words(len(TYPES)),
        events=words(EVENTS, 2),
        low=tally(),
        high=tally(),
        moments=moments.init(shape),
        group_means=moments.init(shape),
        group_sums=groups.init_sums(shape),
        averages=Averages(*(ema.init((rows,)) for _ in Averages._fields)),
        products=correlation.init(config.rewards) if config.correlations else None,
    )


def unpack(config: Config, state: MonitorState) -> Fields:
    """Name what is in the first leaf."""
    take = _Reader(state.fields)
    return Fields(
        clock=Clock(*take.words(3)),
        memory=Memory(*take.words(2)),
        alerts=take.words(len(TYPES)),
        events=take.words(EVENTS, 2),
        low=_unpack_tally(config, take),
        high=_unpack_tally(config, take),
        moments=Moments(*take.floats(len(Moments._fields), HORIZONS)),
        group_means=_second_order(take.floats(4, HORIZONS)),
        group_sums=GroupSums(*take.floats(len(GroupSums._fields), HORIZONS)),
        averages=Averages(*(Ema(*take.floats(len(Ema._fields))) for _ in Averages._fields)),
        products=_unpack_products(config, take) if config.correlations else None,
    )


def pack(state: MonitorState, fields: Fields) -> MonitorState:
    """Put the named fields back into the first leaf."""
    return state._replace(fields=_join(fields))


def sketch_of(state: MonitorState) -> Sketch:
    """Return the run sketch."""
    return Sketch(*state[3:])


def _tally_sizes(config: Config) -> tuple[int, ...]:
    """Return how many counters each field of `Tally` holds."""
    solved = 0 if config.group_size is None else config.group_size + 1
    return (1,) * SINGLE + (solved, len(config.atoms))


class _Reader:
    """Takes rows off the top of the packed array, one field after the other."""

    def __init__(self, array: Array) -> None:
        self._array, self._at = array, 0

    def words(self, *shape: int) -> Array:
        n = math.prod(shape)
        self._at += n
        return self._array[self._at - n : self._at].reshape(*shape, self._array.shape[1])

    def floats(self, *shape: int) -> Array:
        return to_floats(self.words(*shape))


def _second_order(sums: Array) -> Moments:
    """Return moments of which only mean and m2 are kept."""
    return moments.init(sums.shape[1:])._replace(mean=sums[0], mean_low=sums[1], m2=sums[2], m2_low=sums[3])


def _unpack_tally(config: Config, take: _Reader) -> Tally:
    sizes = _tally_sizes(config)
    return Tally(*(take.words(HORIZONS) for _ in sizes[:SINGLE]), *(take.words(n, HORIZONS) for n in sizes[SINGLE:]))


def _unpack_products(config: Config, take: _Reader) -> CoMoments:
    r = config.rewards
    mean, low = take.floats(2)[:, :r]
    return CoMoments(mean, low, take.floats(r)[:, :r], take.floats(r)[:, :r])


def _join(fields: Fields) -> Array:
    rows = fields.alerts.shape[1]
    means, products = fields.group_means[:4], fields.products
    before, after = fields[: Fields._fields.index("group_means")], (fields.group_sums, fields.averages)
    parts = jax.tree.leaves((before, means, after))
    if products is not None:
        parts += [jnp.pad(v, ((0, 0),) * (v.ndim - 1) + ((0, rows - v.shape[-1]),)) for v in products]
    return jnp.concatenate([to_words(v).reshape(-1, rows) for v in parts])
