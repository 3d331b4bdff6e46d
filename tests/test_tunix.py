"""Real `GRPOLearner` runs, with and without us; the judge is what the reward functions returned beneath the wrapper."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tests import wandb_reader

pytestmark = [pytest.mark.tunix, pytest.mark.filterwarnings("default")]  # of what Tunix imports
EXAMPLE = Path(__file__).parents[1] / "examples" / "train_tunix.py"
STEPS, GENERATIONS = 20, 4
NAMES = ("match_format", "check_answer", "brevity")


@pytest.fixture(scope="module", autouse=True)
def standard_promotion():
    """Tunix needs JAX's implicit promotions, also on its own threads."""
    strict = {name: getattr(jax.config, name) for name in ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")}
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    for name, value in strict.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_tunix", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def returned(example, monkeypatch):
    """What each reward function returned, call by call, by mode and name."""
    calls = {mode: {name: [] for name in NAMES} for mode in ("train", "eval")}
    for name in NAMES:
        monkeypatch.setattr(example, name, _recorded(getattr(example, name), calls))
    return calls


def _recorded(function, calls):
    @functools.wraps(function)
    def recorded(*args, mode, **kwargs):
        result = function(*args, mode=mode, **kwargs)
        calls[mode][function.__name__].append(np.array([np.nan if v is None else v for v in result], float))
        return result

    return recorded


def arguments(example, folder, *options):
    return example.parse(["--steps", str(STEPS), "--output-dir", str(folder), "--eval-every", "5", *options])


def train(example, folder, prepare, *options):
    """Train as the example does, with a monitor that `prepare(monitoring, learner arguments)` connects."""
    given = arguments(example, folder, *options)
    functions = [getattr(example, name) for name in NAMES]
    monitoring = trm.setup_grpo_monitoring(
        functions, use_wandb=False, verbose=False, output_dir=folder, visualization_frequency=0
    )
    steps = list(example.data(given.steps, given.prompts, given.seed))
    learner = {
        "reward_fns": monitoring.get_wrapped_reward_functions(),
        "reward_manager": "sequence-level",
        "data": steps,
    }
    prepare(monitoring, learner)
    config = example.GRPOConfig(num_generations=GENERATIONS, beta=0.02, reward_manager=learner["reward_manager"])
    cluster = example.make_cluster(given)
    trainer = example.GRPOLearner(cluster, config, learner["reward_fns"], metric_fns=[monitoring.metric_fn])
    if attach := learner.get("attach"):
        attach(trainer)
    trainer.train(learner["data"], list(example.data(2, given.prompts, 1)))
    monitoring.finalize()
    return json.loads((folder / "monitoring_data.json").read_text())


def assert_all_there(data, returned):
    """Every sample of every training call once, none of an evaluation."""
    for name in NAMES:
        x = np.concatenate(returned["train"][name])
        stats = data["stats"][name]
        assert stats["run/count"] == np.isfinite(x).sum()
        assert stats["run/mean"] == pytest.approx(np.nanmean(x), rel=1e-6, abs=1e-7)
        assert stats["run/std"] == pytest.approx(np.nanstd(x), rel=1e-5, abs=1e-7)
        assert sum(data["series"][f"{name}/count"]) == np.isfinite(x).sum()


def test_parameters_are_the_same_to_the_bit_and_every_step_is_what_was_returned(example, returned, tmp_path):
    bare = example.main(arguments(example, tmp_path / "bare", "--no-monitor"))
    for calls in returned.values():
        for values in calls.values():
            values.clear()
    assert example.main(arguments(example, tmp_path / "watched")) == bare
    data = json.loads((tmp_path / "watched" / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(STEPS))
    assert_all_there(data, returned)
    per_step = len(returned["train"]["brevity"]) // STEPS
    for name in NAMES:
        means = [
            np.nanmean(np.concatenate(returned["train"][name][s * per_step : (s + 1) * per_step])) for s in range(STEPS)
        ]
        np.testing.assert_allclose(data["history"][name], means, rtol=1e-5, atol=1e-6)
        x = np.concatenate(returned["eval"][name])
        assert data["modes"]["eval"]["stats"][name]["run/count"] == np.isfinite(x).sum() > 0
    assert data["config"]["group_size"] == GENERATIONS
    assert data["modes"]["advantages"]["stats"]["advantages"]["run/count"] == STEPS * 16
    assert data["function_stats"]["brevity"]["errors"] == 0


def clock_of_data(monitoring, learner):
    def counted(batches):
        for step, batch in enumerate(batches):
            if step:
                monitoring.update_step(step - 1)
            yield batch

    learner["data"] = counted(learner["data"])


def clock_of_training_hooks(monitoring, learner):
    def attach(trainer):
        hooks = SimpleNamespace(calls=0)

        def on_train_step_end(*_, **__):
            monitoring.update_step(hooks.calls)
            hooks.calls += 1

        base = type("Hooks", (), {"__getattr__": lambda self, name: lambda *_, **__: None})
        trainer.rl_cluster.actor_trainer.with_training_hooks(
            type("Ours", (base,), {"on_train_step_end": lambda self, *a, **k: on_train_step_end()})()
        )

    learner["attach"] = attach


def manager(monitoring, learner):
    learner["reward_manager"] = trm.register_reward_manager(monitoring)
    learner["attach"] = lambda trainer: trainer.rl_cluster.with_external_metrics_logger(
        lambda buffer: monitoring.update_step(buffer.global_steps)
    )


def nothing(monitoring, learner):
    pass


def attached_twice(monitoring, learner):
    """Ours twice, and the reward manager as well."""
    learner["reward_manager"] = trm.register_reward_manager(monitoring)
    learner["attach"] = lambda trainer: [trm.attach_to_tunix(trainer, monitoring) for _ in range(2)]


def both(monitoring, learner):
    """The hook of ours, and a user's clock besides."""
    clock_of_data(monitoring, learner)
    learner["attach"] = lambda trainer: trm.attach_to_tunix(trainer, monitoring)


def attached_beside_a_training_hook(monitoring, learner):
    """Several updates of the optimizer, and so calls of the user's clock, before Tunix hands over the first step."""
    clock_of_training_hooks(monitoring, learner)
    clock = learner["attach"]
    learner["attach"] = lambda trainer: [clock(trainer), trm.attach_to_tunix(trainer, monitoring)]


ATTACHED = (manager, both, attached_twice, attached_beside_a_training_hook)


@pytest.mark.parametrize("prepare", [clock_of_data, clock_of_training_hooks, nothing, *ATTACHED])
def test_no_sample_is_lost_or_counted_twice_whoever_keeps_the_steps(example, returned, tmp_path, prepare):
    data = train(example, tmp_path, prepare, "--mini-batches", "2", "--micro-batch", "1", "--steps", "8")
    assert_all_there(data, returned)
    assert data["config"]["group_size"] == GENERATIONS
    if prepare in ATTACHED:
        assert data["steps"] == list(range(8))


@pytest.mark.wandb
def test_on_tunixs_own_wandb_run_every_key_arrives_and_none_of_its_rows_is_lost(tmp_path):
    runs = {}
    for name, more in (("bare", ["--no-monitor"]), ("watched", [])):
        folder = tmp_path / name
        folder.mkdir()
        # Another process, because Tunix leaves a listener in JAX behind that raises once its W&B run is closed.
        command = [sys.executable, EXAMPLE, "--steps", str(STEPS), "--output-dir", folder, "--eval-every", "5"]
        more = ["--mini-batches", "2", "--wandb", "offline", *more]
        env = {**os.environ, "WANDB_SILENT": "true", "WANDB_DIR": str(folder)}
        done = subprocess.run([*map(str, command), *more], env=env, check=True, capture_output=True, text=True)
        assert "failed at one thing" not in done.stderr
        runs[name] = wandb_reader.read(folder)
    own = [{key: row[key] for key in row if not key.startswith("_")} for row in runs["bare"].history]
    watched = runs["watched"].history
    for row in own:  # whatever is deterministic of Tunix's rows is there as before
        kept = {k: v for k, v in row.items() if k.startswith(("rewards/train/", "rewards/eval/"))}
        assert any(all(other.get(k) == v for k, v in kept.items()) for other in watched)
    assert {key for row in own for key in row} <= {key for row in watched for key in row}
    data = json.loads((tmp_path / "watched" / "monitoring_data.json").read_text())
    rows = [row for row in watched if "match_format/mean" in row]
    assert sorted({row["monitoring/step"] for row in rows}) == [9, 19]
    documented = ("mean", "std", "min", "max", "median", "count", "p25", "p75", "p90", "p99", "ema_short", "ema_long")
    for reward in NAMES:
        for key in documented:
            assert rows[-1][f"{reward}/{key}"] == pytest.approx(data["stats"][reward][key], rel=1e-9)
        assert f"reward_fn/{reward}/calls" in rows[-1]
        assert any(f"{reward}/histogram" in row for row in watched)
    assert not any(isinstance(v, float) and not np.isfinite(v) for row in rows for v in row.values())


def buffer(step, calls, mode="train"):
    metrics = (
        {f"rewards/{name}": ([c[name] for c in calls], np.mean) for name in NAMES} if calls else {"time": ([1.0], None)}
    )
    return SimpleNamespace(global_steps=step, mode=SimpleNamespace(value=mode), metrics=metrics)


def cluster(before=None):
    made = SimpleNamespace(_external_metrics_logger=before)

    def with_external_metrics_logger(logger):
        made._external_metrics_logger = logger
        return made

    made.with_external_metrics_logger = with_external_metrics_logger
    return made


def rewards_of(step):
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=8) for name in NAMES}


