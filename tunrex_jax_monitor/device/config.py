"""Config: every static choice, as frozen, hashable Python values that are checked when they are given.

Everything that fixes a shape or a constant of the compiled program is here, so equal configurations share one program.
"""

import dataclasses
import numbers
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Literal

import numpy as np

RESERVED_NAMES = frozenset({"alerts", "completions", "groups", "monitoring", "reward", "reward_fn", "rewards"})
MAX_ATOMS = 16
MAX_COUNTED = 2**24  # a float32 counts no further
_MAX_STEPS = 2**20  # between two emissions: the trace keeps each, 38 MB for every row
_LARGEST, _SMALLEST = (float(v) for v in (np.finfo(np.float32).max, np.finfo(np.float32).tiny))


def invalid(argument: str, got: object, allowed: str, remedy: str) -> ValueError:
    """Return the four-part error: argument, got, allowed, remedy."""
    return ValueError(f"{argument}: got {got!r}, allowed: {allowed}. {remedy}")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to watch and when to warn.

    Attributes:
      reward_names: one name per reward function, in order.
      group_size: G, completions per prompt; None switches the group statistics off.
      weights: how the trainer weighs the rewards in its sum, in order or by name; 1 each by default.
      window_size: W, samples per reward that the window statistics cover.
      ema_alpha_short: rate of the short average, per step, in (0, 1].
      ema_alpha_long: rate of the long average, below the short one.
      log_frequency: steps between two emissions, and the length of the per-step trace; at most 2^20.
      detect: "guarded" rules, the "literal" table of the original document, or "off".
      std_threshold: OUTLIER beyond this many standard deviations of the window.
      drop_threshold: DROP when the short average is below this share of the long one.
      spike_threshold: SPIKE when the short average is above this multiple of the long one.
      zero_threshold: FLATLINE above this share of zeros.
      negative_threshold: NEGATIVE above this share of negative samples.
      saturation_threshold: SATURATION above this share of samples at the upper bound.
      collapse_threshold: GROUP_COLLAPSE above this share of groups without variance.
      min_samples: window samples before a window rule may fire.
      warmup_steps: steps before an EMA rule may fire.
      flatline_samples: this many equal samples in a row are a FLATLINE. The share of zeros counts only in a window of
        at least as many.
      noise_threshold: guarded DROP and SPIKE also exceed this multiple of the averages' own noise.
      false_alarm_rate: guarded OUTLIER: chance per test of an event on data like that before.
      cooldown_steps: guarded: quiet steps that end an episode.
      atoms: values that the run sketch counts exactly, at most 16.
      centers: per reward, in order or by name; the sketch resolves relative to the distance from it.
      bounds: `{name: (low, high)}` declared ranges, for `frac_at_max`, SATURATION and NEGATIVE; else as observed.
      correct_threshold: a sample at or above it is solved.
      correct_reward: which reward `correct_threshold` judges; the weighted total by default.
      zero_std_tolerance: a group has no variance when max - min is at most this.
      correlations: also keep Pearson correlations between all rewards.
    """

    reward_names: tuple[str, ...]
    _: dataclasses.KW_ONLY
    group_size: int | None = None
    weights: Any = None
    window_size: int = 1000
    ema_alpha_short: float = 0.1
    ema_alpha_long: float = 0.01
    log_frequency: int = 10
    detect: Literal["guarded", "literal", "off"] = "guarded"
    std_threshold: float = 3.0
    drop_threshold: float = 0.5
    spike_threshold: float = 2.0
    zero_threshold: float = 0.95
    negative_threshold: float = 0.9
    saturation_threshold: float = 0.95
    collapse_threshold: float = 0.8
    min_samples: int = 10
    warmup_steps: int = 20
    flatline_samples: int = 500
    noise_threshold: float = 5.0
    false_alarm_rate: float = 1e-3
    cooldown_steps: int = 10
    atoms: tuple[float, ...] = ()
    centers: Any = None
    bounds: Any = None
    correct_threshold: float = 1.0
    correct_reward: str | None = None
    zero_std_tolerance: float = 1e-6
    correlations: bool = False

    def __post_init__(self) -> None:
        """Bring every value into one hashable form, and refuse what cannot work."""
        _set(self, "reward_names", _names(self.reward_names))
        self._check_sizes()
        self._check_rates()
        self._check_thresholds()
        per_reward = {"weights": 1.0, "centers": 0.0}
        for field, default in per_reward.items():
            _set(self, field, _per_reward(field, getattr(self, field), self.reward_names, default))
        _set(self, "atoms", _atoms(self.atoms))
        _set(self, "bounds", _bounds(self.bounds, self.reward_names))
        judged = self.correct_reward
        if judged is not None and not (isinstance(judged, str) and judged in self.reward_names):
            raise invalid(
                "correct_reward", self.correct_reward, f"None or one of {self.reward_names}", "Name a reward."
            )
        self._check_correct()
        if not isinstance(self.correlations, bool):
            raise invalid("correlations", self.correlations, "True or False", "Leave it out to keep it off.")

    def _check_correct(self) -> None:
        judged = self.correct_reward
        high = None if judged is None else self.bounds[self.reward_names.index(judged)][1]
        if high is not None and self.correct_threshold > high:
            allowed = f"at most {high}, the upper bound of {judged!r}"
            raise invalid("correct_threshold", self.correct_threshold, allowed, "No completion could be correct.")

    @property
    def rewards(self) -> int:
        """R, the number of reward functions."""
        return len(self.reward_names)

    def _check_sizes(self) -> None:
        _set(self, "log_frequency", as_integer("log_frequency", self.log_frequency, 1, _MAX_STEPS))
        _set(self, "min_samples", as_integer("min_samples", self.min_samples, 1))
        for field, low in (("window_size", 1), ("flatline_samples", 2)):
            _set(self, field, as_integer(field, getattr(self, field), low, MAX_COUNTED))
        for field in ("warmup_steps", "cooldown_steps"):
            _set(self, field, as_integer(field, getattr(self, field), 0))
        if self.group_size is not None:
            _set(self, "group_size", as_integer("group_size", self.group_size, 1))
        if self.cooldown_steps > 15:
            raise invalid("cooldown_steps", self.cooldown_steps, "0 to 15", "The device keeps it in four bits.")
        if self.min_samples > self.window_size:
            remedy = "The window would never be warm: lower min_samples or raise window_size."
            raise invalid("min_samples", self.min_samples, f"at most window_size = {self.window_size}", remedy)

    def _check_rates(self) -> None:
        for field in ("ema_alpha_short", "ema_alpha_long"):
            rate = _real(field, getattr(self, field))
            if not 0 < rate <= 1:
                raise invalid(field, rate, "a rate in (0, 1]", "0.1 averages over about 20 steps.")
            _set(self, field, rate)
        if np.float32(self.ema_alpha_long) >= np.float32(self.ema_alpha_short):
            allowed = f"below ema_alpha_short = {self.ema_alpha_short}"
            raise invalid(
                "ema_alpha_long", self.ema_alpha_long, allowed, "The long average is the slow one: swap the two?"
            )
        rate = _real("false_alarm_rate", self.false_alarm_rate)
        if not 0 < rate < 1:
            raise invalid("false_alarm_rate", rate, "a probability in (0, 1)", "The default is 0.001.")
        _set(self, "false_alarm_rate", rate)

    def _check_thresholds(self) -> None:
        if not isinstance(self.detect, str) or self.detect not in ("guarded", "literal", "off"):
            raise invalid("detect", self.detect, "'guarded', 'literal' or 'off'", "'guarded' is the default.")
        inside = "strictly between 0 and 1"
        limits: dict[str, tuple[Callable[[float], bool], str]] = {
            "std_threshold": (lambda v: v > 0, "above 0"),
            "drop_threshold": (lambda v: 0 <= v < 1, "in [0, 1)"),
            "spike_threshold": (lambda v: v > 1, "above 1"),
            "zero_threshold": (lambda v: 0 < v < 1, inside),
            "negative_threshold": (lambda v: 0 < v < 1, inside),
            "saturation_threshold": (lambda v: 0 < v < 1, inside),
            "collapse_threshold": (lambda v: 0 < v < 1, inside),
            "noise_threshold": (lambda v: v >= 0, "0 or more"),
            "zero_std_tolerance": (lambda v: v >= 0, "0 or more"),
            "correct_threshold": (lambda v: True, "any finite number"),
        }
        for field, (accepts, allowed) in limits.items():
            value = _real(field, getattr(self, field))
            if not accepts(float(np.float32(value))):
                raise invalid(
                    field, value, allowed, f"The default is {type(self).__dataclass_fields__[field].default}."
                )
            _set(self, field, value)


def _set(config: Config, field: str, value: object) -> None:
    object.__setattr__(config, field, value)  # the class is frozen for everybody else


def require_flag(argument: str, got: object) -> None:
    """Refuse what is no flag: a text such as "no" would count as True."""
    if not isinstance(got, bool | np.bool_):
        raise invalid(argument, got, "True or False", "Pass one of the two.")


def as_integer(argument: str, got: Any, low: int, high: int = 2**31 - 1) -> int:
    """Return a Python int, of an integer of Python or numpy."""
    is_whole = isinstance(got, numbers.Integral) and not isinstance(got, bool)
    if is_whole and int(got) > high:
        raise invalid(argument, got, f"a whole number, {low} to {high}", f"Pass {high} or less.")
    if not is_whole or int(got) < low:
        raise invalid(argument, got, f"a whole number, {low} or more", f"Pass {low} or more.")
    return int(got)


def _real(argument: str, got: Any) -> float:
    """Return a Python float that the device, which computes in float32, neither loses nor overflows."""
    is_number = isinstance(got, numbers.Real) and not isinstance(got, bool)
    if isinstance(got, np.floating):
        got = float(got)  # of a narrow type, comparing would overflow
    if not is_number or not -_LARGEST <= got <= _LARGEST:
        raise invalid(argument, got, f"a finite number, at most {_LARGEST:.2g} (float32)", "Give a Python float.")
    if 0 < abs(got) < _SMALLEST:
        raise invalid(argument, got, f"0, or a number from {_SMALLEST:.2g} on (float32)", "Give 0 if that is meant.")
    return float(got)


def _sequence(argument: str, got: object, allowed: str, remedy: str) -> tuple[Any, ...]:
    """Return the items of an iterable that has an order: no text, no set, no array without axes."""
    if isinstance(got, str | bytes | bytearray | Set) or getattr(got, "ndim", 1) == 0:
        raise invalid(argument, got, allowed, remedy)
    if isinstance(got, Iterable):
        return tuple(got)
    raise invalid(argument, got, allowed, remedy)


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _names(got: object) -> tuple[str, ...]:
    remedy = "Give a tuple of names, one per reward function."
    names = _sequence("reward_names", got, "a sequence of strings", remedy)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise invalid("reward_names", names, "one or more non-empty strings", remedy)
    if not all(_is_unicode(name) for name in names):
        raise invalid("reward_names", names, "names that UTF-8 can write", "Leave halves of surrogate pairs out.")
    names = tuple(str.__str__(name) for name in names)  # of an enum, its value: names are hashed into the layout
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise invalid("reward_names", names, "distinct names", f"Rename the second {', '.join(repeated)}.")
    taken = sorted(RESERVED_NAMES.intersection(names))
    if taken:
        raise invalid("reward_names", names, "names that are not log namespaces", f"Rename {', '.join(taken)}.")
    nested = [name for name in names if any(name.startswith(f"{other}/") for other in names)]
    if nested:
        raise invalid("reward_names", names, "no name inside another's keys", f"Rename {', '.join(nested)}.")
    return names


def _per_reward(argument: str, got: object, names: tuple[str, ...], default: float) -> tuple[float, ...]:
    if got is None:
        return (default,) * len(names)
    if isinstance(got, Mapping):
        _known(argument, got, names)
        got = tuple(got.get(name, default) for name in names)
    items = _sequence(argument, got, "a sequence or a mapping by reward name", "Give one number per reward.")
    values = tuple(_real(argument, item) for item in items)
    if len(values) != len(names):
        raise invalid(argument, values, f"{len(names)} numbers, one for each of {names}", "Or give a mapping by name.")
    return values


def _known(argument: str, got: Mapping[Any, Any], names: tuple[str, ...]) -> None:
    unknown = [key for key in got if key not in names]
    if unknown:
        raise invalid(argument, unknown, f"keys among {names}", "Correct the name.")


def _atoms(got: object) -> tuple[float, ...]:
    got = sorted(got) if isinstance(got, Set) else got
    items = _sequence("atoms", got, "a sequence of numbers", "For example atoms=(0, 0.5, 1).")
    atoms = tuple(sorted(_real("atoms", item) for item in items))
    if len(atoms) > MAX_ATOMS or len({np.float32(atom) for atom in atoms}) != len(atoms):
        raise invalid("atoms", atoms, f"at most {MAX_ATOMS} distinct float32 values", "Name the frequent ones only.")
    return atoms


def _bounds(got: object, names: tuple[str, ...]) -> tuple[tuple[float | None, float | None], ...]:
    if got is None:
        return ((None, None),) * len(names)
    if isinstance(got, Mapping):
        _known("bounds", got, names)
        got = tuple(got.get(name, (None, None)) for name in names)
    items = _sequence("bounds", got, "a mapping {name: (low, high)}", "For example bounds={'answer': (0, 1)}.")
    pairs = tuple(_pair(item) for item in items)
    if len(pairs) != len(names):
        raise invalid("bounds", pairs, f"{len(names)} pairs, one for each of {names}", "Or give a mapping by name.")
    return pairs


def _pair(got: object) -> tuple[float | None, float | None]:
    problem = ("bounds", got, "pairs (low, high), each a number or None", "Use None where there is no bound.")
    pair = _sequence(*problem)
    if len(pair) != 2:
        raise invalid(*problem)
    low, high = (None if v is None else _real("bounds", v) for v in pair)
    if low is not None and high is not None and np.float32(low) >= np.float32(high):
        raise invalid("bounds", (low, high), "low < high", "Swap the two?")
    return low, high
