"""How far the statistics of a whole run are from float64, after up to a thousand million samples.

    python benchmarks/accuracy.py                     # 1e8 samples of each stream: a minute on two CPU cores
    python benchmarks/accuracy.py --samples 1e9       # about six minutes
    python benchmarks/accuracy.py --streams offset

Every batch is new. Beside the monitor numpy adds the same float32 samples up in float64, shifted by the stream's
centre, and the batches' sums are added exactly (`math.fsum`). What is compared is the record of the run, which is what
users see.

    mean, std        difference relative to the standard deviation; of the standard deviation itself
    skew, kurtosis   difference; not available where the monitor gives them up
    quantile         largest relative difference of p01 to p99 from numpy's definition; order statistics are known to
                     2.5e-4, by a histogram of 2^21 bins, and the worst within that is shown. Magnitudes below 1.2e-4
                     count as that: no relative error is promised there
    float32          the mean of a single float32 total, for comparison
    clu              mean and standard deviation of clu's Average and Std, where it is installed
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import add_json, environment, progress, publish, table
from peers import installed

import tunrex_jax_monitor as trm

BATCH = 2**20
SHIFT = 11  # bits of the order key that the histogram drops: 2^21 bins, 2^-12 wide where a float is normal
FLOOR = 1.2e-4  # below it quantiles are promised no relative error
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
COLUMNS = {"stream": 0, "samples": 0, "seconds": 0, "count": 0} | dict.fromkeys(
    ("mean", "std", "skew", "kurtosis", "quantile", "float32 mean", "clu mean", "clu std"), 0
)


@dataclass(frozen=True)
class Stream:
    """Where samples come from, and what numpy may subtract before it adds up."""

    draw: Callable[[np.random.Generator, int], Any]
    centre: float


STREAMS = {
    "normal": Stream(lambda rng, n: rng.standard_normal(n, np.float32), 0.0),
    "0/1, 30 %": Stream(lambda rng, n: rng.random(n, np.float32) < 0.3, 0.3),
    "offset": Stream(lambda rng, n: np.float32(100) + np.float32(0.1) * rng.standard_normal(n, np.float32), 100.0),
    "lognormal": Stream(lambda rng, n: np.exp(rng.standard_normal(n, np.float32)), 1.6),
}


@dataclass
class Reference:
    """Sums of powers about a centre in float64, and a fine histogram."""

    centre: float
    count: int = 0
    total: Any = field(default_factory=lambda: np.float32(0))  # what a script without a monitor keeps
    sums: list[list[float]] = field(default_factory=lambda: [[], [], [], []])
    bins: Any = field(default_factory=lambda: np.zeros(2 ** (32 - SHIFT), np.int64))

    def add(self, x: np.ndarray) -> None:
        """Add a batch."""
        self.count += x.size
        self.total = np.float32(self.total + x.sum(dtype=np.float32))
        deviation = x.astype(np.float64) - self.centre
        power = np.ones_like(deviation)
        for sums in self.sums:
            power *= deviation
            sums.append(float(power.sum()))
        self.bins += np.bincount(order_key(x) >> SHIFT, minlength=self.bins.size)

    def moments(self) -> dict[str, float]:
        """Return mean, std, skew and kurtosis of the population."""
        a, b, c, d = (math.fsum(sums) / self.count for sums in self.sums)
        variance = b - a * a
        third = c - 3 * a * b + 2 * a**3
        fourth = d - 4 * a * c + 6 * a * a * b - 3 * a**4
        skew, kurtosis = third / variance**1.5, fourth / variance**2 - 3
        return {"mean": self.centre + a, "std": math.sqrt(variance), "skew": skew, "kurtosis": kurtosis}

    def between(self, rank: int) -> tuple[float, float]:
        """Return the ends of the bin that holds an order statistic, counted from 0."""
        at = int(np.searchsorted(np.cumsum(self.bins), rank, side="right"))
        low, high = from_order_key(np.array([at << SHIFT, (at + 1 << SHIFT) - 1], np.uint32)).tolist()
        return (0.0, 0.0) if low <= 0.0 <= high else (low, high)  # with it only what float32 calls zero, or nearly


def order_key(x: np.ndarray) -> np.ndarray:
    """Return uint32 words in the order of the floats."""
    words = x.astype(np.float32).view(np.uint32)
    return np.where(words >> 31, ~words, words | np.uint32(1 << 31))


def from_order_key(key: np.ndarray) -> np.ndarray:
    """Invert `order_key`."""
    return np.where(key >> 31, key & np.uint32(2**31 - 1), ~key).astype(np.uint32).view(np.float32)


def batches(name: str, samples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield float32 batches of a stream; the last one is shorter."""
    rng = np.random.default_rng(seed)
    for start in progress(range(0, samples, BATCH), f"{name}: batch"):
        yield np.asarray(STREAMS[name].draw(rng, min(BATCH, samples - start)), np.float32)


