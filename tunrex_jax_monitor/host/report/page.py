"""The HTML report: one file that needs nothing else, opens offline, and says first which reward went wrong."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.host.arguments import require_path
from tunrex_jax_monitor.host.files import write_atomically
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.html.comparison import comparison
from tunrex_jax_monitor.host.report.html.report import report
from tunrex_jax_monitor.host.report.visualizer import to_history

_LISTED = 3  # runs in the title of a comparison


def create_monitoring_summary_html(
    reward_monitor: Any, output_path: str | os.PathLike[str] = "monitoring_summary.html"
) -> Path:
    """Write the page, and return its path.

    Args:
      reward_monitor: a `RewardMonitor`, a `History`, a run directory or a `monitoring_data.json`.
      output_path: where the page goes.

    Raises:
      ValueError: there is nothing to show, or no path.
      ImportError: jinja2 is not installed.
    """
    require_path("output_path", output_path)
    target = Path(output_path).expanduser()
    write_atomically(target, page(to_history(reward_monitor)))
    return target


def page(run: History, title: str | None = None) -> str:
    """Return the page of a run.

    Args:
      run: what is shown.
      title: above it.
    """
    heading = "Rewards: no step yet" if run.last is None else f"Rewards {run.span}"
    return report(run, heading if title is None else title)


def comparison_page(runs: Mapping[str, History], title: str | None = None) -> str:
    """Return the page of two or more runs over each other, aligned by step.

    Args:
      runs: by the names that they shall have on it; the first is what the others are compared with.
      title: above it.
    """
    base, *others = runs
    listed = ", ".join(others) if len(others) <= _LISTED else f"{len(others)} runs"
    return comparison(runs, f"{listed} against {base}" if title is None else title)
