"""Every scalar log key that stands for a statistic is born in `scalars`.

Numbers are put together in float64 from exact counters, unrounded pairs and order statistics. A key without data is
absent, never 0.0 and never infinite.
"""

import math
from collections.abc import Iterator

import numpy as np

from tunrex_jax_monitor.device.alerts import TYPES
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.summary import QUANTILES, Summary
from tunrex_jax_monitor.host.events import TOTAL

_LEAST_STD = 1e-17  # the float32 square of a smaller deviation has lost digits, or all
_LEAST_SHAPED = 1e-9  # the fourth power of a smaller spread underflows, and with it skew and kurtosis
_PERCENTILES = {0.1: "p10", 0.25: "p25", 0.5: "median", 0.75: "p75", 0.9: "p90", 0.99: "p99"}


def scalars(config: Config, s: Summary) -> Iterator[tuple[str, float]]:
    """Yield every scalar key that a summary says, with its value; NaN where there is no data."""
    for i, name in enumerate(config.reward_names):
        yield from ((f"{name}/{key}", value) for key, value in _reward(config, s, i))
    yield from _totals(s)
    yield from _total_reward(s)
    if config.group_size is not None:
        yield from _groups(config, s)
    yield from _lengths(config, s)
    yield from _correlations(config, s)
    yield from _alert_counts(config, s)


def _reward(config: Config, s: Summary, i: int) -> Iterator[tuple[str, float]]:
    count, mean, mean_low, m2, zeros, negatives, at_min, at_max = (float(v) for v in s.window[:, i])
    yield "mean", _ratio(count * (mean + mean_low), count)
    yield "std", _std(m2, count, s.order[:, i])
    yield "min", float(s.order[0, i])
    yield "max", float(s.order[-1, i])
    yield from _percentiles(s.order[:, i], count)
    yield "count", count
    yield "zeros_fraction", _ratio(zeros, count)
    yield "negative_fraction", _ratio(negatives, count)
    yield "positive_fraction", _ratio(count - zeros - negatives, count)
    yield "frac_at_max", _ratio(at_max, count)
    yield "frac_at_min", _ratio(at_min, count)
    yield "ema_short", float(s.averages[0, i])
    yield "ema_long", float(s.averages[1, i])
    yield from ((f"interval/{key}", value) for key, value in _interval(s, i))
    yield from ((f"run/{key}", value) for key, value in _run(s, i))
    yield "nonfinite_count", float(sum(read_count(s.run_counts[:, k, i]) for k in (1, 2, 3)))
    if config.group_size is not None:
        scored, zero_std = (read_count(s.group_counts[:, k, i]) for k in range(2))
        yield "group_std", _within_groups(config, s, i)
        yield "frac_zero_std", _ratio(zero_std, scored)
        yield "advantage_share", _ratio(_pair(s.share[:, i]), float(s.share.astype(np.float64).sum()))


def _percentiles(order: np.ndarray, count: float) -> Iterator[tuple[str, float]]:
    for k, q in enumerate(QUANTILES[1:-1]):
        below, above = float(order[1 + 2 * k]), float(order[2 + 2 * k])
        mille = round(q * 1000) * (int(count) - 1)
        part = (mille % 1000) / 1000 if count else math.nan
        yield _PERCENTILES[q], below + (above - below) * part


def _interval(s: Summary, i: int) -> Iterator[tuple[str, float]]:
    count = read_count(s.interval_counts[:, i])
    mean, m2 = (_pair(s.interval_moments[[k, k + 2], i]) for k in range(2))
    extremes = s.interval_moments[4:6, i]
    yield "mean", _ratio(count * mean, count)
    yield "std", _std(m2, count, extremes)
    yield "min", float(extremes[0])
    yield "max", float(extremes[1])
    yield "count", float(count)


def _run(s: Summary, i: int) -> Iterator[tuple[str, float]]:
    count = read_count(s.run_counts[:, 0, i])
    mean, m2, m3, m4 = (_pair(s.run_moments[[k, k + 4], i]) for k in range(4))
    std = _std(m2, count, s.run_moments[8:10, i])
    shaped = std if std >= _LEAST_SHAPED else math.nan
    yield "mean", _ratio(count * mean, count)
    yield "std", std
    yield "min", float(s.run_moments[8, i])
    yield "max", float(s.run_moments[9, i])
    yield "skew", _ratio(_ratio(m3, count), shaped**3)
    yield "kurtosis", _ratio(_ratio(m4, count), shaped**4) - 3.0
    yield "count", float(count)


def _totals(s: Summary) -> Iterator[tuple[str, float]]:
    count = s.window[0].astype(np.float64)
    means = (s.window[1].astype(np.float64) + s.window[2])[count > 0]
    stds = [_std(float(s.window[3, i]), float(count[i]), s.order[:, i]) for i in np.flatnonzero(count)]
    if means.size:
        yield "rewards/total_mean", float(means.mean())
        yield "rewards/total_std", float(np.mean(stds))
        yield "rewards/sum", float(means.sum())
        yield "rewards/min_mean", float(means.min())
        yield "rewards/max_mean", float(means.max())


