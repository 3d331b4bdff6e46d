"""`report`: a run as one HTML page, and as pictures."""

from pathlib import Path

import click

from tunrex_jax_monitor.cli import drawing, span
from tunrex_jax_monitor.cli.options import (
    PATH,
    STDOUT,
    echo_json,
    force_option,
    json_option,
    require_new,
    require_one_stdout,
    tell,
)
from tunrex_jax_monitor.cli.runs import beside, find, read, records_of

_BESIDE = ""  # --png without a directory


@click.command(short_help="One HTML page, and pictures.")
@click.argument("run", metavar="RUN", required=False, type=PATH)
@click.option("-o", "--output", type=PATH, help="The page, or - for stdout.  [default: RUN/report.html]")
@click.option(
    "--png",
    is_flag=False,
    flag_value=_BESIDE,
    metavar="[DIR]",
    help="Draw the dashboard too, into DIR or beside the page.",
)
@click.option("--steps", metavar="A:B", help="Only these steps; either end may be left out.")
@json_option
@force_option
def report(
    run: Path | None, output: Path | None, png: str | None, steps: str | None, as_json: bool, force: bool
) -> None:
    """Write RUN as one HTML page that needs no network, and with --png its dashboard.

    Prints the path of each file that was written.
    """
    if run is None:  # `--png RUN`: what follows an option is taken for its value
        if not png:
            raise click.MissingParameter(param_hint="'RUN'", param_type="argument")
        run, png = Path(png), _BESIDE
    path = find(run)
    require_one_stdout(output, as_json)
    page = output or beside(path, "report.html")
    is_streamed = str(page) == STDOUT
    pictures = None if png is None else _directory(png, path if is_streamed else page)
    for target in [*([] if is_streamed else [page]), *([pictures / drawing.DASHBOARD] if pictures else [])]:
        require_new(target, force)
    if pictures is not None:
        drawing.require_pictures()
    history = read(path)
    if steps is not None:
        history = span.cut(history, records_of(path, history), steps)
    drawing.write_page(history, page)
    written = [] if is_streamed else [page]
    if pictures is not None:
        written += drawing.write_pictures(history, pictures, force)
    _answer(path, written, as_json, to_stdout=not is_streamed)


def _directory(png: str, page: Path) -> Path:
    return beside(page, "") if png == _BESIDE else Path(png)


def _answer(path: Path, written: list[Path], as_json: bool, *, to_stdout: bool) -> None:
    if as_json:
        echo_json({"run": str(path), "written": [str(target) for target in written]})
    for target in [] if as_json else written:
        click.echo(str(target)) if to_stdout else tell(str(target))
