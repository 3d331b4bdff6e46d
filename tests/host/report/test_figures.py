"""The original document's other pictures, by their structure, for any number of rewards."""

import numpy as np
import pytest
from matplotlib.text import Text

from tests.host.report import runs
from tunrex_jax_monitor import RewardVisualizer
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Histogram
from tunrex_jax_monitor.host.stats import RewardStats

STEPS = 300
VISUALIZER = RewardVisualizer()


def given(rewards):
    run = History.of(runs.records(STEPS, rewards))
    means = {name: run.series[f"{name}/mean"] for name in run.names}
    histograms = {name: run.last.histograms[f"{name}/histogram"] for name in run.names}
    return means, histograms, {name: RewardStats.of(name, run.last.scalars) for name in run.names}


def pictures(rewards):
    means, histograms, stats = given(rewards)
    return {
        "history": VISUALIZER.plot_reward_history(means, steps=range(STEPS)),
        "distributions": VISUALIZER.plot_reward_distributions(histograms),
        "statistics": VISUALIZER.plot_reward_statistics(stats),
        "emas": VISUALIZER.plot_ema_comparison(stats),
    }


def all_texts(figure):
    return {t.get_text() for t in figure.findobj(Text)}


@pytest.mark.parametrize("rewards", [1, 4, 8, 32])
def test_every_reward_is_in_every_picture_and_nothing_is_cut_off(rewards):
    names = given(rewards)[0].keys()
    for kind, figure in pictures(rewards).items():
        figure.canvas.draw()
        words = all_texts(figure)
        assert all(any(text.startswith(name) for text in words) for name in names), kind
        width, height = figure.get_size_inches() * figure.dpi
        assert height <= 2000, kind
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert -1 <= box.x0, kind
            assert box.x1 <= width + 1, kind


def test_the_history_is_that_of_the_step_means_with_a_spike_of_one_step():
    means = given(4)[0]
    figure = VISUALIZER.plot_reward_history(means, steps=range(100, 100 + STEPS))
    for axes, values in zip(figure.axes, means.values(), strict=True):
        (line,) = axes.lines
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert line.get_xdata().tolist() == list(range(100, 100 + STEPS))
    spiked = figure.axes[2]
    assert spiked.lines[0].get_ydata().max() == runs.SPIKE_VALUE
    assert spiked.get_ylim()[1] < 10
    assert "↑ 50 at step 250" in {t.get_text().strip() for t in spiked.texts}


def test_a_history_without_steps_counts_them():
    (axes,) = VISUALIZER.plot_reward_history({"a": [0.0, None, 2.0]}).axes
    assert axes.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert np.isnan(axes.lines[0].get_ydata()[1])


def test_a_histogram_is_that_of_the_window():
    histograms = given(1)[1]
    (axes,) = VISUALIZER.plot_reward_distributions(histograms).axes
    (stairs,) = axes.patches
    assert stairs.get_data().values.tolist() == histograms["format"].counts
    assert stairs.get_data().edges.tolist() == histograms["format"].edges
    assert axes.get_title(loc="left") == "format  1,000 samples"


def test_samples_may_be_given_in_the_place_of_histograms():
    (axes,) = VISUALIZER.plot_reward_distributions({"a": [0.0, 1.0, None, float("nan"), 1.0]}, bins=4).axes
    assert axes.patches[0].get_data().values.tolist() == [1, 0, 0, 2]


def test_statistics_are_those_of_the_window():
    stats = given(4)[2]
    spread, quantiles, shares = VISUALIZER.plot_reward_statistics(stats).axes
    assert spread.lines[0].get_xdata().tolist() == [s.mean for s in stats.values()]
    assert quantiles.lines[0].get_xdata().tolist() == [s.median for s in stats.values()]
    widths = [bar.get_width() for bar in shares.patches]
    assert widths[:4] == [s.positive_fraction for s in stats.values()]
    assert sum(widths) == pytest.approx(4)


def test_a_reward_of_another_magnitude_leaves_the_others_room():
    stats = {name: RewardStats(name, mean=m, std=0.1, min=m - 1, max=m + 1, p25=m, p90=m, median=m)
             for name, m in (("a", 0.5), ("b", 0.7), ("c", -1.0), ("d", 1e5))}  # fmt: skip
    assert VISUALIZER.plot_reward_statistics(stats).axes[0].get_xscale() == "symlog"
    del stats["d"]
    assert VISUALIZER.plot_reward_statistics(stats).axes[0].get_xscale() == "linear"


def test_averages_are_compared_in_the_larger_of_magnitude_and_spread():
    stats = {"up": RewardStats("up", ema_short=3.0, ema_long=2.0, std=0.1),
             "near_zero": RewardStats("near_zero", ema_short=-0.5, ema_long=0.0, std=1.0),
             "missing": RewardStats("missing")}  # fmt: skip
    both, moved = VISUALIZER.plot_ema_comparison(stats).axes
    assert [bar.get_width() for bar in moved.patches] == [0.5, -0.5, 0.0]
    np.testing.assert_array_equal(both.lines[1].get_xdata(), [3.0, -0.5, np.nan])
    assert "no data" in all_texts(both.figure)


def test_hostile_names_and_missing_data_are_drawn():
    names = [*runs.HOSTILE, "none", "nan"]
    nothing = {name: [] if name == "none" else [None] * 3 for name in names}
    figures = [
        VISUALIZER.plot_reward_history(nothing, title="$\\frac{"),
        VISUALIZER.plot_reward_distributions({name: Histogram([], [0.0]) for name in names}),
        VISUALIZER.plot_reward_statistics({name: RewardStats(name) for name in names}),
        VISUALIZER.plot_ema_comparison({name: RewardStats(name) for name in names}),
    ]
    for figure in figures:
        figure.canvas.draw()  # warnings are errors here
        words = all_texts(figure)
        assert any(text.startswith("price $5 to $6 \\frac{1"[:12]) for text in words)
        assert any(text.startswith("_hidden") for text in words)
        assert not any(t.get_parse_math() for t in figure.findobj(Text) if t.get_text())


@pytest.mark.parametrize("plot", ["history", "distributions", "statistics"])
def test_no_rewards_at_all_is_a_picture_too(plot):
    for figure in (getattr(VISUALIZER, f"plot_reward_{plot}")({}), VISUALIZER.plot_ema_comparison({})):
        figure.canvas.draw()
        assert figure.get_suptitle()


def test_a_style_is_taken_or_told():
    (axes,) = RewardVisualizer("dark_background").plot_reward_history({"a": [1.0]}).axes
    assert axes.get_facecolor()[:3] == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"style: got 'nice', allowed: one of"):
        RewardVisualizer("nice")


def test_other_formats_follow_the_name_of_the_file(tmp_path):
    VISUALIZER.plot_reward_history({"a": [1.0, 2.0]}, save_path=tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    VISUALIZER.plot_reward_history({"a": [1.0, 2.0]}, save_path=tmp_path / "deep" / "a.pdf")
    assert (tmp_path / "deep" / "a.pdf").read_bytes().startswith(b"%PDF")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.pdf"]
