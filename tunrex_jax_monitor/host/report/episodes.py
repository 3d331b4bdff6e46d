"""Episodes: from where to where an alert held, how far it went, and which of them a person should see first."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent
from tunrex_jax_monitor.host.schema import is_number

TOTAL = "reward"  # the key of the weighted total, which has alerts of its own
TOTAL_NAME = "weighted total"  # for people
_COLLAPSED = 0.8  # the limit of GROUP_COLLAPSE where the configuration is not known
TYPES = ("OUTLIER", "DROP", "SPIKE", "FLATLINE", "NEGATIVE", "NONFINITE", "SATURATION", "GROUP_COLLAPSE")  # by bit
SEVERITY = ("NONFINITE", "DROP", "FLATLINE", "GROUP_COLLAPSE", "SATURATION", "NEGATIVE", "SPIKE", "OUTLIER")

_Pick = Callable[[np.ndarray], np.floating]
_PEAKS: dict[str, tuple[str, _Pick]] = {  # the series that shows how far an episode went, and which value of it
    "DROP": ("ema_short", np.nanmin),
    "SPIKE": ("ema_short", np.nanmax),
    "FLATLINE": ("mean", np.nanmax),
    "NEGATIVE": ("mean", np.nanmin),
    "NONFINITE": ("mean", np.nanmin),
    "SATURATION": ("max", np.nanmax),
    "GROUP_COLLAPSE": ("frac_zero_std", np.nanmax),
}


@dataclass(frozen=True)
class Episode:
    """One alert from its first step to its last.

    Attributes:
      reward: whose; `reward` is the weighted total.
      type: one of `TYPES`.
      first: the step at which it began.
      last: the last step on which it held; `first` where the steps between are not known.
      is_open: it still held at the end of what is recorded.
      peak: the value furthest from what is normal, in units of the reward (a share for GROUP_COLLAPSE), or None.
      threshold: the configured limit, or None.
      message: what happened, in words.
      remedy: what to do about it.
    """

    reward: str
    type: str
    first: int
    last: int
    is_open: bool
    peak: float | None
    threshold: float | None
    message: str
    remedy: str


def episodes(run: History) -> list[Episode]:
    """Return the episodes of a run, in the order in which they began.

    The bits of the series say from where to where; an event without bits (its steps were not kept) is its first step.
    """
    ordered, steps = run.in_order(), run.steps()
    found = [e for name in (*run.names, TOTAL) for e in _of_reward(ordered, ordered.steps(), name)]
    found.sort(key=lambda e: (e.first, severity(e.type)))
    if ordered is run:
        return found
    return [replace(e, first=int(steps[e.first]), last=int(steps[e.last])) for e in found]  # from rows to steps


def called(reward: str) -> str:
    """Return what a reward is called where people read: its name, but for the weighted total."""
    return TOTAL_NAME if reward == TOTAL else reward


def collapse_limit(run: History) -> float:
    """Return the share of groups without variance above which GROUP_COLLAPSE speaks in this run."""
    limit = run.config.get("collapse_threshold", _COLLAPSED)
    return float(limit) if is_number(limit) and 0 < limit < 1 else _COLLAPSED


def zero_variance_key(name: str) -> str:
    """Return the scalar that says the share of groups without variance."""
    return "frac_reward_zero_std" if name == TOTAL else f"{name}/frac_zero_std"


def severity(kind: str) -> int:
    """Return the rank of an alert type: 0 is the worst; types from elsewhere come last."""
    return SEVERITY.index(kind) if kind in SEVERITY else len(SEVERITY)


def by_severity(names: Sequence[str], found: Iterable[Episode]) -> list[str]:
    """Return the rewards, the one that needs a person most first.

    Those with an open episode come before those with past ones, then by the worst type, then by the number of
    episodes; rewards without any keep their order.
    """
    found = list(found)

    def rank(name: str) -> tuple[int, int, int]:
        own = [e for e in found if e.reward == name]
        still = [e for e in own if e.is_open]
        worst = min((severity(e.type) for e in still or own), default=len(SEVERITY) + 1)
        return (0 if still else 1 if own else 2, worst, -len(own))

    return sorted(names, key=rank)


def _of_reward(run: History, steps: np.ndarray, name: str) -> Iterator[Episode]:
    bits = np.nan_to_num(run.array(f"{name}/alerts")).astype(np.int64)
    column = functools.cache(lambda field: run.array(f"{name}/{field}"))
    for bit, kind in enumerate(TYPES):
        rows = list(_runs(bits >> bit & 1 == 1))
        events = [e for e in run.alerts if e.reward == name and e.type == kind]
        matched: dict[int, AlertEvent] = {}
        firsts = [steps[start] for start, _ in rows]
        for event in events:
            at = int(np.searchsorted(firsts, event.step, side="right")) - 1
            if at >= 0 and event.step <= steps[rows[at][1]]:
                matched.setdefault(at, event)
            else:
                yield _of_event(event)
        for at, (start, end) in enumerate(rows):
            peak = _peak(column, kind, slice(start, end + 1))
            yield _episode(name, kind, matched.get(at), (start, end), steps, peak)


def _of_event(e: AlertEvent) -> Episode:
    return Episode(e.reward, e.type, e.step, e.step, False, e.value, e.threshold, e.message, e.remedy)


def _episode(
    name: str, kind: str, event: AlertEvent | None, rows: tuple[int, int], steps: np.ndarray, peak: float | None
) -> Episode:
    start, end = rows
    return Episode(
        reward=name,
        type=kind,
        first=int(steps[start]),
        last=int(steps[end]),
        is_open=end == len(steps) - 1,
        peak=peak,
        threshold=None if event is None else event.threshold,
        message=f"{kind}: {name}" if event is None else event.message,
        remedy="" if event is None else event.remedy,
    )


def _peak(column: Callable[[str], np.ndarray], kind: str, rows: slice) -> float | None:
    if kind == "OUTLIER":  # whichever extreme lies further from the long average
        middle = column("ema_long")[rows]
        ends = np.concatenate([column(end)[rows] for end in ("min", "max")])
        distance = np.abs(ends - np.concatenate([middle, middle]))
        return None if np.isnan(distance).all() else float(ends[np.nanargmax(distance)])
    field, pick = _PEAKS[kind]
    values = column(field)[rows]
    return None if np.isnan(values).all() else float(pick(values))


def _runs(holds: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield start, end - 1
