"""RenderChild: draws in another process while training goes on."""

import logging
import os
import subprocess
import sys
from pathlib import Path

_logger = logging.getLogger("tunrex_jax_monitor")
_PACKAGE_ROOT = Path(__file__).parents[3]


class RenderChild:
    """Starts `render` on a run directory; one process at a time.

    Args:
      run_dir: what is drawn.
      output_dir: where the files go.
    """

    def __init__(self, run_dir: Path, output_dir: Path) -> None:
        self._run_dir, self._output_dir = run_dir, output_dir
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, step: int) -> None:
        """Draw the pictures of a step; skipped while those of an earlier one are being drawn."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, "-m", "tunrex_jax_monitor.host.report.render"]
        places = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [*command, str(self._run_dir), str(self._output_dir), str(step)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), "MPLBACKEND": "agg"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is not meant for it
        )

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the process; one that takes longer is ended."""
        if self._process is None:
            return
        try:
            status = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status:
            _logger.warning("Pictures of a step could not be drawn (exit status %d); the final ones follow.", status)
