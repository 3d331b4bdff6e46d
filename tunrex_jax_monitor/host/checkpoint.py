"""Checkpoints: the monitor's state beside the train state, and the way back from it.

A checkpoint is a flat dictionary of numpy arrays, so any library can keep it (Orbax, flax.serialization, `np.savez`,
pickle), and it knows nothing of devices: it goes from eight to one and back. Beside the leaves it holds what made them:
configuration, layout and version. Without that a state of other weights would go on unnoticed, since its shapes fit.
"""

import dataclasses
import hashlib
import json
import logging
import re
import textwrap
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import Any, Literal, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.device import state as state_lib
from tunrex_jax_monitor.device.config import Config, invalid
from tunrex_jax_monitor.device.state import Clock, MonitorState

STATE_SCHEMA = 1  # what the numbers in a state mean; a change that shapes and names do not show makes it 2
ABOUT = "about"  # uint8[n]: JSON

# A state goes on when these change: they only judge, or say how much of the past is looked at.
FREE = frozenset(
    {"bounds", "collapse_threshold", "cooldown_steps", "detect", "drop_threshold", "false_alarm_rate"}
    | {"flatline_samples", "min_samples", "negative_threshold", "noise_threshold", "saturation_threshold"}
    | {"spike_threshold", "warmup_steps", "window_size", "zero_threshold"}
)

_REMEDY = "Go on with the configuration and version of the checkpoint, or start anew: init(), on_mismatch='init'."
_UNREADABLE = "Name an older checkpoint with step=, or start anew: on_mismatch='init'."
_logger = logging.getLogger("tunrex_jax_monitor")


def to_checkpoint(acc: RewardAccumulator, state: MonitorState) -> dict[str, np.ndarray]:
    """Return a state as numpy arrays, with what made it; blocks for the copy, 33 kB per reward.

    `mon = reporter.flush(mon)` comes before it: steps that have not been emitted would be told late, and only as far
    as the trace reaches.

    Args:
      acc: the accumulator that made the state.
      state: of one device, or replicated; in a multi-process job every process calls this.

    Raises:
      ValueError: one of them is something else.
    """
    if not isinstance(acc, RewardAccumulator) or not isinstance(state, MonitorState):
        got = f"{type(acc).__name__} and {type(state).__name__}"
        raise invalid("acc, state", got, "a RewardAccumulator and a MonitorState", "Call to_checkpoint(acc, mon).")
    state_lib.check(acc, state)
    pending = int(_interval(acc, state))
    if pending:
        message = "A checkpoint was taken with %d steps not yet emitted. Call mon = reporter.flush(mon) before it."
        _logger.warning(message, pending)
    leaves = {name: np.array(leaf) for name, leaf in state._asdict().items()}
    return {**leaves, ABOUT: np.frombuffer(json.dumps(_about(acc)).encode(), np.uint8)}


def from_checkpoint(
    acc: RewardAccumulator, saved: Mapping[str, Any], *, batch_size: SupportsIndex | None = None
) -> MonitorState:
    """Invert `to_checkpoint`, bit by bit, for an accumulator of the same meaning.

    Whatever decides what the numbers mean has to be equal: rewards, weights, group size, rates, atoms, log frequency.
    Thresholds and `detect` may differ: the rules of now go on with the state, and the change is logged. A window of
    another size keeps its newest samples, which is logged as well.

    Args:
      acc: what the state is to go on with.
      saved: what `to_checkpoint` returned, in whatever arrays a library makes of it.
      batch_size: as in `acc.init`.

    Raises:
      ValueError: it is a state of another configuration or version, or damaged; the text names both sides.
    """
    about = _read_about(saved)
    _require_same(acc, about)
    want = jax.eval_shape(lambda: acc.init(batch_size))
    leaves = {name: np.asarray(saved[name]) for name in MonitorState._fields if name in saved}
    window = leaves.get("window")
    if window is not None and window.ndim == 2 and window.shape[1] != want.window.shape[1]:
        _logger.warning("The window of the monitor goes from %d to %d samples.", window.shape[1], want.window.shape[1])
        leaves["window"] = _resized(window, want.window.shape[1])
    _require_whole(leaves, want)
    return MonitorState(**{name: jnp.asarray(leaf) for name, leaf in leaves.items()})


