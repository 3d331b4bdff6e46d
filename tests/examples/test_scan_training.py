"""Thousands of steps on the device for several seeds at once: each log is that of its own seed, whole and exact."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunrex_jax_monitor.host.rundir import read_records

SEEDS, STEPS = 3, 2000


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[2] / "examples" / "scan_training.py"
    spec = importlib.util.spec_from_file_location("scan_training", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def standard_promotion():
    """The example's own arithmetic follows JAX's defaults."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def logs(example, tmp_path, capsys):
    assert example.main(["--seeds", str(SEEDS), "--steps", str(STEPS), "--run-dir", str(tmp_path)]) == 0
    assert f"{SEEDS} seeds x {STEPS} steps" in capsys.readouterr().out
    return [read_records(tmp_path / f"seed-{seed}") for seed in range(SEEDS)]


def rewards_of(example) -> list[dict[str, np.ndarray]]:
    """The same runs without the monitor: by seed, every reward of every step."""
    blank = jnp.zeros((SEEDS, example.PROMPTS, example.ACTIONS))
    keys = jax.vmap(jax.random.key)(jnp.arange(SEEDS))
    learners = example.Learner(blank, 0.02 * 4.0 ** jnp.arange(SEEDS), keys)
    run = jax.jit(jax.vmap(lambda learner: jax.lax.scan(example.step, learner, jnp.arange(STEPS))[1]))
    rewards = jax.tree.map(lambda x: np.asarray(x, np.float64), run(learners))
    return [{name: x[seed] for name, x in rewards.items()} for seed in range(SEEDS)]


def test_every_seed_has_a_log_of_every_step_that_is_numpys(example, logs):
    chunk = example.ACC.log_frequency
    for truth, records in zip(rewards_of(example), logs, strict=True):
        *rows, last = records
        assert [record.step for record in rows] == list(range(chunk - 1, STEPS, chunk))
        assert [step for record in rows for step in record.series["step"]] == list(range(STEPS))
        for name, x in truth.items():
            means = [mean for record in rows for mean in record.series[f"{name}/mean"]]
            np.testing.assert_allclose(means, x.mean(axis=(1, 2)), rtol=1e-6)
            assert last.scalars[f"{name}/run/count"] == x.size
            assert last.scalars[f"{name}/run/mean"] == pytest.approx(x.mean(), rel=1e-6)
            assert last.scalars[f"{name}/run/std"] == pytest.approx(x.std(), rel=1e-6)
        unsolved = np.ptp(sum(truth.values())[-chunk:], axis=2) > 1e-6
        assert last.scalars["frac_reward_zero_std"] == pytest.approx(1 - unsolved.mean(), abs=1e-6)


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--steps", "-1"]])
def test_what_cannot_run_is_refused(example, arguments, capsys):
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert "allowed is 1 or more" in capsys.readouterr().err
