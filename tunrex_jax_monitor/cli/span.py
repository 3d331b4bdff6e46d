"""`--steps A:B`: a part of a run, from one step to another, both included."""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from tunrex_jax_monitor.cli.options import Problem
from tunrex_jax_monitor.host.history import PART, History
from tunrex_jax_monitor.host.record import Record

_ALL = (float("-inf"), float("inf"))
_OF_RUN = "/nonfinite_count"
_FORM = re.compile(r"(-?\d*):(-?\d*)")


def parse(text: str) -> tuple[float, float]:
    """Return the first and the last step; an end that is left out is infinite.

    >>> parse("100:200"), parse("100:")
    ((100.0, 200.0), (100.0, inf))
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or text.strip() == ":" or "-" in found.groups():
        raise Problem(f"--steps: got {text!r}, allowed: A:B, A: or :B with whole numbers. Write for example 100:200.")
    first, last = (float(end) if end else infinite for end, infinite in zip(found.groups(), _ALL, strict=True))
    if first > last:
        raise Problem(f"--steps: got {text!r}, allowed: A:B with A at most B. Write {last:.0f}:{first:.0f}.")
    return first, last


def cut(history: History, records: Iterable[Record], text: str) -> History:
    """Return the history of the steps that `text` names.

    Statistics of the window are those of the last whole record. Those of the run go back to its beginning, so they are
    left out where that is.

    Args:
      history: the whole run.
      records: its records.
      text: "A:B".

    Raises:
      Problem: the text reads otherwise, or there is no step in it.
    """
    first, last = parse(text)
    steps = history.series.get("step", [])
    if not any(first <= step <= last for step in steps):
        there = f"the run has steps {min(steps)} to {max(steps)}" if steps else "the run has no step yet"
        raise Problem(f"--steps: got {text!r}, in which there is no step, allowed: a part of the run. Here {there}.")
    part = History()
    part.names = history.names
    is_late = first > min(steps)
    for record in _parts(records, first, last):
        part.write(_without_run(record) if is_late else record)
    shown = part.series["step"]
    part.manifest = {**history.manifest, PART: f"steps {min(shown):,} to {max(shown):,}"}
    return part


def _parts(records: Iterable[Record], first: float, last: float) -> Iterator[Record]:
    before: Record | None = None
    for record in records:
        rows = [at for at, step in enumerate(record.series.get("step", [])) if first <= step <= last]
        if rows:
            inside = _cut(record, rows, first, last)
            if record.step > last and before is not None:  # its window reaches beyond
                inside = dataclasses.replace(inside, scalars=before.scalars, histograms=before.histograms)
            yield inside
        before = record


def _without_run(record: Record) -> Record:
    scalars = {key: v for key, v in record.scalars.items() if "/run/" not in key and not key.endswith(_OF_RUN)}
    histograms = {key: v for key, v in record.histograms.items() if "/run/" not in key}
    return dataclasses.replace(record, scalars=scalars, histograms=histograms, counters={})


def _cut(record: Record, rows: list[int], first: float, last: float) -> Record:
    return dataclasses.replace(
        record,
        step=min(record.step, record.series["step"][rows[-1]]),
        series={key: [values[at] for at in rows] for key, values in record.series.items()},
        alerts=tuple(alert for alert in record.alerts if first <= alert.step <= last),
    )
