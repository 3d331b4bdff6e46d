"""The comparison page as a file."""

import html

import numpy as np
import pytest

from tests.host.report import runs
from tests.host.report.html.test_encode import decoded
from tests.host.report.html.test_report import payload, run
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.differences import compare
from tunrex_jax_monitor.host.report.page import comparison_page


def test_runs_are_drawn_over_each_other_by_step():
    one, two = run(200, 2), run(100, 2, seed=1)
    data = payload(comparison_page({"one": one, "two": two}))
    lines = data["sections"][0]["panels"][0]["lines"]
    assert [line["label"] for line in lines] == ["one", "two"]
    assert len({(line["color"], tuple(line["dash"])) for line in lines}) == 2
    found = decoded(lines[1]["data"]["values"])
    np.testing.assert_array_equal(found[:100], two.array("format/ema_short"))
    assert np.isnan(found[100:]).all()


def test_the_table_has_every_difference():
    found = {"base": run(200, 2), "new": run(200, 2, seed=1, faults=False)}
    text = comparison_page(found)
    assert "Figures are over the steps 0 to 199" in text
    for difference in compare(found):
        if difference.points:
            assert f"{difference.points:+.1f} pp" in text


def test_a_reward_of_one_run_alone_is_said():
    text = comparison_page({"three": run(100, 3), "two": run(100, 2)})
    assert "not in two" in text


def test_runs_without_a_step_in_common_and_empty_ones_make_a_page():
    text = comparison_page({"some": run(100, 2), "none": History()})
    assert "no step in common" in text
    assert "none" in text


def test_names_of_runs_are_text():
    text = comparison_page({"a": run(50, 1), runs.HOSTILE[0]: run(50, 1)})
    assert "<img" not in text
    assert html.escape(runs.HOSTILE[0]) in text


@pytest.mark.parametrize(("count", "title"), [(2, "run 1"), (4, "run 1, run 2, run 3"), (5, "4 runs")])
def test_the_title_names_few_runs_and_counts_many(count, title):
    text = comparison_page({f"run {i}": run(5, 1) for i in range(count)})
    assert f"<title>{title} against run 0</title>" in text


def test_nine_runs_are_told_apart():
    text = comparison_page({f"run {i}": run(50, 1, seed=i) for i in range(9)})
    lines = payload(text)["sections"][0]["panels"][0]["lines"]
    assert len({(line["color"], tuple(line["dash"])) for line in lines}) == 9
