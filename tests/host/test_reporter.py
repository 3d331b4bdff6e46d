import logging
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.device.support import batch, pack, without_runtime_types
from tests.host.streams import ACC, EVERY, held, numbered, plain, pulled, run_loop, updates
from tests.host.support import ROOT
from tunrex_jax_monitor import JsonlSink, MemorySink, Reporter, RewardAccumulator, read_manifest, read_records
from tunrex_jax_monitor.host import builder, transfer

STEPS = 10  # two whole intervals and a half


class Stuck:
    """A sink whose first write does not return before `gate` is set."""

    def __init__(self):
        self.entered, self.gate = threading.Event(), threading.Event()

    def write(self, record):
        self.entered.set()
        self.gate.wait()

    def close(self):
        pass


class Raises(MemorySink):
    def write(self, record):
        raise RuntimeError("no network")


@pytest.fixture
def sink():
    return MemorySink()


@pytest.fixture
def stuck():
    sink = Stuck()
    yield sink
    sink.gate.set()


def samples(name, steps):
    return np.concatenate([batch(step)[name].ravel() for step in steps]).astype(np.float64)


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# What is emitted, and when


@pytest.mark.parametrize("first", [0, 1000])
def test_every_log_frequency_steps_a_record_and_the_rest_at_close(sink, first):
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, STEPS, first=first)
    assert updates(sink.records) == [4, 8, 10]
    assert [record.step for record in sink.records] == [first + 3, first + 7, first + 9]
    assert [record.scalars["monitoring/step"] for record in sink.records] == [first + 3, first + 7, first + 9]


def test_series_hold_every_step_once_with_its_own_statistics(sink):
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, STEPS, first=1000)
    assert [step for record in sink.records for step in record.series["step"]] == list(range(1000, 1010))
    for name in ACC.reward_names:
        means = [mean for record in sink.records for mean in record.series[f"{name}/mean"]]
        np.testing.assert_allclose(means, [samples(name, [step]).mean() for step in range(STEPS)], rtol=1e-6, atol=1e-7)


def test_an_interval_is_numpy_on_exactly_its_samples(sink):
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, STEPS)
    for record, steps in zip(sink.records, (range(4), range(4, 8), range(8, 10)), strict=True):
        for name in ACC.reward_names:
            x = samples(name, steps)
            found = [record.scalars[f"{name}/interval/{key}"] for key in ("mean", "std", "min", "max", "count")]
            np.testing.assert_allclose(found, [x.mean(), x.std(), x.min(), x.max(), x.size], rtol=1e-6, atol=1e-7)


def test_run_quantiles_come_with_the_last_record_only(sink):
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, STEPS)
    assert [sum("/run/p" in key for key in record.scalars) for record in sink.records] == [0, 0, 27]
    assert ["answer/run/histogram" in record.histograms for record in sink.records] == [False, False, True]
    for name in ACC.reward_names:
        exact = np.percentile(samples(name, range(STEPS)), 50)
        assert sink.records[-1].scalars[f"{name}/run/p50"] == pytest.approx(exact, rel=0.02, abs=0.02)


def test_a_run_that_ends_on_an_emission_still_gets_its_run_quantiles(sink):
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, 8)
    assert updates(sink.records) == [4, 8, 8]
    _, before, last = sink.records
    assert last.series["step"] == []
    assert last.scalars.items() >= {k: v for k, v in before.scalars.items() if not k.startswith("monitoring/")}.items()
    assert {key for key in last.scalars.keys() - before.scalars.keys() if "/run/p" not in key} == set()


def test_each_record_tells_what_monitoring_cost_without_the_compilation(sink):
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, STEPS)
    assert all(0 < record.scalars["monitoring/overhead_ms"] < 1000 for record in sink.records)
    assert all(record.scalars["monitoring/dropped_records"] == 0 for record in sink.records)


def test_step_numbers_may_be_of_numpy_or_jax(sink, tmp_path):
    with Reporter(ACC, [sink], run_dir=tmp_path) as reporter:
        mon = ACC.init()
        for step in (np.int64(7), np.int64(8), np.int64(9), jnp.int32(10)):
            mon = reporter.step(step, ACC.update_jit(mon, batch(0)))
    assert [record.step for record in read_records(tmp_path)] == [10, 10]


def test_series_and_alerts_are_told_at_the_owners_steps(sink):
    own = [0, 5, 7, 8, 100, 101, 130, 131]
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for i, step in enumerate(own):
            rewards = batch(i) if i != 5 else {name: np.full_like(x, np.nan) for name, x in batch(i).items()}
            mon = reporter.step(step, ACC.update_jit(mon, rewards))
    assert [step for record in sink.records for step in record.series["step"]] == own
    assert {alert.step for record in sink.records for alert in record.alerts if alert.type == "NONFINITE"} == {101}


