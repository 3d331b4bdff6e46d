"""Compile the monitor for chips that are not here, and count what their compilers emit.

The compilers for NVIDIA GPUs and TPUs run on any CPU. What comes out is the real program for the chip: kernels, copies,
loops and collectives are counted in it, and the TPU compiler adds an estimate of its run time. Nothing is timed.
On a GPU each kernel is a launch, and their number is the cost of programs as small as these. A TPU launches a program
once, whatever is in it, and moves data ahead of its use (the many copies); there the estimate tells more.

    pip install -e ".[accelerators]"
    python benchmarks/accelerators.py                # H100, TPU v5e, and slices of 64 and 1024 TPUs
    python benchmarks/accelerators.py --all          # and TPU v4, v5p and v6e
    python benchmarks/accelerators.py --check        # exit status 1 when a program is over its budget
    python benchmarks/accelerators.py --json
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

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
    "64 x TPU v5p": _tpu("v5p:4x4x4", "v5p-128", is_slice=True),  # a type counts cores, two to a v5p
    "64 x TPU v6e": _tpu("v6e:8x8", "v6e-64", is_slice=True),
    "1024 x TPU v5p": _tpu("v5p:8x8x16", "v5p-2048", is_slice=True),
}
DEFAULT_CHIPS = ("H100", "TPU v5e", *(name for name, chip in CHIPS.items() if chip.is_slice))


class Workload(NamedTuple):
    """One program to compile: `update` of R rewards of N samples, or `pack` of the state after it."""

    name: str
    n_rewards: int
    n_samples: int
    group_size: int | None = None
    masked: bool = False
    pack: bool = False
    sharded: Literal["", "jit", "shard_map"] = ""  # rewards over all chips of the topology, state replicated
    max_kernels: int | None = None  # on an H100: what `--check` allows
    max_estimate_us: float | None = None  # on a TPU v5e
    max_collectives: int | None = None


# The plain update has a budget: 16 launches, 60 us. The others' limits are what they take now, against growth.
WORKLOADS = (
    Workload("update [4, 512]", 4, 512),
    Workload("update [8, 8192]", 8, 8192, max_kernels=16, max_estimate_us=60),
    Workload("update [8, 8192] in groups of 8", 8, 8192, group_size=8, max_kernels=26, max_estimate_us=75),
    Workload("update [8, 8192] with a mask", 8, 8192, masked=True, max_kernels=20, max_estimate_us=60),
    Workload("update [8, 8192], jit over all chips", 8, 8192, sharded="jit", max_collectives=4),
    Workload("update [8, 8192], shard_map over all chips", 8, 8192, sharded="shard_map", max_collectives=3),
    Workload("update [8, 8192] in groups, jit", 8, 8192, group_size=8, masked=True, sharded="jit", max_collectives=4),
    Workload("pack [8, 8192]", 8, 8192, pack=True),
    Workload("pack [8, 8192] in groups of 8", 8, 8192, group_size=8, pack=True),
)


# Reading a compiled program


class Instruction(NamedTuple):
    """One line of an HLO computation."""

    name: str
    opcode: str
    operands: tuple[str, ...]
    called: tuple[str, ...]  # computations: of a fusion, a loop, a call
    index: int  # of a parameter, or of the element that get-tuple-element takes
    is_kernel: bool = False  # a call that a CPU runs as one kernel


Computation = dict[str, Instruction]

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations)=\{?([^,}\s]+(?:, ?%[^,}\s]+)*)")
_INDEX = re.compile(r"\bindex=(\d+)")

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
COLLECTIVES = {"all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"}
VIEWS = {"bitcast", "copy", "copy-start", "copy-done", "reshape", "transpose", "convert", "optimization-barrier"}


class Program:
    """The computations of an HLO module in text form, after optimization."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.callers: dict[str, list[tuple[str, Instruction]]] = {}  # computation -> who calls it, from where
        self.entry = ""
        current: Computation = {}
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif (match := _LINE.match(line)) and (instruction := _parse(match[1], match[2])):
                current[instruction.name] = instruction
        for where, computation in self.computations.items():
            for instruction in computation.values():
                for callee in instruction.called:
                    self.callers.setdefault(callee, []).append((where, instruction))
        if not self.entry:
            raise ValueError("text: no ENTRY computation found; is it the output of compiled.as_text()?")

    def launched(self, computation: str | None = None) -> Iterator[str]:
        """Opcodes of what the entry computation runs, through calls, one for each instruction that costs a launch."""
        for instruction in self.computations[computation or self.entry].values():
            opcode = instruction.opcode.removesuffix("-start")
            if opcode == "call" and not instruction.is_kernel:
                for callee in instruction.called:
                    yield from self.launched(callee)
            elif opcode == "async":
                yield "fusion"
            elif opcode not in FREE and not opcode.endswith("-done"):
                yield opcode

    def count(self, *opcodes: str) -> int:
        """How often these occur anywhere in the program."""
        return sum(i.opcode in opcodes for computation in self.computations.values() for i in computation.values())

    def scatters_into_carried(self) -> int:
        """Scatters whose target is, but for views and copies, an argument of the program."""
        return sum(
            any(self._is_argument(where, target) for target in instruction.operands[: len(instruction.operands) // 2])
            for where, computation in self.computations.items()
            for instruction in computation.values()
            if instruction.opcode == "scatter"  # targets, then indices, then as many updates as targets
        )

    def _is_argument(self, where: str, name: str, element: int | None = None) -> bool:
        """Whether a value is an argument of the entry computation, unchanged; `element` is its index in a tuple."""
        instruction = self.computations[where].get(name)
        if instruction is None:
            return False
        if instruction.opcode in VIEWS:
            return self._is_argument(where, instruction.operands[0], element)
        if instruction.opcode == "get-tuple-element":
            return self._is_argument(where, instruction.operands[0], instruction.index)
        if instruction.opcode == "tuple" and element is not None:
            return self._is_argument(where, instruction.operands[element])
        if instruction.opcode == "fusion":  # one that only moves data hands its operand on
            (callee,) = instruction.called
            inside = self.computations[callee].values()
            moves = all(i.opcode in VIEWS or i.opcode == "parameter" for i in inside)
            return moves and self._is_argument(where, instruction.operands[0])
        if instruction.opcode != "parameter":
            return False
        if where == self.entry:
            return True
        return any(
            # A loop and a conditional hand over one tuple; a fusion and a call hand over their operands in order.
            self._is_argument(
                caller_where, caller.operands[instruction.index if caller.opcode in ("fusion", "call") else 0], element
            )
            for caller_where, caller in self.callers.get(where, [])
            if caller.opcode in ("fusion", "call", "while")
        )


def _parse(name: str, rest: str) -> Instruction | None:
    """One instruction from what follows `name = `, or None for a line that is not one."""
    opcode = _OPCODE.search(rest)
    if opcode is None:
        return None
    depth, end = 1, opcode.end()
    while depth and end < len(rest):
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    inside, after = rest[opcode.end() : end - 1], rest[end:]
    called = tuple(c.lstrip("% ") for match in _CALLED.finditer(after) for c in match[1].split(","))
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    if opcode[1] == "parameter":
        return Instruction(name, "parameter", (), (), int(inside))
    index = _INDEX.search(after)
    is_kernel = 'xla_cpu_small_call="true"' in after
    return Instruction(name, opcode[1], operands, called, int(index[1]) if index else 0, is_kernel)


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


def compile_workload(workload: Workload, devices: Sequence[Any]) -> Any:
    """Compile a workload for the first of the devices, or sharded over all of them."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import tunrex_jax_monitor as trm

    mesh = Mesh(np.array(devices if workload.sharded else devices[:1]), ("data",))
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    names = tuple(f"reward_{r}" for r in range(workload.n_rewards))
    acc = trm.RewardAccumulator(names, group_size=workload.group_size)
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), jax.eval_shape(acc.init)
    )
    if workload.pack:
        return jax.jit(acc.pack, out_shardings=replicated).lower(state).compile()
    warnings.simplefilter("ignore", UserWarning)  # a window smaller than the batch is meant: it is the default one
    rewards = dict.fromkeys(names, jax.ShapeDtypeStruct((workload.n_samples,), jnp.float32, sharding=split))
    mask = jax.ShapeDtypeStruct((workload.n_samples,), jnp.bool_, sharding=split) if workload.masked else None

    def update(state, rewards, mask, **where):
        return acc.update(state, rewards, mask=mask, **where)

    if workload.sharded == "shard_map":
        data, whole = PartitionSpec("data"), PartitionSpec()
        shards = partial(update, axis_name="data")
        update = jax.shard_map(shards, mesh=mesh, in_specs=(whole, data, data), out_specs=whole)
    return jax.jit(update, donate_argnums=0, out_shardings=replicated).lower(state, rewards, mask).compile()


def count(chip: str, workload: Workload, compiled: Any) -> Row:
    """Read the figures of a compiled program."""
    program = Program(compiled.as_text())
    launched = Counter(program.launched())
    for opcode in COLLECTIVES:
        launched.pop(opcode, None)
    named = {key: launched.pop(key, 0) for key in ("fusion", "copy", "sort", "custom-call")}
    seconds = (compiled.cost_analysis() or {}).get("optimal_seconds")
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
        estimate_us=None if seconds is None or seconds <= 0 else seconds * 1e6,
        max_kernels=workload.max_kernels,
        max_estimate_us=workload.max_estimate_us,
        max_collectives=workload.max_collectives,
    )


def census(chip: str) -> list[Row]:
    """All workloads compiled for one chip. Its environment has to be set before JAX is imported."""
    from jax.experimental import topologies

    platform, topology, _, is_slice = CHIPS[chip]
    if platform == "cuda":
        described = topologies.get_topology_desc(platform=platform, target_config=H100, topology=topology)
    else:
        described = topologies.get_topology_desc(platform=platform, topology_name=topology)
    devices = described.devices
    return [
        count(chip, workload, compile_workload(workload, devices))
        for workload in WORKLOADS
        if (len(devices) > 1 if workload.sharded else not is_slice)
    ]


def census_in_child(chip: str) -> list[Row]:
    """The same in a process of its own: compilers read their flags once, and each platform has others."""
    environment = {**os.environ, **CHIPS[chip].environment, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(
        [sys.executable, __file__, "--child", chip], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if child.returncode:
        raise SystemExit(f"compiling for {chip} failed with exit status {child.returncode}; its messages are above")
    return [Row(**row) for row in json.loads(child.stdout.splitlines()[-1])]


# Printing

COLUMNS: tuple[tuple[str, Callable[[Row], object]], ...] = (
    ("compiled for", lambda row: row.chip),
    ("program", lambda row: row.program),
    ("kernels", lambda row: row.kernels),
    ("fusions", lambda row: row.fusions),
    ("copies", lambda row: row.copies),
    ("sorts", lambda row: row.sorts),
    ("custom calls", lambda row: row.custom_calls),
    ("other", lambda row: row.other),
    ("while loops", lambda row: row.while_loops),
    ("scatters into state", lambda row: row.scatters_into_carried if "TPU" in row.chip else "-"),
    ("collectives", lambda row: row.collectives),
    ("estimate, us", lambda row: "-" if row.estimate_us is None else f"{row.estimate_us:.1f}"),
)


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [[title for title, _ in COLUMNS], *([str(cell(row)) for _, cell in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def main() -> int:
    """Run the command line; the exit status is 1 when `--check` finds something."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="also TPU v4, v5p and v6e")
    parser.add_argument("--json", action="store_true", help="one JSON array of rows instead of a table")
    parser.add_argument("--check", action="store_true", help="exit status 1 when a program is over its budget")
    parser.add_argument("--child", choices=CHIPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps([asdict(row) for row in census(options.child)]))
        return 0

    rows = [row for chip in (CHIPS if options.all else DEFAULT_CHIPS) for row in census_in_child(chip)]
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows))
    if not options.check:
        return 0
    violations = [text for row in rows for text in row.violations()]
    print("\n".join(violations) or "all within budget", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
