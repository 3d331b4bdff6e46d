"""tunrex_jax_monitor: reward statistics and alerts that ride inside a jitted train step.

Names load when they are first used, so that reading a run directory needs no JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunrex_jax_monitor.accumulator import RewardAccumulator as RewardAccumulator
    from tunrex_jax_monitor.device.alerts import Alert as Alert
    from tunrex_jax_monitor.device.state import MonitorState as MonitorState
    from tunrex_jax_monitor.device.summary import Summary as Summary
    from tunrex_jax_monitor.grpo import GRPOMonitoringIntegration as GRPOMonitoringIntegration
    from tunrex_jax_monitor.grpo import setup_grpo_monitoring as setup_grpo_monitoring
    from tunrex_jax_monitor.host.checkpoint import from_checkpoint as from_checkpoint
    from tunrex_jax_monitor.host.checkpoint import restore_or_init as restore_or_init
    from tunrex_jax_monitor.host.checkpoint import to_checkpoint as to_checkpoint
    from tunrex_jax_monitor.host.detector import RewardAnomalyDetector as RewardAnomalyDetector
    from tunrex_jax_monitor.host.doctor import diagnose as diagnose
    from tunrex_jax_monitor.host.function_monitor import RewardFunctionMonitor as RewardFunctionMonitor
    from tunrex_jax_monitor.host.functions import RewardFunctionWrapper as RewardFunctionWrapper
    from tunrex_jax_monitor.host.history import History as History
    from tunrex_jax_monitor.host.metrics_collector import MetricsCollector as MetricsCollector
    from tunrex_jax_monitor.host.metrics_logger import RewardMetricsLogger as RewardMetricsLogger
    from tunrex_jax_monitor.host.monitor import RewardMonitor as RewardMonitor
    from tunrex_jax_monitor.host.record import AlertEvent as AlertEvent
    from tunrex_jax_monitor.host.record import Histogram as Histogram
    from tunrex_jax_monitor.host.record import Record as Record
    from tunrex_jax_monitor.host.report.page import create_monitoring_summary_html as create_monitoring_summary_html
    from tunrex_jax_monitor.host.report.visualizer import RewardVisualizer as RewardVisualizer
    from tunrex_jax_monitor.host.reporter import Reporter as Reporter
    from tunrex_jax_monitor.host.rundir import read_manifest as read_manifest
    from tunrex_jax_monitor.host.rundir import read_records as read_records
    from tunrex_jax_monitor.host.sinks.base import Sink as Sink
    from tunrex_jax_monitor.host.sinks.console import ConsoleSink as ConsoleSink
    from tunrex_jax_monitor.host.sinks.console import format_summary as format_summary
    from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink as JsonlSink
    from tunrex_jax_monitor.host.sinks.logging_backend import LoggingBackendSink as LoggingBackendSink
    from tunrex_jax_monitor.host.sinks.logging_backend import ScalarCollector as ScalarCollector
    from tunrex_jax_monitor.host.sinks.memory import MemorySink as MemorySink
    from tunrex_jax_monitor.host.sinks.tensorboard import TensorBoardSink as TensorBoardSink
    from tunrex_jax_monitor.host.sinks.wandb import WandbSink as WandbSink
    from tunrex_jax_monitor.host.stats import RewardStats as RewardStats
    from tunrex_jax_monitor.host.tunix import attach_to_tunix as attach_to_tunix
    from tunrex_jax_monitor.host.tunix import register_reward_manager as register_reward_manager

_HOME = {
    "Alert": "device.alerts",
    "AlertEvent": "host.record",
    "ConsoleSink": "host.sinks.console",
    "GRPOMonitoringIntegration": "grpo",
    "Histogram": "host.record",
    "History": "host.history",
    "JsonlSink": "host.sinks.jsonl",
    "LoggingBackendSink": "host.sinks.logging_backend",
    "MemorySink": "host.sinks.memory",
    "MonitorState": "device.state",
    "Record": "host.record",
    "Reporter": "host.reporter",
    "RewardAccumulator": "accumulator",
    "RewardAnomalyDetector": "host.detector",
    "RewardFunctionMonitor": "host.function_monitor",
    "RewardFunctionWrapper": "host.functions",
    "MetricsCollector": "host.metrics_collector",
    "RewardMetricsLogger": "host.metrics_logger",
    "RewardMonitor": "host.monitor",
    "RewardStats": "host.stats",
    "RewardVisualizer": "host.report.visualizer",
    "ScalarCollector": "host.sinks.logging_backend",
    "Sink": "host.sinks.base",
    "Summary": "device.summary",
    "TensorBoardSink": "host.sinks.tensorboard",
    "WandbSink": "host.sinks.wandb",
    "attach_to_tunix": "host.tunix",
    "create_monitoring_summary_html": "host.report.page",
    "diagnose": "host.doctor",
    "format_summary": "host.sinks.console",
    "from_checkpoint": "host.checkpoint",
    "read_manifest": "host.rundir",
    "read_records": "host.rundir",
    "register_reward_manager": "host.tunix",
    "restore_or_init": "host.checkpoint",
    "setup_grpo_monitoring": "grpo",
    "to_checkpoint": "host.checkpoint",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tunrex-jax-monitor")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
