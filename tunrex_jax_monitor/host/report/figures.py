"""Figures of a run, as matplotlib `Figure` objects: no pyplot, so no global state and no window."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent, Histogram
from tunrex_jax_monitor.host.stats import RewardStats

SHORT, LONG, BAND, ALERT, BARS = "#0072B2", "#D55E00", "#56B4E9", "#CC3311", "#7A8B99"  # colour-blind safe
WIDTH, DPI, COLUMNS = 12.0, 110, 1200
_FRACTIONS = (("positive_fraction", "#009E73"), ("zeros_fraction", "#BBBBBB"), ("negative_fraction", "#CC79A7"))

Series = Sequence[float | None]


def history(series: Mapping[str, Series], steps: Sequence[int] | None, title: str) -> Figure:
    """Return one panel per reward: the step means, over the step."""
    figure = _figure(len(series), 1.9, title)
    for axes, (name, values) in _panels(figure, series):
        x = np.arange(len(values)) if steps is None else np.asarray(steps)
        _draw_means(axes, x, _floats(values))
        _name(axes, name)
    return figure


def distributions(histograms: Mapping[str, Histogram], title: str) -> Figure:
    """Return one histogram per reward."""
    figure = _figure(len(histograms), 1.9, title)
    for axes, (name, h) in _panels(figure, histograms):
        axes.stairs(h.counts, h.edges, fill=True, color=BAND, edgecolor=SHORT)
        axes.set_ylabel("samples")
        _name(axes, f"{name}: {sum(h.counts)} samples")
    return figure


def statistics(stats: Mapping[str, RewardStats], title: str) -> Figure:
    """Return, side by side over the rewards: mean with spread and range, quantiles, and shares by sign."""
    figure = Figure(figsize=(WIDTH, 1.6 + 0.5 * len(stats)), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    names, rows = list(stats), np.arange(len(stats))
    spread, quantiles, shares = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
    means, stds = (np.array([getattr(s, field) for s in stats.values()]) for field in ("mean", "std"))
    spread.hlines(rows, [s.min for s in stats.values()], [s.max for s in stats.values()], color=BARS, lw=1)
    spread.errorbar(means, rows, xerr=stds, fmt="o", color=SHORT, capsize=4)
    spread.set_title("mean, std (bar), range (line)", loc="left", fontsize=9)
    quantiles.hlines(rows, [s.p25 for s in stats.values()], [s.p90 for s in stats.values()], color=BAND, lw=6)
    quantiles.plot([s.median for s in stats.values()], rows, "|", color=LONG, ms=14, mew=2)
    quantiles.set_title("median, p25 to p90", loc="left", fontsize=9)
    left = np.zeros(len(stats))
    for field, color in _FRACTIONS:
        width = np.nan_to_num([getattr(s, field) for s in stats.values()])
        shares.barh(rows, width, left=left, color=color, label=field.partition("_")[0])
        left += width
    shares.set_title("share of samples", loc="left", fontsize=9)
    shares.legend(fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, -0.32), frameon=False)
    spread.set_yticks(rows, [_plain(name) for name in names])
    spread.invert_yaxis()
    for axes in (spread, quantiles, shares):
        _tidy(axes)
    return figure


def ema_comparison(stats: Mapping[str, RewardStats], title: str) -> Figure:
    """Return, per reward, an arrow from the long to the short average: where it is going."""
    figure = Figure(figsize=(WIDTH, 1.4 + 0.4 * len(stats)), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    axes = figure.subplots()
    rows = np.arange(len(stats))
    long, short = (np.array([getattr(s, f"ema_{kind}") for s in stats.values()]) for kind in ("long", "short"))
    axes.plot(long, rows, "o", color=LONG, label="long average")
    axes.plot(short, rows, "D", color=SHORT, label="short average")
    for row, start, end in zip(rows, long, short, strict=True):
        if math.isfinite(start) and math.isfinite(end) and start != end:
            axes.annotate("", (end, row), (start, row), arrowprops={"arrowstyle": "->", "color": BARS})
    axes.set_yticks(rows, [_plain(name) for name in stats])
    axes.margins(y=0.3)
    axes.invert_yaxis()
    axes.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    _tidy(axes)
    return figure


def dashboard(run: History, title: str) -> Figure:
    """Return, per reward, its averages over the band of one std, the alerts, and the histogram of now."""
    figure = _figure(len(run.names), 2.1, title)
    grid = figure.subplots(max(len(run.names), 1), 2, squeeze=False, width_ratios=[3, 1])
    steps = np.asarray(run.series.get("step", []))
    for (over_time, now), name in zip(grid, run.names, strict=False):
        mean, std, short, long = (
            _floats(run.series.get(f"{name}/{field}", ())) for field in ("mean", "std", "ema_short", "ema_long")
        )
        x, low, high = _envelope(steps, mean - std, mean + std)
        over_time.fill_between(x, low, high, color=BAND, alpha=0.3, lw=0, label="step mean +/- std")
        for values, color, style, label in ((short, SHORT, "-", "short average"), (long, LONG, "--", "long average")):
            over_time.plot(*_thinned(steps, values), color=color, ls=style, lw=1.3, label=label)
        _mark_alerts(over_time, [a for a in run.alerts if a.reward == name])
        _name(over_time, name)
        histogram = None if run.last is None else run.last.histograms.get(f"{name}/histogram")
        if histogram is not None:
            now.stairs(histogram.counts, histogram.edges, fill=True, color=BAND, edgecolor=SHORT)
        now.set_title("last window", loc="left", fontsize=9)
        for axes in (over_time, now):
            _tidy(axes)
    if run.names:
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=len(labels), fontsize=8, frameon=False)
        grid[-1][0].set_xlabel("step")
    return figure


def _figure(rows: int, height: float, title: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 0.8 + height * max(rows, 1)), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _panels(figure: Figure, of: Mapping[str, Any]) -> Iterator[tuple[Axes, tuple[str, Any]]]:
    grid = figure.subplots(max(len(of), 1), 1, squeeze=False)
    for axes in grid[:, 0]:
        _tidy(axes)
    return zip(grid[:, 0], of.items(), strict=False)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.5)
    axes.tick_params(labelsize=8)


def _name(axes: Axes, name: str) -> None:
    axes.set_title(_plain(name), loc="left", fontsize=9, fontweight="bold")


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # a dollar sign would start mathematics


def _floats(values: Series) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values], float)


def _draw_means(axes: Axes, x: np.ndarray, means: np.ndarray) -> None:
    axes.fill_between(*_envelope(x, means, means), color=BAND, alpha=0.5, lw=0.8, edgecolor=SHORT)
    axes.plot(*_thinned(x, means), color=SHORT, lw=0.8)


def _mark_alerts(axes: Axes, alerts: Sequence[AlertEvent]) -> None:
    steps = sorted({alert.step for alert in alerts})
    if steps:
        axes.plot(steps, np.zeros(len(steps)), "^", color=ALERT, ms=6, transform=axes.get_xaxis_transform(),
                  clip_on=False, label="_")  # fmt: skip
        axes.text(1, 1.02, f"{len(alerts)} alerts", color=ALERT, fontsize=8, ha="right", transform=axes.transAxes)


def _envelope(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return at most COLUMNS columns that keep every extreme."""
    if len(x) <= COLUMNS:
        return x, low, high
    starts = np.linspace(0, len(x), COLUMNS, endpoint=False).astype(int)
    return x[starts], np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most 2 COLUMNS points: the least and the greatest of each column, in order."""
    if len(x) <= 2 * COLUMNS:
        return x, y
    parts = np.array_split(np.arange(len(x)), COLUMNS)
    filled = np.where(np.isnan(y), -np.inf, y), np.where(np.isnan(y), np.inf, y)
    keep = sorted({int(p[i]) for p in parts for i in (filled[0][p].argmax(), filled[1][p].argmin())})
    return x[keep], y[keep]
