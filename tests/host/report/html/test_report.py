"""The report as a file: size, policy, escaping, tables, sources."""

import base64
import hashlib
import html
import json
import re

import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tests.host.report import runs
from tests.host.report.html.test_encode import decoded
from tests.host.support import make_record
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent, Histogram
from tunrex_jax_monitor.host.report.html.payload import SIGNS
from tunrex_jax_monitor.host.report.html.tables import AlertGroup, address, alert_groups, headline
from tunrex_jax_monitor.host.report.page import page


def run(steps=300, rewards=3, **options):
    return History.of(runs.records(steps, rewards, **options))


def payload(text):
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def noise(steps, rewards, alerts=()):
    """A long run of noise, quickly made: every column is full, and no two values are the same."""
    rng, names = np.random.default_rng(0), tuple(f"reward_{i}" for i in range(rewards))
    fields = ("mean", "std", "min", "max", "ema_short", "ema_long", "frac_zero_std")
    columns = {f"{name}/{field}": rng.normal(size=steps) for name in (*names, "reward") for field in fields}
    series = {"step": list(range(steps)), **{key: values.astype("f4").tolist() for key, values in columns.items()}}
    keys = [f"{name}/{field}" for name in names for field in ("p10", "p25", "p75", "p90", "frac_zero_std")]
    keys += [f"groups/{key}" for key in ("solve_all", "solve_none", "solve_partial", "pass_at_1", "pass_at_8")]
    shape = Histogram(rng.integers(1, 50, 64).tolist(), np.linspace(-3, 3, 65).tolist())
    histograms = {f"{name}/histogram": shape for name in names}
    history = History()
    for step in range(9, steps, 10):
        scalars = dict(zip(keys, rng.normal(size=len(keys)).tolist(), strict=True))
        history.write(make_record(step, names=names, scalars=scalars, histograms=histograms))
    history.write(make_record(steps, names=names, scalars=scalars, series=series, alerts=tuple(alerts)))
    return history


@pytest.mark.parametrize(("rewards", "limit"), [(8, 1_000_000), (32, 2_000_000)])
def test_ten_thousand_steps_stay_within_the_budget(rewards, limit):
    assert 0.5 * limit < len(page(noise(10_000, rewards)).encode()) <= limit


def test_ten_thousand_alerts_stay_within_the_budget():
    alerts = [
        AlertEvent(step, f"reward_{i}", kind, f"{kind}: x - y", "z")
        for i in range(8)
        for kind in ("OUTLIER", "DROP")
        for step in range(0, 10_000, 16)
    ]
    assert len(alerts) == 10_000
    assert len(page(noise(10_000, 8, alerts)).encode()) <= 1_000_000


def test_the_policy_names_scripts_and_style_of_the_page_and_nothing_else():
    text = page(run())
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() for own in (*scripts, *styles)}
    assert (len(scripts), len(styles)) == (2, 1)
    assert set(re.findall(r"'sha256-([^']*)'", policy)) == hashes
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "style=" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_nothing_is_fetched_from_elsewhere():
    text = page(run())
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "url(" not in text
    assert "@import" not in text


def test_hostile_names_are_text_everywhere():
    text = page(run(names=runs.HOSTILE, rewards=8))
    assert "<img" not in text
    assert [section["name"] for section in payload(text)["sections"]] == [*runs.HOSTILE, "reward"]
    assert html.escape(runs.HOSTILE[0]) in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_data_are_the_records():
    history = run(300, 3)
    section = payload(page(history))["sections"][1]
    lines = {line["key"]: line["data"] for panel in section["panels"] for line in panel["lines"]}
    for key in ("ema_short", "ema_long"):
        np.testing.assert_array_equal(decoded(lines[key]["values"]), history.array(f"answer/{key}"))
    (means,) = [b for panel in section["panels"] for b in panel["bands"] if b["key"][0] == "mean_low"]
    np.testing.assert_array_equal(decoded(means["data"][0]["values"]), history.array("answer/mean"))
    (heat,) = [panel for panel in section["panels"] if panel["kind"] == "heat"]
    assert len(decoded(heat["cells"])) == heat["rows"] * len(decoded(heat["starts"]))


