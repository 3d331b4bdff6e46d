"""Samples that lie on many devices: joined once, by one collective, before anything is computed from them.

A step's rewards are small (4 bytes per sample and reward). Once every device holds all of them it computes what a
single device would, so each statistic has the same bits on any number of devices, and no further collective is needed:
the count does not grow with the devices. Left to itself, the partitioner would gather and reduce some thirty times.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from tunrex_jax_monitor.device.bits import to_floats, to_words
from tunrex_jax_monitor.device.config import invalid

AxisName = str | tuple[str, ...]


def check_axes(axis_name: AxisName, *samples: Array | None) -> None:
    """Refuse axes that are not mapped here, and samples that are the same on every shard.

    Raises:
      ValueError: there is no axis, one comes twice, `shard_map` maps no such axis, or every shard would count the same
        samples again.
    """
    names: tuple[Any, ...] = tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        remedy = "Leave it out where rewards are on one device, or sharded under plain jit."
        raise invalid("axis_name", axis_name, "one axis of shard_map or more, each once", remedy)
    try:
        jax.lax.axis_size(axis_name)
    except NameError as error:
        mapped = tuple(jax.sharding.get_abstract_mesh().manual_axes)
        allowed = f"axes that shard_map maps around this update: {mapped or 'none, it is outside shard_map'}"
        remedy = "Correct the name, or leave it out: under plain jit rewards may be sharded without it."
        raise invalid("axis_name", axis_name, allowed, remedy) from error
    wanted = _varying(jax.lax.axis_index(axis_name))  # empty with check_vma=False, which tells nothing
    missing = wanted - _varying_together(samples)
    if missing:
        allowed = f"axes that the rewards are sharded over: they are the same all along {tuple(sorted(missing))}"
        raise invalid("axis_name", axis_name, allowed, "Each shard would count them again: leave that axis out.")


def _varying(x: Array) -> frozenset[str]:
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def _varying_together(tree: Any) -> frozenset[str]:
    return frozenset().union(*map(_varying, jax.tree.leaves(tree)))


def check_whole(axis_name: AxisName | None, raw: Array, state: Any) -> None:
    """Refuse joined samples that still differ along a mapped axis along which the state is the same.

    Raises:
      ValueError: each shard would make a state of its own out of the common one.
    """
    differ = tuple(sorted(_varying(raw) - _varying_together(state)))
    if differ:
        allowed = f"one with {differ} in it: the rewards differ along there, and the state does not"
        remedy = f"Add it; for a state of its own on each shard, jax.lax.pcast(state, {differ}, to='varying') first."
        raise invalid("axis_name", axis_name, allowed, remedy)


def stack(arrays: Sequence[Array]) -> Array:
    """Stack arrays as `jnp.stack` does, also where they differ in sharding, or some are constants.

    On Explicit axes `jnp.stack` takes no constant under a `vmap` over them (jax 0.10); `concatenate` does.
    """
    return jnp.concatenate([jnp.expand_dims(array, 0) for array in _alike(arrays)])


def _alike(arrays: Sequence[Array]) -> list[Array]:
    """Bring arrays that differ in their first axis at most to one sharding, which joining them on Explicit axes takes.

    It is that of the first array that is spread: one that is not is cut up for it without a collective.
    """
    shardings = [jax.typeof(array).sharding for array in arrays]  # of Explicit axes; of others the spec is empty
    spread = next((s for s in shardings if any(axes is not None for axes in s.spec)), None)
    if spread is None:
        return list(arrays)
    return [a if s == spread else jax.sharding.reshard(a, spread) for a, s in zip(arrays, shardings, strict=True)]


def beside(tree: Any, other: Array) -> Any:
    """Put the arrays that lie on no mesh onto that of `other`, if its axes are Explicit: JAX does not mix the two."""
    mesh = jax.typeof(other).sharding.mesh
    if not _has(mesh, AxisType.Explicit):
        return tree
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.sharding.reshard(x, whole) if jax.typeof(x).sharding.mesh.empty else x, tree)


def join(
    raw: Array,
    present: Array | None,
    length_row: Array | None,
    axis_name: AxisName | None,
    beside: Any = None,
) -> tuple[Array, Array | None, Array | None]:
    """Return the samples of all devices, on each of them.

    Args:
      raw: float32[R, *shape], this shard's under `axis_name`, else all.
      present: bool of that shape.
      length_row: float32[1, *shape].
      axis_name: mesh axes of `shard_map` to join, in device order.
      beside: more of the program, which may tell of a mesh that the samples do not tell of.

    Returns:
      The same as [rows, N].
    """
    given = raw, present, length_row
    mesh = find_mesh(given, beside)
    if axis_name is None and mesh is None:
        flat: tuple[Array, Array | None, Array | None] = jax.tree.map(_flat, given)
        return flat
    # Words, not floats: the bits of NaN and -0.0 survive a sum. One array, so one collective.
    leaves = _alike(jax.tree.leaves(given))
    words = jnp.concatenate([to_words(x.astype(jnp.uint32) if x.dtype == bool else x) for x in leaves])
    words = _flat(words if mesh is None else _replicate(words, mesh))
    if axis_name is not None:
        words = _sum_of_shards(words, axis_name)
    split = raw.shape[0]
    return (
        to_floats(words[:split]),
        None if present is None else words[split : 2 * split] != 0,
        None if length_row is None else to_floats(words[-1:]),
    )


def find_mesh(*trees: Any) -> AbstractMesh | None:
    """Return the mesh of several devices that the partitioner may spread these arrays over, if one is known.

    jit tells it for arrays and for shapes with a sharding, and `jax.set_mesh` for the rest. For numpy arrays under
    `in_shardings` alone it is unknown, and the partitioner is left to itself.
    """
    arrays = [leaf for leaf in jax.tree.leaves(trees) if isinstance(leaf, jax.Array)]
    meshes: list[AbstractMesh] = [jax.typeof(array).sharding.mesh for array in arrays]
    for mesh in (*meshes, jax.sharding.get_abstract_mesh()):
        if not mesh.empty and mesh.size > 1 and not mesh.are_all_axes_manual:
            return mesh
    return None


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _replicate(words: Array, mesh: AbstractMesh) -> Array:
    """Gather what the partitioner has spread. Axes that the user's program names in its types need `reshard`."""
    if _has(mesh, AxisType.Explicit):
        words = jax.sharding.reshard(words, NamedSharding(mesh, PartitionSpec()))
    if _has(mesh, AxisType.Auto):
        words = jax.lax.with_sharding_constraint(words, NamedSharding(mesh, PartitionSpec()))
    return words


def _has(mesh: AbstractMesh, kind: AxisType) -> bool:
    return any(own == kind for own in mesh.axis_types)


def _sum_of_shards(local: Array, axis_name: AxisName) -> Array:
    """Join the shards by one sum, each in its own columns of zeros.

    A psum is known to be the same everywhere, which shard_map's `check_vma` demands of a replicated state and an
    all_gather cannot show.
    """
    n = local.shape[1]
    place = jnp.zeros((local.shape[0], n * jax.lax.axis_size(axis_name)), jnp.uint32)
    start = jax.lax.axis_index(axis_name) * n
    words: Array = jax.lax.psum(jax.lax.dynamic_update_slice(place, local, (jnp.zeros_like(start), start)), axis_name)
    return words
