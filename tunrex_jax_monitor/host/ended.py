"""Ended: steps that have ended, and who ends them: the owner of the loop, or a trainer that a monitor follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import SupportsInt

from tunrex_jax_monitor.host.pool import Look, Round

_UNSURE = 64  # steps that the owner ends, before a trainer that says nothing is taken to have nothing to say


@dataclass
class EndedStep:
    """What there is of a step when it ends."""

    step: SupportsInt
    rounds: dict[str, list[Round]]
    looks: Sequence[Look]  # at what other threads have begun
    given: Sequence[Round]  # replaces what the functions returned
    time: float  # of `time.monotonic`
    is_trainers: bool  # the trainer has told the end


class EndedSteps:
    """Lets steps wait where a trainer may yet hand over their rewards, since these count instead.

    A trainer that has told two ends without rewards hands over none. Then the owner's ends count, if there are any:
    those may come with values.

    Args:
      fold: takes a step that counts.

    Attributes:
      are_given: a trainer hands over rewards, and those count.
      has_trainer: there is one that may tell of steps.
    """

    def __init__(self, fold: Callable[[EndedStep], object]) -> None:
        self.are_given = self.has_trainer = False
        self._are_owners = self._are_trainers = False
        self._fold = fold
        self._has_owner_ended = False
        self._first: int | None = None  # that the trainer has ended without rewards
        self._waiting: list[EndedStep] = []

    @property
    def is_sure(self) -> bool:
        """Whether it is known that the next step that ends counts."""
        return self._are_owners or self._are_trainers or not self.has_trainer

    def expect_given(self, first: int) -> bool:
        """Take it that rewards are handed over, from this step on; False where that comes too late."""
        if not self._are_owners and not self.are_given:
            self.are_given = True
            self.settle(before=first)
        return not self._are_owners

    def hear_owner(self) -> None:
        """Learn that the owner ends a step."""
        self._has_owner_ended = True

    def hear_trainer(self, step: int) -> bool:
        """Learn that a trainer has ended a step without rewards; return whether that counts."""
        if self._first is None:
            self._first = step
        elif step != self._first and not self.is_sure:
            self._are_owners, self._are_trainers = self._has_owner_ended, not self._has_owner_ended
            self.settle()
        return not self._are_owners

    def add(self, ended: EndedStep) -> None:
        """Fold a step, or let it wait."""
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.is_trainers and not ended.rounds and not ended.is_trainers:  # the same step
            last.step, last.given = ended.step, ended.given or last.given
        elif ended.rounds or ended.looks or ended.given:
            self._waiting.append(ended)
        self._are_owners = self._are_owners or len(self._waiting) > _UNSURE
        if self.is_sure:
            self.settle()

    def settle(self, before: int | None = None) -> None:
        """Fold the steps that wait: all, or those before one, and forget the others."""
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            if before is None or (isinstance(ended.step, int) and ended.step < before):
                self._fold(ended)
