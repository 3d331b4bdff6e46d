"""Input that is damaged, foreign, empty or cut short: shown where something can be, refused with a reason where not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.support import REWARDS, ROOT, call, call_json, environment, healthy, run_dir, spawn
from tests.host.report import runs
from tests.host.support import make_record
from tunrex_jax_monitor import JsonlSink
from tunrex_jax_monitor.host.record import Histogram

READERS = {  # how each command is called on a run, with what it prints
    "show": (),
    "alerts": (),
    "report": ("-o", "-"),
    "export": ("--to", "csv", "-o", "-"),
}
every_reader = pytest.mark.parametrize("command", list(READERS))


def read(command, run, code=0):
    return call(command, run, *READERS[command], code=code)


def write(path, records, config=None):
    sink = JsonlSink(path)
    sink.begin_run({"config": config or {}})
    for record in records:
        sink.write(record)
    sink.close()
    return path


# Refused: exit status 2, one message on stderr, nothing on stdout


@every_reader
@pytest.mark.parametrize("kind", ["nothing", "empty directory", "text file", "other json", "binary"])
def test_what_is_no_run_is_refused_with_what_is_there(tmp_path, command, kind):
    path = tmp_path / "there"
    if kind == "empty directory":
        path.mkdir()
        expected = "which has neither records.jsonl nor manifest.json"
    elif kind == "nothing":
        expected = "which does not exist"
    else:
        path.write_bytes({"text file": b"hello", "other json": b'{"a": 1}', "binary": b"\xff\xfe\0"}[kind])
        expected = "allowed"
    result = read(command, path, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: RUN: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


@every_reader
@pytest.mark.parametrize(
    "line", [b"garbage", b'{"schema":99}', b"[]", b"null", b"\xff\xff", b'{"schema":1,"step":"x"}']
)
def test_a_damaged_line_in_the_middle_is_refused_by_its_number(tmp_path, command, line):
    path = healthy(tmp_path / "run", steps=30) / "records.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))
    result = read(command, path.parent, code=2)
    assert "records.jsonl, line 2: got" in result.stderr
    assert "take the line out" in result.stderr
    assert result.stdout == ""


@every_reader
def test_an_unknown_schema_is_refused(tmp_path, command):
    run = healthy(tmp_path / "run", steps=30)
    (run / "manifest.json").write_text(json.dumps({"schema": 99}))
    assert "got schema 99, allowed 1" in read(command, run, code=2).stderr
    (tmp_path / "monitoring_data.json").write_text(json.dumps({"schema": 99, "series": {}}))
    assert "got schema 99, allowed 1" in read(command, tmp_path / "monitoring_data.json", code=2).stderr


@every_reader
def test_a_damaged_export_is_refused(tmp_path, command):
    path = tmp_path / "monitoring_data.json"
    path.write_text(json.dumps({"schema": 1, "series": {}, "alerts": 3}))
    assert "Error: RUN: " in read(command, path, code=2).stderr


AS_NOBODY = """
import difflib, os, sys
from tunrex_jax_monitor.cli import commands
commands.get_command(None, sys.argv[1])  # nobody may not even read the packages of some machines
if os.geteuid() == 0:
    os.setuid(65534)
