"""The programs that `accelerators.py` compiles: updates and emissions, the peers' updates, and a whole train step."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Lowered
from peers import installed
from variants import SIZES, accumulator, load_example

import tunrex_jax_monitor as trm

DATA, WHOLE = PartitionSpec("data"), PartitionSpec()
Spread = Literal["jit", "shard_map"]


class Workload(NamedTuple):
    """One program to compile, and what `--check` allows it."""

    name: str
    lower: Callable[[Mesh], Lowered]  # over the axis "data"
    spread: bool = False  # over all chips of the topology, else for one
    most_chips: int = 1024
    max_kernels: int | None = None  # on an H100
    max_estimate_us: float | None = None  # on a TPU v5e
    max_collectives: int | None = None

    @property
    def has_budget(self) -> bool:
        """Whether there is anything to check."""
        return any(limit is not None for limit in (self.max_kernels, self.max_estimate_us, self.max_collectives))


def workloads() -> tuple[list[Workload], list[str]]:
    """Return everything to compile, and the names of peers that are not installed."""
    large = partial(update, 8, 8192)
    peers, missing = installed(_names(8))
    bare, monitored = (partial(train_step, monitored=watched) for watched in (False, True))
    # The plain update has a budget of 16 launches. The other limits are near what they take now, against growth.
    found = [
        Workload("update [4, 512]", partial(update, 4, 512)),
        Workload("update [8, 8192]", large, max_kernels=16, max_estimate_us=25),
        Workload("update [8, 8192] in groups of 8", partial(large, group_size=8), max_kernels=26, max_estimate_us=45),
        Workload("update [8, 8192] with a mask", partial(large, masked=True), max_kernels=20, max_estimate_us=30),
        Workload("update [8, 8192], jit over all chips", partial(large, spread="jit"), spread=True, max_collectives=4),
        Workload(
            "update [8, 8192], shard_map over all chips",
            partial(large, spread="shard_map"),
            spread=True,
            max_collectives=3,
        ),
        Workload(
            "update [8, 8192] in groups, jit",
            partial(large, group_size=8, masked=True, spread="jit"),
            spread=True,
            max_collectives=4,
        ),
        Workload("pack [8, 8192]", partial(pack, 8)),
        Workload("pack [8, 8192] in groups of 8", partial(pack, 8, group_size=8)),
        *(Workload(f"{label} [8, 8192]: {peer.holds}", partial(peer_update, peer)) for label, peer in peers.items()),
        Workload(BARE, bare),
        Workload(MONITORED, monitored),
        Workload(f"{BARE}, sharded", bare, spread=True, most_chips=64),
        Workload(f"{MONITORED}, sharded", monitored, spread=True, most_chips=64),
    ]
    return found, missing


BARE, MONITORED = "train step, bare", "train step, monitored"


def update(
    n_rewards: int,
    n_samples: int,
    mesh: Mesh,
    *,
    group_size: int | None = None,
    masked: bool = False,
    spread: Spread | None = None,
) -> Lowered:
    """Lower an update; with `spread` the rewards lie on all devices, the state is the same on each."""
    names = _names(n_rewards)
    acc = trm.RewardAccumulator(names, group_size=group_size)
    warnings.simplefilter("ignore", UserWarning)  # a window smaller than the batch is meant: it is the default one
    samples = NamedSharding(mesh, DATA)
    rewards = dict.fromkeys(names, jax.ShapeDtypeStruct((n_samples,), jnp.float32, sharding=samples))
    mask = jax.ShapeDtypeStruct((n_samples,), jnp.bool_, sharding=samples) if masked else None

    def update(state: Any, rewards: Any, mask: Any, axis_name: str | None = None) -> Any:
        return acc.update(state, rewards, mask=mask, axis_name=axis_name)

    function: Callable[..., Any] = update
    if spread == "shard_map":
        shards = partial(update, axis_name="data")
        function = jax.shard_map(shards, mesh=mesh, in_specs=(WHOLE, DATA, DATA), out_specs=WHOLE)
    jitted = jax.jit(function, donate_argnums=0, out_shardings=NamedSharding(mesh, WHOLE))
    return jitted.lower(_on(mesh, jax.eval_shape(acc.init)), rewards, mask)


def pack(n_rewards: int, mesh: Mesh, *, group_size: int | None = None) -> Lowered:
    """Lower what an emission runs on the device: the summary as one buffer."""
    acc = trm.RewardAccumulator(_names(n_rewards), group_size=group_size)
    return jax.jit(acc.pack, out_shardings=NamedSharding(mesh, WHOLE)).lower(_on(mesh, jax.eval_shape(acc.init)))


def peer_update(peer: Any, mesh: Mesh) -> Lowered:
    """Lower a peer's update by 8192 samples of each of its rewards."""
    rewards = dict.fromkeys(peer.names, jax.ShapeDtypeStruct((8192,), jnp.float32))
    state = jax.eval_shape(peer.empty)
    return jax.jit(peer.update, donate_argnums=0).lower(_on(mesh, state), _on(mesh, rewards))


def train_step(mesh: Mesh, *, monitored: bool) -> Lowered:
    """Lower the train step of the example with the model that `overhead.py` takes on a chip.

    On several devices each parameter is cut along its first axis that divides, and all else is up to the partitioner.
    """
    example = load_example(*SIZES["chip"])
    acc = accumulator(example) if monitored else None
    key = jax.eval_shape(lambda: jax.random.key(0))
    reference = jax.eval_shape(example.warm_up, key)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    train = example.TrainState(reference, jax.eval_shape(example.OPTIMIZER.init, reference), step)
    batch_size = example.PROMPTS * example.GROUP_SIZE
    state = None if acc is None else jax.eval_shape(partial(acc.init, batch_size=batch_size))
    train, reference = (_on(mesh, tree, cut=True) for tree in (train, reference))
    lowered: Lowered = example.train_step.lower(
        train, _on(mesh, state), reference, _on(mesh, key), acc, example.Fault(None, 0)
    )
    return lowered


def _names(n_rewards: int) -> tuple[str, ...]:
    return tuple(f"reward_{r}" for r in range(n_rewards))


def _on(mesh: Mesh, tree: Any, *, cut: bool = False) -> Any:
    """Say of shapes that they lie on the devices of the mesh: whole on each, or cut among them."""

    def place(leaf: Any) -> Any:
        spec = _cut(leaf.shape, mesh.size) if cut and mesh.size > 1 else WHOLE
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def _cut(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    axis = next((i for i, n in enumerate(shape) if n and n % parts == 0), None)
    return WHOLE if axis is None else PartitionSpec(*[None] * axis, "data")
