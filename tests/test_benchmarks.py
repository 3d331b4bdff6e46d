"""The programs under `benchmarks`, as far as they are cheap to run: their references, their loops and their tables."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import accuracy
import jax
import jax.numpy as jnp
import measuring
import numpy as np
import overhead
import peers
import pytest
import scaling
import update
import variants

from tests.device.support import LEAN

TESTS = ("test_costs.py", "test_jax_contract.py", "test_accelerators.py")  # that the README names


@pytest.fixture(autouse=True)
def as_users_run_them():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# What they share


def test_every_candidate_runs_once_a_round_in_an_order_that_changes():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    results = measuring.in_rounds(runs, 8, np.random.default_rng(0))
    rounds = ["".join(order[i : i + 3]) for i in range(0, 24, 3)]
    assert {"".join(sorted(names)) for names in rounds} == {"abc"}
    assert len(set(rounds)) > 2
    assert {name: len(values) for name, values in results.items()} == {"a": 8, "b": 8, "c": 8}


def test_a_table_shows_medians_with_quartiles_and_a_dash_for_nothing():
    text = measuring.table([{"a": [1.0, 0.5, 2.0], "b": None, "c": 12345}], {"a": 1, "b": 0, "c": 0, "d": 0})
    assert text.splitlines()[-1] == "| 1.0 (0.5-2.0) | - | 12,345 | - |"


def test_json_goes_beside_the_tables_or_in_their_place(tmp_path, capsys):
    result = {"environment": measuring.environment("overhead"), "rows": [1]}
    measuring.publish(result, "the table", str(tmp_path / "a.json"))
    assert "the table" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text()) == result
    measuring.publish(result, "the table", "-")
    assert json.loads(capsys.readouterr().out) == result
    assert result["environment"]["command"].startswith("python benchmarks/overhead.py")
    assert f"jax {jax.__version__}" in result["environment"]["versions"]


@pytest.mark.parametrize("label", peers.PEERS)
def test_a_peer_holds_the_mean_of_what_it_was_given(label):
    found, missing = peers.installed(("a", "b"))
    if label in missing:
        pytest.skip(f"{label} is not installed")
    x = {"a": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "b": jnp.full((2, 2), 5.0)}
    update = jax.jit(found[label].update, donate_argnums=0)
    values = found[label].read(update(update(found[label].empty(), x), x))
    assert (3.0 in values and 5.0 in values) or (24.0 in values and 40.0 in values)  # means, or sums of eight


# Overhead


def variant_of(watcher, **options):
    """A step that costs nothing, in the place of the compiled train step."""
    variant = variants.Variant(watcher, **options)
    variant.step, variant.held = (lambda train, mon, *_: (train + 1, mon, None)), (jnp.zeros(()), variant.start())
    return variant


def test_a_loop_tells_dispatch_device_and_host_apart_and_keeps_its_state():
    seen, finished = [], []
    after = lambda step, mon: (seen.append(step), mon)[1]  # noqa: E731
    loop = overhead.Loop(variant_of(None, after=after, finish=lambda: finished.append(1)), (None, None))
    block = loop.block(10)
    assert seen == list(range(20))
    assert len(finished) == 2
    assert float(loop.variant.held[0]) == 20
    assert block.thread <= block.wall
    assert all(part.shape == (10,) and (part >= 0).all() for part in (block.dispatch, block.device, block.host))


def test_ratios_are_taken_within_a_round_and_drawn(tmp_path):
    def block(wall):
        return overhead.Block(wall, wall / 2, *(np.full(10, wall / 3),) * 3)

    blocks = {"bare": [block(1.0), block(10.0), block(4.0)], "monitored": [block(1.5), block(15.0), block(6.0)]}
    rows = overhead.rows_of(dict.fromkeys(blocks, variants.Variant(None)), blocks)
    assert rows[0]["x bare"] is None
    assert rows[1]["x bare"] == [1.5, 1.5, 1.5]
    environment = {"device": "1 x cpu", "date": "today"}
    overhead.draw({"rows": rows, "step": "", "rounds": "", "environment": environment}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_emissions_are_told_from_other_steps():
    host = np.full(20, 10e-6)
    host[[4, 14]] = 100e-6  # a loop is five steps into an interval when its blocks begin
    blocks = [overhead.Block(1.0, 1.0, host, host, host)]
    example = SimpleNamespace(REWARD_WEIGHTS={"answer": 1.0}, GROUP_SIZE=8)
    found = overhead.figures(blocks, {"bare": np.array([2.0]), "monitored": np.array([2.5])}, example)
    values = {row["what"]: row["value"] for row in found}
    assert values["Reporter.step that does not emit, us"][0] == pytest.approx(10)
    assert values["Reporter.step that emits, us"][0] == pytest.approx(100)
    assert values["compile time added, percent"][0] == pytest.approx(25)
    assert values["the same for 8 rewards in groups of 8"] <= 8000


# Update


def test_claims_take_the_median_of_the_ratio_that_they_name():
    what = [f"{label} {kind}" for label in update.OURS for kind in update.KINDS]
    rows = [
        {"R": r, "N": n, "what": name, "x numpy": [0.3, 0.2, 0.9], "x clu": [0.7, 0.6, 0.8]}
        for r, n in update.SIZES
        for name in what
    ]
    found = update.claims(rows, {update.ADDED: [0.07, 0.06, 0.08]})
    assert ("plain in-scan, R = 4, N = 512: x numpy", 0.3, 0.333) in found
    assert ("grouped streamed, R = 16, N = 512: x clu", 0.7, 0.15) in found
    assert found[-1] == ("import, seconds over `import jax`", 0.07, 0.1)


def test_a_compiled_update_is_counted_and_its_call_finds_it_compiled():
    total = jax.jit(lambda state, x: state + jnp.sum(x), donate_argnums=0)
    candidate = update.Candidate(jnp.zeros(()), total, total, jnp.ones((2, 8)))
    found = update.counted(candidate)
    assert (found["leaves"], found["state bytes"]) == (1, 4)
    assert found["kernels"] >= 1
    assert all(run() > 0 for run in update.in_kinds("sum", candidate).values())


# Accuracy


def test_the_reference_is_float64_on_the_whole_stream():
    x = np.random.default_rng(0).gamma(2.0, size=(5, 1000)).astype(np.float32)
    reference, exact = accuracy.Reference(1.0), x.astype(np.float64).ravel()
    for part in x:
        reference.add(part)
    z = (exact - exact.mean()) / exact.std()
    want = {"mean": exact.mean(), "std": exact.std(), "skew": (z**3).mean(), "kurtosis": (z**4).mean() - 3}
    assert reference.moments() == pytest.approx(want, rel=1e-12)
    for p in accuracy.PERCENTILES:
        rank = math.floor((exact.size - 1) * p / 100)
        low, high = reference.between(rank)
        assert low <= np.sort(exact)[rank] <= high
        assert high / low - 1 < 2.5e-4


def test_order_keys_keep_the_order_of_floats_and_come_back():
    x = np.array([-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 1.0, np.inf], np.float32)
    keys = accuracy.order_key(x)
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(accuracy.from_order_key(keys), x)


def test_a_stream_of_a_few_batches_is_measured_at_its_checkpoints(monkeypatch):
    monkeypatch.setattr(accuracy, "BATCH", 1000)
    first, last = accuracy.measure("normal", 3000, [1000, 3000])
    assert (first["samples"], last["samples"]) == (1000, 3000)
    assert last["count"] == "exact"
    assert float(last["mean"]) < 1e-6
    assert float(last["quantile"]) < 0.025


# Scaling


def test_an_update_is_counted_on_several_devices():
    x = np.random.default_rng(0).normal(size=(1, 4, 8)).astype(np.float32)
    compiled, state, rewards = scaling.updates_on(1, LEAN, x)["jit"]
    assert scaling.Program(compiled.as_text()).count(*scaling.COLLECTIVES) == 0
    assert scaling.stream(compiled, state, rewards)() > 0


# Their README


def test_the_readme_names_every_program_and_no_other():
    folder = Path(measuring.__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    programs = {
        path.name for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert set(re.findall(r"\b(\w+\.py)\b", text)) - {"train_grpo.py", *TESTS} == programs
    assert all((folder / name).exists() for name in re.findall(r"results/[\w-]+\.txt", text))