def test_updates_before_the_first_known_step_are_counted_back(sink):
    mon = ACC.init()
    for i in range(3):
        mon = ACC.update_jit(mon, batch(i))
    with Reporter(ACC, [sink]) as reporter:
        for step in (13, 14, 15, 17):
            mon = reporter.step(step, ACC.update_jit(mon, batch(step)))
    assert sink.records[0].series["step"] == [13, 14, 15, 17]  # the trace holds four updates of seven


def test_a_run_that_goes_back_in_mid_interval_tells_the_steps_that_count(sink):
    with Reporter(ACC, [sink]) as reporter:
        mon = run_loop(reporter, 5)
        saved = jax.tree.map(jnp.copy, mon)
        mon = run_loop(reporter, 1, mon=mon, first=5)
        run_loop(reporter, 2, mon=saved, first=5)
    assert sink.records[1].series["step"] == [4, 5, 6]


def test_steps_that_go_back_without_the_state_keep_their_labels(sink):
    own = [0, 1, 2, 3, 5, 4, 9, 2]
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for i, step in enumerate(own):
            mon = reporter.step(step, ACC.update_jit(mon, batch(i)))
    assert [step for record in sink.records for step in record.series["step"]] == own


def test_a_step_that_is_no_number_costs_the_number_only(sink, caplog):
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for i, step in enumerate((10, None, "x", np.array([13]))):
            mon = ACC.update_jit(mon, batch(i))
            with without_runtime_types():
                mon = reporter.step(step, mon)
    assert sink.records[0].series["step"] == [10, 11, 12, 13]
    assert "step: got None, allowed: a whole number" in caplog.text


def test_a_flush_that_took_too_long_costs_the_run_quantiles_of_its_record_and_no_step(sink, caplog):
    goes_on = threading.Event()
    with Reporter(ACC, [sink], extra_scalars=lambda: {"late": float(goes_on.wait(60))}) as reporter:
        mon = ACC.init()
        for step in range(EVERY + 2):
            mon = reporter.step(step, ACC.update_jit(mon, batch(step)))
        mon = ACC.update_jit(reporter.flush(mon, 0.01), batch(0))  # which takes the memory of what is still to be read
        goes_on.set()
        reporter.step(EVERY + 2, mon)
    steps = [step for record in sink.records for step in record.series["step"]]
    assert list(dict.fromkeys(steps)) == list(range(EVERY + 3))
    (message,) = caplog.messages
    assert message.startswith("A record has no run quantiles")


def test_a_checkpoint_by_flush_records_no_step_twice(sink, caplog):
    with Reporter(ACC, [sink]) as reporter:
        reporter.flush(run_loop(reporter, 6))
    assert [step for record in sink.records for step in record.series["step"]] == list(range(6))
    assert caplog.messages == []


@pytest.mark.parametrize("bad", [5, "state", object()])
def test_close_and_flush_raise_nothing_whatever_they_are_given(sink, bad):
    reporter = Reporter(ACC, [sink])
    run_loop(reporter, EVERY)
    with without_runtime_types():
        reporter.flush(bad)
        reporter.flush(timeout_seconds="long")
        reporter.close(bad, timeout_seconds=float("nan"))
    assert updates(sink.records) == [EVERY, EVERY]  # the last state that came is read out


def test_a_step_without_a_state_is_left_out_and_told(sink, caplog):
    with Reporter(ACC, [sink]) as reporter:
        mon = run_loop(reporter, 2)
        with without_runtime_types():
            assert reporter.step(99, None) is None
            assert reporter.step(100, None) is None
        run_loop(reporter, 2, mon=mon, first=2)
    assert sink.records[0].series["step"] == [0, 1, 2, 3]
    (message,) = caplog.messages
    assert message.startswith("state: Reporter.step got a NoneType, allowed: the MonitorState")


