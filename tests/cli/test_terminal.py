"""What a terminal, a pipe, and an encoding that knows little get to see; names are hostile."""

import io
import os
import pty
import re
import subprocess
import unicodedata

import pytest

from tests.cli.support import call, command, environment, run_dir, spawn
from tests.host.report import runs
from tunrex_jax_monitor.cli import tables, text

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SEEN = {"show": (), "alerts": (), "export": ("--to", "csv", "--table", "alerts", "-o", "-")}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "run"
    return runs.write(path, steps=40, names=runs.HOSTILE, rewards=len(runs.HOSTILE), faults=True)


def in_terminal(*arguments, columns=100, **variables):
    """Return what a process writes to a terminal."""
    ours, theirs = pty.openpty()
    options = {"stdout": theirs, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    variables = {"TERM": "xterm-256color", "COLUMNS": str(columns), **variables}
    with subprocess.Popen(command(*arguments), env=environment(**variables)["env"], **options) as process:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # the other end is closed
            pass
        assert process.wait(timeout=60) == 0, process.stderr.read()
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def acting(out):
    """Return the characters that do something to a terminal."""
    return {c for c in out if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"}


@pytest.mark.parametrize("command", ["show", "alerts"])
def test_names_cannot_steer_a_terminal(hostile, command):
    assert not acting(spawn(command, hostile).stdout)
    drawn = in_terminal(command, hostile)
    assert not acting(COLOURS.sub("", drawn))
    assert "\x1b[31mred" not in drawn


def test_markup_in_a_name_is_text(hostile):
    assert "[red]markup[/red]" in in_terminal("show", hostile)
    assert "[red]markup[/red]" in spawn("show", hostile).stdout


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(hostile, columns):
    for line in COLOURS.sub("", in_terminal("show", hostile, columns=columns)).split("\n"):
        assert text.cells(line) <= columns


def test_a_pipe_gets_whole_names_and_aligned_columns(hostile):
    lines = spawn("show", hostile).stdout.splitlines()
    assert any(line.startswith("long_" + "x" * 290 + "_end  ") for line in lines)
    starts = {
        text.cells(line[: line.index("no alert")]) for line in lines if " no alert " in line and "xxx" not in line
    }
    assert len(starts) == 1


def test_no_color_and_a_pipe_get_no_colours(hostile):
    assert "\x1b[" in in_terminal("show", run_dir())
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", in_terminal("show", run_dir(), NO_COLOR="1"))
    assert "\x1b" not in spawn("show", run_dir()).stdout


@pytest.mark.parametrize("command", list(SEEN))
def test_an_encoding_that_knows_little_gets_escapes_and_no_error(hostile, command):
    done = spawn(command, hostile, *SEEN[command], text=False, **environment(PYTHONIOENCODING="ascii"))
    assert done.returncode == 0, done.stderr
    if command == "show":
        assert done.stdout.isascii()
        assert rb"\u7b54\u6848" in done.stdout  # the first two of the Chinese name


def test_ascii_in_a_terminal_draws_a_table_too(hostile):
    assert in_terminal("show", hostile, PYTHONIOENCODING="ascii").isascii()


def test_a_path_in_a_message_cannot_steer_a_terminal():
    assert not acting(call("show", "no\x1b[2Jwhere", code=2).stderr)


@pytest.mark.parametrize("arguments", [("show",), ("alerts",), ("export", "--to", "csv", "-o", "-")])
def test_a_reader_that_has_enough_ends_a_command_quietly(arguments):
    name, *rest = arguments
    process = subprocess.Popen(command(name, run_dir(), *rest), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **{
        "env": environment()["env"],
    })  # fmt: skip
    process.stdout.close()  # sooner than any `head`
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in stderr
    assert "Exception" not in stderr
    assert "Broken" not in stderr


# Tables


def test_without_rich_a_terminal_gets_plain_columns(monkeypatch):
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    assert not tables.is_rich()
    assert tables.plain(tables.Table(("a", "b"), [["x", "1"], ["long", "22"]])) == "a      b\nx      1\nlong  22"


def test_optional_columns_give_way_in_their_order():
    from rich.console import Console

    table = tables.Table(("name", "one", "two"), [["a" * 20, "1" * 20, "2" * 20]], optional=("two", "one"))
    shown = {}
    for width in (80, 50, 30):
        file = io.StringIO()
        Console(file=file, width=width).print(tables.drawn(table, width))
        shown[width] = file.getvalue().split("\n")[0].split()
    assert shown == {80: ["name", "one", "two"], 50: ["name", "one"], 30: ["name"]}


@pytest.mark.parametrize(("name", "width", "short"), [
    ("short", 10, "short"), ("abcdefghijkl", 9, "abc...jkl"), ("答案正确性检查", 9, "答...查"),
])  # fmt: skip
def test_a_long_name_keeps_both_its_ends(name, width, short):
    assert text.shorten(name, width) == short
    assert text.cells(short) <= width