def constant(prompts, completions, **kwargs):
    return [0.0] * len(completions)


def named(name):
    function = functools.partial(constant)
    functools.update_wrapper(function, constant)
    function.__name__ = name
    return function


def watch(tmp_path, before=None):
    monitoring = trm.setup_grpo_monitoring(
        [named(n) for n in NAMES], reward_names=NAMES, use_wandb=False, verbose=False, output_dir=tmp_path
    )
    made = cluster(before)
    trm.attach_to_tunix(made, monitoring)
    return monitoring, made._external_metrics_logger


def test_steps_that_interleave_stay_apart(tmp_path):
    """A producer that runs ahead calls the functions of the next steps before this one is flushed."""
    monitoring, hook = watch(tmp_path)
    wrapped = monitoring.get_wrapped_reward_functions()
    stop = threading.Event()

    def produce():
        while not stop.is_set():
            completions = ["c"] * 8
            for function in wrapped:
                function(prompts=["p"] * 8, completions=completions, mode="train")

    producer = threading.Thread(target=produce)
    producer.start()
    for step in range(10):
        hook(buffer(step, [rewards_of(step)]))
    stop.set()
    producer.join()
    hook(buffer(10, []))
    monitoring.finalize()
    data = json.loads((tmp_path / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(10))
    for name in NAMES:
        np.testing.assert_allclose(
            data["history"][name], [rewards_of(s)[name].mean() for s in range(10)], rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("gives_values", [False, True])
def test_a_clock_besides_ends_no_step_of_which_the_trainer_hands_over_the_rewards(tmp_path, gives_values):
    monitoring, hook = watch(tmp_path)
    for step in range(4):
        completions, calls = [f"{step}-{i}" for i in range(8)], {}
        for function in monitoring.get_wrapped_reward_functions():
            calls[function.name] = function(prompts=["p"] * 8, completions=completions, mode="train")
        for _ in range(3):  # updates of the optimizer
            monitoring.update_step(step, calls if gives_values else None)
        hook(buffer(step, [calls]))
    monitoring.finalize()
    data = json.loads((tmp_path / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(4))
    assert {name: data["stats"][name]["run/count"] for name in NAMES} == dict.fromkeys(NAMES, 32)


@pytest.mark.parametrize(
    "order",
    [
        "call own",
        "call values",
        "call plain",
        "call rewards",
        "call own plain",
        "call values plain",
        "call plain own",
        "call plain values",
        "call own rewards",
        "call own plain rewards",
        "call plain rewards",
        "call plain own rewards",
        "call plain values rewards",
        "call plain rewards own",
        "call plain plain rewards",
    ],
)
def test_a_step_counts_once_whoever_ends_it_and_however_often(tmp_path, order):
    """The owner, with the rewards or without, and a trainer whose buffers have them, or have them not."""
    monitoring, hook = watch(tmp_path)
    for step in range(5):
        completions, calls = [f"{step}-{i}" for i in range(8)], {}
        for function in monitoring.get_wrapped_reward_functions():
            calls[function.name] = function(prompts=["p"] * 8, completions=completions, mode="train")
        ends = {
            "own": lambda step=step: monitoring.update_step(step),
            "values": lambda step=step, calls=calls: monitoring.update_step(step, calls),
            "plain": lambda step=step: hook(buffer(step, [])),
            "rewards": lambda step=step, calls=calls: hook(buffer(step, [calls])),
        }
        for who in order.split()[1:]:
            ends[who]()
    monitoring.finalize()
    data = json.loads((tmp_path / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(5))
    assert {name: data["stats"][name]["run/count"] for name in NAMES} == dict.fromkeys(NAMES, 40)


def test_steps_before_the_first_that_the_trainer_hands_over_are_the_owners(tmp_path):
    monitoring, hook = watch(tmp_path)
    for step in range(4):
        completions, calls = [f"{step}-{i}" for i in range(8)], {}
        for function in monitoring.get_wrapped_reward_functions():
            calls[function.name] = function(prompts=["p"] * 8, completions=completions, mode="train")
        monitoring.update_step(step)
        if step >= 2:
            hook(buffer(step, [calls]))
    monitoring.finalize()
    data = json.loads((tmp_path / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(4))
    assert {name: data["stats"][name]["run/count"] for name in NAMES} == dict.fromkeys(NAMES, 32)


@pytest.mark.parametrize("steps", [3, 100])
def test_a_hook_that_is_never_called_costs_no_step(tmp_path, steps):
    monitoring, hook = watch(tmp_path)
    for step in range(steps):
        for function in monitoring.get_wrapped_reward_functions():
            function(prompts=["p"] * 8, completions=[f"{step}-{i}" for i in range(8)], mode="train")
        monitoring.update_step(step)
    if steps > 64:  # too late: these are counted
        hook(buffer(0, [rewards_of(0)]))
    monitoring.finalize()
    data = json.loads((tmp_path / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(steps))
    assert {name: data["stats"][name]["run/count"] for name in NAMES} == dict.fromkeys(NAMES, 8 * steps)


def test_a_second_run_on_a_cluster_that_is_interrupted_loses_no_step(tmp_path):
    monitoring = trm.setup_grpo_monitoring(
        [named(n) for n in NAMES], reward_names=NAMES, use_wandb=False, verbose=False, output_dir=tmp_path
    )
    made = cluster()
    made._buffered_train_metrics, made._buffered_eval_metrics, made.global_steps = [], [], 0
    made.actor_trainer = SimpleNamespace(close=lambda: None)
    trm.attach_to_tunix(made, monitoring)
    made._external_metrics_logger(buffer(0, [rewards_of(0)]))
    made.actor_trainer.close()
    made._external_metrics_logger(buffer(1, [rewards_of(1)]))
    made._buffered_train_metrics.append(buffer(2, [rewards_of(2)]))
    monitoring.finalize()
    assert json.loads((tmp_path / "monitoring_data.json").read_text())["steps"] == [0, 1, 2]


def test_a_logger_that_was_there_goes_on_and_ours_raises_nothing(tmp_path):
    seen = []
    monitoring, hook = watch(tmp_path, before=seen.append)
    broken = SimpleNamespace(global_steps=object(), mode=None, metrics={"rewards/brevity": ("x", None)})
    for given in (buffer(0, [rewards_of(0)]), broken, SimpleNamespace(), None):
        hook(given)
    monitoring.finalize()
    assert len(seen) == 4
    assert json.loads((tmp_path / "monitoring_data.json").read_text())["steps"][0] == 0


def test_what_is_no_cluster_is_refused(tmp_path):
    monitoring, _ = watch(tmp_path)
    with pytest.raises(ValueError, match=r"rl_cluster: got 'int', allowed: a tunix RLCluster or learner\. Pass"):
        trm.attach_to_tunix(3, monitoring)


def test_pieces_of_a_step_that_a_producer_ran_ahead_of_are_put_together(tmp_path):
    monitoring = trm.setup_grpo_monitoring(
        [named(n) for n in NAMES], reward_names=NAMES, use_wandb=False, verbose=False, output_dir=tmp_path
    )
    made, pieces = cluster(), [(s, k) for s in range(0, 6, 2) for k in range(4)]
    made._buffered_train_metrics, made._buffered_eval_metrics, made.global_steps = [], [], 0
    queue = made._buffered_train_metrics
    trm.attach_to_tunix(SimpleNamespace(rl_cluster=made, algo_config=SimpleNamespace(off_policy_steps=1)), monitoring)
    for s, k in pieces:  # 0 1 0 1, 2 3 2 3 ...
        queue.append(buffer(s + k % 2, [rewards_of(10 * (s + k % 2) + k // 2)]))
    for step in range(1, 5):
        made.global_steps = step
        while queue[0].global_steps < step:
            made._external_metrics_logger(queue.pop(0))
    monitoring.finalize()  # with what is queued: the run was interrupted
    data = json.loads((tmp_path / "monitoring_data.json").read_text())
    assert data["steps"] == list(range(6))
    for name in NAMES:
        means = [np.mean([rewards_of(10 * s)[name], rewards_of(10 * s + 1)[name]]) for s in range(6)]
        np.testing.assert_allclose(data["history"][name], means, rtol=1e-5, atol=1e-7)
