"""Arguments of the host side, checked where they are given: each refusal says got, allowed, and what to do."""

import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tunrex_jax_monitor.device.config import Config, invalid


def require_path(argument: str, got: object) -> None:
    """Refuse what names no file or directory."""
    if not isinstance(got, str | os.PathLike) or not os.fspath(got) or "\0" in os.fsdecode(got):
        raise invalid(argument, got, "a path", "Pass for example 'runs/first'.")


def require_text(argument: str, got: object) -> None:
    """Refuse what is no text."""
    if not isinstance(got, str):
        raise invalid(argument, got, "a text such as 'monitor/'", "Leave it out for none.")


def require_texts(argument: str, got: object) -> None:
    """Refuse what is no sequence of texts; a text is one of letters."""
    if isinstance(got, str) or not isinstance(got, Sequence) or not all(isinstance(text, str) for text in got):
        raise invalid(argument, got, "a list of texts", "Pass for example ['grpo'].")


def require_mapping(argument: str, got: object) -> None:
    """Refuse what is neither a mapping nor None."""
    if not isinstance(got, Mapping | None):
        raise invalid(argument, got, "a mapping", "Pass for example {'lr': 1e-6}.")


def require_sinks(argument: str, got: object) -> None:
    """Refuse what is no sequence of objects that take records, each of them once."""
    if not isinstance(got, Sequence) or not all(_is_sink(sink) for sink in got):
        raise invalid(argument, got, "objects with write(record) and close()", "Pass a list of sinks.")
    require_distinct(argument, got)


def require_distinct(argument: str, got: Sequence[object]) -> None:
    """Refuse sinks of which one comes twice."""
    if len(set(map(id, got))) < len(got):
        raise invalid(argument, got, "each sink once", "Two threads would write to it: take the second out.")


def _is_sink(got: object) -> bool:
    return not isinstance(got, type) and all(callable(getattr(got, name, None)) for name in ("write", "close"))


def require_callable(argument: str, got: object) -> None:
    """Refuse what is neither a function nor None."""
    if got is not None and not callable(got):
        raise invalid(argument, got, "a function, or None", "Pass the function itself.")


def as_tuple(names: Any) -> tuple[str, ...]:
    """Return a sequence of names as a tuple; what is none goes on as it is, to be refused."""
    is_sequence = isinstance(names, Iterable) and not isinstance(names, str)
    found: tuple[str, ...] = tuple(names) if is_sequence else names
    return found


def require_known(options: Mapping[str, object], constructor: Callable[..., object]) -> None:
    """Refuse further arguments that `RewardAccumulator` does not have, before anything begins.

    Raises:
      TypeError: there is no argument of that name; it says which one was meant.
    """
    fields = [field.name for field in dataclasses.fields(Config)]
    known = [name for name in (*inspect.signature(constructor).parameters, *fields) if name != "options"]
    for name in options:
        if name not in fields:
            near = difflib.get_close_matches(name, known, 1)
            remedy = f"Did you mean {near[0]}?" if near else "Leave it out."
            got = f"{name}: got an argument that does not exist. {remedy}"
            raise TypeError(f"{got} Allowed: {', '.join(dict.fromkeys(known))}.")
