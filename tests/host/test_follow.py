"""Following a file that another process writes: whatever happens to it, each whole record is told once and in order."""

import os

import pytest

from tests.host.support import make_record
from tunrex_jax_monitor.host.follow import Follower

LINES = [make_record(step).to_json().encode() + b"\n" for step in range(8)]


def append(run_dir, *pieces):
    run_dir.mkdir(exist_ok=True)
    with (run_dir / "records.jsonl").open("ab") as file:
        file.write(b"".join(pieces))


def steps(news):
    return [record.step for record in news.records]


def test_records_come_once_and_in_order(tmp_path):
    follower = Follower(tmp_path)
    append(tmp_path, *LINES[:2])
    assert steps(follower.poll()) == [0, 1]
    assert not follower.poll()
    append(tmp_path, *LINES[2:5])
    assert steps(follower.poll()) == [2, 3, 4]


def test_a_run_that_has_not_begun_is_no_news(tmp_path):
    follower = Follower(tmp_path / "later")
    assert not follower.poll()
    append(tmp_path / "later")
    assert not follower.poll()
    append(tmp_path / "later", LINES[0])
    news = follower.poll()
    assert (steps(news), news.restarted) == ([0], False)


@pytest.mark.parametrize("cut", [1, 40, len(LINES[1]) - 1])
def test_a_torn_line_is_read_when_it_is_whole(tmp_path, cut):
    follower = Follower(tmp_path)
    append(tmp_path, LINES[0], LINES[1][:cut])
    assert steps(follower.poll()) == [0]
    append(tmp_path, LINES[1][cut:])
    news = follower.poll()
    assert (steps(news), news.damaged) == ([1], 0)


def test_a_line_that_is_no_record_is_counted_and_the_next_is_read(tmp_path):
    follower = Follower(tmp_path)
    append(tmp_path, LINES[0], b"garbage\n", b'{"schema":99}\n', b"\xff\n", LINES[1])
    news = follower.poll()
    assert (steps(news), news.damaged) == ([0, 1], 3)


def test_a_file_that_was_replaced_is_read_from_its_start(tmp_path):
    follower = Follower(tmp_path)
    append(tmp_path, *LINES[:2])
    follower.poll()
    (tmp_path / "new").write_bytes(LINES[5])
    os.replace(tmp_path / "new", tmp_path / "records.jsonl")
    news = follower.poll()
    assert (steps(news), news.restarted) == ([5], True)


@pytest.mark.parametrize("count", [1, 4], ids=["shorter", "longer than before"])
def test_a_file_that_was_written_anew_is_read_from_its_start(tmp_path, count):
    follower = Follower(tmp_path)
    append(tmp_path, *LINES[:2])
    follower.poll()
    os.truncate(tmp_path / "records.jsonl", 0)  # as JsonlSink(overwrite=True) does
    append(tmp_path, *LINES[4 : 4 + count])
    news = follower.poll()
    assert (steps(news), news.restarted) == ([*range(4, 4 + count)], True)


def test_half_a_line_of_the_run_before_is_forgotten(tmp_path):
    follower = Follower(tmp_path)
    append(tmp_path, LINES[0], LINES[1][:50])
    follower.poll()
    os.truncate(tmp_path / "records.jsonl", 0)
    follower.poll()
    append(tmp_path, LINES[4])
    assert steps(follower.poll()) == [4]


def test_a_file_that_goes_away_and_comes_back_is_another_run(tmp_path):
    follower = Follower(tmp_path)
    append(tmp_path, LINES[0])
    follower.poll()
    (tmp_path / "records.jsonl").unlink()
    assert not follower.poll()
    append(tmp_path, LINES[3], LINES[4])
    news = follower.poll()
    assert (steps(news), news.restarted) == ([3, 4], True)
