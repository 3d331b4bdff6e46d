"""Named reward streams, and the grid of data sets x sizes x dtypes that statistics are tested on.

A data set is a function `(rng, shape) -> float64 array`. What a test feeds to the package is that array cast to the
dtype under test; what it feeds to the reference is the *cast* array, upcast again, so that the reference judges
arithmetic and not the rounding of the input.

    @pytest.mark.parametrize("case", grid())
    def test_mean(case):
        rewards = case.rewards(n_rewards=2)      # [2, size], dtype of the case
        truth = reference.mean(upcast(rewards))  # float64
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

Shape = int | tuple[int, ...]
Array = npt.NDArray[np.float64]
DataSet = Callable[[np.random.Generator, Shape], Array]


def constant(rng: np.random.Generator, shape: Shape) -> Array:
    """0.3 throughout: not a float32, so a naive variance of it is not zero."""
    return np.full(shape, 0.3)


def normal(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.normal(size=shape)


def large_offset(rng: np.random.Generator, shape: Shape) -> Array:
    """Mean 1e4, standard deviation 1e-2: what a float32 sum of squares cannot see."""
    return 1e4 + 1e-2 * rng.normal(size=shape)


def bimodal(rng: np.random.Generator, shape: Shape) -> Array:
    """A 0/1 reward that three samples in ten earn."""
    return (rng.random(shape) < 0.3).astype(np.float64)


def heavy_tail(rng: np.random.Generator, shape: Shape) -> Array:
    """Student's t with 3 degrees of freedom: a variance, and no kurtosis to converge to."""
    return rng.standard_t(3, size=shape)


def lognormal(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.lognormal(size=shape)


def negative(rng: np.random.Generator, shape: Shape) -> Array:
    """A penalty: never above zero."""
    return -np.abs(rng.normal(size=shape))


def with_nan_inf(rng: np.random.Generator, shape: Shape) -> Array:
    """Normal, with about 3 % each of NaN, +inf and -inf. The first three samples of a row are one of each."""
    rewards = rng.normal(size=shape)
    kind = rng.integers(0, 33, size=shape)
    for code, value in enumerate((np.nan, np.inf, -np.inf)):
        rewards[kind == code] = value
        rewards[..., code : code + 1] = value
    return rewards


def empty(rng: np.random.Generator, shape: Shape) -> Array:
    """No sample at all: the last axis has length 0, whatever was asked for."""
    return np.zeros((*_as_tuple(shape)[:-1], 0))


def single(rng: np.random.Generator, shape: Shape) -> Array:
    """One sample: the last axis has length 1, whatever was asked for."""
    return rng.normal(size=(*_as_tuple(shape)[:-1], 1))


DATASETS: dict[str, DataSet] = {
    make.__name__: make
    for make in (
        constant,
        normal,
        large_offset,
        bimodal,
        heavy_tail,
        lognormal,
        negative,
        with_nan_inf,
        empty,
        single,
    )
}
FINITE = tuple(name for name in DATASETS if name not in ("with_nan_inf", "empty"))  # at least one sample, all finite
SIZES = (1, 7, 64, 1000, 8192)
FLOAT_DTYPES = ("float32", "float16", "bfloat16")
DTYPES = (*FLOAT_DTYPES, "int32", "bool")


class Case(NamedTuple):
    """One point of the grid."""

    name: str
    size: int
    dtype: str

    def rewards(self, n_rewards: int = 1, seed: int = 20) -> npt.NDArray:
        """The data set as `dtype[n_rewards, size]`, the same for the same arguments; rows differ."""
        rng = np.random.default_rng([seed, list(DATASETS).index(self.name), self.size])
        return cast(DATASETS[self.name](rng, (n_rewards, self.size)), self.dtype)


def grid(
    names: Iterable[str] = tuple(DATASETS), sizes: Sequence[int] = (7, 1000), dtypes: Sequence[str] = ("float32",)
) -> list:
    """All combinations, as parameters with readable ids. Data sets that fix their own size appear with one size."""
    cases = [
        Case(name, size, dtype)
        for name, size, dtype in itertools.product(names, sizes, dtypes)
        if name not in ("empty", "single") or size == sizes[0]
    ]
    return [pytest.param(case, id="-".join(map(str, case))) for case in cases]


def cast(rewards: npt.ArrayLike, dtype: str) -> npt.NDArray:
    """As `dtype`. Integers are rounded first (no NaN or infinity exists there: they become 0); bool is `> 0`."""
    values = np.asarray(rewards, np.float64)
    if dtype == "bool":
        return values > 0
    target = np.dtype(jnp.dtype(dtype))
    if np.issubdtype(target, np.integer):
        return np.rint(np.where(np.isfinite(values), values, 0.0)).astype(target)
    with np.errstate(over="ignore"):  # float16 ends at 65504; what lies beyond is infinite, as it would be for a user
        return values.astype(target)


def upcast(rewards: npt.ArrayLike) -> Array:
    """What the package was really given, in float64: exact for every dtype of the grid."""
    return np.asarray(rewards).astype(np.float64)


def _as_tuple(shape: Shape) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else shape
