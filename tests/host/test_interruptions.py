"""An owner's signal handler may raise in the middle of the reporter: what is logged is the steps, once each."""

import contextlib
import signal
import sys

import jax
import numpy as np
import pytest

from tunrex_jax_monitor import MemorySink, Reporter, RewardAccumulator
from tunrex_jax_monitor.host import builder, lane, latch, pending, preemption, reporter, workers

EVERY = 3
ACC = RewardAccumulator(("x",), log_frequency=EVERY, window_size=16)
FILES = {module.__file__ for module in (builder, lane, latch, pending, preemption, reporter, workers)}
NOTHING = contextlib.nullcontext()
UNREACHABLE = ("begin", "_hand_over")  # a signal is seen to at calls and in loops, and there are none any more
UPDATE = {"donated": ACC.update_jit, "kept": jax.jit(ACC.update)}


class Preempted(Exception):
    """What the owner's handler raises."""


def raise_preempted(signum, frame):
    raise Preempted


def raise_preempted_once(signum, frame):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    raise Preempted


@pytest.fixture(autouse=True)
def handler():
    before = signal.signal(signal.SIGUSR1, raise_preempted)
    yield
    signal.signal(signal.SIGUSR1, before)


class Interruption:
    """Sends the signal when the `count`-th line of the reporter's files is about to run; `line` is None before."""

    def __init__(self, count):
        self.count, self.line = count, None

    def __enter__(self):
        sys.settrace(self.trace)

    def __exit__(self, *_):
        sys.settrace(None)

    def trace(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.count -= 1
            if not self.count:
                sys.settrace(None)
                self.line = f"{frame.f_code.co_name}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGUSR1)
        return self.trace


def rows_of(sink):
    """(step, mean) of every step in the log; the two are the same where it is right."""
    return [row for r in sink.records for row in zip(r.series["step"], r.series["x/mean"], strict=True)]


def updated(how, mon, step):
    return UPDATE[how](mon, {"x": np.full(4, step, np.float32)})


def every_line(run):
    """Call `run` with an interruption at each line in turn; yields the place and what `run` returned."""
    for count in range(1, 1000):
        interruption = Interruption(count)
        found = run(interruption)
        if interruption.line is None:
            break
        yield interruption.line, found
    assert count > 8


@pytest.mark.parametrize("how", UPDATE)
@pytest.mark.parametrize("at", [6, 8])  # in the middle of an interval, and where it ends
def test_a_loop_that_ends_there_has_every_step(how, at, caplog):
    def run(interruption):
        sink = MemorySink()
        with pytest.raises(Preempted) if interruption.count < 20 else contextlib.suppress(Preempted):
            with Reporter(ACC, [sink]) as reporter:
                mon = ACC.init()
                for step in range(at):
                    mon = reporter.step(step, updated(how, mon, step))
                mon = updated(how, mon, at)
                with interruption:
                    mon = reporter.step(at, mon)
        return sink

    for number, (place, sink) in enumerate(every_line(run)):
        if number < 2:  # the step is not there yet, and its state is the owner's alone
            assert rows_of(sink) == [(step, step) for step in range(6 if how == "donated" else at)]
        else:
            assert rows_of(sink) == [(step, step) for step in range(at + 1)], place
            assert "x/run/p50" in sink.records[-1].scalars
            assert sink.records[-1].update == at + 1
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


@pytest.mark.parametrize("how", UPDATE)
@pytest.mark.parametrize(("at", "call"), [(7, "step"), (8, "step"), (7, "flush"), (8, "flush")])
def test_a_loop_that_goes_on_has_every_step_once(how, at, call):
    """But for the oldest of an interval that was about to be emitted: the trace has room for no more."""

    def run(interruption):
        sink = MemorySink()
        with Reporter(ACC, [sink]) as reporter:
            mon = ACC.init()
            for step in range(14):
                mon = updated(how, mon, step)
                with contextlib.suppress(Preempted), interruption if (step, call) == (at, "step") else NOTHING:
                    mon = reporter.step(step, mon)
                if (step, call) == (at, "flush"):
                    with contextlib.suppress(Preempted), interruption:
                        mon = reporter.flush(mon)
        return sink

    for number, (place, sink) in enumerate(every_line(run)):
        if (call == "step" and number < 2) or place.startswith(UNREACHABLE):
            continue
        missing = {6} if (at, call) == (8, "step") and len(rows_of(sink)) == 13 else set()
        assert rows_of(sink) == [(step, step) for step in range(14) if step not in missing], place


@pytest.mark.parametrize("at", [7, 8])
def test_what_a_handler_raises_comes_out_also_where_it_has_taken_itself_away(at, caplog):
    def run(interruption):
        signal.signal(signal.SIGUSR1, raise_preempted_once)
        came_out = False
        with Reporter(ACC, [MemorySink()]) as reporter:
            mon = ACC.init()
            for step in range(at):
                mon = reporter.step(step, updated("donated", mon, step))
            mon = updated("donated", mon, at)
            try:
                with interruption:
                    reporter.step(at, mon)
            except Preempted:
                came_out = True
        return came_out

    for place, came_out in every_line(run):
        assert came_out, place
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


@pytest.mark.parametrize("how", UPDATE)
@pytest.mark.parametrize("at", [7, 8])
def test_a_handler_that_flushes_within_a_step_costs_none(how, at, caplog):
    """It runs in the middle of the call, and may read and emit what that is about to."""

    def run(interruption):
        sink = MemorySink()
        with Reporter(ACC, [sink]) as reporter:
            signal.signal(signal.SIGUSR1, lambda *_: reporter.flush())
            mon = ACC.init()
            for step in range(14):
                mon = updated(how, mon, step)
                with interruption if step == at else NOTHING:
                    mon = reporter.step(step, mon)
        return sink

    for place, sink in every_line(run):
        assert rows_of(sink) == [(step, step) for step in range(14)], place
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("how", "at", "call", "times"),
    [
        ("donated", 7, "step", 1),
        ("kept", 8, "step", 1),
        ("kept", 7, "step", 2),
        ("donated", 8, "step", 2),
        ("donated", 7, "flush", 2),
        ("kept", 13, "close", 2),
    ],
)
def test_a_handler_that_emits_counts_no_step_twice(how, at, call, times, caplog):
    """As before a checkpoint. What is interrupted goes on with the state that the handler's emission left."""

    def run(interruption):
        sink, mon = MemorySink(), ACC.init()

        def emit(signum, frame):
            nonlocal mon
            for _ in range(times):
                mon = reporter.flush(mon)

        with Reporter(ACC, [sink]) as reporter:
            signal.signal(signal.SIGUSR1, emit)
            for step in range(14):
                mon = updated(how, mon, step)
                with interruption if (step, call) == (at, "step") else NOTHING:
                    mon = reporter.step(step, mon)
                if (step, call) == (at, "flush"):
                    with interruption:
                        mon = reporter.flush(mon)
            if call == "close":
                with interruption:
                    reporter.close(mon)
        return sink

    for number, (place, sink) in enumerate(every_line(run)):
        if call == "close":  # told where the handler comes behind it
            caplog.clear()
        if (call == "step" and number < 2) or place.startswith(UNREACHABLE):  # the step is not there yet, or overlaps
            caplog.clear()
            continue
        assert rows_of(sink) == [(step, step) for step in range(14)], place
        counts = {record.update: record.scalars["x/interval/count"] for record in sink.records}
        assert sum(counts.values()) == 4 * 14, place
    assert [r.getMessage() for r in caplog.records if r.levelname in ("ERROR", "WARNING")] == []


