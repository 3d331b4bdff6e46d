"""Dashboard: which reward went wrong, when, and how badly, in ten seconds. One row per reward, the worst first.

Three panels share the steps: the averages over the fan of the window's quantiles and the range of step means, the
distribution as a heat map, the share of groups without variance. Alert episodes are shaded through all of them.
"""

import textwrap
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report import panels
from tunrex_jax_monitor.host.report.episodes import TOTAL, TOTAL_NAME, Episode, by_severity, episodes, severity
from tunrex_jax_monitor.host.report.style import (
    BLUE,
    DASHED,
    DPI,
    GREY,
    LARGE,
    NORMAL,
    PANEL_WIDTH,
    SKY,
    SMALL,
    STATUS,
    VERMILLION,
    finish,
    fit,
    legend_of,
    over_steps,
    safe,
    say_empty,
    width_of,
)
from tunrex_jax_monitor.host.report.text import display_name, number, plural, share, signed
from tunrex_jax_monitor.host.report.verdict import Verdict, total_verdict, verdicts

ROWS = 8  # rewards on a page
_TOP, _ROW, _BOTTOM = 1.15, 1.62, 0.62  # inches
_COLUMNS = ((0.62, 5.2), (6.42, 3.7), (10.62, 2.15))  # left edge and width of the panels, inches
_PANEL = 1.12  # height, inches
_NUMBERS = (6.42, 7.4, 8.7, 9.75, 11.1)  # left edges of now, change, best, share without variance, alerts, in inches
_ABOVE = 1.12  # where the title of a row stands, in axes
_NAME = 3.3  # inches of a name, at most
_GAP = 8  # points between name, verdict and numbers


