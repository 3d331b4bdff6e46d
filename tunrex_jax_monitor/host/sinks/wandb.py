"""WandbSink: records as rows of a Weights & Biases run.

The x axis of every key is `monitoring/step`, and no row carries a `step=` of W&B's own. `wandb_rows` says how rows come
to a run that somebody else logs to.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunrex_jax_monitor.device.config import as_integer, invalid, require_flag
from tunrex_jax_monitor.host.arguments import require_mapping, require_text, require_texts
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.optional import load
from tunrex_jax_monitor.host.record import AlertEvent, Histogram, Record
from tunrex_jax_monitor.host.sinks.wandb_definitions import watch_definitions
from tunrex_jax_monitor.host.sinks.wandb_rows import SECTION, SharedRun, section_of

_logger = logging.getLogger("tunrex_jax_monitor")
_STEP = "monitoring/step"
_ALERTS = 10_000  # rows of the table
_QUIET_SECONDS = 300.0  # between two alerts of one type and reward
_NO_RUN = (
    "W&B: there is no active run, so nothing goes there. Call wandb.init() first, or let the monitor open a run of its "
    "own: sinks=[WandbSink(own_run=True)]."
)
_FINISHED = (
    "W&B: the run was finished before the monitor, after %d records; later ones are not in it. Call finalize(), or "
    "close(), before the run ends."
)
_COLUMNS = ("step", "reward", "type", "value", "threshold", "message", "remedy")


class WandbSink:
    """Logs to a run of its own, or to one that somebody else opened.

    On somebody else's run no row is ever lost, neither of theirs nor of ours: see `wandb_rows`.

    Args:
      run: the run to log to; by default `wandb.run`, looked up when the reporter starts and at each record.
      own_run: True opens a run when the reporter starts, and finishes it at the end; each record is a row at once.
      commit: True where nobody else logs to the run: each record is a row at once. A row that somebody then logs with a
        smaller `step=` than there are rows is dropped by W&B.
      prefix: before every key, for a run that has keys such as `reward` or `rewards/sum` of its own.
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

    label = "W&B"  # in messages

    def __init__(
        self,
        run: Any = None,
        *,
        own_run: bool = False,
        commit: bool = False,
        prefix: str = "",
        histogram_frequency: int = 10,
        histogram_bins: int | None = 64,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        notify: bool = True,
        **init: Any,
    ) -> None:
        require_flag("own_run", own_run)
        require_flag("notify", notify)
        require_options(tags, config, prefix, commit)
        if own_run and run is not None:
            raise invalid("own_run", own_run, "False when a run is given", "Leave out one of the two.")
        if init and not own_run:
            raise invalid("init", sorted(init), "arguments of wandb.init with own_run=True", "Add own_run=True.")
        if run is not None and not callable(getattr(run, "log", None)):
            raise invalid("run", run, "what wandb.init() returned", "Leave it out for the active run.")
        self._wandb = load("wandb", "wandb")  # 0.9 s, so only where it is used
        watch_definitions(self._wandb.Run)  # before the owner defines what belongs to the run
        self._run, self._own, self._init = run, own_run, init
        self._every = as_integer("histogram_frequency", histogram_frequency, 1)
        self._bins = None if histogram_bins is None else as_integer("histogram_bins", histogram_bins, 1, 512)
        self._tags, self._config, self._notify = tuple(tags), dict(config or {}), notify
        self._section: dict[str, Any] = {}  # of ours in the run's configuration
        self._commits, self._prefix = bool(commit or own_run), prefix
        self._alerted: dict[str, float] = {}
        self._alerts: deque[AlertEvent] = deque(maxlen=_ALERTS)
        self._last: Record | None = None
        self._records = 0
        self._joined: _Joined | None = None
        self._joining = threading.Lock()
        self._told = self._closed = False

    def begin_run(self, manifest: Mapping[str, Any]) -> None:
        """Open the run, if it is to be our own, and give it the monitor's configuration."""
        self._section = dict(manifest.get("config", {}))
        if self._own:
            config = {SECTION: self._section, **self._config}
            given = {"config": config, "tags": self._tags or None, **self._init}
            self._run = self._wandb.init(reinit="create_new", **given)
        elif self._active() is not None:  # the first record may come when the run is over
            self._find()

    def write(self, record: Record) -> None:
        """Log one record; without a run, say so once and go on."""
        if self._closed:  # the last record comes once more then, for sinks that are still open
            if self._last is not None and record.step > self._last.step:
                self._tell_of_loss()
            return
        if (at := self._find()) is None:
            return
        self._log(at, self._row(record), record.step)
        self._alert(record)
        self._last = record
        self._records += 1

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log a row of your own by the same rules, at your step; it must not hold keys of the records.

        A number that is not finite is left out, wherever it stands: see `finite`.
        """
        at, kept = self._find(), finite(values)
        if at is not None and kept is not None:
            self._log(at, kept, step)

    def log_alert(self, title: str, text: str) -> None:
        """Send an alert, unless one of this title went out within five minutes."""
        at, now = self._find() if self._notify else None, time.monotonic()
        if at is not None and now - self._alerted.get(title, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._alerted[title] = now
            at.run.alert(title=title, text=text, level="WARN")

    def histogram(self, counts: np.ndarray, edges: np.ndarray) -> Any:
        """Return a histogram of at most 512 bins as W&B takes it, for `log`."""
        return self._wandb.Histogram(np_histogram=(counts, edges))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
        """Return a table, for `log`."""
        return self._wandb.Table(columns=list(columns), data=rows)

    def close(self) -> None:
        """Log the table of alerts and the run summary; finish the run if it is our own. Held rows go out at its end."""
        is_nothing = self._closed or (self._own and self._run is None)  # our own could not be opened: that is told
        at, self._closed = None if is_nothing else self._find(), True
        if at is None:
            return
        if self._alerts:
            rows = [[getattr(event, column) for column in _COLUMNS] for event in self._alerts]
            at.log({"alerts/table": self.table(_COLUMNS, rows)}, commit=self._commits)
        if self._last is not None:
            at.summarize(self._last.scalars)
        if at.shared is not None:
            at.shared.release(at.prefix)
        if self._own:
            at.run.finish()

    def _find(self) -> "_Joined | None":
        """Return the run to log to; another than before where the owner has opened another since."""
        run = self._active()
        if run is None:
            self._tell_of_loss()
            return None
        with self._joining:  # the owner may log by us, beside the thread of the records
            if self._joined is None or self._joined.run is not run:
                self._joined = self._join(run)
            return self._joined

    def _tell_of_loss(self) -> None:
        if not self._told:
            self._told = True
            _logger.warning(_NO_RUN if self._joined is None else _FINISHED % self._records)

    def _active(self) -> Any:
        run = self._wandb.run if self._run is None and not self._own else self._run
        return None if getattr(run, "_is_finished", False) else run

    def _join(self, run: Any) -> "_Joined":
        self._told = is_disabled = bool(getattr(run, "disabled", False))
        if self._own or is_disabled:  # nobody else's rows are in it
            return _Joined(run, self._prefix, None)
        section = {section_of(run): self._section} if self._section else {}
        shared = SharedRun.of(run)  # it looks whether the section is there already
        run.config.update({**section, **self._config}, allow_val_change=True)
        if more := [tag for tag in self._tags if tag not in (run.tags or ())]:
            run.tags = (*(run.tags or ()), *more)
        return _Joined(run, shared.claim(self._prefix), shared)

    def _log(self, at: "_Joined", values: Mapping[str, Any], step: int) -> None:
        at.log({**values, _STEP: step}, commit=self._commits)

    def _row(self, record: Record) -> dict[str, Any]:
        row: dict[str, Any] = dict(record.scalars)
        is_due = self._records % self._every == 0 or any("/run/" in key for key in record.histograms)
        if is_due and self._bins is not None:
            for key, histogram in record.histograms.items():
                row[key] = self.histogram(*coarsen(histogram, self._bins))
        return row

    def _alert(self, record: Record) -> None:
        for event in record.alerts:
            self._alerts.append(event)
            self.log_alert(f"{event.type}: {event.reward}", f"{event.message}\n\n{event.remedy}\n\nstep {event.step}")


class _Joined:
    """What a sink knows of the run that it logs to, and its keys there."""

    def __init__(self, run: Any, prefix: str, shared: SharedRun | None) -> None:
        self.run, self.prefix, self.shared = run, prefix, shared
        self._defined: set[str] = set()

    def log(self, values: Mapping[str, Any], *, commit: bool) -> None:
        """Log a row; unless it is committed, it waits for one of the owner's."""
        row, axis = self._prefixed(values), self.prefix + _STEP
        if self.shared is None:
            for key in row.keys() - self._defined:
                self.run.define_metric(key, step_metric=None if key == axis else axis)
                self._defined.add(key)
            self.run.log(row, commit=commit)
        elif commit:
            self.shared.log(row, axis, commit=True)
        else:
            self.shared.join(row, axis)

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Put values into the run's summary."""
        summarize = self.run.summary.update if self.shared is None else self.shared.summarize
        summarize(self._prefixed(values))

    def _prefixed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self.prefix + key: value for key, value in values.items()}


def require_options(tags: object, config: object, prefix: object, commit: object) -> None:
    """Refuse what is wrong in the arguments that say how rows come to a run."""
    require_texts("tags", tags)
    require_mapping("config", config)
    require_text("prefix", prefix)
    require_flag("commit", commit)


def finite(value: Any) -> Any:
    """Return a value without the numbers in it that are not finite; None where it is one, or nothing else is left.

    In a list each becomes None, so that the others keep their places; an array becomes flat without them.
    """
    if isinstance(value, Mapping):
        kept = {key: finite(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None} or None
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) or hasattr(value, "dtype"):
        is_finite, _ = attempt(lambda: np.isfinite(np.asarray(value)))
        if is_finite is not None and not np.all(is_finite):  # None of texts
            return np.asarray(value)[is_finite] if np.any(is_finite) else None
    return value


def coarsen(histogram: Histogram, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and edges, with neighbours joined until there are at most so many bins."""
    counts, edges = np.asarray(histogram.counts), np.asarray(histogram.edges)
    starts = np.arange(0, len(counts), -(-len(counts) // bins))
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])
