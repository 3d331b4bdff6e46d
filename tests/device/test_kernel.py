"""What `kernel` asks of a machine before an update is traced."""

import os
import subprocess
import sys
from pathlib import Path

WITHOUT_CPU = """
import jax
count = jax.device_count
def device_count(backend=None):
    if backend == "cpu":
        raise RuntimeError("Unknown backend cpu")  # as JAX says it
    return count(backend)
jax.device_count = device_count
from tunrex_jax_monitor.accumulator import RewardAccumulator
acc = RewardAccumulator(("x",))
jax.eval_shape(acc.update, acc.init(), {"x": jax.numpy.zeros(8)})
"""


def test_an_update_is_traced_where_jax_platforms_leaves_the_cpu_out():
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", WITHOUT_CPU], env={**os.environ, "PYTHONPATH": root}, check=True)
