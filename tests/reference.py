"""Float64 references for every statistic: slow, plain, written from the definitions and independent of the package.

Everything takes the full data at once. "Valid" samples are those that are finite and, where there is a mask, masked in.
Where a statistic has no valid sample to stand on, the answer is NaN: "no data", which is not 0.
Axis letters: R rewards, B groups (prompts), G members of a group (completions), N = B * G samples.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
PERCENTILES = (10, 25, 50, 75, 90, 99)


def valid(values: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """The valid samples, flat, in order, in float64."""
    values = np.asarray(values).astype(np.float64)
    keep = np.isfinite(values)
    if mask is not None:
        keep &= np.asarray(mask, bool)
    return values[keep]


def nonfinite_counts(values: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> dict[str, int]:
    """Samples that were left out, by cause. A sample that is masked out counts as masked, whatever its value."""
    values = np.asarray(values).astype(np.float64)
    keep = np.ones(values.shape, bool) if mask is None else np.asarray(mask, bool)
    return {
        "nan": int((np.isnan(values) & keep).sum()),
        "posinf": int((np.isposinf(values) & keep).sum()),
        "neginf": int((np.isneginf(values) & keep).sum()),
        "masked": int((~keep).sum()),
    }


# One stream


def count(x: Array) -> int:
    return len(valid(x))


def mean(x: Array) -> float:
    """Sum over count, the sum being correctly rounded."""
    x = valid(x)
    return math.fsum(x) / len(x) if len(x) else math.nan


def central_moment(x: Array, order: int) -> float:
    """Mean of (x - mean)^order."""
    x = valid(x)
    return math.fsum((x - mean(x)) ** order) / len(x) if len(x) else math.nan


def std(x: Array, ddof: int = 0) -> float:
    """Square root of the sum of squared deviations over n - ddof; two passes. No answer for n <= ddof."""
    n = count(x)
    return math.sqrt(central_moment(x, 2) * n / (n - ddof)) if n > ddof else math.nan


def minimum(x: Array) -> float:
    x = valid(x)
    return float(x.min()) if len(x) else math.nan


def maximum(x: Array) -> float:
    x = valid(x)
    return float(x.max()) if len(x) else math.nan


def percentile(x: Array, q: float) -> float:
    """NumPy's `linear` definition, q in 0..100, from the two neighbouring order statistics."""
    x = np.sort(valid(x))
    if not len(x):
        return math.nan
    rank = (len(x) - 1) * q / 100
    below = math.floor(rank)
    above = min(below + 1, len(x) - 1)
    return float(x[below] + (rank - below) * (x[above] - x[below]))


def zeros_fraction(x: Array) -> float:
    x = valid(x)
    return float((x == 0).sum() / len(x)) if len(x) else math.nan


def negative_fraction(x: Array) -> float:
    x = valid(x)
    return float((x < 0).sum() / len(x)) if len(x) else math.nan


def positive_fraction(x: Array) -> float:
    x = valid(x)
    return float((x > 0).sum() / len(x)) if len(x) else math.nan


def fraction_equal(x: Array, value: float) -> float:
    """Share of the valid samples that equal `value`: `frac_at_max` for the maximum, `frac_at_min` for the minimum."""
    x = valid(x)
    return float((x == value).sum() / len(x)) if len(x) else math.nan


def skew(x: Array) -> float:
    """Third central moment over std cubed, of the population. No answer for a constant stream."""
    spread = std(x)
    return central_moment(x, 3) / spread**3 if spread > 0 else math.nan


def kurtosis(x: Array) -> float:
    """Excess kurtosis of the population: 0 for a normal stream. No answer for a constant stream."""
    spread = std(x)
    return central_moment(x, 4) / spread**4 - 3 if spread > 0 else math.nan


def window(x: Array, size: int) -> Array:
    """The last `size` valid samples."""
    return valid(x)[-size:]


def statistics(x: Array) -> dict[str, float]:
    """The window keys of one reward, without their `<name>/` prefix."""
    return {
        "mean": mean(x),
        "std": std(x),
        "min": minimum(x),
        "max": maximum(x),
        "median": percentile(x, 50),
        **{f"p{q}": percentile(x, q) for q in PERCENTILES if q != 50},
        "count": float(count(x)),
        "zeros_fraction": zeros_fraction(x),
        "negative_fraction": negative_fraction(x),
        "positive_fraction": positive_fraction(x),
    }


def ema(steps: Iterable[Array], alpha: float) -> float:
    """Exponential moving average of the steps' means, bias-corrected. A step without a valid sample changes nothing.

    e <- e + alpha (x - e) from e = 0, read as e / (1 - (1 - alpha)^t) with t the number of steps that had data.
    """
    e, t = 0.0, 0
    for step in steps:
        if count(step):
            e += alpha * (mean(step) - e)
            t += 1
    return e / (1 - (1 - alpha) ** t) if t else math.nan


