"""The campaign: which faults, how often, and the table of what survived."""

import dataclasses
import importlib
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich import box
from rich.table import Table

from tests.faults import files, lives, writers
from tests.faults.harness import Outcome
from tunrex_jax_monitor.host.guard import attempt

Fault = Callable[[random.Random, Path], Outcome]


def _on_device(name: str, rng: random.Random, folder: Path) -> Outcome:
    """Run a fault of `device`, which starts JAX: only behind those that fork."""
    fault: Fault = getattr(importlib.import_module("tests.faults.device"), name)
    return fault(rng, folder)


# Name, what is done, share of the runs.
FAULTS: tuple[tuple[str, Fault, int], ...] = (
    ("writer killed", writers.kill, 40),
    ("killed, resumed, killed ...", lives.resume, 30),
    ("preempted by SIGTERM", lives.preempt, 25),
    ("disk full", writers.fill, 20),
    ("directory removed", writers.vanish, 15),
    ("sink hangs", writers.hang, 10),
    ("sink raises", writers.fail, 15),
    ("second writer", lives.second, 10),
    ("bytes corrupted", files.corrupt, 30),
    ("killed while replacing files", files.replace, 20),
    ("training beside faulty sinks", partial(_on_device, "train"), 21),
    ("training killed and resumed", partial(_on_device, "kill_training"), 4),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One run: which fault, which seed brings it back, and what came of it."""

    fault: str
    seed: str
    outcome: Outcome


def run(runs: int, seed: int) -> Iterator[Result]:
    """Yield the result of each run; those without JAX come first, since they fork."""
    total = sum(share for *_, share in FAULTS)
    ends = [round(runs * end / total) for end in itertools.accumulate(share for *_, share in FAULTS)]
    for (name, fault, _), first, last in zip(FAULTS, [0, *ends], ends, strict=False):
        for n in range(last - first):
            yield run_one(name, fault, f"{seed}:{name}:{n}")


def run_one(name: str, fault: Fault, seed: str) -> Result:
    """Run one fault in a folder of its own; what it raises is a problem as well."""
    with tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as folder:
        outcome, error = attempt(lambda: fault(random.Random(seed), Path(folder)))
    return Result(name, seed, outcome or Outcome([f"{type(error).__name__}: {error}"]))


def table(results: list[Result]) -> Table:
    """Return the account of a campaign."""
    shown = Table(box=box.ASCII2, show_footer=True)
    rows = [_row(name, [r.outcome for r in results if r.fault == name]) for name, *_ in FAULTS]
    total = _row("all", [result.outcome for result in results])
    columns = ("fault", "runs", "survived", "emitted", "kept", "lost beyond the promise")
    for column, footer in zip(columns, total, strict=True):
        shown.add_column(column, footer, justify="left" if column == "fault" else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


def _row(name: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    survived = sum(not outcome.problems for outcome in outcomes)
    sums = [sum(getattr(outcome, field) for outcome in outcomes) for field in ("emitted", "kept", "lost")]
    return name, *(f"{n:,}" for n in (len(outcomes), survived, *sums))
