"""Tunix: the hooks of a `GRPOLearner` through which a monitor learns of steps, rewards and advantages.

Tunix files the rewards of each call, per sample, under the global step that they belong to, and hands that buffer over
when the step has ended. So steps stay apart, also where a producer runs ahead of the trainer.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.grpo import GRPOMonitoringIntegration
from tunrex_jax_monitor.host.collector import mode_of
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.names import name_of
from tunrex_jax_monitor.host.pool import Round

_LAST_CHANCE = 60.0  # seconds


def attach_to_tunix(rl_cluster: Any, monitoring: GRPOMonitoringIntegration) -> Any:
    """Let a monitor follow a Tunix run: nothing else needs to be called but `monitoring.finalize()` at the end.

    A logger that is attached already is called first, as before. Nothing that the monitor does raises into training or
    waits for the device; before Tunix closes its W&B run, it waits for the monitor, for at most a minute.

    Args:
      rl_cluster: the `RLCluster`, or the learner, which also tells the completions per prompt.
      monitoring: what `setup_grpo_monitoring` returned.

    Returns:
      `rl_cluster`.

    Raises:
      ValueError: the object is neither.
    """
    cluster = getattr(rl_cluster, "rl_cluster", rl_cluster)
    if not hasattr(cluster, "with_external_metrics_logger"):
        remedy = "Pass the rl_cluster that the learner was made with, or the learner."
        raise invalid("rl_cluster", type(rl_cluster).__name__, "a tunix RLCluster or learner", remedy)
    size = getattr(getattr(rl_cluster, "algo_config", None), "num_generations", None)
    if size is not None:
        monitoring.set_group_size(int(size))
    before = getattr(cluster, "_external_metrics_logger", None)
    if getattr(before, "monitoring", None) is monitoring:  # it is attached already
        return rl_cluster
    monitoring.expect_steps()
    cluster.with_external_metrics_logger(_hook(monitoring, before))
    _flush_before_close(getattr(cluster, "actor_trainer", None), monitoring)
    return rl_cluster


def register_reward_manager(monitoring: GRPOMonitoringIntegration) -> str:
    """Register a Tunix reward manager that hands all rewards of a call to the monitor at once; return its name.

    Use it as `GRPOConfig(reward_manager=register_reward_manager(monitoring))`, with wrapped or plain functions.

    Raises:
      ImportError: tunix is not installed.
    """
    from tunix.rl import function_registry, reward_manager

    class MonitoredRewardManager(reward_manager.SequenceRewardManager):  # type: ignore[misc]
        """Computes rewards as its base does, and shows them to the monitor."""

        def __init__(self, reward_fns: Any, algo_config: Any, **kwargs: Any) -> None:
            super().__init__(reward_fns, algo_config, **kwargs)
            monitoring.set_group_size(int(algo_config.num_generations))

        def __call__(self, prompts: list[str], completions: list[str], **kwargs: Any) -> dict[str, Any]:
            info: dict[str, Any] = super().__call__(prompts, completions, **kwargs)
            attempt(lambda: self._show(info["log_metrics"], completions, mode_of(kwargs.get("mode", "train"))))
            return info

        def _show(self, metrics: Mapping[str, Any], completions: Any, mode: str) -> None:
            monitoring.note_mode(completions, mode)
            names = _names(monitoring, metrics).items()
            monitoring.add_rewards({o: metrics[f"rewards/{t}"][0] for t, o in names if f"rewards/{t}" in metrics}, mode)

    monitoring.stop_listening()
    name = f"tunrex-monitored-{id(monitoring):x}"
    function_registry.register_reward_manager(name)(MonitoredRewardManager)
    return name


def _hook(monitoring: GRPOMonitoringIntegration, before: Callable[[Any], object] | None) -> Callable[[Any], None]:
    def hook(buffer: Any) -> None:
        if before is not None:
            before(buffer)
        attempt(lambda: take(buffer))

    def take(buffer: Any) -> None:
        mode, rounds = mode_of(buffer.mode), _rounds(buffer.metrics, _names(monitoring, buffer.metrics))
        if rounds:
            monitoring.end_step(buffer.global_steps, {mode: rounds})
        elif mode == "train":
            monitoring.update_step(buffer.global_steps)

    hook.monitoring = monitoring  # type: ignore[attr-defined]
    return hook


def _flush_before_close(trainer: Any, monitoring: GRPOMonitoringIntegration) -> None:
    """Let the trainer wait for the monitor before it closes.

    With the trainer Tunix closes its W&B run, and leaves a listener in JAX that fails every compilation from then on.
    """
    close = getattr(trainer, "close", None)
    if close is None:
        return

    def flush_and_close(*args: Any, **kwargs: Any) -> Any:
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
