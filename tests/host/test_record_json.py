import json

import pytest

from tests.host.support import make_record
from tunrex_jax_monitor.host.record import AlertEvent, Histogram, Record

FULL = Record(
    step=7,
    update=8,
    time=1700000000.25,
    names=("format", "antwörter </script>\n\u2028"),
    scalars={"format/mean": 0.1, "format/count": 12.0, "tiny": 5e-324, "huge": 1.7976931348623157e308},
    histograms={"format/histogram": Histogram(counts=[1, 11], edges=[0.0, 0.5, 1.0])},
    series={"step": [6, 7], "format/mean": [None, 0.1]},
    alerts=(AlertEvent(7, "format", "DROP", "DROP: format fell", "Look at the data.", 0.1, 0.5),),
    counters={"format/nan": 1},
)


def test_a_full_record_survives_the_round_trip():
    assert Record.from_json(FULL.to_json()) == FULL


def test_a_minimal_record_survives_the_round_trip():
    assert Record.from_json(make_record().to_json()) == make_record()


def test_names_come_back_as_a_tuple_in_order():
    assert Record.from_json(make_record(names=("b", "a")).to_json()).names == ("b", "a")


def test_a_line_without_names_reads_as_no_names():
    fields = json.loads(make_record(names=("a",)).to_json())
    del fields["names"]
    assert Record.from_json(json.dumps(fields)).names == ()


def test_scalars_stay_the_fourth_positional_argument():
    assert Record(1, 2, 3.0, {"a/mean": 1.0}).scalars == {"a/mean": 1.0}


def test_json_is_one_line_of_ascii_whatever_the_names():
    line = FULL.to_json()
    assert line.isascii()
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["scalars", "series"])
def test_a_nonfinite_number_never_becomes_json(field, value):
    fields = {"scalars": {"a/mean": value}} if field == "scalars" else {"series": {"a/mean": [value]}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_record(**fields).to_json()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time", 1e300),
        ("time", -1e15),
        ("step", 2**53 + 1),
        ("names", ["a", "a"]),
        *(
            ("histograms", {"a/histogram": {"counts": counts, "edges": edges}})
            for counts, edges in (
                ([], [1.0]),
                ([-5, 2], [1.0, 2.0, 3.0]),
                ([1, 2], [1.0, 1.0, 1.0]),
                ([1, 2], [3.0, 2.0, 1.0]),
                ([1], [1.0]),
            )
        ),
    ],
)
def test_what_no_picture_could_show_is_refused_by_its_field(field, value):
    line = json.dumps({**json.loads(make_record().to_json()), field: value})
    with pytest.raises(ValueError, match=f"{field}: got .* allowed"):
        Record.from_json(line)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_an_unknown_schema_names_got_and_allowed(schema):
    fields = {**json.loads(make_record().to_json()), "schema": schema}
    with pytest.raises(ValueError, match=rf"got {schema!r}, allowed 1"):
        Record.from_json(json.dumps(fields))
