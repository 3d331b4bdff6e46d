"""The report of one run."""

from dataclasses import dataclass
from typing import Any

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.differences import rewards_of
from tunrex_jax_monitor.host.report.episodes import Episode, by_severity, episodes
from tunrex_jax_monitor.host.report.html import drawings, tables
from tunrex_jax_monitor.host.report.html.payload import payload, points_of
from tunrex_jax_monitor.host.report.html.provenance import provenance
from tunrex_jax_monitor.host.report.html.render import render
from tunrex_jax_monitor.host.report.verdict import Verdict, total_verdict, verdicts


@dataclass(frozen=True)
class Row:
    """What the page says of one reward."""

    index: int  # in the run, and in the address of the page
    reward: str
    verdict: Verdict
    course: drawings.Course | None
    bars: drawings.Bars | None
    figures: tables.Figures
    spans: list[tables.Span]


def report(run: History, title: str) -> str:
    """Return the page of a run."""
    run = run.in_order()
    found, rewards = episodes(run), rewards_of(run)
    points = points_of(run, found)
    judged = {verdict.reward: verdict for verdict in (*verdicts(run, found), total_verdict(run, found))}
    rows = {name: _row(run, i, judged[name], found) for i, name in enumerate(rewards)}
    ordered = [rows[name] for name in by_severity(rewards, found)]
    context: dict[str, Any] = {
        "title": title,
        "headline": tables.headline([row.verdict for row in ordered]),
        "rows": ordered,
        "groups": tables.alert_groups(found),
        "names": tables.labels([*rewards, *(e.reward for e in found)]),
        "index_of": {name: row.index for name, row in rows.items()},
        "provenance": provenance(run, points),
    }
    return render("report.html", payload(run, points, found, title), **context)


def _row(run: History, index: int, verdict: Verdict, found: list[Episode]) -> Row:
    name = verdict.reward
    own = [episode for episode in found if episode.reward == name]
    return Row(
        index=index,
        reward=name,
        verdict=verdict,
        course=drawings.course(run, name, own),
        bars=drawings.bars(run, name),
        figures=tables.figures(run, name),
        spans=tables.spans(run, name),
    )
