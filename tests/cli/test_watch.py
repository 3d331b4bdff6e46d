"""`watch` as a process, while this one writes the run."""

import contextlib
import json
import signal
import subprocess
import time

import pytest

from tests.cli.support import call, command, environment, export_file
from tests.host.support import make_record
from tunrex_jax_monitor import JsonlSink
from tunrex_jax_monitor.host.record import AlertEvent

ALERT = AlertEvent(2, "a", "DROP", "DROP: a - fell", "Look.", 0.1, 0.5)


def record(step, **fields):
    scalars = {"a/ema_short": 0.25 * step, "frac_reward_zero_std": 0.5}
    return make_record(step, names=("a",), scalars=scalars, **fields)


@contextlib.contextmanager
def watching(*arguments):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()["env"]}
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job ignores it, and so would a child
    try:
        process = subprocess.Popen(command("watch", *arguments, "--every", "0.1"), **options)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(process):
    """Press Ctrl-C, and return the exit status and what came on stderr."""
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def test_lines_follow_a_run_from_before_its_beginning_to_ctrl_c(tmp_path):
    with watching(tmp_path / "run") as process:
        assert "waiting for a run" in process.stderr.readline()
        sink = JsonlSink(tmp_path / "run")
        sink.write(record(1))
        assert process.stdout.readline() == "step 1  a=0.25  zero variance=50 %\n"
        sink.write(record(2, alerts=(ALERT,)))
        assert process.stdout.readline() == "step 2  a=0.5  zero variance=50 %\n"
        assert process.stdout.readline() == "ALERT  step 2  DROP: a - fell\n"
        sink.close()
        code, stderr = interrupt(process)
    assert (code, stderr) == (0, "")


def test_the_last_step_is_told_once_where_a_run_ends_with_its_quantiles(tmp_path):
    with contextlib.closing(JsonlSink(tmp_path)) as sink:
        for step in (1, 2, 2, 3):
            sink.write(record(step))
    with watching(tmp_path) as process:
        assert [process.stdout.readline().split()[1] for _ in range(3)] == ["1", "2", "3"]
        assert interrupt(process)[0] == 0


def test_a_run_that_is_written_anew_goes_on_and_a_torn_line_becomes_whole(tmp_path):
    sink = JsonlSink(tmp_path / "run")
    sink.write(record(1))
    with watching(tmp_path / "run") as process:
        assert process.stdout.readline().startswith("step 1 ")
        sink.close()
        sink = JsonlSink(tmp_path / "run", overwrite=True)
        sink.write(record(7))
        sink.close()
        assert process.stdout.readline().startswith("step 7 ")
        line = record(8).to_json() + "\n"
        with (tmp_path / "run" / "records.jsonl").open("a") as file:
            file.write(line[:60])
            file.flush()
            time.sleep(0.3)
            file.write(line[60:])
        assert process.stdout.readline().startswith("step 8 ")
        assert interrupt(process) == (0, f"another run: {tmp_path / 'run'}\n")


def test_a_newer_run_in_a_directory_of_runs_takes_over(tmp_path):
    with watching(tmp_path, "--json") as process:
        for at, name in enumerate(("first", "a_second")):
            sink = JsonlSink(tmp_path / name)
            sink.begin_run({"start_time": float(at)})
            sink.write(record(at))
            if at:
                assert json.loads(process.stdout.readline()) == {
                    "schema": 1,
                    "event": "run",
                    "run": str(tmp_path / name),
                }
            assert json.loads(process.stdout.readline())["step"] == at
            sink.close()
        assert interrupt(process)[0] == 0


def test_json_lines_hold_records_and_alerts(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.write(record(2, alerts=(ALERT,)))
    sink.close()
    with watching(tmp_path, "--json") as process:
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert interrupt(process)[0] == 0
    assert (first["event"], first["step"], first["scalars"]["a/ema_short"]) == ("record", 2, 0.5)
    assert second == {"schema": 1, "event": "alert", **vars(ALERT)}


TEXT_FOR_A_NUMBER = record(1).to_json().replace('"a/ema_short":0.25', '"a/ema_short":"high"')


@pytest.mark.parametrize("line", ["garbage", TEXT_FOR_A_NUMBER])
def test_what_is_no_record_is_told_and_left_out(tmp_path, line):
    (tmp_path / "records.jsonl").write_text(f"{line}\n{record(3).to_json()}\n")
    with watching(tmp_path) as process:
        assert process.stdout.readline().startswith("step 3 ")
        assert interrupt(process) == (0, f"{tmp_path}: left out 1 line of another form than a record's\n")


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path):
    with watching(tmp_path) as process:
        process.stdout.close()
        sink = JsonlSink(tmp_path)
        for step in range(3):
            sink.write(record(step))
            time.sleep(0.2)
        sink.close()
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_file_is_refused(tmp_path):
    assert (
        "a file does not go on" in call("watch", export_file(tmp_path / "monitoring_data.json"), code=2).stderr.lower()
    )
