"""Tables of a report, as plain values for its template: they say everything that matters without any script."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.decimate import aggregate, bucket_starts
from tunrex_jax_monitor.host.report.episodes import TOTAL, TOTAL_NAME, Episode, severity
from tunrex_jax_monitor.host.report.html.payload import SIGNS
from tunrex_jax_monitor.host.report.text import display_names, number, plural, share
from tunrex_jax_monitor.host.report.verdict import Verdict

SPANS = 10  # rows of the table that says what the charts show
EPISODES = 40  # links of one group
MARGIN = 30  # steps that a link shows before and after an alert, at least
NAME_WIDTH = 60
MOST_BAD = 8  # rewards in the headline; the table has them all
_STATISTICS = ("mean", "std", "min", "p01", "p10", "p25", "median", "p75", "p90", "p99", "max", "samples")
_TOTALS, _SHARED = ("reward", "reward_std", "frac_reward_zero_std"), ("groups/", "completions/")
_NAMES = {
    "frac_reward_zero_std": "zero variance",
    "groups/count": "groups",
    "groups/incomplete": "incomplete groups",
    "groups/std_mean": "std within groups",
    "groups/mean_std": "std of group means",
}
_OF_WINDOW = [(key, "count" if key == "samples" else key) for key in _STATISTICS]
_OF_RUN = [(key, "p50" if key == "median" else own) for key, own in _OF_WINDOW]


@dataclass(frozen=True)
class AlertGroup:
    """The episodes of one type and reward."""

    sign: str
    type: str
    reward: str
    count: int
    episodes: list[Episode]  # the first of them
    first: int
    last: int
    is_open: bool  # one still held at the end
    message: str
    remedy: str


def alert_groups(found: Sequence[Episode]) -> list[AlertGroup]:
    """Return the episodes by type and reward; those that still hold come first, then the worst types."""
    groups: dict[tuple[str, str], list[Episode]] = {}
    for episode in sorted(found, key=lambda e: (not e.is_open, severity(e.type), e.first)):
        groups.setdefault((episode.type, episode.reward), []).append(episode)
    return [_group(sorted(own, key=lambda e: e.first)) for own in groups.values()]


def _group(own: list[Episode]) -> AlertGroup:
    latest = own[-1]
    return AlertGroup(
        sign=SIGNS.get(latest.type, "!"),
        type=latest.type,
        reward=latest.reward,
        count=len(own),
        episodes=own[:EPISODES],
        first=own[0].first,
        last=max(e.last for e in own),
        is_open=any(e.is_open for e in own),
        message=latest.message.partition(" - ")[2] or latest.message,
        remedy=latest.remedy,
    )


class Line(NamedTuple):
    """A part of the headline; `reward` is whose it is, or None."""

    status: str
    words: str
    reward: str | None = None


def headline(verdicts: Sequence[Verdict]) -> list[Line]:
    """Return what a person should read first: each reward in trouble, then how many others there are."""
    bad = [Line("bad", v.words, v.reward) for v in verdicts if v.status == "bad"]
    texts = {"watch": "to keep an eye on", "ok": "without an alert", "empty": "without data"}
    counts = {status: sum(v.status == status for v in verdicts) for status in texts}
    others = [Line(status, f"{plural(n, 'reward')} {texts[status]}") for status, n in counts.items() if n]
    return bad[:MOST_BAD] + others if bad or others else [Line("empty", "no data yet")]


class Figures(NamedTuple):
    """The statistics of a reward: one column for each of what they are over."""

    over: list[str]
    rows: list[tuple[str, list[str]]]


def figures(run: History, name: str) -> Figures:
    """Return the statistics of a reward over its last window, and over the run where that was read at its end.

    Of the weighted total, they are what groups and completions were since the last emission.
    """
    scalars = {} if run.last is None else run.last.scalars
    if name == TOTAL:
        keys = [*_TOTALS, *(key for key in scalars if key.startswith(_SHARED))]
        rows = [(_called(key), [number(scalars[key], 4)]) for key in keys if key in scalars]
        return Figures(["last interval"] if rows else [], rows)
    columns = {
        over: {key: scalars[f"{name}/{prefix}{own}"] for key, own in keys if f"{name}/{prefix}{own}" in scalars}
        for over, prefix, keys in (("run", "run/", _OF_RUN), ("window", "", _OF_WINDOW))
    }
    over = [title for title, column in columns.items() if column]
    keys = [key for key, _ in _OF_RUN if any(key in columns[title] for title in over)]
    return Figures(over, [(key, [_figure(key, columns[title].get(key)) for title in over]) for key in keys])


def _called(key: str) -> str:
    return _NAMES.get(key) or key.removeprefix("groups/").replace("/", " ").replace("_", " ")


def _figure(key: str, value: float | None) -> str:
    return f"{value:,.0f}" if key == "samples" and value is not None else number(value, 4)


class Span(NamedTuple):
    """A row of the table of the course."""

    steps: str
    mean: str
    low: str
    high: str
    zero_variance: str


def spans(run: History, name: str) -> list[Span]:
    """Return the course of a reward in a few rows: means, extremes of the step means, share without variance."""
    steps, mean = run.steps().tolist(), run.array(f"{name}/mean")
    if not len(mean):
        return []
    zero = run.array(f"{name}/frac_zero_std")
    starts = bucket_starts(len(steps), SPANS)
    stops = np.append(starts[1:], len(steps))
    columns = [
        aggregate(mean, starts, "mean"),
        aggregate(mean, starts, "min"),
        aggregate(mean, starts, "max"),
        aggregate(zero, starts, "mean") if len(zero) else np.full(len(starts), np.nan),
    ]
    return [
        Span(step_range(steps[start], steps[stop - 1]), number(a), number(b), number(c), share(d))
        for start, stop, a, b, c, d in zip(starts, stops, *(column.tolist() for column in columns), strict=True)
    ]


def step_range(first: int, last: int) -> str:
    """Return a range of steps as people write it."""
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def labels(rewards: Iterable[str]) -> dict[str, str]:
    """Return what each reward is called on the page: short, unique, and without characters that act."""
    names = display_names(tuple(dict.fromkeys(rewards)), NAME_WIDTH)
    return {name: TOTAL_NAME if name == TOTAL else shown for name, shown in names.items()}


def address(of: Episode | AlertGroup, index_of: Mapping[str, int]) -> str:
    """Return the part of an address that shows an alert, with as many steps again around it."""
    room = max(MARGIN, of.last - of.first)
    reward = f"&reward={index_of[of.reward]}" if of.reward in index_of else ""
    return f"#steps={of.first - room}-{of.last + room}{reward}"
