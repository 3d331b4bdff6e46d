"""What each alert means, in words: one table from type to text, explanation and remedy."""

from collections.abc import Mapping
from typing import NamedTuple

from tunrex_jax_monitor.device.alerts import Alert
from tunrex_jax_monitor.device.config import Config


class Message(NamedTuple):
    """Texts of one alert type. `numbers` are shown where the step is still in the trace."""

    text: str
    numbers: str
    threshold: str | None  # the field of the configuration that sets the limit
    remedy: str


MESSAGES: Mapping[Alert, Message] = {
    Alert.OUTLIER: Message(
        "more far-off samples than before",
        "step min {min}, max {max}",
        "std_threshold",
        "Look at the completions with the extreme rewards; clip the reward if they are legitimate.",
    ),
    Alert.DROP: Message(
        "the short average is far below the long one",
        "{ema_short} against {ema_long}",
        "drop_threshold",
        "Compare with the last change of data, policy or reward code; go back to a checkpoint before this step.",
    ),
    Alert.SPIKE: Message(
        "the short average is far above the long one",
        "{ema_short} against {ema_long}",
        "spike_threshold",
        "Read the best completions: a sudden gain is often a loophole in the reward.",
    ),
    Alert.FLATLINE: Message(
        "one constant value, or almost only zeros",
        "step mean {mean}, std {std}",
        "zero_threshold",
        "Check that the reward function still parses the completions and that its inputs arrive.",
    ),
    Alert.NEGATIVE: Message(
        "almost all samples are negative",
        "step mean {mean}",
        "negative_threshold",
        "If the reward is a penalty, declare bounds=(low, 0) for it; else check its sign.",
    ),
    Alert.NONFINITE: Message(
        "NaN or infinite rewards, left out of every statistic",
        "step mean of the rest {mean}",
        None,
        "Find the division or logarithm in the reward function; the trainer's sum may be poisoned by them.",
    ),
    Alert.SATURATION: Message(
        "almost all samples are at the maximum",
        "step mean {mean}, max {max}",
        "saturation_threshold",
        "The reward no longer tells completions apart: make the task harder or lower its weight.",
    ),
    Alert.GROUP_COLLAPSE: Message(
        "most groups have no variance, so no gradient",
        "share in this step {zero_share}",
        "collapse_threshold",
        "Raise the sampling temperature, mix in prompts of other difficulty, or filter solved ones.",
    ),
}


Numbers = Mapping[str, float | None]


def describe(kind: Alert, reward: str, numbers: Numbers | None, before: Numbers | None = None) -> str:
    """Return the alert line. It starts with `TYPE: reward`, which the original document's readers split on.

    Args:
      kind: of the alert.
      reward: its name.
      numbers: of the step, where they are known.
      before: of the step before it.
    """
    if numbers is None:
        return f"{kind.name}: {reward} - {MESSAGES[kind].text}"
    line = f"{kind.name}: {reward} - {_seen(kind, before)}"
    shown = {name: "n/a" if value is None else f"{value:.4g}" for name, value in numbers.items()}
    return f"{line} ({MESSAGES[kind].numbers.format(**shown)})"


def _seen(kind: Alert, before: Numbers | None) -> str:
    """Return the text; of FLATLINE which of both it is, as the step before shows: one that varied is no constant."""
    if kind is not Alert.FLATLINE or before is None or before["min"] is None:
        return MESSAGES[kind].text
    return "one constant value" if before["min"] == before["max"] != 0 else "almost only zeros"


def threshold(kind: Alert, config: Config) -> float | None:
    """Return the configured limit of an alert type."""
    field = MESSAGES[kind].threshold
    return None if field is None else float(getattr(config, field))