class Raising:
    """An object of which nothing may be asked: a proxy that is not bound, say."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    @property
    def __class__(self):
        raise RuntimeError("__class__")


def test_a_step_asks_what_is_no_state_nothing(sink):
    with Reporter(ACC, [sink]) as reporter:
        mon, other = run_loop(reporter, 2), Raising()
        with without_runtime_types():
            assert reporter.step(99, other) is other
            assert reporter.flush(other) is other
        run_loop(reporter, 2, mon=mon, first=2)
    assert sink.records[0].series["step"] == [0, 1, 2, 3]


def test_of_two_reporters_on_one_state_the_second_says_what_it_lacks(sink, caplog):
    other = MemorySink()
    with Reporter(ACC, [sink]) as first, Reporter(ACC, [other]) as second:
        mon = ACC.init()
        for step in range(2 * EVERY):
            mon = second.step(step, first.step(step, ACC.update_jit(mon, batch(step))))
    assert [step for record in sink.records for step in record.series["step"]] == list(range(2 * EVERY))
    (message,) = set(caplog.messages)
    assert message.startswith("Some updates came in no record")


def test_a_state_that_was_emitted_is_not_counted_again(sink, caplog):
    """Where the loop hands it in twice, and goes on with what the second call returns."""
    with Reporter(ACC, [sink]) as reporter:
        mon, update = ACC.init(), jax.jit(ACC.update)
        for step in range(2 * EVERY):
            mon = update(mon, batch(step))
            reporter.flush(mon)
            mon = reporter.step(step, mon)
    counts = [record.scalars["answer/interval/count"] for record in sink.records if record.series["step"]]
    assert counts == [batch(0)["answer"].size] * 2 * EVERY
    assert caplog.messages == []


def test_numpy_leaves_that_the_loop_writes_into_are_a_new_state_each_time(sink):
    with Reporter(ACC, [sink]) as reporter:
        mon, update = jax.tree.map(np.array, ACC.init()), jax.jit(ACC.update)
        for step in range(STEPS):
            jax.tree.map(np.copyto, mon, jax.tree.map(np.asarray, update(mon, batch(step))))
            jax.tree.map(np.copyto, mon, jax.tree.map(np.asarray, reporter.step(step, mon)))
    assert [step for record in sink.records for step in record.series["step"]] == list(range(STEPS))
    assert ACC.record(mon).update == STEPS


def test_a_leaf_that_the_loop_puts_into_a_state_is_not_taken_out_again(sink):
    with Reporter(ACC, [sink]) as reporter:
        mon, update = ACC.init(), jax.jit(ACC.update)
        for step in range(EVERY):
            mon = update(mon, batch(step))
            after = reporter.step(step, mon)
        window = mon.window + 0
        assert after is not mon
        assert reporter.step(EVERY, mon._replace(window=window)).window is window


def test_a_jax_that_does_not_say_whether_it_traces_costs_no_record(sink, monkeypatch):
    monkeypatch.delattr("jax._src.core.trace_state_clean")
    with Reporter(ACC, [sink]) as reporter:
        run_loop(reporter, STEPS)
    assert updates(sink.records) == [4, 8, 10]


def test_a_close_beside_a_loop_that_goes_on_takes_the_newest_state(sink):
    """It waits for a sink first, and the loop makes steps meanwhile."""
    slow = Stuck()
    with Reporter(ACC, [sink, slow]) as reporter:
        mon = run_loop(reporter, EVERY)
        slow.entered.wait(60)
        closing = threading.Thread(target=reporter.close)
        closing.start()
        while not reporter._turn.lock.acquire(blocking=False):
            pass
        reporter._turn.lock.release()
        run_loop(reporter, EVERY - 1, mon=mon, first=EVERY)
        slow.gate.set()
        closing.join()
    steps = [step for record in sink.records for step in record.series["step"]]
    assert steps == list(range(2 * EVERY - 1))


FAILS = """
import sys
import jax, numpy as np
import tunrex_jax_monitor as trm
acc = trm.RewardAccumulator(tuple("abcd"))
rewards = {name: np.zeros(4, np.float32) for name in "abcd"}
with trm.Reporter(acc, [trm.MemorySink()]) as reporter:
    mon = reporter.step(0, acc.update_jit(acc.init(), rewards))
    acc.update_jit(mon, rewards)  # takes the state's memory
    sys.exit(3)
"""


def test_a_program_that_ends_while_the_reporter_still_compiles_ends_as_it_would():
    """JAX aborts a process whose threads compile when it ends."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    command = [sys.executable, "-c", FAILS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr


def test_sinks_may_be_a_generator(sink):
    with Reporter(ACC, (s for s in [sink])) as reporter:
        run_loop(reporter, EVERY)
    assert updates(sink.records) == [EVERY, EVERY]


def test_a_wrong_sink_costs_no_run(tmp_path):
    with Reporter(ACC, run_dir=tmp_path) as reporter:
        run_loop(reporter, EVERY)
    with pytest.raises(TypeError, match="sink: got <class"):
        Reporter(ACC, [JsonlSink(tmp_path, overwrite=True), MemorySink])
    assert len(read_records(tmp_path)) == 2


@pytest.mark.parametrize(("updates_per_step", "expected"), [(2, [3, 3, 6, 6]), (3, [3, 6, 6, 6])])
def test_several_updates_of_one_step_share_its_number(sink, updates_per_step, expected):
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for step in (0, 1, 3, 6):
            for i in range(updates_per_step):
                mon = ACC.update_jit(mon, batch(i))
            mon = reporter.step(step, mon)
    assert sink.records[0].series["step"] == expected  # the trace holds four updates


def test_a_step_number_on_the_device_may_be_donated_or_assigned_to(sink):
    advance = jax.jit(lambda n: n + 1, donate_argnums=0)
    on_device, on_host = jnp.int32(0), np.array(0)
    with Reporter(ACC, [sink]) as reporter, Reporter(ACC, [other := MemorySink()]) as second:
        mon = ACC.init()
        for step in range(EVERY):
            mon = ACC.update_jit(mon, batch(step))
            second.step(on_host, mon)
            reporter.step(on_device, mon)
            on_device = advance(on_device)
            on_host += 1
    assert sink.records[0].series["step"] == other.records[0].series["step"] == list(range(EVERY))


