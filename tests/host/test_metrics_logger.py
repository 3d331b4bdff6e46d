"""RewardMetricsLogger and the integration on W&B, judged by reading offline runs back."""

import contextlib
import json
import logging
import os
import signal
from pathlib import Path

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


def test_without_a_run_one_warning_and_training_goes_on(init, tmp_path, caplog):
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path, log_frequency=2)
    with caplog.at_level(logging.WARNING):
        for step in range(6):
            monitoring.get_wrapped_reward_functions()[0](prompts=["p"] * 4, completions=["c"] * 4)
            monitoring.update_step(step)
        monitoring.finalize()
    assert caplog.text.count("W&B: there is no active run") == 1
    assert (tmp_path / "monitoring_data.json").exists()


def test_the_integration_on_somebody_elses_run_keeps_every_row_of_both(init, tmp_path):
    owner = wandb.init(**init)
    monitoring = trm.setup_grpo_monitoring(
        [constant], verbose=False, output_dir=tmp_path / "out", log_frequency=1, histogram_bins=4, wandb_tags=["grpo"]
    )
    for step in range(12):
        monitoring.get_wrapped_reward_functions()[0](prompts=["p"] * 4, completions=["c"] * 4)
        monitoring.update_step(step)
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
        monitoring.get_wrapped_reward_functions()[0](prompts=["p"] * 4, completions=["c"] * 4)
        monitoring.update_step(step)
        monitoring.flush(60.0)
        if step == 3:
            owner.finish()
    monitoring.finalize()
    assert caplog.text.count("the run was finished before the monitor") == 1
    assert (tmp_path / "out" / "monitoring_data.json").exists()


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
        monitoring.get_wrapped_reward_functions()[0](prompts=["p"] * 4, completions=["c"] * 4)
        monitoring.update_step(step)
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
    assert sorted(run.series("alerts/DROP")) == [1.0, 2.0]
    assert sorted(run.series("alerts/total")) == [2.0, 3.0]
    assert run.series("own") == [1.0]
    assert run.series("rewards/summary_table")[0]["nrows"] == 2
    assert "step: got 'x', allowed: a whole number" in caplog.text
    assert "allowed: numbers and None" in caplog.text


@pytest.mark.parametrize("options", [{"log_frequency": 0}, {"histogram_bins": 513}, {"histogram_bins": 0}])
def test_bad_configuration_fails_at_once(options):
    with without_runtime_types(), pytest.raises(ValueError, match=r"got .*, allowed"):
        trm.RewardMetricsLogger(use_wandb=False, **options)


def test_wandb_that_is_killed_under_us_costs_its_rows_only(init, tmp_path, caplog):
    owner = wandb.init(**init)
    monitoring = trm.setup_grpo_monitoring([constant], verbose=False, output_dir=tmp_path / "out", log_frequency=1)
    for step in range(8):
        monitoring.get_wrapped_reward_functions()[0](prompts=["p"] * 4, completions=["c"] * 4)
        monitoring.update_step(step)
        monitoring.flush(60.0)
        if step == 3:
            for pid in children_named("wandb-core"):
                os.kill(pid, signal.SIGKILL)
    monitoring.finalize()
    with contextlib.suppress(Exception):
        owner.finish()
    assert "failed and is switched off" in caplog.text or "did not take" in caplog.text
    data = json.loads((tmp_path / "out" / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(8))


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
    [{"use_wandb": "x"}, {"log_histograms": "x"}, {"commit": "no"}, {"tags": "abc"}, {"config": 5}, {"prefix": 3}],
    ids=str,
)
def test_what_is_wrong_is_refused_with_what_is_allowed(given):
    (argument,) = given
    with without_runtime_types(), pytest.raises(ValueError, match=f"{argument}: got .*, allowed"):
        trm.RewardMetricsLogger(**given)


def test_what_is_not_finite_stands_in_no_row_and_no_table(init, tmp_path):
    owner, logger = wandb.init(**init), trm.RewardMetricsLogger()
    logger.log_step({"a": float("nan"), "b": 1.0, "c": float("inf")}, step=0)
    logger.log_summary_table({"a": {"mean": float("nan"), "std": 0.5}}, step=0)
    logger.log_alerts("DROP: a - fell", step=0)
    logger.close()
    owner.finish()
    run = wandb_reader.read(tmp_path)
    assert run.series("b") == [1.0]
    assert run.series("a") == run.series("c") == []
    assert run.series("alerts/DROP") == [1.0]
    (table,) = tmp_path.rglob("*summary_table*.json")
    assert json.loads(table.read_text(), parse_constant=pytest.fail)["data"][0][:3] == ["a", None, 0.5]