commands()
"""


@every_reader
@pytest.mark.parametrize("behind", ["no door", "a closed door"])
def test_a_file_that_must_not_be_read_is_refused(tmp_path, command, behind):
    run = healthy(tmp_path / "run", steps=30)
    (run / "records.jsonl").chmod(0)
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == tmp_path.owner() and path.name.startswith(("pytest", "test")):
            path.chmod(0o755)
    if behind == "a closed door":
        run.chmod(0)
    arguments = [sys.executable, "-c", AS_NOBODY, command, str(run), *READERS[command]]
    done = subprocess.run(arguments, capture_output=True, text=True, **environment())
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "cannot be read (Permission denied)" in done.stderr


# Shown: there is a run


@every_reader
def test_a_run_without_a_record_says_so(tmp_path, command):
    run = write(tmp_path / "run", [], {"reward_names": ["a"], "log_frequency": 10})
    result = read(command, run)
    if command == "show":
        assert "no record yet; the first comes after 10 steps" in result.stderr
    assert call_json("show", run)["step"] is None


@every_reader
@pytest.mark.parametrize("file", ["manifest.json", "records.jsonl"])
def test_a_file_of_a_run_stands_for_its_directory(command, file):
    assert read(command, run_dir() / file).stdout[:2000] == read(command, run_dir()).stdout[:2000]


@every_reader
@pytest.mark.parametrize("missing", ["manifest.json", "records.jsonl"])
def test_half_of_a_run_directory_is_a_run(tmp_path, command, missing):
    run = healthy(tmp_path / "run", steps=30)
    (run / missing).unlink()
    assert read(command, run)


@every_reader
def test_a_run_of_one_step_is_shown(tmp_path, command):
    assert bool(read(command, healthy(tmp_path / "run", steps=1)).stdout) == (command != "alerts")
    assert call_json("show", tmp_path / "run")["step"] == 0


@every_reader
def test_rewards_that_are_all_nan_are_shown_as_such(tmp_path, command):
    records = [
        dataclasses.replace(
            record,
            scalars={"a/nonfinite_count": 320.0},
            series={
                key: [None if isinstance(v, float) else v for v in values] for key, values in record.series.items()
            },
            histograms={},
        )
        for record in runs.records(steps=30, rewards=REWARDS, faults=False)
    ]
    run = write(tmp_path / "run", records)
    out = read(command, run).stdout
    assert "nan" not in out.lower().replace("nan or infinite", "") or command == "report"
    if command == "show":
        assert "n/a" in out


@every_reader
def test_a_record_without_series_and_names_is_shown(tmp_path, command):
    assert read(command, write(tmp_path / "run", [make_record(3)])) is not None


@every_reader
def test_numbers_at_the_end_of_what_a_float_holds_are_shown(tmp_path, command):
    numbers = [1e308, -1e308, 5e-324, -0.0] * 5
    series = {f"a/{key}": numbers for key in ("mean", "std", "min", "max", "ema_short", "ema_long")}
    record = make_record(
        19,
        names=("a",),
        scalars={"a/p10": -1e308, "a/p90": 1e308, "a/mean": 1e308},
        histograms={"a/histogram": Histogram([1, 2**62, 3], [-1e308, -1.0, 1.0, 1e308])},
        series={"step": list(range(20)), "a/count": [8] * 20, **series},
    )
    run = write(tmp_path / "run", [record])
    assert read(command, run)
    assert call_json("compare", run, healthy(tmp_path / "other", steps=30))["last_step"] == 19
    if command == "report":
        assert call_json("report", run, "--png")["written"]


@every_reader
def test_hostile_names_go_through(tmp_path, command):
    run = runs.write(tmp_path / "run", steps=30, names=runs.HOSTILE, rewards=len(runs.HOSTILE), faults=True)
    assert read(command, run)
    for name in runs.HOSTILE:
        assert call_json("alerts", run, "--reward", name)["alerts"] is not None


# Cut short

DIES = """
import os, signal, sys
from tests.host.report import runs
from tunrex_jax_monitor import JsonlSink
from tunrex_jax_monitor.host.record import Histogram

class Dies:
    def __init__(self, file): self.file = file
    def __getattr__(self, name): return getattr(self.file, name)
    def write(self, line):
        self.file.write(line[: len(line) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

sink = JsonlSink(sys.argv[1])
*whole, last = runs.records(steps=50, rewards=2)
sink.begin_run({"config": {"reward_names": list(last.names)}})
for record in whole:
    sink.write(record)
sink._file = Dies(sink._file)
sink.write(last)
"""


def test_every_reader_works_on_a_run_that_was_killed_in_mid_write(tmp_path):
    command = [sys.executable, "-c", DIES, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **environment())
    assert done.returncode == -signal.SIGKILL, done.stderr
    for name, more in READERS.items():
        result = spawn(name, tmp_path / "run", *more)
        assert result.returncode == 0, result.stderr
        assert "skipped a torn last line" in result.stderr
    assert json.loads(spawn("show", tmp_path / "run", "--json").stdout)["step"] == 39
    other = healthy(tmp_path / "other", steps=60, rewards=2)
    assert json.loads(spawn("compare", tmp_path / "run", other, "--json").stdout)["last_step"] == 39


# Output


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    run = healthy(tmp_path / "run", steps=30)
    code = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "from tunrex_jax_monitor.cli import commands\ncommands()"
    )
    before = sorted(path.name for path in run.iterdir())
    for arguments in (("report", str(run)), ("export", str(run), "--to", "csv")):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **environment())
        assert done.returncode == 2, done.stderr
        assert "cannot be written (File too large)" in done.stderr
    assert sorted(path.name for path in run.iterdir()) == before
