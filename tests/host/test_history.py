"""History: the same from a sink, a run directory and an export; bounded; bad input is told or works."""

import json

import numpy as np
import pytest

from tests.host.report import runs
from tests.host.support import make_record
from tunrex_jax_monitor.host import emissions
from tunrex_jax_monitor.host.files import to_json
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent, Histogram, Record

STEPS = 500


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return runs.write(tmp_path_factory.mktemp("run") / "run", steps=STEPS)


@pytest.fixture(scope="module")
def history(run_dir):
    return History.read(run_dir)


def same_pictures(a, b):
    """Everything that a picture reads."""
    assert a.names == b.names
    assert a.series == b.series
    assert a.alerts == b.alerts
    assert dict(a.emissions.scalars) == dict(b.emissions.scalars)
    for name in a.names:
        assert a.emissions.histograms(name) == b.emissions.histograms(name)
    assert (a.last.scalars, a.last.histograms, a.last.counters) == (b.last.scalars, b.last.histograms, b.last.counters)


def test_what_is_read_is_what_was_recorded(history):
    made = runs.records(steps=STEPS)
    assert history.series["step"] == list(range(STEPS))
    assert history.series["answer/mean"] == [v for record in made for v in record.series["answer/mean"]]
    assert history.emissions.steps.tolist() == [record.step for record in made]
    assert history.emissions.scalars["answer/p10"] == [record.scalars["answer/p10"] for record in made]
    expected = [(record.step, record.histograms["answer/histogram"]) for record in made]
    assert history.emissions.histograms("answer") == expected
    assert history.alerts == [alert for record in made for alert in record.alerts]


def test_the_export_holds_all_that_pictures_need(history):
    same_pictures(History.from_export(json.loads(to_json(history.to_export()))), history)


def test_the_manifest_goes_through_the_export(history):
    again = History.from_export(json.loads(to_json(history.to_export())))
    assert again.config == history.config
    for key in ("versions", "devices", "start_time", "host"):
        assert again.manifest[key] == history.manifest[key]


def test_a_sink_beside_the_run_has_the_same(history):
    sink = History()
    sink.begin_run({"config": {"reward_names": list(history.names)}, "devices": []})
    for record in runs.records(steps=STEPS):
        sink.write(record)
    same_pictures(sink, history)
    assert sink.manifest["versions"] == history.manifest["versions"]


def test_a_record_that_repeats_an_update_takes_the_place_of_the_last_row():
    history = History()
    for update, mean in ((4, 0.25), (8, 0.5), (8, 0.75)):
        history.write(Record(step=update, update=update, time=0.0, names=("a",), scalars={"a/mean": mean}))
    assert history.emissions.scalars["a/mean"] == [0.25, 0.75]


def test_edges_that_are_not_even_come_back_exactly():
    uneven = Histogram([1, 2], [0.1, 0.2, 0.7])
    history = History()
    history.write(Record(1, 1, 0.0, {"a/mean": 0.1}, {"a/histogram": uneven}, names=("a",)))
    again = History.from_export(json.loads(to_json(history.to_export())))
    assert history.emissions.histograms("a") == again.emissions.histograms("a") == [(1, uneven)]


def test_emissions_are_bounded(monkeypatch):
    monkeypatch.setattr(emissions, "ROWS", 64)
    monkeypatch.setattr(emissions, "HISTOGRAMS", 16)
    kept = emissions.Emissions()
    for step in range(1000):
        shown = {"a/histogram": Histogram([step], [0.0, 1.0])}
        kept.write(
            Record(step, step + 1, 0.0, {"a/p10": 1.0 * step, "a/min": -1.0 * (step == 500)}, shown, names=("a",))
        )
    assert kept.scalars.rows <= 64
    assert len(kept.histograms("a")) <= 16
    assert kept.array("a/min").min() == -1.0
    assert kept.array("a/p10")[:2].tolist() == [np.mean(range(32)), np.mean(range(32, 64))]
    assert kept.array("a/p10")[-1] == 999.0
    for step, histogram in kept.histograms("a"):
        assert step % kept.histogram_stride == 0
        assert histogram.counts == [step]


