"""Whatever is in a file, a reader returns what can be worked with, or says clearly what is wrong and where."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.device.support import without_runtime_types
from tests.fuzz.mutations import EXPORT, LINES, MANIFEST, RECORDS, texts, trees
from tests.host.support import make_record
from tunrex_jax_monitor.host.files import to_json
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Record
from tunrex_jax_monitor.host.rundir import iter_records, read_manifest
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True, scope="module")
def as_users_run_it():
    with without_runtime_types():
        yield


def cases(count):
    """The same cases each time; 10,500 in all."""
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


def attempt(read):
    """Return what is read, or None where it is refused with all four parts of an error."""
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert "got " in text, text
        assert "allowed" in text.split("got ", 1)[1], text
        assert ". " in text.split("allowed", 1)[1] or ": " in text.split("allowed", 1)[1], text
        return None


def use(history):
    """Do what reports and exports do; what has been read must bear it."""
    exported = json.loads(to_json(history.to_export()))
    again = History.from_export(exported) if history.names else history
    assert again.series == history.series
    assert again.alerts == history.alerts
    assert len({len(column) for column in history.series.values()}) <= 1
    str(exported).encode()


@cases(3500)
@given(trees(LINES))
def test_a_record_is_read_or_refused(tree):
    record = attempt(lambda: Record.from_json(json.dumps(tree)))
    if record is not None:
        assert Record.from_json(record.to_json()) == record
        use(History.of([record]))


@cases(2500)
@given(texts(LINES))
def test_a_run_is_read_or_refused(folder, data):
    (folder / "records.jsonl").write_bytes(data)
    records = attempt(lambda: list(iter_records(folder, on_torn=lambda size: None)))
    if records:
        use(History.of(records))


@cases(1000)
@given(texts(LINES))
def test_a_run_goes_on_or_is_refused(folder, data):
    (folder / "records.jsonl").write_bytes(data)
    (folder / "manifest.json").unlink(missing_ok=True)

    def go_on():
        sink = JsonlSink(folder, resume=True)
        try:
            sink.write(make_record(2**40))
        finally:
            sink.close()
        return sink

    if attempt(go_on):
        assert (folder / "records.jsonl").read_bytes().endswith(make_record(2**40).to_json().encode() + b"\n")


@cases(1000)
@given(texts([MANIFEST]))
def test_a_manifest_is_read_or_refused(folder, data):
    (folder / "manifest.json").write_bytes(data)
    manifest = attempt(lambda: read_manifest(folder))
    if manifest is not None:
        assert isinstance(manifest.get("config", {}), dict)
        assert json.loads(json.dumps(manifest)) == manifest


@cases(1500)
@given(trees([EXPORT]))
def test_an_export_is_taken_or_refused(tree):
    history = attempt(lambda: History.from_export(tree))
    if history is not None:
        use(history)


@cases(1000)
@given(st.one_of(texts([EXPORT]), texts(LINES)))
def test_a_file_is_taken_for_an_export_or_refused(folder, data):
    path = folder / "monitoring_data.json"
    path.write_bytes(data)
    history = attempt(lambda: History.read(path))
    if history is not None:
        use(history)


def test_what_was_not_damaged_is_read():
    assert [Record.from_json(json.dumps(line)) for line in LINES] == RECORDS
    assert History.from_export(EXPORT).series == History.of(RECORDS).series


def test_a_path_that_is_not_there_is_named(tmp_path):
    assert attempt(lambda: History.read(tmp_path / "none.json")) is None
    assert attempt(lambda: History.read(tmp_path)) is None
