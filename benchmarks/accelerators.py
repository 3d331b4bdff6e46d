"""Compile the monitor for chips that are not here, and count what their compilers emit.

The compilers for NVIDIA GPUs and TPUs run on any CPU. What comes out is the real program for the chip: kernels, copies,
loops, collectives and temporary memory are counted in it, and the TPU compiler adds an estimate of its run time.
None of that is measured: every figure is of a compiled program. What can be timed here is the compiling itself.
On a GPU each kernel is a launch, and their number is the cost of programs as small as these. A TPU launches a program
once, whatever is in it, and moves data ahead of its use (the many copies); there the estimate tells more.

    pip install -e ".[accelerators]"
    python benchmarks/accelerators.py                # H100, TPU v5e, and slices of 64 and 1024 TPUs
    python benchmarks/accelerators.py --all          # and TPU v4, v5p and v6e, and more slices of 64
    python benchmarks/accelerators.py --check        # only what has a budget; exit status 1 when it is exceeded
    python benchmarks/accelerators.py --compile-time # instead: how much longer a train step takes to compile
    python benchmarks/accelerators.py --json
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from chips import CHIPS, DEFAULT_CHIPS, devices_of
from hlo import COLLECTIVES, Program
from jax.sharding import Mesh
from measuring import add_json, environment, in_rounds, publish, quartiles, table, uncached, whole
from workloads import BARE, MONITORED, Workload, train_step, update, workloads

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
    """Compile for one chip."""
    devices, is_slice = devices_of(chip), CHIPS[chip].is_slice
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


def time_compiling(chip: str, rounds: int) -> dict[str, Any]:
    """Time the compiler, which runs on this machine, on the train step bare and monitored; seconds, with tracing."""
    mesh = Mesh(devices_of(chip)[:1], ("data",))
    update(1, 64, mesh).compile()  # what a process pays once

    def seconds(*, monitored: bool) -> float:
        jax.clear_caches()
        start = time.perf_counter()
        train_step(mesh, monitored=monitored).compile()
        return time.perf_counter() - start

    runs = {name: partial(seconds, monitored=name == MONITORED) for name in (BARE, MONITORED)}
    with uncached():
        times = {name: np.array(v) for name, v in in_rounds(runs, rounds, np.random.default_rng(0)).items()}
    added, ratio = times[MONITORED] - times[BARE], times[MONITORED] / times[BARE]
    figures = {**times, "added": added, "x bare": ratio}
    return {"compiled for": chip} | {name: quartiles(v) for name, v in figures.items()}


def in_child(chip: str, flags: Sequence[str]) -> Any:
    """Do what the flags say in a process of its own: compilers read theirs once, and each platform has others."""
    child = subprocess.run(
        [sys.executable, __file__, "--child", chip, *flags],
        env={**os.environ, **CHIPS[chip].environment, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode:
        raise SystemExit(f"compiling for {chip} failed with exit status {child.returncode}; its messages are above")
    return json.loads(child.stdout.splitlines()[-1])


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


def work(chip: str, options: argparse.Namespace) -> Any:
    """Do for one chip what the command line says; returns what JSON can hold."""
    if options.compile_time:
        return time_compiling(chip, options.compile_time)
    return [asdict(row) for row in census(chip, only_budgets=options.check)]


def main() -> int:
    """Run the command line; the exit status is 1 when `--check` finds something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also TPU v4, v5p and v6e, and 64 TPU v4 and v5e")
    parser.add_argument("--check", action="store_true", help="compile what has a budget; exit status 1 when exceeded")
    parser.add_argument(
        "--compile-time",
        type=whole,
        nargs="?",
        const=5,
        metavar="ROUNDS",
        help="instead, time the compilers on a train step, bare and monitored (5 rounds)",
    )
    add_json(parser)
    parser.add_argument("--child", choices=CHIPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(work(options.child, options)))
        return 0

    jax.config.update("jax_platforms", "cpu")  # a chip that is here is not needed, and may be in use
    chips = CHIPS if options.all else DEFAULT_CHIPS
    if options.compile_time:
        flags = ["--compile-time", str(options.compile_time)]
        times = [in_child(chip, flags) for chip in chips if not CHIPS[chip].is_slice]
        text = f"Seconds to trace and compile a train step here; {options.compile_time} rounds.\n\n"
        columns = dict.fromkeys(times[0], 1) | {"x bare": 3}
        publish({"environment": environment("accelerators"), "rows": times}, text + table(times, columns), options.json)
        return 0

    found = [in_child(chip, ["--check"] if options.check else []) for chip in chips]
    rows = [Row(**row) for of_chip in found for row in of_chip]
    result = {"environment": environment("accelerators"), "rows": [asdict(row) for row in rows]}
    publish(result, text_of(rows), options.json)
    if not options.check:
        return 0
    violations = [text for row in rows for text in row.violations()]
    print("\n".join(violations) or "all within budget", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
