"""The README's commands are run as they stand there, on the demo's own run."""

import re
import shlex
import subprocess

import pytest

from tests.cli.support import ROOT, command, environment, healthy, spawn

SECTION = (ROOT / "README.md").read_text().split("## Command line\n")[1].split("\n## ")[0]
COMMANDS = re.search(r"<!-- commands -->\n```bash\n(.*?)```\n```text\n(.*?)```", SECTION, flags=re.S)
EXPECTED = {"alerts": 1, "compare": 1}  # the demo has alerts, and the other run lacks rewards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The directory in which a reader stands, after the first command."""
    folder = tmp_path_factory.mktemp("readme")
    healthy(folder / "candidate", steps=60)
    healthy(folder / "runs" / "run-1", steps=20)
    lines = [shlex.split(line, comments=True)[1:] for line in COMMANDS[1].splitlines()]
    assert lines[0][0] == "demo"
    assert spawn(*lines[0], cwd=folder).returncode == 0
    return folder


@pytest.mark.parametrize("line", COMMANDS[1].splitlines()[1:], ids=lambda line: line.split()[1])
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
    assert {line.split()[1] for line in COMMANDS[1].splitlines()} == set(re.findall(r"^  (\w+)  +\w", out, flags=re.M))
