"""Collector: what the calls of reward functions say, checked and pooled until a step ends.

Everything here runs on the thread that called the function, so it copies numbers, and waits for nothing.
"""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tunrex_jax_monitor.host.functions import Call
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.names import ADVANTAGES, clean
from tunrex_jax_monitor.host.pool import Look, Pool, Round
from tunrex_jax_monitor.host.round_key import round_key
from tunrex_jax_monitor.host.samples import NO_SAMPLE, capture

_logger = logging.getLogger("tunrex_jax_monitor")
_REMEMBERED = 256
_WAITING = 4096  # blocks of advantages whose step has not ended


class Collector:
    """Pools rewards by mode.

    Args:
      names: every reward.
      on_group_size: called once with the completions per prompt, when a call tells it; None where that is known.
    """

    def __init__(self, names: Sequence[str], on_group_size: Callable[[int], object] | None) -> None:
        self._is_listening, self._lock = True, threading.Lock()
        self._names = tuple(names)
        self._on_group_size = on_group_size
        self._rewards = Pool(names)
        self._advantages: deque[tuple[int, Any]] = deque(maxlen=_WAITING)  # with the id of their completions
        self._modes: OrderedDict[int, str] = OrderedDict()  # of the newest completions
        self._told: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many finished rounds of calls wait for the end of their step."""
        return self._rewards.waiting

    def hear(self, call: Call) -> bool:
        """Take in what a reward function returned; False where that cannot be one reward per completion."""
        mode = mode_of(call.keywords.get("mode", "train"))
        self.note_mode(call.completions, mode)
        if self._on_group_size is not None and mode == "train":
            attempt(lambda: self._learn_group_size(call.keywords))  # the keywords are the trainer's: anything goes
        if not self._is_listening:
            return True
        samples = self._samples(call)
        after = round_key(call.completions, call.keywords)  # takes time, in which nobody need wait
        with self._lock:
            if self._is_listening:  # without samples too, so that the round gets full
                given = NO_SAMPLE if samples is None else samples
                self._rewards.add(mode, call.key, call.name, given, batch=id(call.completions), key_after=after)
        return samples is not None

    def _samples(self, call: Call) -> Any:
        """Return the samples of a call, or None where it returned something else."""
        if call.samples is None:
            self.tell(f"{call.name}: a result could not be recorded: {call.error}", about=f"result {call.name}")
            return None
        expected = 0 if call.has_raised else _length(call.completions)
        if expected and call.is_scalar:
            of = jnp if isinstance(call.samples, jax.Array) else np  # what lies on a device is not worth a wait
            return of.broadcast_to(call.samples.reshape(()), (expected,))
        if call.is_named and expected is not None and np.size(call.samples) != expected:
            self.tell(
                f"{call.name} returned {np.size(call.samples)} rewards for {expected} completions; such calls are left "
                "out of the statistics. Return one reward per completion.",
                about=f"length {call.name}",
            )
            return None
        return call.samples

    def stop_listening(self) -> None:
        """Leave what functions return alone, and forget what they returned: it comes by another way as well."""
        with self._lock:
            self._is_listening = False
            self._rewards.take("all")

    def note_mode(self, completions: Any, mode: str) -> None:
        """Remember of which mode completions are: what Tunix tells of their advantages does not say."""
        with self._lock:
            self._modes[id(completions)] = mode
            self._modes.move_to_end(id(completions))
            while len(self._modes) > _REMEMBERED:
                self._modes.popitem(last=False)

    def add(self, rewards: Mapping[str, Any], mode: Any) -> None:
        """Add a whole round; an unknown name is told once and left out."""
        for round_ in self.to_rounds(rewards):
            for name, samples in round_.items():
                self._rewards.add(mode_of(mode), id(rewards), name, samples)

    def to_rounds(self, rewards: Mapping[str, Any]) -> list[Round]:
        """Return values by name as a round, if there are any; what is unknown or no number is told and left out."""
        if not isinstance(rewards, Mapping):
            self.tell(
                f"rewards: got {type(rewards).__name__}, allowed: samples by name. It is left out; pass for example "
                f"{{{self._names[0]!r}: [1.0, 0.0]}}."
            )
            return []
        round_: Round = {}
        for given, value in rewards.items():
            name = given if given in self._names else clean(str(given))
            if name not in self._names:
                self.tell(f"There is no reward {given!r}, so it is left out. Known are: {', '.join(self._names)}.")
            elif value is not None:
                samples, error = attempt(partial(capture, value))
                if samples is not None and np.size(samples):  # an empty one is no new data
                    round_[name] = samples
                elif error is not None:
                    self.tell(f"{name}: what was given could not be recorded: {error}", about=f"given {name}")
        return [round_] if round_ else []

    def add_advantages(self, advantages: Any, completions: Any) -> None:
        """Add the advantages of some completions, unless these were of another mode than training."""
        if self._modes.get(id(completions), "train") == "train":
            samples = capture(advantages)
            with self._lock:
                self._advantages.append((id(completions), samples))

    def take(self, unfinished: Literal["none", "mine", "all"] = "mine") -> dict[str, list[Round]]:
        """Take out all rounds, by mode; see `Pool.take`."""
        return self._rewards.take(unfinished) | self.take_advantages()

    def take_rounds(self) -> dict[str, list[Round]]:
        """Take out what this thread has ended; the advantages stay."""
        return self._rewards.take()

    def look(self) -> list[Look]:
        """Return what other threads have begun; see `Pool.look`."""
        return self._rewards.look()

    def take_left(self, looks: Iterable[Look]) -> dict[str, list[Round]]:
        """Take out what they have not gone on with; see `Pool.take_left`."""
        return self._rewards.take_left(looks)

    def take_advantages(self, completions: Iterable[Any] | None = None) -> dict[str, list[Round]]:
        """Take out the advantages of these completions, or all."""
        with self._lock:
            keys = {key for key, _ in self._advantages} if completions is None else set(map(id, completions))
            taken: list[Round] = [{ADVANTAGES: samples} for key, samples in self._advantages if key in keys]
            self._advantages = deque((at for at in self._advantages if at[0] not in keys), _WAITING)
        return {ADVANTAGES: taken} if taken else {}

    def tell(self, message: str, about: str | None = None) -> None:
        """Log a warning, once of what it is about."""
        if (about or message) not in self._told:
            self._told.add(about or message)
            _logger.warning("%s", message)

    def _learn_group_size(self, keywords: Mapping[str, Any]) -> None:
        size, ids = keywords.get("num_generations"), keywords.get("trajectory_ids")
        if size is None and ids is not None and len(ids) and isinstance(ids[0], str):  # "<row>_<completion>"
            size = sum(i.rpartition("_")[0] == ids[0].rpartition("_")[0] for i in ids)
        if size is not None and int(size) > 1 and self._on_group_size is not None:  # one makes no group
            self._on_group_size(int(size))
            self._on_group_size = None


def mode_of(given: Any) -> str:
    """Return "train" or "eval", of a text or an enum; anything else, as a column of data, says nothing of it.

    >>> mode_of("Mode.EVAL")
    'eval'
    """
    text = getattr(given, "value", given)
    mode = text.rpartition(".")[2].lower().replace("/", "_") if isinstance(text, str) else ""
    return f"{mode}_mode" if mode == ADVANTAGES else mode or "train"


def _length(completions: Any) -> int | None:
    """Return how many completions there are, where that can be seen."""
    if isinstance(completions, np.ndarray | jax.Array):
        return len(completions) if completions.ndim else None
    is_sequence = isinstance(completions, Sequence) and not isinstance(completions, str | bytes)
    return len(completions) if is_sequence else None
