"""RewardFunctionMonitor: a set of wrapped reward functions, and what their calls have cost."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from tunrex_jax_monitor.device.config import require_flag
from tunrex_jax_monitor.host.functions import Hold, Listener, RewardFunctionWrapper
from tunrex_jax_monitor.host.names import require_functions, require_names
from tunrex_jax_monitor.host.sinks.console import ascii_safe, say


class RewardFunctionMonitor:
    """A set of wrapped reward functions.

    Args:
      verbose: say each function as it is wrapped.

    Attributes:
      wrapped_functions: the wrappers, by name.
    """

    def __init__(self, verbose: bool = False) -> None:
        require_flag("verbose", verbose)
        self.verbose = verbose
        self.wrapped_functions: dict[str, RewardFunctionWrapper] = {}

    def wrap(
        self,
        reward_fn: Callable[..., Any],
        name: str | None = None,
        log_errors: bool = True,
        track_timing: bool = True,
        *,
        listener: Listener | None = None,
        hold: Hold = nullcontext,
    ) -> RewardFunctionWrapper:
        """Return the function, wrapped; of two with one name, the second replaces the first in this set.

        The arguments are those of `RewardFunctionWrapper`.
        """
        wrapper = RewardFunctionWrapper(reward_fn, name, log_errors, track_timing, listener=listener, hold=hold)
        self.wrapped_functions[wrapper.name] = wrapper
        if self.verbose:
            say(f"Wrapped reward function: {ascii_safe(wrapper.name)}")
        return wrapper

    def wrap_all(
        self, reward_fns: Sequence[Callable[..., Any]], names: Sequence[str] | None = None, **keywords: Any
    ) -> list[RewardFunctionWrapper]:
        """Return all functions, wrapped, in order; `keywords` are as in `wrap`.

        Raises:
          ValueError: there is no function, or names are of another number.
        """
        require_functions("reward_fns", reward_fns)
        require_names("names", names, len(reward_fns))
        given = [None] * len(reward_fns) if names is None else names
        return [self.wrap(f, name, **keywords) for f, name in zip(reward_fns, given, strict=True)]

    def get_all_stats(self) -> dict[str, dict[str, Any]]:
        """Return `RewardFunctionWrapper.get_stats` of each, by name."""
        return {name: wrapper.get_stats() for name, wrapper in self.wrapped_functions.items()}

    def get_metrics_dict(self) -> dict[str, float]:
        """Return `reward_fn/<name>/` calls, errors, error_rate, avg_time_ms and max_time_ms."""
        metrics: dict[str, float] = {}
        for name, stats in self.get_all_stats().items():
            metrics |= {f"reward_fn/{name}/{key}": float(stats[key]) for key in ("calls", "errors", "error_rate")}
            metrics |= {f"reward_fn/{name}/{key}_time_ms": 1e3 * stats[f"{key}_time"] for key in ("avg", "max")}
        return metrics

    def print_summary(self) -> None:
        """Print calls, errors and times of each function."""
        print(self.format_summary())  # noqa: T201 - the method's name says so

    def format_summary(self) -> str:
        """Return what `print_summary` prints."""
        lines = ["=" * 80, "Reward Function Execution Summary", "=" * 80]
        for name, s in self.get_all_stats().items():
            times = [f"{1e3 * s[f'{key}_time']:.3f}" for key in ("avg", "min", "max")]
            lines += [
                "",
                f"{name}:",
                f"  Calls: {s['calls']}",
                f"  Errors: {s['errors']} ({s['error_rate']:.1%})",
                *([f"  Left out of the statistics: {s['left_out']}"] if s["left_out"] else []),
                f"  Avg time: {times[0]} ms",
                f"  Time range: [{times[1]}, {times[2]}] ms",
            ]
        return "\n".join([*lines, "=" * 80])

    def reset_all(self) -> None:
        """Forget every call of every function."""
        for wrapper in self.wrapped_functions.values():
            wrapper.reset()
