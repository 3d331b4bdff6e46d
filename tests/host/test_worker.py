import logging
import threading
import time

import pytest

from tests.host.support import make_record, run_python
from tunrex_jax_monitor.host import worker as worker_module
from tunrex_jax_monitor.host import workers
from tunrex_jax_monitor.host.sinks.memory import MemorySink
from tunrex_jax_monitor.host.worker import SinkWorker


class Gated:
    """A sink that is stuck in its first write until `gate` is set; `entered` says that it is there."""

    def __init__(self, *, durable: bool = False) -> None:
        self.durable = durable
        self.entered, self.gate = threading.Event(), threading.Event()
        self.steps: list[int] = []
        self.closes = 0

    def write(self, record):
        self.entered.set()
        self.gate.wait()
        self.steps.append(record.step)

    def close(self):
        self.closes += 1


class Failing(MemorySink):
    """A sink whose every write from step `at` on raises, and whose close raises too."""

    def __init__(self, at: int = 0, error: BaseException | None = None) -> None:
        super().__init__()
        self.at = at
        self.error = error or RuntimeError("no network")
        self.closes = 0

    def write(self, record):
        if record.step >= self.at:
            raise self.error
        super().write(record)

    def close(self):
        self.closes += 1
        raise self.error


def put_steps(worker, steps):
    for step in steps:
        worker.put(make_record(step))


@pytest.fixture
def gated():
    sink = Gated()
    yield sink
    sink.gate.set()


def test_records_reach_the_sink_in_order_and_close_drains():
    sink = MemorySink()
    worker = SinkWorker(sink)
    put_steps(worker, range(1000))
    assert worker.close()
    assert [record.step for record in sink.records] == list(range(1000))
    assert worker.dropped == 0


def test_the_sink_is_used_from_one_thread_that_is_a_daemon_and_not_the_callers():
    threads = set()

    class Asks(MemorySink):
        def write(self, record):
            threads.add(threading.current_thread())

        def close(self):
            threads.add(threading.current_thread())

    worker = SinkWorker(Asks())
    put_steps(worker, range(3))
    assert worker.close()
    (thread,) = threads
    assert thread.daemon
    assert thread is not threading.current_thread()


def test_a_full_queue_drops_the_new_records_and_counts_them(gated, caplog):
    worker = SinkWorker(gated, capacity=3)
    put_steps(worker, [0])
    gated.entered.wait()
    put_steps(worker, range(1, 9))
    assert worker.dropped == 5
    gated.gate.set()
    assert worker.close()
    assert gated.steps == [0, 1, 2, 3]
    assert "Gated did not get 5 records" in caplog.text


def test_a_durable_sink_gets_every_record_whatever_the_capacity():
    sink = Gated(durable=True)
    worker = SinkWorker(sink, capacity=1)
    put_steps(worker, range(500))
    sink.gate.set()
    assert worker.close()
    assert sink.steps == list(range(500))
    assert worker.dropped == 0


