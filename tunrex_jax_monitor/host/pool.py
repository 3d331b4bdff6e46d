"""Pool: what the reward functions returned since the last step, put together into one batch.

A trainer calls every function on the same completions; such a round of calls is one block of samples. Rounds may come
from several threads at once, training and evaluation mixed, and several to a step.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import update
from tunrex_jax_monitor.device.batch import collect
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host.at_work import now
from tunrex_jax_monitor.host.samples import to_samples

_AT_ONCE = 64  # rounds of one key that wait for rewards which never come
_OPEN = 16_384  # rounds of any key; where each completion is judged by itself, a step may have thousands


class Batch(NamedTuple):
    """One step's samples, padded; R rewards, N samples."""

    values: dict[str, np.ndarray]  # float32[N] each
    mask: dict[str, np.ndarray]  # bool[N] each: False where a function gave no sample, and on the padding


Round = dict[str, Any]  # by name, what a function returned: float32[n], or an array on a device


@dataclass(eq=False)
class _Open:
    """A round that lacks a reward."""

    mode: str
    values: Round
    keys: set[int]
    thread: int  # that began it
    batch: int  # what it was given, as an object


class Look(NamedTuple):
    """What a round had at one time."""

    round: _Open
    rewards: int


class Pool:
    """Collects rounds of calls, by mode.

    Args:
      names: every reward that a full round has.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._lock = threading.Lock()
        self._open: dict[int, _Open] = {}  # by identity, in order
        self._by_key: dict[tuple[str, int], list[_Open]] = {}
        self._closed: dict[str, list[Round]] = {}

    def add(
        self, mode: str, key: int, name: str, samples: Any, batch: int = 0, *, key_after: int | None = None
    ) -> None:
        """Add what a function returned.

        Args:
          mode: of the call.
          key: the same for all functions of a round, and may come again later, or for another round at the same time.
          name: of the reward.
          samples: what was returned.
          batch: identity of what the function was given: of two rounds of one key, that of its own object is meant, or
            else that of its own thread.
          key_after: by which the round is known as well from now on, since the function has changed the completions.
        """
        own, keys = threading.get_ident(), {key, key if key_after is None else key_after}
        with self._lock:
            same = list(dict.fromkeys(round_ for each in keys for round_ in self._by_key.get((mode, each), ())))
            lacking = [round_ for round_ in same if name not in round_.values]
            if lacking:
                found = max(lacking, key=lambda round_: (round_.batch == batch, round_.thread == own))
            else:
                over = [round_ for round_ in same if (round_.thread, round_.batch) == (own, batch)]
                for round_ in over or same[:-_AT_ONCE]:
                    self._close(round_)
                if len(self._open) >= _OPEN:
                    self._close(next(iter(self._open.values())))
                found = self._open_round(_Open(mode, {}, set(), own, batch))
            found.values[name] = samples
            for each in keys - found.keys:
                self._by_key.setdefault((mode, each), []).append(found)
            found.keys |= keys
            if len(found.values) == len(self._names):
                self._close(found)

    def take(self, unfinished: Literal["none", "mine", "all"] = "mine") -> dict[str, list[Round]]:
        """Take out all rounds, by mode.

        Args:
          unfinished: which rounds to take that lack a reward: none, those that this thread began and no function that
            they lack is at work on, or all.
        """
        own = threading.get_ident()
        with self._lock:
            goes_on = self._going_on()
            for round_ in list(self._open.values()):
                is_over = round_.thread == own and not goes_on(round_)
                if unfinished == "all" or (unfinished == "mine" and is_over):
                    self._close(round_)
            closed, self._closed = self._closed, {}
            return closed

    def look(self) -> list[Look]:
        """Return what there is of rounds that are being gone on with, or not."""
        with self._lock:
            return [Look(round_, len(round_.values)) for round_ in self._open.values()]

    def take_left(self, looks: Iterable[Look]) -> dict[str, list[Round]]:
        """Take out the rounds that got no reward since that look, and that no function is at work on."""
        left: dict[str, list[Round]] = {}
        with self._lock:
            goes_on = self._going_on()
            for round_, rewards in looks:
                if id(round_) in self._open and len(round_.values) == rewards and not goes_on(round_):
                    self._remove(round_)
                    left.setdefault(round_.mode, []).append(round_.values)
        return left

    @property
    def waiting(self) -> int:
        """How many finished rounds there are."""
        with self._lock:
            return sum(map(len, self._closed.values()))

    def _going_on(self) -> Callable[[_Open], bool]:
        """Return what tells whether a function that a round lacks is at work on it: on its object, or on its like."""
        known, works = {round_.batch for round_ in self._open.values()}, now()

        def goes_on(round_: _Open) -> bool:
            return any(
                work.name not in round_.values
                and (work.batch == round_.batch or (work.batch not in known and work.key in round_.keys))
                for work in works
            )

        return goes_on

    def _open_round(self, round_: _Open) -> _Open:
        self._open[id(round_)] = round_
        return round_

    def _close(self, round_: _Open) -> None:
        self._closed.setdefault(round_.mode, []).append(round_.values)
        self._remove(round_)

    def _remove(self, round_: _Open) -> None:
        del self._open[id(round_)]
        for key in round_.keys:
            others = [other for other in self._by_key[round_.mode, key] if other is not round_]
            if others:
                self._by_key[round_.mode, key] = others
            else:
                del self._by_key[round_.mode, key]


def join(rounds: Sequence[Mapping[str, Any]], names: Sequence[str], group_size: int, least: int) -> Batch:
    """Return the rounds as one batch whose length is a power of two groups, so that few programs serve all steps.

    Args:
      rounds: samples by name, what `to_samples` takes; a name may be missing, or have fewer samples than another.
      names: every reward.
      group_size: samples of a group are consecutive; a round is filled up to whole groups.
      least: the batch gets at least this many samples, padding included.
    """
    rounds = [{name: to_samples(samples) for name, samples in values.items()} for values in rounds]
    lengths = [-(-max(map(len, values.values()), default=0) // group_size) * group_size for values in rounds]
    total = max(sum(lengths), least, group_size)
    size = group_size * 2 ** (-(-total // group_size) - 1).bit_length()
    batch = Batch({name: np.zeros(size, np.float32) for name in names}, {name: np.zeros(size, bool) for name in names})
    start = 0
    for values, length in zip(rounds, lengths, strict=True):
        for name, samples in values.items():
            here = slice(start, start + len(samples))
            batch.values[name][here], batch.mask[name][here] = samples, True
        start += length
    return batch


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def fold(acc: RewardAccumulator, state: MonitorState, batch: Batch) -> MonitorState:
    """Return the state with a batch: `acc.update_jit` but for its warning when the padded batch exceeds the window.

    That would be wrong where the padding makes the difference, and under `-W error` it would cost the step.
    """
    return update.update(acc, state, collect(acc, batch.values, batch.mask, None, None))


def one_by_one(rounds: Mapping[str, list[Round]]) -> list[dict[str, list[Round]]]:
    """Return each round as a step of its own, for where nobody ends steps."""
    return [{mode: [round_]} for mode, given in rounds.items() for round_ in given]


def replace(rounds: Sequence[Round], given: Round) -> list[Round]:
    """Return rounds with other samples for some rewards: in their places, or behind where their number is another."""
    kept = [{name: v for name, v in round_.items() if name not in given} for round_ in rounds]
    kept = [round_ for round_ in kept if round_]
    ends = np.cumsum([max(map(np.size, round_.values())) for round_ in kept])
    if not kept or any(np.size(v) != ends[-1] for v in given.values()):
        return [*kept, given]
    cuts = zip((0, *ends), ends, strict=False)
    return [
        round_ | {name: v.reshape(-1)[start:end] for name, v in given.items()}
        for round_, (start, end) in zip(kept, cuts, strict=True)
    ]
