"""RewardMetricsLogger: the original document's W&B logger, over `WandbSink` and its rules for shared runs."""

import logging
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from tunrex_jax_monitor.device.config import as_integer, invalid, require_flag
from tunrex_jax_monitor.host.guard import attempt, in_words
from tunrex_jax_monitor.host.metrics_collector import MetricsCollector
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.sinks.wandb import WandbSink, finite, require_options
from tunrex_jax_monitor.host.stats import RewardStats

T = TypeVar("T")
_logger = logging.getLogger("tunrex_jax_monitor")
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
      prefix: as in `WandbSink`.
      commit: as in `WandbSink`.

    Attributes:
      use_wandb, log_histograms, histogram_bins, log_frequency: as given; `use_wandb` is False without wandb.

    Raises:
      ValueError: an argument is wrong.
    """

    label = "W&B"  # in messages

    def __init__(
        self,
        use_wandb: bool = True,
        log_histograms: bool = True,
        histogram_bins: int = 50,
        log_frequency: int = 1,
        *,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        prefix: str = "",
        commit: bool = False,
    ) -> None:
        self.log_frequency = as_integer("log_frequency", log_frequency, 1)
        self.histogram_bins = as_integer("histogram_bins", histogram_bins, 1, 512)  # W&B takes no more
        require_flag("use_wandb", use_wandb)
        require_flag("log_histograms", log_histograms)
        require_options(tags, config, prefix, commit)
        self.log_histograms = log_histograms
        self._sink: WandbSink | None = None
        if use_wandb:
            bins = self.histogram_bins if log_histograms else None
            given: dict[str, Any] = {
                "histogram_bins": bins,
                "tags": tags,
                "config": config,
                "prefix": prefix,
                "commit": commit,
            }
            sink, error = attempt(lambda: WandbSink(**given))
            if isinstance(error, ImportError):
                _logger.warning("W&B: %s, or use_wandb=False.", error)
            elif error is not None:
                raise error
            self._sink = sink
        self._collected, self._alerts = MetricsCollector(), Counter[str]()
        self._calls, self._step = 0, -1
        self._has_failed = False

    @property
    def use_wandb(self) -> bool:
        """Whether rows go to W&B."""
        return self._sink is not None

    def begin_run(self, manifest: Mapping[str, Any]) -> None:
        """Take the configuration, for that of the W&B run. Where W&B is out of order, the first record tells."""
        if (sink := self._sink) is not None:
            attempt(lambda: sink.begin_run(manifest))

    def write(self, record: Record) -> None:
        """Log a record."""
        if (sink := self._sink) is None:
            return
        _, error = attempt(lambda: sink.write(record))
        if error is not None:
            self._has_failed = True
            raise error  # whoever feeds a sink tells of it

    def log_step(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:
        """Log a row.

        Args:
          metrics: values by key.
          step: of the key `monitoring/step`, which is the x axis; one more than the last by default.
          commit: not needed: see `WandbSink`.
        """
        self._step = self._at(step, self._step + 1)
        row = dict(_each("metrics", lambda: metrics.items(), _with_text_as_key))
        self._use(lambda sink: sink.log(row, self._step))

    def log_reward_batch(
        self, reward_values: Mapping[str, Any], step: int | None = None, prefix: str = "rewards"
    ) -> None:
        """Log `<prefix>/<name>/` mean, std, min, max, median and count of one batch.

        Args:
          reward_values: maps names to scalars, lists or arrays.
          step: as in `log_step`.
          prefix: of the keys.
        """
        self._calls += 1
        batch = MetricsCollector()

        def add(item: tuple[str, Any]) -> None:
            batch.add(*item)
            self._collected.add(*item)

        is_any = _each("reward_values", lambda: reward_values.items(), add)
        if is_any and self._calls % self.log_frequency == 0:
            stats = batch.get_all_stats().items()
            self.log_step({f"{prefix}/{name}/{field}": v for name, of in stats for field, v in of.items()}, step)

    def log_distributions(self, step: int | None = None, reset_after_log: bool = True) -> None:
        """Log `<name>/histogram` of what `log_reward_batch` was given: the newest 1000 samples of each reward."""
        if self.log_histograms and len(self._collected):
            self._use(self._log_histograms, self._at(step))
        if reset_after_log:
            self._collected.reset()

    def log_summary_table(
        self, reward_stats: Mapping[str, RewardStats | Mapping[str, Any]], step: int | None = None
    ) -> None:
        """Log the statistics, each a `RewardStats` or a dict, as one table, `rewards/summary_table`."""
        self._use(partial(self._log_table, reward_stats), self._at(step))

    def log_alerts(self, alerts: Iterable[str | Mapping[str, Any]] | None, step: int | None = None) -> None:
        """Log `alerts/<TYPE>` and `alerts/total`, counted since the beginning, and send each kind every five minutes.

        Args:
          alerts: each a text "TYPE: name - ..." or a dict with "message", as in `RewardMonitor.all_alerts`.
          step: as in `log_step`.
        """
        at = self._at(step)
        is_one = isinstance(alerts, str | Mapping)
        messages = _each("alerts", lambda: [alerts] if is_one else alerts or (), _message)
        if not messages:
            return
        self._alerts.update(message.split(":")[0] for message in messages)
        counts = {f"alerts/{kind}": float(n) for kind, n in self._alerts.items()}
        self._use(lambda sink: sink.log(counts | {"alerts/total": float(self._alerts.total())}, at))
        for message in messages:
            title, text = message.split(" - ")[0], f"{message}\n\nstep {at}"
            self._use(partial(WandbSink.log_alert, title=title, text=text))

    def close(self) -> None:
        """Log what is held back."""
        if self._has_failed and self._sink is not None:
            attempt(self._sink.close)  # what it raises has been told
        else:
            self._use(lambda sink: sink.close())

    def _log_histograms(self, sink: WandbSink, step: int) -> None:
        collected = self._collected
        data = {name: collected.get_histogram_data(name, self.histogram_bins) for name in collected.get_all_stats()}
        sink.log({f"{name}/histogram": sink.histogram(*d) for name, d in data.items() if len(d[0])}, step)

    def _log_table(self, stats: Mapping[str, RewardStats | Mapping[str, Any]], sink: WandbSink, step: int) -> None:
        rows = _each("reward_stats", lambda: stats.items(), _table_row)
        sink.log({"rewards/summary_table": sink.table(("reward", *_OF_TABLE), rows)}, step)

    def _at(self, step: Any, default: int | None = None) -> int:
        """Return a step as a number; one that is none is told, and the default."""
        default = max(self._step, 0) if default is None else default
        number, error = attempt(lambda: default if step is None else int(step))
        if number is None:
            _logger.warning("step: got %r, allowed: a whole number (%s). It is logged at %d.", step, error, default)
        return default if number is None else number

    def _use(self, action: Callable[..., object], *arguments: Any) -> None:
        sink = self._sink
        if sink is None:
            return
        _, error = attempt(lambda: action(sink, *arguments))
        if error is not None:
            _logger.warning("W&B did not take what was logged: %s", in_words(error))


def _each(argument: str, given: Callable[[], Any], take: Callable[[Any], T]) -> list[T]:
    """Return what becomes of each item that is given; one that cannot be taken is told and left out."""
    items, error = attempt(lambda: list(given()))
    if error is not None:
        _logger.warning("W&B: %s cannot be logged: %s", argument, in_words(error))
    taken: list[Any] = []
    for item in items or ():
        result, error = attempt(partial(take, item))
        if error is None:
            taken.append(result)
        else:
            _logger.warning("W&B: %s: %s is left out: %s", argument, reprlib.repr(item), in_words(error))
    return taken


def _with_text_as_key(item: tuple[Any, Any]) -> tuple[str, Any]:
    if not isinstance(item[0], str):
        raise invalid("key", item[0], "a text", "Name what is logged.")
    return item


def _message(alert: Any) -> str:
    message = alert.get("message") if isinstance(alert, Mapping) else alert
    if not isinstance(message, str):
        raise invalid("alert", alert, "a text, or a dict with a text as 'message'", "Pass what all_alerts holds.")
    return message


def _table_row(item: tuple[str, RewardStats | Mapping[str, Any]]) -> list[Any]:
    name, stats = item
    fields = stats if isinstance(stats, Mapping) else vars(stats)
    return [name, *(finite(fields.get(field)) for field in _OF_TABLE)]
