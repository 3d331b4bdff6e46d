"""The report in use: what a person points at, types and downloads, against the records behind it."""

import csv
import functools
import io
import itertools
import json
import re

import numpy as np
import pytest

from tests.browser.conftest import wait_until_ready
from tests.browser.pages import LONG, SHORT
from tests.host.report import runs

pytestmark = pytest.mark.browser
SPIKE = 5000  # planted in `length`, the third reward
NAMES = ("format", "answer", "length")


def series(steps, rewards, key):
    """A column of the records, as JSON lines say it."""
    return [value for line in lines(steps, rewards) for value in line["series"][key]]


@functools.cache
def lines(steps, rewards):
    return [json.loads(record.to_json()) for record in runs.records(steps, rewards)]


def shown(page):
    return page.locator("#shown").inner_text()


def fragment(page):
    """What stands in the address behind the path; `page.url` is told of a change some time after it."""
    return page.evaluate("location.hash")


def hover(page, reward, step, panel=0):
    """Point at a step in a chart; the plot box and its range of steps say where that is."""
    chart = page.locator(f"#reward-{reward} .u-over").nth(panel)
    chart.scroll_into_view_if_needed()
    low, high = steps_shown(page)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + (step - low) / (high - low) * box["width"], box["y"] + box["height"] / 2)


def steps_shown(page):
    low, high = re.findall(r"[\d,]+", shown(page))
    return int(low.replace(",", "")), int(high.replace(",", ""))


def readout(page, reward, label):
    entry = page.locator(f"#reward-{reward} .legend li", has_text=label).first
    return entry.locator("b").inner_text()


def digits(value):
    """Four digits, as the page shows them."""
    return f"{float(f'{value:.4g}'):g}"


def export(page, kind, scope="nav"):
    with page.expect_download() as download:
        page.locator(f"{scope} button[data-do={kind}]").click()
    assert re.fullmatch(rf"rewards-\d+-\d+\.{kind}", download.value.suggested_filename)
    return download.value.path().read_text(encoding="utf-8")


def test_the_reward_that_went_wrong_is_the_first_thing_on_the_screen(visit):
    page = visit("long", viewport={"width": 1280, "height": 720})
    first = page.locator(".summary tbody tr").first
    assert first.bounding_box()["y"] < 720
    assert "style" in first.inner_text()
    assert "flat since step 8000" in first.inner_text()
    assert "flat since step 8000" in page.locator(".headline").inner_text()


def test_a_spike_of_one_step_among_ten_thousand_is_drawn(visit):
    page = visit("long", "#reward=2")
    assert shown(page) == "All steps: 0 to 9,999"
    ink = """([section, share]) => {
      const chart = document.querySelector(`${section} canvas`), plot = document.querySelector(`${section} .u-over`);
      const scale = chart.width / chart.clientWidth, left = (plot.offsetLeft + share * plot.clientWidth) * scale;
      const pixels = chart.getContext("2d").getImageData(left - 3, plot.offsetTop * scale + 14, 7, 20).data;
      return pixels.filter((value, at) => at % 4 === 3 && value > 100).length;
    }"""
    at_spike = page.evaluate(ink, ["#reward-2", SPIKE / (LONG - 1)])
    beside = page.evaluate(ink, ["#reward-2", 0.53])
    assert at_spike >= 15  # the upper part of the plot is empty but for it
    assert beside == 0


def test_the_value_under_the_cursor_is_the_recorded_one(visit, shoot):
    page = visit("long", f"#steps={SPIKE - 10}-{SPIKE + 10}&reward=2")
    hover(page, 2, SPIKE)
    recorded = series(LONG, 8, "length/mean")
    assert page.locator("#at").inner_text() == "at step 5,000"
    assert readout(page, 2, "step mean") == digits(recorded[SPIKE]) == "50"
    assert readout(page, 2, "short average") == digits(series(LONG, 8, "length/ema_short")[SPIKE])
    data = json.loads(export(page, "json"))
    (length,) = [reward for reward in data["rewards"] if reward["name"] == "length"]
    at = length["columns"]["step_first"].index(SPIKE)
    assert length["columns"]["step_last"][at] == SPIKE
    assert length["columns"]["mean_high"][at] == length["columns"]["mean_low"][at] == recorded[SPIKE]
    assert length["alerts"] == [{"type": "OUTLIER", "first": SPIKE, "last": SPIKE}]
    shoot(page, "spike")


