"""RewardMonitor: the device state behind the original document's object of that name.

Every statistic is computed by `RewardAccumulator`; what is here keeps a state, feeds it, and reads it.
"""

import atexit
import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.config import invalid, require_flag
from tunrex_jax_monitor.device.state import MonitorState
from tunrex_jax_monitor.host import pool
from tunrex_jax_monitor.host.arguments import as_tuple, require_callable, require_known, require_path, require_sinks
from tunrex_jax_monitor.host.detector import RewardAnomalyDetector
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent, Record
from tunrex_jax_monitor.host.reporter import Reporter
from tunrex_jax_monitor.host.samples import to_samples
from tunrex_jax_monitor.host.sinks.base import Sink
from tunrex_jax_monitor.host.sinks.console import ConsoleSink, format_summary
from tunrex_jax_monitor.host.stats import RewardStats
from tunrex_jax_monitor.host.transfer import as_step

_logger = logging.getLogger("tunrex_jax_monitor")
_NEWEST_ALERTS = 5


class _LateReporter(Reporter):
    """Begins with the first data, in the middle of training: a sink that cannot begin then is left out."""

    _leaves_out = True


class RewardMonitor:
    """Watches rewards that arrive on the host: scalars, lists or arrays, any number of samples per step.

        monitor = RewardMonitor(["format", "answer"])
        stats = monitor.update({"format": [1.0, 0.0], "answer": [0.5, 0.5]}, step=0)
        stats["answer"].mean

    Where a jitted step computes the rewards, use `RewardAccumulator` and `Reporter` instead: no reward then travels.

    Args:
      reward_names: one name per reward function.
      window_size: samples per reward that the statistics cover.
      ema_alpha_short: rate of the short average, per step.
      ema_alpha_long: rate of the long average.
      enable_anomaly_detection: False computes no alert.
      verbose: log alerts as they come, and a summary block at the end.
      sinks: where records go besides.
      run_dir: where `records.jsonl` goes; none is written by default.
      extra_scalars: as in `Reporter`.
      **options: further arguments of `RewardAccumulator`: group_size, weights, log_frequency, thresholds ...

    Attributes:
      reward_names: the names.
      history: the `History` of what has been emitted.
      global_step: the newest step; 0 before the first, which is step 0 unless it has a number of its own.
      anomaly_detectors: for each reward, one for values of yours, with the same thresholds.
      closes_at_exit: close when the process ends; whoever sets it to False, before the first step, does so.

    Raises:
      ValueError: an argument is wrong.
      TypeError: there is no argument of that name.
    """

    def __init__(
        self,
        reward_names: Sequence[str],
        window_size: int = 1000,
        ema_alpha_short: float = 0.1,
        ema_alpha_long: float = 0.01,
        enable_anomaly_detection: bool = True,
        verbose: bool = True,
        *,
        sinks: Sequence[Sink] = (),
        run_dir: str | Path | None = None,
        extra_scalars: Callable[[], Mapping[str, float]] | None = None,
        **options: Any,
    ) -> None:
        require_known(options, type(self))
        require_flag("enable_anomaly_detection", enable_anomaly_detection)
        require_flag("verbose", verbose)
        require_sinks("sinks", sinks)
        require_callable("extra_scalars", extra_scalars)
        if run_dir is not None:
            require_path("run_dir", run_dir)
        if not enable_anomaly_detection:
            options["detect"] = "off"
        self.accumulator = RewardAccumulator(
            as_tuple(reward_names),
            window_size=window_size,
            ema_alpha_short=ema_alpha_short,
            ema_alpha_long=ema_alpha_long,
            **options,
        )
        self.reward_names = list(self.accumulator.reward_names)
        self.window_size = self.accumulator.window_size
        self.ema_alpha_short, self.ema_alpha_long = ema_alpha_short, ema_alpha_long
        self.enable_anomaly_detection, self.verbose = enable_anomaly_detection, verbose
        self._sinks = [*sinks, *([ConsoleSink()] if verbose else [])]
        self._run_dir, self._extra_scalars = run_dir, extra_scalars
        self._lock, self._lost = threading.RLock(), 0
        self.history = History()
        self._reporter: Reporter | None = None
        self.closes_at_exit = True
        self._detectors: dict[str, RewardAnomalyDetector] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything; what sinks were given stays with them."""
        with self._lock:
            self.history.clear()
            self._newest = -1
            self._state: MonitorState | None = None
            self._samples, self._closed = 0, False
            self._is_told_of_cut = False
            self._steps: deque[int] = deque(maxlen=self.accumulator.log_frequency)

    def set_group_size(self, group_size: int) -> None:
        """Learn how many completions a prompt has; no effect once there is data, or where it has been given."""
        with self._lock:
            if self.accumulator.group_size is not None:
                self._tell_of_group_size(group_size)
            elif self._state is None:
                self.accumulator = dataclasses.replace(self.accumulator, group_size=group_size)
            else:
                message = (
                    "There are no group statistics: that %d completions share a prompt was told after the first step."
                )
                _logger.warning(message + " Pass group_size=%d.", group_size, group_size)

    def _tell_of_group_size(self, told: int) -> None:
        if told != self.accumulator.group_size:
            message = "group_size: got %d, and calls with num_generations=%d. Groups are of the first; correct it."
            _logger.warning(message, self.accumulator.group_size, told)

    @property
    def global_step(self) -> int:
        """The newest step; 0 before the first."""
        return max(self._newest, 0)

    @property
    def anomaly_detectors(self) -> dict[str, RewardAnomalyDetector]:
        """A detector for each reward, with the thresholds of this monitor; it keeps a past of its own."""
        if not self.enable_anomaly_detection:
            return {}
        acc = self.accumulator
        limits = {field: getattr(acc, field) for field in ("std_threshold", "drop_threshold", "spike_threshold")}
        return {name: self._detectors.setdefault(name, RewardAnomalyDetector(**limits)) for name in self.reward_names}

    def update(self, reward_values: Mapping[str, Any], step: int | None = None) -> dict[str, RewardStats]:
        """Take one step's rewards and return the statistics with them; waits for the device.

        Args:
          reward_values: maps names to a scalar, a list or an array of samples; a name may be left out. None is NaN.
          step: the owner's step; one more than the last by default.

        Raises:
          ValueError: a name is unknown, or the step is no whole number.
          TypeError, ValueError: a value holds something else than numbers.
        """
        self.fold([self.to_round(reward_values)], step)
        return self.get_all_stats()

    def to_round(self, rewards: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the samples of each reward as float32[N]."""
        if not isinstance(rewards, Mapping):
            raise invalid(
                "rewards", rewards, "samples by name", f"For example {{{self.reward_names[0]!r}: [1.0, 0.0]}}."
            )
        unknown = [name for name in rewards if name not in self.reward_names]
        if unknown:
            raise invalid("rewards", unknown, f"names among {tuple(self.reward_names)}", "Correct the name.")
        return {name: to_samples(value) for name, value in rewards.items() if value is not None}

    def fold(self, rounds: Sequence[Mapping[str, Any]], step: SupportsInt | None = None) -> None:
        """Take one step: rounds of samples by name. Enqueues one update of the device state, and does not wait."""
        with self._lock:
            self._newest = self._newest + 1 if step is None else as_step(step)
            group = self.accumulator.group_size or 1
            reporter = self._get_reporter()  # before the state is donated: it may fail
            batch = pool.join(rounds, self.reward_names, group, self._samples)
            size = self._samples = len(next(iter(batch.mask.values())))
            if self._state is None:
                self._state = self.accumulator.init(batch_size=size)
            self._tell_of_cut(batch)
            state = pool.fold(self.accumulator, self._state, batch)
            self._steps.append(self._newest)
            self._state = reporter.step(self._newest, state)

    def _tell_of_cut(self, batch: pool.Batch) -> None:
        window, samples = self._state.window.shape[1] if self._state else 0, max(m.sum() for m in batch.mask.values())
        if samples > window and not self._is_told_of_cut:
            self._is_told_of_cut = True
            message = "A step of %d samples is larger than the window: window statistics keep its last %d."
            _logger.warning(
                message + " Pass window_size=%d; everything else has all of them.", samples, window, samples
            )

    def lose(self) -> None:
        """Count a step that was lost before it came here. Waits for nothing."""
        if self._reporter is None:
            self._lost += 1
        else:
            self._reporter.lose()

    def read(self) -> Record:
        """Return the record of now, which no sink gets; waits for the device."""
        with self._lock:
            if self._closed and self.history.last is not None:
                return self.history.last
            if self._state is None:
                return Record(step=self.global_step, update=0, time=0.0, names=tuple(self.reward_names), scalars={})
            return self.accumulator.record(self._state, list(self._steps))

    @property
    def stats(self) -> dict[str, RewardStats]:
        """The statistics of now, by name."""
        return self.get_all_stats()

    @property
    def reward_history(self) -> dict[str, list[float | None]]:
        """The mean of each step, by name; None where a step had no data."""
        series = self.get_history().series
        return {name: series.get(f"{name}/mean", []) for name in self.reward_names}

    @property
    def all_alerts(self) -> list[dict[str, Any]]:
        """Every alert, oldest first: step, reward, type, message, value, threshold, remedy, stats."""
        alerts: list[dict[str, Any]] = self.get_history().to_export()["alerts"]
        return alerts

    def get_history(self) -> History:
        """Return the history up to now, steps that have not been emitted included."""
        with self._lock:
            if self._reporter is not None and not self._closed:
                self._reporter.flush()
            history = self.history.with_record(self.read())
        history.config = dataclasses.asdict(self.accumulator)
        return history

    def get_all_stats(self) -> dict[str, RewardStats]:
        """Return the statistics of now, by name."""
        scalars = self.read().scalars
        return {name: RewardStats.of(name, scalars) for name in self.reward_names}

    def get_metrics_dict(self) -> dict[str, float]:
        """Return every scalar of now by its log key; a key without data is absent."""
        return self.read().scalars

    def get_summary(self) -> str:
        """Return the summary block."""
        history = self.get_history()
        newest: list[AlertEvent] = history.alerts[-_NEWEST_ALERTS:]
        return format_summary(self.read() if history.last is None else history.last, recent=newest)

    def flush(self) -> None:
        """Emit what has not been emitted, and wait until the sinks have it."""
        with self._lock:
            if self._reporter is not None:
                self._state = self._reporter.flush(self._state)

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Emit what is left, with run quantiles, and close the sinks. Never raises; what is known stays readable.

        Reading needs no device from then on: Tunix leaves a listener in JAX that fails every compilation after it has
        closed its W&B run.
        """
        with self._lock:
            self._closed = True
            if self._reporter is not None:
                self._reporter.close(self._state, timeout_seconds)

    def _get_reporter(self) -> Reporter:
        if self._reporter is None:
            sinks = [self.history, *self._sinks]
            reporter = _LateReporter(
                self.accumulator, sinks, self._run_dir, extra_scalars=self._extra_scalars, shared=False
            )
            if not self.closes_at_exit:
                atexit.unregister(reporter.close)
            for _ in range(self._lost):
                reporter.lose()
            self._reporter = reporter
        return self._reporter
