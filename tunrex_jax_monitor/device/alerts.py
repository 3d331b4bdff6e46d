"""Alert rules: bits per reward and step, computed against the state before the step.

A rule has a condition to enter and a weaker one to stay (hysteresis). An episode begins when the first holds, is
counted once, and ends after `cooldown_steps` steps on which the second does not hold. `literal` is the original
document's table: no weaker condition, no cool-down. Names, texts and remedies live in `host.messages`.

The members of a group answer one prompt, so their outliers come together. OUTLIER counts both: samples, of which it
takes as many for one as the run has shown to come together, and groups that have some.
"""

import enum
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt

from tunrex_jax_monitor.device import ema, shards
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.ema import Ema
from tunrex_jax_monitor.device.reduce import reduce_together
from tunrex_jax_monitor.device.window import WindowStats

PRIOR_OUTLIERS, PRIOR_SAMPLES = 1.0, 300.0  # the outlier rate that is assumed before data speaks: 0.33 %
BEGAN, ENDED = 8, 16  # bit offsets in a step's alert word; bits 0..7 say which episodes are open
ARMED = 8  # bit of the memory word: zeros have been rare enough for FLATLINE to mean something


class Alert(enum.IntFlag):
    """What went wrong; bit t of an alert word is the t-th of these."""

    OUTLIER = 1
    DROP = 2
    SPIKE = 4
    FLATLINE = 8
    NEGATIVE = 16
    NONFINITE = 32
    SATURATION = 64
    GROUP_COLLAPSE = 128


TYPES = tuple(Alert)


class Memory(NamedTuple):
    """What a rule remembers from step to step."""

    flags: Array  # uint32[rows]: bits 0..7 open episodes, bit 8 armed
    quiet: Array  # uint32[rows]: eight 4-bit counters of steps on which the condition did not hold


class Averages(NamedTuple):
    """The exponential averages that the rules read, in the order in which one `Ema` holds them; float32[rows]."""

    short: Array  # of the step's mean
    long: Array
    noise: Array  # squared deviation of the step's mean from the short average
    outliers: Array  # rare outliers per step
    outlying: Array  # groups per step that have some
    samples: Array  # samples per step
    zero_share: Array  # share of groups without variance


def advance_averages(e: Ema, step: Averages, config: Config) -> Ema:
    """Fold one step's values into the averages; NaN where there is none."""
    short, long = config.ema_alpha_short, config.ema_alpha_long
    rates = np.array([[long if name in ("long", "noise") else short] for name in Averages._fields], np.float32)
    return ema.update(e, shards.stack(step), rates)


class Evidence(NamedTuple):
    """What one step shows, for the R rewards."""

    stats: WindowStats  # before the step
    varied: Array  # bool[R]: two different values have been seen, or a bound is declared
    samples: Array  # float32[R]: valid samples before the step, over the run
    outliers: Array  # float32[R]: rare outliers before the step, over the run
    outlying: Array  # float32[R]: groups that had some
    groups: Array  # float32[R]: of all groups before the step, over the run
    batch_samples: Array  # float32[R]
    batch_outliers: Array  # float32[R]: rare outliers in the step
    batch_outlying: Array  # float32[R]: groups of the step that have some
    batch_groups: Array  # float32[R]
    any_outlier: Array | None  # bool[R], for the literal rule
    nonfinite: Array  # bool[R]
    constant: Array  # bool[R]: the last `flatline_samples` samples before the step are one value
    steps: Array  # uint32[rows]: steps before this one, with and without data


class Rule(NamedTuple):
    """Where an episode may begin, and where it goes on; bool[R]."""

    enter: Array
    stay: Array


def _outlier(e: Evidence, averages: Averages, warm: Array, config: Config) -> Rule:
    if e.any_outlier is not None:
        return Rule(e.any_outlier, e.any_outlier)
    samples = _Seen(e.outliers, e.samples, averages.outliers, averages.samples, e.batch_outliers, e.batch_samples)
    surprise = _surprise_of(samples, 1.0, config) / _together(e, config)
    bound = -math.log(config.false_alarm_rate)
    size = config.group_size or 1
    if size > 1:
        lately = averages.samples * (e.groups / jnp.maximum(e.samples, 1.0))  # a mask leaves some groups few samples
        groups = _Seen(e.outlying, e.groups, averages.outlying, lately, e.batch_outlying, e.batch_groups)
        # A second kind of evidence has to be twice as sure. Where outliers do not come together both say the same.
        surprise = jnp.maximum(surprise, _surprise_of(groups, math.sqrt(size), config) - np.float32(math.log(2.0)))
    return Rule(warm & (e.batch_outliers > 0) & (surprise > np.float32(bound)), surprise > np.float32(0.5 * bound))


class _Seen(NamedTuple):
    """Outliers and what they are of, samples or groups: over the run, averaged, in the step; float32[R]."""

    run: Array
    run_all: Array
    mean: Array
    mean_all: Array
    now: Array
    now_all: Array


