"""Compile the monitor for chips that are not here, and count what their compilers emit.

The compilers for NVIDIA GPUs and TPUs run on any CPU. What comes out is the real program for the chip: kernels, copies,
loops, collectives and temporary memory are counted in it, and the TPU compiler adds an estimate of its run time.
Nothing is timed: every figure is of a compiled program, none is measured.
On a GPU each kernel is a launch, and their number is the cost of programs as small as these. A TPU launches a program
once, whatever is in it, and moves data ahead of its use (the many copies); there the estimate tells more.

    pip install -e ".[accelerators]"
    python benchmarks/accelerators.py                # H100, TPU v5e, and slices of 64 and 1024 TPUs
    python benchmarks/accelerators.py --all          # and TPU v4, v5p and v6e, and more slices of 64
    python benchmarks/accelerators.py --check        # only what has a budget; exit status 1 when it is exceeded
    python benchmarks/accelerators.py --json
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
from hlo import COLLECTIVES, Program
from jax.experimental import topologies
from jax.sharding import Mesh
from measuring import add_json, environment, publish, table
from workloads import BARE, MONITORED, Workload, workloads

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


# Compiling


@dataclass(frozen=True)
class Row:
    """What was counted in one program compiled for one chip."""

    chip: str
    program: str
    kernels: int  # what the entry computation launches: fusions, copies, sorts, custom calls and the rest
    fusions: int
    copies: int
    sorts: int
    custom_calls: int
    other: int
    while_loops: int
    scatters_into_carried: int
    collectives: int
    temporary_bytes: int
    estimate_us: float | None  # the compiler's own; there is none for a GPU
    max_kernels: int | None
    max_estimate_us: float | None
    max_collectives: int | None

    def violations(self) -> list[str]:
        """What `--check` objects to."""
        found = []
        if self.max_collectives is not None and self.collectives > self.max_collectives:
            found.append(f"{self.collectives} collectives, allowed {self.max_collectives}")
        if self.chip == "H100" and self.max_kernels is not None and self.kernels > self.max_kernels:
            found.append(f"{self.kernels} kernels, allowed {self.max_kernels}")
        if self.chip == "TPU v5e":
            if self.while_loops:
                found.append(f"{self.while_loops} while loops, allowed none")
            if self.scatters_into_carried:
                found.append(f"{self.scatters_into_carried} scatters into the carried state, allowed none")
            if self.max_estimate_us is not None and not (self.estimate_us or math.nan) <= self.max_estimate_us:
                found.append(f"estimate of {self.estimate_us or math.nan:.1f} us, allowed {self.max_estimate_us:g}")
        return [f"{self.program}, compiled for {self.chip}: {text}" for text in found]


def count(chip: str, workload: Workload, compiled: Any) -> Row:
    """Read the figures of a compiled program."""
    program = Program(compiled.as_text())
    launched = Counter(program.launched())
    for opcode in COLLECTIVES:
        launched.pop(opcode, None)
    named = {key: launched.pop(key, 0) for key in ("fusion", "copy", "sort", "custom-call")}
    return Row(
        chip=chip,
        program=workload.name,
        kernels=sum(named.values()) + launched.total(),
        fusions=named["fusion"],
        copies=named["copy"],
        sorts=named["sort"],
        custom_calls=named["custom-call"],
        other=launched.total(),
        while_loops=program.count("while"),
        scatters_into_carried=program.scatters_into_carried(),
        collectives=program.count(*COLLECTIVES, *(f"{opcode}-start" for opcode in COLLECTIVES)),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        estimate_us=estimate((compiled.cost_analysis() or {}).get("optimal_seconds")),
        max_kernels=workload.max_kernels,
        max_estimate_us=workload.max_estimate_us,
        max_collectives=workload.max_collectives,
    )


def estimate(seconds: float | None) -> float | None:
    """Return the microseconds of a compiler's estimate, without the operations that it knows nothing of.

    Each of these stands for -1 s in a sum of float32, which tells a large program to some microseconds only.
    """
    known = seconds - math.floor(seconds) if seconds and seconds < 0 else seconds
    return 1e6 * known if known else None


def census(chip: str, *, only_budgets: bool) -> list[Row]:
    """Compile for one chip. Its environment has to be set before JAX starts."""
    platform, topology, _, is_slice = CHIPS[chip]
    if platform == "cuda":
        described = topologies.get_topology_desc(platform=platform, target_config=H100, topology=topology)
    else:
        described = topologies.get_topology_desc(platform=platform, topology_name=topology)
    devices = described.devices
    found, missing = workloads()
    wanted = [w for w in found if runs_on(w, len(devices), is_slice) and (w.has_budget or not only_budgets)]
    if missing and not only_budgets:
        print(f"not installed, and so not compiled: {', '.join(missing)}", file=sys.stderr)
    rows = []
    for i, workload in enumerate(wanted):
        print(f"{chip}: {i + 1} of {len(wanted)}, {workload.name}", file=sys.stderr, flush=True)
        mesh = Mesh(devices if workload.spread else devices[:1], ("data",))
        rows.append(count(chip, workload, workload.lower(mesh).compile()))
    return rows


def runs_on(workload: Workload, devices: int, is_slice: bool) -> bool:
    """Say whether a workload is compiled for a topology of so many devices."""
    return 1 < devices <= workload.most_chips if workload.spread else not is_slice


def census_in_child(chip: str, *, only_budgets: bool) -> list[Row]:
    """The same in a process of its own: compilers read their flags once, and each platform has others."""
    child = subprocess.run(
        [sys.executable, __file__, "--child", chip, *(["--check"] if only_budgets else [])],
        env={**os.environ, **CHIPS[chip].environment, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode:
        raise SystemExit(f"compiling for {chip} failed with exit status {child.returncode}; its messages are above")
    return [Row(**row) for row in json.loads(child.stdout.splitlines()[-1])]


# Printing

COLUMNS: dict[str, Callable[[Row], object]] = {
    "compiled for": lambda row: row.chip,
    "program": lambda row: row.program,
    "kernels": lambda row: row.kernels,
    "fusions": lambda row: row.fusions,
    "copies": lambda row: row.copies,
    "sorts": lambda row: row.sorts,
    "custom calls": lambda row: row.custom_calls,
    "other": lambda row: row.other,
    "while loops": lambda row: row.while_loops,
    "scatters into state": lambda row: row.scatters_into_carried if "TPU" in row.chip else None,
    "collectives": lambda row: row.collectives,
    "temporary kB": lambda row: row.temporary_bytes // 1000,
    "estimate, us": lambda row: row.estimate_us,
}


def text_of(rows: Sequence[Row]) -> str:
    """Return the table, and what the train steps differ by."""
    cells = [{title: of_row(row) for title, of_row in COLUMNS.items()} for row in rows]
    return "\n".join(["Compiled, not measured.", "", table(cells, dict.fromkeys(COLUMNS, 1)), "", *watched(rows)])


def watched(rows: Sequence[Row]) -> Iterator[str]:
    """Say for each chip what the monitored train step has more than the bare one."""
    found = {(row.chip, row.program): row for row in rows}
    for (chip, program), bare in found.items():
        if program.startswith(BARE) and (monitored := found.get((chip, program.replace(BARE, MONITORED)))):
            kernels, collectives = monitored.kernels - bare.kernels, monitored.collectives - bare.collectives
            line = f"{monitored.program}, compiled for {chip}: {kernels} kernels, {collectives} collectives more"
            if bare.estimate_us and monitored.estimate_us:
                line += f"; {monitored.estimate_us / bare.estimate_us:.4f} x bare by the compiler's estimate"
            yield line


def main() -> int:
    """Run the command line; the exit status is 1 when `--check` finds something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also TPU v4, v5p and v6e, and 64 TPU v4 and v5e")
    parser.add_argument("--check", action="store_true", help="compile what has a budget; exit status 1 when exceeded")
    add_json(parser)
    parser.add_argument("--child", choices=CHIPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps([asdict(row) for row in census(options.child, only_budgets=options.check)]))
        return 0

    jax.config.update("jax_platforms", "cpu")  # a chip that is here is not needed, and may be in use
    chips = CHIPS if options.all else DEFAULT_CHIPS
    rows = [row for chip in chips for row in census_in_child(chip, only_budgets=options.check)]
    result = {"environment": environment("accelerators"), "rows": [asdict(row) for row in rows]}
    publish(result, text_of(rows), options.json)
    if not options.check:
        return 0
    violations = [text for row in rows for text in row.violations()]
    print("\n".join(violations) or "all within budget", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
