"""What users keep reward statistics in without this monitor: the metrics of clu, metrax and flax nnx.

Each is made to hold what it offers that is nearest to a mean and a standard deviation per reward. They hold nothing
else: no quantiles, windows, averages, alerts, and none looks at NaN or masks.
"""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Rewards = Mapping[str, jax.Array]


class Peer(Protocol):
    """Metrics of named rewards; hashable, so that it may be a static argument."""

    holds: str

    def empty(self) -> Any:
        """Return metrics that have seen nothing."""

    def update(self, state: Any, rewards: Rewards) -> Any:
        """Fold one step's rewards in; traced."""

    def read(self, state: Any) -> list[float]:
        """Return the numbers, or what they follow from; blocks until they are computed."""


@dataclass(frozen=True)
class Clu:
    """A Collection of Average and Std per reward."""

    names: tuple[str, ...]
    holds = "mean, std"

    @functools.cached_property
    def collection(self) -> Any:
        """The class of the collection."""
        metrics = importlib.import_module("clu.metrics")
        kinds = (metrics.Average, metrics.Std)
        parts = {f"{kind.__name__}_{name}": kind.from_output(name) for name in self.names for kind in kinds}
        return metrics.Collection.create(**parts)

    def empty(self) -> Any:
        """See `Peer`."""
        return jax.tree.map(jnp.array, self.collection.empty())

    def update(self, state: Any, rewards: Rewards) -> Any:
        """See `Peer`."""
        return state.merge(self.collection.single_from_model_output(**rewards))

    def read(self, state: Any) -> list[float]:
        """See `Peer`. The sums: `Std.compute` of clu 0.0.12 names an argument that JAX's `clip` has no more."""
        return _floats(state)


@dataclass(frozen=True)
class Metrax:
    """An Average of each reward and of its square: metrax has no standard deviation."""

    names: tuple[str, ...]
    holds = "mean, mean of squares"

    @functools.cached_property
    def _average(self) -> Any:
        return importlib.import_module("metrax").Average

    def empty(self) -> Any:
        """See `Peer`."""
        zero = lambda: self._average(total=jnp.zeros((), jnp.float32), count=jnp.zeros((), jnp.float32))  # noqa: E731
        return {name: (zero(), zero()) for name in self.names}

    def update(self, state: Any, rewards: Rewards) -> Any:
        """See `Peer`."""
        new = self._average.from_model_output
        return {k: (a.merge(new(rewards[k])), b.merge(new(rewards[k] ** 2))) for k, (a, b) in state.items()}

    def read(self, state: Any) -> list[float]:
        """See `Peer`."""
        return _floats([metric.compute() for pair in state.values() for metric in pair])


@dataclass(frozen=True)
class Nnx:
    """A MultiMetric of Welford per reward, split and merged inside `jax.jit`."""

    names: tuple[str, ...]
    holds = "mean, std, its error"

    @functools.cached_property
    def _graph(self) -> Any:
        return self._split()[0]

    def _split(self) -> Any:
        nnx = importlib.import_module("flax.nnx")
        return nnx.split(nnx.MultiMetric(**{name: nnx.metrics.Welford(name) for name in self.names}))

    def empty(self) -> Any:
        """See `Peer`."""
        return jax.tree.map(jnp.array, self._split()[1])

    def update(self, state: Any, rewards: Rewards) -> Any:
        """See `Peer`."""
        nnx = importlib.import_module("flax.nnx")
        metric = nnx.merge(self._graph, state)
        metric.update(**rewards)
        return nnx.split(metric)[1]

    def read(self, state: Any) -> list[float]:
        """See `Peer`."""
        return _floats(importlib.import_module("flax.nnx").merge(self._graph, state).compute())


def _floats(tree: Any) -> list[float]:
    return [float(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]


PEERS = {"clu": (Clu, "clu.metrics"), "metrax": (Metrax, "metrax"), "flax nnx": (Nnx, "flax.nnx")}


def installed(names: tuple[str, ...]) -> tuple[dict[str, Peer], list[str]]:
    """Return the peers that can be imported, by name, and the names of those that cannot."""
    found: dict[str, Peer] = {}
    for label, (kind, module) in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        found[label] = kind(names)
    return found, [label for label in PEERS if label not in found]