def test_no_extreme_is_lost_by_drawing_fewer_points(visit):
    data = json.loads(export(visit("long"), "json"))
    for reward in data["rewards"]:
        columns, means = reward["columns"], np.array(series(LONG, 8, f"{reward['name']}/mean"), float)
        spans = list(zip(columns["step_first"], columns["step_last"], strict=True))
        assert len(spans) < LONG / 4
        assert spans[0][0] == 0
        assert spans[-1][1] == LONG - 1
        assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(spans))
        for key, pick in (("mean_low", np.nanmin), ("mean_high", np.nanmax)):
            np.testing.assert_array_equal(columns[key], [pick(means[a : b + 1]) for a, b in spans])


def test_an_address_shows_a_part_and_survives_a_reload(visit, shoot):
    page = visit("long", "#steps=5900-6900&reward=1")
    for _ in range(2):
        assert shown(page) == "Steps 5,900 to 6,900"
        section = page.locator("#reward-1")
        assert "linked" in section.get_attribute("class")
        assert 0 <= section.bounding_box()["y"] < 150
        page.reload()
        wait_until_ready(page)
    shoot(page, "deep-link")


def test_an_alert_links_to_its_steps(visit):
    page = visit("long")
    page.locator("table.alerts tr", has_text="DROP").locator("a").click()
    assert fragment(page) == "#steps=5800-7000&reward=1"
    assert shown(page) == "Steps 5,800 to 7,000"
    assert "linked" in page.locator("#reward-1").get_attribute("class")


@pytest.mark.parametrize("how", ["button", "key", "double click"])
def test_reset_shows_all_steps_again(visit, how):
    page = visit("long", "#steps=5900-6900&reward=1")
    if how == "button":
        page.locator("button[data-do=reset]").click()
    elif how == "key":
        page.keyboard.press("r")
    else:
        page.locator("#reward-1 .u-over").first.dblclick()
    assert shown(page) == "All steps: 0 to 9,999"
    assert fragment(page) == ""


def test_dragging_zooms_every_chart_and_is_in_the_address(visit):
    page = visit("short", "#reward=1")
    hover(page, 1, 400)
    page.mouse.down()
    hover(page, 1, 600)
    page.mouse.up()
    low, high = steps_shown(page)
    assert abs(low - 400) <= 3
    assert abs(high - 600) <= 3
    assert fragment(page) == f"#steps={low}-{high}&reward=1"
    page.reload()
    wait_until_ready(page)
    assert steps_shown(page) == (low, high)


def test_a_cursor_is_in_all_charts_at_once(visit):
    page = visit("short", "#steps=300-340&reward=0")
    page.locator("#reward-1").scroll_into_view_if_needed()
    page.locator("#reward-1 .u-over").first.wait_for()
    hover(page, 0, 321, panel=1)  # over the heat map
    assert page.locator("#at").inner_text() == "at step 321"
    for reward, name in enumerate(NAMES[:2]):
        assert readout(page, reward, "short average") == digits(series(SHORT, 3, f"{name}/ema_short")[321])
        assert page.locator(f"#reward-{reward} .u-cursor-x:not(.u-off)").count() == 3
    page.mouse.move(5, 5)
    assert page.locator("#at").inner_text() == ""
    assert readout(page, 0, "short average") == digits(series(SHORT, 3, "format/ema_short")[-1])


