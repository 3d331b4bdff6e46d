"""Doctor: what this machine and this process have, what is wrong with it, and what to do.

Two of the checks see more inside a training process than in one of their own: who owns the W&B run, and which listeners
of JAX outlived it. `diagnose()` may be called there at any time; it changes nothing.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tunrex_jax_monitor.host.files import require_writable
from tunrex_jax_monitor.host.guard import attempt

Status = Literal["ok", "note", "problem"]
_SECONDS = 60.0  # for JAX to find its devices; a pod waits for its other hosts, a busy TPU for ever
_LEAST_FREE = 200e6  # bytes
_REQUIRED = ("tunrex-jax-monitor", "jax", "jaxlib", "jaxtyping", "numpy", "click", "jinja2")
_OPTIONAL = {  # distribution: (module, what it is for, how to get it)
    "wandb": ("wandb", "WandbSink, export --to wandb", "tunrex-jax-monitor[wandb]"),
    "tensorboardX": ("tensorboardX", "TensorBoardSink, export --to tensorboard", "tunrex-jax-monitor[tensorboard]"),
    "matplotlib": ("matplotlib", "PNG pictures", "tunrex-jax-monitor[plots]"),
    "rich": ("rich", "tables in a terminal, watch", "tunrex-jax-monitor[terminal]"),
    "pyarrow": ("pyarrow", "export --to parquet", "tunrex-jax-monitor[parquet]"),
    "google-tunix": ("tunix", "attach_to_tunix", "tunrex-jax-monitor[tunix]"),
}
_DEVICES = """
import json, jax
devices = [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
print(json.dumps([devices, jax.process_index(), jax.process_count()]))
"""
_BACKEND = "import matplotlib; print(matplotlib.rcParams._get_backend_or_none() or 'chosen when first used')"


class Finding(NamedTuple):
    """What one check found, and what to do where that is not all well."""

    check: str
    status: Status
    found: str
    remedy: str = ""


def diagnose(directories: Sequence[str | os.PathLike[str]] = (".",)) -> list[Finding]:
    """Return what every check found. Never raises; a check that fails is a finding.

    Args:
      directories: where a run is to be written.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("optional", _optional),
        ("devices", _devices),
        ("write", lambda: _writing([Path(d).expanduser() for d in directories])),
        ("wandb", _wandb),
        ("listeners", _listeners),
        ("matplotlib", _matplotlib),
        ("terminal", _terminal),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        found, error = attempt(lambda check=check: list(check()))  # type: ignore[misc]
        findings += found if found is not None else [Finding(name, "problem", f"{type(error).__name__}: {error}")]
    return findings


def _versions() -> Iterator[Finding]:
    found = [f"Python {sys.version.split()[0]}", *(f"{name} {_version(name) or 'missing'}" for name in _REQUIRED)]
    missing = [name for name in _REQUIRED if _version(name) is None]
    remedy = f"pip install {' '.join(missing)}" if missing else ""
    yield Finding("versions", "problem" if missing else "ok", ", ".join(found), remedy)


def _optional() -> Iterator[Finding]:
    for name, (module, purpose, requirement) in _OPTIONAL.items():
        spec, error = attempt(partial(importlib.util.find_spec, module))  # fails for a module that a test made up
        if spec is None and error is None:
            yield Finding(name, "note", f"not installed: {purpose}", f"pip install '{requirement}'")
        else:
            yield Finding(name, "ok", f"{_version(name) or 'installed'}: {purpose}")


def _devices() -> Iterator[Finding]:
    """In a process of its own: finding devices may take an accelerator away from a run, or wait for ever."""
    if "jax" in sys.modules:
        import jax

        devices = [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
        yield from _found_devices(devices, jax.process_index(), jax.process_count())
        return
    try:
        answer = _python(_DEVICES)
    except subprocess.TimeoutExpired:
        remedy = (
            "On a pod start it on every host; else end what holds the chips, or leave them out with JAX_PLATFORMS=cpu."
        )
        yield Finding("devices", "problem", f"JAX found no device within {_SECONDS:.0f} s", remedy)
        return
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        remedy = "Run python -c 'import jax; jax.devices()' for the whole message; JAX_PLATFORMS=cpu goes without."
        yield Finding("devices", "problem", reason, remedy)
    else:
        yield from _found_devices(*json.loads(answer.stdout.splitlines()[-1]))


def _found_devices(devices: list[str], index: int, count: int) -> Iterator[Finding]:
    chip = _unused_chip(devices)
    remedy = f'pip install "{chip}", and see that JAX_PLATFORMS does not say cpu.' if chip else ""
    shown = ", ".join(devices[:8]) + (f" and {len(devices) - 8} more" if len(devices) > 8 else "")
    yield Finding("devices", "problem" if chip else "ok", shown, remedy)
    is_writer = "the one that reads and writes" if index == 0 else "process 0 reads and writes, this one does not"
    yield Finding("process", "ok", f"{index} of {count}; {is_writer}")


def _unused_chip(devices: list[str]) -> str | None:
    """Return what JAX lacks for a chip that the machine has and JAX does not see."""
    if not all(device.startswith("cpu") for device in devices) or os.environ.get("JAX_PLATFORMS") == "cpu":
        return None
    if os.path.exists("/dev/nvidia0"):
        return "jax[cuda13]"
    return "jax[tpu]" if os.path.exists("/dev/accel0") else None


def _writing(directories: Sequence[Path]) -> Iterator[Finding]:
    for directory in directories:
        there = _existing(directory)
        _, error = attempt(lambda there=there: require_writable(there))  # type: ignore[misc]
        free = shutil.disk_usage(there).free
        if error is not None:
            reason = error.strerror if isinstance(error, OSError) else error
            text = f"{directory}: cannot be written ({str(reason).split(', allowed')[0]})"
            yield Finding("write", "problem", text, "Choose another directory, or mend its permissions.")
        elif free < _LEAST_FREE:
            yield Finding("write", "problem", f"{directory}: {free / 1e6:.0f} MB free", "Make room, or choose another.")
        else:
            new = "" if there == directory else " (to be made)"
            yield Finding("write", "ok", f"{directory}{new}: can be written, {free / 1e9:.1f} GB free")


def _wandb() -> Iterator[Finding]:
    module = sys.modules.get("wandb")
    run = getattr(module, "run", None)
    if run is None:
        mode = os.environ.get("WANDB_MODE", "online unless wandb.init says otherwise")
        where = "none in this process"
        yield Finding("wandb run", "ok", f"{where}; WandbSink(own_run=True) opens one. Mode: {mode}")
        return
    settings = getattr(run, "settings", None)
    mode = getattr(settings, "mode", None) or os.environ.get("WANDB_MODE", "online")
    yield Finding(
        "wandb run",
        "ok",
        f"{run.id}, {mode}, at step {run.step}; opened by the training: our values join its rows, over monitoring/step",
        "Pass WandbSink(own_run=True) where every point has to be kept although the training logs less often.",
    )


def _listeners() -> Iterator[Finding]:
    module: Any = sys.modules.get("jax._src.monitoring")
    if module is None:
        yield Finding("listeners", "ok", "JAX is not loaded in this process, so nothing listens")
        return
    listeners = list(getattr(module, "_scalar_listeners", ()))
    stale = [_qualified(listener) for listener in listeners if _is_stale(listener)]
    if stale:
        remedy = (
            "Each fails what JAX reports, compilations too. Remove it: jax.monitoring.unregister_scalar_listener; "
            "attach_to_tunix lets the monitor finish before Tunix closes its run."
        )
        yield Finding("listeners", "problem", f"without a W&B run behind them: {', '.join(stale)}", remedy)
    else:
        yield Finding("listeners", "ok", f"{len(listeners)} of jax.monitoring scalars, none stale")


def _is_stale(listener: Any) -> bool:
    """Tell whether a listener logs to a W&B run that is over, as those of metrax and Tunix do after `close`."""
    module = getattr(listener, "__module__", None) or type(listener).__module__
    wandb = sys.modules.get("wandb")
    return module.split(".")[0] in ("metrax", "tunix") and wandb is not None and wandb.run is None


def _qualified(listener: Any) -> str:
    return f"{getattr(listener, '__module__', '?')}.{getattr(listener, '__qualname__', repr(listener))}"


def _matplotlib() -> Iterator[Finding]:
    if importlib.util.find_spec("matplotlib") is None:
        return
    try:
        answer = _python(_BACKEND)
    except subprocess.TimeoutExpired:
        found = f"matplotlib took more than {_SECONDS:.0f} s to import"
        yield Finding("backend", "note", found, "Look at the disk that Python reads its packages from.")
        return
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        remedy = "Unset MPLBACKEND, or set it to agg: without that matplotlib cannot be imported here."
        yield Finding("backend", "problem", reason, remedy)
    else:
        yield Finding("backend", "ok", f"{answer.stdout.strip()}; PNG files need none, only show=True does")


def _terminal() -> Iterator[Finding]:
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    if encoding.replace("-", "").startswith("utf"):
        yield Finding("encoding", "ok", encoding)
    else:
        yield Finding("encoding", "note", f"{encoding}: other characters are escaped", "Set PYTHONIOENCODING=utf-8.")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_SECONDS, check=False)


def _version(distribution: str) -> str | None:
    version, _ = attempt(lambda: metadata.version(distribution))
    return version


def _existing(directory: Path) -> Path:
    """Return the directory, or the nearest above it that is there: a check must not make any."""
    return next((path for path in (directory, *directory.absolute().parents) if path.exists()), directory)
