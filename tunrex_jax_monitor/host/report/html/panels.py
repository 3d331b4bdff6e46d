"""Panels: what one chart shows, as the page's script reads it. A line or band names its columns in the exports."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.decimate import aggregate, bucket_starts
from tunrex_jax_monitor.host.report.episodes import TOTAL, collapse_limit, zero_variance_key
from tunrex_jax_monitor.host.report.heatmap import HeatMap, heat_map
from tunrex_jax_monitor.host.report.html import encode
from tunrex_jax_monitor.host.report.html.points import Points, Sampled
from tunrex_jax_monitor.host.report.text import number
from tunrex_jax_monitor.host.schema import is_number

HEIGHT, HEAT_HEIGHT, SHARE_HEIGHT = 210, 120, 92  # CSS pixels
EMISSIONS = 500  # of window quantiles and group figures; more become means of neighbours
_PASS_AT = "groups/pass_at_"


class Panels:
    """Makes the panels of one run.

    Args:
      run: what is shown.
      points: its steps as points.
      heat_columns: columns of a heat map, at most.
    """

    def __init__(self, run: History, points: Points, heat_columns: int) -> None:
        self._run, self._is_whole, self._heat_columns = run, points.is_whole, heat_columns
        self._sampled = Sampled(run, points)
        self._emissions = bucket_starts(len(run.emissions.steps), EMISSIONS)

    def emission_steps(self) -> np.ndarray:
        """Return the last step of each group of emissions that is shown as one, int64[at most EMISSIONS]."""
        steps = self._run.emissions.steps
        return (
            np.asarray(steps[np.append(self._emissions[1:], len(steps)).astype(np.int64) - 1]) if len(steps) else steps
        )

    def of_reward(self, name: str) -> list[dict[str, Any]]:
        """Return the panels of a reward, or of the weighted total, top to bottom."""
        panels = [self._course(name), *self._heat(name), *self._zero_variance(name)]
        if name == TOTAL:
            panels += self._solved()
        panels[-1]["steps"] = True
        return panels

    def _course(self, name: str) -> dict[str, Any]:
        bands = [
            self._held_band(f"{low} to {high}", f"{name}/{low}", f"{name}/{high}", (low, high), opacity)
            for low, high, opacity in (("p10", "p90", 0.18), ("p25", "p75", 0.3))
        ]
        return panel(
            "Averages over the spread of the window",
            HEIGHT,
            lines=[
                self.line("short average", "ema_short", f"{name}/ema_short", "last", color="short"),
                self.line("long average", "ema_long", f"{name}/ema_long", "last", color="long", dash=[7, 4]),
            ],
            bands=[*filter(None, bands), self.range_of("step mean", f"{name}/mean", "mean", outline=0.5)],
            marks=True,
        )

    def _heat(self, name: str) -> Iterator[dict[str, Any]]:
        found = heat_map(self._run.emissions, name, columns=self._heat_columns)
        if found is not None:
            title = "Distribution of the window over time (stronger: more samples)"
            yield heat_panel(f"{title} ({found.clipped})" if found.clipped else title, found)

    def _zero_variance(self, name: str) -> Iterator[dict[str, Any]]:
        share = self._held(zero_variance_key(name))
        if share is not None:
            yield panel(
                "Groups without variance",
                SHARE_HEIGHT,
                lines=[line("share since the last emission", "zero_variance", share, color="zero", area=True)],
                percent=True,
                range=[0, 1],
                guide=collapse_limit(self._run),
            )

    def _solved(self) -> Iterator[dict[str, Any]]:
        """Yield the group panels of the weighted total: what was solved, and pass@k."""
        kinds = (("all", "run2", 0), ("partial", "run5", 1), ("none", "run1", 2))
        shares = [self._held_line(f"solved by {kind}", f"groups/solve_{kind}", c, dash_of(i)) for kind, c, i in kinds]
        keys = [key for key in self._run.emissions.scalars if key.startswith(_PASS_AT)]
        ks = sorted(int(key.removeprefix(_PASS_AT)) for key in keys)
        passes = [self._held_line(f"pass@{k}", f"{_PASS_AT}{k}", f"run{i % 7}", dash_of(i)) for i, k in enumerate(ks)]
        solved = f"Groups by how many members solved the task ({self._solved_by()})"
        for title, lines in ((solved, shares), ("Unbiased pass@k", passes)):
            if any(lines):
                yield panel(title, SHARE_HEIGHT, lines=[*filter(None, lines)], percent=True, range=[0, 1])

    def _solved_by(self) -> str:
        config = self._run.config
        judged, limit = config.get("correct_reward") or "weighted sum", config.get("correct_threshold")
        return f"{judged} at least {number(limit)}" if is_number(limit) else str(judged)

    def line(self, label: str, key: str, column: str, how: str, **style: Any) -> dict[str, Any]:
        """Return a line of a column of the series, with one value per point."""
        return line(label, key, own(self._sampled.reduce(column, how)), **style)

    def range_of(self, label: str, column: str, key: str, **style: Any) -> dict[str, Any]:
        """Return a band from the least to the greatest value of each point; they are one where a point is a step."""
        low = own(self._sampled.reduce(column, "min"))
        high = None if self._is_whole else own(self._sampled.reduce(column, "max"))
        return band(label, (f"{key}_low", f"{key}_high"), low, high, **{"color": "raw", "opacity": 0.3, **style})

    def _held_band(
        self, label: str, low: str, high: str, keys: tuple[str, str], opacity: float
    ) -> dict[str, Any] | None:
        columns = [self._held(low), self._held(high)]
        return None if None in columns else band(label, keys, *columns, color="band", opacity=opacity)

    def _held_line(self, label: str, key: str, color: str, dash: list[int]) -> dict[str, Any] | None:
        data = self._held(key)
        return None if data is None else line(label, key, data, color=color, dash=dash)

    def _held(self, key: str) -> dict[str, Any] | None:
        """Return a column of the emissions that are shown; None where it has no data."""
        values = self._run.emissions.array(key)
        if not np.isfinite(values).any():
            return None
        return {"values": encode.floats(aggregate(values, self._emissions, "mean")), "held": True}


def panel(title: str, height: int, **fields: Any) -> dict[str, Any]:
    """Return a panel; what is not given is nothing."""
    empty = {"lines": [], "bands": [], "marks": False, "steps": False, "percent": False, "range": None, "guide": None}
    return {"kind": "lines", "title": title, "height": height, **empty, **fields}


def line(label: str, key: str, data: dict[str, Any] | None, **style: Any) -> dict[str, Any]:
    """Return a line; `color` is a variable of the style sheet."""
    return {"label": label, "key": key, "data": data, "dash": [], "width": 1.7, "area": False, "spans": False, **style}


def band(label: str, keys: tuple[str, str], low: Any, high: Any, **style: Any) -> dict[str, Any]:
    """Return a band between two columns; `high` is None where both are the same."""
    return {"label": label, "key": keys, "data": [low, high], "outline": 0, **style}


def own(values: np.ndarray) -> dict[str, Any] | None:
    """Return a column with a value per point; None where it has no data."""
    return {"values": encode.floats(values), "held": False} if np.isfinite(values).any() else None


def heat_panel(title: str, found: HeatMap) -> dict[str, Any]:
    """Return the panel of a heat map. The square root makes rare values visible; each column reaches full colour."""
    greatest = found.shares.max(axis=0, keepdims=True)
    cells = np.sqrt(np.divide(found.shares, greatest, out=np.zeros_like(found.shares), where=greatest > 0))
    return panel(
        title,
        HEAT_HEIGHT,
        kind="heat",
        range=[float(found.edges[0]), float(found.edges[-1])],
        rows=len(found.edges) - 1,
        starts=encode.floats(found.steps[:-1]),
        stops=encode.floats(found.steps[1:]),
        cells=encode.octets(np.round(255 * cells).T),
    )


def dash_of(index: int) -> list[int]:
    """Return the dash pattern of a line among several: the first is solid."""
    return [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2]][index % 5]
