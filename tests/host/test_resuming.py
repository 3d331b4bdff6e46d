"""A run that was stopped goes on in its directory: every step once, in order, whatever was torn or computed again."""

import dataclasses
import json
import logging
import os
import shutil

import pytest

from tests.host.support import make_record, run_python
from tunrex_jax_monitor.host import resuming
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent
from tunrex_jax_monitor.host.rundir import read_manifest, read_records
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink

CONFIG = {"config": {"reward_names": ["a"]}}


def emission(first, last, value=0.0):
    """A record of the steps `first` to `last`, one value and one alert per step."""
    steps = list(range(first, last + 1))
    alerts = tuple(AlertEvent(step, "a", "DROP", "DROP: a", "look") for step in steps)
    series = {"step": steps, "a/mean": [value + step for step in steps]}
    return make_record(last, names=("a",), update=last + 1, series=series, alerts=alerts)


def write(run_dir, *records, **options):
    sink = JsonlSink(run_dir, **options)
    sink.begin_run(CONFIG)
    for record in records:
        sink.write(record)
    sink.close()


def steps_of(run_dir):
    return [step for record in read_records(run_dir) for step in record.series["step"]]


def test_a_directory_without_a_run_begins_one(tmp_path):
    write(tmp_path, emission(0, 9), resume=True)
    assert steps_of(tmp_path) == list(range(10))
    assert "resumed" not in read_manifest(tmp_path)


def test_a_run_goes_on_behind_its_last_record(tmp_path):
    write(tmp_path, emission(0, 9))
    write(tmp_path, emission(10, 19), resume=True)
    assert steps_of(tmp_path) == list(range(20))


@pytest.mark.parametrize("checkpoint", [4, 9, 13, 19])
def test_steps_computed_again_are_not_written_twice_and_none_is_missing(tmp_path, checkpoint, caplog):
    write(tmp_path, emission(0, 9), emission(10, 19))
    again = [emission(first, first + 9, value=1000.0) for first in range(checkpoint + 1, 41, 10)]
    write(tmp_path, *again, resume=True)
    assert steps_of(tmp_path) == list(range(again[-1].step + 1))
    assert len(caplog.messages) == (checkpoint < 10)
    history = History.read(tmp_path)
    assert history.series["a/mean"][:20] == [float(step) for step in range(20)]  # as they were logged first
    assert history.series["a/mean"][20:] == [1000.0 + step for step in range(20, again[-1].step + 1)]
    assert [alert.step for alert in history.alerts] == history.series["step"]


@pytest.mark.parametrize("where", ["move_away", "_copy"])
def test_a_return_that_is_interrupted_can_be_tried_again(tmp_path, monkeypatch, where):
    write(tmp_path, *(emission(first, first + 9) for first in (0, 10, 20, 30)))
    whole = getattr(resuming, where)

    def die_behind(*args):
        whole(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(resuming, where, die_behind)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, resume=24)
    assert steps_of(tmp_path) == list(range(40))  # nothing has happened yet
    write(tmp_path, emission(25, 34, value=1000.0), resume=24)
    assert steps_of(tmp_path) == list(range(35))
    assert History.read(tmp_path).series["a/mean"][23:26] == [23.0, 24.0, 1025.0]


@pytest.mark.parametrize("replaced", ["records.jsonl", "."])
def test_a_file_that_is_replaced_under_us_is_an_error(tmp_path, replaced):
    sink = JsonlSink(tmp_path / "run")
    sink.begin_run(CONFIG)
    sink.write(emission(0, 9))
    at = tmp_path / "run" / replaced
    copy = tmp_path / "copy"
    shutil.copytree(at, copy) if at.is_dir() else shutil.copy(at, copy)
    shutil.rmtree(at) if at.is_dir() else None
    os.replace(copy, at)
    with pytest.raises(FileNotFoundError, match=r"records\.jsonl somebody has removed or replaced"):
        sink.write(emission(10, 19))
    sink.close()


def test_a_torn_last_line_is_taken_away_before_the_run_goes_on(tmp_path, caplog):
    write(tmp_path, emission(0, 9), emission(10, 19))
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    write(tmp_path, emission(10, 19), emission(20, 29), resume=True)
    assert steps_of(tmp_path) == list(range(30))
    assert "took away a torn last line of" in caplog.text


