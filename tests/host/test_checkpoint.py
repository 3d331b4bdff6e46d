"""A state goes into a checkpoint and comes back to the bit, on any devices, or is refused with both sides named."""

import dataclasses
import json
import logging
import pickle
import shutil

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.device import support
from tests.device.support import EVERYTHING as ACC
from tests.device.support import LEAN
from tests.host.streams import run_loop
from tunrex_jax_monitor import (
    History,
    JsonlSink,
    MemorySink,
    Reporter,
    from_checkpoint,
    restore_or_init,
    to_checkpoint,
)
from tunrex_jax_monitor.accumulator import RewardAccumulator
from tunrex_jax_monitor.host import checkpoint


@pytest.fixture(scope="module")
def state():
    """After eight steps, all of them emitted."""
    return support.reset_interval(ACC, support.eight_steps()[-1])


@pytest.fixture(scope="module")
def saved(state):
    return to_checkpoint(ACC, state)


def change(saved, **about):
    """The checkpoint as if something else had made it."""
    before = json.loads(saved["about"].tobytes())
    return saved | {"about": np.frombuffer(json.dumps(before | about).encode(), np.uint8)}


# Any library


def to_npz(saved, folder):
    np.savez(folder / "c.npz", **saved)
    with np.load(folder / "c.npz") as file:
        return dict(file)


