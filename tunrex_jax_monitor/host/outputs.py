"""Outputs: the directory of an integration, and the document's files in it.

Two integrations do not share a directory: while one writes there, the files of a second go beside its own records.
"""

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tunrex_jax_monitor.host.files import json_parts, require_writable, write_atomically
from tunrex_jax_monitor.host.function_monitor import RewardFunctionMonitor
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.history import EXPORT
from tunrex_jax_monitor.host.monitor import RewardMonitor
from tunrex_jax_monitor.host.report.child import RenderChild
from tunrex_jax_monitor.host.report.render import write_final
from tunrex_jax_monitor.host.report.visualizer import RewardVisualizer
from tunrex_jax_monitor.host.sinks.console import say

_logger = logging.getLogger("tunrex_jax_monitor")


class Outputs:
    """Writes the files of a run.

    Args:
      output_dir: where files go; made where it is missing, and replaced by a temporary one where it cannot be written.
      visualization_frequency: steps between two pictures; 0 for none.
      verbose: say what has been written.

    Attributes:
      output_dir: where files really go.
      run_dir: the directory of `manifest.json` and `records.jsonl`, inside of the one that was given.
      visualizer: the `RewardVisualizer`, or None without matplotlib.
    """

    def __init__(self, output_dir: str | os.PathLike[str], visualization_frequency: int, verbose: bool) -> None:
        given = _usable(output_dir)
        self.run_dir = given / f"run-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{id(self) & 0xFFFFFF:x}"
        self._lock = _lock(given)
        self.output_dir = self.run_dir if self._lock is None else given
        self.visualizer = _visualizer()
        self._every, self._verbose = visualization_frequency, verbose
        self._child = RenderChild(self.run_dir, self.output_dir)
        self._drawn: list[int] = []
        if self._lock is None:
            message = (
                "output_dir: '%s' is being written by another monitor, not finalized yet; files of this one go to '%s'."
            )
            _logger.warning(message, given, self.output_dir)
        elif (given / EXPORT).exists():
            message = (
                "output_dir: '%s' holds files of an earlier run, which finalize() replaces; its records stay, in run-*."
            )
            _logger.warning(message, given)

    def draw(self, monitor: RewardMonitor, step: int) -> None:
        """Let another process draw `dashboard_step_N.png` and `summary_step_N.html`, if it is time."""
        if self._every and step > 0 and step % self._every == 0:
            monitor.flush()
            self._drawn.append(step)
            self._child.start(step)

    def write(
        self, monitor: RewardMonitor, others: Mapping[str, RewardMonitor], functions: RewardFunctionMonitor
    ) -> None:
        """Write all files of a run that has ended, the data first, each on its own."""
        data = monitor.get_history().to_compact_export(functions.get_all_stats())
        data["modes"] = {mode: other.get_history().to_compact_export() for mode, other in others.items()}
        _, error = attempt(lambda: write_atomically(self.output_dir / EXPORT, json_parts(data)))
        if error is not None:
            _logger.warning("%s was not written: %s: %s", EXPORT, type(error).__name__, error)
        written = write_final(monitor.history, self.output_dir, self.visualizer)
        if self._verbose:
            say("\n" + functions.format_summary())
            self._say_files(written, has_data=error is None)

    def close(self, timeout_seconds: float) -> None:
        """Wait for the pictures of steps, tell which are missing, and leave the directory to others."""
        self._child.wait(timeout_seconds)
        missing = [step for step in self._drawn if not (self.output_dir / f"dashboard_step_{step}.png").exists()]
        if missing:
            message = "There is no picture of step %s: one step is drawn at a time, and training does not wait."
            _logger.warning(message + " Raise visualization_frequency.", ", ".join(map(str, missing)))
        if self._lock is not None:
            os.close(self._lock)

    def _say_files(self, written: list[str], *, has_data: bool) -> None:
        pictures = [name for name in written if name.endswith(".png")]
        say(f"Visualizations saved to {self.output_dir}: {', '.join(pictures) or 'none'}")
        for page in set(written).difference(pictures):
            say(f"Monitoring summary saved to {self.output_dir / page}")
        say(f"Final reports saved to {self.output_dir}")
        if has_data:
            records = f"; records in {self.run_dir}" if self.run_dir.is_dir() else ""  # without a step there is none
            say(f"Monitoring data saved to {self.output_dir / EXPORT}{records}")


class Silence:
    """The outputs of a process that is not the one that writes: none."""

    visualizer = None

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self.output_dir = self.run_dir = Path(output_dir)

    def draw(self, monitor: RewardMonitor, step: int) -> None:
        """Draw nothing."""

    def write(self, *_: object) -> None:
        """Write nothing."""

    def close(self, timeout_seconds: float) -> None:
        """Do nothing."""


def _usable(output_dir: str | os.PathLike[str]) -> Path:
    """Return the directory, or a temporary one where it cannot be written: that must not cost a night of training."""
    target, error = attempt(lambda: Path(output_dir).expanduser())  # there may be no such user
    if target is not None:
        _, error = attempt(lambda: require_writable(target))
    if target is not None and error is None:
        return target
    fallback = Path(tempfile.mkdtemp(prefix="reward_monitoring_"))
    message = (
        "output_dir: got '%s', which cannot be written (%s). Files go to '%s'; give a directory that can be written."
    )
    why = getattr(error, "__cause__", None) or error  # what the system says, without our own words around it
    _logger.warning(message, output_dir, why, fallback)
    return fallback


def _lock(directory: Path) -> int | None:
    """Hold a directory while its descriptor is open; None where another holds it."""
    if os.name == "nt":
        return os.open(os.devnull, os.O_RDONLY)
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY)
    _, error = attempt(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB))
    if isinstance(error, BlockingIOError):
        os.close(descriptor)
        return None
    return descriptor


def _visualizer() -> RewardVisualizer | None:
    visualizer, error = attempt(RewardVisualizer)
    if error is not None:
        _logger.warning("There will be no pictures: %s. Install matplotlib for them.", error)
    return visualizer
