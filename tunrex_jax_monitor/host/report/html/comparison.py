"""The comparison of several runs: differences first, then their courses over each other, by step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.differences import METRICS, SHARES, Difference, compare, rewards_of, shared_steps
from tunrex_jax_monitor.host.report.episodes import Episode, collapse_limit, episodes, zero_variance_key
from tunrex_jax_monitor.host.report.html import panels, tables
from tunrex_jax_monitor.host.report.html.payload import FEWEST, MOST, POINTS, alerts_of, page_data, shared
from tunrex_jax_monitor.host.report.html.points import Points, Sampled, choose
from tunrex_jax_monitor.host.report.html.provenance import drawn, utc
from tunrex_jax_monitor.host.report.html.render import render
from tunrex_jax_monitor.host.report.text import number, percent, share, signed
from tunrex_jax_monitor.host.report.verdict import Verdict, total_verdict, verdicts

COLORS = 7  # of runs in the style sheet; the dashes differ besides
WITH_MEANS = 3  # more runs are drawn without the range of their step means
NOTABLE = 0.05  # a relative change, or a change of a share, that is marked
_HIGHER_IS_WORSE = {"zero_std", "alerts"}
_NEUTRAL = {"std"}
_ABSURD = 10  # times the base: no percentage says more than the change itself


@dataclass(frozen=True)
class Run:
    """One run of the comparison."""

    name: str
    at: int
    history: History
    episodes: list[Episode]
    verdicts: dict[str, Verdict]

    @property
    def color(self) -> str:
        """A variable of the style sheet."""
        return f"run{self.at % COLORS}"

    @property
    def span(self) -> str:
        """From which step to which it goes."""
        steps = self.history.steps()
        return tables.step_range(int(steps.min()), int(steps.max())) if len(steps) else "none"

    @property
    def updates(self) -> int:
        """How many updates it has seen."""
        return 0 if self.history.last is None else self.history.last.update

    @property
    def started(self) -> str:
        """When it began."""
        time = self.history.manifest.get("start_time")
        return "not known" if time is None else utc(time)


@dataclass(frozen=True)
class Cell:
    """A figure of one run, and how far it is from the first one."""

    value: str
    change: str = ""
    status: str = ""  # "worse", "better" or ""


@dataclass(frozen=True)
class Section:
    """What the page says of one reward: a row of cells per metric, and the verdict on each run."""

    index: int
    reward: str
    rows: list[tuple[str, list[Cell]]]
    verdicts: list[Verdict | None]
    missing: list[str]
    worst: float  # the greatest relative fall of the mean; minus infinity where a run has none


def comparison(runs: Mapping[str, History], title: str) -> str:
    """Return the page of two or more runs; the first is the base."""
    shown = [_run(name, at, history) for at, (name, history) in enumerate(runs.items())]
    found = compare(runs)
    rewards = tuple(dict.fromkeys(reward for run in shown for reward in rewards_of(run.history)))
    sections = [_section(i, reward, shown, found) for i, reward in enumerate(rewards)]
    marked = [step for run in shown for e in run.episodes for step in (e.first, e.last)]
    limit = shared(len(rewards) * len(shown), POINTS, FEWEST, MOST)
    points = choose([run.history for run in shown], rewards, marked, limit)
    return render(
        "comparison.html",
        page_data(title, points, None, [_data(reward, shown, points) for reward in rewards]),
        title=title,
        runs=shown,
        span=shared_steps(runs),
        sections=sorted(sections, key=lambda section: section.worst),
        metrics=METRICS,
        names=tables.labels(rewards),
        notable=share(NOTABLE),
        drawn=drawn(points),
    )


def _run(name: str, at: int, history: History) -> Run:
    found = episodes(history)
    judged = [*verdicts(history, found), total_verdict(history, found)]
    return Run(name, at, history, found, {verdict.reward: verdict for verdict in judged})


def _section(index: int, reward: str, runs: Sequence[Run], found: Sequence[Difference]) -> Section:
    has = [reward in rewards_of(run.history) for run in runs]
    falls = [d.relative for d in found if d.reward == reward and d.metric == "mean"]
    rows = [
        (metric, _cells(of))
        for metric in METRICS
        if (of := [d for d in found if d.reward == reward and d.metric == metric])
    ]
    return Section(
        index=index,
        reward=reward,
        rows=rows,
        verdicts=[run.verdicts[reward] if there else None for run, there in zip(runs, has, strict=True)],
        missing=[run.name for run, there in zip(runs, has, strict=True) if not there],
        worst=min((-math.inf if fall is None else fall for fall in falls), default=0.0),
    )


def _cells(of: Sequence[Difference]) -> list[Cell]:
    return [Cell(_figure(of[0], of[0].base)), *(Cell(_figure(d, d.value), _change(d), _status(d)) for d in of)]


def _figure(difference: Difference, value: float | None) -> str:
    return share(value) if difference.metric in SHARES else number(value)


def _change(difference: Difference) -> str:
    """Return a change as people say it: points of a share, percent, or where the base is tiny the change itself."""
    relative, absolute = difference.relative, difference.absolute
    if not absolute or relative is None:
        return ""
    if difference.points is not None:
        return f"{difference.points:+.1f} pp"
    return signed(absolute) if difference.metric == "alerts" or abs(relative) > _ABSURD else percent(relative)


def _status(difference: Difference) -> str:
    """Tell whether a change is one for the worse or the better; a small or neutral one is neither."""
    change = difference.absolute
    size = difference.relative if difference.points is None else difference.absolute
    if change is None or size is None or difference.metric in _NEUTRAL or abs(size) < NOTABLE:
        return ""
    return "worse" if (change > 0) == (difference.metric in _HIGHER_IS_WORSE) else "better"


def _data(reward: str, runs: Sequence[Run], points: Points) -> dict[str, Any]:
    having = [run for run in runs if reward in rewards_of(run.history)]
    sampled = [(run, Sampled(run.history, points)) for run in having]
    course = panels.panel(
        "Short averages" + (" over the step means" if len(having) <= WITH_MEANS else ""),
        panels.HEIGHT,
        lines=[_line(run, "ema_short", at.reduce(f"{reward}/ema_short", "last")) for run, at in sampled],
        bands=[_means(run, at, reward) for run, at in sampled] if len(having) <= WITH_MEANS else [],
        marks=True,
    )
    shares = [(run, at.hold(zero_variance_key(reward))) for run, at in sampled]
    lines = [line for run, values in shares if (line := _line(run, "zero_variance", values))["data"] is not None]
    zero = panels.panel(
        "Groups without variance",
        panels.SHARE_HEIGHT,
        lines=lines,
        percent=True,
        range=[0, 1],
        guide=collapse_limit(runs[0].history),
    )
    shown = [course, zero] if lines else [course]
    shown[-1]["steps"] = True
    alerts = [a for run in having for a in alerts_of([e for e in run.episodes if e.reward == reward], run.color)]
    return {"name": reward, "panels": shown, "alerts": alerts}


def _line(run: Run, key: str, values: Any) -> dict[str, Any]:
    style = {"color": run.color, "dash": panels.dash_of(run.at), "spans": True}
    return panels.line(run.name, f"{run.name}: {key}", panels.own(values), **style)


def _means(run: Run, sampled: Sampled, reward: str) -> dict[str, Any]:
    low, high = (panels.own(sampled.reduce(f"{reward}/mean", how)) for how in ("min", "max"))
    keys = (f"{run.name}: mean_low", f"{run.name}: mean_high")
    return panels.band(f"{run.name}, step mean", keys, low, high, color=run.color, opacity=0.1, outline=0.25)