WAYS = {
    "as it is": lambda saved, _: saved,
    "flax to_bytes": lambda saved, _: flax.serialization.from_bytes(saved, flax.serialization.to_bytes(saved)),
    "msgpack": lambda saved, _: flax.serialization.msgpack_restore(flax.serialization.msgpack_serialize(saved)),
    "npz": to_npz,
    "pickle": lambda saved, _: pickle.loads(pickle.dumps(saved)),
    "jax arrays": lambda saved, _: jax.tree.map(jnp.asarray, saved),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_comes_back_to_the_bit(state, saved, tmp_path, way):
    support.assert_same_bits(from_checkpoint(ACC, WAYS[way](saved, tmp_path)), state)


def test_a_bare_state_comes_back_to_the_bit_by_flax(state):
    by_dict = flax.serialization.from_state_dict(ACC.init(), flax.serialization.to_state_dict(state))
    by_bytes = flax.serialization.from_bytes(ACC.init(), flax.serialization.to_bytes(state))
    for restored in (by_dict, by_bytes):
        assert type(restored) is type(state)
        support.assert_same_bits(restored, state)


def test_a_checkpoint_outlives_the_donation_of_its_state():
    mon = LEAN.update_jit(LEAN.init(), {"x": np.ones(32, np.float32)})
    saved = to_checkpoint(LEAN, support.reset_interval(LEAN, mon))
    before = {name: leaf.copy() for name, leaf in saved.items()}
    LEAN.update_jit(mon, {"x": np.zeros(32, np.float32)})
    assert all(np.array_equal(saved[name], before[name]) for name in saved)


def test_a_restored_state_is_what_init_makes_and_goes_on_without_a_trace(state, saved):
    restored = from_checkpoint(ACC, saved)
    for a, b in zip(restored, ACC.init(), strict=True):
        assert (a.shape, a.dtype, a.weak_type, a.sharding) == (b.shape, b.dtype, b.weak_type, b.sharding)
    with jax.no_tracing():
        after = support.update(ACC, restored, support.batch(9))
    support.assert_same_bits(after, support.update(ACC, state, support.batch(9)))


def test_steps_that_were_not_emitted_are_told(caplog):
    to_checkpoint(ACC, support.eight_steps()[3])
    assert "A checkpoint was taken with 3 steps not yet emitted. Call mon = reporter.flush(mon)" in caplog.text


# Devices


def test_a_state_goes_from_eight_devices_to_one_and_back(state):
    mesh = jax.make_mesh((8,), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    on_eight = jax.device_put(state, everywhere)
    on_one = from_checkpoint(ACC, to_checkpoint(ACC, on_eight))
    assert {leaf.devices() == {jax.devices()[0]} for leaf in on_one} == {True}
    support.assert_same_bits(on_one, state)
    back = jax.device_put(from_checkpoint(ACC, to_checkpoint(ACC, on_one)), everywhere)
    assert all(leaf.is_fully_replicated and len(leaf.devices()) == 8 for leaf in back)
    support.assert_same_bits(back, state)


# Another configuration


OTHERS = [
    ({"reward_names": ("format", "answer", "tone")}, "reward_names=['format', 'answer', 'style']", "'answer', 'tone']"),
    ({"reward_names": ("answer", "format", "style")}, "reward_names=['format', 'answer'", "reward_names=['answer'"),
    ({"weights": (1.0, 1.0, 1.0)}, "weights=[1.0, 2.0, 0.5]", "weights=[1.0, 1.0, 1.0]"),
    ({"ema_alpha_short": 0.2}, "ema_alpha_short=0.1", "ema_alpha_short=0.2"),
    ({"centers": (0.0, 0.0, 0.0)}, "centers=[0.0, 0.0, 10.0]", "centers=[0.0, 0.0, 0.0]"),
    ({"atoms": (0.0, 2.0)}, "atoms=[0.0, 1.0]", "atoms=[0.0, 2.0]"),
    ({"std_threshold": 4.0}, "std_threshold=3.0", "std_threshold=4.0"),
    ({"group_size": 4}, "group_size=8", "group_size=4"),
    ({"log_frequency": 8}, "log_frequency=4", "log_frequency=8"),
    ({"correlations": False}, "correlations=True", "correlations=False"),
    (
        {"correct_reward": "answer", "group_size": None},
        "correct_reward=None, group_size=8",
        "'answer', group_size=None",
    ),
]


@pytest.mark.parametrize(("other", "theirs", "ours"), OTHERS, ids=["-".join(other) for other, *_ in OTHERS])
def test_a_state_that_means_something_else_is_refused_with_both_sides(saved, other, theirs, ours):
    with pytest.raises(ValueError, match=r"checkpoint: got a state of .* allowed: .* Go on with the") as raised:
        from_checkpoint(dataclasses.replace(ACC, **other), saved)
    got, allowed = str(raised.value).split("allowed: ")
    assert theirs in got
    assert ours in allowed


def test_other_rules_go_on_with_the_state_and_are_told(state, saved, caplog):
    other = dataclasses.replace(ACC, drop_threshold=0.25, detect="literal")
    support.assert_same_bits(from_checkpoint(other, saved), state)
    assert caplog.messages == [
        "detect was 'guarded' when the checkpoint was written and is 'literal' from now on.",
        "drop_threshold was 0.5 when the checkpoint was written and is 0.25 from now on.",
    ]


@pytest.mark.parametrize("size", [40, 100, 130])
def test_a_window_of_another_size_keeps_its_newest_samples(state, saved, size, caplog):
    restored = from_checkpoint(dataclasses.replace(ACC, window_size=size), saved)
    kept = np.asarray(state.window)[:, -size:]
    np.testing.assert_array_equal(np.asarray(restored.window)[:, -kept.shape[1] :], kept)
    assert np.isnan(np.asarray(restored.window).view(np.float32)[:, : max(0, size - 100)]).all()
    assert len(restored) == len(ACC.init())
    assert ("The window of the monitor goes from 100 to" in caplog.text) == (size != 100)


def test_the_batch_size_sizes_the_window_as_init_does(saved):
    assert from_checkpoint(ACC, saved, batch_size=256).window.shape == ACC.init(batch_size=256).window.shape


def test_a_field_that_an_older_version_did_not_know_had_its_default(state, saved):
    config = json.loads(saved["about"].tobytes())["config"]
    del config["correlations"]  # its default is False, and ACC has True
    with pytest.raises(ValueError, match="got a state of correlations=False, allowed: correlations=True"):
        from_checkpoint(ACC, change(saved, config=config))
    del config["cooldown_steps"]
    support.assert_same_bits(from_checkpoint(ACC, change(saved, config=config | {"correlations": True})), state)


def test_a_default_that_is_brought_into_another_form_is_one_still():
    lean = support.LEAN
    saved = to_checkpoint(lean, lean.init())
    config = json.loads(saved["about"].tobytes())["config"]
    for field in ("weights", "atoms", "centers", "bounds"):
        del config[field]
    support.assert_same_bits(from_checkpoint(lean, change(saved, config=config)), lean.init())


# Another version, and damage


def test_an_older_schema_is_refused_with_both_sides(saved):
    old = change(saved, schema=0, version="0.0.9")
    with pytest.raises(ValueError, match=r"got a state of schema=0, .*version='0\.0\.9', allowed: schema=1, .*version"):
        from_checkpoint(ACC, old)


def test_another_layout_is_refused_though_the_schema_is_the_same(saved):
    with pytest.raises(ValueError, match=r"schema=1, layout='00000000', .*allowed: schema=1, layout='[0-9a-f]{8}'"):
        from_checkpoint(ACC, change(saved, layout="00000000"))


def test_the_layout_is_of_names_and_shapes_and_not_of_the_window(monkeypatch):
    layout = checkpoint._layout(ACC)
    assert layout == checkpoint._layout(dataclasses.replace(ACC, window_size=500, drop_threshold=0.1))
    assert layout != checkpoint._layout(dataclasses.replace(ACC, group_size=4))
    names = checkpoint.state_lib.Clock._fields
    monkeypatch.setattr(checkpoint.state_lib.Clock, "_fields", names[::-1])
    assert layout != checkpoint._layout(ACC)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "about"}, "does not say what made it, allowed: what to_check"),
        (lambda c: c | {"about": np.zeros(40, np.uint8)}, "a damaged 'about' .*allowed"),
        (lambda c: c | {"about": np.frombuffer(b"[" * 9999, np.uint8)}, "a damaged 'about' .*allowed"),
        (lambda c: change(c, config=3), "a damaged 'about' .*allowed"),
        (lambda c: {k: v for k, v in c.items() if k != "trace"}, r"nothing as 'trace', allowed: uint32\["),
        (lambda c: c | {"fields": c["fields"].astype(np.float32)}, r"float32\[.* as 'fields', allowed: uint32\["),
        (lambda c: c | {"window": c["window"][:2]}, r"uint32\[2, 100\] as 'window', allowed: uint32\[3, 100\]"),
        (lambda c: [*c.values()], "list, which does not say"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_what_is_wrong(saved, damage, text):
    with support.without_runtime_types(), pytest.raises(ValueError, match=f"checkpoint: got .*{text}"):
        from_checkpoint(ACC, damage(saved))


# Orbax


@pytest.fixture
def manager(tmp_path):
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        yield manager


def save(manager, step, **items):
    items = {name: ocp.args.StandardSave(tree) for name, tree in {"train": {"w": np.ones(3)}, **items}.items()}
    manager.save(step, args=ocp.args.Composite(**items))
    manager.wait_until_finished()


@pytest.fixture
def told(caplog):
    """What the monitor says, without Orbax."""
    caplog.set_level(logging.INFO, "tunrex_jax_monitor")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "tunrex_jax_monitor"]