@pytest.mark.parametrize("content", [b"", b'{"schema":1,"st', b"\x00" * 4096])
def test_a_run_without_a_whole_record_goes_on_from_nothing(tmp_path, content):
    (tmp_path / "records.jsonl").write_bytes(content)
    write(tmp_path, emission(0, 9), resume=True)
    assert steps_of(tmp_path) == list(range(10))


def test_lines_longer_than_a_block_are_found(tmp_path):
    long = make_record(7, names=("n" * 200_000,))
    write(tmp_path, long, long)
    write(tmp_path, make_record(7), make_record(8), resume=True)
    assert [record.step for record in read_records(tmp_path)] == [7, 7, 8]


def test_the_manifest_keeps_its_start_and_says_when_the_run_went_on(tmp_path):
    write(tmp_path, emission(0, 9))
    start = read_manifest(tmp_path)["start_time"]
    for _ in range(2):
        write(tmp_path, emission(10, 19), resume=True)
    manifest = read_manifest(tmp_path)
    assert manifest["start_time"] == start
    assert [entry["after_step"] for entry in manifest["resumed"]] == [9, 19]
    assert manifest["config"] == CONFIG["config"]


def test_a_record_without_begin_run_keeps_what_the_manifest_knows(tmp_path):
    write(tmp_path, emission(0, 9))
    sink = JsonlSink(tmp_path, resume=True)
    sink.write(emission(10, 19))
    sink.close()
    assert read_manifest(tmp_path)["config"] == CONFIG["config"]


def test_records_without_a_manifest_go_on_all_the_same(tmp_path):
    write(tmp_path, emission(0, 9))
    (tmp_path / "manifest.json").unlink()
    write(tmp_path, emission(5, 14), resume=True)
    assert steps_of(tmp_path) == list(range(15))


# Going back for good


@pytest.mark.parametrize("step", [9, 13, 19, 25])
def test_going_back_to_a_step_moves_away_what_was_logged_beyond(tmp_path, step, caplog):
    write(tmp_path, emission(0, 9), emission(10, 19), emission(20, 29))
    write(tmp_path, emission(step + 1, step + 10, value=1000.0), resume=step)
    assert steps_of(tmp_path) == list(range(step + 11))
    history = History.read(tmp_path)
    assert history.series["a/mean"][step + 1 :] == [1000.0 + at for at in range(step + 1, step + 11)]
    assert [alert.step for alert in history.alerts] == history.series["step"]
    away = [json.loads(line)["step"] for line in (tmp_path / f"abandoned-{step}.jsonl").read_bytes().splitlines()]
    assert away == [last for last in (9, 19, 29) if last > step]
    assert caplog.text.count("abandoned-") == 1


def test_going_back_twice_keeps_both_pasts(tmp_path):
    write(tmp_path, emission(0, 9), emission(10, 19))
    for value in (100.0, 200.0):
        write(tmp_path, emission(10, 19, value), resume=9)
    assert sorted(path.name for path in tmp_path.glob("abandoned*")) == ["abandoned-9-2.jsonl", "abandoned-9.jsonl"]
    assert steps_of(tmp_path) == list(range(20))


def test_a_part_of_an_interval_says_its_steps_and_no_scalars_of_the_whole(tmp_path):
    write(tmp_path, dataclasses.replace(emission(0, 9), counters={"a/nan": 2}))
    write(tmp_path, resume=3)
    (record,) = read_records(tmp_path)
    assert (record.step, record.update, record.scalars, record.counters) == (3, 4, {}, {})
    assert record.series["step"] == [0, 1, 2, 3]


def test_going_back_to_a_step_beyond_the_log_leaves_it(tmp_path, caplog):
    write(tmp_path, emission(0, 9))
    write(tmp_path, emission(10, 19), resume=200)
    assert steps_of(tmp_path) == list(range(20))
    assert caplog.messages == []


def test_a_step_to_go_back_to_without_a_run_is_told(tmp_path, caplog):
    write(tmp_path, emission(5, 9), resume=4)
    assert caplog.messages == [f"{tmp_path} holds no run to go back in to step 4; a new one begins."]


def renumbered(record, update):
    return dataclasses.replace(record, update=update)


