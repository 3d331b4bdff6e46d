"""`show`: how a run is, in one table."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tunrex_jax_monitor.cli.options import echo_json, json_option, run_argument, tell
from tunrex_jax_monitor.cli.overview import judged, overview
from tunrex_jax_monitor.cli.runs import load
from tunrex_jax_monitor.cli.tables import echo
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.text import plural


@click.command(short_help="How each reward is: verdict, now, change, alerts.")
@run_argument
@json_option
def show(run: Path, as_json: bool) -> None:
    """Show how each reward of RUN is: a verdict, now against the start and the best, alerts.

    now is the short average; change is against the mean of the first tenth of the run; best is the highest short
    average behind the first 20 steps; zero var. is the share of prompt groups without variance, which teach nothing.
    """
    path, history = load(run)
    if as_json:
        echo_json(_document(path, history))
    elif history.last is None:
        tell(f"{path}: no record yet{_waiting(history)}")
    else:
        when = datetime.datetime.fromtimestamp(history.last.time).strftime("%Y-%m-%d %H:%M:%S")
        tell(f"{path}: step {history.last.step}, {when}, {plural(len(history.alerts), 'alert')}")
        echo(overview(history))


def _document(path: Path, history: History) -> dict[str, Any]:
    last = history.last
    return {
        "run": str(path),
        "step": None if last is None else last.step,
        "updates": 0 if last is None else last.update,
        "time": None if last is None else last.time,
        "rewards": [vars(verdict) for verdict in judged(history)],
        "scalars": {} if last is None else last.scalars,
        "counters": {} if last is None else last.counters,
        "alerts": len(history.alerts),
    }


def _waiting(history: History) -> str:
    every: Mapping[str, Any] = history.config
    return f"; the first comes after {every['log_frequency']} steps" if "log_frequency" in every else ""
