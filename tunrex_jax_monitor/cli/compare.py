"""`compare`: what differs between runs, and whether it is more than is allowed."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from tunrex_jax_monitor.cli import drawing
from tunrex_jax_monitor.cli.options import (
    PATH,
    STDOUT,
    Problem,
    echo_json,
    end_as_found,
    force_option,
    json_option,
    require_new,
    require_one_stdout,
    tell,
)
from tunrex_jax_monitor.cli.runs import find, read
from tunrex_jax_monitor.cli.tables import Cell, Table, echo
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report import differences
from tunrex_jax_monitor.host.report.differences import METRICS, OF_RUN, SHARES, Difference, Limit
from tunrex_jax_monitor.host.report.episodes import called
from tunrex_jax_monitor.host.report.text import number, percent, share, signed

_ENDS_EARLIER = Limit.parse("steps:-0")


@click.command(short_help="What differs between runs; limits for CI.")
@click.argument("run", type=PATH)
@click.argument("others", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", type=PATH, help="Write an HTML page too, or - for stdout.")
@click.option(
    "--fail-on",
    multiple=True,
    metavar="LIMITS",
    help="Such as mean:-5%,zero_std:+10pp; repeatable. Exit status 1 beyond one of them.",
)
@json_option
@force_option
def compare(
    run: Path, others: tuple[Path, ...], output: Path | None, fail_on: tuple[str, ...], as_json: bool, force: bool
) -> None:
    """Compare runs with the first one, over the steps that all of them have.

    A limit is METRIC:CHANGE, with a metric of mean, std, now, best, zero_std, alerts or steps. -5% is a fall by more
    than 5 %, +10pp a rise by more than ten percentage points, -0.5 a fall by more than 0.5 in the figure's own unit,
    +0 any rise; without a sign, either way. What only the first run has breaks every limit on it. With limits, a run
    that ends before the first one breaks steps:-0; give a limit on steps of your own, such as steps:-50%, where it may.
    """
    limits = _limits(fail_on)
    require_one_stdout(output, as_json)
    if output is not None and str(output) != STDOUT:
        require_new(output, force)
    runs = _read([run, *others])
    span = differences.shared_steps(runs)
    if span is None:
        raise Problem(f"RUN: got runs without a step in common ({_spans(runs)}), allowed: runs that overlap.")
    found = [*differences.compare(runs), *differences.lengths(runs)]
    broken = [(limit, difference) for difference in found for limit in limits if limit.is_broken_by(difference)]
    if broken:
        end_as_found()
    tell(f"over the steps that {'both' if len(runs) == 2 else 'all'} have, {span[0]} to {span[1]}")
    for difference in found:
        if _ENDS_EARLIER.is_broken_by(difference):
            tell(f"CUT SHORT {_sentence(difference)}: the steps after it are not compared")
    if output is not None:
        drawing.write_comparison(runs, output)
    if as_json:
        unchecked = [_text(limit) for limit in _unchecked(limits, found)]
        echo_json({**_document(runs, span, found, broken), "unchecked": unchecked})
    elif output is None or str(output) != STDOUT:
        _print(runs, found, {difference for _, difference in broken})
    for limit in _unchecked(limits, found):
        tell(f"NOT CHECKED {_text(limit)}: the first run has no {limit.metric}")
    for limit, difference in broken:
        tell(f"FAILED {_text(limit)}: {_sentence(difference)}")


def _limits(given: Sequence[str]) -> list[Limit]:
    """Return the limits; a gate without one on steps has the strictest, so that no run passes by ending early."""
    limits = [_limit(text) for texts in given for text in texts.split(",")]
    return [*limits, _ENDS_EARLIER] if limits and all(limit.metric != "steps" for limit in limits) else limits


def _limit(text: str) -> Limit:
    try:
        return Limit.parse(text)
    except ValueError as error:
        raise Problem(f"--fail-on: {str(error).removeprefix('limit: ')}") from error


def _unchecked(limits: Sequence[Limit], found: Sequence[Difference]) -> list[Limit]:
    """Return the limits on what the first run does not have, such as a share of groups where groups are not known."""
    known = {difference.metric for difference in found if difference.base is not None}
    return [limit for limit in limits if limit.metric not in known]


def _read(given: Sequence[Path]) -> dict[str, History]:
    """Return the histories under names as short as they can be while they differ."""
    paths = [find(path) for path in given]
    if len(set(paths)) < len(paths):
        raise Problem(f"RUN: got {', '.join(map(str, paths))}, allowed: each run once. Name two different ones.")
    typed = [one if one.is_dir() else path for one, path in zip(given, paths, strict=True)]
    short = [Path(os.path.abspath(path)).name for path in typed]  # of a link its own name
    names = short if len(set(short)) == len(short) else [str(path) for path in typed]
    return {name: read(path) for name, path in zip(names, paths, strict=True)}


def _spans(runs: Mapping[str, History]) -> str:
    steps = {name: run.series.get("step", []) for name, run in runs.items()}
    return "; ".join(f"{name}: {f'steps {min(s)} to {max(s)}' if s else 'no step'}" for name, s in steps.items())


def _print(runs: Mapping[str, History], found: Sequence[Difference], broken: set[Difference]) -> None:
    base, *others = runs
    for at, other in enumerate(others):
        if at:
            click.echo()
        rows = [_row(d, d in broken) for d in found if d.run == other]
        titles = ("reward", "metric", base, other, "change", "relative")
        echo(Table(titles, rows, left=("metric",), optional=("relative",), is_grouped=True))


def _row(d: Difference, is_broken: bool) -> list[Cell | str]:
    style = "bold red" if is_broken else ""
    change, relative = _changes(d)
    return [
        called(d.reward),
        d.metric,
        _value(d, d.base),
        Cell(_value(d, d.value), style),
        Cell(change, style),
        Cell(relative, style),
    ]


def _step(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0f}"


def _value(d: Difference, value: float | None) -> str:
    if d.metric == "steps":
        return _step(value)
    return share(value) if d.metric in SHARES else number(value)


def _changes(d: Difference) -> tuple[str, str]:
    """Return the change in the figure's own unit, or in percentage points, and relative to the base."""
    absolute = signed(d.absolute) if d.points is None else f"{d.points:+.1f} pp"
    relative = d.relative
    if relative is None or math.isinf(relative) or d.metric in (*SHARES, "alerts"):
        return absolute, ""
    return absolute, percent(relative)