def _surprise_of(seen: _Seen, prior: float, config: Config) -> Array:
    """Return the surprise of the last steps, or of this one alone; `prior` is how much likelier one is assumed."""
    rate = (seen.run + np.float32(PRIOR_OUTLIERS)) / (seen.run_all + np.float32(PRIOR_SAMPLES / prior))
    steps = _steps_in(config.ema_alpha_short)
    lately = _surprise(steps * seen.mean + seen.now, steps * seen.mean_all + seen.now_all, rate)
    return jnp.maximum(lately, _surprise(seen.now, seen.now_all, rate) - np.float32(math.log(10.0)))


def _together(e: Evidence, config: Config) -> Array:
    """Return how many samples count as one: outliers come together where they are of hard prompts, not of samples.

    The design effect of clusters, sum of squared sizes over sum of sizes, as large as it can be with the mean size that
    was seen: of clusters of one and of whole groups. What independent samples would show is taken off, and a tenth for
    chance. Before data speaks, a whole group counts as one.
    """
    size = np.float32(config.group_size or 1)
    rate = (e.outliers + np.float32(PRIOR_OUTLIERS)) / (e.samples + np.float32(PRIOR_SAMPLES))
    by_chance = size * rate / -jnp.expm1(size * jnp.log1p(-rate))
    in_group = (e.outliers + 0.5 * size) / (e.outlying + 0.5)
    mean = jnp.clip(in_group - by_chance + np.float32(0.9), 1.0, size)
    return (1.0 + (mean - 1.0) * (size + 1.0)) / mean


def _surprise(k: Array, n: Array, rate: Array) -> Array:
    """Return -log of the Chernoff bound on P(at least k of n) at `rate`; 0 where k is no more than expected."""
    share, rate = (jnp.clip(v, np.float32(1e-6), np.float32(1.0 - 1e-6)) for v in (k / jnp.maximum(n, 1.0), rate))
    divergence = share * jnp.log(share / rate) + (1.0 - share) * jnp.log((1.0 - share) / (1.0 - rate))
    return jnp.where(share > rate, n * divergence, 0.0)


def _drop_and_spike(averages: Averages, warm: Array, config: Config) -> tuple[Rule, Rule]:
    short, long = averages.short, averages.long
    if config.detect == "literal":
        drop = warm & (long > 0) & (short < np.float32(config.drop_threshold) * long)
        spike = warm & (long > 0) & (short > np.float32(config.spike_threshold) * long)
        return Rule(drop, drop), Rule(spike, spike)
    noise = jnp.sqrt(averages.noise) * np.float32(config.noise_threshold * _ema_noise(config))
    fall, size = long - short, jnp.abs(long)
    drop_by = jnp.maximum(np.float32(1.0 - config.drop_threshold) * size, noise)
    spike_by = jnp.maximum(np.float32(1.0 - 1.0 / config.spike_threshold) * size, noise)
    return (
        Rule(warm & (fall > drop_by), fall > 0.5 * drop_by),
        Rule(warm & (-fall > spike_by), -fall > 0.5 * spike_by),
    )


def _weight(alpha: float, steps: int) -> np.float32:
    """Return the weight of an average after `steps` steps, a little less for rounding."""
    return np.float32((1.0 - (1.0 - alpha) ** steps) * (1.0 - 1e-5))


def _ema_noise(config: Config) -> float:
    """Return std(short - long) / std(step mean) for independent steps."""
    a, b = config.ema_alpha_short, config.ema_alpha_long
    return math.sqrt(a / (2 - a) + b / (2 - b) - 2 * a * b / (a + b - a * b))


