"""What a run directory says about the run: configuration and devices."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from tunrex_jax_monitor.accumulator import RewardAccumulator


def manifest(acc: "RewardAccumulator") -> dict[str, Any]:
    """Return the configuration and the devices, JSON-ready; the sink adds versions, host and schema."""
    devices = [{"id": d.id, "platform": d.platform, "kind": d.device_kind} for d in jax.devices()]
    return {"config": dataclasses.asdict(acc), "devices": devices, "processes": jax.process_count()}
