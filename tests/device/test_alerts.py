"""Alert rules: `literal` against numpy float64, `guarded` against healthy streams and planted faults."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tunrex_jax_monitor.device.alerts import TYPES, Alert

_spec = importlib.util.spec_from_file_location(
    "alerts_benchmark", Path(__file__).parents[2] / "benchmarks" / "alerts.py"
)
assert _spec is not None
assert _spec.loader is not None
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)


def _index(kind: Alert) -> int:
    return TYPES.index(kind)


def _literal_reference(x: np.ndarray, window: int = 1000) -> np.ndarray:
    """The document's table in float64, each step against what came before it: bool[steps, 8]."""
    out = np.zeros((len(x), len(TYPES)), bool)
    short = long = 0.0
    for t, batch in enumerate(x.astype(np.float64)):
        seen = x[:t].reshape(-1)[-window:].astype(np.float64)
        if len(seen) >= 10:
            mean, std = seen.mean(), max(seen.std(), 1e-6 * abs(seen.mean()))
            out[t, _index(Alert.OUTLIER)] = (np.abs(batch - mean) > 3 * std).any()
            out[t, _index(Alert.FLATLINE)] = (seen == 0).mean() > 0.95
            out[t, _index(Alert.NEGATIVE)] = (seen < 0).mean() > 0.9
        if t >= 20:
            s, v = short / (1 - 0.9**t), long / (1 - 0.99**t)
            out[t, _index(Alert.DROP)] = v > 0 and s < 0.5 * v
            out[t, _index(Alert.SPIKE)] = v > 0 and s > 2 * v
        short += 0.1 * (batch.mean() - short)
        long += 0.01 * (batch.mean() - long)
    return out


@pytest.mark.parametrize("name", bench.HEALTHY)
def test_literal_conditions_equal_the_documents_table_in_numpy(name: str) -> None:
    x = bench.HEALTHY[name](np.random.default_rng(5), (2, 120, 64)).astype(np.float32)
    _, active = bench.watch(trm.RewardAccumulator(("r",), group_size=8, detect="literal"), x)
    for run in range(2):
        np.testing.assert_array_equal(active[run].astype(bool), _literal_reference(x[run]))


def test_literal_events_count_entries_into_the_condition() -> None:
    x = bench.HEALTHY["Student t3"](np.random.default_rng(6), (1, 200, 64)).astype(np.float32)
    began, active = bench.watch(trm.RewardAccumulator(("r",), group_size=8, detect="literal"), x)
    entries = np.diff(active[0].astype(int), axis=0, prepend=0) == 1
    np.testing.assert_array_equal(began[0] > 0, entries)


# Conditions that truly hold from the start are told once per run; they are no false alarm.
TRUE_FROM_THE_START = {
    "-|N(0,1)|": {Alert.NEGATIVE},
    "Bernoulli 0.97": {Alert.SATURATION, Alert.GROUP_COLLAPSE},
    "Bernoulli 0.02": {Alert.GROUP_COLLAPSE},
}


@pytest.mark.parametrize("name", bench.HEALTHY)
def test_guarded_rules_stay_under_one_event_per_thousand_healthy_steps(name: str) -> None:
    x = bench.HEALTHY[name](np.random.default_rng(7), (10, 500, 64)).astype(np.float32)
    began, _ = bench.watch(trm.RewardAccumulator(("r",), group_size=8), x)
    told = [_index(kind) for kind in TRUE_FROM_THE_START.get(name, set())]
    assert began[:, :, told].sum(1).max(initial=0) <= 1
    others = np.delete(began, told, axis=2)
    assert 1000 * others.sum() / (10 * 500) <= 1.0


@pytest.mark.parametrize("name", bench.FAULTS)
def test_guarded_rules_find_every_planted_fault(name: str) -> None:
    expected, stream = bench.FAULTS[name]
    x = stream(np.random.default_rng(8), (10, 2 * bench.FAULT_AT, 64)).astype(np.float32)
    began, _ = bench.watch(trm.RewardAccumulator(("r",), group_size=8), x)
    hits = began[:, bench.FAULT_AT :, _index(Alert[expected])]
    assert (hits.sum(1) >= 1).all()


def _run_lengths(x: np.ndarray) -> list[int]:
    """Samples in a row, step by step, that are all one value; by the definition, in numpy."""
    lengths, value = [0], None
    for batch in x:
        seen = batch[np.isfinite(batch)]
        if not len(seen):
            lengths.append(lengths[-1])
        elif seen.min() == seen.max():
            lengths.append(len(seen) + (lengths[-1] if seen[0] == value else 0))
            value = seen[0]
        else:
            lengths.append(0)
    return lengths


@pytest.mark.parametrize("chance", [0.0, 0.05, 0.5])
def test_a_constant_reward_is_a_flatline_whatever_is_missing_in_it(chance: float) -> None:
    rng = np.random.default_rng(11)
    x = np.full((1, 60, 20), 0.7, np.float32)
    x[0, 10], x[0, 25, 3], x[0, 26] = 0.2, 0.9, np.nan  # another value, two values, none
    x[rng.random(x.shape) < chance] = np.nan
    acc = trm.RewardAccumulator(("r",), flatline_samples=150, cooldown_steps=0, window_size=30)
    _, active = bench.watch(acc, x)
    expected = np.array(_run_lengths(x[0])[:-1]) >= 150  # each step against what came before it
    assert expected.any()
    np.testing.assert_array_equal(active[0, :, _index(Alert.FLATLINE)].astype(bool), expected)


