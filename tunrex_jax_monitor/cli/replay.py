"""Replay: the records of a run that is over, into our own sinks for W&B and TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.cli.options import Problem, writing
from tunrex_jax_monitor.cli.progress import progress
from tunrex_jax_monitor.cli.runs import count_records, read, records_of
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.sinks.base import RunSink, Sink


def replay(path: Path, target: str, output: Path, force: bool, wandb: Mapping[str, Any]) -> int:
    """Write every record of a run into one of our own sinks, at its own step; return how many there were."""
    history = read(path)  # damage is told before anything is written
    sink = _wandb_sink(path, output, **wandb) if target == "wandb" else _tensorboard_sink(output, force)
    count, error = attempt(lambda: _write(path, history, sink))
    if count is None:
        remedy = "Log in with `wandb login`, or add --offline." if target == "wandb" else "Choose another directory."
        raise Problem(f"--to {target}: got {type(error).__name__} ({error}). {remedy}")
    return count


def _write(path: Path, history: History, sink: Sink) -> int:
    if isinstance(sink, RunSink):
        sink.begin_run(history.manifest)
    count = count_records(path)
    with progress(records_of(path, history), count, "record") as records:
        for record in records:
            sink.write(record)
    sink.close()
    return count


def _wandb_sink(path: Path, output: Path, *, project: str | None, name: str | None, offline: bool) -> Sink:
    from tunrex_jax_monitor.host.sinks.wandb import WandbSink

    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    init: dict[str, Any] = {"project": project, "name": name or path.name, "dir": output}
    if offline:
        init["mode"] = "offline"
    try:
        return WandbSink(own_run=True, notify=False, **init)
    except ImportError as error:
        raise missing("wandb") from error


def _tensorboard_sink(output: Path, force: bool) -> Sink:
    from tunrex_jax_monitor.host.sinks.tensorboard import TensorBoardSink

    if not force and output.is_dir() and any(output.iterdir()):
        message = f"output: got '{output}', which holds files, allowed: a new directory. TensorBoard would show both."
        raise Problem(f"{message} Choose another, or add --force.")
    try:
        with writing(output):
            return TensorBoardSink(output)
    except ImportError as error:
        raise missing("tensorboard") from error


def missing(extra: str) -> Problem:
    """Return what to say where the package for a target is not installed."""
    remedy = f"pip install 'tunrex-jax-monitor[{extra}]'"
    return Problem(f"--to {extra}: got no package for it, allowed: where it is installed. {remedy}")
