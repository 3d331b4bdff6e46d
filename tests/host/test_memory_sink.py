import pytest

from tests.host.support import make_record
from tunrex_jax_monitor.host.sinks.base import RunSink, Sink, is_durable
from tunrex_jax_monitor.host.sinks.memory import MemorySink


def test_memory_sink_is_a_durable_sink_without_a_manifest():
    sink = MemorySink()
    assert isinstance(sink, Sink)
    assert is_durable(sink)
    assert not isinstance(sink, RunSink)


def test_a_sink_that_says_nothing_is_not_durable():
    class Plain:
        def write(self, record):
            pass

        def close(self):
            pass

    assert isinstance(Plain(), Sink)
    assert not is_durable(Plain())


def test_records_are_kept_in_order_and_after_close():
    sink = MemorySink()
    for step in range(5):
        sink.write(make_record(step))
    sink.close()
    assert [record.step for record in sink.records] == [0, 1, 2, 3, 4]


def test_maxlen_keeps_the_newest():
    sink = MemorySink(maxlen=2)
    for step in range(5):
        sink.write(make_record(step))
    assert [record.step for record in sink.records] == [3, 4]


@pytest.mark.parametrize("maxlen", [0, -1, True])
def test_a_bad_maxlen_names_got_allowed_and_remedy(maxlen):
    with pytest.raises(ValueError, match=rf"maxlen: got {maxlen}, allowed .* Leave it out"):
        MemorySink(maxlen=maxlen)
