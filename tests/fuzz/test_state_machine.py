"""Update, merge, reset, pack and checkpoint in any order: the statistics are those of numpy float64 on the stream."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from tests import reference
from tests.device import support
from tunrex_jax_monitor import from_checkpoint, to_checkpoint
from tunrex_jax_monitor.accumulator import RewardAccumulator

NAMES, WINDOW, SHAPE = ("a", "b"), 10, (2, 2)
ACC = RewardAccumulator(NAMES, group_size=2, window_size=WINDOW, log_frequency=4, min_samples=1)
VALUES = st.one_of(
    st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    st.sampled_from((0.0, 1.0, 0.5, np.nan, np.inf, -np.inf)),
    st.floats(9999.96875, 10000.03125, width=32),
)
REWARDS = hnp.arrays(np.float32, (len(NAMES), *SHAPE), elements=VALUES)
MASKS = hnp.arrays(np.bool_, SHAPE) | st.just(np.ones(SHAPE, bool))


@dataclasses.dataclass(frozen=True)
class Step:
    """What one update was given, and whether an emission has passed it since."""

    values: np.ndarray  # [R, N], NaN where a sample is masked
    counts: tuple[tuple[int, ...], ...]  # by reward: nan, posinf, neginf, masked
    in_interval: bool = True


@dataclasses.dataclass(frozen=True)
class Model:
    """The stream, and the window by its definition: the last places, of which those not finite are NaN."""

    steps: tuple[Step, ...] = ()
    windows: tuple[tuple[float, ...], ...] = ((),) * len(NAMES)

    def update(self, rewards: np.ndarray, mask: np.ndarray) -> "Model":
        flat, there = rewards.reshape(len(NAMES), -1).astype(np.float64), mask.reshape(-1)
        counts = tuple(tuple(reference.nonfinite_counts(row, there).values()) for row in flat)
        places = [np.where(np.isfinite(row), row, np.nan)[there] for row in flat]
        windows = [(*window, *new)[-WINDOW:] for window, new in zip(self.windows, places, strict=True)]
        return Model((*self.steps, Step(np.where(there, flat, np.nan), counts)), tuple(windows))

    def merge(self, other: "Model") -> "Model":
        windows = []
        for mine, theirs in zip(self.windows, other.windows, strict=True):
            filled = [i for i, value in enumerate(theirs) if np.isfinite(value)]
            windows.append((*mine, *(theirs[filled[0] :] if filled else ()))[-WINDOW:])
        return Model(self.steps + other.steps, tuple(windows))

    def reset_interval(self) -> "Model":
        return Model(tuple(dataclasses.replace(step, in_interval=False) for step in self.steps), self.windows)

    def expected(self) -> dict[str, float]:
        """Every scalar that this model has an opinion on; NaN is a key that must be absent."""
        found: dict[str, float] = {}
        for i, name in enumerate(NAMES):
            run = np.concatenate([[], *(step.values[i] for step in self.steps)])
            interval = np.concatenate([[], *(step.values[i] for step in self.steps if step.in_interval)])
            parts = {"run/": run, "interval/": interval, "": np.array(self.windows[i], np.float64)}
            for prefix, x in parts.items():
                statistics = {"mean": reference.mean(x), "std": reference.std(x)}
                statistics |= {"min": reference.minimum(x), "max": reference.maximum(x)}
                found |= {f"{name}/{prefix}{key}": value for key, value in statistics.items()}
            found[f"{name}/median"] = reference.percentile(parts[""], 50)
            found[f"{name}/ema_short"] = reference.ema([step.values[i] for step in self.steps], 0.1)
        return found

    def counters(self) -> dict[str, int]:
        kinds = ("nan", "posinf", "neginf", "masked")
        found = {
            f"{name}/{kind}": sum(step.counts[i][k] for step in self.steps)
            for i, name in enumerate(NAMES)
            for k, kind in enumerate(kinds)
        }
        valid = {f"{n}/valid": sum(reference.count(s.values[i]) for s in self.steps) for i, n in enumerate(NAMES)}
        return found | valid


def check(state, model: Model) -> None:
    """Compare a state, read out, with the model."""
    record = ACC.record(state)
    assert record.update == len(model.steps)
    found, counters = record.scalars, model.counters()
    assert {key: record.counters[key] for key in counters} == counters
    largest = max((np.nanmax(np.abs(np.where(np.isfinite(s.values), s.values, 0.0))) for s in model.steps), default=0.0)
    for key, value in model.expected().items():
        if np.isnan(value):
            assert key not in found, key
        elif key.endswith(("min", "max")):
            assert found[key] == value, key
        else:
            assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-6 * largest), key


class Machine(RuleBasedStateMachine):
    """States and what they should say, in any order of operations."""

    pairs = Bundle("pairs")

    @initialize(target=pairs)
    def init(self):
        return ACC.init(), Model()

    @rule(target=pairs, pair=pairs, rewards=REWARDS, mask=MASKS)
    def update(self, pair, rewards, mask):
        state = support.update(ACC, pair[0], dict(zip(NAMES, rewards, strict=True)), mask=mask)
        return self.checked(state, pair[1].update(rewards, mask))

    @rule(target=pairs, first=pairs, second=pairs)
    def merge(self, first, second):
        return self.checked(support.merge(ACC, first[0], second[0]), first[1].merge(second[1]))

    @rule(target=pairs, pair=pairs)
    def reset_interval(self, pair):
        return self.checked(support.reset_interval(ACC, pair[0]), pair[1].reset_interval())

    @rule(target=pairs, pair=pairs)
    def checkpoint_and_restore(self, pair):
        state = from_checkpoint(ACC, jax.tree.map(np.copy, to_checkpoint(ACC, pair[0])))
        support.assert_same_bits(state, pair[0])
        return state, pair[1]

    @rule(pair=pairs)
    def pack_and_unpack(self, pair):
        words = np.asarray(support.pack(ACC, pair[0]))
        summary = ACC.unpack(words)
        again = np.concatenate([words[:2], *(np.ascontiguousarray(v).view(np.uint32).reshape(-1) for v in summary)])
        np.testing.assert_array_equal(again, words)
        assert ACC.record(summary).counters.items() >= pair[1].counters().items()

    def checked(self, state, model):
        check(state, model)
        return state, model


Machine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestAnyOrder = Machine.TestCase
