"""The panels of a dashboard's row: averages, distribution over time, groups without variance; alerts on all of them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report import style
from tunrex_jax_monitor.host.report.decimate import FURTHEST, aggregate, bucket_starts, keep_extremes
from tunrex_jax_monitor.host.report.episodes import Episode, collapse_limit, severity
from tunrex_jax_monitor.host.report.heatmap import heat_map
from tunrex_jax_monitor.host.report.text import number, share

BUCKETS, POINTS = 500, 1000  # columns of an envelope, points of a line; a panel is 520 pixels wide
FAN_BUCKETS = 250
_MARGIN = 0.75  # spans of the long average and the fan by which anything else may stretch the axis
_MANY = 40  # episodes of a type in a row, from which on they are a rug
_APART = 0.1  # between two ticks, so that they can be read
_LANE = 0.13  # height between marks of two alert types, in axes


def draw_averages(axes: Axes, run: History, name: str, keep: Sequence[int]) -> None:
    """Draw the averages over the fan and the range of step means; `keep` are rows that stay among the points."""
    style.tidy(axes)
    steps = run.steps()
    mean, short, long = (_drawable(run.array(f"{name}/{key}")) for key in ("mean", "ema_short", "ema_long"))
    if np.isnan(mean).all():
        style.say_empty(axes, "no finite reward" if len(steps) else "no data yet")
        return
    x, low, high = envelope(steps, mean)
    axes.fill_between(x, low, high, color=style.GREY, alpha=0.35, lw=0.6, step=None)
    _draw_fan(axes, run, name)
    for values, color, dashes in ((short, style.BLUE, "-"), (long, style.VERMILLION, style.DASHED)):
        rows = keep_extremes(values, POINTS, keep)
        marker = "." if len(rows) == 1 else ""
        axes.plot(steps[rows], values[rows], color=color, ls=dashes, lw=1.2, marker=marker)
    fan = [_drawable(run.emissions.array(f"{name}/{key}")) for key in ("p10", "p90")]
    limit(axes, steps, mean, np.concatenate([*fan, long]))


def _drawable(values: np.ndarray) -> np.ndarray:
    """Return what an axis can take; NaN stays."""
    return np.asarray(np.clip(values, -FURTHEST, FURTHEST))


def envelope(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps, least and greatest value of each bucket: a spike of one step stays as high as it was."""
    starts = bucket_starts(len(values), BUCKETS)
    return steps[starts], aggregate(values, starts, "min"), aggregate(values, starts, "max")


def _draw_fan(axes: Axes, run: History, name: str) -> None:
    steps = run.emissions.steps
    starts = bucket_starts(len(steps), FAN_BUCKETS)
    if not len(starts):
        return
    ends = steps[np.append(starts[1:], len(steps)) - 1]
    x = np.append(min(run.steps().min(initial=ends[0]), ends[0]), ends)
    for low, high, alpha in (("p10", "p90", 0.25), ("p25", "p75", 0.35)):
        edges = [aggregate(_drawable(run.emissions.array(f"{name}/{key}")), starts, "mean") for key in (low, high)]
        lower, upper = (np.append(edge[:1], edge) for edge in edges)  # a quantile speaks for the steps before it
        axes.fill_between(x, lower, upper, color=style.SKY, alpha=alpha, lw=0, step="pre")


def limit(axes: Axes, steps: np.ndarray, mean: np.ndarray, usual: np.ndarray) -> None:
    """Keep one odd step from flattening all others: what lies far off is cut, and told with an arrow and its value.

    Args:
      axes: the panel.
      steps: int64[T].
      mean: float64[T], what is drawn; NaN is no data, but not everywhere.
      usual: any number of values that have to be seen.
    """
    usual = usual[np.isfinite(usual)] if np.isfinite(usual).any() else mean[np.isfinite(mean)]
    low, high = float(usual.min()), float(usual.max())
    span = (high - low) or abs(high) * 0.1 or 1.0
    least, most = float(np.nanmin(mean)), float(np.nanmax(mean))
    bottom, top = min(low, max(least, low - _MARGIN * span)), max(high, min(most, high + _MARGIN * span))
    pad = 0.06 * ((top - bottom) or span)
    axes.set_ylim(bottom - pad, top + pad)
    if most > top:
        _point_at(axes, f"↑ {number(most)}", int(steps[np.nanargmax(mean)]), (0.97, "top"), steps)
    if least < bottom:
        _point_at(axes, f"↓ {number(least)}", int(steps[np.nanargmin(mean)]), (0.03, "bottom"), steps)