def test_a_handler_that_emits_while_a_program_is_traced_leaves_no_trace_in_it(caplog):
    sink, mon = MemorySink(), ACC.init()

    def emit(signum, frame):
        nonlocal mon
        mon = reporter.flush(mon)

    @jax.jit
    def evaluate(x):
        signal.raise_signal(signal.SIGUSR1)
        return x + 1

    with Reporter(ACC, [sink]) as reporter:
        signal.signal(signal.SIGUSR1, emit)
        for step in range(5):
            mon = reporter.step(step, updated("donated", mon, step))
        evaluate(1.0)
        for step in range(5, 14):
            mon = reporter.step(step, updated("donated", mon, step))
        assert jax.jit(lambda x: evaluate(x))(1.0) == 2.0  # what was traced holds no array that is donated by now
    assert rows_of(sink) == [(step, step) for step in range(14)]
    assert caplog.messages == []


@pytest.mark.parametrize("given", [True, False])
def test_a_close_that_is_interrupted_may_be_called_again(given):
    def run(interruption):
        sink, mon = MemorySink(), ACC.init()
        reporter = Reporter(ACC, [sink])
        for step in range(14):
            mon = reporter.step(step, updated("donated", mon, step))
        with contextlib.suppress(Preempted), interruption:
            reporter.close(mon if given else None)
        reporter.close(mon if given else None)
        return sink

    for place, sink in every_line(run):
        assert rows_of(sink) == [(step, step) for step in range(14)], place
        assert "x/run/p50" in sink.records[-1].scalars
