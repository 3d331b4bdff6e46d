"""`demo`: a made-up GRPO run through the real accumulator and reporter, on the CPU."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tunrex_jax_monitor.cli import drawing, synthetic
from tunrex_jax_monitor.cli.alerts import table_of
from tunrex_jax_monitor.cli.options import PATH, Problem, echo_json, end_as_found, force_option, json_option, tell
from tunrex_jax_monitor.cli.progress import progress
from tunrex_jax_monitor.cli.synthetic import FAULTS, Planted
from tunrex_jax_monitor.cli.tables import Cell, Table, echo
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.episodes import called, episodes
from tunrex_jax_monitor.host.report.text import plural
from tunrex_jax_monitor.host.rundir import RECORDS

_NONE = "none"


@click.command(short_help="Make up a run with faults, and see them caught.")
@click.option("--steps", type=click.IntRange(1, 100_000), default=600, show_default=True, help="Training steps.")
@click.option("--rewards", type=click.IntRange(1, 64), default=4, show_default=True, help="Reward functions.")
@click.option(
    "--inject",
    default=",".join(FAULTS),
    show_default=True,
    help="Faults to plant, separated by commas; none for a healthy run.",
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    default=Path("tunrex-demo"),
    show_default=True,
    help="Directory for the run and its report.",
)
@json_option
@force_option
def demo(steps: int, rewards: int, inject: str, output: Path, as_json: bool, force: bool) -> None:
    """Make up a GRPO run on the CPU, plant faults, and show what the monitor says of them.

    Exit status 1 where a planted fault was not seen.
    """
    names = synthetic.reward_names(rewards)
    planted = synthetic.plant(_parse(inject, steps), names, steps)
    page = output / "report.html"
    for name in (RECORDS, page.name, drawing.DASHBOARD):
        if (output / name).exists() and not force:
            raise Problem(f"output: got '{output}', which holds {name}, allowed: a new directory. Or add --force.")
    _train(names, steps, planted, output)
    history = History.read(output)
    drawing.write_page(history, page)
    written = [page, *(drawing.write_pictures(history, output, force=True) if drawing.has_pictures() else [])]
    seen = {one: one.seen(history.alerts) for one in planted}
    if None in seen.values():
        end_as_found()
    if as_json:
        echo_json(_document(history, seen, output, written))
    else:
        _print(history, seen)
        click.echo(f"\nrun:     {output}\nreport:  {written[0]}")


def _parse(inject: str, steps: int) -> list[str]:
    kinds = [kind.strip() for kind in inject.split(",") if kind.strip()]
    if kinds == [_NONE]:
        return []
    if not kinds or not set(kinds) <= set(FAULTS):
        allowed = f"{', '.join(FAULTS)}, or {_NONE}"
        raise Problem(f"--inject: got {inject!r}, allowed: {allowed}. Separate several by commas.")
    if steps < synthetic.LEAST_STEPS:
        raise Problem(
            f"--steps: got {steps}, allowed: at least {synthetic.LEAST_STEPS} with faults, since the rules first learn "
            f"what is normal. Use more steps, or --inject {_NONE}."
        )
    return kinds


def _train(names: tuple[str, ...], steps: int, planted: Sequence[Planted], run_dir: Path) -> None:
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"  # an accelerator may be in use, and has nothing to do here
    tell("loading JAX and compiling the monitor: some seconds")
    import tunrex_jax_monitor as trm

    correct = "answer" if "answer" in names else None
    acc = trm.RewardAccumulator(names, group_size=synthetic.GROUP_SIZE, correct_reward=correct)
    state = acc.init(batch_size=synthetic.PROMPTS * synthetic.GROUP_SIZE)
    try:
        sink = trm.JsonlSink(run_dir, overwrite=True)
        reporter = trm.Reporter(acc, [sink])
    except OSError as error:
        raise Problem(str(error.strerror or error)) from error
    with reporter, progress(synthetic.stream(names, steps, planted), steps, "step") as batches:
        for step, batch in enumerate(batches):
            state = reporter.step(step, acc.update_jit(state, batch))


def _print(history: History, seen: dict[Planted, int | None]) -> None:
    found = episodes(history)
    click.echo(f"{plural(len(found), 'alert')} in {plural(len(history.steps()), 'step')}")
    if found:
        echo(table_of(found))
    if seen:
        click.echo("\nplanted faults")
        titles = ("fault", "reward", "from step", "expected", "seen", "what it does")
        rows: list[list[Cell | str]] = [
            [one.kind, called(one.reward), str(one.first), one.fault.alert, _at(at), one.fault.text]
            for one, at in seen.items()
        ]
        echo(Table(titles, rows, left=("reward", "expected", "seen", "what it does")))


def _at(step: int | None) -> Cell:
    return Cell("NOT SEEN", "bold red") if step is None else Cell(f"step {step}", "green")


def _document(history: History, seen: dict[Planted, int | None], run: Path, written: Sequence[Path]) -> dict[str, Any]:
    return {
        "run": str(run),
        "written": [str(path) for path in written],
        "steps": len(history.series.get("step", [])),
        "alerts": [vars(alert) for alert in history.alerts],
        "planted": [
            {"fault": one.kind, "reward": one.reward, "first": one.first, "last": one.last,
             "expected": one.fault.alert, "seen": at}
            for one, at in seen.items()
        ],
    }  # fmt: skip
