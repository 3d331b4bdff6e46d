"""The run sketch: exact, additive, and within its documented distance of numpy's percentiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.datasets import DATASETS
from tests.device import support
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import sketch
from tunrex_jax_monitor.device.bits import order_key
from tunrex_jax_monitor.host import quantiles

BIN_WIDTH = 0.0201  # of the module's docstring: no bin spans more of its value
LOW, HIGH = 2.0**-13, 1.5e4  # between which bins are relative
ACC = RewardAccumulator(("x",))
NO_ATOMS = np.zeros((2, 0, 1), np.uint32)


def add(run: sketch.Sketch, x, counted, marked, center) -> sketch.Added:
    return sketch.join(run, sketch.scatter(run, sketch.place(x, counted, marked, center)))


@functools.partial(jax.jit, static_argnums=1)
def of(x: jax.Array, centers: tuple[float, ...] | None = None) -> sketch.Sketch:
    counted = ~jnp.isnan(x)
    center = np.array(centers or (0.0,) * x.shape[0], np.float32)
    return add(sketch.init(x.shape[0]), x, counted, counted, center).run


def points(s: sketch.Sketch, i: int = 0) -> quantiles.Points:
    return quantiles.RunSketch(*(np.asarray(v) for v in s), atoms=NO_ATOMS).points(ACC, i)


def sample(name: str, n: int = 50_000, seed: int = 3) -> np.ndarray:
    return DATASETS[name](np.random.default_rng(seed), n).astype(np.float32)


def test_bins_are_in_order_and_none_is_wider_than_documented():
    octaves = (np.arange(127 - 14, 127 + 15, dtype=np.int64) << 23)[:, None] + np.arange(0, 2**23, 2**11)[None]
    x = octaves.ravel().astype(np.uint32).view(np.float32)
    index = np.asarray(sketch.bin_index(jnp.asarray(x)))
    assert (np.diff(index) >= 0).all()
    inside = (x >= LOW) & (x <= HIGH)
    x, index = x[inside].astype(np.float64), index[inside]
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 1))
    assert (np.diff(index[starts]) == 1).all()  # no bin is left out
    first, beyond = x[starts[:-1]], x[starts[1:]]
    assert (beyond / first - 1).max() <= BIN_WIDTH
    mirrored = np.asarray(sketch.bin_index(jnp.asarray(-x, jnp.float32)))
    np.testing.assert_array_equal(mirrored - sketch.BINS_PER_SIGN, -(index - sketch.BINS_PER_SIGN))


@pytest.mark.parametrize("x", [0.0, -0.0])
def test_zero_has_a_bin_of_its_own(x):
    index = sketch.bin_index(jnp.asarray(np.array([x, 1e-30, -1e-30, 1e-4, -1e-4], np.float32)))
    assert int(index[0]) == sketch.BINS_PER_SIGN
    assert sketch.BINS_PER_SIGN not in np.asarray(index[1:])


@pytest.mark.parametrize(
    "name", ["lognormal", "normal", "heavy_tail", "negative", "bimodal", "large_offset", "constant"]
)
def test_quantiles_are_within_the_width_of_a_bin_of_numpy(name):
    x = sample(name)
    found = points(of(jnp.asarray(x[None])))
    assert sum(found.counts) == len(x)
    for p in quantiles.PERCENTILES:
        want = np.percentile(x.astype(np.float64), p)
        assert abs(quantiles.percentile(found, p) - want) <= BIN_WIDTH * abs(want) + LOW


@pytest.mark.parametrize("p", [0, 100])
@pytest.mark.parametrize("name", ["lognormal", "normal", "heavy_tail", "negative"])
def test_both_ends_are_exact(name, p):
    x = sample(name)
    assert quantiles.percentile(points(of(jnp.asarray(x[None]))), p) == np.percentile(x.astype(np.float64), p)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.999])
def test_the_worst_data_for_a_bin_stay_within_the_bound(share):
    edges = np.arange(2**9) * 2**14 + (127 << 23)
    x = edges.astype(np.uint32).view(np.float32)
    index = np.asarray(sketch.bin_index(jnp.asarray(x)))
    inside = x[index == index[200]]
    low, high = inside.min(), inside.max()  # the two ends of one bin, in unequal parts
    n = 10_000
    x = np.where(np.arange(n) < share * n, low, high).astype(np.float32)
    found = points(of(jnp.asarray(x[None])))
    for p in quantiles.PERCENTILES:
        want = np.percentile(x.astype(np.float64), p)
        assert abs(quantiles.percentile(found, p) - want) <= BIN_WIDTH * want


def test_median_of_a_32_to_68_split_of_0_and_3_is_exactly_3():
    x = np.repeat(np.array([0, 3], np.float32), (32, 68))
    assert quantiles.percentile(points(of(jnp.asarray(x[None]))), 50) == 3.0


def test_isolated_values_are_exact():
    x = np.random.default_rng(0).choice(np.array([-2.0, -0.5, 0.0, 0.1, 1 / 3, 1.0, 3.0], np.float32), 5000)
    found = points(of(jnp.asarray(x[None])))
    for p in quantiles.PERCENTILES:
        assert quantiles.percentile(found, p) == np.percentile(x.astype(np.float64), p)


def test_any_order_split_or_tree_gives_the_same_bits():
    x = sample("heavy_tail", 4096)
    whole = of(jnp.asarray(x[None]))
    rng = np.random.default_rng(0)
    support.assert_same_bits(of(jnp.asarray(rng.permutation(x)[None])), whole)
    parts = [of(jnp.asarray(part[None])) for part in np.split(rng.permutation(x), 16)]
    in_a_row = functools.reduce(sketch.merge, parts)
    backwards = functools.reduce(sketch.merge, parts[::-1])
    tree = parts
    while len(tree) > 1:
        tree = [sketch.merge(a, b) for a, b in zip(tree[::2], tree[1::2], strict=True)]
    for other in (in_a_row, backwards, tree[0]):
        support.assert_same_bits(other, whole)


@pytest.mark.parametrize("n", [500, 2 * sketch.SAMPLES_PER_COPY, 40_000], ids=lambda n: f"{n} samples")
def test_every_way_of_scattering_gives_the_same_bits(n):
    """One for CPU, one for a GPU (one copy, two, the most), one for a TPU: the latter two run in no other test."""
    x = jnp.asarray(sample("heavy_tail", 2 * n).reshape(2, n))
    index = sketch.bin_index(x) + jnp.array([[0], [sketch.BINS]], jnp.int32)
    counted = jnp.asarray(np.random.default_rng(0).random(x.shape) < 0.8)
    index = jnp.where(counted, index, 2 * sketch.BINS).reshape(-1)
    word = jnp.arange(index.size, dtype=jnp.uint32) % 3
    run = of(jnp.asarray(sample("bimodal", 2 * 1000).reshape(2, 1000)))
    operands = (index, word, order_key(x).reshape(-1), run.greatest, run.least)
    first, *others = (way(*operands) for way in (sketch._in_place, sketch._in_turn, sketch._by_plane))
    for other in others:
        support.assert_same_bits(first, other)


@pytest.mark.parametrize("n", [100, 2**16])
def test_marked_samples_are_counted_apart(n):
    x, marked = sample("normal", n)[None], np.random.default_rng(0).random((1, n)) < 0.3
    counted = np.abs(x) < 1.5
    center = np.zeros(1, np.float32)
    added = add(sketch.init(1), jnp.asarray(x), jnp.asarray(counted), jnp.asarray(marked), center)
    index = np.asarray(sketch.bin_index(jnp.asarray(x)))
    for got, where in ((added.batch, counted), (added.marked, counted & marked), (added.run.low, counted)):
        np.testing.assert_array_equal(got[0], np.bincount(index[where], minlength=sketch.BINS))


def test_no_data_is_the_identity():
    s = of(jnp.asarray(sample("normal", 1000)[None]))
    support.assert_same_bits(sketch.merge(s, sketch.init(1)), s)
    support.assert_same_bits(sketch.merge(sketch.init(1), s), s)
    support.assert_same_bits(of(jnp.full((1, 5), jnp.float32(np.nan))), sketch.init(1))


def test_counts_are_exact_past_32_bits():
    s = of(jnp.asarray(np.repeat(np.array([0, 3], np.float32), (32, 68))[None]))
    join = jax.jit(sketch.merge)
    for _ in range(33):
        s = join(s, s)
    found = points(s)
    assert found.counts == [32 * 2**33, 68 * 2**33]
    assert quantiles.percentile(found, 50) == 3.0
    assert quantiles.percentile(found, 25) == 0.0


def test_a_center_gives_resolution_to_what_lies_close_to_it():
    x = (100 + 1e-2 * np.random.default_rng(0).normal(size=20_000)).astype(np.float32)
    found = points(of(jnp.asarray(x[None]), (100.0,)))
    for p in quantiles.PERCENTILES:
        want = np.percentile(x.astype(np.float64), p)
        assert abs(quantiles.percentile(found, p) - want) <= BIN_WIDTH * abs(want - 100) + LOW


@pytest.mark.parametrize("value", [1e-12, 1e-6, 2e4, 1e9, -1e15])
def test_values_beyond_the_bins_are_kept_with_their_extremes(value):
    x = np.array([value, value * 1.5, 1.0], np.float32)
    found = points(of(jnp.asarray(x[None])))
    assert sum(found.counts) == 3
    assert quantiles.percentile(found, 0) == float(x.min())
    assert quantiles.percentile(found, 100) == float(x.max())


@pytest.mark.parametrize("name", ["lognormal", "heavy_tail", "bimodal", "constant", "negative", "large_offset"])
def test_the_run_histogram_counts_every_sample_once(name):
    x = sample(name)
    found = quantiles.histogram(points(of(jnp.asarray(x[None]))))
    assert sum(found.counts) == len(x)
    assert len(found.edges) == len(found.counts) + 1 <= 65
    assert found.edges[0] <= x.min() <= x.max() < found.edges[-1]
    assert all(isinstance(c, int) and c >= 0 for c in found.counts)
    want = np.array([(x.astype(np.float64) < edge).sum() for edge in found.edges])
    got = np.concatenate([[0], np.cumsum(found.counts)])
    if name != "large_offset":  # all of it lies in one bin of the sketch
        assert np.abs(got - want).max() <= 0.06 * len(x)  # a bin of the sketch is split between two of the histogram


def test_atoms_are_counted_apart_and_exactly():
    acc = support.EVERYTHING
    x = np.stack([[v.ravel() for v in support.batch(seed).values()] for seed in range(8)])  # [step, R, N]
    f = support.fields(acc, support.eight_steps()[8])
    want = [[(x[:, i] == atom).sum() for i in range(3)] for atom in acc.atoms]
    np.testing.assert_array_equal(f.low.atoms[:, 0, :3], want)
    counts = support.eight_steps()[8].sketch_low
    assert not np.asarray(counts[0]).any()  # the first reward is 0 or 1, and has nothing else
    record = acc.record(support.eight_steps()[8])
    for p in quantiles.PERCENTILES:
        assert record.scalars[f"format/run/p{p:02d}"] == np.percentile(x[:, 0].astype(np.float64), p)
    assert sum(record.histograms["format/run/histogram"].counts) == x[:, 0].size


def test_an_atom_beside_other_values_of_its_bin_keeps_percentiles_exact():
    acc = RewardAccumulator(("x",), atoms=(0.1, 1.0, 1.001))
    rest = np.array([-2.0, 0.5, 1.0005, 7.0], np.float32)
    atoms = np.zeros((2, 3, 1), np.uint32)
    atoms[0, :, 0] = 5, 9, 4
    found = quantiles.RunSketch(*(np.asarray(v) for v in of(jnp.asarray(rest[None]))), atoms=atoms).points(acc, 0)
    x = np.concatenate([rest, np.repeat(np.array(acc.atoms, np.float32), atoms[0, :, 0])]).astype(np.float64)
    assert sum(found.counts) == len(x)
    for p in quantiles.PERCENTILES:
        assert quantiles.percentile(found, p) == pytest.approx(np.percentile(x, p), rel=1e-12)