def restore_or_init(
    acc: RewardAccumulator,
    manager: Any,
    step: int | None = None,
    *,
    batch_size: SupportsIndex | None = None,
    item: str = "monitor",
    on_mismatch: Literal["raise", "init"] = "raise",
) -> MonitorState:
    """Return the monitor's state from an Orbax checkpoint, or a new one where there is none; says which.

        args = ocp.args.Composite(train=..., monitor=ocp.args.StandardSave(trm.to_checkpoint(acc, mon)))
        manager.save(step, args=args)
        ...
        mon = trm.restore_or_init(acc, manager)

    Args:
      acc: what the state is to go on with.
      manager: an `orbax.checkpoint.CheckpointManager`.
      step: which checkpoint; the newest by default.
      batch_size: as in `acc.init`.
      item: what the state was saved as.
      on_mismatch: "raise" an error for a state of another configuration or version, or one that cannot be read, or
        "init" a new state with a warning that says the same.

    Returns:
      A state on the default device, as `init` makes it; put it where you put that.

    Raises:
      ValueError: an argument is wrong, or the state is damaged, or of another configuration or version.
    """
    if on_mismatch not in ("raise", "init"):
        raise invalid("on_mismatch", on_mismatch, "'raise' or 'init'", "Leave it out to raise.")
    if not hasattr(manager, "latest_step"):
        raise invalid("manager", manager, "an orbax CheckpointManager", "Pass ocp.CheckpointManager(directory).")
    if not isinstance(item, str) or not item:
        raise invalid("item", item, "the name that it was saved under", "Leave it out for 'monitor'.")
    known = list(manager.all_steps())
    if step is not None and (isinstance(step, bool) or not hasattr(step, "__index__") or step not in known):
        raise invalid("step", step, f"one of {known}", "Leave it out for the newest checkpoint.")
    step = manager.latest_step() if step is None else step
    try:
        saved = None if step is None or _is_missing(manager, step, item) else _read_item(manager, step, item)
        state = None if saved is None else from_checkpoint(acc, saved, batch_size=batch_size)
    except ValueError as error:
        if on_mismatch == "raise":
            raise
        _logger.warning("The monitor starts anew at step %d. %s", step, error)
        return acc.init(batch_size)
    if state is None:
        where = "There is no checkpoint yet" if step is None else f"The checkpoint of step {step} has no item {item!r}"
        _logger.log(logging.INFO if step is None else logging.WARNING, "%s: the monitor starts anew.", where)
        return acc.init(batch_size)
    _logger.info("The monitor goes on from the checkpoint of step %d.", step)
    return state


def _is_missing(manager: Any, step: int, item: str) -> bool:
    """Say whether nothing at all was saved under that name; Orbax says the same of some damage."""
    folders = [path for path in manager.directory.iterdir() if re.fullmatch(rf"(.*_)?0*{int(step)}", path.name)]
    if not folders:  # steps with names of the owner's own making
        return item not in dict(manager.item_metadata(step) or {})
    return not any((folder / item).exists() for folder in folders)


def _read_item(manager: Any, step: int, item: str) -> Mapping[str, Any]:
    import orbax.checkpoint as ocp

    try:
        restored = manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore()}))
    except Exception as error:  # Orbax raises what its parts raise: of files, JSON, storage
        why = textwrap.shorten(str(error), 200, placeholder=" ...")
        got = f"an item {item!r} at step {step} that Orbax cannot read ({type(error).__name__}: {why})"
        if "registered handler" in str(error):
            remedy = f"Name {item!r} in the item_names= or item_handlers= of the manager, or leave those out."
            raise _mismatch(got, "one that the manager knows", remedy) from error
        raise _mismatch(got, "one that is whole", _UNREADABLE) from error
    found: Mapping[str, Any] = restored[item]
    return found