def test_a_run_that_goes_back_to_a_checkpoint_is_not_taken_for_a_mistake(sink, caplog):
    with Reporter(ACC, [sink]) as reporter:
        mon = run_loop(reporter, EVERY)
        saved = jax.tree.map(jnp.copy, mon)
        run_loop(reporter, 2 * EVERY, mon=mon, first=EVERY)
        run_loop(reporter, EVERY, mon=saved, first=EVERY)
    assert [record.step for record in sink.records] == [3, 7, 11, 7, 7]
    assert caplog.messages == []


def test_alerts_of_a_past_that_was_given_up_are_not_recent(sink, caplog):
    acc = RewardAccumulator(("r",), log_frequency=EVERY)

    def run(mon, first, last, fault=None):
        for step in range(first, last):
            x = np.random.default_rng(step).normal(size=16).astype(np.float32)
            x[0] = np.nan if step == fault else x[0]
            mon = reporter.step(step, acc.update_jit(mon, {"r": x}))
        return mon

    with Reporter(acc, [sink]) as reporter:
        mon = run(acc.init(), 0, 8)
        saved = jax.tree.map(jnp.copy, mon)
        run(mon, 8, 12, fault=10)
        run(saved, 8, 16)
    assert [r.scalars["monitoring/alert_count"] for r in sink.records] == [0, 0, 1, 0, 0, 0]
    assert [m for m in caplog.messages if "not reset" in m] == []


def test_recent_alerts_are_counted_over_all_emissions(sink):
    acc = RewardAccumulator(("r",), log_frequency=EVERY, cooldown_steps=0)
    steps = np.arange(240)
    with Reporter(acc, [sink]) as reporter:
        mon = acc.init()
        for step in steps:
            x = np.random.default_rng(step).normal(size=16).astype(np.float32)
            x[0] = np.nan if step % 4 == 0 else x[0]  # an episode of one step, every fourth
            mon = reporter.step(step, acc.update_jit(mon, {"r": x}))
    for record in sink.records:
        expected = sum(step % 4 == 0 for step in range(max(0, record.step - 99), record.step + 1))
        assert record.scalars["monitoring/alert_count"] == expected
    assert sum(len(record.alerts) for record in sink.records) == 60


def test_a_loop_without_a_step_records_nothing(sink, caplog):
    Reporter(ACC, [sink]).close()
    assert sink.records == []
    assert caplog.messages == []


# Flush and resume


def test_flush_ends_the_interval_and_returns_when_it_is_written(sink):
    with Reporter(ACC, [sink]) as reporter:
        mon = run_loop(reporter, 6)
        mon = reporter.flush(mon)
        assert updates(sink.records) == [4, 6]
        assert "answer/run/p50" in sink.records[-1].scalars
        for step in range(6, 11):
            mon = reporter.step(step, ACC.update_jit(mon, batch(step)))
    assert updates(sink.records) == [4, 6, 10, 11]
    assert [step for record in sink.records for step in record.series["step"]] == list(range(11))


def test_flush_without_a_state_waits_for_what_was_emitted(sink):
    with Reporter(ACC, [sink]) as reporter:
        mon = run_loop(reporter, 6)
        assert reporter.flush() is None
        assert updates(sink.records) == [4]
        run_loop(reporter, 2, mon=mon)
        reporter.flush()
        assert updates(sink.records) == [4, 8]


def test_a_run_that_goes_on_from_a_flushed_checkpoint_misses_no_step(sink):
    with Reporter(ACC, [sink]) as reporter:
        checkpoint = jax.tree.map(np.asarray, reporter.flush(run_loop(reporter, 6)))
    resumed = MemorySink()
    with Reporter(ACC, [resumed]) as reporter:
        mon = jax.tree.map(jnp.asarray, checkpoint)
        for step in range(6, 12):
            mon = reporter.step(step, ACC.update_jit(mon, batch(step)))
    records = [*sink.records[:2], *resumed.records]
    assert [step for record in records for step in record.series["step"]] == list(range(12))
    whole = pulled(12)[-1].scalars
    for key in ("answer/run/mean", "style/run/p50", "format/count", "answer/ema_long"):
        assert resumed.records[-1].scalars[key] == pytest.approx(whole[key])


# Donation


def test_an_old_state_switches_off_and_says_what_to_write(sink, caplog):
    train_step = jax.jit(ACC.update, donate_argnums=0)
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for step in range(STEPS):
            after = train_step(mon, batch(step))
            reporter.step(step, mon)
            mon = after
    error = caplog.records[0].exc_info[1]
    assert str(error).startswith(
        "state: got 'a state whose memory a later step has taken (donated)', allowed: the newest"
    )
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert sink.records == []


