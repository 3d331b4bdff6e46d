"""The README's commands are run as they stand there, on the runs that they make themselves."""

import re
import shlex
import subprocess

import pytest

from tests.cli.support import ROOT, command, environment, spawn

SECTION = (ROOT / "README.md").read_text().split("## Command line\n")[1].split("\n## ")[0]
COMMANDS = re.search(r"<!-- commands -->\n```bash\n(.*?)```\n[^`]*`show`[^`]*```text\n(.*?)```", SECTION, flags=re.S)
LINES = COMMANDS[1].splitlines()
DEMOS = [line for line in LINES if line.split()[1] == "demo"]
EXPECTED = {"alerts": 1, "compare": 1}  # the demo has alerts, and more of them than the healthy run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directory in which a reader stands, after the commands that make runs."""
    folder = tmp_path_factory.mktemp("readme")
    for line in DEMOS:
        done = spawn(*shlex.split(line, comments=True)[1:], cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_runs_are_made_before_they_are_read():
    assert LINES[: len(DEMOS)] == DEMOS


@pytest.mark.parametrize("line", LINES[len(DEMOS) :], ids=lambda line: line.split()[1])
def test_each_command_does_what_it_says(folder, line):
    program, name, *rest = shlex.split(line, comments=True)
    assert program == "tunrex-jax-monitor"
    if name == "watch":
        with subprocess.Popen(
            command(name, *rest), cwd=folder, stdout=subprocess.PIPE, env=environment()["env"]
        ) as process:
            assert process.stdout.readline().startswith(b"step 9 ")
            process.kill()
        return
    done = spawn(name, *rest, cwd=folder)
    assert done.returncode == EXPECTED.get(name, 0), done.stderr
    assert done.stdout
    if name == "show":
        assert done.stdout == COMMANDS[2]
    if name == "report":
        assert done.stdout.split() == ["page.html", "dashboard.png"]


def test_every_command_is_in_the_readme():
    out = spawn("--help").stdout.split("Commands:\n")[1]
    assert {line.split()[1] for line in LINES} == set(re.findall(r"^  (\w+)  +\w", out, flags=re.M))
