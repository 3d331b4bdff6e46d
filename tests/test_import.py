"""What is loaded by which use. (What it costs is measured elsewhere: tests assert no times.)"""

import subprocess
import sys

from tests.test_package import OPTIONAL
from tunrex_jax_monitor import JsonlSink, read_records
from tunrex_jax_monitor.host.record import Record


def loaded_by(code, *arguments):
    """Names of the top-level modules in a process that ran `code`."""
    tail = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code + tail, *map(str, arguments)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_bare_import_loads_no_jax():
    assert not loaded_by("import tunrex_jax_monitor") & ({"jax", "jaxlib", "numpy", "jaxtyping"} | OPTIONAL)


def test_reading_a_run_loads_no_jax(tmp_path):
    sink = JsonlSink(tmp_path)
    sink.write(Record(step=3, update=4, time=0.0, scalars={"a/mean": 0.5}))
    sink.close()
    code = """
import sys, tunrex_jax_monitor as trm
records, manifest = trm.read_records(sys.argv[1]), trm.read_manifest(sys.argv[1])
trm.ConsoleSink(quiet=True).write(records[0])
trm.MemorySink().write(records[0])
"""
    assert not loaded_by(code, tmp_path) & ({"jax", "jaxlib", "numpy", "jaxtyping"} | OPTIONAL)
    assert len(read_records(tmp_path)) == 1


def test_monitoring_a_run_loads_nothing_optional(tmp_path):
    code = """
import sys, jax, tunrex_jax_monitor as trm
acc = trm.RewardAccumulator(("a",), window_size=8, min_samples=1)
with trm.Reporter(acc, [trm.MemorySink(), trm.ConsoleSink(quiet=True)], run_dir=sys.argv[1]) as reporter:
    reporter.step(0, acc.init())
"""
    assert not loaded_by(code, tmp_path) & OPTIONAL
