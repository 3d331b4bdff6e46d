"""What a JAX program may do with a state: jit, donate, scan, vmap, shard, x64 on or off; without any callback."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.device import support
from tests.device.support import EVERYTHING as ACC
from tests.device.support import LEAN, SHAPE
from tunrex_jax_monitor.accumulator import RewardAccumulator

COLLECTIVES = re.compile(r"= [^=]*?\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")


# The state


def test_a_state_is_at_most_ten_strong_leaves_of_32_bits():
    leaves = jax.tree.leaves(ACC.init())
    assert len(leaves) <= 10
    assert all(leaf.dtype.itemsize == 4 and not leaf.weak_type for leaf in leaves)


def test_an_update_keeps_structure_shapes_dtypes_and_strong_types():
    before = jax.eval_shape(ACC.init)
    rewards, mask, _ = support.broken_batch(0)
    for options in ({}, {"mask": mask}, {"mask": {"answer": mask}}, {"lengths": np.ones(SHAPE, np.int32)}):
        after = jax.eval_shape(lambda s, r, o: ACC.update(s, r, **o), before, rewards, options)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        for x, y in zip(before, after, strict=True):
            assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert jax.eval_shape(ACC.merge, before, before) == before
    assert jax.eval_shape(ACC.reset_interval, before) == before


def test_every_leaf_is_a_buffer_of_its_own():
    leaves = [*ACC.init(), *ACC.init()]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


# The train step


@functools.cache
def train_step():
    """A user's step, fused with the update; both states are donated. Returns it and the list of its traces."""
    traced = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, x):
        traced.append(None)
        params = params + 0.01 * jnp.mean(x)
        rewards = {"format": x > 0, "answer": x * params, "style": 10 + x}
        return params, ACC.update(state, rewards)

    return step, traced


def x_of(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE), jnp.float32)


def test_an_update_is_traced_once():
    step, traced = train_step()
    params, state = jnp.float32(1.0), ACC.init()
    for seed in range(4):
        params, state = step(params, state, x_of(seed))
    step(params, ACC.init(), x_of(9))
    step(jnp.float32(0), jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, state)), x_of(9))  # restored
    assert len(traced) == 1


def test_a_donated_state_is_gone_and_its_memory_is_used_again():
    step, _ = train_step()
    state = ACC.init()
    before = [leaf.unsafe_buffer_pointer() for leaf in state]
    _, after = step(jnp.float32(1.0), state, x_of(0))  # "donated buffers were not usable" would be an error here
    assert all(leaf.is_deleted() for leaf in state)
    reused = [leaf.unsafe_buffer_pointer() in before for leaf in jax.block_until_ready(after)]
    assert sum(reused) == len(reused)
    assert ACC.record(after).scalars["answer/count"] == 32


def test_the_default_program_holds_no_callback_and_no_collective():
    step, _ = train_step()
    text = step.lower(jnp.float32(1.0), ACC.init(), x_of(0)).compile().as_text()
    assert not re.findall(r'custom_call_target="([^"]*(?:callback|Callback)[^"]*)"', text)
    assert not COLLECTIVES.findall(text)
    assert "outfeed" not in text


@pytest.mark.skipif(not hasattr(jax, "no_tracing"), reason="this JAX has no jax.no_tracing")
def test_a_warm_step_stays_on_the_fast_path_and_a_callback_leaves_it():
    step, _ = train_step()
    params, state = step(jnp.float32(1.0), ACC.init(), x_of(0))
    with jax.no_tracing():
        params, state = step(params, state, x_of(1))
    emitting, _ = emitting_step()
    state = emitting(LEAN.init(), x_of(0))
    with pytest.raises(RuntimeError, match="no_tracing"), jax.no_tracing():
        emitting(state, x_of(1))


@functools.cache
def emitting_step():
    received = []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, x):
        return LEAN.update_and_emit(state, {"x": x}, received.append)

    return step, received


def test_update_and_emit_hands_over_a_summary_every_log_frequency_steps():
    step, received = emitting_step()
    state = LEAN.init()
    jax.effects_barrier()
    received.clear()
    for seed in range(9):
        state = step(state, x_of(seed))
    jax.effects_barrier()
    records = [LEAN.record(LEAN.unpack(np.asarray(words))) for words in received]
    assert sorted(record.update for record in records) == [4, 8]
    assert all(len(record.series["step"]) == LEAN.log_frequency for record in records)
    assert int(support.fields(LEAN, state).clock.interval[0]) == 1


def test_update_jit_donates_and_equal_accumulators_share_it():
    x = {"x": x_of(0)}
    state = LEAN.init()
    first = LEAN.update_jit(state, x)
    assert all(leaf.is_deleted() for leaf in state)
    with jax.no_tracing():
        second = dataclasses.replace(LEAN).update_jit(first, x)
    assert LEAN.record(second).scalars["x/run/count"] == 64


