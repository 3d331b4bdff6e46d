"""RewardMetricsLogger and the integration on W&B, judged by reading offline runs back."""

import contextlib
import json
import logging
import os
import re
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tests import wandb_reader
from tests.device.support import without_runtime_types

try:
    import wandb
except ImportError:  # tests/conftest.py skips what is marked, or fails it
    wandb = None

pytestmark = [pytest.mark.wandb, pytest.mark.filterwarnings("default")]  # of what wandb imports


@pytest.fixture
def init(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield {"mode": "offline", "dir": tmp_path, "project": "p"}
    with contextlib.suppress(ConnectionError):  # where a test has killed its other end
        wandb.teardown()


def constant(prompts, completions, **kwargs):
    return [0.25, 0.75] * (len(completions) // 2)


def test_rows_join_the_owners_and_carry_their_own_step(init, tmp_path):
    owner, logger = wandb.init(**init), trm.RewardMetricsLogger(tags=["ours"], config={"lr": 0.5})
    logger.begin_run({"config": {"window_size": 3}})
    rng, batches = np.random.default_rng(0), []
    for step in range(6):
        batches.append(rng.normal(size=5).astype(np.float32))
        logger.log_reward_batch({"a": batches[-1].tolist(), "b": 1.0}, step=10 * step)
        owner.log({"loss": float(step)}, step=step)
    logger.log_distributions(step=30)
    logger.log_summary_table({"a": trm.RewardStats("a", mean=1.0)}, step=30)
    logger.log_alerts(["DROP: a - fell", {"message": "DROP: a - fell again"}, "SPIKE: a - rose"], step=30)
    logger.log_step({"own/key": 2.0}, step=40)
    logger.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert [row["loss"] for row in run.history if "loss" in row] == [float(step) for step in range(6)]
    rows = {row["monitoring/step"]: row for row in run.history if "rewards/a/mean" in row}
    for step, batch in enumerate(batches[2:], start=2):  # until the owner has moved on, rows are held
        x = batch.astype(float)
        row = rows[10 * step]
        want = {"mean": x.mean(), "std": x.std(), "min": x.min(), "max": x.max(), "median": np.median(x), "count": 5}
        for key, value in want.items():
            assert row[f"rewards/a/{key}"] == pytest.approx(value, rel=1e-5)
    merged = {key for row in run.history for key in row}
    assert {"a/histogram", "rewards/summary_table", "own/key"} <= merged
    assert len(run.alerts) == 2
    assert run.config["lr"] == 0.5


def take_step(monitoring, step):
    (function,) = monitoring.get_wrapped_reward_functions()
    function(prompts=["p"] * 4, completions=["c"] * 4)
    monitoring.update_step(step)


def test_without_a_run_one_warning_and_training_goes_on(init, tmp_path, caplog):
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path, log_frequency=2)
    with caplog.at_level(logging.WARNING):
        for step in range(6):
            take_step(monitoring, step)
        monitoring.finalize()
    assert caplog.text.count("W&B: there is no active run") == 1
    assert (tmp_path / "monitoring_data.json").exists()


def test_the_integration_on_somebody_elses_run_keeps_every_row_of_both(init, tmp_path):
    owner = wandb.init(**init)
    monitoring = trm.setup_grpo_monitoring(
        [constant], verbose=False, output_dir=tmp_path / "out", log_frequency=1, histogram_bins=4, wandb_tags=["grpo"]
    )
    for step in range(12):
        take_step(monitoring, step)
        monitoring.flush(60.0)
        owner.log({"loss": float(step)}, step=step)
    monitoring.finalize()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert [row["loss"] for row in run.history if "loss" in row] == [float(step) for step in range(12)]
    rows = [row for row in run.history if "constant/mean" in row]
    assert {row["monitoring/step"] for row in rows} >= set(range(2, 12))
    assert all(row["constant/mean"] == 0.5 for row in rows)
    assert rows[-1]["reward_fn/constant/calls"] == 12
    histograms = [row["constant/histogram"] for row in run.history if "constant/histogram" in row]
    assert histograms
    assert all(sum(h["values"]) in range(4, 49) and len(h["values"]) <= 4 for h in histograms)


def test_a_run_that_is_finished_under_us_costs_a_message(init, tmp_path, caplog):
    owner = wandb.init(**init)
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path / "out", log_frequency=1)
    for step in range(6):
        take_step(monitoring, step)
        monitoring.flush(60.0)
        if step == 3:
            owner.finish()
    monitoring.finalize()
    assert caplog.text.count("the run was finished before the monitor") == 1
    assert (tmp_path / "out" / "monitoring_data.json").exists()


