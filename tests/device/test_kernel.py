"""Kernels for a CPU: the same results with and without, and only where a program is sure to run on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.conftest import has_several_devices
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import kernel

ACC = RewardAccumulator(("a", "b"), group_size=4, detect="literal")


def double(x):
    return {"twice": x * 2.0, "once": x + jnp.arange(x.shape[-1], dtype=jnp.float32)}


def compiled(function, *arrays) -> str:
    def own(*arrays):
        with kernel.own_program():
            return function(*arrays)

    return jax.jit(own).lower(*arrays).compile().as_text()


def test_what_is_computed_is_one_call():
    x = jnp.ones(8)
    assert kernel.AS_KERNEL["xla_cpu_small_call"] == "true"
    assert compiled(kernel.one_kernel(double), x).count('xla_cpu_small_call="true"') == 1


def test_a_part_of_a_larger_program_is_none():
    assert "xla_cpu_small_call" not in jax.jit(kernel.one_kernel(double)).lower(jnp.ones(8)).compile().as_text()


def test_it_is_traced_once_for_all_platforms():
    traced = []

    def function(x):
        traced.append(x)
        return x + 1.0

    jax.jit(kernel.one_kernel(function)).lower(jnp.ones(8))
    assert len(traced) == 1


@pytest.mark.parametrize("update", [ACC.update, ACC.update_jit], ids=["update", "update_jit"])
def test_a_while_loop_compiles(update):
    """JAX keeps operands there that nothing uses, at which XLA would abort the process of a kernel."""
    x = jnp.ones((5, 2, 8), jnp.float32)

    @jax.jit
    def run():
        def body(carry):
            i, state = carry
            return i + 1, update(state, {"a": x[i, 0], "b": x[i, 1]})

        return jax.lax.while_loop(lambda carry: carry[0] < 5, body, (jnp.int32(0), ACC.init()))[1]

    assert ACC.record(run()).scalars["a/run/count"] == 40


GRID = [
    ({}, 1, 1),
    ({}, 3, 7),
    ({}, 33, 512),
    ({"group_size": 1}, 2, 6),
    ({"group_size": 8, "detect": "off"}, 2, 8),
    ({"group_size": 64, "atoms": (0.0, 1.0)}, 4, 256),
    ({"correlations": True}, 3, 100),
    ({"detect": "literal", "window_size": 12}, 2, 5),
    ({"log_frequency": 1, "centers": (1.0, -1.0)}, 2, 4095),
]


@pytest.mark.parametrize(("options", "rewards", "n"), GRID)
@pytest.mark.parametrize("masked", [False, True])
def test_the_program_of_update_jit_compiles_and_counts(options, rewards, n, masked):
    acc = RewardAccumulator(tuple(f"r{i}" for i in range(rewards)), **options)
    x = {name: np.full(n, i, np.float32) for i, name in enumerate(acc.reward_names)}
    given = {"mask": np.arange(n) % 2 == 0, "lengths": np.arange(n)} if masked else {}
    record = acc.record(acc.update_jit(acc.init(batch_size=n), x, **given))
    assert {record.scalars[f"{name}/run/count"] for name in x} == {-(-n // 2) if masked else n}
    assert [record.scalars[f"{name}/run/mean"] for name in x] == list(range(rewards))


def test_what_a_mesh_spreads_is_none():
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    x = jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("d")))
    assert "xla_cpu_small_call" not in compiled(kernel.one_kernel(double), x)


@pytest.mark.parametrize("error", [False, True])
def test_several_devices_or_no_cpu_at_all_are_none(monkeypatch, error):
    def device_count(platform):
        if error:
            raise RuntimeError(f"Unknown backend {platform}")
        return 8

    monkeypatch.setattr(kernel, "has_several_devices", has_several_devices)
    monkeypatch.setattr(jax, "device_count", device_count)
    assert "xla_cpu_small_call" not in compiled(kernel.one_kernel(double), jnp.ones(8))


def test_a_newer_compiler_gets_none(monkeypatch):
    monkeypatch.setattr(kernel, "NEWEST", (0, 9))
    assert "xla_cpu_small_call" not in compiled(kernel.one_kernel(double), jnp.ones(8))


@pytest.mark.parametrize("n", [4, 512, 5000])
def test_an_update_is_the_same_with_and_without_kernels(monkeypatch, n):
    rng = np.random.default_rng(n)
    given = rng.normal(1e2, 1.0, (3, 2, n)).astype(np.float32)
    given[:, 0, ::3] = np.array([0.0, np.nan, 1.0], np.float32)[:, None]
    records = []
    for several in (False, True):
        monkeypatch.setattr(kernel, "has_several_devices", lambda several=several: several)
        jax.clear_caches()
        update = ACC.update_jit
        state = ACC.init(batch_size=n)
        for a, b in given:
            state = update(state, {"a": a, "b": b})
        records.append(ACC.record(state))
    here, there = records
    assert here.histograms == there.histograms
    assert here.counters == there.counters
    assert here.scalars.keys() == there.scalars.keys()
    for key, value in here.scalars.items():
        assert value == pytest.approx(there.scalars[key], rel=1e-5, abs=1e-7), key
