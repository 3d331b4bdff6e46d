"""RewardAnomalyDetector: the alert rules for values that come one by one."""

from typing import Any

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import pool


class RewardAnomalyDetector:
    """Judges each step of a reward against the steps before it, by the rules of `RewardAccumulator`.

    An alert is told when its episode begins, not on every step that it lasts.

    Args:
      window_size: samples that the window rules look at.
      std_threshold: OUTLIER beyond this many standard deviations.
      drop_threshold: DROP when the short average is below this share of the long one.
      spike_threshold: SPIKE when it is above this multiple.
      **options: further arguments of `RewardAccumulator`, such as zero_threshold, negative_threshold, detect.

    Attributes:
      accumulator: the rules, as configuration; its reward is called "value".

    Raises:
      ValueError: an argument is wrong.
    """

    def __init__(
        self,
        window_size: int = 100,
        std_threshold: float = 3.0,
        drop_threshold: float = 0.5,
        spike_threshold: float = 2.0,
        **options: Any,
    ) -> None:
        self.accumulator = RewardAccumulator(
            ("value",),
            window_size=window_size,
            std_threshold=std_threshold,
            drop_threshold=drop_threshold,
            spike_threshold=spike_threshold,
            log_frequency=1,
            **options,
        )
        self._states: dict[str, MonitorState] = {}

    def detect(self, value: Any, name: str = "reward", stats: Any = None) -> list[str]:
        """Take one step of a reward, and return what began with it, each as "TYPE: name - text".

        Args:
          value: a scalar, list or array of samples.
          name: the reward; each has a past of its own.
          stats: not needed, since the past is kept here; the original document passes it.
        """
        acc = self.accumulator
        (own,) = acc.reward_names
        batch = pool.join([{own: value}], acc.reward_names, acc.group_size or 1, 0)
        state = self._states.get(name)
        state = acc.init(batch_size=len(batch.mask[own])) if state is None else acc.reset_interval(state)
        self._states[name] = state = pool.fold(acc, state, batch)
        told = [(event.type, event.message) for event in acc.record(state).alerts if event.reward == own]
        return [f"{kind}: {name}{message.removeprefix(f'{kind}: {own}')}" for kind, message in told]
