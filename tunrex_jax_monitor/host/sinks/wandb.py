"""WandbSink: records as rows of a Weights & Biases run.

W&B drops a row whose step lies behind the run's own counter, and every committed row moves that counter. So on a run
that somebody else logs to, this sink never commits and never passes `step=`: its values join the owner's next row, and
where several records meet in one row, the newest values stay. The x axis of every key is `monitoring/step`.
"""

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunrex_jax_monitor.device.config import as_integer, invalid
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.record import AlertEvent, Histogram, Record

_logger = logging.getLogger("tunrex_jax_monitor")
_STEP = "monitoring/step"
_HELD = 10_000  # rows that wait for somebody to log first; each is some kB
_QUIET_SECONDS = 300.0  # between two alerts of one type and reward
_NO_RUN = (
    "W&B: there is no active run, so nothing goes there. Call wandb.init() first, or let the monitor open a run of its "
    "own (WandbSink(own_run=True))."
)
_FINISHED = "W&B: the run was finished before the monitor, after %d records; later ones are not in it."
_COLUMNS = ("step", "reward", "type", "value", "threshold", "message", "remedy")


class WandbSink:
    """Logs to a run of its own, or to one that somebody else opened.

    On somebody else's run that nobody logs to, rows are held, the run summary shows the newest, and all are logged when
    the run ends.

    Args:
      run: the run to log to; `wandb.run`, looked up at each record, by default.
      own_run: True opens a run when the reporter starts, and finishes it at the end; no row is ever merged there.
      histogram_frequency: records from one histogram to the next; W&B shows at most 10,000 of a key.
      histogram_bins: neighbouring bins are joined until there are at most so many; None logs no histogram.
      tags: added to those of the run.
      config: added to that of the run.
      notify: False sends no alert, only their table: for a run that is over.
      init: what `wandb.init` takes, with `own_run`: project, name, mode, dir ...

    Raises:
      ValueError: the arguments contradict each other.
      ImportError: wandb is not installed.
    """

    def __init__(
        self,
        run: Any = None,
        *,
        own_run: bool = False,
        histogram_frequency: int = 10,
        histogram_bins: int | None = 64,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        notify: bool = True,
        **init: Any,
    ) -> None:
        if own_run and run is not None:
            raise invalid("own_run", own_run, "False when a run is given", "Leave out one of the two.")
        if init and not own_run:
            raise invalid("init", sorted(init), "arguments of wandb.init with own_run=True", "Add own_run=True.")
        import wandb  # 0.9 s, so only where it is used

        self._wandb = wandb
        self._run, self._own, self._init = run, own_run, init
        self._every = as_integer("histogram_frequency", histogram_frequency, 1)
        self._bins = None if histogram_bins is None else as_integer("histogram_bins", histogram_bins, 1)
        self._tags, self._config, self._notify = tuple(tags), dict(config or {}), notify
        self._defined: set[str] = set()
        self._alerted: dict[str, float] = {}
        self._alerts: list[AlertEvent] = []
        self._last: Record | None = None
        self._records = self._overwritten = 0
        self._held: deque[dict[str, Any]] = deque(maxlen=_HELD)  # until somebody else logs, or the run ends
        self._is_joined, self._lock = False, threading.Lock()
        self._step: int | None = None  # of the run, at our last row
        self._seen: Any = None  # the run that took our last row
        self._told = self._closed = False

    def begin_run(self, manifest: Mapping[str, Any]) -> None:
        """Open the run, if it is to be our own, and give it the monitor's configuration."""
        self._config = {"tunrex_jax_monitor": manifest.get("config", {}), **self._config}
        if self._own:
            given = {"config": self._config, "tags": self._tags or None, **self._init}
            self._run = self._wandb.init(reinit="create_new", **given)

    def write(self, record: Record) -> None:
        """Log one record; without a run, say so once and go on."""
        run = None if self._closed else self._find()
        if run is None:
            return
        self._log(run, self._row(record), record.step)
        self._alert(record)
        self._last = record
        self._records += 1

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log a row of your own by the same rules, at your step; it must not hold keys of the records."""
        run = self._find()
        if run is not None:
            self._log(run, dict(values), step)

    def log_alert(self, title: str, text: str) -> None:
        """Send an alert, unless one of this title went out within five minutes."""
        run, now = self._find() if self._notify else None, time.monotonic()
        if run is not None and now - self._alerted.get(title, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._alerted[title] = now
            run.alert(title=title, text=text, level="WARN")

    def histogram(self, histogram: Histogram) -> Any:
        """Return it as W&B takes it, for `log`."""
        return self._wandb.Histogram(np_histogram=coarsen(histogram, self._bins or len(histogram.counts)))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
        """Return a table, for `log`."""
        return self._wandb.Table(columns=list(columns), data=rows)

    def close(self) -> None:
        """Log the table of alerts and the run summary; finish the run if it is our own. Held rows go out at its end."""
        run, closed, self._closed = self._find(), self._closed, True
        if closed or run is None:
            return
        if self._alerts:
            rows = [[getattr(event, column) for column in _COLUMNS] for event in self._alerts]
            run.log({"alerts/table": self.table(_COLUMNS, rows)}, commit=self._own)
        if self._last is not None:
            run.summary.update(self._last.scalars)
        if self._overwritten:
            message = (
                "W&B: %d of %d records were overwritten by the next: the run was logged to less often than we emit"
            )
            _logger.warning(message, self._overwritten, self._records)
        if self._own:
            run.finish()

    def _find(self) -> Any:
        run = self._wandb.run if self._run is None else self._run
        if run is not None and getattr(run, "_is_finished", False):
            run = None
        if run is None and not self._told:
            self._told = True
            _logger.warning(_NO_RUN if self._seen is None else _FINISHED % self._records)
        self._seen = run or self._seen
        return run

    def _log(self, run: Any, row: dict[str, Any], step: int) -> None:
        row[_STEP] = step
        self._define(run, row)
        if self._own:
            run.log(row)
        else:
            self._join(run, row)

    def _row(self, record: Record) -> dict[str, Any]:
        row: dict[str, Any] = dict(record.scalars)
        is_due = self._records % self._every == 0 or any("/run/" in key for key in record.histograms)
        if is_due and self._bins is not None:
            for key, histogram in record.histograms.items():
                row[key] = self.histogram(histogram)
        return row

    def _define(self, run: Any, row: Mapping[str, Any]) -> None:
        """Give each new key our own x axis: key by key, since a pattern would catch the owner's keys as well."""
        if not self._defined and not self._own:
            self._watch_end(run)
            run.config.update(self._config, allow_val_change=True)
            run.tags = (*(run.tags or ()), *self._tags)
        for key in row.keys() - self._defined:
            run.define_metric(key, step_metric=None if key == _STEP else _STEP)
            self._defined.add(key)

    def _join(self, run: Any, row: dict[str, Any]) -> None:
        moved = self._step is not None and run.step != self._step
        if self._is_joined or moved:
            self._overwritten += len(self._held) + (not moved)
            self._held.clear()
            self._is_joined = True
            run.log(row, commit=False)
        else:
            with self._lock:
                self._held.append(row)
            run.summary.update({key: value for key, value in row.items() if isinstance(value, float | int)})
        self._step = run.step

    def _watch_end(self, run: Any) -> None:
        """Let the held rows out when the run ends: nothing of the owner's can come behind them any more."""
        name = "_finish" if hasattr(run, "_finish") else "finish"  # the first is behind `with` as well
        finish = getattr(run, name)

        def release_and_finish(*args: Any, **kwargs: Any) -> Any:
            attempt(lambda: self._release(run))
            return finish(*args, **kwargs)

        setattr(run, name, release_and_finish)
        atexit.register(lambda: attempt(lambda: self._release(run)))

    def _release(self, run: Any) -> None:
        with self._lock:
            newest = dict(self._held[-1]) if self._held else {}
            while self._held:
                run.log(self._held.popleft())
            run.summary.update({key: value for key, value in newest.items() if isinstance(value, float | int)})

    def _alert(self, record: Record) -> None:
        for event in record.alerts:
            self._alerts.append(event)
            self.log_alert(f"{event.type}: {event.reward}", f"{event.message}\n\n{event.remedy}\n\nstep {event.step}")


def coarsen(histogram: Histogram, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and edges, with neighbours joined until there are at most so many bins."""
    counts, edges = np.asarray(histogram.counts), np.asarray(histogram.edges)
    starts = np.arange(0, len(counts), -(-len(counts) // bins))
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])