def test_a_call_inside_of_jit_is_told_at_once_and_costs_nothing(sink, caplog):
    reporter = Reporter(ACC, [sink])
    train_step = jax.jit(lambda mon, rewards: reporter.step(0, ACC.update(mon, rewards)))
    mon = train_step(ACC.init(), batch(0))
    (message,) = caplog.messages
    assert "got a traced MonitorState" in message
    assert "outside of jit" in message
    for step in range(4):
        mon = reporter.step(step, train_step(mon, batch(step)))
    reporter.close()
    assert updates(sink.records) == [5, 5]


def test_a_loop_that_calls_step_now_and_then_is_told(sink, caplog):
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for step in range(40):
            mon = ACC.update_jit(mon, batch(step))
            if step % 4 == 0:
                mon = reporter.step(step, mon)
        reporter.flush(mon)
    (message,) = caplog.messages
    assert message.startswith("There were more updates than calls of Reporter.step")


def test_an_emission_is_readable_after_its_state_was_donated(sink):
    with Reporter(ACC, [sink]) as reporter:
        with held(reporter):
            run_loop(reporter, STEPS)
            assert sink.records == []
        reporter.flush()
        assert list(map(plain, sink.records)) == list(map(plain, pulled(STEPS)[:2]))


def test_a_state_that_was_donated_after_step_is_told_and_the_rest_is_drained(sink, caplog):
    reporter = Reporter(ACC, [sink])
    ACC.update_jit(run_loop(reporter, STEPS), batch(0))
    reporter.close()
    assert updates(sink.records) == [4, 8]
    (message,) = caplog.messages
    assert message.startswith("The last monitor state never came to Reporter.step")


def test_close_takes_the_last_state_where_step_did_not_see_it(sink, caplog):
    reporter = Reporter(ACC, [sink])
    mon = ACC.update_jit(run_loop(reporter, STEPS), batch(10))
    reporter.close(mon)
    assert updates(sink.records) == [4, 8, 11]
    assert caplog.messages == []


def test_a_loop_that_forgets_to_take_the_state_back_is_told_once(sink, caplog):
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for step in range(13):
            mon = ACC.update_jit(mon, batch(step))
            reporter.step(step, mon)
    assert updates(sink.records) == [4, 8, 12, 13]
    assert sum("mon = reporter.step(step, mon)" in message for message in caplog.messages) == 1


def test_the_state_from_step_does_not_retrace_the_users_step():
    step = jax.jit(ACC.update, donate_argnums=0)
    with Reporter(ACC) as reporter:
        mon = ACC.init()
        for i in range(EVERY + 2):
            mon = reporter.step(i, step(mon, batch(i)))
    assert step._cache_size() == 1


def train(monitored, sinks=()):
    """A few steps of gradient ascent on a policy whose rewards are monitored, or not."""

    def objective(params, x):
        score = jnp.tanh(x @ params["w"]) + params["b"]
        return score.mean(), score

    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, mon, x):
        (_, score), slope = jax.value_and_grad(objective, has_aux=True)(params, x)
        params = jax.tree.map(lambda p, g: p + 0.1 * g, params, slope)
        rewards = {"format": (score > 0).astype(jnp.float32), "answer": score, "style": score + 10}
        return params, ACC.update(mon, rewards) if monitored else mon

    params = {"w": jnp.arange(6, dtype=jnp.float32) / 7, "b": jnp.float32(0.1)}
    mon = ACC.init()
    reporter = Reporter(ACC, sinks)
    for step in range(STEPS):
        x = np.random.default_rng([3, step]).normal(size=(4, 8, 6)).astype(np.float32)
        params, mon = train_step(params, mon, x)
        if monitored:
            mon = reporter.step(step, mon)
    reporter.close()
    return jax.tree.map(np.asarray, params)


def test_training_is_the_same_to_the_bit_with_and_without_the_monitor(sink):
    monitored, bare = train(True, [sink]), train(False)
    assert jax.tree.all(jax.tree.map(np.array_equal, monitored, bare))
    assert updates(sink.records) == [4, 8, 10]


# Where the work is done


def test_the_training_thread_traces_and_another_one_compiles():
    acc = RewardAccumulator(("only_here",), window_size=8, min_samples=1, log_frequency=3)
    where = []

    def note(event, duration, **kwargs):
        if event.endswith("backend_compile_duration"):
            where.append(threading.current_thread().name)

    mon = acc.update_jit(acc.init(), {"only_here": np.ones(2, np.float32)})
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with Reporter(acc) as reporter:
            for step in range(4):
                mon = reporter.step(step, mon)
    finally:
        jax.monitoring.clear_event_listeners()
    assert where == ["tunrex-compiler"]


