"""TensorBoardSink, judged by reading the event file back."""

import struct
from pathlib import Path

import pytest

from tests.host.support import make_record
from tunrex_jax_monitor.host.record import AlertEvent, Histogram
from tunrex_jax_monitor.host.sinks.tensorboard import TensorBoardSink

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")


def read(folder: Path) -> list:
    """The (step, tag, value) of every event: a TFRecord file of uint64 length, crc, payload, crc."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.*")
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found += [(event.step, value.tag, value) for value in event.summary.value]
        at += size + 16
    return found


def test_scalars_histograms_and_alerts_are_in_the_file(tmp_path):
    sink = TensorBoardSink(tmp_path)
    event = AlertEvent(6, "a", "DROP", "DROP: a fell", "Look at it.", 0.1, 0.5)
    histograms = {"a/histogram": Histogram([1, 0, 7], [0.0, 0.5, 1.0, 1.5])}
    sink.write(make_record(3))
    sink.write(make_record(7, histograms=histograms, alerts=(event,)))
    sink.close()
    sink.close()
    found = read(tmp_path)
    assert [(step, tag, v.simple_value) for step, tag, v in found[:2]] == [(3, "a/mean", 0.75), (7, "a/mean", 1.75)]
    step, tag, value = found[2]
    assert (step, tag, value.histo.num) == (7, "a/histogram", 8.0)
    assert (list(value.histo.bucket), list(value.histo.bucket_limit)) == ([1, 0, 7], [0.5, 1.0, 1.5])
    step, tag, value = found[3]
    assert tag.startswith("alerts/a/DROP")
    assert b"Look at it." in value.tensor.string_val[0]


def test_every_name_is_taken(tmp_path):
    sink = TensorBoardSink(tmp_path)
    names = ["a b/mean", "$x/mean", "_/mean", "報酬/mean", "a\nb/mean", "x" * 300 + "/mean"]
    sink.write(make_record(scalars=dict.fromkeys(names, 1.0)))
    sink.close()
    assert len(read(tmp_path)) == len(names)


def test_a_path_that_no_file_can_have_is_refused():
    with pytest.raises(ValueError, match=r"log_dir: got 'a\\x00b', allowed: a path\. Pass"):
        TensorBoardSink("a\0b")
