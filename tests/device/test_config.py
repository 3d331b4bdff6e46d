"""What the constructor takes, and what it refuses: argument, got, allowed, remedy."""

import copy
import pickle

import jax
import numpy as np
import pytest

from tests.device import support
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.config import RESERVED_NAMES

NAMES = ("format", "answer")


@pytest.fixture(autouse=True)
def _as_users_run():
    with support.without_runtime_types():
        yield


BAD = [
    ({"reward_names": ()}, "reward_names", "one or more"),
    ({"reward_names": "answer"}, "reward_names", "sequence"),
    ({"reward_names": None}, "reward_names", "sequence"),
    ({"reward_names": ("a", "")}, "reward_names", "non-empty"),
    ({"reward_names": ("a", "  ")}, "reward_names", "non-empty"),
    ({"reward_names": ("a", 1)}, "reward_names", "strings"),
    ({"reward_names": ("a", "b", "a")}, "reward_names", "distinct.*Rename the second a"),
    ({"reward_names": ("a", "a/run")}, "reward_names", "inside another"),
    *(({"reward_names": (name,)}, "reward_names", "namespaces") for name in sorted(RESERVED_NAMES)),
    *(
        ({field: value}, field, "whole number")
        for field in ("window_size", "log_frequency", "min_samples", "group_size", "flatline_samples")
        for value in (0, -1, 2.0, "8", True)
    ),
    *(({field: value}, field, "0 or more") for field in ("warmup_steps", "cooldown_steps") for value in (-1, 0.5)),
    ({"cooldown_steps": 16}, "cooldown_steps", "0 to 15"),
    ({"window_size": 5}, "min_samples", "at most window_size = 5"),
    ({"flatline_samples": 1}, "flatline_samples", "2 or more"),
    *(
        ({field: value}, field, "rate in|finite number")
        for field in ("ema_alpha_short", "ema_alpha_long")
        for value in (0, -0.1, 1.0001, float("nan"), float("inf"), "0.1", None, True)
    ),
    ({"ema_alpha_short": 0.01, "ema_alpha_long": 0.1}, "ema_alpha_long", "below ema_alpha_short"),
    ({"ema_alpha_short": 0.1, "ema_alpha_long": 0.1}, "ema_alpha_long", "below ema_alpha_short"),
    *(({"false_alarm_rate": value}, "false_alarm_rate", "probability") for value in (0, 1, -1)),
    ({"detect": "both"}, "detect", "'guarded', 'literal' or 'off'"),
    ({"detect": None}, "detect", "'guarded', 'literal' or 'off'"),
    *(({"std_threshold": value}, "std_threshold", "above 0|finite") for value in (0, -3, float("nan"))),
    *(({"drop_threshold": value}, "drop_threshold", r"in \[0, 1\)") for value in (-0.1, 1, 2)),
    *(({"spike_threshold": value}, "spike_threshold", "above 1") for value in (1, 0.5, -2)),
    *(
        ({field: value}, field, "between 0 and 1")
        for field in ("zero_threshold", "negative_threshold", "saturation_threshold", "collapse_threshold")
        for value in (0, 1, -0.5, 95)
    ),
    *(({field: -1e-9}, field, "0 or more") for field in ("noise_threshold", "zero_std_tolerance")),
    ({"correct_threshold": float("inf")}, "correct_threshold", "finite"),
    ({"correct_reward": "nobody"}, "correct_reward", "None or one of"),
    ({"correct_reward": "answer", "bounds": {"answer": (0, 0.5)}}, "correct_threshold", "at most 0.5, the upper bound"),
    ({"correlations": 1}, "correlations", "True or False"),
    ({"weights": (1.0,)}, "weights", "2 numbers"),
    ({"weights": (1.0, float("nan"))}, "weights", "finite"),
    *(({"weights": (1.0, value)}, "weights", r"finite number.*float32") for value in (1e39, 10**400, -(10**400))),
    ({"weights": np.array(1.0)}, "weights", "sequence or a mapping"),
    ({"weights": {1.0, 2.0}}, "weights", "sequence or a mapping"),
    ({"weights": b"ab"}, "weights", "sequence or a mapping"),
    ({"reward_names": ("a\ud800",)}, "reward_names", "UTF-8"),
    ({"reward_names": {"a"}}, "reward_names", "sequence"),
    ({"std_threshold": np.float16("inf")}, "std_threshold", "finite number"),
    ({"window_size": 2**24 + 1}, "window_size", "to 16777216"),
    ({"log_frequency": 10**9}, "log_frequency", "1 to 1048576"),
    ({"flatline_samples": 10**40}, "flatline_samples", "to 16777216"),
    ({"warmup_steps": 10**400}, "warmup_steps", "0 to 2147483647"),
    ({"ema_alpha_long": 1e-60}, "ema_alpha_long", "from 1.2e-38 on"),
    ({"ema_alpha_long": 0.1 - 1e-12}, "ema_alpha_long", "below ema_alpha_short"),
    ({"zero_threshold": 1 - 1e-12}, "zero_threshold", "between 0 and 1"),
    ({"weights": {"nobody": 1.0}}, "weights", "keys among"),
    ({"weights": 1.0}, "weights", "sequence or a mapping"),
    ({"weights": "12"}, "weights", "sequence or a mapping"),
    ({"centers": (0.0, 1.0, 2.0)}, "centers", "2 numbers"),
    ({"atoms": (0, 0.0)}, "atoms", "distinct"),
    ({"atoms": (1, 1 + 1e-12)}, "atoms", "distinct float32"),
    ({"atoms": tuple(range(17))}, "atoms", "at most 16"),
    ({"atoms": 0.5}, "atoms", "sequence"),
    ({"atoms": (float("nan"),)}, "atoms", "finite"),
    ({"bounds": {"nobody": (0, 1)}}, "bounds", "keys among"),
    ({"bounds": {"format": (1, 0)}}, "bounds", "low < high"),
    ({"bounds": {"format": (1, 1)}}, "bounds", "low < high"),
    ({"bounds": {"format": (1, 1 + 1e-12)}}, "bounds", "low < high"),
    ({"bounds": {"format": 1}}, "bounds", "pairs"),
    ({"bounds": {"format": (0, 1, 2)}}, "bounds", "pairs"),
    ({"bounds": ((0, 1),)}, "bounds", "2 pairs"),
    ({"bounds": {"format": ("0", 1)}}, "bounds", "finite"),
]


