"""What commands share: their arguments, and how they answer."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from tunrex_jax_monitor.cli.text import folded, printable
from tunrex_jax_monitor.host.files import to_json, write_atomically

SCHEMA = 1  # of what `--json` prints; a field may be added, none changes its meaning
STDOUT = "-"
FOUND = 1  # exit status
_STATUS = "tunrex_jax_monitor.status"

PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is told in our own words
run_argument = click.argument("run", type=PATH)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one strict JSON document to stdout.")
force_option = click.option("--force", is_flag=True, help="Replace what is there.")


class Problem(click.ClickException):
    """Input that cannot be used: a message on stderr, exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message; it cannot steer a terminal."""
        tell(f"Error: {self.message}")


def tell(message: str) -> None:
    """Say something beside the data, on stderr; where nobody listens any more, work goes on."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(folded(printable(message), sys.stderr), err=True)


def end_as_found() -> None:
    """Let the command end with exit status 1, also where the reader of its output goes away before the end."""
    click.get_current_context().meta[_STATUS] = FOUND


def status() -> int:
    """Return the exit status that the command ends with."""
    return int(click.get_current_context().meta.get(_STATUS, 0))


def advise(remedies: Iterable[tuple[str, str]]) -> None:
    """Print what to do, by what it is about; nothing without any."""
    for at, (about, remedy) in enumerate(remedies):
        heading = "" if at else "\nwhat to do\n"
        click.echo(heading + folded(printable(f"  {about}: {remedy}"), sys.stdout, indent="    "))


def echo_json(data: dict[str, Any]) -> None:
    """Print one document of strict JSON."""
    click.echo(json.dumps({"schema": SCHEMA, **json.loads(to_json(data))}, indent=2, allow_nan=False))


def require_new(target: Path, force: bool) -> None:
    """Refuse a file that is there, and a directory that is not, before any work is done."""
    if target.is_dir():
        raise Problem(f"output: got '{target}', which is a directory, allowed: a file. Name one inside of it.")
    if not target.parent.is_dir():
        message = f"output: got '{target}', in a directory that does not exist, allowed: an existing one."
        raise Problem(f"{message} Make it first: mkdir -p '{target.parent}'")
    if target.is_file() and not force:
        raise Problem(f"output: got '{target}', which exists, allowed: a new file. Choose another, or add --force.")


def write_text(target: Path, text: str) -> None:
    """Write a text to a file, whole or not at all, or to stdout where the target is `-`."""
    if str(target) == STDOUT:
        sys.stdout.buffer.write(text.encode())  # to the letter: `echo` would take out what steers a terminal
        sys.stdout.buffer.flush()
    else:
        with writing(target):
            write_atomically(target, text)


def writing(target: Path) -> contextlib.AbstractContextManager[None]:
    """Write inside of it; a place that cannot be written is the caller's to mend."""
    return telling(f"output: got '{target}', which cannot be written", "Choose another place.")


@contextlib.contextmanager
def telling(got: str, remedy: str) -> Iterator[None]:
    """Work inside of it; what the system refuses is told with its reason."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Problem(f"{got} ({error.strerror or error}). {remedy}") from error


def require_one_stdout(target: Path | None, as_json: bool) -> None:
    """Refuse two documents on one stdout."""
    if as_json and target is not None and str(target) == STDOUT:
        raise Problem("--json: got '-' as output too, allowed: one of them on stdout. Write the other to a file.")