def _window_rules(e: Evidence, armed: Array, config: Config) -> tuple[Rule, Rule, Rule]:
    """Return FLATLINE, NEGATIVE and SATURATION."""
    n = jnp.maximum(e.stats.samples, 1.0)
    zeros, negatives, at_high = e.stats.zeros / n, e.stats.negatives / n, e.stats.at_max / n
    enough = e.stats.samples >= config.min_samples
    if config.detect == "literal":
        flat = enough & (zeros > np.float32(config.zero_threshold))
        negative = enough & (negatives > np.float32(config.negative_threshold))
        never = jnp.zeros_like(flat)
        return Rule(flat, flat), Rule(negative, negative), Rule(never, never)
    enough = e.stats.samples >= max(config.min_samples, config.window_size // 4)

    def above(share: Array, limit: float) -> Rule:
        return Rule(enough & (share > np.float32(limit)), share > np.float32(0.95 * limit))

    declared_negative = np.array([high is not None and high <= 0 for _, high in config.bounds])
    dead, still_dead = above(zeros, config.zero_threshold)
    if config.window_size < config.flatline_samples:  # a rare reward leaves a small window all zeros now and then
        dead = still_dead = jnp.zeros_like(dead)
    negative, still_negative = above(negatives, config.negative_threshold)
    stuck, still_stuck = above(at_high, config.saturation_threshold)
    return (
        Rule(e.constant | (armed & dead), e.constant | still_dead),
        Rule(negative & ~declared_negative, still_negative),
        Rule(stuck & e.varied, still_stuck),
    )


def _group_collapse(averages: Averages, warm: Array, config: Config) -> Rule:
    """Return the rule of the weighted total; its share must clear the threshold by three standard errors."""
    limit = np.float32(config.collapse_threshold)
    share = averages.zero_share
    groups = averages.samples / np.float32(config.group_size or 1) * _steps_in(config.ema_alpha_short)
    error = 3.0 * jnp.sqrt(limit * (1.0 - limit) / jnp.maximum(groups, 1.0))
    enter = warm & (share > limit + jnp.minimum(error, np.float32(0.9) * (1.0 - limit)))  # 1 must be told
    return Rule(enter & (config.detect != "literal"), share > 0.9 * limit)


def _steps_in(alpha: float) -> np.float32:
    """Return how many steps a plain mean would need for the variance of an exponential average."""
    return np.float32(2.0 / alpha - 1.0)


def evaluate(e: Evidence, averages: Ema, memory: Memory, config: Config) -> Rule:
    """Return the eight conditions, bool[8, rows]; of the two extra rows only the total has a rule of its own."""
    rewards, rows = config.rewards, memory.flags.shape[0]
    if config.detect == "off":
        never = jnp.zeros((len(TYPES), rows), bool)
        return Rule(never, never)
    # The weight counts steps with data, as long as it grows: a hundred or so.
    warm = averages.weight >= _weight(config.ema_alpha_short, config.warmup_steps)
    values, warm = ema.value(averages), warm & (e.steps >= np.uint32(config.warmup_steps))[None]
    of_rewards, warm_mean = Averages(*values[:, :rewards]), Averages(*warm[:, :rewards]).short
    armed = (memory.flags[:rewards] >> ARMED) & 1 == 1
    nonfinite = jnp.zeros(rewards, bool) if config.detect == "literal" else e.nonfinite
    drop, spike = _drop_and_spike(of_rewards, warm_mean, config)
    flat, negative, stuck = _window_rules(e, armed, config)
    collapse = _group_collapse(Averages(*values), Averages(*warm).zero_share, config)
    outlier = _outlier(e, of_rewards, warm_mean, config)
    rules = (outlier, drop, spike, flat, negative, Rule(nonfinite, nonfinite), stuck)
    total = np.arange(rows) == rewards
    return Rule(*(_place(part, c & total) for part, c in zip(zip(*rules, strict=True), collapse, strict=True)))


def _place(of_rewards: tuple[Array, ...], of_total: Array) -> Bool[Array, "8 rows"]:
    """Put the rules of the R rewards above that of the total; nothing else holds for the extra rows."""
    extra = of_total.shape[0] - of_rewards[0].shape[0]
    return jnp.concatenate([jnp.pad(shards.stack(of_rewards), ((0, 0), (0, extra))), of_total[None]])


class Step(NamedTuple):
    """What became of the episodes in this step; bool[8, rows]."""

    memory: Array  # uint32[2, rows], as in `Memory`
    active: Array
    began: Array
    ended: Array


def advance(
    memory: Memory, rule: Rule, seen: Bool[Array, " rows"], rearm: Bool[Array, " rows"], config: Config
) -> Step:
    """Open and close episodes; a row that saw no sample keeps everything as it was."""
    bit = np.arange(len(TYPES), dtype=np.uint32)[:, None]
    was = (memory.flags[None] >> bit) & 1 == 1
    quiet = (memory.quiet[None] >> (4 * bit)) & 15
    holds = rule.enter | (was & rule.stay)
    quiet = jnp.where(holds, 0, jnp.minimum(quiet + 1, 15)).astype(jnp.uint32)
    cooldown = 0 if config.detect == "literal" else config.cooldown_steps
    active = jnp.where(seen[None], holds | (was & (quiet < cooldown)), was)
    began, ended = active & ~was, was & ~active
    armed = ((memory.flags >> ARMED) & 1 == 1) & ~began[TYPES.index(Alert.FLATLINE)] | rearm
    flags = _word(active) | (armed.astype(jnp.uint32) << ARMED)
    quiet_word = _join_bits(quiet, 4)
    memory = Memory(flags, jnp.where(seen, quiet_word, memory.quiet))
    return Step(jnp.stack(memory), active, began, ended)


def _word(where: Bool[Array, "8 rows"]) -> UInt[Array, " rows"]:
    return _join_bits(where.astype(jnp.uint32), 1)


def _join_bits(parts: UInt[Array, "8 rows"], width: int) -> UInt[Array, " rows"]:
    """Put the rows side by side in one word, the first lowest."""
    shift = np.arange(len(TYPES), dtype=np.uint32)[:, None] * np.uint32(width)
    return reduce_together(sums=(parts << shift,), axis=0)[0]  # as `|` of slices, a GPU would launch three kernels more


def step_word(step: Step) -> UInt[Array, " rows"]:
    """Return open, begun and ended episodes of a step as one word per row."""
    return _word(step.active) | (_word(step.began) << BEGAN) | (_word(step.ended) << ENDED)


def changed(step: Step) -> UInt[Array, " rows"]:
    """Return 1 where an episode began or ended, else 0."""
    return ((_word(step.began) | _word(step.ended)) != 0).astype(jnp.uint32)
