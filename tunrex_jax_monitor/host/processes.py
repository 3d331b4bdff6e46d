"""The processes of one job: which of them writes, and whether all were given the same configuration.

Every process dispatches, the first one reads and writes. Processes that emit at different steps enqueue different
programs and wait for each other for ever, so the configurations are compared when a reporter starts: by the key-value
store of JAX's own coordinator, before anything is enqueued, and never in the loop.
"""

import functools
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from tunrex_jax_monitor.host.guard import attempt, in_words
from tunrex_jax_monitor.host.preemption import Preemption
from tunrex_jax_monitor.host.sinks.console import say

T = TypeVar("T")
WAIT_SECONDS = 60.0
_KEYS = "tunrex_jax_monitor"
_reporters = itertools.count()  # of this process; the n-th of one belongs to the n-th of another
_logger = logging.getLogger("tunrex_jax_monitor")


def is_writer() -> bool:
    """Return whether this process reads, writes and logs for the job."""
    return jax.process_index() == 0


@functools.cache
def announce() -> None:
    """Say what this process does, once and only where there are several."""
    count, index = jax.process_count(), jax.process_index()
    if count > 1:
        part = (
            "reads, writes and logs for all of them" if is_writer() else "dispatches and stays quiet; process 0 writes"
        )
        say(f"Reward monitor: process {index} of {count} {part}.")


def hold_sigterm(signals: Preemption, grace_seconds: float) -> None:
    """Install a handler of SIGTERM, unless the signal concerns more than this process: then say so.

    JAX's distributed runtime has a handler of its own that Python does not see, and tells all processes of the notice.

    Raises:
      ValueError: this is not the main thread.
    """
    from jax._src import distributed

    notice, _ = attempt(lambda: distributed.global_state.preemption_sync_manager)  # of one process too
    if jax.process_count() > 1 or notice is not None:
        _logger.warning(
            "SIGTERM is left to JAX's distributed runtime, which tells all processes of it. Call flush in all of them "
            "where jax.experimental.multihost_utils.reached_preemption_sync_point(step) is true."
        )
    else:
        signals.install(grace_seconds=grace_seconds)


def begin_together(settings: Mapping[str, Any], begin: Callable[[], T], timeout_seconds: float | None = None) -> T:
    """Compare the settings of this job's processes, then begin; where two differ, all of them are told.

    The first reads those of all, begins, and says what was wrong; the others read that, and before it the settings of
    the first, so that each that differs names its own side. Every process has to call it, and as often as the others.
    One that does not come costs the time-out and a warning.

    Args:
      settings: what has to be the same, JSON-ready.
      begin: what every process does then.
      timeout_seconds: how long to wait for all; WAIT_SECONDS by default.

    Returns:
      What `begin` does.

    Raises:
      ValueError: two processes differ, or the first could not begin. What `begin` raises comes out of its own process.
    """
    client = _client() if jax.process_count() > 1 else None
    if client is None:
        return begin()
    wait = WAIT_SECONDS if timeout_seconds is None else timeout_seconds
    here, prefix, end = jax.process_index(), f"{_KEYS}/{next(_reporters)}", time.monotonic() + wait
    own = json.loads(json.dumps(settings))
    client.key_value_set(f"{prefix}/{here}", json.dumps(own), allow_overwrite=True)
    read = functools.partial(_read, client, end=end)
    if not is_writer():
        _compare(own, read, prefix, (0,), wait)
        if found := read(f"{prefix}/found")[0]:
            raise ValueError(found)
        return begin()
    _, error = attempt(lambda: _compare(own, read, prefix, range(1, jax.process_count()), wait))
    begun, failure = (None, None) if error is not None else attempt(lambda: [begin()])
    found = "" if failure is None else f"Process 0 could not begin, so no other has to: {in_words(failure)}"
    client.key_value_set(f"{prefix}/found", found if error is None else str(error), allow_overwrite=True)
    if begun is None:
        raise error or failure or AssertionError
    return begun[0]


def _read(client: Any, key: str, end: float) -> tuple[str | None, Exception | None]:
    """Return what another process has set, or None and why there is nothing by the end."""
    left = max(1, round(1e3 * (end - time.monotonic())))
    found, _ = attempt(lambda: str(client.blocking_key_value_get(key, left)))
    # A millisecond may be too short to read what has long been there.
    return attempt(lambda: str(client.key_value_try_get(key))) if found is None else (found, None)


def _compare(
    own: Mapping[str, Any],
    read: Callable[[str], tuple[str | None, Exception | None]],
    prefix: str,
    others: Iterable[int],
    wait: float,
) -> None:
    missing: list[int] = []
    reason: Exception | None = None
    for other in others:
        text, error = read(f"{prefix}/{other}")
        if text is None:
            missing.append(other)
            reason = reason or error
        else:
            _require_equal(own, jax.process_index(), json.loads(text), other)
    if missing:
        _tell_missing(jax.process_index(), missing, wait, reason)


def _client() -> Any:
    """Return the client of JAX's coordinator, which has no public name; None where there is none."""
    from jax._src import distributed

    return distributed.global_state.client


def _require_equal(own: Mapping[str, Any], here: int, others: Mapping[str, Any], other: int) -> None:
    different = [key for key in own.keys() | others.keys() if own.get(key) != others.get(key)]
    if different:
        key = min(different)
        raise ValueError(
            f"{key}: got {own.get(key)!r} on process {here} and {others.get(key)!r} on process {other}, allowed: one "
            "value on all processes, which would otherwise wait for each other. Give them the same configuration and "
            "the same reporters in the same order; Reporter(shared=False) is for a state of one process alone."
        )


def _tell_missing(here: int, others: Sequence[int], wait: float, error: Exception | None) -> None:
    reason = "" if error is None or "NOT_FOUND" in str(error) else f" ({error})"
    _logger.warning(
        "Process %s of the job has made no Reporter within %g s of process %d%s: training goes on, but configurations "
        "were not compared. With a state that all processes hold, each of them has to make one and to call its step; "
        "Reporter(shared=False) is for a state of one process alone.",
        *(", ".join(map(str, others)), wait, here, reason),
    )
