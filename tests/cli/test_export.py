import csv
import io

import numpy as np
import pytest

from tests import wandb_reader
from tests.cli.support import REWARDS, STEPS, call, call_json, export_file, healthy, run_dir
from tests.host import test_tensorboard_sink
from tests.host.report import runs

RECORDS = runs.records(steps=STEPS, rewards=REWARDS)


def rows(*arguments):
    return list(csv.DictReader(io.StringIO(call("export", *arguments, "--to", "csv", "-o", "-").stdout)))


def test_csv_has_a_row_per_step_with_the_means_of_the_samples():
    table = rows(run_dir())
    x = runs.samples(STEPS, REWARDS, True, 0).reshape(STEPS, REWARDS, -1).astype(np.float64)
    assert [int(row["step"]) for row in table] == list(range(STEPS))
    for i, name in enumerate(runs.NAMES[:REWARDS]):
        got = [float(row[f"{name}/mean"]) for row in table]
        np.testing.assert_allclose(got, np.nanmean(x[:, i], axis=-1), rtol=1e-6)


def test_csv_of_records_has_every_scalar_at_its_step():
    table = rows(run_dir(), "--table", "records")
    assert [int(row["step"]) for row in table] == [record.step for record in RECORDS]
    for row, record in zip(table, RECORDS, strict=True):
        assert {k: float(v) for k, v in row.items() if v and k not in ("step", "update", "time")} == record.scalars


def test_csv_of_alerts_has_every_alert():
    alerts = [alert for record in RECORDS for alert in record.alerts]
    table = rows(run_dir(), "--table", "alerts")
    assert [(int(r["step"]), r["reward"], r["type"], r["message"]) for r in table] == [
        (a.step, a.reward, a.type, a.message) for a in alerts
    ]


def test_a_missing_value_is_an_empty_cell_and_a_hostile_name_stays_itself(tmp_path):
    run = runs.write(tmp_path / "run", steps=30, names=runs.HOSTILE, rewards=len(runs.HOSTILE), faults=False)
    assert set(rows(run)[0]) >= {f"{name}/mean" for name in runs.HOSTILE}


def test_parquet_holds_the_same_numbers_as_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    call("export", run_dir(), "--to", "parquet", "-o", tmp_path / "steps.parquet")
    table = parquet.read_table(tmp_path / "steps.parquet").to_pydict()
    (column,) = (
        {key: [float(r[key]) if r[key] else None for r in rows(run_dir())] for key in ("step", "answer/mean")},
    )
    assert {key: [None if v is None else float(v) for v in table[key]] for key in column} == column
    assert [path.name for path in tmp_path.iterdir()] == ["steps.parquet"]


def test_files_go_beside_the_run_and_replace_nothing(tmp_path):
    run = healthy(tmp_path / "run", steps=20)
    assert call_json("export", run, "--to", "csv")["rows"] == 20
    assert (run / "steps.csv").is_file()
    assert "add --force" in call("export", run, "--to", "csv", code=2).stderr


def test_tensorboard_gets_each_record_at_its_own_step(tmp_path):
    pytest.importorskip("tensorboardX")
    run = healthy(tmp_path / "run", steps=50)
    assert call_json("export", run, "--to", "tensorboard", "-o", tmp_path / "logs")["records"] == 5
    means = [
        (step, v.simple_value) for step, tag, v in test_tensorboard_sink.read(tmp_path / "logs") if tag == "answer/mean"
    ]
    expected = [
        (r.step, np.float32(r.scalars["answer/mean"])) for r in runs.records(steps=50, rewards=REWARDS, faults=False)
    ]
    assert means == expected
    assert (
        "TensorBoard would show both"
        in call("export", run, "--to", "tensorboard", "-o", tmp_path / "logs", code=2).stderr
    )


@pytest.mark.wandb
def test_wandb_gets_each_record_at_its_own_step_and_no_alert_is_sent(tmp_path):
    arguments = ("--to", "wandb", "--offline", "-o", tmp_path, "--project", "replayed", "--name", "again")
    assert call_json("export", run_dir(), *arguments)["records"] == len(RECORDS)
    run = wandb_reader.read(tmp_path)
    points = [(row["monitoring/step"], row["answer/mean"]) for row in run.history if "answer/mean" in row]
    assert points == [(record.step, record.scalars["answer/mean"]) for record in RECORDS]
    assert run.alerts == []
    assert any("alerts/table" in row for row in run.history)


@pytest.mark.parametrize("arguments", [
    ("--to", "csv", "--project", "p"), ("--to", "tensorboard", "--offline"), ("--to", "wandb", "-o", "-"),
])  # fmt: skip
def test_an_option_of_another_target_is_refused(arguments):
    assert "allowed: " in call("export", run_dir(), *arguments, code=2).stderr


def test_an_export_file_has_all_steps_and_one_record(tmp_path):
    path = export_file(tmp_path / "monitoring_data.json")
    assert len(rows(path)) == STEPS
    assert len(rows(path, "--table", "records")) == 1
