"""What the tests of the host side share: a small record, and a second Python process that has no JAX."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.host.record import Record

ROOT = Path(__file__).parents[2]

# The package without its `__init__`, and an import of JAX that fails: the host modules must need neither.
PRELUDE = f"""
import sys, types
sys.modules["jax"] = sys.modules["jaxlib"] = sys.modules["numpy"] = None
package = types.ModuleType("tunrex_jax_monitor")
package.__path__ = [{str(ROOT / "tunrex_jax_monitor")!r}]
sys.modules["tunrex_jax_monitor"] = package
from tunrex_jax_monitor.host.record import *
from tunrex_jax_monitor.host.rundir import *
from tunrex_jax_monitor.host.sinks.base import *
from tunrex_jax_monitor.host.sinks.console import *
from tunrex_jax_monitor.host.sinks.jsonl import *
from tunrex_jax_monitor.host.sinks.memory import *
from tunrex_jax_monitor.host.worker import *

def record(step, **fields):
    return Record(**{{"step": step, "update": step, "time": 0.0, "scalars": {{"a/mean": 0.5}}, **fields}})
"""


def make_record(step: int = 0, **fields: Any) -> Record:
    return Record(**{"step": step, "update": step, "time": 1.5 * step, "scalars": {"a/mean": 0.25 * step}, **fields})


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` after PRELUDE; `sys.argv[1:]` are the arguments. The limit only ends a test that hangs."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