def test_a_run_that_went_back_counts_updates_in_its_pictures():
    made = []
    for update, first in ((4, 0), (8, 4), (12, 2), (16, 6)):  # back to step 2 after step 7
        steps = list(range(first, first + 4))
        alert = AlertEvent(3, "a", "DROP", "DROP: a", "Go.") if first == 2 else None
        series = {"step": steps, "a/mean": [float(step) for step in steps], "a/alerts": [0, 2 * (first == 2), 0, 0]}
        shown = {"a/histogram": Histogram([1], [0.0, 1.0])}
        alerts = (alert,) if alert else ()
        made.append(Record(steps[-1], update, 0.0, {"a/p10": 0.5}, shown, series, alerts, names=("a",)))
    history = History.of(made)
    ordered = history.in_order()
    assert history.series["step"] == [0, 1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (ordered.axis, ordered.series["step"]) == ("update", list(range(16)))
    assert ordered.series["a/mean"] == history.series["a/mean"]
    assert ordered.emissions.steps.tolist() == [3, 7, 11, 15]
    assert [step for step, _ in ordered.emissions.histograms("a")] == [3, 7, 11, 15]
    assert [alert.step for alert in ordered.alerts] == [3]
    assert ordered.last == history.last


def test_a_run_whose_steps_go_on_is_left_as_it_is(history):
    assert history.in_order() is history


def test_an_empty_run_has_the_names_of_its_manifest(tmp_path):
    runs.write(tmp_path / "run", steps=10)
    (tmp_path / "run" / "records.jsonl").write_text("")
    history = History.read(tmp_path / "run")
    assert (history.names, history.last, history.series.rows) == (runs.NAMES, None, 0)
    assert History.from_export(json.loads(to_json(history.to_export()))).names == runs.NAMES


def test_records_without_a_manifest_are_a_run(tmp_path):
    runs.write(tmp_path / "run", steps=10)
    (tmp_path / "run" / "manifest.json").unlink()
    history = History.read(tmp_path / "run")
    assert (history.names, history.manifest) == (runs.NAMES, {})


def test_a_line_torn_by_a_kill_costs_itself_only(tmp_path, caplog):
    path = runs.write(tmp_path / "run", steps=40) / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    assert History.read(tmp_path / "run").series.rows == 30
    assert "torn last line" in caplog.text


def test_a_directory_that_is_no_run_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run_dir: got .*allowed a directory that JsonlSink wrote"):
        History.read(tmp_path)


def test_a_path_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: got .*does not exist, allowed a run directory or"):
        History.read(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{", "not json", "\x00\xff"])
def test_a_file_that_is_no_export_is_told(tmp_path, text):
    (tmp_path / "monitoring_data.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"monitoring_data.json: got .*, allowed one (JSON )?object"):
        History.read(tmp_path / "monitoring_data.json")


@pytest.mark.parametrize("data", [[], "text", {"schema": 99}, {"schema": 1}])
def test_an_export_of_another_schema_is_told(data):
    with pytest.raises(ValueError, match=r"data: got schema .*, allowed 1\. Pass the content"):
        History.from_export(data)


@pytest.mark.parametrize("damage", [{"series": 3}, {"scalars": None, "updates": 1, "alerts": 5}, {"emissions": [1]}])
def test_a_damaged_export_is_told(history, damage):
    data = json.loads(to_json(history.to_export()))
    with pytest.raises(ValueError, match=r"(?s)data: got a damaged export .*, allowed what to_export returned"):
        History.from_export(data | damage)


def test_garbage_in_the_middle_is_told_with_its_line(tmp_path):
    path = runs.write(tmp_path / "run", steps=40) / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "garbage", *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"records.jsonl, line 2: got .*garbage"):
        History.read(tmp_path / "run")


def test_a_series_of_something_else_than_numbers_is_told(tmp_path):
    runs.write(tmp_path / "run", steps=10)
    record = make_record(11, names=("a",), series={"step": [11], "a/mean": ["high"]})
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write(record.to_json() + "\n")
    with pytest.raises(
        ValueError, match=r"records.jsonl, line \d+: got .*series: got .*, allowed: lists of one length by key"
    ):
        History.read(tmp_path / "run")


def test_a_manifest_of_another_schema_is_told(tmp_path):
    runs.write(tmp_path / "run", steps=10)
    (tmp_path / "run" / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match=r"got schema 99, allowed 1"):
        History.read(tmp_path / "run")