def test_the_keyboard_does_what_the_mouse_does(visit):
    page = visit("short", "#steps=100-200&reward=0")
    page.keyboard.press("ArrowRight")
    assert page.locator("#at").inner_text() == "at step 100"
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#at").inner_text() == "at step 109"
    assert readout(page, 0, "short average") == digits(series(SHORT, 3, "format/ema_short")[109])
    assert page.locator("#spoken").inner_text().startswith("at step 109, format: short average")
    page.keyboard.press("+")
    assert shown(page) == "Steps 84 to 134"
    page.keyboard.press("-")
    assert shown(page) == "Steps 59 to 159"
    page.keyboard.press("Escape")
    assert page.locator("#at").inner_text() == ""
    page.keyboard.press("n")
    assert fragment(page) == page.locator("a[data-alert]").first.get_attribute("href")
    page.keyboard.press("p")
    assert fragment(page) == page.locator("a[data-alert]").last.get_attribute("href")
    listed = page.locator(".keys").text_content()
    assert all(key in listed for key in ("←", "→", "Shift", "+", "-", "r", "n", "p", "f", "t", "Esc"))


def test_fitted_charts_are_not_squashed_by_one_step(visit):
    page = visit("long", "#reward=2")
    chart = page.locator("#reward-2 canvas").first
    before = chart.screenshot()
    page.keyboard.press("f")
    assert page.locator("button[data-do=fit]").get_attribute("aria-pressed") == "true"
    page.wait_for_timeout(50)
    assert chart.screenshot() != before
    page.keyboard.press("f")
    page.wait_for_timeout(50)
    assert chart.screenshot() == before


def test_the_theme_can_be_chosen(visit):
    page = visit("short", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.locator("button[data-do=theme]").click()
    assert page.evaluate(background) != light
    page.keyboard.press("t")
    assert page.evaluate(background) == light


@pytest.mark.parametrize("address", ["", "#steps=250-349"])
def test_exports_hold_what_the_records_hold(visit, address):
    page = visit("short", address)
    low, high = (250, 349) if address else (0, SHORT - 1)
    rows = list(csv.DictReader(io.StringIO(export(page, "csv"))))
    rewards = json.loads(export(page, "json"))["rewards"]
    assert [reward["name"] for reward in rewards] == [*NAMES, "reward"]
    emissions = {record.step: record.scalars for record in runs.records(SHORT, 3)}
    for reward in rewards:
        name, own = reward["name"], [row for row in rows if row["reward"] == reward["name"]]
        assert [int(row["step_first"]) for row in own] == list(range(low, high + 1))
        for key, column in (("ema_short", "ema_short"), ("ema_long", "ema_long"), ("mean", "mean_low")):
            recorded = series(SHORT, 3, f"{name}/{key}")[low : high + 1]
            assert reward["columns"][column] == recorded
            assert [None if row[column] == "" else float(row[column]) for row in own] == recorded
        if name != "reward":
            ends = [at // 10 * 10 + 9 for at in range(low, high + 1)]
            np.testing.assert_allclose(
                reward["columns"]["p10"], [emissions[end][f"{name}/p10"] for end in ends], rtol=1e-7
            )


def test_steps_between_gaps_are_seen(visit):
    page = visit("gaps", "#reward=0")
    ink = """() => {
      const canvas = document.querySelector("#reward-0 canvas"), plot = document.querySelector("#reward-0 .u-over");
      const scale = canvas.width / canvas.clientWidth, box = [plot.offsetLeft, plot.offsetTop, plot.clientWidth, 120];
      const pixels = canvas.getContext("2d").getImageData(...box.map((side) => side * scale)).data;
      const vivid = (at) => pixels[at + 3] > 100 && Math.abs(pixels[at] - pixels[at + 2]) > 60;
      return Array.from({ length: pixels.length / 4 }, (_, at) => vivid(4 * at)).filter(Boolean).length;
    }"""
    assert page.evaluate(ink) > 1000


def test_one_reward_can_be_exported_alone(visit):
    rows = list(csv.DictReader(io.StringIO(export(visit("short"), "csv", "#reward-1"))))
    assert {row["reward"] for row in rows} == {"answer"}
    assert len(rows) == SHORT


def test_a_window_that_changes_its_width_redraws_the_charts(visit):
    page = visit("short", "#reward=0")
    page.set_viewport_size({"width": 700, "height": 900})
    page.wait_for_timeout(50)
    chart, place = (page.locator(f"#reward-0 {part}").first.bounding_box()["width"] for part in ("canvas", ".plot"))
    assert chart == pytest.approx(place, abs=1)
