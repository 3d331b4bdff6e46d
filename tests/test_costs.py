"""What the monitor may cost, where it does not depend on the machine: programs, bytes, and who waits. Nothing is timed.

Leaves, donation, one trace, callbacks and the fast dispatch path are claims of `test_jax_contract.py`.
"""

import functools
import math
import re
import threading
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo import Program

from tests.device.support import batch
from tunrex_jax_monitor.accumulator import RewardAccumulator, _update_jit
from tunrex_jax_monitor.device import kernel
from tunrex_jax_monitor.host import transfer
from tunrex_jax_monitor.host.reporter import Reporter
from tunrex_jax_monitor.host.sinks.memory import MemorySink

BLOCKING = ("_value", "block_until_ready", "item", "tolist", "__float__", "__int__", "__bool__", "__index__")
EIGHT = RewardAccumulator(tuple(f"r{i}" for i in range(8)), group_size=8, log_frequency=10)
MIXED = RewardAccumulator(("format", "answer", "style"), group_size=8)


# Programs


@functools.cache
def compiled() -> str:
    """What `MIXED.update_jit` runs, as XLA's CPU compiler leaves it."""
    return _update_jit.lower(MIXED, MIXED.init(batch_size=512), batch(0, (64, 8))).compile().as_text()


@pytest.mark.skipif(jax.__version_info__[:2] > kernel.NEWEST, reason="this JAX is newer than what `kernel` knows")
def test_an_update_by_itself_is_at_most_sixteen_kernels_on_a_cpu():
    assert Counter(Program(compiled()).launched()).total() <= 16


def test_an_update_neither_loops_nor_sorts():
    """A loop of small kernels and a sort are what a CPU and a TPU are slowest at."""
    program = Program(compiled())
    assert program.count("while", "sort", "conditional") == 0


@pytest.mark.parametrize("in_one_group", [False, True])
def test_a_program_does_not_grow_with_the_samples(in_one_group):
    """One that is unrolled sample by sample takes minutes to compile."""

    def instructions(n: int) -> int:
        acc = RewardAccumulator(("a",), group_size=n if in_one_group else None)
        state, lengths = acc.init(batch_size=n), jnp.zeros(n, jnp.int32)
        return _update_jit.lower(acc, state, {"a": jnp.zeros(n)}, lengths=lengths).as_text().count(" = ")

    assert instructions(4096) < 1.2 * instructions(512)


@pytest.mark.parametrize("group_size", [None, 8])
def test_no_number_of_a_whole_reward_is_computed_again_for_each_sample(group_size):
    """XLA's CPU compiler does so inside other programs: the limits of outliers were half of the time of an update."""
    acc = RewardAccumulator(("a", "b", "c", "d"), group_size=group_size)
    state, rewards = acc.init(batch_size=8192), {name: jnp.zeros(8192) for name in acc.reward_names}
    text = jax.jit(acc.update).lower(state, rewards).compile().as_text()
    instruction = re.compile(r"= \w+\[([\d,]*)\]\S* ([\w-]+)\(")
    again = {}
    for name, body in re.findall(r"^%(\S*fused_computation\S*) .*?\{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE):
        sizes = [(math.prod(map(int, filter(None, shape.split(",")))), op) for shape, op in instruction.findall(body)]
        if max(size for size, _ in sizes) >= 8192:
            again[name] = [
                op for size, op in sizes if 1 < size < 100 and op in ("add", "subtract", "multiply", "select")
            ]
    assert len(again) > 10
    assert {name: ops for name, ops in again.items() if len(ops) > 3} == {}


def test_leaves_do_not_grow_with_rewards():
    sizes = [len(jax.eval_shape(RewardAccumulator(tuple(map(str, range(r)))).init)) for r in (1, 8, 256)]
    assert sizes == [7, 7, 7]


# Bytes


@pytest.mark.parametrize("group_size", [None, 8])
def test_an_emission_of_eight_rewards_and_ten_steps_is_one_buffer_of_at_most_eight_kilobytes(group_size):
    acc = RewardAccumulator(EIGHT.reward_names, group_size=group_size, log_frequency=10)
    words = jax.eval_shape(acc.pack, jax.eval_shape(acc.init))
    assert (words.ndim, words.dtype) == (1, jnp.uint32)
    assert 4 * words.size <= 8000


def test_the_size_of_an_emission_does_not_depend_on_the_batch():
    small, large = (jax.eval_shape(EIGHT.pack, jax.eval_shape(lambda n=n: EIGHT.init(n))) for n in (8, 8192))
    assert small == large


# Who waits


class Watched:
    """An array that notes who touches it, how, and how many bytes went over."""

    def __init__(self, array, log):
        self._array, self._log = array, log

    def _note(self, what, size=0):
        self._log.append((threading.current_thread() is threading.main_thread(), what, size))

    def __getattr__(self, name):
        self._note(name)
        return getattr(self._array, name)

    def __array__(self, *args, **kwargs):
        self._note("__array__", self._array.nbytes)
        return np.asarray(self._array)


@pytest.fixture
def touched(monkeypatch):
    """What happened to each emitted buffer, and each blocking read of any array on the main thread."""
    log = []
    emit = transfer.emit

    def watched_emit(acc, state):
        words, fresh = emit(acc, state)
        return Watched(words, log), fresh

    monkeypatch.setattr(transfer, "emit", watched_emit)
    kind = type(jnp.zeros(1))
    for name in BLOCKING:
        monkeypatch.setattr(kind, name, watched_attribute(getattr(kind, name), name, log))
    return log


def watched_attribute(original, name, log):
    def note(self):
        if threading.current_thread() is threading.main_thread():
            log.append((True, name, 0))

    if isinstance(original, property):
        return property(lambda self: (note(self), original.fget(self))[1])
    return lambda self, *args: (note(self), original(self, *args))[1]


def test_the_counting_proxy_sees_a_read_on_the_main_thread(touched):
    words, _ = transfer.emit(EIGHT, EIGHT.init())
    np.asarray(words)
    int(jnp.int32(3))
    seen = [what for on_main, what, _ in touched if on_main]
    assert "__array__" in seen
    assert "__int__" in seen


def test_step_never_reads_an_array_and_each_interval_moves_one_buffer(touched):
    sink = MemorySink()
    with Reporter(EIGHT, [sink]) as reporter:
        state = EIGHT.init()
        for step in range(30):
            state = reporter.step(step, state)
        on_main = [what for on_main, what, _ in touched if on_main]
        reporter.flush()
        moved = [size for _, what, size in touched if what == "__array__"]
    assert on_main == ["copy_to_host_async"] * 3
    assert [record.step for record in sink.records[:3]] == [9, 19, 29]
    assert len(moved) == 3
    assert max(moved) <= 8000
