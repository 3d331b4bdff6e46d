"""The train step of `examples/train_grpo.py`, bare and watched in every way that a user would think of.

The step takes what watches it as a static argument and calls its `update`, so that each variant runs the very same
training: the monitor, a peer's metrics, or something that only passes the rewards on. What the host does after a step
comes with it. Every variant writes a JSON line every `EVERY` steps.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from peers import Peer, installed

import tunrex_jax_monitor as trm

EVERY = 10  # steps from line to line
EXAMPLE = Path(__file__).parents[1] / "examples" / "train_grpo.py"
SIZES = {"cpu": (64, 2, 32), "chip": (512, 4, 128)}  # width, layers, prompts per step


@dataclass
class Variant:
    """One way to watch the rewards; `None` as `watcher` is the bare step."""

    watcher: Any  # what `train_step` takes as `acc`: hashable, with `update`
    start: Callable[[], Any] = lambda: None  # returns its first state
    after: Callable[[int, Any], Any] = lambda step, mon: mon  # on the host, behind every step; returns the state
    finish: Callable[[], object] = lambda: None  # waits until everything is written
    bytes_per_interval: int = 0  # from the device to the host
    close: Callable[[], object] = lambda: None
    step: Any = field(default=None, repr=False)  # the compiled train step
    held: Any = None  # train state and monitor state, from block to block


def load_example(width: int, layers: int, prompts: int, warm_up_steps: int | None = None) -> ModuleType:
    """Import the example with a model and a batch of these sizes; its constants are read while it is traced."""
    spec = importlib.util.spec_from_file_location("train_grpo", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules["train_grpo"] = example
    spec.loader.exec_module(example)
    example.MODEL = example.Transformer(width=width, layers=layers, heads=max(4, width // 64))
    example.PROMPTS = prompts
    example.WARM_UP_STEPS = example.WARM_UP_STEPS if warm_up_steps is None else warm_up_steps
    return example


def accumulator(example: ModuleType) -> trm.RewardAccumulator:
    """Return the monitor as the example configures it."""
    settings = {"weights": example.REWARD_WEIGHTS, "correct_reward": "answer", "log_frequency": EVERY}
    return trm.RewardAccumulator(tuple(example.REWARD_WEIGHTS), group_size=example.GROUP_SIZE, **settings)


def packed_bytes(acc: trm.RewardAccumulator, batch_size: int) -> int:
    """Return the size of one emission's buffer."""
    state = jax.eval_shape(lambda: acc.init(batch_size=batch_size))
    return 4 * jax.eval_shape(acc.pack, state).size


