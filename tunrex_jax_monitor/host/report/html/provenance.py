"""Provenance: where the numbers of a page come from, and what it leaves out."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from tunrex_jax_monitor.host.history import PART, History
from tunrex_jax_monitor.host.report.html.panels import EMISSIONS
from tunrex_jax_monitor.host.report.html.points import Points
from tunrex_jax_monitor.host.report.text import plural

_COUNTERS = ("valid", "nan", "posinf", "neginf", "masked")


class Provenance(NamedTuple):
    """What the foot of a page says."""

    facts: list[tuple[str, str]]
    config: list[tuple[str, str]]
    counters: list[tuple[str, list[str]]]  # per reward, in the order of `titles`
    titles: tuple[str, ...] = _COUNTERS


def provenance(run: History, points: Points) -> Provenance:
    """Return the foot of a report."""
    return Provenance(
        facts=[*_run(run), *_numbers(run), *_left_out(run, points)],
        config=sorted((key, str(value)) for key, value in run.config.items()),
        counters=[(name, counted) for name in run.names if (counted := _counted(run, name))],
    )


def _run(run: History) -> Iterator[tuple[str, str]]:
    if part := run.manifest.get(PART):
        yield "part", f"{part}; statistics and counts that go back to the beginning of the run are left out"
    if (started := run.manifest.get("start_time")) is not None:
        yield "started", utc(started)
    if run.last is not None:
        if run.last.time:
            yield "last record", utc(run.last.time)
        yield "updates", f"{run.last.update:,}"
    if versions := run.manifest.get("versions"):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    if devices := run.manifest.get("devices"):
        yield "devices", _devices(devices)
    if processes := run.manifest.get("processes"):
        yield "processes", str(processes)


def _numbers(run: History) -> Iterator[tuple[str, str]]:
    window = run.config.get("window_size")
    yield "window", f"the last {window:,} samples of a reward" if isinstance(window, int) else "not known"
    yield "percentiles", "of the window: exact, linear between order statistics; of the run: a sketch, within 2 %"
    yield "averages", "of step means, bias-corrected; a step without data changes nothing"


def _left_out(run: History, points: Points) -> Iterator[tuple[str, str]]:
    if run.axis == "update":
        yield "steps", "of this run go back; what is called a step here counts its updates, from 0"
    yield "drawn", drawn(points)
    if (emissions := len(run.emissions.steps)) > EMISSIONS:
        yield "window figures", f"{emissions:,} emissions as {EMISSIONS}, means of neighbours"
    if run.series.stride > 1:
        yield "kept in memory", f"one row of every {run.series.stride} steps, with their extremes"
    if run.emissions.histogram_stride > 1:
        yield "histograms", f"one of every {run.emissions.histogram_stride} emissions"
    scalars = {} if run.last is None else run.last.scalars
    yield "dropped records", f"{scalars.get('monitoring/dropped_records', 0):,.0f}"
    counters = {} if run.last is None else run.last.counters
    yield "steps without a trace", f"{counters.get('trace_dropped', 0):,} in the last interval"


def drawn(points: Points) -> str:
    """Return what the charts leave out, in words."""
    steps = len(points.steps)
    if points.is_whole:
        return f"all {plural(steps, 'step')} one by one"
    kept = (
        "each with its least and greatest step mean, and the averages at its end; steps at which alerts begin or end, "
        "and the extremes of each reward, are points of their own"
    )
    return f"{steps:,} steps as {len(points.starts):,} points: {kept}"


def _counted(run: History, name: str) -> list[str]:
    counters = {} if run.last is None else run.last.counters
    if not any(f"{name}/{key}" in counters for key in _COUNTERS):
        return []
    return [f"{counters[f'{name}/{key}']:,}" if f"{name}/{key}" in counters else "n/a" for key in _COUNTERS]


def _devices(devices: Any) -> str:
    """Return how many of each kind there are; what a manifest of another program says, as it is."""
    try:
        kinds = Counter(f"{device['kind']} ({device['platform']})" for device in devices)
    except (TypeError, KeyError):
        return str(devices)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())


def utc(seconds: float) -> str:
    """Return a time in words."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