def pearson(x: Array, y: Array) -> float:
    """Correlation over the pairs of which both are valid. No answer where one side is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    return _correlation(x[both] - mean(x[both]), y[both] - mean(y[both]))


# Groups: B prompts with G completions each


def complete_groups(values: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Array:
    """The rows of [B, G] of which every member is valid."""
    values = np.asarray(values).astype(np.float64)
    keep = np.isfinite(values)
    if mask is not None:
        keep &= np.asarray(mask, bool)
    return values[keep.all(axis=1)]


def weighted_total(
    rewards: npt.ArrayLike, weights: Sequence[float] | None = None, mask: npt.ArrayLike | None = None
) -> Array:
    """Weighted per-sample sum over the R rewards of [R, ...]; an invalid reward adds nothing.

    A sample with no valid reward is NaN: it has no total. Weights are 1 unless given.
    """
    rewards = np.asarray(rewards).astype(np.float64)
    keep = np.isfinite(rewards)
    if mask is not None:
        keep &= np.asarray(mask, bool)
    w = np.ones(len(rewards)) if weights is None else np.asarray(weights, np.float64)
    total = np.zeros(rewards.shape[1:])
    for r in range(len(rewards)):
        total += np.where(keep[r], w[r] * np.where(keep[r], rewards[r], 0.0), 0.0)
    return np.where(keep.any(axis=0), total, np.nan)


def frac_zero_std(groups: Array, tolerance: float = 0.0) -> float:
    """Share of groups whose range, max - min, is at most `tolerance`. Never by std == 0."""
    spans = [max(group) - min(group) for group in groups]
    return sum(span <= tolerance for span in spans) / len(spans) if spans else math.nan


def group_std(groups: Array) -> float:
    """Mean over groups of the ddof-1 standard deviation within a group."""
    stds = np.array([std(group, ddof=1) for group in groups])
    return mean(stds) if len(stds) else math.nan


def std_of_group_means(groups: Array, ddof: int = 0) -> float:
    return std(np.array([mean(group) for group in groups]), ddof)


def solve_counts(groups: Array, correct_threshold: float) -> list[int]:
    """N[0..G]: how many groups have exactly c members with value >= `correct_threshold`."""
    size = groups.shape[1]
    counts = [0] * (size + 1)
    for group in groups:
        counts[sum(value >= correct_threshold for value in group)] += 1
    return counts


def solve_shares(counts: Sequence[int]) -> dict[str, float]:
    """Share of groups of which no member, every member, or some but not all members are correct."""
    total, size = sum(counts), len(counts) - 1
    none, everyone = counts[0] / total, counts[size] / total
    return {"solve_none": none, "solve_all": everyone, "solve_partial": sum(counts[1:size]) / total}


def pass_at_k(counts: Sequence[int], k: int) -> float:
    """Mean over groups of the chance that at least one of k members, drawn without replacement, is correct.

    Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
    """
    size = len(counts) - 1
    chances = [1 - math.comb(size - c, k) / math.comb(size, k) for c in range(size + 1)]
    return sum(n * chance for n, chance in zip(counts, chances, strict=True)) / sum(counts)


def advantage_shares(rewards: npt.ArrayLike, weights: Sequence[float] | None = None) -> list[float]:
    """What each reward of [R, B, G] contributes to the variance of the total within groups; sums to 1.

    sum_g sum_i w_k (r_k - mean_g r_k) (T - mean_g T) / sum_g sum_i (T - mean_g T)^2, T being the weighted total.
    """
    rewards = np.asarray(rewards).astype(np.float64)
    w = [1.0] * len(rewards) if weights is None else weights
    total = weighted_total(rewards, weights)
    deviation = total - total.mean(axis=1, keepdims=True)
    denominator = math.fsum((deviation**2).ravel())
    if denominator == 0:
        return [math.nan] * len(rewards)
    own = rewards - rewards.mean(axis=2, keepdims=True)
    return [math.fsum((w[r] * own[r] * deviation).ravel()) / denominator for r in range(len(rewards))]


def within_group_correlation(x: Array, y: Array) -> float:
    """Pearson correlation of the deviations from the group means of two [B, G] arrays."""
    return _correlation(x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True))


def _correlation(a: Array, b: Array) -> float:
    """Correlation of two arrays of deviations."""
    scale = math.sqrt(math.fsum((a**2).ravel()) * math.fsum((b**2).ravel()))
    return math.fsum((a * b).ravel()) / scale if scale > 0 else math.nan
