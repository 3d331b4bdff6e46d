"""The only device-to-host copies: a packed summary at each emission, the run sketch when a run is read out."""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt

from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.device.state import MonitorState, check, sketch_of
from tunrex_jax_monitor.device.summary import Summary
from tunrex_jax_monitor.host import quantiles, reading
from tunrex_jax_monitor.host.events import AlertHistory, count_back
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.quantiles import RunSketch
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.schema import is_step

if TYPE_CHECKING:
    from tunrex_jax_monitor.accumulator import RewardAccumulator


def emit(acc: "RewardAccumulator", state: MonitorState) -> tuple[UInt[Array, " n"], MonitorState]:
    """Enqueue the packed summary; return it and the state with a fresh interval.

    The state is not donated, so a caller who keeps the old one still has it. Only its first leaf is made anew: a jitted
    function copies each leaf that it hands through.
    """
    words, fields = _emit(acc, state)
    return words, state._replace(fields=fields)


def emit_compiled(
    acc: "RewardAccumulator", state: MonitorState, compiled: Callable[..., Any]
) -> tuple[UInt[Array, " n"], MonitorState]:
    """The same by what `prepare_emit` has compiled; a state of another layout goes the other way."""
    found, _ = attempt(lambda: compiled(state))
    if found is None:
        return emit(acc, state)
    words, fields = found
    return words, state._replace(fields=fields)


def hold(number: Any) -> Any:
    """Return an owner's number as it is now, whatever becomes of it; of one on the device a copy, to be read later."""
    if type(number) is int:
        return number
    held, _ = attempt(lambda: jnp.copy(number) if _is_on_device(number) else int(number))
    return attempt(partial(copy.copy, number))[0] if held is None else held


def _is_on_device(number: Any) -> bool:
    return isinstance(number, jax.Array) or hasattr(number, "__jax_array__")


def as_step(number: Any) -> int:
    """Return an owner's step as a number that files can hold; waits for one on the device.

    Raises:
      ValueError: it is no whole number up to 2^53.
    """
    found, error = attempt(lambda: number if type(number) is int else int(np.asarray(number).reshape(())))
    if found is None or not is_step(found):
        got, _ = attempt(lambda: f"{number!r:.50}")
        why = "it is beyond 2^53" if error is None else error
        raise ValueError(f"step: got {got}, allowed: a whole number ({why}). Pass the step that ends.")
    return found


def prepare_emit(acc: "RewardAccumulator", state: MonitorState) -> Callable[[], object]:
    """Trace `emit`, and return what compiles it: call that on any thread, and the next `emit` finds it compiled.

    Tracing depends on the caller's JAX settings and is Python; compiling is the longer part and runs beside it.
    """
    return _emit.lower(acc, state).compile


@functools.partial(jax.jit, static_argnums=0)
def _emit(acc: "RewardAccumulator", state: MonitorState) -> tuple[UInt[Array, " n"], UInt[Array, "F rows"]]:
    return acc.pack(state), acc.reset_interval(state).fields


@functools.partial(jax.jit, static_argnums=0)
def _pack(acc: "RewardAccumulator", state: MonitorState) -> UInt[Array, " n"]:
    return acc.pack(state)


def read(acc: "RewardAccumulator", source: MonitorState | Summary, step: int | Sequence[int] | None = None) -> Record:
    """Read a state or a summary into a record; blocks. A state also gives what the run sketch knows."""
    if isinstance(source, MonitorState):
        check(acc, source)  # here, since jit would refuse in its own words what is no array
        summary = acc.unpack(np.asarray(_pack(acc, source)))
        return with_run(acc, _to_record(acc, summary, step), summary, source)
    if isinstance(source, Summary) and np.shape(source.window)[-1] != acc.rewards:
        got = f"a summary of {np.shape(source.window)[-1]} rewards"
        raise invalid("state_or_summary", got, f"one of {acc.rewards}", "Read it with the accumulator that made it.")
    if not isinstance(source, Summary):
        raise invalid(
            "state_or_summary", type(source).__name__, "a MonitorState or a Summary", "Pass what init() returned."
        )
    return _to_record(acc, Summary(*(np.asarray(v) for v in source)), step)


def _to_record(acc: "RewardAccumulator", summary: Summary, step: int | Sequence[int] | None) -> Record:
    if isinstance(step, Sequence):
        steps: Sequence[int] = step[-max(int(summary.interval), 1) :]
    else:
        steps = count_back(summary, int(summary.updates) - 1 if step is None else int(step))
    return reading.build(acc, summary, steps, time.time(), AlertHistory())


def with_run(acc: "RewardAccumulator", record: Record, summary: Summary, state: MonitorState) -> Record:
    """Add run quantiles and histograms to a record; copies the sketch, about 33 kB per reward."""
    low, high, greatest, least = (np.asarray(leaf) for leaf in sketch_of(state))
    sketch = RunSketch(low, high, greatest, least, np.asarray(summary.atoms))
    record.scalars.update(quantiles.run_scalars(acc, sketch))
    record.histograms.update(quantiles.run_histograms(acc, sketch))
    return record
