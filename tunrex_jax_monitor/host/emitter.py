"""Emitter: makes packed words of a state, by a program that is compiled beside the training."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import transfer
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.lane import Lane, do_beside

if TYPE_CHECKING:
    from tunrex_jax_monitor.accumulator import RewardAccumulator


class Emitter:
    """Enqueues the pack of a state.

    The first `prepare` traces the program, under the caller's JAX settings (a mesh, `enable_x64`), and another thread
    compiles it. A thread with other settings uses that program too: `jit` would compile it once more for them.

    Args:
      acc: the accumulator that made the states.
    """

    def __init__(self, acc: "RewardAccumulator") -> None:
        self._acc = acc
        self._compiling: Lane[Callable[[], object]] | None = None
        self._compiled: Callable[..., Any] | None = None
        self._thread = 0

    @property
    def is_begun(self) -> bool:
        """Whether `prepare` has been called."""
        return self._compiling is not None

    def prepare(self, state: MonitorState, *, wait: bool) -> None:
        """Begin to compile; with `wait`, return when that is done."""
        if self._compiling is None:
            compile_ = transfer.prepare_emit(self._acc, state)
            self._thread = threading.get_ident()
            self._compiling = do_beside(lambda: self._keep(compile_()), "tunrex-compiler")
        if wait:
            self._compiling.join()

    def settle(self, timeout_seconds: float) -> None:
        """Wait for what is still being compiled: JAX aborts a process that ends meanwhile."""
        if self._compiling is not None:
            self._compiling.join(timeout_seconds)

    def emit(self, state: MonitorState) -> tuple[Any, MonitorState]:
        """Return the packed words, which may not be computed yet, and the state with a fresh interval."""
        is_usual = threading.get_ident() == self._thread and not _is_tracing()
        if self._compiled is None or is_usual:
            return transfer.emit(self._acc, state)
        return transfer.emit_compiled(self._acc, state, self._compiled)

    def _keep(self, compiled: Any) -> None:
        self._compiled = compiled


def _is_tracing() -> bool:
    """Say whether this thread is tracing: an owner's handler may emit there, and the pack would join that program."""
    is_clean, _ = attempt(_has_clean_trace)  # a JAX that calls it otherwise costs the answer, not the emission
    return is_clean is False


def _has_clean_trace() -> bool:
    from jax._src import core  # it has no public name

    return bool(core.trace_state_clean())
