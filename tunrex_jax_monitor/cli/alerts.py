"""`alerts`: what went wrong in a run, from when to when, and what to do about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunrex_jax_monitor.cli.options import Problem, advise, echo_json, end_as_found, json_option, run_argument, tell
from tunrex_jax_monitor.cli.runs import load
from tunrex_jax_monitor.cli.tables import Cell, Table, echo
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.episodes import TOTAL, TOTAL_NAME, TYPES, Episode, called, episodes
from tunrex_jax_monitor.host.report.text import number, plural


@click.command(short_help="What went wrong, from when to when, what to do.")
@run_argument
@click.option("--kind", multiple=True, type=click.Choice(TYPES, case_sensitive=False), help="Only these; repeatable.")
@click.option("--reward", multiple=True, help="Only those of this reward; repeatable.")
@click.option("--exit-code", is_flag=True, help="Exit status 1 where there is one: for scripts.")
@json_option
def alerts(run: Path, kind: tuple[str, ...], reward: tuple[str, ...], exit_code: bool, as_json: bool) -> None:
    """List the alerts of RUN, oldest first, from their first step to their last."""
    path, history = load(run)
    reward = tuple(TOTAL if name == TOTAL_NAME else name for name in reward)
    _require_rewards(history, reward)
    found = [e for e in episodes(history) if (not kind or e.type in kind) and (not reward or e.reward in reward)]
    if found and exit_code:
        end_as_found()
    if as_json:
        echo_json({"run": str(path), "alerts": [vars(episode) for episode in found]})
    elif found:
        echo(table_of(found))
        advise({e.type: e.remedy for e in found if e.remedy}.items())
    tell(plural(len(found), "alert"))


def table_of(found: Sequence[Episode]) -> Table:
    """Return the table of episodes."""
    rows: list[list[Any]] = [
        [
            str(e.first),
            "now" if e.is_open else str(e.last),
            Cell(e.type, "bold red" if e.is_open else "red"),
            called(e.reward),
            number(e.peak),
            e.message.partition(" - ")[2] or e.message,
        ]
        for e in found
    ]
    titles = ("step", "to", "type", "reward", "peak", "what was seen")
    return Table(titles, rows, left=("type", "reward", "what was seen"), optional=("peak", "to"))


def _require_rewards(history: History, rewards: Sequence[str]) -> None:
    """Refuse a name that the run does not have."""
    known = [*history.names, TOTAL]
    for name in rewards:
        if name not in known:
            raise Problem(f"--reward: got {name!r}, allowed: {', '.join(map(repr, known))}. Copy one of them.")
