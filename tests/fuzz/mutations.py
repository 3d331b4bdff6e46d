"""Real files, damaged in ways that keep most of their structure, or none."""

import copy
import json

from hypothesis import strategies as st

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent, Histogram, Record

RECORDS = [
    Record(
        step=10 * n + 9,
        update=10 * n + 10,
        time=1.5e9 + n,
        names=("format", "länge"),
        scalars={"format/mean": 0.25 * n, "länge/std": 1e-12, "monitoring/step": 9.0},
        histograms={"format/histogram": Histogram([1, 0, 3], [0.0, 0.5, 1.0, 1.5])},
        series={"step": [10 * n + 8, 10 * n + 9], "format/mean": [None, 1.0], "format/alerts": [0, 3]},
        alerts=(AlertEvent(9, "format", "DROP", "DROP: format", "look", 0.1, 0.5), AlertEvent(9, "a", "T", "m", "r")),
        counters={"format/nan": 2**33, "trace_dropped": 0},
    )
    for n in range(3)
]
LINES = [json.loads(record.to_json()) for record in RECORDS]
EXPORT = json.loads(json.dumps(History.of(RECORDS).to_export()))
MANIFEST = {"schema": 1, "start_time": 1.5, "config": {"reward_names": ["a"]}, "resumed": [{"after_step": 9}]}

JUNK = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 2**63, -(2**200), 1e308, -0.0, "", "step", "\x00", "\ud800", [], {}, [[]], [None]]
    ),
    st.just(float("nan")),
    st.just(float("inf")),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.dictionaries(st.text(max_size=3), st.none() | st.integers(), max_size=2),
    st.sampled_from([{"counts": [1], "edges": [0.0]}, {"step": 3}, ["a"] * 3, [0.5, "x"], {"a": [1, 2], "b": [1]}]),
).map(copy.deepcopy)  # what is mutated later must not be what is drawn from


def _places(tree, at=()):
    """Yield the path of every value in a tree of JSON, its own first."""
    yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*at, key))


@st.composite
def trees(draw, originals):
    """One of the originals with one to three values replaced, removed, added or exchanged."""
    tree = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(_places(tree))))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return draw(JUNK)
            continue
        home = tree
        for key in place[:-1]:
            home = home[key]
        how, key = draw(st.sampled_from(("replace", "replace", "remove", "add", "twice"))), place[-1]
        if how == "replace":
            home[key] = draw(JUNK)
        elif how == "remove":
            del home[key]
        elif how == "twice":
            home[key] = [home[key], copy.deepcopy(home[key])]
        elif isinstance(home, dict):
            home[draw(st.text(max_size=5))] = draw(JUNK)
        else:
            home.insert(key, draw(JUNK))
    return tree


@st.composite
def texts(draw, originals):
    """The bytes of a file: JSON lines of mutated trees, with bytes changed, or no JSON at all."""
    whole = st.sampled_from(originals)
    lines = draw(st.lists(trees(originals) | whole, min_size=1, max_size=3))
    data = b"\n".join(json.dumps(line).encode() for line in lines) + draw(st.sampled_from((b"\n", b"", b"\r\n")))
    how = draw(st.sampled_from(("as it is", "cut", "splice", "noise", "nest", "escape")))
    at = draw(st.integers(0, len(data)))
    if how == "cut":
        return data[:at]
    if how == "splice":
        return data[:at] + draw(st.binary(max_size=6)) + data[at + draw(st.integers(0, 8)) :]
    if how == "noise":
        return draw(st.binary(max_size=60))
    if how == "nest":
        opening = draw(st.sampled_from((b"[", b'{"a":', b'{"schema":1,"series":[')))
        return data[:at] + opening * draw(st.sampled_from((3, 900, 40_000)))
    if how == "escape":
        return data.replace(b'"format"', draw(st.sampled_from((b'"\\ud800"', b'"\\u0000"', b"1e999", b"9" * 5000))))
    return data
