"""From histories to files: HTML pages, and PNG pictures where matplotlib is installed."""

import importlib.util
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tunrex_jax_monitor.cli.options import Problem, require_new, write_text, writing
from tunrex_jax_monitor.host.files import replacing
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.page import comparison_page, page

DASHBOARD = "dashboard.png"


def has_pictures() -> bool:
    """Tell whether PNG files can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def require_pictures() -> None:
    """Refuse to draw PNG files where matplotlib is not installed."""
    if not has_pictures():
        raise Problem(
            "--png: got no matplotlib, allowed: where it is installed. pip install 'tunrex-jax-monitor[plots]'"
        )


def write_page(history: History, target: Path) -> None:
    """Write the page of a run to a file, or to stdout where the target is `-`."""
    write_text(target, page(history))


def write_comparison(runs: Mapping[str, History], target: Path) -> None:
    """Write the page of several runs likewise; the first is the base."""
    write_text(target, comparison_page(runs))


def write_pictures(history: History, directory: Path, force: bool) -> list[Path]:
    """Write the dashboard of a run, a file per page, each of them whole or not at all; return the files."""
    from tunrex_jax_monitor.host.report.visualizer import RewardVisualizer

    with writing(directory), tempfile.TemporaryDirectory(dir=directory, prefix=".drawing") as drawn:
        RewardVisualizer().plot_reward_dashboard(history, Path(drawn) / DASHBOARD)
        targets = {directory / path.name: path for path in sorted(Path(drawn).iterdir(), key=_page_of)}
        for target in targets:
            require_new(target, force)
        for target, path in targets.items():
            with replacing(target) as part:
                os.replace(path, part)
    return list(targets)


def _page_of(path: Path) -> int:
    """Return which page a file is: dashboard.png, then dashboard-2.png and so on."""
    return int(path.stem.rpartition("-")[2]) if "-" in path.stem else 1
