"""RenderChild: draws in another process while training goes on.

A thread would hold the interpreter lock, and with it the training; `python benchmarks/pauses.py` measures how long.
"""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

_logger = logging.getLogger("tunrex_jax_monitor")
_PACKAGE_ROOT = Path(__file__).parents[3]
_NICENESS = 19
_END_SECONDS = 5.0  # for a process that was killed
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class RenderChild:
    """Starts `render` on a run directory, with low priority and one thread; one process at a time.

    Args:
      run_dir: what is drawn.
      output_dir: where the files go.
      longest_seconds: what has not ended after as many hangs, and is ended when the next pictures are due.
    """

    def __init__(self, run_dir: Path, output_dir: Path, longest_seconds: float = 600.0) -> None:
        self._run_dir, self._output_dir, self._longest = run_dir, output_dir, longest_seconds
        self._started = 0.0  # of the monotonic clock
        self._running: tuple[subprocess.Popen[bytes], IO[bytes]] | None = None  # and what it says
        self._has_told = False

    @property
    def is_drawing(self) -> bool:
        """Whether a process is at work."""
        return self._running is not None and self._running[0].poll() is None

    def start(self, step: int) -> None:
        """Draw the pictures of a step; skipped while those of an earlier one are being drawn."""
        if self._running is not None and self.is_drawing:
            if time.monotonic() - self._started > self._longest:
                self._running[0].kill()  # without waiting for its end, which the next step will see
            return
        self._finish()
        places = filter(None, [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")])
        surroundings = {"PYTHONPATH": os.pathsep.join(places), "MPLBACKEND": "agg"} | dict.fromkeys(_ONE_THREAD, "1")
        command = [sys.executable, "-m", "tunrex_jax_monitor.host.report.render"]
        said = tempfile.TemporaryFile()
        process = subprocess.Popen(
            [*command, str(self._run_dir), str(self._output_dir), str(step)],
            env={**os.environ, **surroundings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # a Ctrl-C in the terminal is not meant for it
        )
        self._running, self._started = (process, said), time.monotonic()
        if hasattr(os, "setpriority"):  # from here, since its imports alone take a second
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the process; one that takes longer is ended."""
        if self._running is None:
            return
        process, _ = self._running
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_seconds)
        if process.poll() is None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a lost network disk keeps it for ever
                process.wait(_END_SECONDS)
        self._finish()

    def _finish(self) -> None:
        """Let go of a process that has ended; one that failed is told, once, with the last that it said."""
        if self._running is None:
            return
        process, said = self._running
        self._running = None
        with said:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if process.returncode != 0 and not self._has_told:
            self._has_told = True
            message = "Pictures of a step could not be drawn (exit status %s%s); the final ones follow."
            _logger.warning(message, process.returncode, f": {lines[-1]}" if lines else "")
