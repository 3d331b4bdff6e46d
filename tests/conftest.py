"""JAX as strict as it gets, on eight CPU devices, for every test and doctest.

Eight devices cost nothing measurable over one (start, compile time, dispatch and memory are the same) and let one
process test what eight chips do.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import jax
import pytest

from tunrex_jax_monitor.device import kernel

jax.config.update("jax_num_cpu_devices", 8)  # must come before the first use of a device
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Tests see the kernels that users with one CPU device have; what a mesh spreads goes without them here as well.
has_several_devices, kernel.has_several_devices = kernel.has_several_devices, lambda: False
NODE_MODULES = Path(__file__).parents[1] / "node_modules"  # of `npm install` in the checkout
NEEDS = {  # by marker: what has to be there, and whether it is
    "tunix": {"tunix": lambda: importlib.util.find_spec("tunix")},
    "wandb": {"wandb": lambda: importlib.util.find_spec("wandb")},
    "browser": {
        "playwright": lambda: importlib.util.find_spec("playwright"),
        "chromium": lambda: shutil.which("chromium"),
    },
    "axe": {"axe-core": lambda: (NODE_MODULES / "axe-core").is_dir()},
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a package that is missing; fail it where the caller says that it must be there."""
    for marker, packages in NEEDS.items():
        for package, find in packages.items() if item.get_closest_marker(marker) else ():
            if not find():
                if package in os.environ.get("REQUIRED_PACKAGES", "").split():
                    pytest.fail(f"{package} is not installed, and REQUIRED_PACKAGES names it")
                pytest.skip(f"{package} is not installed")
