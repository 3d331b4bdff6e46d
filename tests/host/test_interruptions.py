"""An owner's signal handler may raise in the middle of `Reporter.step`; the log is that of the steps, once each."""

import sys

import jax
import numpy as np
import pytest

from tunrex_jax_monitor import MemorySink, Reporter, RewardAccumulator
from tunrex_jax_monitor.host import builder, pending, reporter

ACC = RewardAccumulator(("x",), log_frequency=3, window_size=16)
FILES = {module.__file__ for module in (builder, pending, reporter)}
UPDATE = {"donated": ACC.update_jit, "kept": jax.jit(ACC.update)}


class Stop(BaseException):
    """What the handler raises."""


class Tracer:
    """Raises when the `count`-th line of the reporter's files is about to run; `line` is None before."""

    def __init__(self, count):
        self.count, self.line = count, None

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.count -= 1
            if not self.count:
                sys.settrace(None)
                self.line = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise Stop
        return self


def interrupt(update, at, count):
    """Run to step `at`, and interrupt its call; return the tracer, and (step, mean) of what was logged."""
    sink, tracer = MemorySink(), Tracer(count)
    try:
        with Reporter(ACC, [sink]) as reporter:
            mon = ACC.init()
            for step in range(at + 1):
                mon = update(mon, {"x": np.full(4, step, np.float32)})
                if step == at:
                    sys.settrace(tracer)
                mon = reporter.step(step, mon)
            sys.settrace(None)
    except Stop:
        pass
    rows = [row for r in sink.records for row in zip(r.series["step"], r.series["x/mean"], strict=True)]
    return tracer, rows, sink.records


@pytest.mark.parametrize("how", UPDATE)
@pytest.mark.parametrize("at", [6, 8])  # in the middle of an interval, and where it ends
def test_no_line_of_the_reporter_loses_or_repeats_a_step(how, at, caplog):
    lines = []
    for count in range(1, 200):
        tracer, rows, records = interrupt(UPDATE[how], at, count)
        if tracer.line is None:
            break
        lines.append(tracer.line)
        if lines.index(tracer.line) < 2:  # the step is not there yet, and its state is the owner's alone
            assert rows == [(step, step) for step in range(6 if how == "donated" else at)]
        else:
            assert rows == [(step, step) for step in range(at + 1)], tracer.line
            assert "x/run/p50" in records[-1].scalars
            assert records[-1].update == at + 1
    assert lines[0].startswith("step:")
    assert lines[1].startswith("add:")
    assert len(lines) > 20
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


@pytest.mark.parametrize("count", range(3, 60, 4))
def test_a_loop_that_goes_on_behind_an_interruption_has_every_step(count):
    sink, tracer = MemorySink(), Tracer(count)
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for step in range(12):
            mon = UPDATE["donated"](mon, {"x": np.full(4, step, np.float32)})
            try:
                if step == 7:
                    sys.settrace(tracer)
                mon = reporter.step(step, mon)
            except Stop:
                pass
            finally:
                sys.settrace(None)
    rows = [row for r in sink.records for row in zip(r.series["step"], r.series["x/mean"], strict=True)]
    assert rows == [(step, step) for step in range(12)]
