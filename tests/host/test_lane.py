"""A lane works in order on a thread of its own; where the process takes no more threads, in `put`."""

import threading
import time

import pytest

from tests.host.support import run_python
from tunrex_jax_monitor.host.lane import Lane
from tunrex_jax_monitor.host.latch import Latch


def refuse(message):
    def start(self):
        raise RuntimeError(message)

    return start


@pytest.fixture(params=["thread", "ending"])
def done(request, monkeypatch):
    """What a lane did, and the thread it did it on."""
    if request.param == "ending":
        monkeypatch.setattr(threading.Thread, "start", refuse("can't create new thread at interpreter shutdown"))
    return []


def test_items_are_worked_through_in_order_and_the_end_comes_behind_them(done):
    lane = Lane(done.append, "lane", lambda: done.append("end"))
    assert lane.is_alive()
    for n in range(100):
        lane.put(n)
    lane.end()
    assert lane.join(30.0)
    assert not lane.is_alive()
    lane.put("late")
    assert done == [*range(100), "end"]
    assert list(lane.leftovers()) == ["late"]


def test_a_mark_is_waited_for_until_the_end_and_not_behind_it():
    lane = Lane(lambda mark: mark.set(), "lane")
    lane.put(before := Latch())
    assert lane.wait_for(before, 30.0)
    lane.end()
    lane.put(behind := Latch())
    start = time.monotonic()
    assert not lane.wait_for(behind, 3600.0)
    assert time.monotonic() - start < 1800.0


def test_put_does_not_wait_for_the_work():
    gate, done = threading.Event(), threading.Event()
    lane = Lane(lambda _: (gate.wait(30.0), done.set()), "lane")
    lane.put(0)
    assert not done.is_set()
    gate.set()
    assert done.wait(30.0)


def test_too_many_threads_are_no_end_of_the_process(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", refuse("can't start new thread"))
    with pytest.raises(RuntimeError, match="new thread"):
        Lane(print, "lane")


def test_a_worker_that_begins_when_the_process_ends_writes_all():
    code = """
import atexit
def write():
    worker = SinkWorker(sink := MemorySink())
    for step in range(3):
        worker.put(record(step))
    print(worker.flush(30.0), worker.close(30.0), [r.step for r in sink.records], worker.dropped)
atexit.register(write)
"""
    assert run_python(code).stdout == "True True [0, 1, 2] 0\n"