@pytest.mark.parametrize("resume", [True, 200])
def test_updates_that_are_missing_between_log_and_state_are_told(tmp_path, caplog, resume):
    write(tmp_path, emission(0, 9))
    write(tmp_path, emission(20, 29), emission(30, 39), resume=resume)
    (message,) = caplog.messages
    assert "ends at step 9 and goes on at step 20; 10 updates" in message


@pytest.mark.parametrize("again", [False, True])
def test_a_state_that_is_not_that_of_the_run_is_told(tmp_path, caplog, again):
    write(tmp_path, emission(0, 9), emission(10, 19))
    replayed = [renumbered(emission(10, 19), 10)] if again else []  # of steps that are in the log
    write(tmp_path, *replayed, renumbered(emission(20, 29), 20 if again else 10), resume=True)
    told = [message for message in caplog.messages if "is not the state of this run" in message]
    assert len(told) == 1
    assert "20 updates up to step 19" in told[0]
    assert f"had seen {10 if again else 0}:" in told[0]
    assert steps_of(tmp_path) == list(range(30))


# Refusals


def test_a_run_of_other_rewards_is_refused_and_left_as_it_was(tmp_path):
    write(tmp_path, emission(0, 9))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    sink = JsonlSink(tmp_path, resume=3)
    with pytest.raises(ValueError, match=r"run_dir: .* holds a run of the rewards \['a'\], allowed: a run of \['b'\]"):
        sink.begin_run({"config": {"reward_names": ("b",)}})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write(tmp_path, resume=True)  # the refused one holds no lock


def test_a_damaged_last_line_is_refused(tmp_path):
    write(tmp_path, emission(0, 9))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b"no record\n")
    with pytest.raises(
        ValueError, match=r"records\.jsonl, byte \d+: got b'no record.*allowed one record of schema 1\. Restore"
    ):
        write(tmp_path, resume=True)


WRITES = """
sink = JsonlSink(sys.argv[1], resume=True)
try:
    sink.write(record(7))
except FileExistsError as error:
    print(error)
"""


def test_a_run_that_is_being_written_is_not_resumed(tmp_path):
    live = JsonlSink(tmp_path)
    live.write(emission(0, 9))
    assert "another reporter is writing" in run_python(WRITES, tmp_path).stdout
    live.close()


@pytest.mark.parametrize("resume", [None, "yes", 2.5, -1])
def test_a_resume_that_is_neither_a_truth_nor_a_step_is_refused(tmp_path, resume):
    done = run_python(f"JsonlSink(sys.argv[1], resume={resume!r})", tmp_path)
    assert f"ValueError: resume: got {resume!r}, allowed: True, False or a step from 0 on." in done.stderr


def test_resume_and_overwrite_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"resume: got 0 with overwrite=True, allowed: one of the two"):
        JsonlSink(tmp_path, overwrite=True, resume=0)


def test_a_run_removed_while_it_is_written_is_told_and_not_written_into_nothing(tmp_path):
    sink = JsonlSink(tmp_path / "run")
    sink.write(emission(0, 9))
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(
        FileNotFoundError, match=r"records\.jsonl somebody has removed or replaced, allowed .* Copy a run"
    ):
        sink.write(emission(10, 19))
    sink.close()


def test_a_run_moved_while_it_is_written_goes_with_the_directory(tmp_path):
    sink = JsonlSink(tmp_path / "run")
    sink.write(emission(0, 9))
    (tmp_path / "run").rename(tmp_path / "moved")
    sink.write(emission(10, 19))
    sink.close()
    assert steps_of(tmp_path / "moved") == list(range(20))


def test_going_on_says_so_at_info_only(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    write(tmp_path, emission(0, 9))
    write(tmp_path, emission(10, 19), resume=True)
    assert caplog.messages == []


def test_what_a_killed_process_left_half_written_goes_and_what_others_wrote_stays(tmp_path):
    write(tmp_path, *[emission(first, first + 9) for first in (0, 10)])
    ours = (".0123abcd.records.jsonl", ".0123abcd.manifest.json", ".0123abcd.abandoned-12.jsonl")
    others = (".0123abcd.mine.jsonl", ".records.jsonl", ".hidden.manifest.json")
    for name in (*ours, *others):
        (tmp_path / name).write_text("half")
    write(tmp_path, emission(20, 29), resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "records.jsonl", *others}
