"""Ways to lay one step's samples over eight devices, and the update compiled for each."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.state import MonitorState

COLLECTIVE = re.compile(r"= [^=]*?\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")
AT_MOST = {"jit": 4, "shard_map": 3}


class Layout(NamedTuple):
    """A mesh, and how [B, G] or [N] samples lie on it."""

    how: str  # "jit" or "shard_map"
    mesh: tuple[int, ...]
    spec: PartitionSpec
    kind: AxisType = AxisType.Auto

    def make_mesh(self) -> Mesh:
        names = ("data", "model")[: len(self.mesh)]
        return jax.make_mesh(self.mesh, names, axis_types=(self.kind,) * len(names))


P = PartitionSpec
LAYOUTS = {
    "jit over one axis": Layout("jit", (8,), P("data")),
    "jit over two axes": Layout("jit", (4, 2), P(("data", "model"))),
    "jit over one of two axes": Layout("jit", (4, 2), P("data")),
    "jit over prompts and completions": Layout("jit", (4, 2), P("data", "model")),
    "jit over an explicit axis": Layout("jit", (8,), P("data"), AxisType.Explicit),
    "shard_map over one axis": Layout("shard_map", (8,), P("data")),
    "shard_map over two axes": Layout("shard_map", (4, 2), P(("data", "model"))),
    "shard_map over one of two axes": Layout("shard_map", (4, 2), P("data")),
}


def place(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, spec))


class Compiled(NamedTuple):
    step: Callable[[MonitorState, Mapping[str, Any], Mapping[str, Any]], MonitorState]
    collectives: list[str]
    init: MonitorState


@functools.cache
def compiled(acc: RewardAccumulator, name: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Compiled:
    """The update of float32 rewards of one shape, with a mask or lengths where `shapes` names them."""
    layout = LAYOUTS[name]
    mesh = layout.make_mesh()
    step = functools.partial(_update, acc)
    if layout.how == "shard_map":
        step = jax.shard_map(
            functools.partial(step, axis_name=layout.spec[0]),
            mesh=mesh,
            in_specs=(P(), layout.spec, layout.spec),
            out_specs=P(),
            check_vma=True,
        )
    blank = {key: np.zeros(shape, {"mask": bool, "lengths": np.int32}.get(key, np.float32)) for key, shape in shapes}
    rewards = dict.fromkeys(acc.reward_names, blank.pop("rewards"))
    init = place(acc.init(), mesh, P())
    program = jax.jit(step).lower(init, *place((rewards, blank), mesh, layout.spec)).compile()
    collectives = [found[0] for found in COLLECTIVE.findall(program.as_text())]
    return Compiled(lambda s, r, o: program(s, *place((r, o), mesh, layout.spec)), collectives, init)


def _update(acc: RewardAccumulator, state: MonitorState, rewards: Any, options: Any, **where: Any) -> MonitorState:
    return acc.update(state, rewards, **options, **where)
