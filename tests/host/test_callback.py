"""The path for loops that the host never sees: `update_and_emit`, and what `reporter.callback` makes of its words."""

import logging
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.device.support import batch
from tests.host.streams import ACC, EVERY, assert_same_records, held, numbered, packed, pulled, stacked, updates
from tunrex_jax_monitor import MemorySink, Reporter
from tunrex_jax_monitor.host import builder

STEPS = 10


@pytest.fixture
def sink():
    return MemorySink()


@pytest.fixture
def reporter(sink):
    with Reporter(ACC, [sink]) as reporter:
        yield reporter


def at(step):
    """The rewards of a traced step."""
    return {name: jnp.asarray(x)[step] for name, x in stacked(STEPS).items()}


def emit_scan(callback, rewards=None):
    """The whole run in one scan; returns the last state."""

    def body(mon, x):
        return ACC.update_and_emit(mon, x, callback), None

    return jax.lax.scan(body, ACC.init(), stacked(STEPS) if rewards is None else rewards)[0]


def finish(reporter, mon=None):
    reporter.close(mon)
    return reporter


# In each kind of program, the same records


def test_in_jit(reporter, sink):
    step = jax.jit(partial(ACC.update_and_emit, callback=reporter.callback), donate_argnums=0)
    mon = ACC.init()
    for i in range(STEPS):
        mon = step(mon, batch(i))
    finish(reporter, mon)
    assert_same_records(sink.records, pulled(STEPS))


def test_in_a_scan_over_the_whole_run(reporter, sink):
    finish(reporter, jax.jit(emit_scan, static_argnums=0)(reporter.callback))
    assert_same_records(sink.records, pulled(STEPS))


def test_in_a_fori_loop(reporter, sink):
    @jax.jit
    def run():
        return jax.lax.fori_loop(
            0, STEPS, lambda i, mon: ACC.update_and_emit(mon, at(i), reporter.callback), ACC.init()
        )

    finish(reporter, run())
    assert_same_records(sink.records, pulled(STEPS))


def test_in_a_while_loop(reporter, sink):
    def body(carry):
        i, mon = carry
        return i + 1, ACC.update_and_emit(mon, at(i), reporter.callback)

    @jax.jit
    def run():
        return jax.lax.while_loop(lambda carry: carry[0] < STEPS, body, (jnp.int32(0), ACC.init()))[1]

    finish(reporter, run())
    assert_same_records(sink.records, pulled(STEPS))


def test_under_vmap_the_records_are_those_of_one_seed_and_the_others_are_counted(reporter, sink, caplog):
    """There the condition becomes a select: the callback fires at every step, for every seed."""
    seeds = {name: jnp.stack([x, -x]) for name, x in stacked(STEPS).items()}
    jax.jit(jax.vmap(partial(emit_scan, reporter.callback)))(seeds)
    finish(reporter)
    for record in sink.records:
        record.scalars["monitoring/dropped_records"] = 0.0
    assert_same_records(sink.records, pulled(STEPS)[:2])
    assert reporter._builder.dropped == 2
    assert "another seed" in caplog.text


@pytest.mark.parametrize("second", [8, 20])
def test_a_second_run_through_the_same_callback_is_counted_and_told(reporter, sink, caplog, second):
    step = jax.jit(partial(ACC.update_and_emit, callback=reporter.callback), donate_argnums=0)
    for steps, sign in ((8, 1), (second, -1)):
        mon = ACC.init()
        for i in range(steps):
            mon = step(mon, {name: sign * value for name, value in batch(i).items()})
    finish(reporter)
    assert [record.step for record in sink.records] == [3, 7, *range(11, second, 4)]
    assert reporter._builder.dropped == 2
    assert "A second run" in caplog.text


def test_under_grad_of_a_scan_with_remat_each_emission_is_recorded_once(reporter, sink):
    """Every emission comes again when all have been there, and may be rounded in another way."""

    @jax.checkpoint
    def body(mon, x):
        rewards = {name: jax.lax.stop_gradient(value) for name, value in x.items()}
        return ACC.update_and_emit(mon, rewards, reporter.callback), sum(jnp.sum(jnp.sin(v)) for v in x.values())

    def loss(scale):
        mon, losses = jax.lax.scan(body, ACC.init(), {k: v * scale for k, v in stacked(10 * STEPS).items()})
        return jnp.sum(losses), mon

    jax.jit(jax.grad(loss, has_aux=True))(jnp.float32(1.0))
    finish(reporter)
    assert_same_records(sink.records, pulled(10 * STEPS)[:25])
    assert reporter._builder.dropped == 0


def test_under_remat_and_grad_each_emission_is_recorded_once(reporter, sink):
    calls = []
    callback = reporter.callback

    def counted(words):
        calls.append(1)
        callback(words)

    @jax.checkpoint
    def loss(scale, mon, x):
        loss = sum(jnp.sum(jnp.sin(value * scale)) for value in x.values())
        rewards = {name: jax.lax.stop_gradient(value * scale) for name, value in x.items()}
        return loss, ACC.update_and_emit(mon, rewards, counted)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    mon = ACC.init()
    for i in range(STEPS):
        (_, mon), slope = step(jnp.float32(1.0), mon, batch(i))
    assert np.isfinite(slope)
    finish(reporter, mon)
    assert len(calls) > 2
    assert_same_records(sink.records, pulled(STEPS))


