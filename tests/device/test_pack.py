"""One buffer out: bit-exact, named by its layout, refused when it is anything else, and small."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.device import support
from tests.device.support import EVERYTHING
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import summary
from tunrex_jax_monitor.device.state import TraceRow


def words(acc=EVERYTHING, state=None) -> np.ndarray:
    return np.asarray(support.pack(acc, support.eight_steps()[5] if state is None else state))


def test_unpack_inverts_pack_bit_by_bit():
    state = support.eight_steps()[5]
    sent = jax.jit(EVERYTHING.summarize)(state)
    got = EVERYTHING.unpack(words())
    support.assert_same_bits(sent, got)
    for before, after in zip(sent, got, strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


def test_nan_payloads_travel_in_the_trace():
    state = support.eight_steps()[5]
    payloads = np.array([0x7FC12345, 0xFFC00001, 0x7F800001, 0x80000000], np.uint32)
    mean = TraceRow._fields.index("mean")
    trace = np.asarray(state.trace).copy()
    trace[0, mean, :4] = payloads
    got = EVERYTHING.unpack(words(state=state._replace(trace=jnp.asarray(trace))))
    np.testing.assert_array_equal(got.trace[0, mean, :4], payloads)


def test_the_header_names_the_layout_and_the_update():
    buffer = words()
    assert int(buffer[0]) == summary.layout_hash(EVERYTHING, False)
    assert int(buffer[1]) == 5
    assert buffer.dtype == np.uint32
    assert buffer.ndim == 1


def test_a_record_of_the_words_is_the_record_of_the_state():
    state = support.eight_steps()[5]
    a, b = EVERYTHING.record(state), EVERYTHING.record(EVERYTHING.unpack(words()))
    run = {key for key in a.scalars if "/run/p" in key}
    assert {k: v for k, v in a.scalars.items() if k not in run} == b.scalars
    assert (a.series, a.alerts, a.counters) == (b.series, b.alerts, b.counters)


@pytest.mark.parametrize(
    "change",
    [
        {"reward_names": ("format", "answer", "other")},
        {"reward_names": ("answer", "format", "style")},
        {"group_size": 4},
        {"log_frequency": 5},
        {"atoms": (0.0,)},
        {"correlations": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_words_of_another_layout_are_refused(change):
    other = dataclasses.replace(EVERYTHING, **change)
    with pytest.raises(ValueError, match=r"words: got layout 0x.*, allowed: 0x.*of this configuration"):
        other.unpack(words())


def test_thresholds_do_not_change_the_layout():
    support.assert_same_bits(
        dataclasses.replace(EVERYTHING, std_threshold=4.0).unpack(words()), EVERYTHING.unpack(words())
    )


@pytest.mark.parametrize("cut", [slice(0, 2), slice(0, 50), slice(0, -1), slice(0, 1), slice(0, 0)])
def test_a_cut_buffer_is_refused(cut):
    with pytest.raises(ValueError, match="words: got "):
        EVERYTHING.unpack(words()[cut])


def test_a_joined_buffer_is_refused():
    with pytest.raises(ValueError, match="cut or joined"):
        EVERYTHING.unpack(np.concatenate([words(), words()]))


@pytest.mark.parametrize("other", [np.int32, np.float32, np.uint64, np.uint8])
def test_words_of_another_dtype_are_refused(other):
    buffer = words()
    with pytest.raises(ValueError, match=r"words: got .*, allowed: uint32\[n\]"):
        EVERYTHING.unpack(buffer.view(other) if other != np.uint64 else buffer.astype(other))
    with pytest.raises(ValueError, match=r"words: got .*, allowed: uint32\[n\]"):
        EVERYTHING.unpack(buffer[None])


def test_a_flipped_bit_of_the_hash_is_refused():
    buffer = words().copy()
    buffer[0] ^= 1
    with pytest.raises(ValueError, match="layout"):
        EVERYTHING.unpack(buffer)


def test_the_largest_histogram_counts_that_share_a_word_survive():
    acc = RewardAccumulator(("x",), window_size=2**16 - 1)
    state = acc.init()._replace(window=jnp.zeros((1, 2**16 - 1), jnp.uint32))
    assert acc.record(state).histograms["x/histogram"].counts == [2**16 - 1]


@pytest.mark.parametrize("rewards", [4, 8])
def test_the_layout_is_that_of_the_buffer(rewards):
    acc = RewardAccumulator(tuple(f"r{i}" for i in range(rewards)), group_size=8)
    shape = jax.eval_shape(acc.pack, jax.eval_shape(acc.init))
    assert shape.size == 2 + sum(int(np.prod(s)) for _, s, _ in summary.layout(acc, False))


@pytest.mark.parametrize("rewards", [4, 8])
def test_a_reward_costs_at_most_600_bytes_besides_the_trace(rewards):
    acc = RewardAccumulator(tuple(f"r{i}" for i in range(rewards)), group_size=8)
    buffer, state = jax.eval_shape(acc.pack, jax.eval_shape(acc.init)), jax.eval_shape(acc.init)
    assert 4 * (buffer.size - state.trace.size) / rewards <= 600