@pytest.mark.parametrize("share", [0.02, 0.08, 0.2])
@pytest.mark.parametrize("window", [32, 64, 256])
def test_a_rare_reward_is_no_flatline_in_a_small_window(window: int, share: float) -> None:
    x = np.random.default_rng(12).random((4, 500, 32)) < share
    began, _ = bench.watch(trm.RewardAccumulator(("r",), window_size=window), x)
    assert 1000 * began[..., _index(Alert.FLATLINE)].sum() / (4 * 500) <= 1.0


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_collapse_is_told_by_few_groups_and_chance_is_not(groups: int) -> None:
    rng = np.random.default_rng(13)
    x = rng.normal(size=(6, 500, groups, 4))
    flat = (rng.random(x.shape[:3]) < 0.55) | (np.arange(500) >= 400)[:, None]
    x = np.where(flat[..., None], 1.0, x).reshape(6, 500, -1)
    began, _ = bench.watch(trm.RewardAccumulator(("r",), group_size=4), x)
    collapses = began[..., _index(Alert.GROUP_COLLAPSE)]
    assert 1000 * collapses[:, :400].sum() / (6 * 400) <= 1.0
    assert (collapses[:, 400:].sum(1) == 1).all()


def test_outliers_are_told_where_each_group_has_lost_all_but_one() -> None:
    """There are as many groups as samples then, and not as many as groups of full size."""
    rng = np.random.default_rng(16)
    x = rng.normal(size=(4, 260, 512)).astype(np.float32)
    x[:, 200:][rng.random((4, 60, 512)) < 0.2] = 12.0
    x[..., np.arange(512) % 16 > 0] = np.nan
    began, _ = bench.watch(trm.RewardAccumulator(("r",), group_size=16), x)
    outlier = began[..., _index(Alert.OUTLIER)]
    assert not outlier[:, :200].any()
    assert outlier[:, 200:205].any(1).all()


def test_a_declared_penalty_is_never_negative() -> None:
    x = -np.abs(np.random.default_rng(9).normal(size=(1, 100, 64))).astype(np.float32)
    quiet, _ = bench.watch(trm.RewardAccumulator(("r",), bounds={"r": (None, 0.0)}), x)
    loud, _ = bench.watch(trm.RewardAccumulator(("r",)), x)
    assert quiet[..., _index(Alert.NEGATIVE)].sum() == 0
    assert loud[..., _index(Alert.NEGATIVE)].sum() == 1


def test_detection_that_is_off_tells_nothing() -> None:
    x = np.random.default_rng(14).normal(size=(1, 120, 16)).astype(np.float32)
    x[0, 60:] = np.nan
    began, active = bench.watch(trm.RewardAccumulator(("r",), detect="off"), x)
    assert not began.any()
    assert not active.any()


@pytest.mark.parametrize(
    ("options", "quiet"), [({"warmup_steps": 180}, 180), ({"warmup_steps": 60, "ema_alpha_short": 0.9}, 60)]
)
def test_a_long_warm_up_is_kept(options: dict[str, float], quiet: int) -> None:
    x = np.random.default_rng(15).normal(1, 0.1, (1, 240, 16)).astype(np.float32)
    x[0, 40:45], x[0, quiet + 5 :] = 100.0, -1000.0
    began, _ = bench.watch(trm.RewardAccumulator(("r",), **options), x)
    told = [_index(kind) for kind in (Alert.OUTLIER, Alert.DROP, Alert.SPIKE)]
    assert not began[0, :quiet, told].any()
    assert began[0, quiet:, told].any()


def test_an_episode_is_counted_once_and_again_after_it_has_ended() -> None:
    x = np.random.default_rng(10).normal(2, 1, (1, 120, 16)).astype(np.float32)
    x[0, 20:30, 0] = np.nan  # one episode
    x[0, 35, 0] = np.inf  # five quiet steps: still the same
    x[0, 90, 0] = -np.inf  # another
    began, active = bench.watch(trm.RewardAccumulator(("r",)), x)
    nonfinite = began[0, :, _index(Alert.NONFINITE)]
    assert list(np.flatnonzero(nonfinite)) == [20, 90]
    open_steps = np.flatnonzero(active[0, :, _index(Alert.NONFINITE)])
    assert set(range(20, 45)) <= set(open_steps)
    assert 60 not in open_steps


def test_steps_without_samples_change_no_episode() -> None:
    acc = trm.RewardAccumulator(("r",))
    state = acc.init()
    for value in (np.nan, 1.0):
        state = acc.update_jit(state, {"r": np.full(8, value, np.float32)})
    before = np.asarray(acc.summarize(state).open_alerts).copy()
    for _ in range(30):
        state = acc.update_jit(state, {"r": np.zeros(8, np.float32)}, mask=np.zeros(8, bool))
    np.testing.assert_array_equal(np.asarray(acc.summarize(state).open_alerts), before)
    assert before[0] == Alert.NONFINITE


def test_events_of_an_unread_state_survive_beyond_the_trace() -> None:
    acc = trm.RewardAccumulator(("r",), log_frequency=5)
    state = acc.init()
    for t in range(60):
        batch = np.random.default_rng(t).normal(2, 1, 64).astype(np.float32)
        batch[0] = np.nan if t == 3 else batch[0]
        state = acc.update_jit(state, {"r": batch})
    record = acc.record(state)
    assert [(event.step, event.type, event.reward) for event in record.alerts] == [(3, "NONFINITE", "r")]
    assert record.scalars["alerts/r/NONFINITE"] == 1.0
