"""WandbSink, judged by reading the offline run back."""

import contextlib
import inspect
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests import wandb_reader
from tests.device.support import without_runtime_types
from tests.host.streams import ACC, pulled, run_loop
from tests.host.support import ROOT, make_record
from tunrex_jax_monitor import Reporter
from tunrex_jax_monitor.host.record import AlertEvent, Histogram
from tunrex_jax_monitor.host.sinks import wandb_rows
from tunrex_jax_monitor.host.sinks.wandb import WandbSink

try:
    import wandb
except ImportError:  # tests/conftest.py skips what is marked, or fails it
    wandb = None

pytestmark = [pytest.mark.wandb, pytest.mark.filterwarnings("default")]  # of what wandb imports

STEPS = 18


@pytest.fixture
def init(tmp_path, monkeypatch):
    """What opens an offline run in an empty folder."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield {"mode": "offline", "dir": tmp_path, "project": "p"}
    wandb.teardown()


def alert(step: int, reward: str = "a") -> AlertEvent:
    return AlertEvent(step, reward, "DROP", f"DROP: {reward} fell", "Look at it.", 0.1, 0.5)


def rows_of(run: wandb_reader.Run) -> list[dict]:
    """The rows with values of ours."""
    return [row for row in run.history if "monitoring/step" in row]


def test_own_run_has_every_key_and_value_of_every_record(init, tmp_path):
    with Reporter(ACC, [WandbSink(own_run=True, tags=["t"], config={"lr": 0.1}, **init)]) as reporter:
        run_loop(reporter, STEPS)
    run, want = wandb_reader.read(tmp_path), pulled(STEPS)
    measured = {"monitoring/overhead_ms"}
    for row, record in zip(run.history, want, strict=True):
        found = {key: value for key, value in row.items() if isinstance(value, float | int) and key[0] != "_"}
        assert found.keys() == record.scalars.keys()
        for key in found.keys() - measured:
            assert found[key] == pytest.approx(record.scalars[key], rel=1e-6)
    assert set(run.metrics.values()) == {"", "monitoring/step"}
    assert run.metrics["answer/mean"] == "monitoring/step"
    assert run.tags == ["t"]
    assert run.config["lr"] == 0.1
    assert run.config["tunrex_jax_monitor"]["reward_names"] == list(ACC.reward_names)
    assert run.summary["answer/run/p99"] == want[-1].scalars["answer/run/p99"]


def test_histograms_arrive_with_their_counts_and_edges(init, tmp_path):
    sink = WandbSink(own_run=True, histogram_frequency=2, **init)
    sink.begin_run({})
    for step in range(4):
        sink.write(make_record(step, histograms={"a/histogram": Histogram([step, 7], [0.0, 0.5, 1.0])}))
    sink.close()
    found = wandb_reader.read(tmp_path).series("a/histogram")
    assert [(h["values"], h["bins"]) for h in found] == [([0, 7], [0.0, 0.5, 1.0]), ([2, 7], [0.0, 0.5, 1.0])]


@pytest.mark.parametrize("through", ["reporter", "log"])
def test_a_run_of_our_own_that_cannot_be_opened_leaves_the_owners_alone(init, tmp_path, through, monkeypatch):
    owner = wandb.init(**init)

    def refuse(**_):
        raise RuntimeError("No API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    sink = WandbSink(own_run=True, **init)
    if through == "reporter":
        with pytest.raises(RuntimeError, match="No API key"):
            Reporter(ACC, [sink])
    else:
        sink.log({"ours": 1.0}, 0)
        sink.close()
    owner.log({"loss": 1.0})
    owner.finish()
    assert [row["loss"] for row in wandb_reader.read(tmp_path).history] == [1.0]


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("ours_per_row", [1, 3, 0.25])
def test_no_row_of_the_owner_is_lost_at_any_cadence(init, tmp_path, explicit, ours_per_row):
    owner, sink = wandb.init(**init), WandbSink()
    emitted = 0
    for step in range(12):
        owner.log({"loss": 1.0 / (step + 1)}, step=step if explicit else None)
        while emitted < (step + 1) * ours_per_row:
            sink.write(make_record(emitted, scalars={"a/mean": float(emitted)}))
            emitted += 1
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.series("loss") == [1.0 / (step + 1) for step in range(12)]
    assert run.summary["a/mean"] == emitted - 1
    ours = rows_of(run)
    assert all(row["a/mean"] == row["monitoring/step"] for row in ours)
    assert sorted({row["monitoring/step"] for row in ours}) == list(range(emitted))


def test_rows_that_wait_are_told_and_may_be_committed_instead(init, tmp_path, caplog):
    owner, waiting, live = wandb.init(**init), WandbSink(prefix="a/"), WandbSink(commit=True, prefix="b/")
    with caplog.at_level(logging.WARNING):
        for step in range(30):
            waiting.write(make_record(step))
    assert caplog.text.count("rows wait for its end") == 1
    for step in range(30):
        live.write(make_record(step))
    assert owner.step >= 30
    owner.finish()
    run = wandb_reader.read(tmp_path)
    for prefix in "ab":
        assert sorted(run.series(f"{prefix}/a/mean")) == [0.25 * step for step in range(30)]


def test_two_monitors_on_one_run_lose_nothing_and_share_no_key(init, tmp_path, caplog):
    owner, sinks = wandb.init(**init), [WandbSink(), WandbSink()]
    for step in range(8):
        for sink in sinks:
            sink.write(make_record(step))
    for sink in sinks:
        sink.close()
    third = WandbSink()  # the first has ended, so its keys go on
    third.write(make_record(8))
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert "the keys of this one begin with 'monitor_2/'" in caplog.text
    assert sorted(set(run.series("a/mean"))) == [0.25 * step for step in range(9)]
    assert sorted(set(run.series("monitor_2/a/mean"))) == [0.25 * step for step in range(8)]
    assert run.metrics["monitor_2/a/mean"] == "monitor_2/monitoring/step"


def test_keys_that_the_owner_has_are_left_alone(init, tmp_path, caplog):
    owner, sink = wandb.init(**init), WandbSink()
    for step in range(6):
        owner.log({"reward": float(step)}, step=step)
        if step > 2:
            sink.write(make_record(step, scalars={"reward": -1.0, "a/mean": 0.5}))
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.series("reward") == [float(step) for step in range(6)]
    assert set(run.series("monitor/reward")) == {-1.0}
    assert set(run.series("a/mean")) == {0.5}
    assert "ours are monitor/reward. A prefix keeps all apart" in caplog.text


@pytest.mark.parametrize("ours_per_row", [1, 3])
@pytest.mark.parametrize("through", ["run", "module"])
def test_a_key_that_the_owner_logs_later_than_we_do_is_theirs_from_then_on(init, tmp_path, ours_per_row, through):
    owner, sink = wandb.init(**init), WandbSink()
    log = owner.log if through == "run" else wandb.log
    for step in range(9):
        for part in range(ours_per_row):
            sink.write(make_record(ours_per_row * step + part, scalars={"reward": -1.0}))
        log({"loss": 1.0} | ({"reward": float(step)} if step > 3 else {}), step=step)
        sink.write(make_record(1000 + step, scalars={"reward": -1.0}))
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    theirs = [row for row in run.history if "loss" in row]
    assert [row.get("reward") for row in theirs][4:] == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert run.metrics["reward"] == ""  # our axis is not theirs
    assert run.summary["reward"] == 8.0
    steps = [row.get("monitoring/step") for row in run.history if row.get("reward") == -1.0 or "monitor/reward" in row]
    assert len(set(steps)) == 9 * (ours_per_row + 1)


@pytest.mark.parametrize("options", [{"step": 0}, {"commit": False}], ids=str)
@pytest.mark.parametrize("summary", [None, "none"])
def test_a_row_that_is_open_when_we_begin_keeps_its_values(init, tmp_path, options, summary):
    owner = wandb.init(**init)
    if summary:
        owner.define_metric("reward", summary=summary)
    owner.log({"reward": 7.0, "loss": 1.0}, **options)
    sink = WandbSink()
    for step in range(3):
        sink.write(make_record(step, scalars={"reward": -1.0}))
        owner.log({"loss": 2.0 + step})
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.series("reward")[0] == 7.0
    ours = [row for row in run.history if row.get("reward") == -1.0 or "monitor/reward" in row]
    assert sorted(row["monitoring/step"] for row in ours) == [0, 1, 2]


def test_a_key_of_the_row_that_is_open_when_we_begin_is_the_owners(init, tmp_path):
    owner = wandb.init(**init)
    owner.log({"reward": 0.5, "best": 1.0}, step=0)
    sink = WandbSink()
    sink.begin_run({})
    for step in range(1, 4):
        sink.write(make_record(step, scalars={"reward": -1.0, "a/mean": 0.5}))
        owner.log({"loss": 1.0 / step}, step=step)
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.summary["reward"] == 0.5
    assert run.history[0] | {"reward": 0.5, "best": 1.0} == run.history[0]
    assert "monitoring/step" not in run.history[0]
    assert run.series("monitor/reward") == [-1.0] * 3
    assert "reward" not in run.metrics


def test_where_the_owner_has_the_other_name_too_ours_has_a_third(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    sink.begin_run({})
    for step in range(4):
        owner.log({"reward": 0.1, "monitor/reward": 0.2}, commit=False)
        sink.write(make_record(step, scalars={"reward": -1.0}))
        owner.log({"loss": 1.0})
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert [(row["reward"], row["monitor/reward"]) for row in run.history if "loss" in row] == [(0.1, 0.2)] * 4
    assert (run.summary["reward"], run.summary["monitor/reward"]) == (0.1, 0.2)
    assert run.series("monitor/monitor/reward") == [-1.0] * 4


@pytest.mark.parametrize("definition", ["reward", "*"])
def test_what_the_owner_defines_behind_our_first_row_holds(init, tmp_path, definition):
    owner, sink = wandb.init(**init), WandbSink()
    owner.log({"loss": 1.0})
    sink.write(make_record(0, scalars={"reward": 1000.0}))
    owner.log({"loss": 0.95})
    sink.write(make_record(1, scalars={"reward": 1001.0}))
    owner.log({"loss": 0.9})
    owner.define_metric(definition, step_metric="epoch")
    owner.log({"reward": 0.7, "epoch": 1})
    sink.write(make_record(2, scalars={"reward": 1002.0}))
    owner.log({"reward": 0.5, "epoch": 2})
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.metrics["reward"] == "epoch"
    assert run.summary["reward"] == 0.5
    assert all("monitoring/step" not in row for row in run.history if row.get("reward") == 0.7)


@pytest.mark.parametrize(
    ("before", "behind", "summary", "row"),
    [
        ([("*", {"summary": "max"}), ("*", {"step_metric": "x"})], [], {"max": 7.0}, {"x": 30}),
        ([("*", {"step_metric": "x"}), ("*", {"summary": "max"})], [], {"max": 7.0}, {"x": 30}),
        ([("re*", {"summary": "max"}), ("re*", {"summary": "min"})], [], {"max": 7.0, "min": 3.0}, {}),
        ([("re*", {"summary": "max"}), ("re*", {})], [], {"max": 7.0}, {}),
        ([("*", {"summary": "max"}), ("*", {"summary": "min", "overwrite": True})], [], {"min": 3.0}, {}),
        ([("*", {"summary": "max"}), ("re*", {"summary": "min"})], [], {"max": 7.0}, {}),
        ([("*", {"summary": "max"})], [("reward", {"step_metric": "x"})], 3.0, {"x": 30}),
        ([("reward", {"summary": "max"})], [("reward", {"step_metric": "x"})], {"max": 7.0}, {"x": 30}),
    ],
    ids=str,
)
def test_a_key_that_goes_back_to_the_owner_is_defined_as_they_have_it(init, tmp_path, before, behind, summary, row):
    owner, sink = wandb.init(**init), WandbSink()
    for name, given in before:
        owner.define_metric(name, **given)
    for step in range(8):
        sink.write(make_record(step, scalars={"reward": 5.0}))
        if step == 2:
            for name, given in behind:
                owner.define_metric(name, **given)
        owner.log({"loss": 1.0, "x": 10 * step})
        if step > 2:
            owner.log({"reward": 10.0 - step})
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.summary["reward"] == summary
    (first,) = [found for found in run.history if found.get("reward") == 7.0]
    assert {key: value for key, value in first.items() if key[0] != "_"} == {"reward": 7.0} | row


@pytest.mark.parametrize("definition", ["reward", "*"])
def test_what_was_defined_before_the_monitor_came_is_told_once_where_it_is_lost(
    init, tmp_path, caplog, monkeypatch, definition
):
    owner = wandb.init(**init)
    monkeypatch.setattr(wandb.Run, "_define_metric", inspect.unwrap(wandb.Run._define_metric))  # as in a new process
    owner.define_metric(definition, summary="max")
    sink = WandbSink()
    for step in range(4):
        sink.write(make_record(step, scalars={"reward": 5.0, "reward_std": 1.0}))
        owner.log({"loss": 1.0} | ({"reward": 3.0, "reward_std": 2.0} if step > 1 else {}))
    sink.close()
    owner.finish()
    assert caplog.text.count("had said of it before the monitor was made could not be read, and holds no more") == 1
    assert "give the monitor a prefix" in caplog.text
    assert {3.0, 2.0} <= {wandb_reader.read(tmp_path).summary[key] for key in ("reward", "reward_std")}


def test_a_run_without_definitions_is_not_told_of_lost_ones(init, tmp_path, caplog):
    owner, sink = wandb.init(**init), WandbSink()
    for step in range(4):
        sink.write(make_record(step, scalars={"reward": 5.0}))
        owner.log({"loss": 1.0} | ({"reward": 3.0} if step > 1 else {}))
    sink.close()
    owner.finish()
    assert "could not be read" not in caplog.text


def test_a_row_of_ours_is_kept_where_the_owner_ends_a_row_on_another_thread_meanwhile(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    sink.begin_run({})
    owner.log({"loss": 0.0})
    log, due = owner._log, []

    def end_row_and_log(data, *args, **kwargs):
        if "monitoring/step" in data and due:
            thread = threading.Thread(target=owner.log, args=(due.pop(),))
            thread.start()
            thread.join()
        return log(data, *args, **kwargs)

    owner._log = end_row_and_log
    for step in range(6):
        if step == 2:
            due.append({"loss": 99.0})
        sink.write(make_record(step))
        if step != 2:
            owner.log({"loss": step + 1.0})
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert sorted(row["monitoring/step"] for row in rows_of(run)) == list(range(6))
    assert run.series("loss") == [0.0, 1.0, 2.0, 99.0, 4.0, 5.0, 6.0]


def test_a_summary_of_the_owner_that_is_a_dictionary_stays_whole(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    owner.log({"loss": 1.0})
    sink.write(make_record(1, scalars={"reward": -1.0}))
    owner.log({"loss": 0.9})
    sink.write(make_record(2, scalars={"reward": -1.0}))
    owner.summary["reward"] = {"best": 1, "at": 7}
    sink.write(make_record(3, scalars={"reward": -1.0}))
    owner.log({"loss": 0.8})
    sink.write(make_record(4, scalars={"reward": -1.0}))
    assert (owner.summary["reward"]["best"], owner.summary["reward"]["at"]) == (1, 7)
    sink.close()
    owner.finish()
    assert wandb_reader.read(tmp_path).summary["reward"] == {"best": 1, "at": 7}


def test_two_monitors_one_after_the_other_keep_both_tables_of_alerts(init, tmp_path):
    owner = wandb.init(**init)
    owner.log({"loss": 1.0})
    for step in range(2):
        sink = WandbSink()
        sink.write(make_record(step, alerts=(alert(step),)))
        sink.close()
    owner.finish()
    assert len(wandb_reader.read(tmp_path).series("alerts/table")) == 2


@pytest.mark.parametrize("at", [0, 2, "end"])
def test_what_the_owner_puts_into_the_summary_stays_there(init, tmp_path, at):
    owner, sink = wandb.init(**init), WandbSink()
    sink.begin_run({})
    for step in range(4):
        sink.write(make_record(step, scalars={"reward": -1.0, "a/mean": 0.5}))
        if step == at:
            wandb.summary["reward"] = 7.0
        sink.write(make_record(100 + step, scalars={"reward": -1.0, "a/mean": 0.5}))
        owner.log({"loss": 1.0}, step=step)
    sink.write(make_record(999, scalars={"reward": -1.0, "a/mean": 0.5}))
    if at == "end":
        owner.summary["reward"] = 7.0
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert (run.summary["reward"], run.summary["a/mean"]) == (7.0, 0.5)
    assert [row["loss"] for row in run.history if "loss" in row] == [1.0] * 4
    ours = [row for row in run.history if row.get("reward") == -1.0 or row.get("monitor/reward") == -1.0]
    assert sorted(row["monitoring/step"] for row in ours) == [0, 1, 2, 3, 100, 101, 102, 103, 999]


def test_what_the_owner_logs_behind_that_counts_in_the_summary(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    for step in range(3):
        sink.write(make_record(step, scalars={"reward": -1.0}))
        owner.log({"loss": 1.0})
    owner.summary["reward"] = 7.0
    owner.log({"reward": 8.0})
    sink.close()
    owner.finish()
    assert wandb_reader.read(tmp_path).summary["reward"] == 8.0


def test_a_key_that_the_owner_has_defined_keeps_its_axis(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    sink.begin_run({})
    wandb.define_metric("reward", step_metric="train_step")
    for step in range(3):
        sink.write(make_record(step, scalars={"reward": -1.0}))
        owner.log({"reward": float(step), "train_step": 10 * step})
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert (run.metrics["reward"], run.metrics["monitor/reward"]) == ("train_step", "monitoring/step")
    assert run.series("reward") == [0.0, 1.0, 2.0]


def test_what_the_owner_logs_when_the_process_ends_is_kept_and_so_are_rows_that_wait(tmp_path):
    code = """
