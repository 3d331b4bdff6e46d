"""The original document's surface: reward functions in, everything watched.

    monitoring = setup_grpo_monitoring(reward_functions=[match_format, check_answer])
    learner = GRPOLearner(reward_fns=monitoring.get_wrapped_reward_functions(), ...)
    attach_to_tunix(learner, monitoring)     # or monitoring.update_step(step) in your own loop
    learner.train(dataset)
    monitoring.finalize()

Nothing here computes a statistic: calls are collected on the caller's thread, one update of the device state per step
is enqueued by a thread beside the training, and the records go the way of `Reporter`.

What differs from the original, because it was wrong there (the original -> here):

- Lists, arrays and None from reward functions raise -> any result is taken, untouched; None and NaN are counted.
- Statistics of step means -> statistics of samples; step means are `history`.
- No call since the last step counts the last value again, several calls count once -> a step is everything since the
  last one; nothing new is no step.
- Evaluation and training mixed -> apart, by `mode`.
- An average that is 0 starts anew -> bias-corrected.
- An outlier is judged with itself in the statistics, every step alarms again -> judged before it is folded in, once per
  episode (`detect="literal"` for the original table).
- DROP and SPIKE only above 0, a constant is no FLATLINE -> any baseline, any constant.
- W&B rows after the commit of their step are lost, at times the owner's too -> each joins one of the owner's, or comes
  when the run ends; a key that the owner logs too is theirs, ours is under `monitor/`; `monitoring/step` is the axis;
  `wandb_commit=True`, `wandb_prefix=`.
- A table of alerts, and one of statistics, under a new key per logging step -> `alerts/<TYPE>` and `alerts/total` count
  from the beginning; one `alerts/table` at the end; `log_summary_table` has one key.
- `MetricsCollector` keeps every value -> the newest 1000 of each name.
- The first step without a number is 1 -> it is 0, as trainers count; `global_step` is 0 before it too.
- Lines with signs outside ASCII, whole batches printed -> the same lines in ASCII, through `logging`; no batches.
- A second monitor overwrites the files of the first -> its files go beside its own records, with a warning.
- `window_size`, `log_histograms` out of reach -> arguments, as all of `RewardAccumulator`.
- A statistic without a sample is 0 or infinite -> NaN in `RewardStats`; in records the key is absent.
- Pictures open a window unless `show=False`, in seaborn's style -> only with `show=True`, in a style of our own;
  `RewardVisualizer(style=...)` takes any of matplotlib.
- The first pictures are of step 0, of one sample -> of step `visualization_frequency`.
- The export breaks on numpy, and lacks `history` -> strict JSON, with history, series, histograms, configuration.
- Pictures are drawn in the training loop -> in another process, or at the end.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsInt

from tunrex_jax_monitor.device.config import as_integer, require_flag
from tunrex_jax_monitor.host import names as names_lib
from tunrex_jax_monitor.host import processes
from tunrex_jax_monitor.host.arguments import (
    require_known,
    require_mapping,
    require_path,
    require_sinks,
    require_text,
    require_texts,
)
from tunrex_jax_monitor.host.function_monitor import RewardFunctionMonitor
from tunrex_jax_monitor.host.functions import RewardFunctionWrapper
from tunrex_jax_monitor.host.guard import as_seconds
from tunrex_jax_monitor.host.intake import Intake
from tunrex_jax_monitor.host.metrics_logger import RewardMetricsLogger
from tunrex_jax_monitor.host.monitor import RewardMonitor
from tunrex_jax_monitor.host.names import ADVANTAGES
from tunrex_jax_monitor.host.outputs import Outputs, Silence
from tunrex_jax_monitor.host.preemption import Preemption
from tunrex_jax_monitor.host.sinks.base import Sink
from tunrex_jax_monitor.host.sinks.console import ConsoleSink, ascii_safe, say

_FLUSH_SECONDS = 10.0  # after SIGTERM there is little time


class GRPOMonitoringIntegration:
    """Wraps reward functions and watches what they return. Nothing but the constructor raises into training.

    In a multi-process job process 0 writes, draws and logs, about what its own functions return; the others are quiet.

    Args:
      reward_functions: what the trainer would get.
      reward_names: one per function; their own names by default. Names that clash get a suffix, with one warning.
      use_wandb: log to the active W&B run, looked up at the first step and each emission; without one, a warning, once.
      enable_anomaly_detection: False computes no alert.
      log_frequency: steps between two emissions (console, W&B, `records.jsonl`).
      summary_frequency: steps between two summary blocks on the console; each comes with the emission that is due next.
      visualization_frequency: steps between two pictures `dashboard_step_N.png`, drawn by another process; 0 for none.
      output_dir: where files go; set it, since a reboot may empty the default. Each run writes its records into a
        directory of its own inside.
      verbose: False prints nothing.
      window_size: samples per reward that the statistics cover.
      log_histograms: log window histograms to W&B.
      histogram_bins: of one histogram in W&B, at most.
      group_size: completions per prompt, for the group statistics; taken from the calls where they tell.
      wandb_tags: added to those of the W&B run.
      wandb_config: added to its config.
      wandb_prefix: before every key there, for a run that has keys such as `reward` or `rewards/sum` of its own.
      wandb_commit: True where nobody else logs to that run: each emission is a row at once, not when the run ends.
      sinks: where records go besides.
      **options: further arguments of `RewardAccumulator`: weights, thresholds, ema_alpha_short ...

    Attributes:
      reward_functions: as given.
      reward_names: what the functions are logged as.
      reward_monitor: the `RewardMonitor` of the training calls.
      metrics_logger: the `RewardMetricsLogger`.
      visualizer: the `RewardVisualizer`, or None without matplotlib.
      function_monitor: the `RewardFunctionMonitor`.
      side_monitors: a `RewardMonitor` of each other mode of calls ("eval"), and of "advantages".
      intake: what a trainer's hooks hand steps, rewards and advantages to.
      output_dir: where files go: as given, or else what a warning has told.
      run_dir: the directory of `manifest.json` and `records.jsonl`.
      use_wandb, enable_anomaly_detection, log_frequency, summary_frequency, visualization_frequency, verbose: as given.

    Raises:
      ValueError: an argument is wrong.
      TypeError: there is no argument of that name.
    """

    def __init__(
        self,
        reward_functions: Sequence[Callable[..., Any]],
        reward_names: Sequence[str] | None = None,
        use_wandb: bool = True,
        enable_anomaly_detection: bool = True,
        log_frequency: int = 10,
        summary_frequency: int = 100,
        visualization_frequency: int = 500,
        output_dir: str | os.PathLike[str] = "/tmp/reward_monitoring",
        verbose: bool = True,
        *,
        window_size: int = 1000,
        log_histograms: bool = True,
        histogram_bins: int = 50,
        group_size: int | None = None,
        wandb_tags: Sequence[str] = (),
        wandb_config: Mapping[str, Any] | None = None,
        wandb_prefix: str = "",
        wandb_commit: bool = False,
        sinks: Sequence[Sink] = (),
        **options: Any,
    ) -> None:
        require_known(options, type(self))
        self.reward_names = names_lib.assign(reward_functions, reward_names)
        self.reward_functions = list(reward_functions)
        self.log_frequency = as_integer("log_frequency", log_frequency, 1)
        self.summary_frequency = as_integer("summary_frequency", summary_frequency, 1)
        self.visualization_frequency = as_integer("visualization_frequency", visualization_frequency, 0)
        require_path("output_dir", output_dir)
        require_sinks("sinks", sinks)
        require_texts("wandb_tags", wandb_tags)
        require_mapping("wandb_config", wandb_config)
        require_text("wandb_prefix", wandb_prefix)
        require_flag("wandb_commit", wandb_commit)
        require_flag("use_wandb", use_wandb)
        require_flag("verbose", verbose)
        writes = processes.is_writer()
        self.enable_anomaly_detection, self.verbose = enable_anomaly_detection, verbose and writes
        options |= {"window_size": window_size, "enable_anomaly_detection": enable_anomaly_detection}
        options |= {"log_frequency": self.log_frequency, "group_size": group_size, "verbose": False}
        RewardMonitor(self.reward_names, **options)  # what is wrong is said before anything begins
        self.metrics_logger = RewardMetricsLogger(
            use_wandb and writes, log_histograms, histogram_bins,
            tags=wandb_tags, config=wandb_config, prefix=wandb_prefix, commit=wandb_commit,
        )  # fmt: skip
        every = self.visualization_frequency
        self._outputs = Outputs(output_dir, every, self.verbose) if writes else Silence(output_dir)
        self.output_dir, self.run_dir = self._outputs.output_dir, self._outputs.run_dir
        self.visualizer = self._outputs.visualizer
        self.reward_monitor = self._make_monitor(sinks, options)
        self._signals = Preemption(self._flush_now, self.flush)  # in a step that goes on, calls are not all there
        self.intake = Intake(self.reward_monitor, options, self._draw, self._signals.hold)
        self.side_monitors = self.intake.side_monitors
        self._lock, self._finalized = threading.RLock(), False
        processes.announce()
        if self.verbose:
            say("\n" + self._banner())
        self.function_monitor = RewardFunctionMonitor(self.verbose)
        keywords = {"listener": self.intake.hear, "hold": self._signals.hold}
        self._wrapped = self.function_monitor.wrap_all(reward_functions, self.reward_names, **keywords)

    @property
    def use_wandb(self) -> bool:
        """Whether rows go to W&B."""
        return self.metrics_logger.use_wandb

    def get_wrapped_reward_functions(self) -> list[RewardFunctionWrapper]:
        """Return the functions to give the trainer, in order; a new list each time, since trainers append to it."""
        return list(self._wrapped)

    def update_step(self, step: SupportsInt, reward_values: Mapping[str, Any] | None = None) -> None:
        """End a step: everything that the functions returned since the last one is its data. Never waits, never raises.

        Args:
          step: the trainer's step.
          reward_values: samples by name (scalar, list or array), in the place of what that function returned.
        """
        with self._signals:
            self.intake.end_step(step, reward_values)
            self.write_where_signalled()

    def write_where_signalled(self) -> None:
        """Write what has been handed over where a SIGTERM came that the process outlives; where a step has ended."""
        if self._signals.take():
            self.flush(_FLUSH_SECONDS)

    def metric_fn(self, *_: Any, completions: Any = None, advantages: Any = None, **__: Any) -> dict[str, Any]:
        """Take the advantages of a step; for Tunix's `metric_fns`. Those of an evaluation are left out. Returns {}."""
        if advantages is not None:
            self.intake.add_advantages(advantages, completions)
        return {}

    def flush(self, timeout_seconds: float = 5.0, *, wandb_ends: bool = False) -> None:
        """Wait until what has been handed over so far is in the sinks. Never raises.

        Args:
          timeout_seconds: how long, at most.
          wandb_ends: the owner is about to close the W&B run: log there what is held back, and nothing later.
        """
        if not self.intake.is_forked:
            self.intake.flush(as_seconds(timeout_seconds), self.metrics_logger.close if wandb_ends else None)

    def flush_on_sigterm(self, grace_seconds: float = 10.0) -> None:
        """Write what is pending when the process gets SIGTERM; then the signal does what it did before.

        Until `finalize` has closed the sinks. A handler that is there already is called behind that, two seconds later
        at most, and the next `update_step` writes again. Without one the process ends as it would have, after the flush
        or `grace_seconds`; nothing is drawn and no `monitoring_data.json` is written, but `tunrex-jax-monitor report`
        reads `run_dir`. Call it on the main thread, behind whatever else installs handlers.

        Raises:
          ValueError: this is not the main thread.
        """
        processes.hold_sigterm(self._signals, as_seconds(grace_seconds, _FLUSH_SECONDS))

    def _flush_now(self, seconds: float) -> bool:
        if not self.intake.is_forked:
            self.intake.flush_rest(seconds)
        return True

    def finalize(self, timeout_seconds: float = 60.0) -> None:
        """Take in what is pending, close the sinks, and write all files. A second call does nothing. Never raises.

        Args:
          timeout_seconds: how long to wait for the sinks, and then for pictures. Steps before the end may take 90 s
            longer, since all of a short run may wait for its first step to be compiled.
        """
        if self.intake.is_forked:
            return
        with self._lock:  # who comes second finds the files
            finalized, self._finalized = self._finalized, True
            if not finalized:
                self._finalize(as_seconds(timeout_seconds))

    def _finalize(self, timeout_seconds: float) -> None:
        with self._signals:
            self.intake.close(timeout_seconds)
        self._signals.restore()
        self.intake.guard(lambda: self._outputs.write(self.reward_monitor, self.side_monitors, self.function_monitor))
        self.intake.guard(lambda: self._outputs.close(timeout_seconds))

    def _draw(self, step: int) -> None:
        self._outputs.draw(self.reward_monitor, step)

    def _make_monitor(self, sinks: Sequence[Sink], options: Mapping[str, Any]) -> RewardMonitor:
        console = [ConsoleSink(summary_steps=self.summary_frequency)] if self.verbose else []
        return RewardMonitor(
            self.reward_names,
            sinks=[self.metrics_logger, *console, *sinks],
            run_dir=self.run_dir,
            extra_scalars=self._read_extra,
            **options,
        )

    def _read_extra(self) -> dict[str, float]:
        """Return what goes into a record besides: the counters of the functions, and the rewards of other modes."""
        scalars = self.function_monitor.get_metrics_dict()
        for mode, monitor in list(self.side_monitors.items()):
            prefix = "" if mode == ADVANTAGES else f"{mode}/"
            own = tuple(f"{name}/" for name in monitor.reward_names)
            scalars |= {prefix + key: v for key, v in monitor.read().scalars.items() if key.startswith(own)}
        return scalars

    def _banner(self) -> str:
        rule, acc = "=" * 80, self.reward_monitor.accumulator
        judged = ascii_safe(acc.correct_reward or "the weighted sum of all rewards (name one with correct_reward=)")
        lines = [rule, "Reward Monitoring System Initialized", rule]
        lines += [f"Monitoring {len(self.reward_names)} reward functions:"]
        lines += [f"  - {ascii_safe(name)}" for name in self.reward_names]
        lines += [
            f"Output directory: {self.output_dir}",
            f"W&B logging: {'enabled' if self.use_wandb else 'disabled'}",
            f"Anomaly detection: {'enabled' if self.enable_anomaly_detection else 'disabled'}",
            f"Solved: where {judged} is at least {acc.correct_threshold:g}",
            rule,
        ]
        return "\n".join(lines)


def setup_grpo_monitoring(reward_functions: Sequence[Callable[..., Any]], **kwargs: Any) -> GRPOMonitoringIntegration:
    """Return a `GRPOMonitoringIntegration` of the functions; `kwargs` are its arguments."""
    return GRPOMonitoringIntegration(reward_functions, **kwargs)