def test_a_state_comes_back_from_orbax_to_the_bit(manager, state, saved, told):
    save(manager, 7, monitor=saved)
    support.assert_same_bits(restore_or_init(ACC, manager), state)
    assert told() == ["The monitor goes on from the checkpoint of step 7."]


def test_a_manager_of_its_own_reads_what_another_process_saved(manager, tmp_path, state, saved):
    save(manager, 7, monitor=saved)
    with ocp.CheckpointManager(tmp_path / "checkpoints", item_names=("train", "monitor")) as other:
        support.assert_same_bits(restore_or_init(ACC, other), state)


def test_without_a_checkpoint_the_monitor_starts_anew(manager, told):
    support.assert_same_bits(restore_or_init(ACC, manager, batch_size=256), ACC.init(batch_size=256))
    assert told() == ["There is no checkpoint yet: the monitor starts anew."]


def test_a_checkpoint_from_before_the_monitor_starts_it_anew_and_says_so(manager, told):
    save(manager, 7)
    support.assert_same_bits(restore_or_init(ACC, manager), ACC.init())
    assert told() == ["The checkpoint of step 7 has no item 'monitor': the monitor starts anew."]


def test_another_step_and_another_item_may_be_named(manager, state, saved):
    save(manager, 3, rewards=saved)
    save(manager, 4, monitor=to_checkpoint(ACC, ACC.init()))
    support.assert_same_bits(restore_or_init(ACC, manager, 3, item="rewards"), state)


def test_a_state_of_other_rewards_raises_or_starts_anew_as_asked(manager, saved, told):
    save(manager, 7, monitor=saved)
    other = dataclasses.replace(ACC, reward_names=("format", "answer", "tone"))
    with pytest.raises(ValueError, match=r"reward_names=.*allowed: reward_names="):
        restore_or_init(other, manager)
    support.assert_same_bits(restore_or_init(other, manager, on_mismatch="init"), other.init())
    assert told()[-1].startswith("The monitor starts anew at step 7. checkpoint: got a state of reward_names=")


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:99]), lambda file: file.unlink()])
def test_an_item_that_orbax_cannot_read_raises_or_starts_anew_as_asked(manager, tmp_path, saved, told, damage):
    save(manager, 7, monitor=saved)
    for file in [path for path in (tmp_path / "checkpoints" / "7" / "monitor").rglob("*") if path.is_file()]:
        damage(file)
    with pytest.raises(ValueError, match=r"checkpoint: got an item 'monitor' at step 7 that Orbax .*Name an older"):
        restore_or_init(ACC, manager)
    support.assert_same_bits(restore_or_init(ACC, manager, on_mismatch="init"), ACC.init())
    assert told()[-1].startswith("The monitor starts anew at step 7. checkpoint: got an item 'monitor' at step 7")


