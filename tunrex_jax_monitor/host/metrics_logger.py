"""RewardMetricsLogger: the original document's W&B logger, over `WandbSink` and its rules for shared runs."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import pool
from tunrex_jax_monitor.host.functions import to_samples
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.wandb import WandbSink
from tunrex_jax_monitor.host.stats import RewardStats

_logger = logging.getLogger("tunrex_jax_monitor")
_OF_BATCH = ("mean", "std", "min", "max", "median", "count")
_OF_TABLE = ("mean", "std", "min", "max", "median", "ema_short", "ema_long", "count")


class RewardMetricsLogger:
    """Logs to the active W&B run, whoever opened it, without taking a row from its owner. Logging never raises.

    It is a sink as well: `Reporter(acc, [RewardMetricsLogger()])`.

    Args:
      use_wandb: False logs nowhere.
      log_histograms: log histograms too.
      histogram_bins: of one histogram, at most.
      log_frequency: `log_reward_batch` logs every so many calls.
      tags: as in `WandbSink`.
      config: as in `WandbSink`.
    """

    def __init__(
        self,
        use_wandb: bool = True,
        log_histograms: bool = True,
        histogram_bins: int = 50,
        log_frequency: int = 1,
        *,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.log_frequency, self.log_histograms = log_frequency, log_histograms
        self._sink: WandbSink | None = None
        if use_wandb:
            bins = histogram_bins if log_histograms else None
            sink, error = attempt(partial(WandbSink, histogram_bins=bins, tags=tags, config=config))
            if isinstance(error, ImportError):
                _logger.warning("W&B is not installed, so nothing goes there: pip install wandb, or use_wandb=False.")
            elif error is not None:
                raise error
            self._sink = sink
        self._state: MonitorState | None = None
        self._acc: RewardAccumulator | None = None
        self._calls, self._step = 0, -1

    @property
    def use_wandb(self) -> bool:
        """Whether rows go to W&B."""
        return self._sink is not None

    def begin_run(self, manifest: Mapping[str, Any]) -> None:
        """Take the configuration, for that of the W&B run."""
        if self._sink is not None:
            self._sink.begin_run(manifest)

    def write(self, record: Record) -> None:
        """Log a record."""
        if self._sink is not None:
            self._sink.write(record)

    def log_step(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:
        """Log a row.

        Args:
          metrics: values by key.
          step: of the key `monitoring/step`, which is the x axis; one more than the last by default.
          commit: not needed: a row joins the owner's next one, and on a run without other rows is held until its end.
        """
        self._step = self._step + 1 if step is None else int(step)
        self._use(lambda sink: sink.log(metrics, self._step))

    def log_reward_batch(
        self, reward_values: Mapping[str, Any], step: int | None = None, prefix: str = "rewards"
    ) -> None:
        """Log `<prefix>/<name>/` mean, std, min, max, median and count of one batch.

        Args:
          reward_values: maps names to scalars, lists or arrays; the same names in every call.
          step: as in `log_step`.
          prefix: of the keys.
        """
        self._calls += 1
        stats, error = attempt(lambda: self._fold(reward_values))
        if stats is None:
            _logger.warning("A batch of rewards could not be logged: %s", error)
        elif self._calls % self.log_frequency == 0:
            row = {f"{prefix}/{s.name}/{field}": getattr(s, field) for s in stats for field in _OF_BATCH if s.count}
            self.log_step(row, step)

    def log_distributions(self, step: int | None = None, reset_after_log: bool = True) -> None:
        """Log `<name>/histogram` of what `log_reward_batch` was given: the newest 1000 samples of each reward."""
        if self._acc is None or self._state is None or not self.log_histograms:
            return
        found = self._acc.record(self._state).histograms
        histograms = {key: histogram for key, histogram in found.items() if "/run/" not in key}
        self._use(lambda sink: sink.log({k: sink.histogram(h) for k, h in histograms.items()}, self._at(step)))
        if reset_after_log:
            self._state = None

    def log_summary_table(self, reward_stats: Mapping[str, RewardStats], step: int | None = None) -> None:
        """Log the statistics as one table, `rewards/summary_table`."""
        rows = [[name, *(getattr(s, field) for field in _OF_TABLE)] for name, s in reward_stats.items()]
        columns = ("reward", *_OF_TABLE)
        self._use(lambda sink: sink.log({"rewards/summary_table": sink.table(columns, rows)}, self._at(step)))

    def log_alerts(self, alerts: Iterable[str | Mapping[str, Any]], step: int | None = None) -> None:
        """Send alerts, each a text "TYPE: name - ..." or a dict with "message"; one of a kind every five minutes."""
        for alert in alerts:
            message = str(alert["message"] if isinstance(alert, Mapping) else alert)
            text = f"{message}\n\nstep {self._at(step)}"
            self._use(partial(WandbSink.log_alert, title=message.split(" - ")[0], text=text))

    def close(self) -> None:
        """Log what is held back."""
        self._use(lambda sink: sink.close())

    def _at(self, step: int | None) -> int:
        return max(self._step, 0) if step is None else int(step)

    def _fold(self, values: Mapping[str, Any]) -> list[RewardStats]:
        """Return the statistics of a batch, and keep it for `log_distributions`."""
        round_ = {name: to_samples(value) for name, value in values.items()}
        if self._acc is None:
            self._acc = RewardAccumulator(tuple(round_), detect="off", log_frequency=1)
        acc, batch = self._acc, pool.join([round_], list(round_), 1, 0)
        size = len(next(iter(batch.mask.values())))
        alone = acc.update_jit(acc.init(batch_size=size), batch.values, mask=batch.mask)
        everything = acc.init(batch_size=size) if self._state is None else self._state
        self._state = acc.update_jit(everything, batch.values, mask=batch.mask)
        scalars = acc.record(alone).scalars
        return [RewardStats.of(name, scalars) for name in acc.reward_names]

    def _use(self, action: Callable[[WandbSink], object]) -> None:
        sink = self._sink
        if sink is None:
            return
        _, error = attempt(lambda: action(sink))
        if error is not None:
            _logger.warning("W&B did not take what was logged: %s: %s", type(error).__name__, error)
