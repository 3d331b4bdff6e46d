"""How commands end where their output goes nowhere: what was found is told to the shell in any case."""

import os
import subprocess

import pytest

from tests.cli.support import command, environment, healthy, run_dir

FINDINGS = {
    "alerts": ("--exit-code",),
    "compare": ("--fail-on", "mean:-0.0001%"),
    "compare as JSON": ("--fail-on", "mean:-0.0001%", "--json"),
    "compare as a page": ("--fail-on", "mean:-0.0001%", "-o", "-"),
}


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    return healthy(tmp_path_factory.mktemp("worse") / "run-b", steps=60)


def arguments(kind, worse):
    name = kind.split()[0]
    return command(name, *([worse, run_dir()] if name == "compare" else [run_dir()]), *FINDINGS[kind])


@pytest.mark.parametrize("kind", list(FINDINGS))
@pytest.mark.parametrize("closed", [("stdout",), ("stdout", "stderr")])
def test_a_finding_outlives_a_reader_that_has_enough(worse, kind, closed):
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(arguments(kind, worse), env=environment()["env"], **pipes) as process:
        for name in closed:
            getattr(process, name).close()  # sooner than any `head`
        said = process.stderr.read() if "stderr" not in closed else b""
        assert process.wait(timeout=60) == 1, said
    assert b"Traceback" not in said
    assert b"Broken" not in said


@pytest.mark.parametrize("kind", list(FINDINGS))
def test_a_finding_needs_no_stdout(worse, kind):
    command_line = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments(kind, worse)]
    done = subprocess.run(command_line, stderr=subprocess.PIPE, text=True, **environment())
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_problem_stays_one_where_nobody_reads_of_it():
    with subprocess.Popen(command("show", "nowhere"), env=environment()["env"], stderr=subprocess.PIPE) as process:
        process.stderr.close()
        assert process.wait(timeout=60) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_finds_no_room_is_a_problem_and_no_finding(worse):
    with open("/dev/full", "w") as full:
        options = {"stdout": full, "stderr": subprocess.PIPE, "text": True, **environment()}
        done = subprocess.run(arguments("compare", worse), **options)
    assert done.returncode == 2
    assert "stdout: got No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
