"""What the tests of the reporter share: one stream of rewards, its truth in NumPy, and a loop over it."""

import contextlib
import dataclasses
import functools
import threading

import jax
import numpy as np

from tests.device.support import EVERYTHING, batch
from tunrex_jax_monitor import MemorySink, Reporter

ACC = EVERYTHING  # emits every 4 steps
EVERY = ACC.log_frequency


@functools.cache
def stacked(steps):
    """The rewards of all steps, [steps, B, G] each, as a scan takes them."""
    return {name: np.stack([batch(step)[name] for step in range(steps)]) for name in ACC.reward_names}


def run_loop(reporter, steps, *, mon=None, first=0):
    """A training loop that donates the state; returns the last one."""
    mon = ACC.init() if mon is None else mon
    for step in range(steps):
        mon = ACC.update_jit(mon, batch(step))
        mon = reporter.step(first + step, mon)
    return mon


@functools.cache
def pulled(steps):
    """What the pull path records of the stream."""
    sink = MemorySink()
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, steps)
    return sink.records


@functools.cache
def packed(steps):
    """The words of each emission of the stream, as numpy."""
    words, mon = [], ACC.init()
    pack, reset = jax.jit(ACC.pack), jax.jit(ACC.reset_interval)
    for step in range(steps):
        mon = ACC.update_jit(mon, batch(step))
        if (step + 1) % EVERY == 0:
            words.append(np.asarray(pack(mon)))
            mon = reset(mon)
    return words


def numbered(count, first=0):
    """`count` emissions made of one, told apart by their update count alone."""
    rows = np.tile(packed(EVERY)[0], (count, 1))
    rows[:, 1] = rows[:, 2] = first + EVERY * np.arange(1, count + 1)
    return rows


def updates(records):
    return [record.update for record in records]


def plain(record):
    """The record without what differs between two runs of the same stream."""
    scalars = {key: value for key, value in record.scalars.items() if key != "monitoring/overhead_ms"}
    return dataclasses.replace(record, time=0.0, scalars=scalars)


def assert_same_records(found, expected):
    """Equal but for time, and for the last bits of floats: another program rounds elsewhere."""
    assert updates(found) == updates(expected)
    for a, b in zip(map(plain, found), map(plain, expected), strict=True):
        assert (a.step, a.names, a.counters, a.histograms) == (b.step, b.names, b.counters, b.histograms)
        assert [(e.step, e.reward, e.type) for e in a.alerts] == [(e.step, e.reward, e.type) for e in b.alerts]
        assert a.scalars.keys() == b.scalars.keys()
        assert a.series.keys() == b.series.keys()
        np.testing.assert_allclose([*a.scalars.values()], [*b.scalars.values()], rtol=1e-5, atol=1e-6)
        for key, values in a.series.items():
            np.testing.assert_allclose(values, b.series[key], rtol=1e-5, atol=1e-6, err_msg=key)


@contextlib.contextmanager
def held(reporter):
    """Keep the reporter's own thread from building anything."""
    entered, gate = threading.Event(), threading.Event()
    reporter._builder.run(lambda: entered.set() or gate.wait())
    entered.wait()
    try:
        yield
    finally:
        gate.set()