def test_a_sink_that_never_returns_stops_neither_training_nor_the_other_sinks(sink, stuck, caplog):
    reporter = Reporter(ACC, [stuck, sink])
    mon = run_loop(reporter, STEPS)
    stuck.entered.wait()
    assert int(ACC.record(mon).update) == STEPS
    reporter.close(timeout_seconds=3.0)
    assert list(map(plain, sink.records)) == list(map(plain, pulled(STEPS)))
    (message,) = caplog.messages
    assert message.startswith("Stuck is still busy")


def test_flush_does_not_wait_for_ever(stuck):
    reporter = Reporter(ACC, [stuck])
    mon = run_loop(reporter, EVERY)
    assert reporter.flush(mon, timeout_seconds=0.2) is not None
    stuck.gate.set()
    reporter.close()


def test_a_sink_that_raises_is_told_once_and_the_others_go_on(sink, caplog):
    with Reporter(ACC, [Raises(), sink]) as reporter:
        run_loop(reporter, STEPS)
    assert updates(sink.records) == [4, 8, 10]
    assert len(errors(caplog)) == 1
    assert errors(caplog)[0].startswith("Raises failed and is switched off")
    assert "Raises did not get 3 records" in caplog.text


def test_on_record_gets_every_record_off_the_training_thread():
    seen = []
    with Reporter(ACC, on_record=lambda record: seen.append((threading.current_thread(), record.update))) as reporter:
        run_loop(reporter, STEPS)
    assert [update for _, update in seen] == [4, 8, 10]
    assert threading.current_thread() not in {thread for thread, _ in seen}


def test_on_record_that_raises_is_told_once_and_switched_off(sink, caplog):
    calls = []

    def broken(record):
        calls.append(record.update)
        raise KeyError("mine")

    with Reporter(ACC, [sink], on_record=broken) as reporter:
        run_loop(reporter, STEPS)
    assert calls == [4]
    assert updates(sink.records) == [4, 8, 10]
    assert len(errors(caplog)) == 1
    assert errors(caplog)[0].startswith("on_record failed and is switched off")


def test_what_a_slow_sink_misses_is_counted_in_the_records(sink, stuck):
    reporter = Reporter(ACC, [stuck, sink])
    reporter.write_rows(numbered(1))
    stuck.entered.wait()
    reporter.write_rows(numbered(100, first=EVERY))
    reporter._builder.drain(60.0)
    stuck.gate.set()
    reporter.close()
    assert updates(sink.records) == [EVERY * (i + 1) for i in range(101)]
    assert sink.records[-1].scalars["monitoring/dropped_records"] == 35  # 64 wait, and the last was not yet dropped


def test_emissions_beyond_the_backlog_are_dropped_and_counted(sink, monkeypatch):
    monkeypatch.setattr(builder, "_BACKLOG", 2)
    reporter = Reporter(ACC, [sink])
    with held(reporter):
        run_loop(reporter, 5 * EVERY)
    reporter.flush()
    assert updates(sink.records) == [4, 8]
    reporter.close()
    assert sink.records[-1].scalars["monitoring/dropped_records"] == 3


# Failures of the monitor itself


def test_a_failing_emission_switches_the_monitor_off_and_hands_the_state_back(sink, caplog, monkeypatch):
    def broken(acc, state):
        raise RuntimeError("no memory")

    reporter = Reporter(ACC, [sink])
    mon = run_loop(reporter, EVERY - 1)
    monkeypatch.setattr(transfer, "emit", broken)
    mon = ACC.update_jit(mon, batch(3))
    assert reporter.step(3, mon) is mon
    assert reporter.step(4, mon) is mon
    reporter.close()
    assert ACC.record(mon).update == EVERY
    assert sink.records == []
    (message,) = errors(caplog)
    assert message.startswith("The reward monitor has switched itself off")
    assert "no memory" in caplog.text


def test_a_state_of_another_configuration_switches_the_monitor_off(sink, caplog):
    other = RewardAccumulator(("a",), window_size=8, min_samples=1).init()
    with Reporter(ACC, [sink]) as reporter:
        for step in range(2 * EVERY):
            assert reporter.step(step, other) is other
    assert sink.records == []
    assert len(errors(caplog)) == 1


def test_words_that_cannot_be_read_are_told_once_and_counted(sink, caplog, monkeypatch):
    real = transfer.emit
    monkeypatch.setattr(transfer, "emit", lambda acc, state: (real(acc, state)[0][:-1], real(acc, state)[1]))
    reporter = Reporter(ACC, [sink])
    mon = run_loop(reporter, 3 * EVERY)
    reporter.flush()
    monkeypatch.undo()
    reporter.close(mon)
    assert len(errors(caplog)) == 1
    (record,) = sink.records
    assert record.scalars["monitoring/dropped_records"] == 3


# The end of the loop


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_loop_leaves_complete_records(sink, error):
    def interrupted():
        with Reporter(ACC, [sink]) as reporter:
            run_loop(reporter, STEPS)
            raise error("in the loop")

    with pytest.raises(error, match="in the loop"):
        interrupted()
    assert list(map(plain, sink.records)) == list(map(plain, pulled(STEPS)))


