"""The comparison of runs, in the browser."""

import json

import pytest

from tests.browser.pages import compared
from tests.browser.test_report import export, hover, readout
from tests.host.report import runs
from tunrex_jax_monitor.host.report.differences import compare

pytestmark = pytest.mark.browser
HOSTILE = runs.HOSTILE[0]


def test_differences_are_in_the_table(visit):
    page = visit("comparison")
    table = page.locator("table.differences")
    for difference in compare(compared()):
        if difference.metric == "mean" and difference.relative is not None:
            change = f"{100 * difference.relative:+.1f}"
            assert f"{change if float(change) else 0.0} %" in table.inner_text()
    assert "over the steps 0 to 499" in page.locator("header").inner_text()
    assert "not in lr-3e-6" in table.inner_text()  # the reward that it lacks


def test_curves_of_the_runs_have_their_names_and_values(visit, shoot):
    page = visit("comparison", "#steps=290-310&reward=0")
    hover(page, 0, 300)
    for name, run in compared().items():
        assert float(readout(page, 0, name)) == pytest.approx(run.series["format/ema_short"][300], rel=1e-3)
    swatches = page.locator("#reward-0 .panel").first.locator(".swatch:not(.wide)")
    looks = swatches.evaluate_all("(all) => all.map((swatch) => getComputedStyle(swatch).borderTopColor)")
    assert len(set(looks)) == 3
    shoot(page, "comparison-hover")


def test_a_run_that_ended_early_has_no_values_after(visit):
    data = json.loads(export(visit("comparison"), "json"))
    columns = data["rewards"][0]["columns"]
    short = columns["lr-3e-6: ema_short"]
    assert short[499] is not None
    assert set(short[500:]) == {None}
    assert columns[f"{HOSTILE}: ema_short"][999] == compared()[HOSTILE].series["format/ema_short"][999]
