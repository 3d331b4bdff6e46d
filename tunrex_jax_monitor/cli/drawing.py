"""From a history to files: the HTML page, and a PNG picture where matplotlib is installed."""

import importlib.util
from pathlib import Path

from tunrex_jax_monitor.cli.options import Problem, write_text, writing
from tunrex_jax_monitor.host.files import replacing
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.page import page

DASHBOARD = "dashboard.png"


def has_pictures() -> bool:
    """Tell whether PNG files can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def write_page(history: History, target: Path) -> None:
    """Write the page of a run to a file, or to stdout where the target is `-`."""
    write_text(target, page(history))


def write_picture(history: History, target: Path) -> None:
    """Write the dashboard of a run."""
    if not has_pictures():
        remedy = "pip install 'tunrex-jax-monitor[plots]'"
        raise Problem(f"--png: got no matplotlib, allowed: where it is installed. {remedy}")
    from tunrex_jax_monitor.host.report.visualizer import RewardVisualizer

    with writing(target), replacing(target) as part:
        RewardVisualizer().plot_reward_dashboard(history, part)
