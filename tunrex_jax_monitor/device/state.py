"""MonitorState: seven arrays that ride through the train step, and the named fields inside them.

A jitted call costs about 2 us per leaf on CPU, so small fields share two packed leaves: `counts` and `floats`. `Fields`
is the unpacked view that the code works on; `unpack` and `pack` are inverse. RUN covers everything since `init`,
INTERVAL everything since the last emission.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tunrex_jax_monitor.device import batch, correlation, ema, groups, moments, sketch, window
from tunrex_jax_monitor.device.alerts import TYPES, Averages, Memory
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.correlation import CoMoments
from tunrex_jax_monitor.device.ema import Ema
from tunrex_jax_monitor.device.groups import GroupSums
from tunrex_jax_monitor.device.moments import Moments
from tunrex_jax_monitor.device.sketch import Sketch

RUN, INTERVAL = 0, 1
HORIZONS = 2
EVENTS = 16  # steps with an alert that the event ring holds


class MonitorState(NamedTuple):
    """The state of the monitor. W is the window, L the log frequency; rows are R rewards, the total, the lengths."""

    counts: Array  # uint32[C, R + 2]: clock, alert memory, exact counters; see `Fields`
    floats: Array  # float32[F, R + 2]: moments, group sums, averages; see `Fields`
    events: Array  # uint32[16, R + 3]: ring of steps with an alert: update, then one alert word per row
    trace: Array  # uint32[L, 9, R + 2]: ring of the interval's steps; see `TraceRow`
    window: Array  # float32[R, W]: the last samples, oldest first, NaN where there is none
    sketch: Array  # uint32[2, R, 2047]: bin counts of the run, low and high limb
    extremes: Array  # int32[2, R, 2047]: order keys of the greatest and least value per bin


class TraceRow(NamedTuple):
    """One step, as words; float32 unless said."""

    mean: Array
    std: Array
    min: Array
    max: Array
    count: Array  # uint32
    ema_short: Array
    ema_long: Array
    zero_share: Array
    alerts: Array  # uint32, see `alerts.step_word`


class Clock(NamedTuple):
    """Steps seen; uint32[rows], the same in every row."""

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
    """The packed leaves, by name."""

    clock: Clock
    memory: Memory
    alerts: Array  # uint32[8, rows]: episodes since init
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
    total = HORIZONS * sum(tally_sizes(config))
    head = len(Clock._fields) + len(Memory._fields) + len(TYPES)
    empty = sketch.init(config.rewards)
    return MonitorState(
        counts=jnp.zeros((head + 2 * total, rows), jnp.uint32),
        floats=_init_floats(config, rows),
        events=jnp.zeros((EVENTS, rows + 1), jnp.uint32),
        trace=jnp.zeros((config.log_frequency, len(TraceRow._fields), rows), jnp.uint32),
        window=window.init(config.rewards, window_size),
        sketch=empty.counts,
        extremes=empty.extremes,
    )


def _init_floats(config: Config, rows: int) -> Array:
    shape = (HORIZONS, rows)
    products = correlation.init(config.rewards) if config.correlations else None
    averages = Averages(*(ema.init((rows,)) for _ in Averages._fields))
    return _join_floats(moments.init(shape), moments.init(shape), groups.init_sums(shape), averages, products, rows)


def unpack(config: Config, state: MonitorState) -> Fields:
    """Name what is in the packed leaves."""
    counts = _Reader(state.counts)
    clock, memory = Clock(*counts.take(3)), Memory(*counts.take(2))
    alerts = counts.take(len(TYPES))
    low, high = (_unpack_tally(config, counts) for _ in range(2))
    floats = _Reader(state.floats)
    rows = state.floats.shape[1]
    pairs = lambda n: floats.take(n * HORIZONS).reshape(n, HORIZONS, rows)  # noqa: E731
    full = Moments(*pairs(len(Moments._fields)))
    second = pairs(4)
    zero = jnp.zeros((HORIZONS, rows), jnp.float32)
    means = Moments(*second, *(zero for _ in range(6)))
    sums = GroupSums(*pairs(len(GroupSums._fields)))
    averages = Averages(*(Ema(*floats.take(3)) for _ in Averages._fields))
    products = _unpack_products(config, floats) if config.correlations else None
    return Fields(clock, memory, alerts, low, high, full, means, sums, averages, products)


def pack(config: Config, state: MonitorState, fields: Fields) -> MonitorState:
    """Put the named fields back into their leaves."""
    rows = state.counts.shape[1]
    tally = [part.reshape(-1, rows) for limb in (fields.low, fields.high) for part in limb]
    counts = jnp.concatenate([jnp.stack(fields.clock + fields.memory), fields.alerts, *tally])
    floats = _join_floats(
        fields.moments, fields.group_means, fields.group_sums, fields.averages, fields.products, rows
    )
    return state._replace(counts=counts, floats=floats)


def sketch_of(state: MonitorState) -> Sketch:
    """Return the run sketch."""
    return Sketch(state.sketch, state.extremes)


class _Reader:
    """Takes rows off the top of a packed array, one field after the other."""

    def __init__(self, array: Array) -> None:
        self._array, self._at = array, 0

    def take(self, n: int) -> Array:
        self._at += n
        return self._array[self._at - n : self._at]


def _unpack_tally(config: Config, counts: _Reader) -> Tally:
    rows = batch.rows(config)
    parts = [counts.take(HORIZONS * n).reshape(n, HORIZONS, rows) for n in tally_sizes(config)]
    return Tally(*(part[0] for part in parts[:11]), *parts[11:])


def _unpack_products(config: Config, floats: _Reader) -> CoMoments:
    r = config.rewards
    mean, low = floats.take(2)[:, :r]
    return CoMoments(mean, low, floats.take(r)[:, :r], floats.take(r)[:, :r])


def _join_floats(
    full: Moments, means: Moments, sums: GroupSums, averages: Averages, products: CoMoments | None, rows: int
) -> Array:
    parts = [*full, *means[:4], *sums]
    out = [jnp.concatenate(parts), jnp.stack([v for average in averages for v in average])]
    if products is not None:
        square = jnp.concatenate([jnp.stack(products[:2]), products.products, products.products_low])
        out.append(jnp.pad(square, ((0, 0), (0, rows - square.shape[1])), constant_values=np.float32(0)))
    return jnp.concatenate(out)
