"""The files of the original document: periodic pictures while a run goes on, and all of them at its end.

`python -m tunrex_jax_monitor.host.report.render RUN_DIR OUTPUT_DIR STEP` draws those of a step. The monitor starts it
as a process of its own with low priority (`RenderChild`), since drawing on a thread of the training would hold that up.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.page import create_monitoring_summary_html
from tunrex_jax_monitor.host.report.visualizer import RewardVisualizer
from tunrex_jax_monitor.host.rundir import iter_records
from tunrex_jax_monitor.host.stats import RewardStats

_logger = logging.getLogger("tunrex_jax_monitor")
_OF_STEP = ("summary_step_{}.html", "dashboard_step_{}.png")


def write_step(run: History, output_dir: Path, visualizer: RewardVisualizer | None, step: int) -> list[str]:
    """Write `dashboard_step_N.png` and `summary_step_N.html`; return what has been written."""
    page, dashboard = (name.format(step) for name in _OF_STEP)
    return _write(
        {
            page: lambda path: create_monitoring_summary_html(run, path),
            dashboard: lambda path: _drawn(visualizer).plot_reward_dashboard(run, path),
        },
        output_dir,
    )


def write_final(run: History, output_dir: Path, visualizer: RewardVisualizer | None) -> list[str]:
    """Write the pictures and the page of a whole run; return what has been written."""
    last = run.last
    scalars, histograms = ({}, {}) if last is None else (last.scalars, last.histograms)
    stats = {name: RewardStats.of(name, scalars) for name in run.names}
    shown = {name: histograms[key] for name in run.names if (key := f"{name}/histogram") in histograms}
    means, steps = {name: run.series.get(f"{name}/mean", []) for name in run.names}, run.in_order().steps().tolist()
    return _write(
        {
            "final_summary.html": lambda path: create_monitoring_summary_html(run, path),
            "final_dashboard.png": lambda path: _drawn(visualizer).plot_reward_dashboard(run, path),
            "reward_history.png": lambda path: _drawn(visualizer).plot_reward_history(
                means, save_path=path, steps=steps
            ),
            "reward_distributions.png": lambda path: _drawn(visualizer).plot_reward_distributions(
                shown, save_path=path
            ),
            "reward_statistics.png": lambda path: _drawn(visualizer).plot_reward_statistics(stats, save_path=path),
        },
        output_dir,
    )


def _write(files: dict[str, Callable[[Path], object]], output_dir: Path) -> list[str]:
    """Write each file on its own: one that fails costs itself, and is told."""
    written, told = [], set[str]()
    for name, write in files.items():
        _, error = attempt(partial(write, output_dir / name))
        if error is None:
            written.append(name)
        elif str(error) not in told:
            told.add(str(error))
            _logger.warning("%s was not written: %s: %s", name, type(error).__name__, error)
    return written


def _drawn(visualizer: RewardVisualizer | None) -> RewardVisualizer:
    if visualizer is None:
        raise ImportError(
            "matplotlib is not installed, so there are no pictures: pip install 'tunrex-jax-monitor[plots]'"
        )
    return visualizer


def _until(run_dir: Path, step: int) -> History:
    """Return the run as it was at a step: training goes on while this process starts."""
    run = History.read(run_dir)
    if run.last is None or run.last.step <= step:
        return run
    before = History.of(record for record in iter_records(run_dir) if record.step <= step)
    before.manifest, before.names = run.manifest, run.names
    return before


def main(arguments: list[str]) -> int:
    """Draw the pictures of one step of a run directory; return 0 when all of them are there."""
    run_dir, output_dir, step = arguments
    run = _until(Path(run_dir), int(step))
    written = write_step(run, Path(output_dir), RewardVisualizer(), int(step))
    return 0 if len(written) == len(_OF_STEP) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