def test_a_checkpoint_that_was_saved_without_items_starts_the_monitor_anew(manager, told):
    manager.save(0, args=ocp.args.StandardSave({"w": np.ones(3)}))
    manager.wait_until_finished()
    support.assert_same_bits(restore_or_init(ACC, manager), ACC.init())
    assert told() == ["The checkpoint of step 0 has no item 'monitor': the monitor starts anew."]


def hollow(item):
    (item / "_METADATA").write_text("{}")


def a_file(item):
    shutil.rmtree(item)
    item.write_text("x")


@pytest.mark.parametrize("damage", [hollow, a_file])
def test_a_damaged_item_is_not_taken_for_one_that_is_missing(manager, tmp_path, saved, damage):
    save(manager, 7, monitor=saved)
    damage(tmp_path / "checkpoints" / "7" / "monitor")
    with pytest.raises(ValueError, match=r"checkpoint: got an item 'monitor' at step 7 that Orbax cannot read"):
        restore_or_init(ACC, manager)


@pytest.mark.parametrize(
    "known", [{"item_names": ("train",)}, {"item_handlers": {"train": ocp.StandardCheckpointHandler()}}]
)
def test_a_manager_that_does_not_know_the_item_is_to_be_told_of_it(manager, tmp_path, saved, known):
    save(manager, 7, monitor=saved)
    with ocp.CheckpointManager(tmp_path / "checkpoints", **known) as other:
        with pytest.raises(ValueError, match=r"one that the manager knows\. Name 'monitor' in the item_names= or"):
            restore_or_init(ACC, other)


def test_names_of_steps_may_be_padded_and_prefixed(tmp_path, state, saved):
    options = ocp.CheckpointManagerOptions(step_prefix="at", step_format_fixed_length=6)
    with ocp.CheckpointManager(tmp_path / "named", options=options) as manager:
        save(manager, 6)
        save(manager, 7, monitor=saved)
        support.assert_same_bits(restore_or_init(ACC, manager), state)
        support.assert_same_bits(restore_or_init(ACC, manager, 6), ACC.init())


def test_a_truth_is_no_step(manager, saved):
    save(manager, 0, monitor=saved)
    with pytest.raises(ValueError, match=r"step: got False, allowed: one of \[0\]"):
        restore_or_init(ACC, manager, False)


def test_a_dictionary_of_mixed_keys_is_no_checkpoint():
    with support.without_runtime_types(), pytest.raises(ValueError, match=r"\['1', 'a'\], which does not say"):
        from_checkpoint(ACC, {1: 2, "a": 3})


def test_a_state_of_another_dtype_is_not_saved(state):
    with pytest.raises(ValueError, match=r"state: got .*float32\[.*allowed: .*uint32\["):
        to_checkpoint(ACC, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state))


def test_a_step_that_is_not_there_is_named_beside_those_that_are(manager, saved):
    save(manager, 7, monitor=saved)
    with pytest.raises(ValueError, match=r"step: got 8, allowed: one of \[7\]\. Leave it out for the newest"):
        restore_or_init(ACC, manager, 8)


def test_another_on_mismatch_is_refused(manager):
    with support.without_runtime_types(), pytest.raises(ValueError, match="on_mismatch: got 'warn', allowed"):
        restore_or_init(ACC, manager, on_mismatch="warn")


def test_a_run_stopped_and_resumed_is_the_run_that_was_not(manager, tmp_path):
    whole, parts = MemorySink(), tmp_path / "run"
    with Reporter(ACC, [whole]) as reporter:
        reporter.flush(run_loop(reporter, 6))
    for last in (4, 5):  # stopped behind step 4, and resumed behind the checkpoint of step 2
        with Reporter(ACC, [JsonlSink(parts, resume=True)]) as reporter:
            mon, saved_at = restore_or_init(ACC, manager), manager.latest_step()
            for step in range(0 if saved_at is None else saved_at + 1, last + 1):
                mon = reporter.step(step, ACC.update_jit(mon, support.batch(step)))
                if step == 2:
                    mon = reporter.flush(mon)
                    save(manager, step, monitor=to_checkpoint(ACC, mon))
    history, expected = History.read(parts), History.of(whole.records)
    assert history.series == expected.series
    assert isinstance(history.last.scalars["answer/run/p50"], float)
    run = {key: value for key, value in expected.last.scalars.items() if "/run/" in key or key.startswith("alerts/")}
    assert {key: history.last.scalars[key] for key in run} == run


def test_what_may_change_are_fields_of_the_configuration():
    assert {field.name for field in dataclasses.fields(RewardAccumulator)} >= checkpoint.FREE
