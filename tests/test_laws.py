"""The algebra of states: identity, associativity, commutativity, and one stream however it is cut."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from tests.device import support
from tests.device.support import EVERYTHING as ACC
from tests.device.support import LEAN
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.state import EVENTS, MonitorState


@functools.cache
def steps(first: int, last: int) -> MonitorState:
    """A state that has seen the broken batches `first` .. `last - 1`."""
    state = ACC.init()
    for seed in range(first, last):
        rewards, mask, lengths = support.broken_batch(seed)
        state = support.update(ACC, state, rewards, mask=mask, lengths=lengths)
    return state


def merge(*states: MonitorState) -> MonitorState:
    return functools.reduce(lambda a, b: support.merge(ACC, a, b), states)


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(v, np.float64).ravel() for v in jax.tree.leaves(tree)])


def pairs(tree) -> list[np.ndarray]:
    """NamedTuples of (high, low) fields as float64 sums, those that lie in one array apart."""
    out, values = [], tree._asdict()
    for name, value in values.items():
        if not name.endswith("_low"):
            both = np.asarray(value, np.float64) + np.asarray(values.get(f"{name}_low", 0.0), np.float64)
            out += list(both) if name == "sums" else [both]
    return out


def assert_same_order_free(
    a: MonitorState,
    b: MonitorState,
    tolerance: float = 2e-6,
    exact: tuple[str, ...] = ("low", "high", "extremes", "sketch"),
) -> None:
    a, b = (support.order_free(ACC, s) for s in (a, b))
    support.assert_same_bits([a["exact"][key] for key in exact], [b["exact"][key] for key in exact])
    for key, value in a["rounded"].items():
        for x, y in zip(pairs(value), pairs(b["rounded"][key]), strict=True):
            finite = np.isfinite(x)
            np.testing.assert_array_equal(x[~finite], y[~finite])
            np.testing.assert_allclose(
                x[finite], y[finite], rtol=tolerance, atol=tolerance * np.abs(x[finite]).max(initial=0)
            )


@pytest.mark.parametrize("n", [0, 1, 6])
def test_init_is_the_identity_of_merge_to_the_bit(n):
    support.assert_same_bits(merge(ACC.init(), steps(0, n)), steps(0, n))
    support.assert_same_bits(merge(steps(0, n), ACC.init()), steps(0, n))


@pytest.mark.parametrize("order", ["empty first", "empty last"])
def test_a_state_with_a_smaller_window_makes_none_smaller(order):
    large = ACC.init(batch_size=3 * ACC.window_size)
    for seed in range(3):
        rewards, mask, lengths = support.broken_batch(seed)
        large = support.update(ACC, large, rewards, mask=mask, lengths=lengths)
    both = (ACC.init(), large) if order == "empty first" else (large, ACC.init())
    support.assert_same_bits(merge(*both), large)


def test_merge_is_associative():
    a, b, c = steps(0, 3), steps(3, 5), steps(5, 9)
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    assert_same_order_free(left, right)
    support.assert_same_bits((left.window, left.trace), (right.window, right.trace))
    f, g = support.fields(ACC, left), support.fields(ACC, right)
    support.assert_same_bits((f.clock, f.alerts, f.events, f.memory), (g.clock, g.alerts, g.events, g.memory))
    for x, y in zip(f.averages, g.averages, strict=True):
        for u, v in zip(pairs(x), pairs(y), strict=True):
            np.testing.assert_allclose(u, v, rtol=1e-6, atol=1e-9)


def test_merge_is_commutative_in_what_has_no_order():
    a, b = steps(0, 3), steps(3, 9)
    assert_same_order_free(merge(a, b), merge(b, a))


@pytest.mark.parametrize("n", [0, 1, 6])
def test_update_is_merge_with_the_update_of_init(n):
    rewards, mask, lengths = support.broken_batch(99)
    one = support.update(ACC, ACC.init(), rewards, mask=mask, lengths=lengths)
    updated = support.update(ACC, steps(0, n), rewards, mask=mask, lengths=lengths)
    merged = merge(steps(0, n), one)
    assert_same_order_free(updated, merged)
    support.assert_same_bits(updated.window, merged.window)
    f, g = support.fields(ACC, updated), support.fields(ACC, merged)
    support.assert_same_bits((f.clock.updates, f.clock.interval), (g.clock.updates, g.clock.interval))
    support.assert_same_bits(f.recent, g.recent)
    for name in ("short", "long", "zero_share"):  # the noise and the outliers are judged against the state before
        for x, y in zip(pairs(getattr(f.averages, name)), pairs(getattr(g.averages, name)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cut", [0, 1, 2, 4, 5, 6])
def test_samples_in_a_row_are_counted_through_a_merge(cut):
    states = [LEAN.init(), LEAN.init(), LEAN.init()]
    for t, value in enumerate((0.5, 0.7, 0.7, np.nan, 0.7, 0.7)):
        for part in (0, 1 if t < cut else 2):
            states[part] = support.update(LEAN, states[part], {"x": np.full(8, value, np.float32)})
    whole, merged = (support.fields(LEAN, s) for s in (states[0], support.merge(LEAN, *states[1:])))
    support.assert_same_bits(whole.recent, merged.recent)
    assert float(whole.recent[2, 0]) == 32.0


def test_parts_of_a_run_merge_to_the_run():
    whole, merged = steps(0, 9), merge(steps(0, 4), steps(4, 5), steps(5, 9))
    assert_same_order_free(whole, merged)
    support.assert_same_bits(whole.window, merged.window)
    a, b = ACC.record(whole).scalars, ACC.record(merged).scalars
    judged = ("alerts/", "monitoring/")  # each part starts with cold rules
    a, b = ({k: v for k, v in scalars.items() if not k.startswith(judged)} for scalars in (a, b))
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert b[key] == pytest.approx(value, rel=3e-6, abs=3e-6), key


def test_splitting_a_batch_changes_no_statistic_of_the_run():
    rewards, mask, lengths = support.broken_batch(50)
    prompts = np.arange(support.SHAPE[0])[:, None] < 2
    halves = [mask & prompts, mask & ~prompts]
    whole, split = (
        functools.reduce(lambda s, m: support.update(ACC, s, rewards, mask=m, lengths=lengths), masks, ACC.init())
        for masks in ([mask], halves)
    )
    uncounted = {"masked": None}  # by the half that is not there
    a, b = (support.order_free(ACC, s)["exact"] for s in (whole, split))
    support.assert_same_bits(a["low"]._replace(**uncounted), b["low"]._replace(**uncounted))
    assert_same_order_free(whole, split, exact=("sketch",))
    support.assert_same_bits(whole.window, split.window)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_samples_changes_no_count_and_no_quantile(seed):
    rewards = support.batch(51)
    prompts, members = np.random.default_rng(seed).permutation(4), np.random.default_rng(seed).permutation(8)
    shuffled = {k: v[prompts][:, members] for k, v in rewards.items()}
    a, b = (support.update(ACC, ACC.init(), x) for x in (rewards, shuffled))
    assert_same_order_free(a, b)


def test_the_trace_of_a_merge_is_that_of_the_steps_in_order():
    merged, whole = ACC.record(merge(steps(0, 2), steps(2, 5))), ACC.record(steps(0, 5))
    assert merged.series["step"] == whole.series["step"] == [1, 2, 3, 4]  # the last log_frequency steps
    for key in ("mean", "std", "min", "max", "count"):
        assert merged.series[f"answer/{key}"] == whole.series[f"answer/{key}"]


def test_the_trace_of_a_merge_forgets_what_came_before_the_interval():
    fresh = support.reset_interval(ACC, steps(0, 3))
    merged = ACC.record(merge(fresh, steps(3, 5)))
    assert merged.series["step"] == [3, 4]
    assert merged.series["answer/mean"] == ACC.record(steps(0, 5)).series["answer/mean"][-2:]
    assert merged.scalars["answer/interval/count"] == ACC.record(steps(3, 5)).scalars["answer/interval/count"]


def test_events_of_a_merge_keep_their_order_and_the_newest_stay():
    def broken(n: int) -> MonitorState:  # an episode of NONFINITE begins and ends over and over
        state = LEAN.init()
        for i in range(n):
            x = np.full(support.SHAPE, np.nan if i % 2 == 0 else 0.5, np.float32)
            state = LEAN.update_jit(state, {"x": jnp.asarray(x)})
        return state

    a, b = broken(30), broken(14)
    merged = support.merge(LEAN, a, b)
    f, g, h = (support.fields(LEAN, s) for s in (a, b, merged))
    seen = int(h.clock.events[0])
    assert seen == int(f.clock.events[0]) + int(g.clock.events[0])
    slots = [(seen - 1 - back) % EVENTS for back in range(EVENTS)]
    updates = [int(h.events[slot, 0, 0]) for slot in slots]
    assert updates == sorted(updates, reverse=True)
    assert updates[0] == 30 + int(g.events[(int(g.clock.events[0]) - 1) % EVENTS, 0, 0])
    assert h.alerts.tolist() == (f.alerts + g.alerts).tolist()


def test_reset_interval_forgets_the_interval_and_nothing_else():
    before, after = steps(0, 6), support.reset_interval(ACC, steps(0, 6))
    support.assert_same_bits(before[1:], after[1:])
    a, b = ACC.record(before).scalars, ACC.record(after).scalars
    assert not [k for k in b if "/interval/" in k and not k.endswith("/count")]
    assert all(b[f"{name}/interval/count"] == 0 for name in ACC.reward_names)
    horizon = ("/interval/", "groups/", "group_std", "frac_", "advantage_share", "length")
    kept = {k: v for k, v in a.items() if not any(h in k for h in horizon) and k not in ("reward", "reward_std")}
    assert kept == {k: b[k] for k in kept}
    assert ACC.record(after).series["step"] == []


@pytest.mark.parametrize("kind", ["no sample", "all masked", "all nan"])
def test_a_step_without_data_is_the_identity_of_every_statistic(kind):
    before = steps(0, 6)
    rewards, _, lengths = support.broken_batch(7)
    if kind == "no sample":
        after = support.update(ACC, before, {k: np.zeros((0, 8), np.float32) for k in rewards})
    elif kind == "all masked":
        after = support.update(ACC, before, rewards, mask=np.zeros(support.SHAPE, bool), lengths=lengths)
    else:
        nothing = {k: np.full(support.SHAPE, np.nan, np.float32) for k in rewards}
        after = support.update(ACC, before, nothing, mask=np.ones(support.SHAPE, bool), lengths=lengths)
    a, b = support.fields(ACC, before), support.fields(ACC, after)
    assert b.clock.updates[0] == a.clock.updates[0] + 1  # the step is seen: it has its place in the trace
    if kind != "all nan":
        for name in ("moments", "group_means", "group_sums", "averages", "products", "alerts"):
            support.assert_same_bits(getattr(a, name), getattr(b, name))
        masked = 0 if kind == "no sample" else support.SHAPE[0] * support.SHAPE[1]
        support.assert_same_bits(a.low._replace(masked=None), b.low._replace(masked=None))
        assert (b.low.masked - a.low.masked)[0, :3].tolist() == [masked] * 3
        support.assert_same_bits(before[2:], after[2:])  # window and sketch
    else:
        rewards_and_total = [jax.tree.map(lambda v: v[..., :4], (f.moments, f.extremes, f.low.valid)) for f in (a, b)]
        support.assert_same_bits(*rewards_and_total)  # the lengths are there
        support.assert_same_bits(before[3:], after[3:])
        assert (b.low.nan - a.low.nan)[0, :3].tolist() == [32] * 3
    series = ACC.record(after).series
    assert series["answer/mean"][-1] is None
    assert series["answer/count"][-1] == 0


def test_no_data_is_no_key():
    scalars = ACC.record(ACC.init()).scalars
    assert not [k for k, v in scalars.items() if not math.isfinite(v)]
    counts = ("/count", "/nonfinite_count")
    rest = {k for k in scalars if not k.endswith(counts) and not k.startswith(("alerts/", "monitoring/"))}
    assert rest == {"groups/incomplete"}
    assert all(v == 0 for k, v in scalars.items() if k != "monitoring/step")


OUTLIERS = np.random.default_rng(11).standard_t(2, size=(6, *support.SHAPE)).astype(np.float32)


@pytest.mark.parametrize("masked", [False, True])
def test_outlier_mask_is_three_sigma_of_the_window_before_the_batch(masked):
    state, seen, found = ACC.init(), {name: [] for name in ACC.reward_names}, 0
    for i, x in enumerate(OUTLIERS):
        rewards = {"format": support.batch(i)["format"], "answer": x, "style": 10 + x}
        rewards["answer"][0, :3] = (np.nan, np.inf, -np.inf)
        mask = np.random.default_rng([12, i]).random(support.SHAPE) < 0.7
        got = (
            support.outlier_mask(ACC, state, rewards, mask=mask)
            if masked
            else support.outlier_mask(ACC, state, rewards)
        )
        for name, values in rewards.items():
            assert got[name].shape == support.SHAPE
            assert got[name].dtype == bool
            window = np.array(seen[name][-100:], np.float64)
            want = np.zeros(support.SHAPE, bool)
            if np.isfinite(window).sum() >= ACC.min_samples:
                window = reference.valid(window)
                exact = values.astype(np.float64)
                want = np.isfinite(exact) & (np.abs(exact - window.mean()) > 3 * window.std())
                want &= mask if masked else True
            np.testing.assert_array_equal(np.asarray(got[name]), want)
            found += want.sum()
            seen[name] += np.where(np.isfinite(values), values, np.nan)[mask if masked else ...].ravel().tolist()
        options = {"mask": mask, "lengths": np.ones(support.SHAPE, np.int32)} if masked else {}
        state = support.update(ACC, state, rewards, **options)
    assert found > 2


def test_outlier_mask_is_silent_until_the_window_is_warm():
    acc = RewardAccumulator(("x",), window_size=20, min_samples=10)
    x = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0], np.float32)
    held = np.concatenate([np.full(11, np.nan, np.float32), x])[None]
    nine = acc.init()._replace(window=jnp.asarray(held.view(np.uint32)))
    held[0, 10] = 0.5
    ten = acc.init()._replace(window=jnp.asarray(held.view(np.uint32)))
    far = {"x": np.array([[1e3, 0.5], [-1e3, 1.0]], np.float32)}
    assert not np.asarray(support.outlier_mask(acc, nine, far)["x"]).any()
    assert np.asarray(support.outlier_mask(acc, ten, far)["x"]).tolist() == [[True, False], [True, False]]
