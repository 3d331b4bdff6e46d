"""What a step refuses while it is traced; next to nothing is compiled here."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.device import support
from tests.device.support import without_runtime_types
from tunrex_jax_monitor.accumulator import RewardAccumulator

FLAT, GROUPED = RewardAccumulator(("a", "b")), RewardAccumulator(("a", "b"), group_size=4)
X = jnp.zeros(8)


def trace(acc, rewards, **options):
    """Abstractly: shapes and dtypes are all that the checks may look at."""
    state = jax.eval_shape(acc.init)
    return jax.eval_shape(lambda s, r, o: acc.update(s, r, **o), state, rewards, options)


def message(call) -> str:
    with pytest.raises(ValueError, match=", allowed: ") as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ({"a": X}, ("rewards: got ('a',)", "('a', 'b')", "Missing: ['b']")),
        ({"a": X, "b": X, "c": X}, ("('a', 'b', 'c')", "exactly the names ('a', 'b')", "unknown: ['c']")),
        ({"a": X, "B": X}, ("Missing: ['b']", "unknown: ['B']")),
        ({}, ("Missing: ['a', 'b']",)),
        ({"a": X, "b": X[:4]}, ("'a': (8,)", "'b': (4,)", "one shape for all")),
        ({"a": X, "b": X.reshape(2, 4)}, ("(8,)", "(2, 4)", "one shape for all")),
        ({"a": X[0], "b": X[0]}, ("rewards: got ()", "[N] or [B, G]")),
        ({"a": X.reshape(2, 2, 2), "b": X.reshape(2, 2, 2)}, ("(2, 2, 2)", "[N] or [B, G]", "token")),
    ],
)
def test_rewards_must_be_the_named_ones_in_one_shape(rewards, words):
    text = message(lambda: trace(FLAT, rewards))
    assert all(word in text for word in words), text


@pytest.mark.parametrize("rewards", [X, (X, X)])
def test_rewards_must_be_a_mapping(rewards):
    with support.without_runtime_types():
        text = message(lambda: trace(FLAT, rewards))
    assert "rewards: got " in text
    assert "a mapping with the keys ('a', 'b')" in text


def test_order_and_kind_of_the_mapping_do_not_matter():
    assert trace(FLAT, {"b": X, "a": X}) == trace(FLAT, {"a": X, "b": X})


@pytest.mark.parametrize(
    ("shape", "words"),
    [((10,), ("(10,)", "divisible by group_size=4", "mask")), ((4, 2), ("(4, 2)", "[B, 4]", "last axis"))],
)
def test_samples_must_form_whole_groups(shape, words):
    x = jnp.zeros(shape)
    text = message(lambda: trace(GROUPED, {"a": x, "b": x}))
    assert all(word in text for word in words), text
    trace(FLAT, {"a": x, "b": x})


@pytest.mark.parametrize("shape", [(8,), (2, 4), (0,), (0, 4), (4,)])
def test_whole_groups_are_taken_flat_or_square(shape):
    x = jnp.zeros(shape)
    assert trace(GROUPED, {"a": x, "b": x}) == jax.eval_shape(GROUPED.init)


@pytest.mark.parametrize("mask_shape", [(4,), (2, 4), (1,), (), (8, 1)])
def test_a_mask_of_another_shape_is_told_with_both_shapes(mask_shape):
    mask = jnp.ones(mask_shape, bool)
    for given in (mask, {"b": mask}):
        text = message(lambda given=given: trace(FLAT, {"a": X, "b": X}, mask=given))
        assert text.startswith(f"mask: got {mask_shape}")
        assert "(8,)" in text


def test_a_mask_for_an_unknown_reward_is_told():
    text = message(lambda: trace(FLAT, {"a": X, "b": X}, mask={"c": X > 0}))
    assert "mask: got ['c']" in text
    assert "('a', 'b')" in text


@pytest.mark.parametrize("shape", [(4,), (2, 4), ()])
def test_lengths_of_another_shape_are_told_with_both_shapes(shape):
    text = message(lambda: trace(FLAT, {"a": X, "b": X}, lengths=jnp.zeros(shape, jnp.int32)))
    assert text.startswith(f"lengths: got {shape}")
    assert "(8,)" in text


@pytest.mark.parametrize("kind", ["U1", "S1", "datetime64[s]", "timedelta64[s]"])
def test_what_is_no_number_is_refused_by_name(kind):
    given = np.zeros(8, np.int64).astype(kind)
    rewards = {"a": np.zeros(8, np.float32), "b": given}
    with without_runtime_types():
        assert message(lambda: FLAT.update(FLAT.init(), rewards)).startswith("rewards['b']: got ")
        assert message(lambda: FLAT.update(FLAT.init(), {"a": X, "b": X}, mask=given)).startswith("mask: got ")


def test_a_complex_mask_is_refused_and_nan_is_no_flag():
    text = message(lambda: trace(FLAT, {"a": X, "b": X}, mask=X.astype(jnp.complex64)))
    assert text.startswith("mask: got 'complex64', allowed: a real dtype")
    mask = np.array([1, 0, np.nan, 2, -1, 0, 0, 0], np.float32)
    state = FLAT.update_jit(FLAT.init(), {"a": np.ones(8, np.float32), "b": np.ones(8, np.float32)}, mask=mask)
    assert FLAT.record(state).scalars["a/count"] == 3.0


def test_complex_rewards_are_refused_by_name():
    text = message(lambda: trace(FLAT, {"a": X, "b": X.astype(jnp.complex64)}))
    assert text.startswith("rewards['b']: got 'complex64'")
    text = message(lambda: trace(FLAT, {"a": X, "b": X}, lengths=X.astype(jnp.complex64)))
    assert "complex64" in text
    assert text.startswith("lengths: got ")


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int32", "uint32", "bool"]
)
def test_every_real_dtype_gives_the_same_state(dtype):
    x = jnp.zeros(8, dtype)
    assert trace(FLAT, {"a": x, "b": x}) == jax.eval_shape(FLAT.init)


@pytest.mark.parametrize("mask", [np.ones(8), np.ones(8, np.int32), np.ones(8, np.float16), np.ones(8, bool)])
def test_masks_of_zeros_and_ones_are_masks(mask):
    assert trace(FLAT, {"a": X, "b": X}, mask=mask) == jax.eval_shape(FLAT.init)


def test_outlier_mask_checks_the_same():
    state = jax.eval_shape(FLAT.init)
    assert "Missing" in message(lambda: jax.eval_shape(FLAT.outlier_mask, state, {"a": X}))
    rewards, mask = {"a": X, "b": X}, jnp.ones(4, bool)
    text = message(lambda: jax.eval_shape(lambda s, r, m: FLAT.outlier_mask(s, r, mask=m), state, rewards, mask))
    assert "mask: got (4,)" in text


# Lists, and states that are none


def test_lists_are_arrays_also_where_they_hold_tracers():
    rewards, mask = {"a": [0.0, 1.0], "b": [1.0, 2.0]}, [True, False]
    record = FLAT.record(FLAT.update_jit(FLAT.init(), rewards, mask=mask, lengths=[3, 4]))
    assert (record.scalars["a/count"], record.scalars["completions/mean_length"]) == (1.0, 3.0)


def test_a_ragged_list_is_refused():
    text = message(lambda: FLAT.update(FLAT.init(), {"a": [[0.0, 1.0], [1.0]], "b": [[0.0, 1.0], [1.0, 2.0]]}))
    assert "rewards['a']: got 'a ragged list', allowed: rows of one length" in text


@pytest.mark.parametrize("state", [None, {}, 3, np.zeros(3), RewardAccumulator(("x", "y", "z")).init()])
def test_what_is_no_state_of_this_accumulator_is_named(state):
    for use in (FLAT.pack, lambda s: FLAT.update(s, {"a": X, "b": X}), lambda s: FLAT.merge(FLAT.init(), s)):
        with support.without_runtime_types():
            assert message(partial(use, state)).startswith("state: got ")


USES = {
    "update": lambda s: FLAT.update(s, {"a": X, "b": X}),
    "update_jit": lambda s: FLAT.update_jit(s, {"a": X, "b": X}),
    "outlier_mask": lambda s: FLAT.outlier_mask(s, {"a": X, "b": X}),
    "merge": lambda s: FLAT.merge(FLAT.init(), s),
    "merge into": lambda s: FLAT.merge(s, FLAT.init()),
    "pack": FLAT.pack,
    "summarize": FLAT.summarize,
    "reset_interval": FLAT.reset_interval,
    "scan_chunk": lambda s: FLAT.scan_chunk(lambda c, x: (c, {"a": x, "b": x}))((0, s), X[:, None]),
}
WRONG = {
    "float32": lambda s: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), s),
    "shapes alone": lambda s: jax.eval_shape(lambda: s),
    "int32": lambda s: jax.tree.map(lambda leaf: leaf.astype(jnp.int32), s),
    "float64": lambda s: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), s),
    "a sketch of another size": lambda s: s._replace(sketch_low=s.sketch_low[:, 1:]),
    "a window of no samples": lambda s: s._replace(window=s.window[:, :0]),
    "no window": lambda s: s._replace(window=None),
    "a text": lambda s: s._replace(window="x"),
}


OF_SCAN = ("a text", "shapes alone")  # lax.scan refuses them before we see them
CASES = [(use, wrong) for use in USES for wrong in WRONG if use != "scan_chunk" or wrong not in OF_SCAN]


@pytest.mark.parametrize(("use", "wrong"), CASES)
def test_every_leaf_of_a_state_is_checked_by_shape_and_dtype_wherever_one_goes_in(use, wrong):
    with support.without_runtime_types():
        text = message(lambda: USES[use](WRONG[wrong](FLAT.init())))
    got, allowed = text.split(", allowed: ", 1)
    assert got.startswith("state: got {")
    assert "uint32[" in allowed


@pytest.mark.parametrize(
    "other", [dataclasses.replace(FLAT, log_frequency=7), RewardAccumulator(("a", "b", "c"), log_frequency=10)]
)
def test_a_state_of_another_accumulator_is_named_by_what_differs(other):
    got, allowed = message(lambda: FLAT.record(other.init())).split(", allowed: ", 1)
    assert f"one of {other.rewards} rewards and log_frequency {other.log_frequency}: " in got
    assert allowed.startswith(f"one of {FLAT.rewards} rewards and log_frequency {FLAT.log_frequency}: ")


@pytest.mark.parametrize("state", [None, {}, np.zeros(3)])
def test_outlier_mask_names_what_is_no_state(state):
    with support.without_runtime_types():
        assert message(lambda: USES["outlier_mask"](state)).startswith("state: got ")


def test_record_checks_the_dtypes_too():
    with support.without_runtime_types():
        assert "float32[" in message(lambda: FLAT.record(WRONG["float32"](FLAT.init())))
        assert "'str'" in message(lambda: FLAT.record(WRONG["a text"](FLAT.init())))


def test_a_state_of_numpy_arrays_is_a_state():
    state = jax.device_get(FLAT.init())
    support.assert_same_bits(FLAT.merge(state, state), FLAT.merge(FLAT.init(), FLAT.init()))
