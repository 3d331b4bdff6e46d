"""The original document's pictures, as matplotlib `Figure` objects: no pyplot, so no global state and no window.

Panels stand in a grid that stays readable from one reward to 32.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from tunrex_jax_monitor.host.record import Histogram
from tunrex_jax_monitor.host.report import style
from tunrex_jax_monitor.host.report.decimate import keep_extremes
from tunrex_jax_monitor.host.report.panels import POINTS, envelope, limit
from tunrex_jax_monitor.host.report.text import number, plural
from tunrex_jax_monitor.host.stats import RewardStats

Series = Sequence[float | None]
T = TypeVar("T")
_PANEL_HEIGHT = 1.75  # inches
_LINE = 0.34  # inches per reward where each is a line
_FRACTIONS = (("positive", style.GREEN), ("zeros", "#BBBBBB"), ("negative", style.PURPLE))
_USUAL = (0.005, 0.995)  # of the step means; what is far beyond is told with an arrow
_FAR = 50.0  # times the usual magnitude, from which on an axis is logarithmic away from 0


def history(series: Mapping[str, Series], steps: Sequence[int] | None, title: str) -> Figure:
    """Return one panel per reward: the step means, over the step."""
    figure = _figure(len(series), title)
    figure.supxlabel("step", fontsize=style.SMALL)
    for axes, (name, given) in _panels(figure, series):
        values = np.array([np.nan if v is None else v for v in given], float)
        x = np.arange(len(values)) if steps is None or len(steps) != len(values) else np.asarray(steps)
        style.over_steps(axes, x)
        _name(axes, name)
        if np.isnan(values).all():
            style.say_empty(axes, "no finite reward" if len(values) else "no data yet")
            continue
        ends, low, high = envelope(x, values)
        axes.fill_between(ends, low, high, color=style.SKY, alpha=0.5, lw=0.6)
        rows = keep_extremes(values, POINTS)
        axes.plot(x[rows], values[rows], color=style.BLUE, lw=0.7, marker="o" if len(rows) < 3 else "")
        limit(axes, x, values, np.nanquantile(values, _USUAL))
    return style.finish(figure)


def distributions(histograms: Mapping[str, Histogram], title: str) -> Figure:
    """Return one histogram per reward."""
    figure = _figure(len(histograms), title)
    for axes, (name, h) in _panels(figure, histograms):
        _name(axes, name, f"  {plural(sum(h.counts), 'sample')}")
        if not sum(h.counts):
            style.say_empty(axes, "no finite reward")
            continue
        axes.stairs(h.counts, h.edges, fill=True, color=style.SKY, edgecolor=style.BLUE)
        axes.margins(x=0.03 if len(h.counts) > 1 else 2)  # one bin should not look like an even spread
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))
    return style.finish(figure)


def statistics(stats: Mapping[str, RewardStats], title: str) -> Figure:
    """Return, side by side over the rewards: mean with spread and range, quantiles, and shares by sign."""
    figure = _lines(len(stats), title)
    spread, quantiles, shares = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
    rows = np.arange(len(stats))
    of = {f.name: _values(stats, f.name) for f in fields(RewardStats) if f.name != "name"}
    spread.hlines(rows, of["min"], of["max"], color=style.GREY, lw=1)
    spread.errorbar(of["mean"], rows, xerr=np.nan_to_num(of["std"]), fmt="o", color=style.BLUE, ms=5, capsize=3)
    low = np.where(np.isnan(of["p10"]), of["p25"], of["p10"])
    quantiles.hlines(rows, low, of["p90"], color=style.SKY, alpha=0.5, lw=7)
    quantiles.hlines(rows, of["p25"], of["p75"], color=style.SKY, lw=7)
    quantiles.plot(of["median"], rows, "|", color=style.VERMILLION, ms=12, mew=2)
    left = np.zeros(len(stats))
    for field, color in _FRACTIONS:
        width = np.nan_to_num(of[f"{field}_fraction"])
        shares.barh(rows, width, left=left, color=color, height=0.6)
        left += width
    _finish_lines(spread, "mean (dot), std (bar), range (line)", [of["min"], of["max"]], stats)
    _finish_lines(quantiles, "median, p25 to p75, p10 to p90 (pale)", [low, of["p90"]], stats)
    shares.set_xlim(0, 1)
    shares.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    _finish_lines(shares, "share of samples", [], stats)
    handles = [Patch(color=color, label=field) for field, color in _FRACTIONS]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, fontsize=style.SMALL, frameon=False)
    return style.finish(figure)


def ema_comparison(stats: Mapping[str, RewardStats], title: str) -> Figure:
    """Return, side by side over the rewards: both averages, and how far the short one has left the long one."""
    figure = _lines(len(stats), title)
    both, left = figure.subplots(1, 2, sharey=True, squeeze=False, width_ratios=[3, 2])[0]
    rows = np.arange(len(stats))
    long, short, std = (_values(stats, field) for field in ("ema_long", "ema_short", "std"))
    both.hlines(rows, long, short, color=style.GREY, lw=2)
    both.plot(long, rows, "o", color=style.VERMILLION, ms=7)
    both.plot(short, rows, "D", color=style.BLUE, ms=5)
    _finish_lines(both, "averages of the step means", [long, short], stats)
    scale = np.fmax(np.abs(long), std)
    moved = np.divide(short - long, scale, out=np.zeros(len(rows)), where=scale > 0)
    left.barh(rows, np.nan_to_num(moved), color=np.where(moved < 0, style.VERMILLION, style.BLUE), height=0.5)
    left.axvline(0, color=style.BLACK, lw=0.7)
    _finish_lines(left, "short less long, of the larger of |long| and std", [], stats)
    reach = 1.1 * max(0.1, float(np.abs(np.nan_to_num(moved)).max(initial=0)))
    left.set_xlim(-reach, reach)
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f} %"))
    handles = [
        Line2D([], [], color=color, marker=shape, ls="", label=label)
        for color, shape, label in ((style.VERMILLION, "o", "long average"), (style.BLUE, "D", "short average"))
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=style.SMALL, frameon=False)
    return style.finish(figure)


def _figure(panels: int, title: str) -> Figure:
    height = 0.7 + _PANEL_HEIGHT * max(-(-panels // _columns(panels)), 1)
    return _titled(Figure(figsize=(style.PANEL_WIDTH, height), dpi=style.DPI, layout="constrained"), title)


def _lines(rewards: int, title: str) -> Figure:
    height = 1.3 + _LINE * max(rewards, 2)
    return _titled(Figure(figsize=(style.PANEL_WIDTH, height), dpi=style.DPI, layout="constrained"), title)


def _titled(figure: Figure, title: str) -> Figure:
    figure.suptitle(title, x=0.01, ha="left", fontsize=style.LARGE, fontweight="bold")
    return figure


def _columns(panels: int) -> int:
    return 1 if panels <= 3 else 2 if panels <= 8 else 4


def _panels(figure: Figure, of: Mapping[str, T]) -> Iterator[tuple[Axes, tuple[str, T]]]:
    """Yield a panel with each item of a mapping; places without one stay empty."""
    columns = _columns(len(of))
    grid = figure.subplots(max(-(-len(of) // columns), 1), columns, squeeze=False).ravel()
    for axes in grid[len(of) :]:
        axes.set_axis_off()
    if not of:
        style.say_empty(grid[0], "nothing recorded yet")
    for axes, item in zip(grid, of.items(), strict=False):
        style.tidy(axes)
        yield axes, item


def _name(axes: Axes, name: str, words: str = "") -> None:
    shown = style.safe(name, 28)
    axes.set_title(f"{shown}{words}", loc="left", fontsize=style.NORMAL, fontweight="bold")


def _values(stats: Mapping[str, RewardStats], field: str) -> np.ndarray:
    return np.array([getattr(s, field) for s in stats.values()], np.float64)


def _finish_lines(axes: Axes, title: str, extent: Sequence[np.ndarray], stats: Mapping[str, RewardStats]) -> None:
    """Name the lines of a panel, and let one reward of another magnitude leave the others room."""
    axes.set_title(title, loc="left", fontsize=style.NORMAL)
    style.tidy(axes)
    axes.set_yticks(np.arange(len(stats)), [style.safe(name, 30) for name in stats])
    axes.set_ylim(max(len(stats), 1) - 0.5, -0.5)
    if not extent:
        return
    for row in np.flatnonzero(np.isnan(np.array(extent)).all(axis=0)):
        axes.text(0.02, float(row), "no data", transform=axes.get_yaxis_transform(), va="center", color=style.GREY)
    sizes = np.abs(np.concatenate(extent))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if sizes.size and sizes.max() > _FAR * np.median(sizes):
        axes.set_xscale("symlog", linthresh=2 * float(np.median(sizes)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))
