"""Pool: what the reward functions returned since the last step, put together into one batch.

A trainer calls every function on the same completions; such a round of calls is one block of samples. Rounds may come
from several threads at once, training and evaluation mixed, and several to a step.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import update
from tunrex_jax_monitor.device.batch import collect
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host.functions import to_samples

_PLAIN = (str, bytes, int, float, type(None))


class Batch(NamedTuple):
    """One step's samples, padded; R rewards, N samples."""

    values: dict[str, np.ndarray]  # float32[N] each
    mask: dict[str, np.ndarray]  # bool[N] each: False where a function gave no sample, and on the padding


Round = dict[str, Any]  # by name, what a function returned: float32[n], or an array on a device


class _Open(NamedTuple):
    values: Round
    thread: int


class Pool:
    """Collects rounds of calls, by mode.

    Args:
      names: every reward that a full round has.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], _Open] = {}
        self._closed: dict[str, list[Round]] = {}

    def add(self, mode: str, key: int, name: str, samples: Any) -> None:
        """Add what a function returned; `key` is the same for all functions of a round, and may come again later."""
        with self._lock:
            at = (mode, key)
            if at in self._open and name in self._open[at].values:
                self._close(at)
            found = self._open.setdefault(at, _Open({}, threading.get_ident()))
            found.values[name] = samples
            if len(found.values) == len(self._names):
                self._close(at)

    def take(self, unfinished: Literal["none", "mine", "all"] = "mine") -> dict[str, list[Round]]:
        """Take out all rounds, by mode.

        Args:
          unfinished: which rounds to take that lack a reward: those that this thread began, or also those that another
            may be about to finish.
        """
        with self._lock:
            own = threading.get_ident()
            for at, round_ in list(self._open.items()):
                if unfinished == "all" or (unfinished == "mine" and round_.thread == own):
                    self._close(at)
            closed, self._closed = self._closed, {}
            return closed

    @property
    def waiting(self) -> int:
        """How many finished rounds there are."""
        with self._lock:
            return sum(map(len, self._closed.values()))

    def _close(self, at: tuple[str, int]) -> None:
        self._closed.setdefault(at[0], []).append(self._open.pop(at).values)


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


def round_key(completions: Any, keywords: Mapping[str, Any]) -> int:
    """Return what tells the calls of one round from others: the completions, which all functions are given.

    Their contents, since each function may be given a list of its own. Where none are called so, it is the first
    sequence among the keywords that is not of prompts, and where there is none, the thread.
    """
    if completions is None:
        others = (v for k, v in keywords.items() if "prompt" not in k and isinstance(v, list | tuple | np.ndarray))
        completions = next(others, None)
    return threading.get_ident() if completions is None else _fingerprint(completions)


def _fingerprint(value: Any) -> int:
    """Return a hash of the contents; of what lies on a device, or is of a kind not known, that of the object."""
    if isinstance(value, _PLAIN):
        return hash(value)
    if isinstance(value, list | tuple):
        return hash(tuple(map(_fingerprint, value)))
    if isinstance(value, Mapping):
        return hash(tuple((key, _fingerprint(item)) for key, item in value.items()))
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return hash((value.shape, value.tobytes()))
    return id(value)
