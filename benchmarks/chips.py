"""The chips that `accelerators.py` compiles for, and what their compilers have to be told to do so without one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.experimental import topologies

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 thread_dim_limit_x: 1024 thread_dim_limit_y: 1024
  thread_dim_limit_z: 64 device_address_bits: 64 driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Chip(NamedTuple):
    """What a compiler has to be told about a chip that it cannot see."""

    platform: str  # "cuda" or "tpu"
    topology: str  # the smallest that its compiler accepts
    environment: dict[str, str]
    is_slice: bool = False  # many chips: only what is spread over all of them is compiled


def _tpu(topology: str, kind: str, *, is_slice: bool = False) -> Chip:
    here = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": kind, "TPU_WORKER_HOSTNAMES": "localhost"}
    return Chip("tpu", topology, here, is_slice)


CHIPS = {
    "H100": Chip("cuda", "1x1x1", {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}),  # tuning would need the GPU
    "TPU v5e": _tpu("v5e:2x2", "v5e-4"),
    "TPU v4": _tpu("v4:2x2x1", "v4-8"),
    "TPU v5p": _tpu("v5p:2x2x1", "v5p-8"),
    "TPU v6e": _tpu("v6e:2x2", "v6e-4"),
    "64 x TPU v4": _tpu("v4:4x4x4", "v4-128", is_slice=True),  # a type counts cores, two to a v4 or v5p
    "64 x TPU v5e": _tpu("v5e:8x8", "v5litepod-64", is_slice=True),
    "64 x TPU v5p": _tpu("v5p:4x4x4", "v5p-128", is_slice=True),
    "64 x TPU v6e": _tpu("v6e:8x8", "v6e-64", is_slice=True),
    "1024 x TPU v5p": _tpu("v5p:8x8x16", "v5p-2048", is_slice=True),
}
DEFAULT_CHIPS = ("H100", "TPU v5e", "64 x TPU v5p", "64 x TPU v6e", "1024 x TPU v5p")


def devices_of(chip: str) -> Sequence[Any]:
    """Return the devices that are compiled for. The chip's environment has to be set before JAX starts."""
    platform, topology, _, _ = CHIPS[chip]
    if platform == "cuda":
        described = topologies.get_topology_desc(platform=platform, target_config=H100, topology=topology)
    else:
        described = topologies.get_topology_desc(platform=platform, topology_name=topology)
    return described.devices