def test_a_run_that_ends_behind_the_flush_for_it_costs_no_message(init, tmp_path, caplog):
    owner = wandb.init(**init)
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path / "out", log_frequency=3)
    for step in range(7):
        take_step(monitoring, step)
    monitoring.flush(60.0, wandb_ends=True)
    owner.finish()
    monitoring.finalize()
    assert not [record for record in caplog.records if record.name == "tunrex_jax_monitor"]
    assert wandb_reader.read(tmp_path).summary["monitoring/step"] == 6


def test_switched_off_it_logs_nowhere(init):
    logger = trm.RewardMetricsLogger(use_wandb=False)
    logger.log_step({"a": 1.0})
    logger.log_reward_batch({"a": [1.0]})
    logger.log_alerts(["DROP: a - fell"])
    logger.close()
    assert not logger.use_wandb


def test_what_the_owner_logs_after_finalize_is_not_lost(init, tmp_path):
    owner = wandb.init(**init)
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path / "out", log_frequency=1)
    for step in range(8):
        take_step(monitoring, step)
    monitoring.finalize()
    for step in range(8):
        owner.log({"loss": float(step)}, step=step)
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert [row["loss"] for row in run.history if "loss" in row] == [float(step) for step in range(8)]
    ours = {row["monitoring/step"] for row in run.history if "constant/mean" in row}
    assert ours == set(range(8))


def test_bad_input_is_told_and_logged_as_far_as_it_goes(init, tmp_path, caplog):
    owner, logger = wandb.init(**init), trm.RewardMetricsLogger()
    with without_runtime_types(), caplog.at_level(logging.WARNING):
        logger.log_alerts(None)
        logger.log_alerts(3)
        logger.log_alerts([{"message": "DROP: a - fell"}, "DROP: b - fell", {"no": "message"}])
        logger.log_alerts(["DROP: a - fell", "SPIKE: b - rose"], step="x")
        logger.log_step({"own": 1.0}, step="x")
        logger.log_reward_batch({"a": "2"})
        logger.log_summary_table({"a": {"mean": 0.5, "other": 1}, "b": trm.RewardStats("b")})
        logger.log_alerts(["DROP: a - fell"])
    logger.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert sorted(run.series("alerts/DROP")) == [2.0, 3.0, 4.0]
    assert sorted(run.series("alerts/total")) == [2.0, 4.0, 5.0]
    assert run.series("own") == [1.0]
    assert run.series("rewards/summary_table")[0]["nrows"] == 2
    assert "step: got 'x', allowed: a whole number" in caplog.text
    assert "allowed: numbers and None" in caplog.text


def test_what_is_wrong_is_left_out_alone(init, tmp_path, caplog):
    owner, logger = wandb.init(**init), trm.RewardMetricsLogger(commit=True)
    with without_runtime_types(), caplog.at_level(logging.WARNING):
        logger.log_alerts(["DROP: a - fell", {"step": 3}])
        logger.log_alerts({"message": "SPIKE: b - rose"})
        logger.log_reward_batch({"good": [1, 2], "bad": ["x"]})
        logger.log_step({"loss": 1.0, 7: 2.0})
        logger.log_summary_table({"a": {"mean": 0.5}, "b": 5})
    logger.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.series("alerts/DROP") == [1.0, 1.0]
    assert run.series("alerts/SPIKE") == [1.0]
    assert run.series("rewards/good/mean") == [1.5]
    assert run.series("loss") == [1.0]
    assert run.series("rewards/summary_table")[0]["nrows"] == 1
    assert caplog.text.count("is left out") == 4
    assert "W&B: alerts: {'step': 3} is left out" in caplog.text
    assert "W&B: metrics: (7, 2.0) is left out: ValueError: key: got 7, allowed: a text" in caplog.text


