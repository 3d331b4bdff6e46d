"""The dashboard by its structure: rows, panels, what is drawn where, and what is said."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.image import PcolorImage
from PIL import Image

from tests.host.report import runs
from tunrex_jax_monitor import RewardVisualizer
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Histogram, Record
from tunrex_jax_monitor.host.report.dashboard import ROWS, Layout, dashboard, draw
from tunrex_jax_monitor.host.report.style import MARKS, STATUS

STEPS = 2500  # more than there are points in a line


@pytest.fixture(scope="module")
def run():
    return History.of(runs.records(STEPS))


@pytest.fixture(scope="module")
def figure(run):
    return dashboard(run, "Rewards")


@pytest.fixture(scope="module")
def rows(run, figure):
    """The three panels of each reward, by name."""
    order = Layout.of_run(run, "").order
    return {name: figure.axes[3 * i : 3 * i + 3] for i, name in enumerate(order)}


def texts(figure):
    return [t.get_text() for t in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]]


def lines(axes):
    """(x, y) of the lines without a marker."""
    return [line.get_data() for line in axes.lines if line.get_marker() in ("None", "")]


def marks(axes):
    return {
        line.get_marker(): np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_label()[0] != "_"
    }


def spans(axes):
    """First and last step of what is shaded."""
    bars = [c for c in axes.collections if isinstance(c, PolyCollection) and c.get_alpha() == 0.16]
    extents = [path.get_extents() for bar in bars for path in bar.get_paths()]
    return sorted((e.x0, e.x1) for e in extents)


def hostile(**options):
    return History.of(runs.records(300, names=runs.HOSTILE, **options))


def test_a_row_of_three_panels_per_reward_the_worst_first(run, figure, rows):
    assert len(figure.axes) == 3 * 8
    assert list(rows)[:4] == ["style", "safety", "answer", "length"]
    shown = texts(figure)
    assert [text for text in shown if text in runs.NAMES] == list(rows)
    assert {"flat since step 2000", "no alert", "DROP at steps 1550-1650, ended"} <= set(shown)


def test_the_averages_are_the_series_short_solid_and_long_dashed(run, rows):
    for name, (averages, *_) in rows.items():
        short, long = (line for line in averages.lines if line.get_marker() in ("None", ""))
        for line, kind in ((short, "short"), (long, "long")):
            x, y = line.get_data()
            np.testing.assert_array_equal(y, run.array(f"{name}/ema_{kind}")[x])
        assert (short.get_linestyle(), long.get_linestyle()) == ("-", "--")


def test_a_spike_of_one_step_is_in_the_envelope_and_told(rows):
    averages = rows["length"][0]
    tops = [path.vertices[:, 1].max() for c in averages.collections for path in c.get_paths()]
    assert max(tops) == runs.SPIKE_VALUE
    assert averages.get_ylim()[1] < 10  # and does not flatten the rest
    assert "↑ 50 at step 1,250" in {t.get_text().strip() for t in averages.texts}


def test_the_fan_is_the_quantiles_of_the_windows(run, rows):
    averages = rows["format"][0]
    fan = [c for c in averages.collections if c.get_alpha() in (0.25, 0.35) and c.get_linewidth() == 0]
    assert len(fan) == 2
    low = min(path.vertices[:, 1].min() for c in fan for path in c.get_paths())
    assert low == pytest.approx(run.emissions.array("format/p10").min())


def test_episodes_are_shaded_through_all_panels(rows):
    planted = runs.planted(STEPS)
    for name in ("answer", "style", "safety", "length"):
        expected = [at for (reward, _), at in planted.items() if reward == name]
        averages, distribution, variance = rows[name]
        assert spans(averages) == spans(distribution) == expected
        assert set(expected) <= set(spans(variance))


def test_episodes_are_marked_where_they_begin_with_the_shape_of_their_type(rows):
    for (name, kind), (first, _) in runs.planted(STEPS).items():
        axes = rows[name][0] if name in rows else rows["format"][2]  # collapsed groups are the total's
        assert marks(axes) == {MARKS[kind][0]: [first]}


def test_very_many_episodes_are_a_rug_and_paint_nothing_over():
    steps = list(range(400))
    series = {"step": steps, "a/mean": [1.0] * 400, "a/ema_short": [1.0] * 400, "a/alerts": [1, 0] * 200}
    axes = dashboard(History.of([Record(399, 400, 0.0, {}, {}, series, names=("a",))]), "").axes[0]
    rug = next(c for c in axes.collections if isinstance(c, LineCollection))
    assert [segment[0, 0] for segment in rug.get_segments()] == steps[::2]
    assert spans(axes) == []
    assert marks(axes) == {MARKS["OUTLIER"][0]: [0]}


def test_every_type_has_a_shape_and_a_colour_of_its_own():
    shapes = [shape for shape, _ in MARKS.values()]
    assert len(set(shapes)) == len(shapes) == 8


def test_the_heat_map_is_in_the_middle_and_of_one_hue(rows):
    for _, distribution, _ in rows.values():
        (image,) = (i for i in distribution.images if isinstance(i, PcolorImage))
        assert image.get_cmap().name == "Blues"
        assert image.get_array().max() <= 1


def test_the_line_on_the_heat_map_is_the_mean_of_the_window(run, rows):
    x, y = lines(rows["answer"][1])[0]
    steps = run.emissions.steps.tolist()
    np.testing.assert_array_equal(y, run.emissions.array("answer/mean")[[steps.index(step) for step in x]])


def test_the_share_of_groups_has_the_line_of_the_alert(run, rows):
    for name, (_, _, variance) in rows.items():
        flat = [y[0] for _, y in lines(variance) if len(y) == 2 and y[0] == y[1]]
        assert flat == [0.8]
        shown = next(y for _, y in lines(variance) if len(y) > 2)
        assert np.nanmean(shown) == pytest.approx(run.array(f"{name}/frac_zero_std").mean(), abs=1e-6)


@pytest.mark.parametrize(("limit", "labels"), [(0.5, ["0 %", "50 %", "100 %"]), (0.95, ["0 %", "95 %"])])
def test_the_line_of_the_alert_is_where_the_run_was_configured_to_have_it(limit, labels):
    run = History.of(runs.records(60, 1))
    run.config = {"collapse_threshold": limit}
    panel = dashboard(run, "").axes[2]
    assert [
        text.get_text() for text in sorted(panel.get_yticklabels(), key=lambda text: text.get_position()[1])
    ] == labels
    assert limit in [line.get_ydata()[0] for line in panel.get_lines() if line.get_linestyle() == ":"]


def test_without_groups_the_third_panel_says_so_and_shows_the_std():
    run = History.of(runs.records(300, 2, group_size=None))
    figure = dashboard(run, "")
    assert "std in a step (groups not known)" in texts(figure)
    shown = next(y for _, y in lines(figure.axes[2]) if len(y) > 2)
    assert np.nanmax(shown) <= run.array(f"{Layout.of_run(run, '').order[0]}/std").max()


def test_many_rewards_are_pages_of_eight_and_the_first_tells_of_the_rest():
    layout = Layout.of_run(History.of(runs.records(300, 32)), "Rewards")
    pages = [draw(layout, page) for page in range(layout.pages)]
    assert [len(page.axes) for page in pages] == [3 * ROWS] * 4
    assert "+24 more on the next 3 pages: no alert" in texts(pages[0])
    assert "Rewards (page 4 of 4)" in texts(pages[3])
    shown = [text for page in pages for text in texts(page) if text in layout.order]
    assert shown == layout.order


def test_pages_are_files_beside_the_first(tmp_path):
    run = History.of(runs.records(100, 9))
    RewardVisualizer().plot_reward_dashboard(run, tmp_path / "new" / "dashboard.png")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"dashboard.png", "dashboard-2.png"}


def test_nothing_is_cut_off_at_the_edges(figure):
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    for text in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text


def test_hostile_names_are_drawn_as_they_are():
    run = hostile()
    figure = dashboard(run, "$title \\frac{1")
    figure.canvas.draw()  # warnings are errors here: no missing glyph, no mathematics
    shown = set(texts(figure))
    assert {"price $5 to $6 \\frac{1", "_hidden", "[red]markup[/red]", "$title \\frac{1"} <= shown
    assert "\\u7b54\\u6848\\u6b63\\u786e\\u6027" in shown
    assert not any(t.get_parse_math() for axes in figure.axes for t in axes.texts)


@pytest.mark.parametrize("rewards", [1, 4])
def test_one_step_is_a_point(rewards):
    figure = dashboard(History.of(runs.records(1, rewards)), "")
    figure.canvas.draw()
    for axes in figure.axes[::3]:
        assert {line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1} >= {"."}


def test_an_empty_run_says_so():
    figure = dashboard(History(), "")
    figure.canvas.draw()
    assert "nothing recorded yet" in texts(figure)
    named = History()
    named.begin_run({"config": {"reward_names": ["a", "b"]}})
    assert texts(dashboard(named, "")).count("no data yet") >= 2


def test_nothing_but_missing_values_says_so():
    series = {"step": [0, 1], "a/mean": [None, None], "a/ema_short": [None, None], "a/alerts": [32, 32]}
    run = History.of([Record(1, 2, 0.0, {"a/nonfinite_count": 8.0}, {}, series, names=("a",))])
    figure = dashboard(run, "")
    figure.canvas.draw()
    assert {"NaN or infinite since step 0", "no finite reward", "1 alert, 8 not finite"} <= set(texts(figure))


def test_infinite_extremes_do_not_stop_the_picture():
    series = {"step": [0, 1], "a/mean": [1e38, -1e38], "a/ema_short": [1e38, 0.0], "a/ema_long": [1e38, 0.0]}
    histogram = {"a/histogram": Histogram([1, 1], [-1e38, 0.0, 1e38])}
    run = History.of([Record(1, 2, 0.0, {"a/p10": -1e38, "a/p90": 1e38}, histogram, series, names=("a",))])
    figure = dashboard(run, "")
    figure.canvas.draw()
    assert [1e38, 0.0] in [line[1].tolist() for line in lines(figure.axes[0])]


def test_steps_that_jump_are_drawn_where_they_are():
    series = {"step": [0, 1000, 50_000], "a/mean": [0.0, 1.0, 2.0], "a/ema_short": [0.0, 1.0, 2.0]}
    figure = dashboard(History.of([Record(50_000, 3, 0.0, {}, {}, series, names=("a",))]), "")
    assert lines(figure.axes[0])[0][0].tolist() == [0, 1000, 50_000]


def test_steps_that_go_back_are_drawn_one_after_the_other():
    series = {"step": [0, 1, 2, 1, 2, 3], "a/mean": [0.0] * 6, "a/ema_short": [float(i) for i in range(6)]}
    run = History.of([Record(3, 6, 0.0, {}, {}, series, names=("a",))])
    axes = dashboard(run, "").axes[0]
    assert lines(axes)[0][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert axes.get_xlabel() == "update"


def test_a_long_verdict_leaves_the_numbers_room():
    names = ("W" * 200, "name_of_some_thirty_letters_xx")
    made = History.of(runs.records(300, names=names))
    bits = np.zeros(300, int)
    bits[10:20], bits[30:200:3] = 32, 1
    for name in names:
        made.series.set(f"{name}/alerts", bits)
    figure = dashboard(made, "")
    figure.canvas.draw()
    for axes in figure.axes[::3]:
        verdict = next(t for t in axes.texts if t.get_text().startswith("NONFINITE"))
        now = next(t for t in axes.texts if t.get_text().startswith("now "))
        assert verdict.get_window_extent().x1 < now.get_window_extent().x0


def test_a_folded_series_is_said_to_be_one(run):
    folded = History.of(runs.records(STEPS)[:2])
    folded.series.stride = 4
    assert "each point stands for 4 steps or more, their extremes kept" in texts(dashboard(folded, ""))


def test_the_png_has_a_palette_with_the_exact_colours_of_marks_and_words(tmp_path, run):
    RewardVisualizer().plot_reward_dashboard(run, tmp_path / "dashboard.png")
    picture = Image.open(tmp_path / "dashboard.png")
    assert picture.mode == "P"
    colors = {color for _, color in picture.convert("RGB").getcolors(2**20)}
    for color in ("#FFFFFF", MARKS["DROP"][1], MARKS["OUTLIER"][1], STATUS["bad"]):
        assert tuple(bytes.fromhex(color[1:])) in colors, color


def test_eight_rewards_of_ten_thousand_steps_take_at_most_250_kilobytes(tmp_path):
    RewardVisualizer().plot_reward_dashboard(History.of(runs.records()), tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").stat().st_size <= 250_000


def test_an_export_draws_what_the_run_directory_draws(run, tmp_path):
    again = History.from_export(run.to_export())
    for a, b in zip(dashboard(run, "").axes, dashboard(again, "").axes, strict=True):
        for (xa, ya), (xb, yb) in zip(lines(a), lines(b), strict=True):
            np.testing.assert_array_equal(xa, xb)
            np.testing.assert_array_equal(ya, yb)
        assert spans(a) == spans(b)
        assert [t.get_text() for t in a.texts] == [t.get_text() for t in b.texts]


def test_drawing_needs_neither_pyplot_nor_jax(tmp_path):
    runs.write(tmp_path / "run", steps=50, rewards=2)
    code = """
import sys
from tunrex_jax_monitor import RewardVisualizer
RewardVisualizer().plot_reward_dashboard(sys.argv[1], sys.argv[2])
print(*{"jax", "matplotlib.pyplot"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "dashboard.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []
    assert (tmp_path / "dashboard.png").exists()
