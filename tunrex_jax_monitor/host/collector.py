"""Collector: what the calls of reward functions say, checked and pooled until a step ends.

Everything here runs on the thread that called the function, so it copies numbers, and waits for nothing.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tunrex_jax_monitor.host.functions import Call, to_samples
from tunrex_jax_monitor.host.pool import Pool, Round, round_key

_logger = logging.getLogger("tunrex_jax_monitor")
ADVANTAGES = "advantages"
_REMEMBERED = 256


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
        self._rewards, self._advantages = Pool(names), Pool((ADVANTAGES,))
        self._modes: OrderedDict[int, str] = OrderedDict()  # of the newest completions
        self._told: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many finished rounds of calls wait for the end of their step."""
        return self._rewards.waiting

    def hear(self, call: Call) -> None:
        """Take in what a reward function returned."""
        if self._on_group_size is not None:
            self._learn_group_size(call.keywords)
        mode = mode_of(call.keywords.get("mode", "train"))
        self.note_mode(call.keywords.get("completions"), mode)
        if not self._is_listening:
            return
        samples, expected = capture(call.result), _expected(call)
        if expected is not None and np.ndim(call.result) == 0:
            samples = np.full(expected, to_samples(samples)[0], np.float32)
        if expected is not None and np.size(samples) != expected:
            self.tell(
                f"{call.name} returned {np.size(samples)} rewards for {expected} completions; such calls are left out "
                "of the statistics. Return one reward per completion."
            )
        else:
            with self._lock:
                if self._is_listening:
                    self._rewards.add(mode, round_key(call.arguments, call.keywords), call.name, samples)

    def stop_listening(self) -> None:
        """Leave what functions return alone, and forget what they returned: it comes by another way as well."""
        with self._lock:
            if self._is_listening:
                self._is_listening = False
                self._rewards.take("all")

    def note_mode(self, completions: Any, mode: str) -> None:
        """Remember of which mode completions are: what Tunix tells of their advantages does not say."""
        self._modes[id(completions)] = mode
        self._modes.move_to_end(id(completions))
        while len(self._modes) > _REMEMBERED:
            self._modes.popitem(last=False)

    def add(self, rewards: Mapping[str, Any], mode: str) -> None:
        """Add a whole round; an unknown name is told once and left out."""
        for name in rewards.keys() - set(self._names):
            self.tell(f"There is no reward {name!r}, so it is left out. Known are: {', '.join(self._names)}.")
        for name in self._names:
            if rewards.get(name) is not None:
                self._rewards.add(mode, id(rewards), name, capture(rewards[name]))

    def add_advantages(self, advantages: Any, completions: Any) -> None:
        """Add the advantages of some completions, unless these were of another mode than training."""
        if self._modes.get(id(completions), "train") != "train":
            return
        self._advantages.add(ADVANTAGES, id(advantages), ADVANTAGES, capture(advantages))

    def take(self, unfinished: Literal["none", "mine", "all"] = "mine") -> dict[str, list[Round]]:
        """Take out all rounds, by mode; see `Pool.take`."""
        return self._rewards.take(unfinished) | self._advantages.take(unfinished)

    def take_advantages(self) -> dict[str, list[Round]]:
        """Take out the rounds of advantages alone."""
        return self._advantages.take("mine")

    def tell(self, message: str) -> None:
        """Log a warning, once."""
        if message not in self._told:
            self._told.add(message)
            _logger.warning("%s", message)

    def _learn_group_size(self, keywords: Mapping[str, Any]) -> None:
        size, ids = keywords.get("num_generations"), keywords.get("trajectory_ids")
        if size is None and ids is not None and len(ids) and isinstance(ids[0], str):  # "<row>_<completion>"
            size = sum(i.rpartition("_")[0] == ids[0].rpartition("_")[0] for i in ids)
        if size is not None and int(size) > 0 and self._on_group_size is not None:
            self._on_group_size(int(size))
            self._on_group_size = None


def capture(result: Any) -> Any:
    """Return a copy of what a function returned; what lies on a device is taken as it is, and read later."""
    if hasattr(result, "copy_to_host_async"):
        result.copy_to_host_async()
        return result
    return to_samples(result)


def mode_of(given: Any) -> str:
    """Return "train" or "eval", of a text or an enum.

    >>> mode_of("Mode.EVAL")
    'eval'
    """
    return str(getattr(given, "value", given)).rpartition(".")[2].lower()


def _expected(call: Call) -> int | None:
    """Return how many completions the function was given, where that can be seen."""
    subject = call.keywords.get("completions", call.arguments[0] if call.arguments else None)
    return len(subject) if isinstance(subject, list | tuple | np.ndarray) and np.ndim(subject) else None
