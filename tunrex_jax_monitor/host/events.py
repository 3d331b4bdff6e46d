"""What happened when: the steps of an interval one by one, and the alerts that began in them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tunrex_jax_monitor.device.alerts import BEGAN, TYPES, Alert
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.state import EVENTS, TraceRow
from tunrex_jax_monitor.device.summary import Summary
from tunrex_jax_monitor.host.messages import MESSAGES, Numbers, describe, threshold
from tunrex_jax_monitor.host.record import AlertEvent

TOTAL = "reward"  # the name of the weighted total in keys, series and alerts


class AlertHistory:
    """The newest alerts of a run, over all its emissions: the event ring that one of them carries holds 8 steps."""

    def __init__(self) -> None:
        self._began: set[tuple[int, int, Alert]] = set()
        self._span = (0, 0)  # of updates of which every alert is known

    def count(self, s: Summary, steps: int) -> int | None:
        """Take in what a summary knows; return how many alerts began in its last `steps` updates, None if not known."""
        last, known = int(s.updates), _known_from(s)
        goes_on = known <= self._span[1] <= last
        self._span = (min(self._span[0], known) if goes_on else known), last
        first = last - int(s.interval)  # what was told of later updates belongs to a past that has been given up
        before = {at for at in self._began if last - steps < at[0] <= first}
        self._began = before | {at for at in _began(s) if last - steps < at[0]}
        return len(self._began) if self._span[0] <= max(0, last - steps) else None


def count_back(s: Summary, step: int) -> range:
    """Return the owner's steps of an interval, where only the last is known: one per update."""
    return range(step + 1 - max(int(s.interval), 1), step + 1)


def without_abandoned(steps: Sequence[int]) -> list[int]:
    """Return the steps without those that a return to a checkpoint has undone.

    >>> without_abandoned([10, 11, 12, 13, 12, 13, 14])
    [10, 11, 12, 13, 14]
    """
    kept: list[int] = []
    for step in steps:
        while kept and kept[-1] >= step:
            kept.pop()
        kept.append(step)
    return kept


def series(config: Config, s: Summary, steps: Sequence[int]) -> dict[str, list[Any]]:
    """Return the per-step values of the interval by name; None where a step had no data."""
    rows, step_of = list(_trace(s)), _step_of(s, steps)
    found: dict[str, list[Any]] = {"step": [step_of(update) for update, _ in rows]}
    for i, name in enumerate((*config.reward_names, TOTAL)):
        for field in ("mean", "std", "min", "max", "ema_short", "ema_long"):
            found[f"{name}/{field}"] = [_or_none(getattr(row, field)[i]) for _, row in rows]
        found[f"{name}/count"] = [int(row.samples[i]) for _, row in rows]
        if config.group_size is not None:
            found[f"{name}/frac_zero_std"] = [_or_none(row.zero_share[i]) for _, row in rows]
        found[f"{name}/alerts"] = [int(row.alerts[i] & 0xFF) for _, row in rows]
    return found


def alerts(config: Config, s: Summary, steps: Sequence[int]) -> tuple[AlertEvent, ...]:
    """Return the alerts that began in this interval."""
    names, rows, step_of = (*config.reward_names, TOTAL), dict(_trace(s)), _step_of(s, steps)
    first = int(s.updates) - int(s.interval)
    return tuple(
        _event(config, kind, names[row], step_of(update), *(_numbers(rows.get(at), row) for at in (update, update - 1)))
        for update, row, kind in _began(s)
        if update > first
    )


def _step_of(s: Summary, steps: Sequence[int]) -> Callable[[int], int]:
    """Return what gives the owner's step of an update.

    Several updates of a step share it, in equal parts. Where the updates do not go up in the steps, some came before
    the first step that is known: then there is one to a step.
    """
    last, interval, known = int(s.updates), max(int(s.interval), 1), len(steps)

    def step_of(update: int) -> int:
        back = last - update
        if interval < known or interval % known == 0:
            return steps[-1 - back * known // interval]
        return steps[-1 - back] if back < known else steps[0] - (back - known + 1)

    return step_of


def _began(s: Summary) -> list[tuple[int, int, Alert]]:
    """Return (update, row, type) of what began: from the trace, and from the ring where that has been overwritten."""
    rows = range(len(s.events_seen))
    words = {(update, row): int(values.alerts[row]) for update, values in _trace(s) for row in rows}
    words |= {(update, row): word for update, row, word in _ring(s)}
    bits = list(enumerate(TYPES, BEGAN))
    return [(*at, kind) for at, word in sorted(words.items()) for bit, kind in bits if word >> bit & 1]


def _known_from(s: Summary) -> int:
    """Return the update behind which a summary knows every alert, by its trace or its ring."""
    of_trace = int(s.updates) - min(len(s.trace), int(s.interval))
    full = [row for row, seen in enumerate(s.events_seen) if seen > EVENTS]  # rows that have forgotten some
    return min(of_trace, max((int(s.events[:, 0, row].min()) for row in full), default=0))


def _trace(s: Summary) -> Iterator[tuple[int, TraceRow]]:
    """Yield (update, row) of each step of the interval that the trace still holds, oldest first."""
    length, interval, last = len(s.trace), int(s.interval), int(s.updates)
    for back in range(min(length, interval) - 1, -1, -1):
        words = s.trace[(interval - 1 - back) % length]
        floats = words.view(np.float32)
        row = [words[k] if field in ("samples", "alerts") else floats[k] for k, field in enumerate(TraceRow._fields)]
        yield last - back, TraceRow(*row)


def _ring(s: Summary) -> Iterator[tuple[int, int, int]]:
    """Yield (update, row, alert word) of each event that the ring still holds."""
    for row, seen in enumerate(s.events_seen):
        for slot in range(min(int(seen), EVENTS)):
            yield int(s.events[slot, 0, row]), row, int(s.events[slot, 1, row])


def _numbers(row: TraceRow | None, i: int) -> dict[str, float | None] | None:
    fields = ("mean", "std", "min", "max", "ema_short", "ema_long", "zero_share")
    return None if row is None else {field: _or_none(getattr(row, field)[i]) for field in fields}


def _event(
    config: Config, kind: Alert, name: str, step: int, numbers: Numbers | None, before: Numbers | None
) -> AlertEvent:
    value = {Alert.DROP: "ema_short", Alert.SPIKE: "ema_short", Alert.GROUP_COLLAPSE: "zero_share"}.get(kind, "mean")
    return AlertEvent(
        step=step,
        reward=name,
        type=str(kind.name),
        message=describe(kind, name, numbers, before),
        remedy=MESSAGES[kind].remedy,
        value=None if numbers is None else numbers[value],
        threshold=threshold(kind, config),
    )


def _or_none(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