@partial(jax.jit, static_argnums=0)
def _interval(acc: RewardAccumulator, state: MonitorState) -> jax.Array:
    return Clock(*state_lib.unpack(acc, state).clock).interval[0]


def _about(acc: RewardAccumulator) -> dict[str, Any]:
    """Return what a state is of, as JSON has it."""
    about = {
        "schema": STATE_SCHEMA,
        "layout": _layout(acc),
        "version": metadata.version("tunrex-jax-monitor"),
        "config": dataclasses.asdict(acc),
    }
    as_json: dict[str, Any] = json.loads(json.dumps(about))
    return as_json


def _layout(acc: Config) -> str:
    """Return a fingerprint of how a state is laid out: every name, shape and dtype but the window's."""
    shapes = jax.eval_shape(lambda: state_lib.init_fields(acc))
    named = [
        (jax.tree_util.keystr(path), v.shape, v.dtype.name) for path, v in jax.tree_util.tree_leaves_with_path(shapes)
    ]
    rows = sorted((name, kind._fields) for name, kind in vars(state_lib).items() if hasattr(kind, "_fields"))
    return hashlib.sha256(repr((named, rows)).encode()).hexdigest()[:8]


def _read_about(saved: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(saved, Mapping) or ABOUT not in saved:
        got = sorted(map(str, saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise _mismatch(f"{got}, which does not say what made it", "what to_checkpoint(acc, state) returned")
    try:
        about = json.loads(np.asarray(saved[ABOUT]).astype(np.uint8).tobytes())
        return {"schema": about["schema"], "layout": about["layout"], "version": about["version"]} | {
            "config": dict(about["config"])
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _mismatch(f"a damaged {ABOUT!r} ({type(error).__name__})", "one that was not changed") from error


def _require_same(acc: RewardAccumulator, saved: Mapping[str, Any]) -> None:
    """Raise where the saved state means something else; log what merely judges otherwise."""
    own, defaults = _about(acc), _about(RewardAccumulator(acc.reward_names))["config"]
    then, now = defaults | {"reward_names": None} | saved["config"], own["config"]  # a version knows its fields only
    values = [(field, then.get(field), now.get(field)) for field in sorted(then.keys() | now.keys())]
    other = [change for change in values if change[1] != change[2]]
    strict = [change for change in other if change[0] not in FREE]
    if not strict and saved["schema"] == own["schema"] and saved["layout"] == own["layout"]:
        for field, old, new in other:
            _logger.warning("%s was %r when the checkpoint was written and is %r from now on.", field, old, new)
        return
    strict += [(key, saved[key], own[key]) for key in ("schema", "layout", "version")] if not strict else []
    got, allowed = (", ".join(f"{change[0]}={change[side]!r}" for change in strict) for side in (1, 2))
    raise _mismatch(f"a state of {got}", f"{allowed}, as this accumulator has it")


def _resized(window: np.ndarray, size: int) -> np.ndarray:
    """Return the newest `size` samples; NaN stands where there is none, in front."""
    empty = np.full((len(window), max(0, size - window.shape[1])), np.float32(np.nan).view(np.uint32))
    return np.concatenate([empty, window[:, max(0, window.shape[1] - size) :]], axis=1)


def _require_whole(leaves: Mapping[str, np.ndarray], want: MonitorState) -> None:
    for name, leaf in want._asdict().items():
        got = leaves.get(name)
        if got is None or (got.shape, got.dtype) != (leaf.shape, leaf.dtype):
            found = "nothing" if got is None else f"{got.dtype}{list(got.shape)}"
            raise _mismatch(f"{found} as {name!r}", f"{leaf.dtype}{list(leaf.shape)}")


def _mismatch(got: str, allowed: str, remedy: str = _REMEDY) -> ValueError:
    return ValueError(f"checkpoint: got {got}, allowed: {allowed}. {remedy}")
