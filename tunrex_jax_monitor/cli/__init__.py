"""Command line: `tunrex-jax-monitor COMMAND`, and `python -m tunrex_jax_monitor COMMAND`.

Data goes to stdout, everything else to stderr. Exit status: 0 all well, 1 something was found, 2 wrong usage or input
that cannot be read. Each command is a module of its own and loads when it is called; only `demo` and `doctor` need JAX.
"""

import contextlib
import io
import os
import sys
from importlib import import_module
from typing import Any

import click

from tunrex_jax_monitor.cli.options import Problem, status, tell

_COMMANDS = ("demo", "show", "alerts", "report", "compare", "export", "watch", "doctor")
_INTERRUPTED = 130  # 128 + SIGINT, as shells tell it


class _Commands(click.Group):
    """Loads a command when it is asked for, and ends quietly where a person or a pipe ends it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a person meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None where there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        _prepare_streams()
        try:
            super().invoke(ctx)
        except BrokenPipeError:  # the reader, a `head`, has what it wanted
            _discard_stdout()
        except OSError as error:
            _discard_stdout()
            reason = error.strerror or error
            raise Problem(f"stdout: got {reason}, allowed: a place that takes all. Choose another place.") from error
        except KeyboardInterrupt:
            tell("interrupted")
            ctx.exit(_INTERRUPTED)
        ctx.exit(status())


def _prepare_streams() -> None:
    """Let no stream raise: what an encoding cannot say is escaped, and what is closed takes everything."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Let what is still buffered go nowhere: Python flushes it once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=_Commands,
    epilog="Exit status: 0 all well, 1 something was found, 2 wrong usage or input that cannot be read.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="tunrex-jax-monitor", prog_name="tunrex-jax-monitor")
def commands() -> None:
    """Look at the rewards of a run: what went wrong, when, and how badly.

    RUN is a run directory, a directory of run directories (the newest is taken), or a monitoring_data.json.
    """