def test_what_a_run_does_not_have_is_left_out():
    text = page(run(300, 2, group_size=None))
    assert "Groups without variance" not in text
    assert len(payload(page(History()))["sections"]) == 0


@pytest.mark.parametrize(
    "record",
    [
        make_record(3, names=("a",)),
        make_record(3, names=("a",), series={"step": [3], "a/mean": [None]}),
        make_record(3, names=("a",), series={"step": [3], "a/mean": [1e308], "a/count": [1]}),
        make_record(2**40, names=("a",), series={"step": [2**40], "a/mean": [1.0]}),
        make_record(3, alerts=(AlertEvent(1, "nobody", "<b>NEW</b>", "<i>", "<u>"),)),
    ],
    ids=["no series", "no value", "huge", "far step", "unknown alert"],
)
def test_odd_records_make_a_page(record):
    text = page(History.of([record]))
    assert "<b>NEW" not in text
    assert json.dumps(payload(text))


def test_a_run_that_went_back_is_drawn_whole_and_says_so():
    def record(update, steps):
        series = {"step": list(steps), "a/mean": [float(update)] * 10, "a/ema_short": [float(update)] * 10}
        return make_record(steps[-1], update=update, names=("a",), scalars={"a/p10": 1.0, "a/p90": 2.0}, series=series)

    text = page(History.of([record(10, range(10)), record(20, range(10, 20)), record(30, range(5, 15))]))
    data = payload(text)
    assert decoded(data["axis"]["first"]).tolist() == list(range(30))
    assert decoded(data["emissions"]).tolist() == [9, 19, 29]
    assert "of this run go back" in text


@pytest.mark.parametrize("source", ["directory", "json", "history"])
def test_a_page_is_made_of_any_source_and_its_path_returned(tmp_path, source):
    directory = runs.write(tmp_path / "run", steps=60, rewards=2)
    if source == "json":
        given = tmp_path / "monitoring_data.json"
        given.write_text(json.dumps(History.read(directory).to_export()))
    else:
        given = directory if source == "directory" else History.read(directory)
    target = tmp_path / "pages" / "page.html"
    assert trm.create_monitoring_summary_html(given, target) == target
    assert "Rewards up to step 59" in target.read_text(encoding="utf-8")


def test_provenance_says_what_was_run_and_what_is_left_out(tmp_path):
    text = page(History.read(runs.write(tmp_path / "run", steps=7000, rewards=2)))
    for said in ("jax ", "1 x cpu (cpu)", "window_size", "7,000 steps as", "within 2 %", "dropped records"):
        assert said in text
    assert "all 60 steps one by one" in page(run(60))


def test_alerts_are_grouped_and_link_to_their_steps():
    from tunrex_jax_monitor.host.report.episodes import episodes

    groups = alert_groups(episodes(run(1000, 5)))
    assert [(group.type, group.reward, group.is_open) for group in groups] == [
        ("FLATLINE", "style", True),
        ("NONFINITE", "safety", False),
        ("DROP", "answer", False),
        ("GROUP_COLLAPSE", "reward", False),
        ("OUTLIER", "length", False),
    ]
    drop = groups[2]
    assert isinstance(drop, AlertGroup)
    assert (drop.first, drop.last, drop.sign) == (620, 660, SIGNS["DROP"])
    assert address(drop, {"answer": 1}) == "#steps=580-700&reward=1"
    assert address(drop, {}) == "#steps=580-700"


def test_the_headline_names_what_is_bad_and_counts_the_rest():
    from tunrex_jax_monitor.host.report.episodes import episodes
    from tunrex_jax_monitor.host.report.verdict import verdicts

    history = run(1000, 5)
    lines = headline(verdicts(history, episodes(history)))
    assert [(line.status, line.reward) for line in lines] == [("bad", "style"), ("watch", None), ("ok", None)]
    assert headline([])[0].words == "no data yet"
