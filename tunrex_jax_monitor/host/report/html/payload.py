"""Payload: everything that the script of a page shows, within a budget of points."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.differences import rewards_of
from tunrex_jax_monitor.host.report.episodes import SEVERITY, Episode
from tunrex_jax_monitor.host.report.html import encode
from tunrex_jax_monitor.host.report.html.panels import Panels
from tunrex_jax_monitor.host.report.html.points import Points, choose

POINTS = 18_000  # over all rewards: some 40 bytes each
FEWEST, MOST = 800, 6000  # per reward
HEAT_CELLS = 2400  # columns of heat maps over all rewards
FEWEST_HEAT, MOST_HEAT = 100, 240
SIGNS = {  # the shapes that pictures have too
    "NONFINITE": "✖",
    "DROP": "▼",
    "FLATLINE": "■",
    "GROUP_COLLAPSE": "◆",
    "SATURATION": "✚",
    "NEGATIVE": "●",
    "SPIKE": "▲",
    "OUTLIER": "★",
}


def shared(among: int, budget: int, fewest: int, most: int) -> int:
    """Return each reward's part of a budget.

    >>> [shared(rewards, 18_000, 800, 6000) for rewards in (1, 9, 33)]
    [6000, 2000, 800]
    """
    return min(max(budget // max(among, 1), fewest), most)


def points_of(run: History, found: Sequence[Episode]) -> Points:
    """Return the points at which a run is shown; where alerts begin and end, every step is one."""
    rewards = rewards_of(run)
    marked = [step for episode in found for step in (episode.first, episode.last)]
    return choose([run], rewards, marked, shared(len(rewards), POINTS, FEWEST, MOST))


def payload(run: History, points: Points, found: Sequence[Episode], title: str) -> dict[str, Any]:
    """Return the data of a report."""
    rewards = rewards_of(run)
    panels = Panels(run, points, shared(len(rewards), HEAT_CELLS, FEWEST_HEAT, MOST_HEAT))
    sections = [
        {"name": name, "panels": panels.of_reward(name), "alerts": alerts_of([e for e in found if e.reward == name])}
        for name in rewards
    ]
    return page_data(title, points, encode.integers(panels.emission_steps()), sections)


def page_data(title: str, points: Points, emissions: str | None, sections: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the data of any page: an axis, sections of panels, and the types of alerts."""
    return {
        "title": title,
        "axis": {"first": encode.integers(points.first), "last": encode.integers(points.last)},
        "emissions": emissions,  # their steps, where a column is of them
        "sections": sections,
        "kinds": {kind: {"sign": SIGNS[kind], "color": kind.lower()} for kind in SEVERITY},
        "other": {"sign": "!", "color": "other"},  # a type that this version does not know
    }


def alerts_of(found: Sequence[Episode], color: str | None = None) -> list[dict[str, Any]]:
    """Return the episodes by type, as columns of their first and last steps."""
    return [
        {
            "type": kind,
            "color": color,
            "first": encode.integers(np.array([e.first for e in found if e.type == kind])),
            "last": encode.integers(np.array([e.last for e in found if e.type == kind])),
        }
        for kind in dict.fromkeys(e.type for e in found)
    ]
