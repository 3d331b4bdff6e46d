"""The Flax examples: they learn, they count every sample, and the parameters do not know that they are watched."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def standard_promotion():
    """What is Flax's own follows JAX's defaults."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nnx(monkeypatch):
    example = load("flax_nnx")
    policy, record = example.main()
    assert record.counters["hit/valid"] == example.STEPS * example.BATCH
    assert record.scalars["hit/ema_short"] > 0.9
    bare = load("flax_nnx")
    monkeypatch.setattr(type(bare.acc), "update", lambda self, mon, rewards: mon)
    unwatched, _ = bare.main()
    np.testing.assert_array_equal(nnx.state(policy)["logits"][...], nnx.state(unwatched)["logits"][...])


def test_linen(monkeypatch):
    example = load("flax_linen")
    train, record = example.main()
    assert record.counters["correct/valid"] == example.STEPS * example.PROMPTS * example.GROUP
    assert record.scalars["correct/ema_short"] > 0.7
    assert record.scalars["groups/pass_at_1"] == pytest.approx(record.scalars["correct/interval/mean"], rel=1e-6)
    bare = load("flax_linen")
    monkeypatch.setattr(type(bare.acc), "update", lambda self, mon, rewards: mon)
    unwatched, _ = bare.main()
    jax.tree.map(np.testing.assert_array_equal, train.params, unwatched.params)
