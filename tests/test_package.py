"""What the distribution promises: light imports, one direction of dependence, pinned names, a clean wheel."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tunrex_jax_monitor

CHECKOUT = Path(__file__).parents[1]
PACKAGE = Path(tunrex_jax_monitor.__file__).parent
DISTRIBUTION = "tunrex-jax-monitor"
OPTIONAL = {
    *("beartype", "clu", "flax", "matplotlib", "optax", "orbax", "pyarrow", "rich", "tensorboardX", "tunix", "wandb"),
    *("click", "jinja2"),  # come with the package; the command line and the report load them
}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file of the package imports, anywhere in it."""
    names = set()
    package = ["tunrex_jax_monitor", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).rstrip(".")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def test_importing_the_package_loads_nothing_optional():
    code = "import sys, tunrex_jax_monitor; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "tunrex_jax_monitor" in loaded
    assert not loaded & OPTIONAL


def test_importing_the_package_does_not_start_jax_or_print():
    code = (
        "import jax, tunrex_jax_monitor\n"
        "jax.config.update('jax_num_cpu_devices', 3)  # refused once a backend has started\n"
        "assert len(jax.devices()) == 3\n"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


@pytest.mark.parametrize("path", sorted((PACKAGE / "device").glob("**/*.py")), ids=lambda path: path.stem)
def test_device_code_imports_only_jax_numpy_and_jaxtyping(path):
    allowed = {"jax", "numpy", "jaxtyping"} | set(sys.stdlib_module_names)
    for name in imports(path):
        assert name.startswith("tunrex_jax_monitor.device") or name.partition(".")[0] in allowed, name


def test_public_names_resolve():
    names = tunrex_jax_monitor.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(tunrex_jax_monitor, name) is not None


def test_version_is_stated_once():
    installed = importlib.metadata.version(DISTRIBUTION)
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert tunrex_jax_monitor.__version__ == installed == declared


def test_wheel_holds_the_typed_package_and_nothing_else(tmp_path):
    if (CHECKOUT / "tunrex_jax_monitor").is_symlink():
        pytest.skip("the package beside the tests is an installed wheel: there is no source to build from")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "tunrex_jax_monitor/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"tunrex_jax_monitor"}
    assert any(name.endswith("licenses/tunrex_jax_monitor/_vendor/uplot/LICENSE") for name in names)
    files = [path for path in (CHECKOUT / "tunrex_jax_monitor").rglob("*") if path.is_file()]
    source = {path.relative_to(CHECKOUT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert source <= set(names)  # what a page is made of as well
