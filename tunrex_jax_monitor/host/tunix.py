"""Tunix: the hooks of a `GRPOLearner` through which a monitor learns of steps, rewards and advantages.

Tunix files the rewards of each call, per sample, under the global step that they belong to, and hands that buffer over
when the step has ended. So steps stay apart, also where a producer runs ahead of the trainer.
"""

import math
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.grpo import GRPOMonitoringIntegration
from tunrex_jax_monitor.host.collector import mode_of
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.names import name_of
from tunrex_jax_monitor.host.optional import load
from tunrex_jax_monitor.host.pool import Round

_LAST_CHANCE = 120.0  # seconds


def attach_to_tunix(rl_cluster: Any, monitoring: GRPOMonitoringIntegration) -> Any:
    """Let a monitor follow a Tunix run: nothing else needs to be called but `monitoring.finalize()` at the end.

    A logger that is attached already is called first, as before. Nothing that the monitor does raises into training or
    waits for the device; before Tunix closes its W&B run, it waits for the monitor, for at most two minutes.

    Args:
      rl_cluster: the `RLCluster`, or the learner, which also tells the completions per prompt.
      monitoring: what `setup_grpo_monitoring` returned.

    Returns:
      `rl_cluster`.

    Raises:
      ValueError: an argument is something else.
    """
    _require_monitoring(monitoring)
    cluster = getattr(rl_cluster, "rl_cluster", rl_cluster)
    if not hasattr(cluster, "with_external_metrics_logger"):
        remedy = "Pass the rl_cluster that the learner was made with, or the learner."
        raise invalid("rl_cluster", type(rl_cluster).__name__, "a tunix RLCluster or learner", remedy)
    config = getattr(rl_cluster, "algo_config", None)
    size = getattr(config, "num_generations", None)
    if size is not None:
        monitoring.intake.set_group_size(int(size))
    before = getattr(cluster, "_external_metrics_logger", None)
    if getattr(before, "monitoring", None) is monitoring:  # it is attached already
        return rl_cluster
    hook = _Hook(monitoring, before, cluster, getattr(config, "off_policy_steps", 0))
    monitoring.intake.expect_steps(hook.end)
    cluster.with_external_metrics_logger(hook)
    _flush_before_close(getattr(cluster, "actor_trainer", None), monitoring, hook)
    return rl_cluster


def _require_monitoring(got: object) -> None:
    if not isinstance(got, GRPOMonitoringIntegration):
        raise invalid("monitoring", got, "a GRPOMonitoringIntegration", "Pass what setup_grpo_monitoring() returned.")


def register_reward_manager(monitoring: GRPOMonitoringIntegration, base: str = "sequence-level") -> str:
    """Register a Tunix reward manager that hands all rewards of a call to the monitor at once; return its name.

    Use it as `GRPOConfig(reward_manager=register_reward_manager(monitoring))`, with wrapped or plain functions.

    Args:
      monitoring: what `setup_grpo_monitoring` returned.
      base: the reward manager that computes the rewards; "agentic-sequence-level" for an agentic learner.

    Raises:
      ImportError: tunix is not installed.
      ValueError: `monitoring` is something else.
    """
    _require_monitoring(monitoring)
    function_registry, reward_manager = (
        load(f"tunix.rl.{module}", "tunix") for module in ("function_registry", "reward_manager")
    )
    if base == "sequence-level":
        kind = reward_manager.SequenceRewardManager
    else:
        kind = function_registry.get_reward_manager(base)

    class MonitoredRewardManager(kind):  # type: ignore[misc, valid-type]
        """Computes rewards as its base does, and shows them to the monitor."""

        def __init__(self, reward_fns: Any, algo_config: Any, **kwargs: Any) -> None:
            super().__init__(reward_fns, algo_config, **kwargs)
            monitoring.intake.set_group_size(int(algo_config.num_generations))

        def __call__(self, prompts: list[str], completions: list[str], **kwargs: Any) -> dict[str, Any]:
            info: dict[str, Any] = super().__call__(prompts, completions, **kwargs)
            attempt(lambda: self._show(info["log_metrics"], completions, mode_of(kwargs.get("mode", "train"))))
            return info

        def _show(self, metrics: Mapping[str, Any], completions: Any, mode: str) -> None:
            monitoring.intake.note_mode(completions, mode)
            names = _names(monitoring, metrics).items()
            monitoring.intake.add({o: metrics[f"rewards/{t}"][0] for t, o in names if f"rewards/{t}" in metrics}, mode)

    monitoring.intake.stop_listening()
    name = f"tunrex-monitored-{id(monitoring):x}"
    function_registry.register_reward_manager(name)(MonitoredRewardManager)
    return name


