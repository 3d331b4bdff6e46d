"""The window histogram: every sample in the bin that numpy puts it in."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.datasets import DATASETS
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import histogram

compute = jax.jit(histogram.compute)
N = 400
RNG = np.random.default_rng(4)
STREAMS = {name: make(RNG, N).astype(np.float32) for name, make in DATASETS.items() if make(RNG, 1).size} | {
    "graded": RNG.choice(np.linspace(0, 1, 11), N).astype(np.float32),
    "integers": RNG.integers(-30, 31, N).astype(np.float32),
    "wide": (10.0 ** RNG.uniform(-8, 15, N)).astype(np.float32),
    "both ends": np.where(np.arange(N) % 2, 1e16, -1e16).astype(np.float32),
    "neighbours": np.where(np.arange(N) % 2, np.float32(1.0), np.nextafter(np.float32(1), np.float32(2))),
    "tiny": (1e-20 * RNG.normal(size=N)).astype(np.float32),
    "zero": np.zeros(N, np.float32),
    "huge constant": np.full(N, 9.9e15, np.float32),
}
STREAMS["single"] = np.full(N, STREAMS["single"][0])


@pytest.mark.parametrize("name", STREAMS)
def test_counts_are_those_of_numpy(name):
    x = STREAMS[name]
    valid = np.isfinite(x)
    h = compute(jnp.asarray(np.where(valid, x, np.nan)[None]), jnp.asarray(valid[None]))
    counts = np.asarray(h.counts[0])
    edges = histogram.edges(int(h.exponent[0]), int(h.first[0]), histogram.BINS)
    exact = x[valid].astype(np.float64)
    assert counts.sum() == valid.sum()
    assert edges[0] <= exact.min() <= exact.max() < edges[-1]
    want = np.array([((a <= exact) & (exact < b)).sum() for a, b in itertools.pairwise(edges)])
    np.testing.assert_array_equal(counts, want)
    assert counts[0] > 0  # no empty bins in front


@pytest.mark.parametrize("name", ["bimodal", "graded", "integers", "zero", "constant"])
def test_values_that_repeat_never_lie_on_an_edge(name):
    x = STREAMS[name]
    h = compute(jnp.asarray(x[None]), jnp.ones((1, N), bool))
    edges = histogram.edges(int(h.exponent[0]), int(h.first[0]), histogram.BINS)
    assert not np.isin(edges, x.astype(np.float64)).any()


def test_a_spread_fills_more_than_a_quarter_of_the_bins():
    h = compute(jnp.asarray(STREAMS["normal"][None]), jnp.ones((1, N), bool))
    assert np.flatnonzero(np.asarray(h.counts[0])).max() >= 16


def test_no_sample_is_no_count():
    h = compute(jnp.full((1, N), jnp.float32(np.nan)), jnp.zeros((1, N), bool))
    assert not np.asarray(h.counts).any()


@pytest.mark.parametrize("window", [100, 2**16 + 8])
def test_record_counts_sum_to_the_window_count(window):
    acc = RewardAccumulator(("x", "none"), window_size=window)
    x = np.concatenate([STREAMS["with_nan_inf"], STREAMS["bimodal"], np.zeros(2**16)]).astype(np.float32)[: 2 * window]
    state = acc.init()._replace(window=jnp.asarray(_two_rows(x, window).view(np.uint32)))
    record = acc.record(state)
    found = record.histograms["x/histogram"]
    assert sum(found.counts) == record.scalars["x/count"]
    assert len(found.edges) == len(found.counts) + 1 <= 65
    assert found.counts[-1] > 0
    assert found.counts[0] > 0
    assert "none/histogram" not in record.histograms


def _two_rows(x: np.ndarray, window: int) -> np.ndarray:
    x = np.where(np.isfinite(x), x, np.nan)[-window:]
    rows = np.full((2, window), np.nan, np.float32)
    rows[0, window - len(x) :] = x
    return rows
