"""A made-up GRPO run: rewards that learn, on the host, with faults planted where they can be checked afterwards."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from tunrex_jax_monitor.host.record import AlertEvent
from tunrex_jax_monitor.host.report.episodes import TOTAL

PROMPTS, GROUP_SIZE = 16, 8
LEAST_STEPS = 200  # with faults: before one the rules learn what is normal, and in it they need time to be sure
_TOLD_WITHIN = 30  # steps after a fault
_NAMES = ("format", "answer", "brevity", "helpfulness")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What a fault does, and what has to be said about it.

    Attributes:
      text: in words.
      alert: the alert type that it must raise.
      reward: which reward it hits, as a position; None for all.
      begin: where in the run it begins, as a share of the steps.
      end: where it ends.
    """

    text: str
    alert: str
    reward: int | None
    begin: float
    end: float


FAULTS = {
    "nan": Fault("a few samples are NaN", "NONFINITE", 0, 0.3, 0.31),
    "drop": Fault("pays a tenth", "DROP", 1, 0.45, 0.6),
    "collapse": Fault("every completion of a prompt gets the same rewards", "GROUP_COLLAPSE", None, 0.64, 0.82),
    "flatline": Fault("returns 0.7 whatever the completion", "FLATLINE", 2, 0.88, 1.0),
}


def reward_names(count: int) -> tuple[str, ...]:
    """Return so many names."""
    return (*_NAMES, *(f"reward_{i}" for i in range(len(_NAMES) + 1, count + 1)))[:count]


@dataclasses.dataclass(frozen=True)
class Planted:
    """A fault in a run: steps `first` to `last`, of one reward or of all."""

    kind: str
    reward: str
    first: int
    last: int

    @property
    def fault(self) -> Fault:
        """What it is."""
        return FAULTS[self.kind]

    def seen(self, alerts: Sequence[AlertEvent]) -> int | None:
        """Return the first step at which an alert said so, or None."""
        steps = [
            alert.step
            for alert in alerts
            if (alert.type, alert.reward) == (self.fault.alert, self.reward)
            and self.first <= alert.step <= self.last + _TOLD_WITHIN
        ]
        return min(steps, default=None)


def plant(kinds: Sequence[str], names: Sequence[str], steps: int) -> list[Planted]:
    """Return where the faults go; no two overlap."""
    return [
        Planted(
            kind,
            TOTAL if fault.reward is None else names[min(fault.reward, len(names) - 1)],
            round(fault.begin * steps),
            max(round(fault.end * steps), round(fault.begin * steps) + 1) - 1,
        )
        for kind, fault in FAULTS.items()
        if kind in kinds
    ]


def stream(names: Sequence[str], steps: int, planted: Sequence[Planted]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the rewards of each step, float32[PROMPTS, GROUP_SIZE] by name."""
    rng = np.random.default_rng(0)
    for step in range(steps):
        skill = 1 / (1 + np.exp(3 - 7 * step / max(steps, 250)))  # 0.05 to 0.98, as learning goes
        rewards = {name: _rewards(rng, i, skill).astype(np.float32) for i, name in enumerate(names)}
        for one in planted:
            if one.first <= step <= one.last:
                _damage(rewards, one)
        yield rewards


def _rewards(rng: np.random.Generator, kind: int, skill: float) -> np.ndarray:
    difficulty = rng.normal(size=(PROMPTS, 1))
    noise = rng.normal(size=(PROMPTS, GROUP_SIZE))
    if kind % 4 == 0:
        return rng.random((PROMPTS, GROUP_SIZE)) < 0.6 + 0.3 * skill
    if kind % 4 == 1:
        return noise < 0.6 + 1.4 * skill + 0.8 * difficulty - 0.8
    if kind % 4 == 2:
        return np.clip(0.8 - 0.3 * skill + 0.15 * noise, 0, 1)
    return 0.2 + 0.5 * skill + 0.1 * difficulty + 0.15 * noise


def _damage(rewards: dict[str, np.ndarray], planted: Planted) -> None:
    if planted.kind == "nan":
        rewards[planted.reward][0, :3] = np.nan
    elif planted.kind == "drop":
        rewards[planted.reward] *= 0.1
    elif planted.kind == "flatline":
        rewards[planted.reward][:] = 0.7
    else:
        rewards.update({name: np.broadcast_to(values[:, :1], values.shape) for name, values in rewards.items()})
