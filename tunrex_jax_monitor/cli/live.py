"""How `watch` shows what is new: a table that stays in its place, lines, or lines of JSON."""

import abc
import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunrex_jax_monitor.cli import tables
from tunrex_jax_monitor.cli.options import SCHEMA, tell
from tunrex_jax_monitor.cli.overview import overview
from tunrex_jax_monitor.cli.text import encodable, printable
from tunrex_jax_monitor.host.files import to_json
from tunrex_jax_monitor.host.follow import News
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent, Record
from tunrex_jax_monitor.host.report.text import number, plural, share

if TYPE_CHECKING:
    from rich.console import RenderableType

_UNITS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
_NEWEST = 6  # alerts below the table


class View(abc.ABC):
    """Takes news of runs, one after the other."""

    def display(self) -> contextlib.AbstractContextManager[object]:
        """Return what has to be entered while news are shown; what has been shown stays."""
        return contextlib.nullcontext()

    def show(self, path: Path, news: News) -> None:
        """Show what one look found."""
        if news.restarted:
            self.restart(path)
        if news.damaged:
            tell(f"{path}: left out {plural(news.damaged, 'line')} of another form than a record's")
        for record in news.records:
            self.record(record)

    @abc.abstractmethod
    def restart(self, path: Path) -> None:
        """Show that another run goes on from here."""

    @abc.abstractmethod
    def record(self, record: Record) -> None:
        """Show one record and its alerts."""


class Lines(View):
    """One line per record and alert, for pipes and logs."""

    def __init__(self) -> None:
        self._update = -1  # of the last record

    def restart(self, path: Path) -> None:
        """Say it on stderr."""
        self._update = -1
        tell(f"another run: {path}")

    def record(self, record: Record) -> None:
        """Print the short averages, and what went wrong; a run ends with its last record again, with run quantiles."""
        is_told, self._update = record.update == self._update, record.update
        if is_told:
            return
        shown = [f"{encodable(printable(name))}={number(v)}" for name, v in _averages(record).items()]
        if "frac_reward_zero_std" in record.scalars:
            shown.append(f"zero variance={share(record.scalars['frac_reward_zero_std'])}")
        click.echo("  ".join([f"step {record.step}", *shown]))
        for alert in record.alerts:
            click.echo(encodable(f"ALERT  {_line(alert)}"))


class Json(View):
    """One JSON document per line: `event` is run, record or alert."""

    def restart(self, path: Path) -> None:
        """Print a `run` event."""
        _echo({"event": "run", "run": str(path)})

    def record(self, record: Record) -> None:
        """Print a `record` event, and an `alert` event for each alert."""
        step = {"step": record.step, "update": record.update, "time": record.time}
        _echo({"event": "record", **step, "names": record.names, "scalars": record.scalars})
        for alert in record.alerts:
            _echo({"event": "alert", **vars(alert)})


class Screen(View):
    """A table that stays in its place, by rich."""

    def __init__(self) -> None:
        from rich.live import Live

        self._history, self._path = History(), Path()
        # A thread of rich would read the history while it grows; its proxy for stdout knows no encoding.
        self._live = Live(auto_refresh=False, redirect_stdout=False)

    def display(self) -> contextlib.AbstractContextManager[object]:
        """Return the place of the table."""
        return self._live

    def show(self, path: Path, news: News) -> None:
        """Take in the news, and draw."""
        self._path = path
        super().show(path, news)
        self._live.update(self._draw(), refresh=True)

    def restart(self, path: Path) -> None:
        """Begin with an empty table."""
        self._history = History()

    def record(self, record: Record) -> None:
        """Take in a record."""
        self._history.write(record)

    def _draw(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        last = self._history.last
        if last is None:
            return Text("no record yet", style="dim")
        age = max(0.0, time.time() - last.time)
        head = Text(encodable(printable(f"{self._path}: step {last.step}, {_ago(age)} ago; Ctrl-C ends")), style="dim")
        newest = [Text(encodable(_line(a)), style="red", overflow="ellipsis") for a in self._history.alerts[-_NEWEST:]]
        return Group(head, tables.drawn(overview(self._history), self._live.console.width), *reversed(newest))


def _averages(record: Record) -> Mapping[str, float | None]:
    return {name: record.scalars.get(f"{name}/ema_short") for name in record.names}


def _line(alert: AlertEvent) -> str:
    return printable(f"step {alert.step}  {alert.message}")


def _ago(seconds: float) -> str:
    """Return a time in its largest unit.

    >>> _ago(4.0), _ago(200.0), _ago(9e3), _ago(1e6)
    ('4 s', '3 min', '2 h', '11 days')
    """
    size, unit = next(unit for unit in _UNITS if seconds >= 2 * unit[0] or unit[0] == 1)
    return f"{seconds // size:.0f} {unit}"


def _echo(data: dict[str, Any]) -> None:
    click.echo(json.dumps({"schema": SCHEMA, **json.loads(to_json(data))}))
