"""What the benchmarks share: rounds in random order, quartiles, the machine, and tables.

Other load on a machine changes from second to second, so nothing is compared across runs: in each round every candidate
is timed once, in random order, and a ratio is taken within its round. What is printed is the median and the quartiles.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

T = TypeVar("T")
LOG_SECONDS = 10

PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "jax-cuda13-plugin",
    "flax",
    "numpy",
    "clu",
    "google-metrax",
    "tunrex-jax-monitor",
)


def quartiles(values: Any) -> list[float]:
    """Return the median and the quartiles around it."""
    return [float(v) for v in np.percentile(values, (50, 25, 75))]


def in_rounds(runs: Mapping[str, Callable[[], T]], rounds: int, rng: np.random.Generator) -> dict[str, list[T]]:
    """Call every function once a round, in random order; returns the results of each, in the order of the rounds."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in progress(range(rounds), "round"):
        for name in rng.permutation(list(runs)):
            results[name].append(runs[name]())
    return results


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items, and say which one it is: on a terminal always, in a log every `LOG_SECONDS`."""
    start = told = time.monotonic()
    for i, item in enumerate(items):
        now = time.monotonic()
        if sys.stderr.isatty():
            print(f"\r{what} {i + 1} of {len(items)} ", end="", file=sys.stderr, flush=True)
        elif now - told > LOG_SECONDS:
            print(f"{what} {i + 1} of {len(items)}, {now - start:.0f} s", file=sys.stderr, flush=True)
            told = now
        yield item
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Compile without the persistent cache. JAX decides about it once, so it has to be told to think again."""
    before = jax.config.jax_enable_compilation_cache
    _use_cache(False)
    try:
        yield
    finally:
        _use_cache(before)


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()


def environment(program: str) -> dict[str, str]:
    """Return what a figure is worth nothing without: command, date, machine, device and versions."""
    return {
        "command": shlex.join(["python", f"benchmarks/{program}.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {_gigabytes(_host_memory())}",
        "device": _device(),
        "versions": ", ".join([f"python {platform.python_version()}", *_versions(), *_commit()]),
        "load": f"{os.getloadavg()[0]:.2f} when this was printed; the program itself is 1 to {os.cpu_count()} of it",
    }


def _device() -> str:
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{jax.device_count()} x {device.device_kind} (cpu), {_gigabytes(_host_memory())}"
    memory = (device.memory_stats() or {}).get("bytes_limit")
    return f"{jax.device_count()} x {device.device_kind} ({device.platform}), {_gigabytes(memory)} for JAX"


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gigabytes(n: int | None) -> str:
    return "memory unknown" if n is None else f"{n / 2**30:.0f} GiB of memory"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue


def _commit() -> Iterator[str]:
    """Yield the commit of this checkout, if it is one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return
    yield f"commit {name.strip()}{' and changes' if changed else ''}"


def cell(value: Any, digits: int = 2) -> str:
    """Return a table cell: a number, a median with its quartiles, text, or a dash for what there is not."""
    if isinstance(value, list):
        return "{:,.{d}f} ({:,.{d}f}-{:,.{d}f})".format(*value, d=digits)
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, int]) -> str:
    """Return rows as a Markdown table; `columns` gives the decimals of each."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(row.get(name), digits) for name, digits in columns.items()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json [FILE]`: JSON instead of the tables, or beside them in a file."""
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it beside the tables"
    )


def whole(text: str) -> int:
    """Read a number of at least one from the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a whole number from 1 on")
    return int(text)


def publish(result: Mapping[str, Any], text: str, target: str | None) -> None:
    """Print the environment and the tables, or JSON, as `--json` says."""
    if target == "-":
        print(json.dumps(result, indent=1))
        return
    print("\n".join(f"{key}: {value}" for key, value in result["environment"].items()), text, sep="\n\n")
    if target:
        Path(target).write_text(json.dumps(result, indent=1) + "\n")
