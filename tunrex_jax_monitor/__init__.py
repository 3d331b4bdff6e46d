"""tunrex_jax_monitor: reward statistics and alerts that ride inside a jitted train step."""

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device.state import MonitorState
