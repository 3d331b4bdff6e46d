"""Names for reward functions: unique, and free of what would mean something else in a log key."""

import functools
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from tunrex_jax_monitor.device.config import RESERVED_NAMES, invalid

_logger = logging.getLogger("tunrex_jax_monitor")
_UNSEEN = {"Cc", "Cf", "Cs"}  # control, formatting (such as right-to-left), halves of surrogate pairs
ADVANTAGES = "advantages"  # a signal beside the rewards, under a name of its own
# Tunix files a reward under rewards/<mode>/<name>, beside its own sum, mean, min and max.
_TAKEN = RESERVED_NAMES | {ADVANTAGES, "eval", "sum", "mean", "min", "max"}


def name_of(function: object, default: str) -> str:
    """Return what a callable calls itself, also a `functools.partial` or an object with `__call__`.

    >>> name_of(functools.partial(max, 1), "reward_0")
    'max'
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return name if isinstance(name, str) and name.strip() else default


def clean(name: str) -> str:
    """Return the name without slashes, spaces and control characters, and clear of reserved words."""
    visible = "".join(" " if unicodedata.category(c) in _UNSEEN else c for c in name)
    cleaned = re.sub(r"[\s/\\<>]+", "_", visible.strip()).strip("_") or "unnamed"
    return f"{cleaned}_reward" if cleaned in _TAKEN else cleaned


def require_functions(argument: str, got: Any) -> None:
    """Refuse what is no list of one or more callables."""
    is_list = isinstance(got, Sequence) and not isinstance(got, str | bytes)
    if not is_list or not got or not all(callable(function) for function in got):
        raise invalid(argument, got, "a list of one or more callables", "Pass the list that the trainer would get.")


def require_names(argument: str, got: Any, count: int) -> None:
    """Refuse what is neither None nor one name per function."""
    is_list = isinstance(got, Sequence) and not isinstance(got, str | bytes)
    if got is not None and not (is_list and len(got) == count and all(isinstance(name, str) for name in got)):
        raise invalid(argument, got, f"{count} names, one per function", "Or leave it out.")


def assign(functions: Sequence[Callable[..., Any]], given: Sequence[str] | None) -> list[str]:
    """Return one usable name per function; a name that had to change is told, in one warning.

    Raises:
      ValueError: no function, something that cannot be called, or names of another number.
    """
    require_functions("reward_functions", functions)
    require_names("reward_names", given, len(functions))
    wanted = [name_of(f, f"reward_{i}") for i, f in enumerate(functions)] if given is None else given
    names: list[str] = []
    for name in map(clean, wanted):
        number, unique = 1, name
        while unique in names:
            number += 1
            unique = f"{name}_{number}"
        names.append(unique)
    changed = [f"{old!r} is logged as {new!r}" for old, new in zip(wanted, names, strict=True) if old != new]
    if changed:
        _logger.warning("Reward names must be distinct, without slashes and not reserved: %s.", ", ".join(changed))
    return names
