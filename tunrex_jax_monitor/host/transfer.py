"""The only device-to-host copies: a packed summary at each emission, the run sketch when a run is read out."""

import functools
import time
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Array, UInt

from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.device.summary import Summary
from tunrex_jax_monitor.host import keys, quantiles
from tunrex_jax_monitor.host.quantiles import RunSketch
from tunrex_jax_monitor.host.record import Record

if TYPE_CHECKING:
    from tunrex_jax_monitor.accumulator import RewardAccumulator


@functools.partial(jax.jit, static_argnums=0)
def emit(acc: "RewardAccumulator", state: MonitorState) -> tuple[UInt[Array, " n"], MonitorState]:
    """Return the packed summary and the state with a fresh interval.

    The state is not donated: large leaves pass through without a copy, and a caller who keeps the old state still has it.
    """
    return acc.pack(state), acc.reset_interval(state)


@functools.partial(jax.jit, static_argnums=0)
def _pack(acc: "RewardAccumulator", state: MonitorState) -> UInt[Array, " n"]:
    return acc.pack(state)


def read(acc: "RewardAccumulator", source: MonitorState | Summary, step: int | None = None) -> Record:
    """Read a state or a summary into a record; blocks. A state also gives what the run sketch knows."""
    if isinstance(source, MonitorState):
        summary = acc.unpack(np.asarray(_pack(acc, source)))
        return with_run(acc, to_record(acc, summary, step, time.time()), summary, source)
    return to_record(acc, Summary(*(np.asarray(v) for v in source)), step, time.time())


def to_record(acc: "RewardAccumulator", summary: Summary, step: int | None, emitted: float) -> Record:
    """Build the record of a summary; its step is that of the last update, counted from 0, unless given."""
    return keys.build(acc, summary, int(summary.updates) - 1 if step is None else step, emitted)


def with_run(acc: "RewardAccumulator", record: Record, summary: Summary, state: MonitorState) -> Record:
    """Add run quantiles and histograms to a record; copies the sketch, about 33 kB per reward."""
    sketch = RunSketch(*(np.asarray(leaf) for leaf in state[3:]), atoms=summary.atoms)
    record.scalars.update(quantiles.run_scalars(acc, sketch))
    record.histograms.update(quantiles.run_histograms(acc, sketch))
    return record