class _Hook:
    """What Tunix calls with a buffer of a step's metrics.

    A producer that runs ahead leaves several buffers of one step in Tunix's queue, with others between. Their rewards
    are put together, and the step ends when the trainer is past it and none of it is queued any more.
    """

    def __init__(self, monitoring: GRPOMonitoringIntegration, before: Any, cluster: Any, ahead: Any) -> None:
        self.monitoring = monitoring
        self._before, self._cluster = before, cluster
        self._ahead = ahead if isinstance(ahead, int) else 0
        self._waiting: dict[tuple[int, str], _Step] = {}
        self._has_ended, self._lock = False, threading.RLock()

    def __call__(self, buffer: Any) -> None:
        if self._before is not None:
            self._before(buffer)
        self.monitoring.intake.guard(lambda: self._take(buffer))

    def end(self) -> None:
        """End every step that waits, with what Tunix has not handed over: a run that was interrupted leaves some."""
        with self._lock:
            if not self._has_ended:
                known = [buffer for step in self._waiting.values() for buffer in step.buffers]
                for buffer in self._queued():
                    if not any(buffer is other for other in known):
                        self._add(buffer)
            self._has_ended = True
            self._end_past(None)

    def has_all(self) -> None:
        """End every step that waits; Tunix has handed everything over."""
        self._has_ended = True
        self.monitoring.intake.guard(self.end)

    def _take(self, buffer: Any) -> None:
        with self._lock:
            self._has_ended = False  # there may be another run
            if not self._add(buffer) and mode_of(buffer.mode) == "train" and not self._waiting:
                self.monitoring.intake.end_step_of_source(buffer.global_steps)
            now = getattr(self._cluster, "global_steps", None)
            self._end_past(now - self._ahead if isinstance(now, int) and self._ahead else math.inf)

    def _add(self, buffer: Any) -> bool:
        rounds = _rounds(buffer.metrics, _names(self.monitoring, buffer.metrics))
        if rounds:
            self.monitoring.intake.expect_given(int(buffer.global_steps))
            step = self._waiting.setdefault((int(buffer.global_steps), mode_of(buffer.mode)), _Step([], [], []))
            step.buffers.append(buffer)
            step.rounds.extend(rounds)
            step.completions.extend(buffer.metrics.get("completions", ([], None))[0])
        return bool(rounds)

    def _end_past(self, trainer: float | None) -> None:
        """End the steps before the trainer's; all, where the run is over."""
        queued = set() if trainer is None else {(b.global_steps, mode_of(b.mode)) for b in self._queued()}
        for at in sorted(at for at in self._waiting if at not in queued and (trainer is None or at[0] < trainer)):
            step = self._waiting.pop(at)
            self.monitoring.intake.end_given_step(at[0], {at[1]: step.rounds}, step.completions or None)
            self.monitoring.write_where_signalled()

    def _queued(self) -> list[Any]:
        kinds = ("_buffered_train_metrics", "_buffered_eval_metrics")
        return [buffer for kind in kinds for buffer in list(getattr(self._cluster, kind, ()))]


class _Step(NamedTuple):
    buffers: list[Any]
    rounds: list[Round]
    completions: list[Any]


def _flush_before_close(trainer: Any, monitoring: GRPOMonitoringIntegration, hook: _Hook) -> None:
    """Let the trainer wait for the monitor before it closes.

    With the trainer Tunix closes its W&B run, and leaves a listener in JAX that fails every compilation from then on.
    """
    close = getattr(trainer, "close", None)
    if close is None:
        return

    def flush_and_close(*args: Any, **kwargs: Any) -> Any:
        hook.has_all()
        monitoring.flush(_LAST_CHANCE, wandb_ends=True)
        return close(*args, **kwargs)

    trainer.close = flush_and_close


def _names(monitoring: GRPOMonitoringIntegration, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return our names by those that Tunix files rewards under: of the wrappers, or of functions used without them."""
    ours = {name: name for name in monitoring.reward_names}
    theirs = {name_of(f, name): name for f, name in zip(monitoring.reward_functions, ours, strict=True)}
    is_wrapped = any(wrapper.call_count for wrapper in monitoring.get_wrapped_reward_functions())
    is_filed = len(theirs) == len(ours) and all(f"rewards/{name}" in metrics for name in theirs)
    return theirs if is_filed and not is_wrapped else ours


def _rounds(metrics: Mapping[str, tuple[list[Any], Any]], names: Mapping[str, str]) -> list[Round]:
    """Return the rewards of each call of a step, in order."""
    calls = {ours: metrics[f"rewards/{theirs}"][0] for theirs, ours in names.items() if f"rewards/{theirs}" in metrics}
    return [
        {name: values[i] for name, values in calls.items() if i < len(values)}
        for i in range(max(map(len, calls.values()), default=0))
    ]
