"""Verdict: one row per reward, for the tables of pictures, pages and the command line: how it is, in words.

Numbers come from the records; nothing is computed a second way. `now` is the short average, which has forgotten a
single odd step; `change` is against the mean of the first tenth of the run; `best` is the highest short average since
that has settled.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.decimate import FURTHEST
from tunrex_jax_monitor.host.report.episodes import TOTAL, Episode, collapse_limit, severity, zero_variance_key
from tunrex_jax_monitor.host.report.text import number, share
from tunrex_jax_monitor.host.schema import is_number

SETTLED = 20  # steps after which the short average no longer hangs on its first values
_RECOVERED = 0.5  # of what was lost or won; with less of it back, a fall is not over
_LOOK_BACK = 100  # steps, about what the long average remembers
_MILD = ("SPIKE", "OUTLIER")  # to be looked at, and often good news
_CLEAR = 8.0  # standard errors of the short average: its best of ten thousand steps is four above what is normal
_NOTABLE = 0.05  # of the best; a smaller fall is not told, however clear
_ALPHA = 0.1  # of the short average where the configuration is not known
_VERBS = {"DROP": "dropped", "SPIKE": "jumped"}


@dataclass(frozen=True)
class Verdict:
    """How one reward is.

    Attributes:
      reward: its name.
      now: the short average of the last step with data, or None.
      change: `now` less `start`, or None.
      start: the mean of the step means of `start_steps`, or None.
      start_steps: the first tenth of the run, first and last step.
      best: the highest short average, or None.
      best_step: where that was.
      zero_variance: share of groups without variance in the last interval; None where groups are not known.
      alerts: how many episodes there were.
      nonfinite: NaN and infinite samples, over the run.
      status: "bad" (something is wrong now), "watch" (something was, or may be), "ok", or "empty".
      words: the verdict, such as "no alert" or "dropped at step 812, -63 %".
    """

    reward: str
    now: float | None
    change: float | None
    start: float | None
    start_steps: tuple[int, int]
    best: float | None
    best_step: int | None
    zero_variance: float | None
    alerts: int
    nonfinite: int
    status: str
    words: str


def verdicts(run: History, found: Sequence[Episode]) -> list[Verdict]:
    """Return one verdict per reward, in the order of the run; `found` are its `episodes`."""
    return [_verdict(run, name, [e for e in found if e.reward == name]) for name in run.names]


def total_verdict(run: History, found: Sequence[Episode]) -> Verdict:
    """Return the verdict on the weighted total, which alone can tell of collapsed groups."""
    return _verdict(run, TOTAL, [e for e in found if e.reward == TOTAL])


def _verdict(run: History, name: str, own: Sequence[Episode]) -> Verdict:
    steps, short, mean = run.steps(), run.array(f"{name}/ema_short"), run.array(f"{name}/mean")
    scalars = {} if run.last is None else run.last.scalars
    known = np.flatnonzero(~np.isnan(short))
    now = float(short[known[-1]]) if known.size else None
    best, best_step = _best(steps, short)
    start, start_steps = _start(steps, mean)
    status, words = _judge(run, name, own, now, best)
    return Verdict(
        reward=name,
        now=now,
        change=None if now is None or start is None else now - start,
        start=start,
        start_steps=start_steps,
        best=best,
        best_step=best_step,
        zero_variance=scalars.get(zero_variance_key(name)),
        alerts=len(own),
        nonfinite=int(scalars.get(f"{name}/nonfinite_count", 0)),
        status=status,
        words=words,
    )


def _best(steps: np.ndarray, short: np.ndarray) -> tuple[float | None, int | None]:
    skipped = SETTLED if np.isfinite(short[SETTLED:]).any() else 0
    settled = short[skipped:]
    if not np.isfinite(settled).any():
        return None, None
    at = int(np.nanargmax(settled))
    return float(settled[at]), int(steps[skipped + at])


def _start(steps: np.ndarray, mean: np.ndarray) -> tuple[float | None, tuple[int, int]]:
    if not len(steps):
        return None, (0, 0)
    tenth = mean[: max(len(steps) // 10, 1)]
    span = int(steps[0]), int(steps[len(tenth) - 1])
    return (None if np.isnan(tenth).all() else float(np.nanmean(tenth))), span


def _judge(run: History, name: str, own: Sequence[Episode], now: float | None, best: float | None) -> tuple[str, str]:
    """Return status and words of the worst that can be said."""
    standing = [e for e in own if not _is_recovery(run, e, own, now)]
    wrong = [(severity(e.type), e.type, words) for e in standing if (words := _still(run, e, now))]
    if wrong:
        _, kind, words = min(wrong)
        return "watch" if kind in _MILD else "bad", words
    scalars = {} if run.last is None else run.last.scalars
    if now is None:
        return ("bad", "only NaN or infinite") if scalars.get(f"{name}/nonfinite_count") else _without_data(run, name)
    collapsed = scalars.get(f"{name}/frac_zero_std", 0.0)
    if collapsed > collapse_limit(run):
        return "watch", f"no variance in {share(collapsed)} of the groups"
    if past := list(_past(own)):
        return "watch", "; ".join(past)
    if best is not None and best - now > max(_CLEAR * _error(run, name), _NOTABLE * abs(best)):
        return "watch", f"no alert; down from {number(best)} to {number(now)}"
    return "ok", "no alert"


def _without_data(run: History, name: str) -> tuple[str, str]:
    """A reward without a sample where others have some is one whose function fails, or returns no usable number."""
    steps = len(run.steps())
    others = (run.array(f"{other}/ema_short") for other in run.names if other != name)
    if name in run.names and any(np.isfinite(short).any() for short in others):
        return "bad", f"no sample in {steps:,} step{'s' if steps > 1 else ''}"
    return "empty", "no data" if steps else "no data yet"


def _error(run: History, name: str) -> float:
    """Return the standard error of the short average: from one step mean to the next, noise is all that changes."""
    changes = np.abs(np.diff(np.clip(run.array(f"{name}/mean"), -FURTHEST, FURTHEST)))
    changes = changes[np.isfinite(changes)]
    alpha = run.config.get("ema_alpha_short", _ALPHA)
    alpha = float(alpha) if is_number(alpha) and 0 < alpha <= 1 else _ALPHA
    noise = math.sqrt(math.pi) / 2 * float(changes.mean()) if changes.size else 0.0  # std of a step mean, if normal
    return noise * math.sqrt(alpha / (2 - alpha))


def _still(run: History, e: Episode, now: float | None) -> str | None:
    """Return what an episode means for now; None when it is over."""
    if e.type in ("DROP", "SPIKE"):
        return _shift(run, e, now)
    texts = {
        "NONFINITE": f"NaN or infinite since step {e.first}",
        "FLATLINE": _flat(run, e),
        "GROUP_COLLAPSE": f"no variance in most groups since step {e.first}",
        "SATURATION": f"at its maximum since step {e.first}",
        "NEGATIVE": f"negative since step {e.first}",
        "OUTLIER": f"outliers {'at' if e.first == e.last else 'since'} step {e.first}",
    }
    return texts.get(e.type) if e.is_open else None


def _shift(run: History, e: Episode, now: float | None) -> str | None:
    """Return the fall or jump of an episode while most of it still stands, also where the rule has got used to it."""
    before = _before(run, e)
    if now is None or before is None or e.peak is None:
        return f"{_VERBS[e.type]} at step {e.first}" if e.is_open else None
    gone = before - e.peak
    if gone * (before - now) < 0 or (not e.is_open and abs(before - now) < _RECOVERED * abs(gone)):
        return None
    return f"{_VERBS[e.type]} at step {e.first}, {_relative(now, before)}"


def _is_recovery(run: History, e: Episode, own: Sequence[Episode], now: float | None) -> bool:
    """Return whether a jump only brought back what an earlier fall had taken, and at most half as much again."""
    for fall in own if e.type == "SPIKE" else ():
        if fall.type == "DROP" and fall.first < e.first:
            level = _height(run, fall)
            if level is None or now is None or fall.peak is None or now <= level + _RECOVERED * (level - fall.peak):
                return True
    return False


def _height(run: History, fall: Episode) -> float | None:
    """Return the highest short average of the steps before a fall."""
    row = int(np.searchsorted(run.steps(), fall.first))
    short = run.array(f"{fall.reward}/ema_short")[max(0, row - _LOOK_BACK) : row]
    return None if np.isnan(short).all() else float(np.nanmax(short))


def _before(run: History, e: Episode) -> float | None:
    """Return the long average when the episode began: what was normal."""
    rows = np.flatnonzero(run.steps() < e.first)
    long = run.array(f"{e.reward}/ema_long")[rows]
    known = long[~np.isnan(long)]
    return float(known[-1]) if known.size else None


def _relative(now: float, before: float) -> str:
    if abs(before) < 1e-6 or now * before < 0 or not math.isfinite(now / before):
        return f"from {number(before)} to {number(now)}"
    return f"{100 * (now - before) / abs(before):+.0f} %"


def _flat(run: History, e: Episode) -> str:
    """Return which of its two kinds a FLATLINE is: one that still varies is of almost only zeros."""
    row = int(np.searchsorted(run.steps(), e.last, side="right")) - 1
    low, high = (run.array(f"{e.reward}/{key}")[row : row + 1] for key in ("min", "max"))
    if (low < high).any():
        return f"almost only zeros since step {e.first}"
    return f"flat since step {_constant_since(run, e)}"


def _constant_since(run: History, e: Episode) -> int:
    """Return the step from which on the step means are one value; the rule takes some hundred samples to be sure."""
    steps, mean = run.steps(), run.array(f"{e.reward}/mean")
    rows = np.flatnonzero(steps <= e.last)
    if not rows.size or np.isnan(mean[rows[-1]]):
        return e.first
    same = mean[rows] == mean[rows[-1]]
    other = np.flatnonzero(~same & ~np.isnan(mean[rows]))
    since = int(steps[rows[other[-1] + 1]]) if other.size else int(steps[0])
    return min(since, e.first)


def _past(own: Sequence[Episode]) -> Iterator[str]:
    """Yield what was, a type at a time, the worst first and two at most."""
    kinds = sorted({e.type for e in own}, key=severity)
    for kind in kinds[:2]:
        same = [e for e in own if e.type == kind]
        e = same[-1]
        span = f"step {e.first}" if e.first == e.last else f"steps {e.first}-{e.last}"
        yield f"{kind} at {span}, ended" if len(same) == 1 else f"{len(same):,} times {kind}, last at {span}"
    if len(kinds) > 2:
        yield f"{len(kinds) - 2} more"