def _point_at(axes: Axes, words: str, step: int, at: tuple[float, str], steps: np.ndarray) -> None:
    """Write words beside a step, on the side where there is room."""
    words, is_late = f"{words} at step {step:,}", step > (steps[0] + steps[-1]) / 2
    axes.text(
        step, at[0], f"{words} " if is_late else f" {words}", transform=axes.get_xaxis_transform(),
        ha="right" if is_late else "left", va=at[1], fontsize=style.SMALL, fontweight="bold",
    )  # fmt: skip


def draw_distribution(axes: Axes, run: History, name: str) -> None:
    """Draw the heat map of the window histograms, with the mean: a median jumps between the ends of a 0/1 reward."""
    style.tidy(axes)
    axes.grid(visible=False)
    found = heat_map(run.emissions, name)
    if found is None:
        style.say_empty(axes, "no histogram" if len(run.steps()) else "no data yet")
        return
    shares = np.ma.masked_less_equal(found.shares, 0)
    axes.pcolorfast(found.steps, found.edges, shares, cmap=style.HEAT, norm=PowerNorm(0.5, 0, float(shares.max())))
    axes.set_ylim(found.edges[0], found.edges[-1])
    steps = run.emissions.steps
    starts = bucket_starts(len(steps), FAN_BUCKETS)
    ends = np.append(starts[1:], len(steps)) - 1
    mean = aggregate(_drawable(run.emissions.array(f"{name}/mean")), starts, "mean")
    axes.plot(steps[ends], mean, color=style.VERMILLION, lw=0.9)
    if found.clipped:
        axes.text(
            0.99, 0.97, found.clipped, transform=axes.transAxes, ha="right", va="top", fontsize=7, color=style.GREY
        )


def variance_heading(run: History) -> str:
    """Return what the third panel shows in this run."""
    if any(f"{name}/frac_zero_std" in run.series for name in run.names):
        return "groups without variance"
    return "std in a step (groups not known)"


def draw_variance(axes: Axes, run: History, name: str) -> None:
    """Draw the share of groups without variance, with the line from which it is an alert; without groups, the std."""
    style.tidy(axes)
    has_groups = any(f"{n}/frac_zero_std" in run.series for n in run.names)
    values = _drawable(run.array(f"{name}/{'frac_zero_std' if has_groups else 'std'}"))
    steps = run.steps()
    if has_groups:
        axes.set_ylim(0, 1)
        alert = collapse_limit(run)
        ticks = [alert, *(end for end in (0.0, 1.0) if abs(end - alert) > _APART)]
        axes.set_yticks(ticks, [share(tick) for tick in ticks])
        axes.axhline(alert, color=style.BLACK, lw=0.7, ls=":")
    if np.isnan(values).all():
        style.say_empty(axes, "no data" if len(steps) else "no data yet")
        return
    starts = bucket_starts(len(values), FAN_BUCKETS)
    shown = aggregate(values, starts, "mean")
    axes.fill_between(steps[starts], 0, shown, color=style.PURPLE, alpha=0.35, lw=0)
    axes.plot(steps[starts], shown, color=style.PURPLE, lw=0.9, marker="." if len(starts) == 1 else "")
    if not has_groups:
        axes.set_ylim(bottom=0)


def shade(axes: Axes, shown: Sequence[Episode]) -> None:
    """Shade episodes from their first step to their last; one of a single step is still a pixel wide.

    A type with very many is not shaded, which would paint everything; `mark` shows where they are.
    """
    for kind in {e.type for e in shown}:
        spans = [(e.first, max(e.last - e.first, 0)) for e in shown if e.type == kind]
        color = style.mark(kind)[1]
        if len(spans) <= _MANY:
            axes.broken_barh(
                spans, (0, 1), transform=axes.get_xaxis_transform(), facecolor=color, edgecolor=color, alpha=0.16, lw=1
            )


def mark(axes: Axes, shown: Sequence[Episode]) -> None:
    """Mark where episodes begin, a shape and a height per alert type; very many are a rug of ticks behind one shape."""
    for lane, kind in enumerate(sorted({e.type for e in shown}, key=severity)):
        shape, color = style.mark(kind)
        first, height = [e.first for e in shown if e.type == kind], 0.07 + _LANE * lane
        where = axes.get_xaxis_transform()
        if len(first) > _MANY:
            axes.vlines(first, height - 0.04, height + 0.04, color=color, lw=0.5, alpha=0.6, transform=where)
        marked = first if len(first) <= _MANY else first[:1]
        axes.plot(
            marked, [height] * len(marked), shape, color=color, ms=6, mec="white", mew=0.5, transform=where,
            clip_on=False, label=kind,
        )  # fmt: skip