def test_update_outside_of_jit_is_one_program_and_keeps_the_state():
    """Operation by operation it would take 20 s at first, and 60 ms from then on."""
    x, state = {"x": x_of(0)}, LEAN.init()
    first = LEAN.update(state, x)
    with jax.no_tracing():
        second = LEAN.update(first, x, mask=None)
    assert not any(leaf.is_deleted() for leaf in (*state, *first))
    support.assert_same_bits(second, LEAN.update_jit(LEAN.update_jit(state, x), x))


def test_an_update_of_constants_is_part_of_the_program_around_it():
    """As a program of its own it would be compiled as one kernel, which XLA cannot do inside of others."""
    x, state = {"x": x_of(0)}, LEAN.init()
    assert "xla_cpu_small_call" in jax.jit(lambda: LEAN.update_jit(state, x)).lower().as_text()
    assert "xla_cpu_small_call" not in jax.jit(lambda: LEAN.update(state, x)).lower().as_text()


# Transformations


def test_a_scan_of_scans_is_the_loop_and_gives_one_row_per_chunk():
    chunk = LEAN.scan_chunk(lambda carry, x: (carry + 1, {"x": x}))
    xs = jnp.stack([x_of(seed) for seed in range(8)])
    carry = jnp.int32(0), LEAN.init()
    (n, state), rows = jax.jit(lambda c, xs: jax.lax.scan(chunk, c, xs))(carry, xs.reshape(2, 4, *SHAPE))
    assert int(n) == 8
    looped = LEAN.init()
    for i in range(8):
        looped = LEAN.update_jit(looped, {"x": xs[i]})
        if i in (3, 7):
            support.assert_same_bits(rows[i // 4], support.pack(LEAN, looped))
            looped = support.reset_interval(LEAN, looped)
    support.assert_same_bits(state, looped)
    records = [LEAN.record(LEAN.unpack(np.asarray(row))) for row in rows]
    assert [record.series["step"] for record in records] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_while_loop_is_the_loop():
    """In there JAX keeps operands that nothing uses, at which XLA would abort the process."""

    def update(state, seed):
        return ACC.update(state, dict.fromkeys(ACC.reward_names, xs[seed]))

    def body(carry):
        seed, state = carry
        return seed + 1, update(state, seed)

    xs = jnp.stack([x_of(seed) for seed in range(3)])
    _, state = jax.jit(lambda n, s: jax.lax.while_loop(lambda carry: carry[0] < n, body, (0, s)))(3, ACC.init())
    support.assert_same_bits(state, functools.reduce(jax.jit(update), range(3), ACC.init()))


def test_a_program_that_keeps_unused_arguments_gives_the_same_bits():
    kept = jax.jit(LEAN.update, keep_unused=True)(LEAN.init(), {"x": x_of(0)})
    support.assert_same_bits(kept, LEAN.update_jit(LEAN.init(), {"x": x_of(0)}))


def test_vmap_over_seeds_is_each_seed_alone():
    xs = jnp.stack([x_of(seed) for seed in range(3)])
    states = jax.tree.map(lambda v: jnp.stack([v] * 3), LEAN.init())
    states = jax.jit(jax.vmap(LEAN.update))(states, {"x": xs})
    for i in range(3):
        alone = LEAN.update_jit(LEAN.init(), {"x": xs[i]})
        support.assert_same_bits(jax.tree.map(lambda v, i=i: v[i], states), alone)


# Many devices


def mesh_of(devices: int) -> Mesh:
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def sharded_update(acc: RewardAccumulator, devices: int, rewards, options=None):
    """`update` under shard_map, compiled: samples are split over the devices, the state is replicated."""
    data, whole = PartitionSpec("data"), PartitionSpec()

    def step(state, rewards, options):
        return acc.update(state, rewards, **options, axis_name="data")

    specs = {"mesh": mesh_of(devices), "in_specs": (whole, data, data), "out_specs": whole, "check_vma": True}
    f = jax.jit(jax.shard_map(step, **specs))
    return f.lower(acc.init(), rewards, options or {}).compile()


def test_shard_map_over_eight_devices_gives_the_bits_of_one():
    f, sharded, single = None, LEAN.init(), LEAN.init()
    for seed in range(3):
        rewards = {"x": x_of(seed).reshape(8, 4)}
        f = f or sharded_update(LEAN, 8, rewards)
        sharded = f(sharded, *place(8, rewards, {}))
        single = LEAN.update_jit(single, {"x": x_of(seed)})  # the same samples in the same order
    assert len(COLLECTIVES.findall(f.as_text())) <= 3
    support.assert_same_bits(sharded, single)


def test_shards_of_a_shard_map_may_each_have_a_monitor_of_their_own():
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), LEAN.init())

    def step(states, x):
        after = LEAN.update(jax.tree.map(lambda leaf: leaf[0], states), {"x": x})
        return jax.tree.map(lambda leaf: leaf[None], after)

    each = PartitionSpec("data")
    for x_spec in (each, PartitionSpec()):
        sharded = jax.shard_map(step, mesh=mesh_of(8), in_specs=(each, x_spec), out_specs=each)
        after = jax.eval_shape(sharded, states, np.zeros(40, np.float32))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, states)


