"""Whole-run scans: packed rows come out as scan outputs and are written afterwards."""

import jax
import numpy as np
import pytest

from tests.host.streams import ACC, EVERY, assert_same_records, numbered, pulled, stacked, updates
from tunrex_jax_monitor import MemorySink, Reporter, read_records

STEPS = 12


def scan(size):
    """Run `STEPS` steps in chunks of `size`; return the last state, the rows and the sum that the loop carried."""

    def step(total, rewards):
        return total + rewards["answer"].sum(), rewards

    xs = {name: x.reshape(-1, size, *x.shape[1:]) for name, x in stacked(STEPS).items()}
    (total, mon), rows = jax.jit(lambda xs: jax.lax.scan(ACC.scan_chunk(step), (np.float32(0), ACC.init()), xs))(xs)
    return mon, rows, total


def test_one_row_per_chunk_and_the_users_carry_is_its_own():
    _, rows, total = scan(EVERY)
    assert rows.shape[0] == STEPS // EVERY
    assert rows.dtype == np.uint32
    np.testing.assert_allclose(total, np.sum(stacked(STEPS)["answer"]), rtol=1e-5)


def test_rows_give_the_records_of_the_pull_path_and_the_last_state_the_final_one(tmp_path):
    sink = MemorySink()
    mon, rows, _ = scan(EVERY)
    with Reporter(ACC, [sink], run_dir=tmp_path) as reporter:
        reporter.write_rows(rows)
        reporter.close(mon)
    assert_same_records(sink.records, pulled(STEPS))
    assert read_records(tmp_path) == sink.records


@pytest.mark.parametrize("size", [2, 6])
def test_chunks_need_not_have_the_length_of_an_interval(size):
    sink = MemorySink()
    reporter = Reporter(ACC, [sink])
    reporter.write_rows(scan(size)[1])
    reporter.flush()
    assert updates(sink.records) == list(range(size, STEPS + 1, size))
    lost = max(0, size - EVERY)  # the trace holds `log_frequency` steps
    assert {record.counters["trace_dropped"] for record in sink.records} == {lost}
    assert all(len(record.series["step"]) == size - lost for record in sink.records)
    assert sum(record.scalars["answer/interval/count"] for record in sink.records) == STEPS * 32
    reporter.close()


def test_rows_of_a_second_run_are_counted_as_dropped_and_told(caplog):
    sink = MemorySink()
    with Reporter(ACC, [sink]) as reporter:
        reporter.write_rows(numbered(5))
        reporter.write_rows(numbered(3))
        reporter.write_rows(numbered(6)[5:])
        reporter.close(ACC.init())
    assert updates(sink.records) == [4, 8, 12, 16, 20, 24, 0]
    assert [record.scalars["monitoring/dropped_records"] for record in sink.records][-2:] == [3, 3]
    assert caplog.text.count("needs a Reporter of its own") == 1


def test_a_resumed_run_is_recorded_in_order_with_the_final_record_last():
    mon, rows, _ = scan(EVERY)
    sink = MemorySink()
    with Reporter(ACC, [sink]) as reporter:
        reporter.write_rows(rows[1:])
        reporter.close(mon)
    assert updates(sink.records) == [8, 12, 12]
    assert "answer/interval/mean" in sink.records[-1].scalars


def test_a_second_seed_is_counted_as_dropped(caplog):
    rows, sink = numbered(5)[2:], MemorySink()
    with Reporter(ACC, [sink]) as reporter:
        reporter.write_rows(rows)
        reporter.write_rows(rows)
        reporter.close(ACC.init())
    assert sink.records[-1].scalars["monitoring/dropped_records"] == 3
    assert caplog.text.count("needs a Reporter of its own") == 1


def test_any_number_of_rows_is_taken():
    sink = MemorySink()
    with Reporter(ACC, [sink]) as reporter:
        reporter.write_rows(numbered(2000))
    assert len(sink.records) == 2000
    assert updates(sink.records) == sorted(updates(sink.records))


def test_a_row_that_cannot_be_read_costs_itself_only(caplog):
    sink = MemorySink()
    rows = numbered(5)
    rows[2, 0] += 1
    with Reporter(ACC, [sink]) as reporter:
        reporter.write_rows(rows)
        reporter.write_rows("nonsense")
        reporter.flush()
    assert updates(sink.records) == [4, 8, 16, 20]
    assert "got layout" in caplog.text


def test_inputs_that_are_not_cut_into_chunks_are_named():
    step = ACC.scan_chunk(lambda carry, x: (carry, {"answer": x}))
    with pytest.raises(ValueError, match=r"xs: got 'an array that has no axis of steps', allowed: \[chunks"):
        jax.eval_shape(lambda xs: jax.lax.scan(step, (np.float32(0), ACC.init()), xs), np.zeros(40, np.float32))