import atexit, os, sys, wandb
from tests.host.support import make_record
from tunrex_jax_monitor.host.sinks.wandb import WandbSink
run = wandb.init(mode="offline", dir=sys.argv[1], project="p")
atexit.register(lambda: run.log({"final": 0.9}, step=11))
sink = WandbSink()
for step in range(10):
    run.log({"loss": 1.0}, step=step)
    for part in range(4):
        sink.write(make_record(4 * step + part))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_SILENT": "true", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    run = wandb_reader.read(tmp_path)
    assert run.series("final") == [0.9]
    assert sorted({row["monitoring/step"] for row in rows_of(run)}) == list(range(40))


def test_a_run_that_we_have_logged_to_before_keeps_the_names_of_its_keys(init, tmp_path):
    owner, first = wandb.init(**init), WandbSink()
    owner.log({"reward": 0.0})
    for sink in (first, WandbSink()):
        sink.begin_run({"config": {"reward_names": ["a"]}})
        for step in range(2):
            sink.write(make_record(step, scalars={"reward": -1.0}))
            owner.log({"loss": 0.0})
        sink.close()
        for name in ("_log", "_finish"):  # what a new process sees of a run that it resumes
            delattr(owner, name)
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert set(run.series("reward")) == {0.0}
    assert set(run.series("monitor/reward")) == {-1.0}
    assert not any("monitor/monitor/reward" in row for row in run.history)