def place(devices: int, rewards, options):
    return jax.device_put((rewards, options), NamedSharding(mesh_of(devices), PartitionSpec("data")))


def test_shard_map_of_groups_masks_nans_and_lengths_gives_the_bits_of_one_device():
    sharded, single, f = ACC.init(), ACC.init(), None
    for seed in range(3):
        rewards, mask, lengths = support.broken_batch(seed)
        options = {"mask": mask, "lengths": lengths}
        f = f or sharded_update(ACC, 2, rewards, options)
        sharded = f(sharded, *place(2, rewards, options))
        single = support.update(ACC, single, rewards, **options)
    assert len(COLLECTIVES.findall(f.as_text())) <= 3
    support.assert_same_bits(sharded, single)


def test_jit_over_sharded_rewards_counts_and_sketches_to_the_bit():
    mesh = mesh_of(4)
    state = jax.device_put(ACC.init(), NamedSharding(mesh, PartitionSpec()))
    f = jax.jit(ACC.update, out_shardings=NamedSharding(mesh, PartitionSpec()))
    single = ACC.init()
    for seed in range(3):
        rewards = jax.device_put(support.batch(seed), NamedSharding(mesh, PartitionSpec("data")))
        state = f(state, rewards)
        single = support.update(ACC, single, support.batch(seed))
    a, b = support.order_free(ACC, state), support.order_free(ACC, single)
    support.assert_same_bits(a["exact"], b["exact"])
    support.assert_same_bits(state.window, single.window)
    x, y = ACC.record(jax.device_put(state, jax.devices()[0])).scalars, ACC.record(single).scalars
    assert x.keys() == y.keys()
    assert x == pytest.approx(y, rel=2e-6, abs=2e-6)


# 64 bits

WITH_X64 = """
import jax
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.config.jax_enable_x64
import json, sys
import numpy as np
from tests.test_jax_contract import mixed_run
print(json.dumps([np.asarray(v).tolist() for v in mixed_run(np.float64, np.int64)]))
"""


def mixed_run(float_dtype, int_dtype):
    """The packed words, the window as words and a merge, after steps with everything in them."""
    state = ACC.init()
    for seed in range(2):
        rewards, mask, lengths = support.broken_batch(seed)
        rewards = {k: v.astype(float_dtype) for k, v in rewards.items()}
        state = support.update(ACC, state, rewards, mask=mask, lengths=lengths.astype(int_dtype))
    merged = support.merge(ACC, state, state)
    assert all(leaf.dtype.itemsize == 4 for leaf in merged)
    return support.pack(ACC, merged), np.asarray(merged.window)


def test_x64_gives_the_same_bits():
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", WITH_X64], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for there, here in zip(json.loads(done.stdout), mixed_run(np.float32, np.int32), strict=True):
        np.testing.assert_array_equal(np.array(there), np.asarray(here))


# Settings of the caller


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(lambda: jax.debug_nans(True), id="debug_nans"),
        pytest.param(lambda: jax.debug_infs(True), id="debug_infs"),
        pytest.param(lambda: jax.transfer_guard("disallow"), id="transfer guard"),
    ],
)
def test_a_warm_update_runs_under_the_callers_settings(setting):
    rewards, state = {"x": x_of(0)}, LEAN.init()
    LEAN.update_jit(LEAN.init(), rewards)
    with setting():
        state = LEAN.update_jit(state, rewards)
    assert int(support.fields(LEAN, state).low.valid[0, 0]) == 32


def test_updates_inside_a_loss_leave_its_gradient_alone():
    acc = RewardAccumulator(("r",), log_frequency=2)
    x = jnp.arange(8, dtype=jnp.float32)

    def loss(w, monitored):
        state = acc.init()
        for _ in range(2 * monitored):
            state = acc.update(state, {"r": w * x}, lengths=w * x)
        return jnp.sum((w * x) ** 2), state.fields

    bare = jax.grad(loss, has_aux=True)(jnp.float32(0.5), 0)[0]
    watched = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(jnp.float32(0.5), 1)[0]
    assert bare == watched
