"""Background: a lane of jobs, so that training need not do them."""

import logging
from collections.abc import Callable

from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.lane import Lane
from tunrex_jax_monitor.host.latch import Latch

_logger = logging.getLogger("tunrex_jax_monitor")
_BACKLOG = 10_000


class Background:
    """Runs jobs in order. `put` returns at once and raises nothing; a job that raises is told, once per type.

    Args:
      name: of the thread.
      on_loss: called for each job that holds a step and is not taken, since too many wait, or fails.

    Attributes:
      is_closed: it takes no more jobs.
    """

    def __init__(self, name: str, on_loss: Callable[[], object]) -> None:
        self._on_loss = on_loss
        self._told: set[str] = set()
        self.is_closed = False
        self._lane: Lane[tuple[Callable[[], object], bool]] = Lane(lambda job: self._do(*job), name)

    def put(self, job: Callable[[], object], *, holds_step: bool = False) -> None:
        """Take a job; where too many are waiting, one that holds a step is lost."""
        if self.is_closed or (holds_step and self._lane.waiting >= _BACKLOG):
            self._drop(holds_step)
            return
        self._lane.put((job, holds_step))
        if self.is_closed:  # meanwhile, so it may lie behind the end
            self._drop_leftovers()

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until what has been put is done; False when it took too long, or after `close`."""
        done = Latch()
        self.put(done.set)
        return not self.is_closed and done.wait(timeout_seconds)

    def close(self, timeout_seconds: float) -> bool:
        """End after what has been put; False when that took too long."""
        self.is_closed = True
        self._lane.end()
        has_ended = self._lane.join(timeout_seconds)
        self._drop_leftovers()
        return has_ended

    def _drop_leftovers(self) -> None:
        if not self._lane.is_alive():
            for job in self._lane.leftovers():
                self._drop(job is not None and job[1])

    def _drop(self, holds_step: bool) -> None:
        if holds_step:
            self._on_loss()
            self._tell("dropped", "Rewards come faster than they can be folded in, or after the end; some are dropped.")

    def _do(self, job: Callable[[], object], holds_step: bool) -> None:
        _, error = attempt(job)
        if error is not None:
            if holds_step:
                self._on_loss()
            self._tell(type(error).__name__, f"A step of rewards was not recorded: {type(error).__name__}: {error}")

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _logger.warning("%s", message)