def _text(limit: Limit) -> str:
    sign = "" if limit.both else "-" if math.copysign(1, limit.change) < 0 else "+"
    return f"{limit.metric}:{sign}{abs(limit.change):g}{limit.unit}"


def _sentence(d: Difference) -> str:
    if d.metric == "steps":
        return f"{d.run} ends at step {_step(d.value)}, the first run at {_step(d.base)}"
    if d.value is None:
        return f"{d.run} has no {d.metric} of {called(d.reward)}, which was {_value(d, d.base)}"
    change = ", ".join(filter(None, _changes(d)))
    return f"{d.metric} of {called(d.reward)} is {_value(d, d.value)} in {d.run} against {_value(d, d.base)} ({change})"


def _document(
    runs: Mapping[str, History],
    span: tuple[int, int],
    found: Sequence[Difference],
    broken: Sequence[tuple[Limit, Difference]],
) -> dict[str, object]:
    return {
        "runs": list(runs),
        "first_step": span[0],
        "last_step": span[1],
        "metrics": {**METRICS, **OF_RUN},
        "differences": [_fields(d) for d in found],
        "failed": [{"limit": _text(limit), **_fields(d)} for limit, d in broken],
    }


def _fields(d: Difference) -> dict[str, object]:
    return {**vars(d), "absolute": d.absolute, "relative": d.relative}