@pytest.mark.parametrize("options", [{"log_frequency": 0}, {"histogram_bins": 513}, {"histogram_bins": 0}])
def test_bad_configuration_fails_at_once(options):
    with without_runtime_types(), pytest.raises(ValueError, match=r"got .*, allowed"):
        trm.RewardMetricsLogger(use_wandb=False, **options)


def test_wandb_that_is_killed_under_us_costs_its_rows_only(init, tmp_path, caplog):
    owner = wandb.init(**init)
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path / "out", log_frequency=1)
    for step in range(8):
        take_step(monitoring, step)
        monitoring.flush(60.0)
        if step == 3:
            for pid in children_named("wandb-core"):
                os.kill(pid, signal.SIGKILL)
    monitoring.finalize()
    with contextlib.suppress(Exception):
        owner.finish()
    failed, counted = [record.getMessage() for record in caplog.records if record.name == "tunrex_jax_monitor"]
    assert re.match(r"W&B failed and is switched off \(\w+Error.*\); training goes on", failed)
    assert re.fullmatch(r"W&B did not get \d+ records", counted)
    data = json.loads((tmp_path / "out" / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(8))


def test_wandb_that_is_dead_at_the_start_costs_its_rows_only(init, tmp_path, caplog):
    wandb.init(**init)
    for pid in children_named("wandb-core"):
        os.kill(pid, signal.SIGKILL)
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path / "out", log_frequency=1)
    for step in range(4):
        take_step(monitoring, step)
    monitoring.finalize()
    assert caplog.text.count("W&B failed and is switched off") == 1
    assert len((monitoring.run_dir / "records.jsonl").read_text().splitlines()) >= 4


def children_named(name):
    tree = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = path.read_text().split(" ", 1)
            command, _, fields = rest.rpartition(") ")
            tree[int(pid)] = command, int(fields.split()[1])
    return [pid for pid, (command, parent) in tree.items() if name in command and parent == os.getpid()]


@pytest.mark.parametrize(
    "given",
    [{"log_histograms": "x"}, {"commit": "no"}, {"tags": "abc"}, {"tags": 5}, {"config": 5}, {"prefix": 3}],
    ids=str,
)
@pytest.mark.parametrize("use_wandb", [True, False])
def test_what_is_wrong_is_refused_with_what_is_allowed(given, use_wandb):
    (argument,) = given
    with without_runtime_types(), pytest.raises(ValueError, match=f"{argument}: got .*, allowed"):
        trm.RewardMetricsLogger(use_wandb=use_wandb, **given)
    with without_runtime_types(), pytest.raises(ValueError, match=r"use_wandb: got 'x', allowed"):
        trm.RewardMetricsLogger(use_wandb="x")


NAN = float("nan")


def test_what_is_not_finite_stands_in_no_row_and_no_table(init, tmp_path):
    owner, logger = wandb.init(**init), trm.RewardMetricsLogger()
    wrapped = {
        "jax": jnp.float32(NAN),
        "bfloat16": jnp.bfloat16(NAN),
        "numpy": np.array(NAN),
        "scalar": np.float16("inf"),
        "nested": {"a": NAN, "b": {"c": -float("inf")}},
        "all": np.full(3, NAN),
    }
    kept = {
        "some": {"a": NAN, "b": [1.0, NAN, (2.0, NAN)]},
        "array": jnp.array([1.0, NAN, 3.0]),
        "half": jnp.array([0.5, NAN], jnp.bfloat16),
        "text": np.array(["nan"]),
    }
    logger.log_step({"a": NAN, "b": 1.0, "c": float("inf"), **wrapped, **kept}, step=0)
    logger.log_summary_table({"a": {"mean": float("nan"), "std": 0.5}}, step=0)
    logger.log_alerts("DROP: a - fell", step=0)
    logger.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.series("b") == [1.0]
    assert not {"a", "c", *wrapped} & {key for row in run.history for key in row}
    assert run.series("some") == [{"b": [1.0, None, [2.0, None]]}]
    assert (run.series("array"), run.series("half")) == ([[1.0, 3.0]], [0.5])
    assert run.series("text") == ["nan"]
    assert run.series("alerts/DROP") == [1.0]
    (table,) = tmp_path.rglob("*summary_table*.json")
    assert json.loads(table.read_text(), parse_constant=pytest.fail)["data"][0][:3] == ["a", None, 0.5]