@pytest.mark.parametrize(("arguments", "field", "allowed"), BAD, ids=lambda v: str(v)[:50])
def test_what_cannot_work_is_refused_by_name(arguments, field, allowed):
    arguments = {"reward_names": NAMES, **arguments}
    with pytest.raises(ValueError, match=allowed) as error:
        RewardAccumulator(arguments.pop("reward_names"), **arguments)
    text = str(error.value)
    assert text.startswith(f"{field}: got ")
    assert ", allowed: " in text
    assert text.endswith((".", "?"))  # a remedy follows the allowed values
    assert len(text.partition(", allowed: ")[2].partition(". ")[2]) > 5


def test_options_are_given_by_name():
    with pytest.raises(TypeError):
        RewardAccumulator(NAMES, 8)


def test_equal_values_are_equal_and_hash_equal():
    given = [
        RewardAccumulator(NAMES, group_size=8, weights=(1, 2), atoms=(0, 1), bounds={"answer": (0, 1)}),
        RewardAccumulator(
            list(NAMES), group_size=np.int64(8), weights=[1.0, 2.0], atoms=[1.0, 0.0], bounds=[(None, None), (0.0, 1.0)]
        ),
        RewardAccumulator(
            (n for n in NAMES),
            group_size=8,
            weights={"answer": 2},
            atoms=np.array([0.0, 1.0]),
            bounds={"answer": [0, 1]},
        ),
        RewardAccumulator(
            np.array(NAMES).tolist(),
            group_size=np.uint8(8),
            weights=np.array([1, 2]),
            atoms={0, 1},
            bounds={"answer": (0, 1)},
        ),
    ]
    assert len(set(given)) == 1
    assert RewardAccumulator(NAMES) != RewardAccumulator(NAMES[::-1])
    assert RewardAccumulator(NAMES) != RewardAccumulator(NAMES, std_threshold=4.0)


@pytest.mark.parametrize("field", ["window_size", "log_frequency", "min_samples", "group_size", "warmup_steps"])
def test_numpy_integers_are_sizes(field):
    acc = RewardAccumulator(NAMES, **{field: np.int32(12)})
    assert type(getattr(acc, field)) is int
    assert acc == RewardAccumulator(NAMES, **{field: 12})


@pytest.mark.parametrize("value", [3, np.float32(3), np.float64(3), np.int64(3)])
def test_numpy_numbers_are_thresholds(value):
    acc = RewardAccumulator(NAMES, std_threshold=value)
    assert type(acc.std_threshold) is float
    assert acc == RewardAccumulator(NAMES)


def test_no_value_can_be_changed():
    with pytest.raises(AttributeError):
        RewardAccumulator(NAMES).window_size = 5


def test_equal_accumulators_are_one_static_argument():
    traced = []

    def shape(acc, x):
        traced.append(acc)
        return x * acc.window_size

    f = jax.jit(shape, static_argnums=0)
    assert f(RewardAccumulator(NAMES, window_size=20), 2) == f(RewardAccumulator(list(NAMES), window_size=20), 2) == 40
    assert len(traced) == 1
    assert f(RewardAccumulator(NAMES, window_size=30), 2) == 60
    assert len(traced) == 2


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda acc: pickle.loads(pickle.dumps(acc))])
def test_copies_are_equal(duplicate):
    acc = RewardAccumulator(NAMES, group_size=4, weights={"format": 0.5})
    assert duplicate(acc) == acc
    assert hash(duplicate(acc)) == hash(acc)
