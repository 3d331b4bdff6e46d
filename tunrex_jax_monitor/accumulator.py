"""RewardAccumulator: the configuration, and the pure functions of a state that it fixes.

acc = RewardAccumulator(("format", "answer"), group_size=8)
state = acc.init()
state = acc.update(state, {"format": f, "answer": a})   # inside your jitted step
acc.record(state).scalars["answer/mean"]                # anywhere outside it
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt

from tunrex_jax_monitor.device import batch, kernel, merge, rarity, shards, summary, update
from tunrex_jax_monitor.device import state as state_lib
from tunrex_jax_monitor.device.batch import Samples
from tunrex_jax_monitor.device.config import MAX_COUNTED, Config, as_integer, invalid
from tunrex_jax_monitor.device.state import Clock, MonitorState
from tunrex_jax_monitor.device.summary import Summary

if TYPE_CHECKING:
    from tunrex_jax_monitor.host.record import Record

Mask = Samples | Mapping[str, Samples] | None


@dataclasses.dataclass(frozen=True)
class RewardAccumulator(Config):
    """Statistics and alerts of R reward functions; frozen and hashable, so it may be closed over or a static argument.

    `Config` lists the arguments. No method has effects; every method but `record` and `unpack` may be traced.
    """

    def init(self, batch_size: SupportsIndex | None = None) -> MonitorState:
        """Return a state that has seen nothing.

        Args:
          batch_size: samples per step; the window is made to hold at least that many.
        """
        size = self.window_size
        if batch_size is not None:
            size = max(size, as_integer("batch_size", batch_size, 1, MAX_COUNTED))
        return state_lib.init(self, size)

    def update(
        self,
        state: MonitorState,
        rewards: Mapping[str, Samples],
        *,
        mask: Mask = None,
        lengths: Samples | None = None,
        axis_name: str | tuple[str, ...] | None = None,
    ) -> MonitorState:
        """Fold one training step's rewards into the state.

        Outside of jit it runs as a compiled program that copies the state; `update_jit` donates it.

        Args:
          state: what `init` or the last `update` returned.
          rewards: maps each name to an array or list of one common shape, [N] or [B, G]; any real dtype, computed in
            float32.
          mask: True where a sample exists; of that shape, or a mapping from names to such masks.
          lengths: completion lengths, of that shape.
          axis_name: inside `shard_map`, the mesh axes that the samples are sharded over, on their first axis, in the
            order of the spec: `P(("e", "d"))` goes with `("e", "d")`. Another order changes the last bits of moments.

        Returns:
          The next state, of the same structure, shapes and dtypes.

        Raises:
          ValueError: while tracing, when a name, a shape, a dtype or an axis is wrong.
        """
        given = state, rewards, {"mask": mask, "lengths": lengths, "axis_name": axis_name}
        if not _is_traced((given, jnp.zeros(()))):  # that is a tracer in a program that all of this is constant in
            return _run(_update_copy, self, *given)
        return self._update(state, rewards, mask=mask, lengths=lengths, axis_name=axis_name)

    def _update(
        self,
        state: MonitorState,
        rewards: Mapping[str, Samples],
        mask: Any = None,
        lengths: Any = None,
        axis_name: Any = None,
    ) -> MonitorState:
        state = state_lib.check(self, state)
        step = batch.collect(self, rewards, mask, lengths, axis_name, beside=state)
        shards.check_whole(axis_name, step.raw, state)
        after = update.update(self, shards.beside(state, step.raw), step)
        _warn_if_cut(step.raw.shape[1], state.window.shape[1])
        return after

    def outlier_mask(
        self, state: MonitorState, rewards: Mapping[str, Samples], *, mask: Mask = None
    ) -> dict[str, Bool[Array, "..."]]:
        """Return, per reward, which samples lie beyond `std_threshold` standard deviations of the window in `state`.

        Score a batch before it is folded in: inside its own window of n samples none can exceed sqrt(n - 1). All False
        until the window holds `min_samples`; False where a sample is masked or not finite.
        """
        fields, arrays = state_lib.unpack(self, state), batch.to_arrays(self, rewards)
        step = batch.collect(self, arrays, mask, None, beside=state)
        stats = update.window_stats(self, state.window, fields)
        outside = update.is_outside(step, *rarity.limits(stats, self))
        return {
            name: outside[i, : np.size(arrays[name])].reshape(jnp.shape(arrays[name]))
            for i, name in enumerate(self.reward_names)
        }

    def merge(self, a: MonitorState, b: MonitorState) -> MonitorState:
        """Return the state after the steps of `a` and then those of `b`.

        Associative, with `init()` as identity. Commutative in counters, moments, sketch and group sums; the window, the
        averages, the trace and the events keep the order.
        """
        return merge.merge(self, a, b)

    def summarize(self, state: MonitorState) -> Summary:
        """Reduce a state to what an emission sends."""
        return summary.summarize(self, state)

    def pack(self, state: MonitorState) -> UInt[Array, " n"]:
        """Return the summary as one uint32 buffer: word 0 names the layout, word 1 is the update count."""
        return summary.pack(self, state)

    def unpack(self, words: np.ndarray) -> Summary:
        """Invert `pack`, bit by bit, into numpy arrays; a buffer of another layout is a ValueError."""
        return summary.unpack_words(self, words)

    def reset_interval(self, state: MonitorState) -> MonitorState:
        """Forget the interval and keep the run; `Reporter` does it at each emission."""
        return merge.reset_interval(self, state)

    @property
    def update_jit(self) -> Callable[..., MonitorState]:
        """`update` as a jitted function of its own that donates the state: for rewards that come from the host."""
        return partial(_update_alone, self)

    def update_and_emit(
        self,
        state: MonitorState,
        rewards: Mapping[str, Samples],
        callback: Callable[[Any], None],
        *,
        mask: Mask = None,
        lengths: Samples | None = None,
        axis_name: str | tuple[str, ...] | None = None,
    ) -> MonitorState:
        """Update, and every `log_frequency` steps hand the packed summary to a host callback, inside the program.

        For loops that the host never sees. A program with a callback leaves JAX's fast dispatch path even while the
        callback does not fire; prefer `Reporter.step` where the host runs the loop.

        Args:
          state: as in `update`.
          rewards: as in `update`.
          callback: `reporter.callback`, or any function of one uint32 array that neither raises nor blocks.
          mask: as in `update`.
          lengths: as in `update`.
          axis_name: as in `update`.
        """
        state = self.update(state, rewards, mask=mask, lengths=lengths, axis_name=axis_name)

        def emit(state: MonitorState) -> MonitorState:
            jax.debug.callback(callback, self.pack(state))
            return self.reset_interval(state)

        due = Clock(*state_lib.unpack(self, state).clock).interval[0] >= np.uint32(self.log_frequency)
        after: MonitorState = jax.lax.cond(due, emit, lambda state: state, state)
        return after

    def scan_chunk(
        self, step: Callable[[Any, Any], tuple[Any, Mapping[str, Samples]]]
    ) -> Callable[[tuple[Any, MonitorState], Any], tuple[tuple[Any, MonitorState], UInt[Array, " n"]]]:
        """Return a `lax.scan` body that runs a chunk of steps and yields one packed row.

        Args:
          step: `(carry, x) -> (carry, rewards)`.

        Returns:
          `((carry, state), xs) -> ((carry, state), words)`; `xs` holds the inputs of one chunk on its first axis.

        Raises:
          ValueError: while it is traced, `xs` has no axis of steps.
        """

        def inner(carry: tuple[Any, MonitorState], x: Any) -> tuple[tuple[Any, MonitorState], None]:
            user, rewards = step(carry[0], x)
            return (user, self.update(carry[1], rewards)), None

        def chunk(carry: tuple[Any, MonitorState], xs: Any) -> tuple[tuple[Any, MonitorState], Array]:
            if any(not leaf.shape for leaf in jax.tree.leaves(xs)):
                got = "an array that has no axis of steps"
                raise invalid("xs", got, "[chunks, steps, ...]", "Reshape what the scan runs over.")
            (user, state), _ = jax.lax.scan(inner, carry, xs)
            return (user, self.reset_interval(state)), self.pack(state)

        return chunk

    def record(self, state_or_summary: MonitorState | Summary, step: int | Sequence[int] | None = None) -> "Record":
        """Read a state, or a summary, into a `Record`; blocks until it is computed.

        A state also gives the run quantiles and histograms, which a summary does not carry.

        Args:
          state_or_summary: a `MonitorState`, or what `summarize` or `unpack` returned.
          step: the owner's step, or the newest ones in order, of which the interval takes what it needs; by default
            updates are counted, from 0.
        """
        from tunrex_jax_monitor.host.transfer import read

        return read(self, state_or_summary, step)


def _update_alone(
    acc: RewardAccumulator, state: MonitorState, rewards: Mapping[str, Samples], **options: Any
) -> MonitorState:
    if _is_traced((state, rewards, options)):
        return acc._update(state, rewards, **options)  # part of a larger program after all
    return _run(_update_jit, acc, state, rewards, options)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _run(
    program: Callable[..., MonitorState],
    acc: RewardAccumulator,
    state: MonitorState,
    rewards: Mapping[str, Samples],
    options: dict[str, Any],
) -> MonitorState:
    if isinstance(options.get("axis_name"), list):
        options["axis_name"] = tuple(options["axis_name"])  # static, so it has to have a hash
    try:
        return program(acc, state, rewards, **options)
    except (OverflowError, TypeError):  # what is no array: said in our words, if it is said
        return acc._update(state, rewards, **options)


def _as_program(
    acc: RewardAccumulator, state: MonitorState, rewards: Mapping[str, Samples], **options: Any
) -> MonitorState:
    with kernel.own_program():
        return acc._update(state, rewards, **options)


_update_copy = jax.jit(_as_program, static_argnums=0, static_argnames="axis_name")
_update_jit = jax.jit(_as_program, static_argnums=0, donate_argnums=1, static_argnames="axis_name")


def _warn_if_cut(samples: int, window: int) -> None:
    if samples > window:
        message = (
            f"A step of {samples} samples does not fit the window of {window}: window statistics keep its last "
            f"{window}. Use init(batch_size={samples}) or window_size={samples} to cover a whole step."
        )
        warnings.warn(message, stacklevel=4)
