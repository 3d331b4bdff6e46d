"""The picture of `overhead.py`: ratios with their quartiles, and where the time of a step goes."""

from pathlib import Path
from typing import Any

import numpy as np


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw one line per row, over the band in which the bare step differs from itself; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result["rows"]
    names = [row["watched by"] for row in rows][::-1]
    figure = Figure(figsize=(10, 1.5 + 0.36 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for y, row in enumerate(reversed(rows)):
        middle, low, high = row["x bare"] or (1.0, 1.0, 1.0)
        color = "#0969da" if row["watched by"] == "monitored" else "#59636e"
        left.plot([low, high], [y, y], color=color, linewidth=4, alpha=0.35, solid_capstyle="butt")
        left.plot(middle, y, "o", color=color)
        left.annotate(f"{middle:.3f}", (middle, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        if row["watched by"] == "bare again":
            left.axvspan(low, high, color="#eaeef2", zorder=-1, label="noise: the bare step against itself")
            left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    left.axvline(1.0, color="#d0d7de", zorder=0)
    left.set(yticks=range(len(names)), yticklabels=names, xlabel="time per step, x bare (median, quartiles)")
    left.margins(y=0.12)
    left.locator_params(axis="x", nbins=6)
    start = np.zeros(len(rows))
    parts = {"dispatch": ("dispatch, us", 1e-3), "device": ("device, ms", 1.0), "host": ("host, us", 1e-3)}
    for (label, (column, scale)), color in zip(parts.items(), ("#bf8700", "#8c959f", "#cf222e"), strict=True):
        width = np.array([scale * row[column][0] for row in reversed(rows)])
        right.barh(range(len(rows)), width, left=start, label=label, color=color, height=0.6)
        start += width
    right.set_xlabel("ms of a step that is waited for")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    environment = result["environment"]
    title = [environment["device"], result["step"]], [f"rounds: {result['rounds']}", environment["date"]]
    figure.suptitle("\n".join("; ".join(line) for line in title), fontsize=9)
    figure.savefig(path, dpi=150)
