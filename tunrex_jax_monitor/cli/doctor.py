"""`doctor`: what this machine has, what is wrong with it, and what to do."""

from pathlib import Path

import click

from tunrex_jax_monitor.cli.options import PATH, advise, echo_json, end_as_found, json_option, tell
from tunrex_jax_monitor.cli.tables import Cell, Table, echo
from tunrex_jax_monitor.host.doctor import Finding, diagnose
from tunrex_jax_monitor.host.report.text import plural

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@click.command(short_help="Check this machine: what is wrong, what to do.")
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=PATH)
@json_option
def doctor(directories: tuple[Path, ...], as_json: bool) -> None:
    """Check this machine: versions, devices, optional packages, W&B, and whether a run can be written to DIR.

    Exit status 1 where there is a problem; what is merely not installed is none.
    """
    tell("asking JAX for its devices")
    findings = diagnose(directories or (Path("."),))
    problems = [finding for finding in findings if finding.status == "problem"]
    if problems:
        end_as_found()
    if as_json:
        echo_json({"problems": len(problems), "findings": [finding._asdict() for finding in findings]})
    else:
        echo(Table(("check", "status", "found"), [_row(finding) for finding in findings], left=("status", "found")))
        advise((finding.check, finding.remedy) for finding in findings if finding.status != "ok")
    tell(plural(len(problems), "problem") if problems else "no problem")


def _row(finding: Finding) -> list[Cell | str]:
    return [finding.check, Cell(finding.status, _STYLES[finding.status]), finding.found]