def _total_reward(s: Summary) -> Iterator[tuple[str, float]]:
    total = s.window.shape[1]
    count = read_count(s.interval_counts[:, total])
    mean, m2 = (_pair(s.interval_moments[[k, k + 2], total]) for k in range(2))
    yield TOTAL, _ratio(count * mean, count)
    yield f"{TOTAL}_std", _std(m2, count - 1, s.interval_moments[4:6, total])


def _groups(config: Config, s: Summary) -> Iterator[tuple[str, float]]:
    total, size = config.rewards, config.group_size or 0
    scored, zero_std = (read_count(s.group_counts[:, k, total]) for k in range(2))
    groups, incomplete = (read_count(s.total_groups[:, k, 0]) for k in range(2))
    yield "frac_reward_zero_std", _ratio(zero_std, scored)
    solved = [read_count(s.solved[:, c]) for c in range(size + 1)]
    complete = sum(solved)
    yield "groups/solve_none", _ratio(solved[0], complete)
    yield "groups/solve_all", _ratio(solved[-1], complete)
    yield "groups/solve_partial", _ratio(complete - solved[0] - solved[-1], complete)
    k = 1
    while k <= size:
        missed = sum(n * math.comb(size - c, k) for c, n in enumerate(solved)) / math.comb(size, k)
        yield f"groups/pass_at_{k}", _ratio(complete - missed, complete)
        k *= 2
    yield "groups/std_mean", _within_groups(config, s, total)
    m2 = _pair(s.group_means[1::2])
    yield "groups/mean_std", math.sqrt(m2 / (scored - 1)) if scored > 1 else math.nan
    yield "groups/effective_ratio", 1.0 - _ratio(zero_std, scored)
    yield "groups/count", float(groups)
    yield "groups/incomplete", float(incomplete)


def _within_groups(config: Config, s: Summary, row: int) -> float:
    """Return the mean standard deviation within a group, ddof 1: one completion has none."""
    scored = read_count(s.group_counts[:, 0, row])
    return _ratio(_pair(s.group_std[:, row]), scored) if config.group_size != 1 else math.nan


def _lengths(config: Config, s: Summary) -> Iterator[tuple[str, float]]:
    row = config.rewards + 1
    count = read_count(s.interval_counts[:, row])
    if not count:
        return
    yield "completions/mean_length", _pair(s.interval_moments[[0, 2], row])
    yield "completions/min_length", float(s.interval_moments[4, row])
    yield "completions/max_length", float(s.interval_moments[5, row])
    for i, key in enumerate(
        (*(f"{name}/length_corr" for name in config.reward_names), "completions/reward_length_corr")
    ):
        covariance, variance_l, variance = (float(v) for v in s.lengths[:, i])
        varies = variance_l > _rounding(s, row) and variance > _rounding(s, i)
        yield key, _correlation(covariance, variance_l, variance) if varies else math.nan


def _rounding(s: Summary, row: int) -> float:
    """Return a bound of what rounding leaves of the squared deviations of equal values: their mean is off by that."""
    low, high = (abs(float(v)) for v in s.interval_moments[4:, row])
    return read_count(s.interval_counts[:, row]) * (1e-7 * max(low, high)) ** 2


def _correlations(config: Config, s: Summary) -> Iterator[tuple[str, float]]:
    for i in range(len(s.products)):
        for j in range(i + 1, len(s.products)):
            a, b, c = (float(v) for v in (s.products[i, j], s.products[i, i], s.products[j, j]))
            yield f"rewards/corr/{config.reward_names[i]}/{config.reward_names[j]}", _correlation(a, b, c)


def _alert_counts(config: Config, s: Summary) -> Iterator[tuple[str, float]]:
    names = (*config.reward_names, TOTAL)
    for t, kind in enumerate(TYPES):
        yield f"alerts/{kind.name}", float(s.alert_counts[t].sum())
        for row, name in enumerate(names):
            if s.alert_counts[t, row]:
                yield f"alerts/{name}/{kind.name}", float(s.alert_counts[t, row])
    total = float(s.alert_counts.sum())
    yield "alerts/total", total
    yield "monitoring/total_alerts", total


def read_count(limbs: np.ndarray) -> int:
    """Return the counter of two limbs."""
    return int(limbs[0]) + (int(limbs[1]) << 32)


def _pair(words: np.ndarray) -> float:
    return float(words[0]) + float(words[1])


def _std(m2: float, count: int | float, ordered: np.ndarray) -> float:
    """Return sqrt(m2 / count); 0 for equal samples, whatever rounding left in `m2`; NaN where `m2` has underflowed."""
    variance = _ratio(m2, max(count, 0))
    if ordered[0] == ordered[-1]:
        return 0.0 * variance
    return math.sqrt(variance) if variance >= _LEAST_STD**2 else math.nan


def _ratio(a: int | float, b: int | float) -> float:
    return a / b if b else math.nan


def _correlation(covariance: float, variance_a: float, variance_b: float) -> float:
    scale = math.sqrt(max(variance_a, 0.0)) * math.sqrt(max(variance_b, 0.0))
    return max(-1.0, min(1.0, covariance / scale)) if scale else math.nan