def test_in_shard_map_over_two_devices(reporter, sink):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))

    @partial(jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=PartitionSpec())
    def step(mon, x):
        return ACC.update_and_emit(mon, x, reporter.callback, axis_name="data")

    step = jax.jit(step)
    mon = ACC.init()
    for i in range(STEPS):
        mon = step(mon, batch(i))
    finish(reporter, mon)
    assert_same_records(sink.records, pulled(STEPS))


def test_the_pull_path_over_two_devices_gives_the_same_records(reporter, sink):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))

    @partial(jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=PartitionSpec())
    def step(mon, x):
        return ACC.update(mon, x, axis_name="data")

    step = jax.jit(step, donate_argnums=0)
    mon = jax.device_put(ACC.init(), jax.NamedSharding(mesh, PartitionSpec()))
    for i in range(STEPS):
        mon = reporter.step(i, step(mon, batch(i)))
    finish(reporter)
    assert_same_records(sink.records, pulled(STEPS))
    assert step._cache_size() == 1


def test_the_default_program_holds_no_callback():
    text = jax.jit(ACC.update).lower(ACC.init(), batch(0)).as_text()
    assert "callback" not in text
    emitting = jax.jit(partial(ACC.update_and_emit, callback=print)).lower(ACC.init(), batch(0)).as_text()
    assert "callback" in emitting


# Order


def test_words_out_of_order_are_put_in_order(reporter, sink):
    rows = numbered(40)
    order = np.concatenate([start + np.random.default_rng(5).permutation(8) for start in range(0, 40, 8)])
    order = [1, 0, *(i for i in order if i > 1)]  # the first of all is not known to be that, so it may be one late
    for i in order:
        reporter.callback(rows[i])
    finish(reporter)
    assert updates(sink.records) == [EVERY * (i + 1) for i in range(40)]


def test_words_that_come_more_than_once_are_recorded_once(reporter, sink):
    for row in numbered(20):
        reporter.callback(row)
        reporter.callback(row)
    reporter.callback(numbered(1)[0])
    finish(reporter)
    assert updates(sink.records) == [EVERY * (i + 1) for i in range(20)]


def test_a_record_does_not_wait_for_the_next(reporter, sink):
    for i, row in enumerate(numbered(3)):
        reporter.callback(row)
        reporter._builder.run(lambda: None).wait()
        for worker in reporter._workers:
            worker.flush()
        assert len(sink.records) == i + 1


def test_lost_words_hold_the_others_up_only_for_a_while(reporter, sink):
    for row in np.delete(numbered(30), 5, axis=0):
        reporter.callback(row)
    reporter._builder.run(lambda: None).wait()
    for worker in reporter._workers:
        worker.flush()
    assert updates(sink.records) == [EVERY * (i + 1) for i in range(30) if i != 5]


def test_a_run_that_goes_on_from_a_checkpoint_is_recorded_from_there(reporter, sink):
    for row in numbered(12, first=1000):
        reporter.callback(row)
    finish(reporter)
    assert updates(sink.records) == [1000 + EVERY * (i + 1) for i in range(12)]
    assert sink.records[0].step == 1003


def test_words_may_come_from_many_threads(reporter, sink):
    rows = numbered(200)

    def send():
        for row in rows:
            reporter.callback(row)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish(reporter)
    assert updates(sink.records) == [EVERY * (i + 1) for i in range(200)]


def test_a_copy_may_come_however_late(reporter, sink):
    """Under `grad` of a whole scan with remat, every emission comes again when all have been there."""
    rows = numbered(50)
    for row in (*rows, *reversed(rows)):
        reporter.callback(row)
    reporter.flush()
    assert len(sink.records) == 50
    assert reporter._builder.dropped == 0


# Trouble


class NoArray:
    def __array__(self, *arguments, **options):
        raise RuntimeError("not an array")


def garbage():
    words = packed(EVERY)[0]
    other_layout = words.copy()
    other_layout[0] += 1
    return [None, "words", NoArray(), words[:5], words[None], words.view(np.float32), other_layout, np.zeros(0)]


def test_garbage_never_raises_and_is_counted(sink, caplog):
    with Reporter(ACC, [sink]) as reporter:
        for words in garbage():
            reporter.callback(words)
        reporter.flush()
        reporter.callback(packed(EVERY)[0])
    (record,) = sink.records
    assert record.scalars["monitoring/dropped_records"] == len(garbage())
    told = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert 1 <= len(told) <= 3  # one of each kind


def test_a_full_queue_is_counted_and_does_not_block(reporter, sink, monkeypatch):
    monkeypatch.setattr(builder, "_BACKLOG", 3)
    with held(reporter):
        for row in numbered(50):
            reporter.callback(row)
    reporter.flush()
    assert len(sink.records) == 3
    assert reporter._builder.dropped == 47


def test_a_failing_callback_costs_no_donated_state(reporter, caplog):
    """The words reach a callback that cannot use them: those of another configuration."""
    step = jax.jit(
        lambda mon, x: ACC.update_and_emit(mon, x, lambda words: reporter.callback(words[::2])), donate_argnums=0
    )
    mon = ACC.init()
    for i in range(EVERY + 1):
        mon = step(mon, batch(i))
    assert ACC.record(mon).update == EVERY + 1