def test_a_sink_that_raises_is_reported_once_with_its_traceback_and_closed(caplog):
    sink = Failing(at=2)
    told = []
    worker = SinkWorker(sink, on_failure=told.append)
    put_steps(worker, range(6))
    assert worker.close()
    assert [record.step for record in sink.records] == [0, 1]
    assert worker.dropped == 4
    assert sink.closes == 1
    assert told == [worker.error] == [sink.error]
    (report,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert report.getMessage().startswith(
        "Failing failed and is switched off (RuntimeError: no network); training goes"
    )
    assert "RuntimeError: no network" in caplog.text
    assert "in write" in caplog.text


def test_a_sink_may_say_what_it_is_called_and_an_error_without_a_text_is_named(caplog):
    sink = Failing(error=ConnectionResetError())
    sink.label = "The archive"
    worker = SinkWorker(sink)
    put_steps(worker, range(1))
    assert worker.close()
    assert "The archive failed and is switched off (ConnectionResetError); training goes on" in caplog.text
    assert "The archive did not get 1 records" in caplog.text


def test_an_error_without_a_text_that_can_be_read_is_told_all_the_same(caplog):
    class Unreadable(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    worker = SinkWorker(Failing(error=Unreadable()))
    put_steps(worker, range(1))
    assert worker.close()
    assert "Failing failed and is switched off (Unreadable); training goes on" in caplog.text


def test_a_sink_that_has_failed_takes_no_more_records():
    reported = threading.Event()
    worker = SinkWorker(Failing(), on_failure=lambda error: reported.set())
    put_steps(worker, [0])
    reported.wait()
    put_steps(worker, range(1, 4))
    assert worker.dropped >= 3
    assert worker.close()
    assert worker.dropped == 4


def test_a_close_that_raises_is_reported_once(caplog):
    sink = Failing(at=10)
    worker = SinkWorker(sink)
    put_steps(worker, range(3))
    assert worker.close()
    assert worker.close()
    assert worker.error is sink.error
    assert (len(sink.records), sink.closes, worker.dropped) == (3, 1, 0)
    assert caplog.text.count("Failing failed") == 1


def test_on_failure_that_raises_harms_nothing():
    def broken(error):
        raise RuntimeError("in the callback")

    sink = Failing()
    worker = SinkWorker(sink, on_failure=broken)
    put_steps(worker, range(3))
    assert worker.close()
    assert worker.dropped == 3
    assert sink.closes == 1


def test_a_logging_handler_that_raises_harms_nothing():
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("in the handler")

    handler = Broken(level=logging.ERROR)
    logging.getLogger("tunrex_jax_monitor").addHandler(handler)
    try:
        told = []
        worker = SinkWorker(Failing(), on_failure=told.append)
        put_steps(worker, range(3))
        assert worker.close()
    finally:
        logging.getLogger("tunrex_jax_monitor").removeHandler(handler)
    assert len(told) == 1
    assert worker.dropped == 3


def test_a_sink_that_calls_sys_exit_is_a_failure_like_any_other(caplog):
    worker = SinkWorker(Failing(at=1, error=SystemExit("bye")))
    put_steps(worker, range(5))
    assert worker.close()
    assert worker.dropped == 4
    assert caplog.text.count("\nRuntimeError: called sys.exit('bye')") == 1


def test_a_sink_that_hangs_costs_close_its_timeout_once_and_is_told_once(gated, caplog):
    worker = SinkWorker(gated)
    put_steps(worker, range(3))
    gated.entered.wait()
    assert not worker.close(timeout_seconds=0.01)
    assert not worker.close(timeout_seconds=100_000.0)
    assert caplog.messages == ["Gated is still busy after 0.01 s with 3 records to go; not waiting for it any longer"]


def test_a_sink_that_hangs_costs_flush_its_patience_once_and_is_counted(gated, caplog, monkeypatch):
    monkeypatch.setattr(worker_module, "_PATIENCE_SECONDS", 0.2)
    worker = SinkWorker(gated)
    put_steps(worker, range(3))
    gated.entered.wait()
    assert not worker.flush(0.1)
    assert worker.dropped == 0  # it may be slow
    assert not worker.flush(0.2)
    assert worker.dropped == 3
    assert not worker.flush(threading.TIMEOUT_MAX)  # would wait for ever
    (message,) = caplog.messages
    assert message == "Gated has written nothing for 0 s; it is not waited for until it goes on"
    gated.gate.set()
    worker.close()
    assert (gated.steps, worker.dropped) == ([0, 1, 2], 0)


def test_of_several_sinks_one_that_hangs_takes_no_time_from_the_others(gated):
    slow = Gated()
    both = [SinkWorker(gated), SinkWorker(slow)]
    for worker in both:
        put_steps(worker, range(1))
    threading.Timer(0.1, slow.gate.set).start()
    workers.flush(both, time.monotonic() + 1.0)
    assert (gated.steps, slow.steps) == ([], [0])


def test_a_sink_that_comes_back_after_the_timeout_still_writes_everything(gated):
    worker = SinkWorker(gated)
    put_steps(worker, range(3))
    assert not worker.close(timeout_seconds=0.0)
    gated.gate.set()
    worker._lane.join()
    assert worker.close()
    assert gated.steps == [0, 1, 2]
    assert gated.closes == 1


def test_put_after_close_is_counted_and_not_raised():
    sink = MemorySink()
    worker = SinkWorker(sink)
    assert worker.close()
    put_steps(worker, range(2))
    assert sink.records == []
    assert worker.dropped == 2


@pytest.mark.parametrize("sink", [Gated(durable=True), Gated(), Failing(at=0)], ids=["durable", "bounded", "failing"])
def test_every_record_of_many_threads_is_written_or_counted(sink):
    if isinstance(sink, Gated):
        sink.gate.set()
    worker = SinkWorker(sink, capacity=2)
    threads = [threading.Thread(target=put_steps, args=(worker, range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker.close()
    assert len(getattr(sink, "steps", ())) + worker.dropped == 2000


@pytest.mark.parametrize("capacity", [0, -1, True])
def test_a_bad_capacity_names_got_allowed_and_remedy(capacity):
    with pytest.raises(ValueError, match=rf"capacity: got {capacity}, allowed .* Leave it out"):
        SinkWorker(MemorySink(), capacity=capacity)


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf")])
def test_a_bad_timeout_names_got_allowed_and_remedy(timeout):
    worker = SinkWorker(MemorySink())
    with pytest.raises(ValueError, match=rf"timeout_seconds: got {timeout}, allowed 0 to .* Pass"):
        worker.close(timeout)
    assert worker.close()


@pytest.mark.parametrize("sink", ["MemorySink", "print", "None"])
def test_what_is_no_sink_is_refused(sink):
    done = run_python(f"SinkWorker({sink})")
    assert "TypeError: sink: got" in done.stderr
    assert "allowed an object with write(record) and close(). Pass an instance" in done.stderr


HANGS_FOR_EVER = """
import threading
class Hangs(MemorySink):
    def write(self, record): threading.Event().wait()

worker = SinkWorker(Hangs())
worker.put(record(0))
print(worker.close(0.01))
"""


def test_a_process_whose_sink_hangs_for_ever_still_exits():
    done = run_python(HANGS_FOR_EVER)
    assert (done.returncode, done.stdout) == (0, "False\n")
    assert done.stderr.count("Hangs is still busy") == 1


INTERRUPTED = """
import os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it
gate = threading.Event()
class Interrupts(MemorySink):
    def close(self):
        os.kill(os.getpid(), signal.SIGINT)
        gate.wait()

sink = Interrupts()
worker = SinkWorker(sink)
worker.put(record(0))
try:
    worker.close()
except KeyboardInterrupt:
    print("interrupted")
gate.set()
print(worker.close(), len(sink.records), worker.dropped)
"""


def test_close_may_be_interrupted_and_called_again():
    done = run_python(INTERRUPTED)
    assert (done.stdout, done.stderr) == ("interrupted\nTrue 1 0\n", "")


FORKS = """
import os, warnings
warnings.simplefilter("ignore")
sink = MemorySink()
worker = SinkWorker(sink)
worker.put(record(0))
child = os.fork()
if child == 0:
    worker.put(record(1))
    os._exit(0 if worker.close() is False and worker.dropped == 1 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), worker.close(), len(sink.records))
"""


def test_a_forked_child_neither_writes_nor_waits():
    done = run_python(FORKS)
    assert (done.stdout, done.stderr) == ("0 True 1\n", "")
