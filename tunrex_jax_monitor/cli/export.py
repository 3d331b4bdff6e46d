"""`export`: the numbers of a run for another program: a table, or a replay into a sink."""

import csv
import importlib.util
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tunrex_jax_monitor.cli.options import (
    PATH,
    STDOUT,
    Problem,
    echo_json,
    force_option,
    json_option,
    require_new,
    require_one_stdout,
    run_argument,
    tell,
    write_text,
    writing,
)
from tunrex_jax_monitor.cli.replay import missing, replay
from tunrex_jax_monitor.cli.runs import beside, find, read, records_of
from tunrex_jax_monitor.host.files import replacing
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.text import plural

Rows = tuple[Sequence[str], Iterable[Sequence[Any]]]
_ALERT = ("step", "reward", "type", "value", "threshold", "message", "remedy")


@click.command(short_help="CSV, Parquet, W&B, TensorBoard.")
@run_argument
@click.option(
    "--to", "target", type=click.Choice(("csv", "parquet", "wandb", "tensorboard")), required=True, help="The format."
)
@click.option(
    "--table",
    type=click.Choice(("steps", "records", "alerts")),
    default="steps",
    show_default=True,
    help="For csv and parquet: one row per step, per emission (every key of the README's table), or per alert.",
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="File, or - for stdout; for wandb and tensorboard a directory. Beside the run by default.",
)
@click.option("--project", help="For wandb.  [default: that of the environment]")
@click.option("--name", help="For wandb: of the new run.  [default: the directory's name]")
@click.option("--offline", is_flag=True, help="For wandb: write the run to disk, for `wandb sync`.")
@json_option
@force_option
def export(run: Path, target: str, table: str, output: Path | None, as_json: bool, force: bool, **wandb: Any) -> None:
    """Write RUN as a table, or replay its records into W&B or TensorBoard, each at its own step."""
    _check(target, output, wandb)
    path = find(run)
    require_one_stdout(output, as_json)
    if target in ("csv", "parquet"):
        output = output or beside(path, f"{table}.{target}")
        noun, count = "row", _write_table(path, target, table, output, force)
    else:
        output = output or beside(path, "" if target == "wandb" else target)  # wandb makes a directory of its name
        noun, count = "record", replay(path, target, output, force, wandb)
    if as_json:
        echo_json({"run": str(path), "to": target, "output": str(output), f"{noun}s": count})
    else:
        tell(f"{output}: {plural(count, noun)}")


def _check(target: str, output: Path | None, wandb: Mapping[str, Any]) -> None:
    """Refuse options that belong to another target."""
    for option, value in wandb.items():
        if value and target != "wandb":
            raise Problem(f"--{option}: got {value!r} with --to {target}, allowed: with --to wandb. Leave it out.")
    if str(output) == STDOUT and target in ("wandb", "tensorboard"):
        raise Problem(f"output: got '-' with --to {target}, allowed: a directory. Name one, or leave it out.")


def _write_table(path: Path, target: str, table: str, output: Path, force: bool) -> int:
    if target == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise missing("parquet")
    if str(output) != STDOUT:
        require_new(output, force)
    history = read(path)
    titles, rows = _TABLES[table](path, history)
    rows = list(rows)
    if target == "parquet":
        _write_parquet(titles, rows, output)
    else:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(titles)
        writer.writerows(rows)
        write_text(output, text.getvalue())
    return len(rows)


def _steps(_: Path, history: History) -> Rows:
    if history.series.stride > 1:
        tell(f"the run is longer than what is kept of it: each row stands for {history.series.stride} steps")
    columns = dict(history.series) or {"step": []}
    return list(columns), zip(*columns.values(), strict=True)


def _records(path: Path, history: History) -> Rows:
    records = list(records_of(path, history))
    keys = list(dict.fromkeys(key for record in records for key in record.scalars))
    rows = [[record.step, record.update, record.time, *map(record.scalars.get, keys)] for record in records]
    return ["step", "update", "time", *keys], rows


def _alerts(_: Path, history: History) -> Rows:
    return _ALERT, [[getattr(alert, field) for field in _ALERT] for alert in history.alerts]


_TABLES: Mapping[str, Callable[[Path, History], Rows]] = {"steps": _steps, "records": _records, "alerts": _alerts}


def _write_parquet(titles: Sequence[str], rows: Sequence[Sequence[Any]], output: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = list(zip(*rows, strict=True)) or [()] * len(titles)
    table = pyarrow.Table.from_arrays([pyarrow.array(column) for column in columns], names=list(titles))
    if str(output) == STDOUT:
        parquet.write_table(table, pyarrow.PythonFile(sys.stdout.buffer, mode="w"))
        return
    with writing(output), replacing(output) as part:
        parquet.write_table(table, part)