def host_stats(rewards: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return what a training script logs without a monitor."""
    x = np.stack([np.asarray(v, np.float32).ravel() for v in rewards.values()])
    parts = (x.mean(1), x.std(1), x.min(1), x.max(1), *np.percentile(x, (5, 25, 50, 75, 95), axis=1))
    return dict(zip(rewards, np.stack(parts, 1).tolist(), strict=True))


class Lines:
    """A JSONL file of what comes every `EVERY` steps, flushed line by line, as ours is."""

    def __init__(self, path: Path):
        self.calls = 0
        self.file: TextIO = path.open("w")

    def is_due(self) -> bool:
        """Count a step, and say whether a line is due."""
        self.calls += 1
        return self.calls % EVERY == 0

    def write(self, step: int, values: Any) -> None:
        """Write a line."""
        self.file.write(json.dumps({"step": step, "values": values}) + "\n")
        self.file.flush()


@dataclass(frozen=True)
class PassedOn:
    """Makes the rewards a result of the step, for the host."""

    def update(self, mon: Any, rewards: Any, *, lengths: Any) -> Any:
        """Return the rewards as the state."""
        return dict(rewards)


@dataclass(frozen=True)
class CalledBack:
    """Hands the rewards to a callback inside the step."""

    receive: Callable[..., None]

    def update(self, mon: Any, rewards: Any, *, lengths: Any) -> Any:
        """Emit one array, which is the cheapest for a callback."""
        jax.debug.callback(self.receive, jnp.stack([v.ravel() for v in rewards.values()]))
        return mon


@dataclass(frozen=True)
class Metrics:
    """A peer's metrics in the place of the monitor."""

    peer: Peer

    def update(self, mon: Any, rewards: Any, *, lengths: Any) -> Any:
        """Fold the rewards in."""
        return self.peer.update(mon, rewards)


def yardstick() -> Variant:
    """Return one call of a jitted `x + 1` behind every step: what the least of dispatches costs a host there."""
    add_one, x = jax.jit(lambda x: x + 1), jnp.zeros(4)

    def after(step: int, mon: Any) -> Any:
        add_one(x)
        return mon

    return Variant(None, after=after)


def monitored(acc: trm.RewardAccumulator, batch_size: int, directory: Path) -> Variant:
    """Return our monitor, read through `Reporter.step`."""
    reporter = trm.Reporter(acc, run_dir=directory)
    return Variant(
        acc,
        start=lambda: acc.init(batch_size=batch_size),
        after=reporter.step,
        finish=reporter.flush,
        bytes_per_interval=packed_bytes(acc, batch_size),
        close=reporter.close,
    )


def blocking(names: tuple[str, ...], shape: tuple[int, int], path: Path) -> Variant:
    """Return `jax.device_get` and numpy in every step."""
    lines = Lines(path)

    def after(step: int, mon: Any) -> Any:
        values = host_stats(jax.device_get(mon))
        if lines.is_due():
            lines.write(step, values)
        return mon

    return Variant(
        PassedOn(),
        start=lambda: {name: jnp.zeros(shape, jnp.float32) for name in names},
        after=after,
        bytes_per_interval=4 * EVERY * len(names) * shape[0] * shape[1],
        close=lines.file.close,
    )


def called_back(names: tuple[str, ...], shape: tuple[int, int], path: Path) -> Variant:
    """Return `jax.debug.callback` in every step, and the same numpy inside it."""
    lines = Lines(path)

    def receive(x: Any) -> None:
        values = host_stats(dict(zip(names, np.asarray(x), strict=True)))
        if lines.is_due():
            lines.write(lines.calls, values)

    size = 4 * EVERY * len(names) * shape[0] * shape[1]
    return Variant(CalledBack(receive), finish=jax.effects_barrier, bytes_per_interval=size, close=lines.file.close)


def with_metrics(peer: Peer, path: Path) -> Variant:
    """Return a peer's metrics, computed, read and emptied every `EVERY` steps."""
    lines = Lines(path)

    def after(step: int, mon: Any) -> Any:
        if not lines.is_due():
            return mon
        lines.write(step, peer.read(mon))
        return peer.empty()

    size = 4 * len(peer.read(peer.empty()))
    return Variant(Metrics(peer), start=peer.empty, after=after, bytes_per_interval=size, close=lines.file.close)


NAMES = (
    "bare", "bare again", "jitted x + 1", "monitored", "device_get + numpy", "debug.callback", "clu", "metrax",
    "flax nnx",
)  # fmt: skip


def variants(
    example: ModuleType, directory: Path, wanted: Collection[str] = NAMES
) -> tuple[dict[str, Variant], list[str]]:
    """Return what is to be timed, by name, and the names of peers that are not installed."""
    names, shape = tuple(example.REWARD_WEIGHTS), (example.PROMPTS, example.GROUP_SIZE)
    peers, missing = installed(names)
    made: dict[str, Callable[[], Variant]] = {
        "bare": lambda: Variant(None),
        "bare again": lambda: Variant(None),
        "jitted x + 1": yardstick,
        "monitored": lambda: monitored(accumulator(example), shape[0] * shape[1], directory / "monitored"),
        "device_get + numpy": lambda: blocking(names, shape, directory / "numpy.jsonl"),
        "debug.callback": lambda: called_back(names, shape, directory / "callback.jsonl"),
    }
    made |= {name: partial(with_metrics, peer, directory / f"{name}.jsonl") for name, peer in peers.items()}
    return {name: make() for name, make in made.items() if name in wanted}, [m for m in missing if m in wanted]