def test_a_section_of_the_owners_configuration_with_our_name_is_theirs(init, tmp_path):
    owner = wandb.init(config={"tunrex_jax_monitor": {"log_frequency": 10}}, **init)
    owner.log({"reward": 100.0})
    sink = WandbSink()
    sink.begin_run({"config": {"reward_names": ["a"]}})
    for step in range(3):
        sink.write(make_record(step, scalars={"reward": -1.0}))
        owner.log({"loss": 1.0})
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.config["tunrex_jax_monitor"] == {"log_frequency": 10}
    assert run.config["tunrex_jax_monitor_2"] == {"reward_names": ["a"]}
    assert run.series("reward") == [100.0]
    assert run.series("monitor/reward") == [-1.0] * 3


def test_a_sink_that_two_threads_log_by_joins_the_run_once(init, tmp_path, caplog, monkeypatch):
    owner, sink = wandb.init(**init), WandbSink()
    both, join = threading.Barrier(2), WandbSink._join

    def wait_and_join(*args):
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # for the other thread, which must not come
        return join(*args)

    monkeypatch.setattr(WandbSink, "_join", wait_and_join)
    threads = [threading.Thread(target=sink.log, args=({key: 1.0}, 0)) for key in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owner.log({"loss": 1.0})
    sink.close()
    owner.finish()
    assert "another monitor" not in caplog.text
    assert {"a", "b"} <= {key for row in wandb_reader.read(tmp_path).history for key in row}


def test_our_keys_have_our_axis_still_where_the_owner_has_one_of_its_name(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    sink.log({"ours": 0.0}, 0)
    for step in range(1, 4):
        owner.log({"monitoring/step": 100 + step})
        sink.log({"ours": float(step)}, step)
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.metrics["ours"] == "monitor/monitoring/step"
    assert {101, 102, 103} <= set(run.series("monitoring/step"))
    assert 3 in run.series("monitor/monitoring/step")


def test_the_run_is_looked_up_when_the_reporter_starts(init, tmp_path, caplog):
    owner, sinks = wandb.init(**init), [WandbSink(), WandbSink()]
    for sink in sinks:
        sink.begin_run({})
    assert "the keys of this one begin with 'monitor_2/'" in caplog.text
    owner.finish()
    sinks[0].write(make_record(0))
    assert "the run was finished before the monitor, after 0 records" in caplog.text


def test_a_second_run_in_the_process_is_noticed(init, tmp_path):
    sink = WandbSink()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        owner = wandb.init(**init | {"dir": tmp_path / name})
        for step in range(4):
            sink.write(make_record(step))
            owner.log({"loss": 1.0})
        owner.finish()
    for name in ("one", "two"):
        run = wandb_reader.read(tmp_path / name)
        assert sorted(set(run.series("a/mean"))) == [0.25 * step for step in range(4)]
        assert run.metrics["a/mean"] == "monitoring/step"


def test_a_run_that_nobody_logs_to_gets_every_row_at_the_end_and_shows_the_newest_meanwhile(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    for step in range(26):
        sink.write(make_record(step))
    assert owner.summary["a/mean"] == 0.25 * 25
    sink.close()
    owner.finish()
    assert sorted(wandb_reader.read(tmp_path).series("a/mean")) == [0.25 * step for step in range(26)]


def test_a_late_owner_with_small_steps_of_its_own_loses_nothing(init, tmp_path):
    owner, sink = wandb.init(**init), WandbSink()
    for step in range(50):  # an epoch of ours before the owner's first row
        sink.write(make_record(step))
    for epoch in range(5):
        owner.log({"loss": float(epoch)}, step=epoch)
        sink.write(make_record(50 + epoch))
    sink.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.series("loss") == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert sorted(run.series("a/mean")) == [0.25 * step for step in range(55)]
    assert run.summary["a/mean"] == 0.25 * 54


def test_an_alert_is_sent_once_in_a_while_and_all_stand_in_the_table(init, tmp_path):
    sink = WandbSink(own_run=True, **init)
    sink.begin_run({})
    for step in range(3):
        sink.write(make_record(step, alerts=(alert(step), alert(step, "b"))))
    sink.close()
    run = wandb_reader.read(tmp_path)
    assert [title for title, _ in run.alerts] == ["DROP: a", "DROP: b"]
    assert "Look at it." in run.alerts[0][1]
    assert run.series("alerts/table")[0]["nrows"] == 6


def test_without_a_run_one_warning_and_training_goes_on(init, caplog):
    sink = WandbSink()
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            sink.write(make_record(step))
        sink.close()
    assert caplog.text.count("there is no active run, so nothing goes there. Call wandb.init() first") == 1


def test_a_run_that_was_finished_before_us_costs_one_message(init, tmp_path, caplog):
    wandb.init(**init)
    with Reporter(ACC, [WandbSink()]) as reporter:
        mon = run_loop(reporter, 8)
        reporter.flush()
        wandb.finish()
        run_loop(reporter, 8, mon=mon, first=8)
    assert caplog.text.count("the run was finished before the monitor, after 2 records") == 1
    assert sum(record.name == "tunrex_jax_monitor" for record in caplog.records) == 1


def test_a_sink_that_was_closed_before_the_run_complains_of_new_steps_alone(init, tmp_path, caplog):
    owner, sink = wandb.init(**init), WandbSink()
    sink.write(make_record(7))
    sink.close()
    owner.finish()
    sink.write(make_record(7))  # the last record, for sinks that are still open
    sink.close()
    assert "the run was finished" not in caplog.text
    for step in (8, 9):
        sink.write(make_record(step))
    assert caplog.text.count("the run was finished before the monitor, after 1 records") == 1


@pytest.mark.parametrize("own", [True, False])
def test_a_disabled_run_takes_everything_and_there_is_nothing_to_say(init, tmp_path, caplog, own):
    owner, given = (None, init | {"mode": "disabled"}) if own else (wandb.init(mode="disabled"), {})
    sink = WandbSink(own_run=own, tags=["t"], config={"lr": 0.1}, **given)
    with Reporter(ACC, [sink]) as reporter:
        mon = run_loop(reporter, 8)
        reporter.flush()
        if owner is not None:
            owner.log({"loss": 1.0})
            owner.finish()
        run_loop(reporter, 8, mon=mon, first=8)
    assert not [record for record in caplog.records if record.name == "tunrex_jax_monitor"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run": object(), "own_run": True}, "own_run: got True, allowed: False when a run is given"),
        ({"project": "p"}, "init: got .'project'., allowed: arguments of wandb.init with own_run=True"),
        ({"histogram_frequency": 0}, "histogram_frequency: got 0"),
        ({"histogram_bins": 0}, "histogram_bins: got 0"),
        ({"prefix": 3}, "prefix: got 3, allowed: a text"),
    ],
)
def test_arguments_that_contradict_are_refused(arguments, message):
    with without_runtime_types(), pytest.raises(ValueError, match=message):
        WandbSink(**arguments)


@pytest.mark.parametrize(
    "given",
    [
        {"run": 5},
        {"commit": "no"},
        {"own_run": "yes"},
        {"own_run": np.array([True, False])},
        {"notify": 1},
        {"histogram_bins": 5000},
        {"config": 5},
    ],
    ids=str,
)
def test_an_argument_that_is_wrong_is_refused(given):
    (argument,) = given
    with without_runtime_types(), pytest.raises(ValueError, match=f"{argument}: got .*, allowed"):
        WandbSink(**given)


@pytest.mark.parametrize("key", ["best", "ours"])
def test_what_the_owner_puts_into_the_summary_asks_nothing_of_the_service(init, tmp_path, monkeypatch, key):
    owner, sink = wandb.init(**init), WandbSink()
    owner.log({"loss": 1.0})
    sink.log({"ours": 2.0}, 0)
    step = type(owner).step
    asked = []
    monkeypatch.setattr(type(owner), "step", property(lambda run: asked.append(run) or step.fget(run)))
    monkeypatch.setattr(type(owner.summary), "get", lambda *_: asked.append("summary"))
    owner.summary[key] = 3.0
    assert not asked
    monkeypatch.undo()
    owner.log({"loss": 2.0})
    sink.log({"ours": 4.0}, 1)
    owner.finish()
    assert wandb_reader.read(tmp_path).summary[key] == 3.0


def test_a_service_that_hangs_with_us_does_not_hold_the_owner(init, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_rows, "_PATIENCE_SECONDS", 0.1)
    owner, sink = wandb.init(**init), WandbSink()
    sink.begin_run({})
    shared = wandb_rows.SharedRun.of(owner)
    entered, gate = threading.Event(), threading.Event()

    def hang():
        with shared._lock:
            entered.set()
            gate.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    entered.wait()
    for step in range(50):  # would wait for ever
        owner.log({f"loss_{step}": 1.0})
    owner.define_metric("loss", summary="min")
    owner.summary["loss"] = 3.0
    gate.set()
    thread.join()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert len([row for row in run.history if any(key.startswith("loss") for key in row)]) == 50
    assert run.summary["loss"] == 3.0