@dataclass(frozen=True)
class Layout:
    """What every page of a dashboard says the same of."""

    run: History
    title: str
    order: list[str]
    found: list[Episode]
    of: dict[str, Verdict]

    @classmethod
    def of_run(cls, run: History, title: str) -> "Layout":
        """Put the rewards of a run in order."""
        run = run.in_order()
        found = episodes(run)
        return cls(run, title, by_severity(run.names, found), found, {v.reward: v for v in verdicts(run, found)})

    @property
    def pages(self) -> int:
        """How many pages there are, at least one."""
        return max(1, -(-len(self.order) // ROWS))


def dashboard(run: History, title: str, page: int = 0) -> Figure:
    """Return one page of the dashboard; page 0 has the rewards that need a person most."""
    return draw(Layout.of_run(run, title), page)


def draw(layout: Layout, page: int) -> Figure:
    """Return one page."""
    names = layout.order[page * ROWS : (page + 1) * ROWS]
    height = _TOP + _ROW * max(len(names), 1) + _BOTTOM
    figure = Figure(figsize=(PANEL_WIDTH, height), dpi=DPI)
    rows = [_row_axes(figure, height, i) for i in range(len(names))]
    for name, axes in zip(names, rows, strict=True):
        _draw_row(layout, name, axes)
    for axes in rows[:-1]:
        for panel in axes:
            panel.tick_params(labelbottom=False)
    for panel in rows[-1] if rows else ():
        panel.set_xlabel(layout.run.axis, fontsize=SMALL)
    if not names:
        say_empty(figure.add_axes((0.05, 0.2, 0.9, 0.5), frameon=False, xticks=[], yticks=[]), "nothing recorded yet")
    _head(figure, layout, page, height)
    _foot(figure, layout, page, height)
    return finish(figure)


def _row_axes(figure: Figure, height: float, row: int) -> list[Axes]:
    bottom = height - _TOP - _ROW * (row + 1) + (_ROW - _PANEL) * 0.2
    return [
        figure.add_axes((left / PANEL_WIDTH, bottom / height, width / PANEL_WIDTH, _PANEL / height))
        for left, width in _COLUMNS
    ]


def _draw_row(layout: Layout, name: str, axes: list[Axes]) -> None:
    run, own = layout.run, [e for e in layout.found if e.reward == name]
    of_all = [e for e in layout.found if e.reward == TOTAL]
    averages, distribution, variance = axes
    steps = run.steps()
    rows = np.searchsorted(steps, [e.first for e in own])
    panels.draw_averages(averages, run, name, rows.tolist())
    panels.draw_distribution(distribution, run, name)
    panels.draw_variance(variance, run, name)
    for panel, shown in ((averages, own), (distribution, own), (variance, [*own, *of_all])):
        over_steps(panel, steps)
        panels.shade(panel, shown)
    panels.mark(averages, own)
    panels.mark(variance, of_all)
    _title(averages, layout.of[name])


def _title(axes: Axes, v: Verdict) -> None:
    """Write name and verdict on the left of the row, and the numbers in columns on its right."""
    style: dict[str, Any] = {"va": "bottom", "fontsize": NORMAL}
    shown = fit(safe(v.reward), display_name, _NAME, bold=True)
    name = axes.text(0, _ABOVE, shown, transform=axes.transAxes, fontweight="bold", **style)
    room = _NUMBERS[0] - _COLUMNS[0][0] - width_of(shown, bold=True) - 2 * _GAP / 72
    words = fit(v.words, partial(textwrap.shorten, placeholder=" …"), room)
    axes.annotate(
        words, xy=(1, 0), xycoords=name, xytext=(_GAP, 0), textcoords="offset points", color=STATUS[v.status], **style
    )
    alerts = plural(v.alerts, "alert") + (f", {v.nonfinite:,} not finite" if v.nonfinite else "")
    variance = "" if v.zero_variance is None else f"no variance {share(v.zero_variance)}"
    numbers = (f"now {number(v.now)}", f"change {signed(v.change)}", f"best {number(v.best)}", variance, alerts)
    for left, text in zip(_NUMBERS, numbers, strict=True):
        x = (left - _COLUMNS[0][0]) / _COLUMNS[0][1]
        axes.text(x, _ABOVE, text, transform=axes.transAxes, color=GREY, **style)


def _head(figure: Figure, layout: Layout, page: int, height: float) -> None:
    left = _COLUMNS[0][0] / PANEL_WIDTH
    of_pages = f" (page {page + 1} of {layout.pages})" if layout.pages > 1 else ""
    figure.text(left, 1 - 0.1 / height, layout.title + of_pages, va="top", fontsize=LARGE, fontweight="bold")
    figure.text(left, 1 - 0.34 / height, _subtitle(layout), va="top", fontsize=SMALL, color=GREY)
    lines = [
        Line2D([], [], color=BLUE, label="short average"),
        Line2D([], [], color=VERMILLION, ls=DASHED, label="long average"),
        Patch(color=SKY, alpha=0.55, label="p25 to p75"),
        Patch(color=SKY, alpha=0.25, label="p10 to p90"),
        Patch(color=GREY, alpha=0.35, label="range of step means"),
    ]
    kinds = sorted({e.type for e in layout.found}, key=severity)
    figure.legend(
        handles=[*lines, *legend_of(kinds)],
        loc="upper left",
        bbox_to_anchor=(left, 1 - 0.5 / height),
        bbox_transform=figure.transFigure,
        ncols=len(lines) + len(kinds),
        fontsize=SMALL,
        frameon=False,
        borderaxespad=0,
        handlelength=1.8,
        columnspacing=1.2,
        borderpad=0,
    )
    heads = (
        "averages of the step means",
        "distribution of the window, and its mean",
        panels.variance_heading(layout.run),
    )
    for (edge, _), text in zip(_COLUMNS, heads if layout.order else (), strict=False):
        figure.text(edge / PANEL_WIDTH, 1 - 0.9 / height, text, va="top", fontsize=SMALL, color=GREY, style="italic")


def _subtitle(layout: Layout) -> str:
    run = layout.run
    steps = run.steps()
    parts = [plural(len(run.names), "reward"), plural(len(steps), "step"), plural(len(layout.found), "alert")]
    if len(steps):
        first, last = layout.of[run.names[0]].start_steps if run.names else (0, 0)
        start = f"steps {first:,}-{last:,}" if last > first else f"step {first:,}"
        parts.append(f"now: the short average; change: against the mean of {start}")
    total = total_verdict(run, layout.found)
    if total.alerts:
        parts.append(f"{TOTAL_NAME}: {total.words}")
    return "  |  ".join(parts)


def _foot(figure: Figure, layout: Layout, page: int, height: float) -> None:
    left, y = _COLUMNS[0][0] / PANEL_WIDTH, 0.1 / height
    rest = layout.order[(page + 1) * ROWS :]
    if rest:
        worse = sum(layout.of[name].status in ("bad", "watch") for name in rest)
        words = f"+{len(rest)} more on the next {plural(layout.pages - page - 1, 'page')}: "
        words += f"{worse} to look at" if worse else "no alert"
        figure.text(left, y, words, fontsize=NORMAL, fontweight="bold", color=STATUS["bad" if worse else "ok"])
    stride = layout.run.series.stride
    if stride > 1:
        words = f"each point stands for {stride} steps or more, their extremes kept"
        figure.text(1 - 0.02, y, words, ha="right", fontsize=SMALL, color=GREY)
