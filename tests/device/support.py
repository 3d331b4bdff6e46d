"""What the device tests share: jitted entry points, so that equal programs compile once, and readers of a state."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import state as state_lib
from tunrex_jax_monitor.device.alerts import Averages, Memory
from tunrex_jax_monitor.device.ema import Ema
from tunrex_jax_monitor.device.state import Clock
from tunrex_jax_monitor.host import transfer

merge = jax.jit(RewardAccumulator.merge, static_argnums=0)
outlier_mask = jax.jit(RewardAccumulator.outlier_mask, static_argnums=0)
pack = transfer._pack  # what `record` runs
reset_interval = jax.jit(RewardAccumulator.reset_interval, static_argnums=0)
update = jax.jit(RewardAccumulator.update, static_argnums=0, static_argnames="axis_name")  # keeps the old state

# One configuration with everything switched on: most tests share its two programs, with and without a mask.
EVERYTHING = RewardAccumulator(
    ("format", "answer", "style"),
    group_size=8,
    weights=(1.0, 2.0, 0.5),
    window_size=100,
    log_frequency=4,
    atoms=(0.0, 1.0),
    centers=(0.0, 0.0, 10.0),
    correlations=True,
    min_samples=10,
)
SHAPE = (4, 8)
LEAN = RewardAccumulator(("x",), window_size=40, cooldown_steps=1, log_frequency=4)  # compiles in half the time


def batch(seed: int, shape: tuple[int, ...] = SHAPE) -> dict[str, np.ndarray]:
    """One step of EVERYTHING: a 0/1 reward, a real one, and one far from zero."""
    rng = np.random.default_rng([7, seed])
    return {
        "format": (rng.random(shape) < 0.6).astype(np.float32),
        "answer": rng.normal(size=shape).astype(np.float32),
        "style": (10 + rng.normal(size=shape)).astype(np.float32),
    }


def broken_batch(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The same with NaN and infinities, a mask, and lengths."""
    rng = np.random.default_rng([8, seed])
    rewards = batch(seed)
    for x in rewards.values():
        for value in (np.nan, np.inf, -np.inf):
            x[rng.random(x.shape) < 0.03] = value
    return rewards, rng.random(SHAPE) < 0.8, rng.integers(5, 300, SHAPE).astype(np.int32)


@contextlib.contextmanager
def without_runtime_types() -> Iterator[None]:
    """As users run it: the type checker of the test session does not speak before our own errors do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def bits(tree) -> list[np.ndarray]:
    """Every leaf as words, so that NaN equals NaN and -0.0 is not 0.0."""
    return [np.asarray(leaf).view(np.uint32) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(a, b) -> None:
    for x, y in zip(bits(a), bits(b), strict=True):
        np.testing.assert_array_equal(x, y)


def fields(acc: RewardAccumulator, state) -> state_lib.Fields:
    """The small fields of a state, as numpy arrays, with the rows of each named."""
    f = jax.tree.map(np.asarray, state_lib.unpack(acc, state))
    averages = Averages(*(Ema(*rows) for rows in zip(*f.averages, strict=True)))
    low, high = (state_lib.tally(acc, limbs) for limbs in (f.low, f.high))
    return f._replace(clock=Clock(*f.clock), memory=Memory(*f.memory), low=low, high=high, averages=averages)


def order_free(acc: RewardAccumulator, state) -> dict:
    """What must not depend on the order of samples, by name."""
    f = fields(acc, state)
    low, high = (
        t._replace(outliers=None, outlying=None) for t in (f.low, f.high)
    )  # judged against the state before the step
    exact = {"low": low, "high": high, "extremes": f.extremes, "sketch": tuple(np.asarray(v) for v in state[3:])}
    rounded = {"moments": f.moments, "group_means": f.group_means, "sums": f.group_sums, "products": f.products}
    return {"exact": exact, "rounded": rounded}


def to_device(tree):
    return jax.tree.map(jnp.asarray, tree)


@functools.cache
def eight_steps() -> tuple:
    """EVERYTHING after each of eight plain steps."""
    states = [EVERYTHING.init()]
    for seed in range(8):
        states.append(update(EVERYTHING, states[-1], batch(seed)))
    return tuple(states)
