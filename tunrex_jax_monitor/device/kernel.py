"""Many small operations as one kernel, where a CPU runs them.

XLA's CPU runtime hands every kernel to a pool of threads: about 1 us each on two cores, for the sixty kernels of what
an update computes from a few dozen numbers. A call that says so is compiled as one kernel instead. Accelerators fuse
by rules of their own and never see it.

The compiler is not made for all that such a call may stand in, and what it cannot do aborts the process. So there are
kernels only in programs that are the update and nothing else, on one device, of a version that was tested. Everywhere
else the operations stay as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from tunrex_jax_monitor.device import shards

NEWEST = (0, 12)  # jax
_is_own = ContextVar("is_own", default=False)
AS_KERNEL = {"xla_cpu_small_call": "true", "inlineable": "false"}


def one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` of arrays, compiled as one kernel for a CPU.

    It may not scatter, sort, multiply matrices or hold a `reduce`: for some of these XLA calls a library, which it
    cannot do inside a kernel. `reduce_together` is none on a CPU.
    """
    once = jax.jit(function, inline=True)  # traced for one of the branches, it is known for the other

    def call(*arrays: Any) -> Any:
        return jax.lax.platform_dependent(*arrays, cpu=partial(_call, once), default=once)

    return call


@contextmanager
def own_program() -> Iterator[None]:
    """Say that what is traced inside becomes a whole program, part of no other."""
    token = _is_own.set(True)
    try:
        yield
    finally:
        _is_own.reset(token)


def may_be_spread(*arrays: Any) -> bool:
    """Say whether the program around this may run on several CPU devices."""
    in_shards = not jax.sharding.get_abstract_mesh().empty
    return in_shards or shards.find_mesh(arrays) is not None or has_several_devices()


def has_several_devices() -> bool:
    """Without a mesh in sight `in_shardings` may still spread numpy arrays over what devices there are."""
    try:
        return jax.device_count("cpu") > 1
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out, and this branch is traced for nothing
        return True


def _call(function: Callable[..., Any], *arrays: Any) -> Any:
    if not _is_own.get() or may_be_spread(*arrays) or jax.__version_info__[:2] > NEWEST:
        # Small results are not computed again per sample. A barrier each: one for all would make every result vary
        # over the axes of `shard_map` that one of them varies over.
        return jax.tree.map(jax.lax.optimization_barrier, function(*arrays))

    def body(*arrays: Any) -> Any:
        with set_xla_metadata(**dict.fromkeys(AS_KERNEL)):  # what is called inside is part of it
            # XLA aborts the process at an operand that the kernel does not use, so it returns them all. JAX drops both
            # where it drops what is unused, and neither in a `while_loop` or under `jit(keep_unused=True)`.
            return function(*arrays), jax.lax.optimization_barrier(arrays)

    with set_xla_metadata(**AS_KERNEL):
        results, _ = jax.jit(body)(*arrays)
    return results
