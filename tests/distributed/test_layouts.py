"""One answer on any layout: every bit of the state is that of one device, and that is numpy's on the whole batch."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests import datasets
from tests.device import support
from tests.device.support import EVERYTHING, LEAN
from tests.distributed.layouts import AT_MOST, COLLECTIVE, LAYOUTS, compiled, place
from tunrex_jax_monitor.accumulator import RewardAccumulator

NAMES = tuple(name for name in datasets.DATASETS if name not in ("empty", "single"))
ACC = RewardAccumulator(NAMES, group_size=8, window_size=300, log_frequency=4)  # every data set is a reward
SHAPE, STEPS = (16, 8), 12
MASKED = (8, 8)  # a prompt per device
FEW = ("jit over one axis", "jit over prompts and completions", "shard_map over two axes")


def batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([31, seed])
    return {name: datasets.DATASETS[name](rng, SHAPE).astype(np.float32) for name in NAMES}


def on_one_device():
    state = ACC.init()
    for seed in range(STEPS):
        state = support.update(ACC, state, batch(seed))
    return state


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_gives_the_bits_of_one_device_with_few_collectives(name):
    program = compiled(ACC, name, (("rewards", SHAPE),))
    assert 1 <= len(program.collectives) <= AT_MOST[LAYOUTS[name].how]
    state = program.init
    for seed in range(STEPS):
        state = program.step(state, batch(seed), {})
    assert all(leaf.is_fully_replicated for leaf in state)
    support.assert_same_bits(state, on_one_device())


def test_moments_are_those_of_numpy_on_the_whole_batch():
    state = on_one_device()
    scalars = ACC.record(state).scalars
    for i, name in enumerate(NAMES):
        x = datasets.upcast(np.stack([batch(seed)[name] for seed in range(STEPS)]))
        x = x[np.isfinite(x)]
        assert scalars[f"{name}/run/count"] == x.size
        assert scalars[f"{name}/run/mean"] == pytest.approx(x.mean(), rel=1e-6, abs=1e-6 * x.std())
        assert scalars[f"{name}/run/std"] == pytest.approx(x.std(), rel=1e-6, abs=0)
        m2 = support.fields(ACC, state).moments.sums[1, 0, i]
        assert m2 == pytest.approx(np.sum((x - x.mean()) ** 2), rel=1e-6, abs=0)


def uneven(seed: int, kind: str) -> tuple[dict, dict]:
    """A broken batch with a mask that gives every shard another share of samples, or two shards none at all."""
    rng = np.random.default_rng([32, seed])
    rewards = {name: datasets.with_nan_inf(rng, MASKED).astype(np.float32) for name in EVERYTHING.reward_names}
    share = np.linspace(0.1, 1.0, 8) if kind == "uneven" else np.array([1, 0, 1, 1, 1, 0, 1, 1])
    mask = rng.random(MASKED) < share[:, None]
    return rewards, {"mask": mask, "lengths": rng.integers(5, 300, MASKED).astype(np.int32)}


@pytest.mark.parametrize("kind", ["uneven", "empty"])
@pytest.mark.parametrize("name", FEW)
def test_uneven_masks_and_empty_shards_change_nothing(name, kind):
    program = compiled(EVERYTHING, name, (("rewards", MASKED), ("mask", MASKED), ("lengths", MASKED)))
    assert len(program.collectives) <= AT_MOST[LAYOUTS[name].how]
    sharded, single = program.init, EVERYTHING.init()
    for seed in range(3):
        rewards, options = uneven(seed, kind)
        sharded = program.step(sharded, rewards, options)
        single = support.update(EVERYTHING, single, rewards, **options)
    support.assert_same_bits(sharded, single)
    kept = sum(int((uneven(seed, kind)[1]["mask"]).sum()) for seed in range(3))
    counted = support.fields(EVERYTHING, single).low
    assert int((counted.valid + counted.nan + counted.posinf + counted.neginf)[0, 0]) == kept


@pytest.mark.parametrize("name", FEW)
def test_a_hundred_streams_of_any_scale_have_the_same_bits_of_moments(name):
    program = compiled(ACC, name, (("rewards", SHAPE),))
    sharded, single = program.init, ACC.init()
    for seed in range(100):
        scale = 10.0 ** np.random.default_rng([33, seed]).uniform(-6, 6)
        rewards = {key: (scale * x).astype(np.float32) for key, x in batch(seed).items()}
        sharded = program.step(sharded, rewards, {})
        single = support.update(ACC, single, rewards)
        support.assert_same_bits(sharded.fields, single.fields)
    support.assert_same_bits(sharded, single)


def test_where_jit_does_not_tell_the_mesh_counts_are_the_same_and_moments_within_rounding():
    mesh = LAYOUTS["jit over one axis"].make_mesh()
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    step = jax.jit(LEAN.update, in_shardings=(whole, split), out_shardings=whole)
    x = {"x": np.random.default_rng(34).normal(10, 1, (8, 4)).astype(np.float32)}
    sharded, single = step(LEAN.init(), x), support.update(LEAN, LEAN.init(), x)
    a, b = (support.order_free(LEAN, state) for state in (sharded, single))
    support.assert_same_bits(a["exact"], b["exact"])
    sums = (v["rounded"]["moments"].sums[:2, 0, 0] for v in (a, b))
    np.testing.assert_allclose(*sums, rtol=1e-6)


EXPLICIT = LAYOUTS["jit over an explicit axis"]
MIXED = {  # where "x", "y", the mask of "x", and the lengths lie: P() on every device, None a constant of the program
    "one reward on every device": (EXPLICIT.spec, PartitionSpec(), EXPLICIT.spec, EXPLICIT.spec),
    "one reward a constant": (EXPLICIT.spec, None, EXPLICIT.spec, EXPLICIT.spec),
    "the first reward a constant": (None, EXPLICIT.spec, EXPLICIT.spec, EXPLICIT.spec),
    "mask and lengths on every device": (EXPLICIT.spec, EXPLICIT.spec, PartitionSpec(), PartitionSpec()),
    "mask alone is spread": (PartitionSpec(), PartitionSpec(), EXPLICIT.spec, None),
}
TWO = RewardAccumulator(("x", "y"), window_size=64)


@pytest.mark.parametrize("on_mesh", [True, False])
@pytest.mark.parametrize("how", MIXED)
def test_explicit_axes_take_arrays_that_lie_differently_with_one_collective(how, on_mesh):
    mesh, rng = EXPLICIT.make_mesh(), np.random.default_rng(35)
    given = [*rng.normal(size=(2, 16)).astype(np.float32), rng.random(16) < 0.7, np.arange(16, dtype=np.int32)]
    placed = [a if spec is None else place(a, mesh, spec) for a, spec in zip(given, MIXED[how], strict=True)]

    def step(state, arrays):
        constant = [g if spec is None else a for g, a, spec in zip(given, arrays, MIXED[how], strict=True)]
        x, y, mask, lengths = map(jax.numpy.asarray, constant)
        return TWO.update(state, {"x": x, "y": y}, mask={"x": mask}, lengths=lengths)

    init = place(TWO.init(), mesh, PartitionSpec()) if on_mesh else TWO.init()
    program = jax.jit(step).lower(init, placed).compile()
    assert len(COLLECTIVE.findall(program.as_text())) <= 1
    x, y, mask, lengths = given
    single = support.update(TWO, TWO.init(), {"x": x, "y": y}, mask={"x": mask}, lengths=lengths)
    support.assert_same_bits(program(init, placed), single)


def test_seeds_may_lie_along_an_explicit_axis():
    mesh = EXPLICIT.make_mesh()
    x = np.random.default_rng(36).normal(size=(8, 16)).astype(np.float32)
    with jax.set_mesh(mesh):
        blank = jax.tree.map(lambda leaf: np.stack([leaf] * 8), TWO.init())
        states, seeds = place((blank, x), mesh, EXPLICIT.spec)
        step = jax.jit(jax.vmap(lambda s, x: TWO.update(s, {"x": x, "y": jax.numpy.zeros(16)}, mask={"x": x > 0})))
        after = step(states, seeds)
        after, rows = jax.device_get((after, jax.jit(jax.vmap(TWO.pack))(after)))
    for seed in range(8):
        own = {"x": x[seed], "y": np.zeros(16, np.float32)}
        single = support.update(TWO, TWO.init(), own, mask={"x": x[seed] > 0})
        support.assert_same_bits(jax.tree.map(lambda leaf, seed=seed: leaf[seed], after), single)
        np.testing.assert_array_equal(rows[seed], jax.jit(TWO.pack)(single))