def measure(name: str, samples: int, checkpoints: list[int]) -> Iterator[dict[str, Any]]:
    """Stream one data set, and yield a row at each checkpoint."""
    acc, reference = trm.RewardAccumulator(("x",)), Reference(STREAMS[name].centre)
    clu = installed(("x",))[0].get("clu")
    fold = jax.jit(clu.update, donate_argnums=0) if clu else lambda metrics, _: metrics
    state, metrics, start = acc.init(), clu.empty() if clu else None, time.perf_counter()
    left = list(checkpoints)
    for x in batches(name, samples):
        device = {"x": jnp.asarray(x)}
        state, metrics = acc.update_jit(state, device), fold(metrics, device)  # both work while numpy adds up
        reference.add(x)
        if reference.count >= left[0]:
            left.pop(0)
            yield {"stream": name, "seconds": time.perf_counter() - start} | errors(acc, state, metrics, reference)


def errors(acc: trm.RewardAccumulator, state: Any, metrics: Any, reference: Reference) -> dict[str, Any]:
    """Return how far record, float32 and, unless they are None, clu's metrics are from the reference."""
    got, want = acc.record(state).scalars, reference.moments()
    mean, std = (math.nan, math.nan) if metrics is None else clu_moments(metrics)
    return {
        "samples": reference.count,
        "count": "exact" if got["x/run/count"] == reference.count else f"{got['x/run/count']:.0f}",
        "mean": small(abs(got["x/run/mean"] - want["mean"]) / want["std"]),
        "std": small(abs(got["x/run/std"] / want["std"] - 1)),
        "skew": small(abs(got.get("x/run/skew", math.nan) - want["skew"])),
        "kurtosis": small(abs(got.get("x/run/kurtosis", math.nan) - want["kurtosis"])),
        "quantile": small(max(quantile_error(got[f"x/run/p{p:02d}"], p, reference) for p in PERCENTILES)),
        "float32 mean": small(abs(float(reference.total) / reference.count - want["mean"]) / want["std"]),
        "clu mean": small(abs(mean - want["mean"]) / want["std"]),
        "clu std": small(abs(std / want["std"] - 1)),
    }


def clu_moments(metrics: Any) -> tuple[float, float]:
    """Return clu's mean, and its std by its own formula: its `Std.compute` does not run with this JAX."""
    n, total, squares = (float(v) for v in (metrics.Std_x.count, metrics.Std_x.total, metrics.Std_x.sum_of_squares))
    return float(metrics.Average_x.compute()), math.sqrt(max(0.0, squares / n - (total / n) ** 2))


def quantile_error(got: float, percent: float, reference: Reference) -> float:
    """Return the largest relative difference that a percentile may have, linear between order statistics as numpy's."""
    rank = (reference.count - 1) * percent / 100
    below, above = (reference.between(r) for r in (math.floor(rank), math.ceil(rank)))
    ends = (a + (b - a) * (rank - math.floor(rank)) for a, b in zip(below, above, strict=True))
    return max(abs(got - v) / max(abs(v), FLOOR) for v in ends)


def small(x: float) -> str:
    """Return an error in two digits."""
    return "not available" if math.isnan(x) else f"{x:.1e}" if x else "0"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=1e8, help="of each stream (default: %(default)g)")
    parser.add_argument(
        "--streams", nargs="+", choices=STREAMS, default=list(STREAMS), metavar="NAME", help="default: all"
    )
    add_json(parser)
    options = parser.parse_args()
    if not 1e3 <= options.samples <= 1e11:
        parser.error(f"--samples: got {options.samples:g}, allowed: 1e3 to 1e11.")
    return options


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    warnings.filterwarnings("ignore", message="A step of .* does not fit the window")  # the run is what is looked at
    samples = int(options.samples)
    checkpoints = [*(10**k for k in range(6, 11) if 10**k < samples), samples]
    rows = [row for name in options.streams for row in measure(name, samples, checkpoints)]
    result = {"environment": environment("accuracy"), "batch": BATCH, "rows": rows}
    intro = f"Batches of {BATCH:,}. Errors as the program's first lines define them.\n\n"
    publish(result, intro + table(rows, COLUMNS), options.json)


if __name__ == "__main__":
    main()