def test_close_may_come_twice(sink):
    reporter = Reporter(ACC, [sink])
    mon = run_loop(reporter, STEPS)
    reporter.close()
    reporter.close(mon)
    assert updates(sink.records) == [4, 8, 10]


def test_after_close_nothing_is_recorded_and_that_is_told_once(sink, caplog):
    reporter = Reporter(ACC, [sink])
    mon = run_loop(reporter, EVERY)
    reporter.close()
    for step in range(2 * EVERY):
        assert reporter.step(step, mon) is mon
    assert reporter.flush(mon) is mon
    reporter.callback(numbered(1)[0])
    reporter.write_rows(numbered(1))
    assert updates(sink.records) == [4, 4]
    (message,) = caplog.messages
    assert message.startswith("The reporter is closed")


LOOP = """
import os, signal, sys
from tests.host.streams import *
reporter = Reporter(ACC, run_dir=sys.argv[1])
mon = run_loop(reporter, int(sys.argv[2]))
"""


def run_script(code, run_dir, steps=STEPS):
    command = [sys.executable, "-c", LOOP + code, str(run_dir), str(steps)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def test_a_program_that_ends_without_close_is_closed_at_exit(tmp_path):
    done = run_script("", tmp_path)
    assert done.returncode == 0, done.stderr
    assert updates(read_records(tmp_path)) == [4, 8, 10]


def test_a_killed_process_leaves_a_run_that_can_be_read(tmp_path):
    code = "reporter._builder.drain(60.0); reporter.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    assert run_script(code, tmp_path).returncode == -signal.SIGKILL
    assert updates(read_records(tmp_path)) == [4, 8]
    assert read_manifest(tmp_path)["config"]["log_frequency"] == EVERY


def test_a_forked_child_leaves_the_run_alone(tmp_path):
    code = """
import warnings
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    reporter.step(99, mon)
    reporter.close()
    os._exit(0)  # JAX itself crashes at the exit of a forked child
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    done = run_script(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert updates(read_records(tmp_path)) == [4, 8, 10]


# The run directory


def test_the_run_directory_holds_what_the_run_is_and_every_record(sink, tmp_path):
    with Reporter(ACC, [sink], run_dir=tmp_path / "run") as reporter:
        run_loop(reporter, STEPS)
    assert read_records(tmp_path / "run") == sink.records
    manifest = read_manifest(tmp_path / "run")
    assert manifest["schema"] == 1
    assert manifest["config"]["reward_names"] == list(ACC.reward_names)
    assert manifest["versions"].keys() >= {"python", "jax", "jaxlib", "numpy"}
    assert [device["platform"] for device in manifest["devices"]] == [device.platform for device in jax.devices()]
    assert manifest["processes"] == 1


def test_the_configuration_in_the_manifest_makes_the_same_accumulator(tmp_path):
    Reporter(ACC, run_dir=tmp_path).close()
    config = read_manifest(tmp_path)["config"]
    assert RewardAccumulator(**config | {key: tuple(config[key]) for key in ("reward_names", "atoms")}) == ACC


def test_a_run_directory_that_holds_a_run_is_refused_and_kept(tmp_path):
    with Reporter(ACC, run_dir=tmp_path) as reporter:
        run_loop(reporter, STEPS)
    with pytest.raises(FileExistsError, match="holds a run"):
        Reporter(ACC, run_dir=tmp_path)
    with Reporter(ACC, [JsonlSink(tmp_path, overwrite=True)]) as reporter:
        run_loop(reporter, EVERY)
    assert updates(read_records(tmp_path)) == [4, 4]


def test_a_run_directory_that_cannot_be_written_is_refused_at_construction(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        Reporter(ACC, run_dir=tmp_path / "file")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_up_costs_the_file_and_nothing_else(sink, tmp_path, caplog):
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    with Reporter(ACC, [sink], run_dir=tmp_path) as reporter:
        run_loop(reporter, STEPS)
    assert updates(sink.records) == [4, 8, 10]
    assert len(errors(caplog)) == 1
    assert "No space left on device" in caplog.text


# Other processes of the job


def test_a_process_that_is_not_the_first_dispatches_but_reads_and_writes_nothing(sink, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    dispatched = []
    real = transfer.emit
    monkeypatch.setattr(transfer, "emit", lambda acc, state: dispatched.append(1) or real(acc, state))
    monkeypatch.setattr(builder.Builder, "put", lambda *arguments: pytest.fail("read"))
    with Reporter(ACC, [sink], run_dir=tmp_path / "run") as reporter:
        mon = run_loop(reporter, STEPS)
        assert int(ACC.unpack(np.asarray(pack(ACC, mon))).interval) == 2
        reporter.write_rows(numbered(3))
        reporter.callback(numbered(1)[0])
    assert len(dispatched) == 3
    assert sink.records == []
    assert not (tmp_path / "run").exists()


# Arguments


WRONG = """
for arguments in ({"acc": "a"}, {"sinks": MemorySink()}, {"sinks": [MemorySink]}, {"on_record": 3}):
    try:
        Reporter(**{"acc": ACC, **arguments})
    except (TypeError, ValueError) as error:
        print(error)
"""


def test_a_wrong_argument_names_got_allowed_and_remedy(tmp_path):
    done = run_script(WRONG, tmp_path, steps=0)  # in a process whose types are not checked
    acc, sinks, sink, on_record = done.stdout.splitlines()
    assert acc.startswith("acc: got 'str', allowed: a RewardAccumulator. Pass")
    assert re.match(r"sinks: got <.*MemorySink.*>, allowed: a sequence of sinks. Put a single one in a list", sinks)
    assert re.match(r"sink: got <class .*MemorySink'>, allowed .* Pass an instance", sink)
    assert on_record.startswith("on_record: got 3, allowed: a function, or None. Pass")


def test_a_sink_that_cannot_begin_is_closed_with_those_that_have():
    closed = []

    class Begins(MemorySink):
        def begin_run(self, manifest):
            pass

        def close(self):
            closed.append(self)

    class Cannot(Begins):
        def begin_run(self, manifest):
            raise ConnectionError("no server")

    with pytest.raises(ConnectionError, match="no server"):
        Reporter(ACC, [Begins(), Cannot(), Begins()])
    assert [type(sink) for sink in closed] == [Cannot, Begins]


# What users do wrong


def test_a_state_that_no_update_has_seen_is_told_once(caplog):
    with Reporter(ACC, [MemorySink()]) as reporter:
        state = ACC.init()
        for step in range(3 * EVERY):
            state = reporter.step(step, state)
    assert caplog.text.count("mon = acc.update(mon, rewards)") == 1


def test_a_step_that_is_a_whole_float_is_that_step(sink):
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for step in range(EVERY):
            mon = ACC.update_jit(mon, batch(step))
            mon = reporter.step(float(step), mon)
    assert sink.records[-1].step == EVERY - 1


def test_something_else_than_a_state_is_named_and_training_goes_on(caplog):
    with Reporter(ACC, [MemorySink()]) as reporter:
        params = np.zeros(3)
        with without_runtime_types():
            assert reporter.step(0, params) is params
    assert "allowed: the MonitorState that init() or update() of this accumulator returned" in caplog.text


def test_a_sink_given_twice_is_refused(sink):
    with pytest.raises(ValueError, match=r"sinks: got .*, allowed: each sink once\. .*take the second out"):
        Reporter(ACC, [sink, sink])


def test_on_record_may_do_with_its_record_what_it_likes(sink):
    with Reporter(
        ACC, [sink], on_record=lambda record: [v.clear() for v in (record.scalars, record.series)]
    ) as reporter:
        run_loop(reporter, EVERY)
    assert all(record.scalars and record.series for record in sink.records)


def test_rows_of_many_seeds_are_named(caplog):
    with Reporter(ACC, [MemorySink()]) as reporter:
        reporter.write_rows(np.zeros((3, 2, 5), np.uint32))
        reporter.close(ACC.init())
    assert "hand one seed's rows to one reporter" in caplog.text


@pytest.mark.parametrize("given", [True, False])
def test_a_loop_by_callback_that_is_closed_without_its_state_is_told(caplog, given):
    with Reporter(ACC, [MemorySink()]) as reporter:
        emit, mon = jax.jit(partial(ACC.update_and_emit, callback=reporter.callback)), ACC.init()
        mon = emit(mon, batch(0))
        reporter.close(mon if given else None)
    assert ("Call close(state)" in caplog.text) is not given


def test_a_flush_on_another_thread_that_waits_for_a_sink_holds_no_step():
    gate, waits = threading.Event(), threading.Event()

    class Slow(MemorySink):
        def write(self, record):
            waits.set()
            gate.wait(60)
            super().write(record)

    acc = RewardAccumulator(("a",), log_frequency=2)
    state, sink = acc.init(), Slow()
    with Reporter(acc, [sink]) as reporter:
        for step in range(2):
            state = reporter.step(step, acc.update_jit(state, {"a": np.ones(8, np.float32)}))
        assert waits.wait(60)
        flusher = threading.Thread(target=reporter.flush, args=(None, 60.0))
        flusher.start()
        for step in range(2, 10):  # were a turn missed, its interval would be longer
            state = reporter.step(step, acc.update_jit(state, {"a": np.ones(8, np.float32)}))
        assert flusher.is_alive()
        gate.set()
        flusher.join()
        reporter.close(state)
    assert [record.series["step"] for record in sink.records if record.series["step"]] == [
        [step, step + 1] for step in range(0, 10, 2)
    ]
