"""GRPO statistics against brute force over prompts, members and draws."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tests import reference
from tests.device import support
from tests.device.support import EVERYTHING, SHAPE
from tunrex_jax_monitor.device import groups

NAMES, WEIGHTS, G = EVERYTHING.reward_names, np.array(EVERYTHING.weights), EVERYTHING.group_size
STEPS, BEFORE_INTERVAL = 5, 2


@functools.cache
def run(kind: str):
    """A record and its data: [R, B, G] with NaN where a sample does not count, and [B, G] lengths or None."""
    state, data, lengths = EVERYTHING.init(), [], []
    for i in range(STEPS):
        if i == BEFORE_INTERVAL:
            state = support.reset_interval(EVERYTHING, state)
        rewards, mask, length = {**support.batch(i)}, np.ones(SHAPE, bool), None
        if kind == "broken":
            rewards, mask, length = support.broken_batch(i)
            mask[0] = i == 1  # a prompt that is missing as a whole
            mask[1, 1:] &= i != 3  # and one with a single member
            mask[2:] |= i != 4
        rewards["style"][2] = 10.25  # no variance in a group, and none that float32 rounding could invent
        rewards["format"][3] = np.float32(0.3)
        options = {} if kind == "plain" else {"mask": mask, "lengths": length}
        state = support.update(EVERYTHING, state, rewards, **options)
        x = np.stack([rewards[name] for name in NAMES]).astype(np.float64)
        data.append(np.where(np.isfinite(x) & mask, x, np.nan))
        lengths.append(None if length is None else np.where(mask, length, np.nan))
    interval = np.concatenate(data[BEFORE_INTERVAL:], axis=1)
    length = None if lengths[0] is None else np.concatenate(lengths[BEFORE_INTERVAL:])
    return EVERYTHING.record(state).scalars, interval, np.concatenate(data, axis=1), length, state


def total_of(x: np.ndarray) -> np.ndarray:
    return reference.weighted_total(x, WEIGHTS)


def members(x: np.ndarray) -> list[np.ndarray]:
    """The members that count, of each group [B, G] that has any."""
    return [row for row in (reference.valid(group) for group in x) if len(row)]


def scored(x: np.ndarray) -> list[np.ndarray]:
    return [row for row in members(x) if len(row) >= 2]


KINDS = pytest.mark.parametrize("kind", ["plain", "broken"])


@KINDS
def test_counts_of_groups(kind):
    got, x, *_ = run(kind)
    total = total_of(x)
    assert got["groups/count"] == len(members(total))
    assert got["groups/incomplete"] == sum(len(row) < G for row in members(total))
    assert got["groups/incomplete"] > 0 or kind == "plain"


@KINDS
def test_groups_without_variance(kind):
    got, x, *_ = run(kind)
    rows = {"frac_reward_zero_std": total_of(x)} | {f"{n}/frac_zero_std": x[i] for i, n in enumerate(NAMES)}
    for key, values in rows.items():
        assert got[key] == pytest.approx(reference.frac_zero_std(scored(values), EVERYTHING.zero_std_tolerance))
    assert got["groups/effective_ratio"] == pytest.approx(1 - got["frac_reward_zero_std"])
    assert got["style/frac_zero_std"] > 0
    assert got["format/frac_zero_std"] > 0


@KINDS
def test_spread_within_and_between_groups(kind):
    got, x, *_ = run(kind)
    total = total_of(x)
    for i, name in enumerate(NAMES):
        assert got[f"{name}/group_std"] == pytest.approx(np.mean([r.std(ddof=1) for r in scored(x[i])]), rel=1e-5)
    assert got["groups/std_mean"] == pytest.approx(np.mean([r.std(ddof=1) for r in scored(total)]), rel=1e-5)
    assert got["groups/mean_std"] == pytest.approx(np.std([r.mean() for r in scored(total)], ddof=1), rel=1e-5)


@KINDS
def test_the_weighted_total_is_what_grpo_optimises(kind):
    got, x, *_ = run(kind)
    total = reference.valid(total_of(x))
    assert got["reward"] == pytest.approx(total.mean(), rel=1e-6)
    assert got["reward_std"] == pytest.approx(total.std(ddof=1), rel=1e-5)


@KINDS
def test_pass_at_k_by_drawing_every_subset(kind):
    got, x, *_ = run(kind)
    complete = reference.complete_groups(total_of(x)) >= EVERYTHING.correct_threshold
    for k in (1, 2, 4, 8):
        draws = [any(group[list(pick)]) for group in complete for pick in itertools.combinations(range(G), k)]
        assert got[f"groups/pass_at_{k}"] == pytest.approx(np.mean(draws), rel=1e-12)
    assert "groups/pass_at_16" not in got
    solved = complete.sum(axis=1)
    want = {"none": (solved == 0).mean(), "all": (solved == G).mean(), "partial": ((0 < solved) & (solved < G)).mean()}
    for key, share in want.items():
        assert got[f"groups/solve_{key}"] == pytest.approx(share, abs=1e-15)


def test_correct_reward_judges_by_one_reward():
    (_, x, _, _, state), judge = run("broken"), "answer"
    got = dataclasses.replace(EVERYTHING, correct_reward=judge).record(state).scalars
    complete = reference.complete_groups(x[NAMES.index(judge)])
    counts = reference.solve_counts(complete, EVERYTHING.correct_threshold)
    for k in (1, 2, 4, 8):
        assert got[f"groups/pass_at_{k}"] == pytest.approx(reference.pass_at_k(counts, k), rel=1e-12)
    for key, share in reference.solve_shares(counts).items():
        assert got[f"groups/{key}"] == pytest.approx(share)


@KINDS
def test_advantage_shares_are_those_of_the_total(kind):
    got, x, *_ = run(kind)
    total = total_of(x)
    there = np.isfinite(total)
    own = np.where(np.isfinite(x), x, 0.0) * WEIGHTS[:, None, None]
    shares, scale = np.zeros(len(NAMES)), 0.0
    for b in range(len(total)):
        if there[b].any():
            deviation = total[b, there[b]] - total[b, there[b]].mean()
            shares += (own[:, b, there[b]] * deviation).sum(axis=1)
            scale += (deviation**2).sum()
    got_shares = [got[f"{name}/advantage_share"] for name in NAMES]
    np.testing.assert_allclose(got_shares, shares / scale, atol=1e-6)
    assert sum(got_shares) == pytest.approx(1, abs=1e-12)
    if kind == "plain":
        np.testing.assert_allclose(got_shares, reference.advantage_shares(x, WEIGHTS), atol=1e-6)


def test_lengths_correlate_within_groups():
    got, x, _, lengths, _ = run("broken")
    there = reference.valid(lengths)
    assert got["completions/mean_length"] == pytest.approx(there.mean(), rel=1e-6)
    assert (got["completions/min_length"], got["completions/max_length"]) == (there.min(), there.max())
    rows = {f"{n}/length_corr": x[i] for i, n in enumerate(NAMES)} | {"completions/reward_length_corr": total_of(x)}
    for key, values in rows.items():
        both = np.isfinite(values) & np.isfinite(lengths)
        a, b = [], []
        for v, length, there in zip(values, lengths, both, strict=True):
            if there.any():
                a.append(v[there] - v[there].mean())
                b.append(length[there] - length[there].mean())
        a, b = np.concatenate(a), np.concatenate(b)
        assert got[key] == pytest.approx((a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum()), abs=1e-5)


def test_no_lengths_no_keys():
    assert not [key for key in run("plain")[0] if "length" in key]


@KINDS
def test_correlations_are_pearson_over_the_samples_where_all_count(kind):
    got, _, x, *_ = run(kind)
    joint = np.isfinite(x).all(axis=0)
    for i, j in itertools.combinations(range(len(NAMES)), 2):
        want = np.corrcoef(x[i][joint], x[j][joint])[0, 1]
        assert got[f"rewards/corr/{NAMES[i]}/{NAMES[j]}"] == pytest.approx(want, abs=1e-5)


def from_batch(x: np.ndarray, valid: np.ndarray, size: int, tolerance: float = 1e-6) -> groups.GroupBatch:
    """One reward of weight 1, its total, and no lengths."""
    rows = [np.stack([v, v, fill]) for v, fill in ((x, np.full_like(x, np.nan)), (valid, np.zeros_like(valid)))]
    f = jax.jit(
        functools.partial(
            groups.from_batch,
            weights=np.ones(1, np.float32),
            limits=(jnp.full(1, -np.inf), jnp.full(1, np.inf)),
            group_size=size,
            tolerance=tolerance,
            threshold=1.0,
        )
    )
    return f(jnp.asarray(rows[0], jnp.float32), jnp.asarray(rows[1]))


def test_six_equal_rewards_have_no_variance_and_no_spread():
    x = np.full(12, np.float32(0.3))  # their naive standard deviation is 3.3e-8
    got = from_batch(x, np.ones(12, bool), 6, tolerance=0.0)
    assert int(got.zero_std[0]) == 2
    assert float(got.zero_share[0]) == 1.0
    assert float(got.std[0]) == pytest.approx(0, abs=1e-9)


def test_a_group_of_one_is_scored_and_has_no_variance():
    got = from_batch(np.arange(4.0), np.ones(4, bool), 1)
    assert [int(v[0]) for v in (got.groups, got.scored, got.zero_std, got.incomplete)] == [4, 4, 4, 0]
    assert np.asarray(got.solved[:, 0]).tolist() == [1, 3]


def test_no_group_is_no_share():
    got = from_batch(np.arange(8.0), np.zeros(8, bool), 4)
    assert [int(v[0]) for v in (got.groups, got.scored, got.zero_std, got.incomplete)] == [0, 0, 0, 0]
    assert np.isnan(got.zero_share[0])
    assert not np.asarray(got.solved).any()


def test_an_offset_of_ten_thousand_does_not_hide_the_spread():
    x = (1e4 + 1e-2 * np.random.default_rng(0).normal(size=(16, 8))).astype(np.float32)
    got = from_batch(x.ravel(), np.ones(128, bool), 8)
    want = np.sum([row.std(ddof=1) for row in x.astype(np.float64)])
    assert float(got.std[0]) == pytest.approx(want, rel=1e-5)
    assert int(got.zero_std[0]) == 0


def test_rewards_that_never_vary_have_no_advantage_share():
    config = dataclasses.replace(EVERYTHING, reward_names=("format", "answer", "style"))
    state = config.init()
    rewards = {n: np.full(SHAPE, v, np.float32) for n, v in zip(NAMES, (0.3, 0.1, 0.7), strict=True)}
    for _ in range(3):
        state = support.update(config, state, rewards)
    got = config.record(state).scalars
    assert not [key for key in got if key.endswith("advantage_share")]
    assert got["frac_reward_zero_std"] == 1
    assert got["reward_std"] == 0
    assert not [key for key in got if key.startswith("rewards/corr")]


def test_a_total_that_is_rounded_below_the_threshold_is_correct_all_the_same():
    weights = (0.05, 0.1, 0.15, 0.5, 0.2)  # 1 in float64, and 0.99999994 added up in float32
    acc = trm.RewardAccumulator(tuple("abcde"), group_size=4, weights=weights)
    scalars = acc.record(acc.update_jit(acc.init(), dict.fromkeys("abcde", np.ones(8, np.float32)))).scalars
    assert scalars["reward"] < 1
    assert scalars["groups/solve_all"] == scalars["groups/pass_at_4"] == 1.0
    scalars = acc.record(acc.update_jit(acc.init(), dict.fromkeys("abcde", np.full(8, 0.99999, np.float32)))).scalars
    assert scalars["groups/solve_none"] == 1.0


def test_a_correlation_of_few_lengths_that_differ_is_told():
    acc, rng = trm.RewardAccumulator(("a",), group_size=8, log_frequency=100), np.random.default_rng(0)
    state, rewards, lengths = acc.init(batch_size=1024), [], []
    for _ in range(40):
        x = rng.random(1024).astype(np.float32)
        length = (32768 - rng.integers(1, 3, 1024) * (rng.random(1024) < 3e-4)).astype(np.float32)
        state = acc.update_jit(state, {"a": x}, lengths=length)
        rewards.append(x.reshape(-1, 8).astype(float))
        lengths.append(length.reshape(-1, 8).astype(float))
    d, dl = (v - v.mean(1, keepdims=True) for v in map(np.concatenate, (rewards, lengths)))
    want = (d * dl).sum() / np.sqrt((d * d).sum() * (dl * dl).sum())
    assert acc.record(state).scalars["a/length_corr"] == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("size", [5, 6, 9, 13, 20])
@pytest.mark.parametrize("constant", ["reward", "length", "both"])
def test_a_side_that_does_not_vary_has_no_correlation_with_the_other(size, constant):
    acc, rng = trm.RewardAccumulator(("a",), group_size=size), np.random.default_rng(size)
    for value, length in ((0.3, 101.3), (0.7, 77.7), (1.1, 4095.0), (1e4 + 0.1, 0.1)):
        x, lengths = (np.full(4 * size, v, np.float32) for v in (value, length))
        if constant == "reward":
            lengths = lengths + rng.integers(0, 50, 4 * size).astype(np.float32)
        if constant == "length":
            x = rng.normal(size=4 * size).astype(np.float32)
        scalars = acc.record(acc.update_jit(acc.init(), {"a": x}, lengths=lengths)).scalars
        assert {"a/length_corr", "completions/reward_length_corr"}.isdisjoint(scalars)
