"""What cannot work over shards is refused while tracing, and the message names both sides."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.device import support
from tests.device.support import LEAN
from tests.distributed.layouts import Layout
from tunrex_jax_monitor.accumulator import RewardAccumulator

GROUPED = RewardAccumulator(("x",), group_size=8)
MESH = Layout("shard_map", (4, 2), P("data"))


@pytest.fixture(autouse=True)
def _as_users_run_it():
    with support.without_runtime_types():
        yield


def trace(acc, spec, axis_name, shape=(16, 8), **options):
    """Trace an update under shard_map over both axes of a mesh."""
    specs = {"mesh": MESH.make_mesh(), "in_specs": (P(), spec), "out_specs": P(), **options}
    f = jax.shard_map(lambda state, x: acc.update(state, {"x": x}, axis_name=axis_name), **specs)
    return jax.eval_shape(f, acc.init(), np.zeros(shape, np.float32))


@pytest.mark.parametrize("axis_name", ["batch", ("data", "batch")])
def test_an_axis_that_is_not_mapped_is_named_beside_those_that_are(axis_name):
    text = rf"axis_name: got {re.escape(repr(axis_name))}, allowed: .*\('data', 'model'\)\. Correct the name"
    with pytest.raises(ValueError, match=text):
        trace(LEAN, P("data"), axis_name)


@pytest.mark.parametrize("axis_name", [(), ("data", "data")])
@pytest.mark.parametrize("check_vma", [True, False])
def test_no_axis_and_one_twice_are_refused(axis_name, check_vma):
    text = rf"axis_name: got {re.escape(repr(axis_name))}, allowed: one axis of shard_map or more, each once\. Leave"
    with pytest.raises(ValueError, match=text):
        trace(LEAN, P("data"), axis_name, check_vma=check_vma)


def test_an_axis_outside_shard_map_says_so_and_what_to_do():
    x = np.zeros(8, np.float32)
    with pytest.raises(ValueError, match=r"axis_name: got 'data', .* outside shard_map\. .* under plain jit"):
        jax.eval_shape(lambda state: LEAN.update(state, {"x": x}, axis_name="data"), LEAN.init())


def test_rewards_that_every_shard_holds_would_be_counted_twice():
    with pytest.raises(ValueError, match=r"axis_name: got \('data', 'model'\), .* the same all along \('model',\)"):
        trace(LEAN, P("data"), ("data", "model"))


@pytest.mark.parametrize(
    ("spec", "shape", "text"),
    [
        (P(None, "model"), (16, 8), r"got \(16, 4\), allowed: \[B, 8\] on each shard of 'model'"),
        (P("model"), (24,), r"got \(12,\), allowed: N divisible by group_size=8 on each shard of 'model'"),
    ],
)
def test_a_group_that_is_split_over_shards_is_refused(spec, shape, text):
    with pytest.raises(ValueError, match=f"rewards: {text}.* shard the prompts, not the completions"):
        trace(GROUPED, spec, "model", shape)


@pytest.mark.parametrize(("axis_name", "left_out"), [(None, ("data", "model")), ("data", ("model",))])
def test_an_axis_that_is_left_out_is_named(axis_name, left_out):
    text = rf"axis_name: got {axis_name!r}, allowed: one with {re.escape(repr(left_out))} in it: the rewards differ"
    with pytest.raises(ValueError, match=text):
        trace(LEAN, P(("data", "model")), axis_name)


def test_a_state_of_its_own_on_each_shard_is_allowed():
    def own(x):
        state = jax.lax.pcast(LEAN.init(), ("data",), to="varying")
        return LEAN.pack(LEAN.update(state, {"x": x}))[None]

    rows = jax.shard_map(own, mesh=MESH.make_mesh(), in_specs=P("data"), out_specs=P("data"))
    assert jax.eval_shape(rows, np.zeros((16, 8), np.float32)).shape[0] == 4


def test_update_jit_takes_a_list_of_axes_as_update_does():
    for update in (LEAN.update, LEAN.update_jit):
        with pytest.raises(ValueError, match=r"axis_name: got .* outside shard_map"), support.without_runtime_types():
            update(LEAN.init(), {"x": np.zeros(8, np.float32)}, axis_name=["data"])
