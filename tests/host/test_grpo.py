"""The original document's surface, judged by numpy on what the reward functions really returned."""

import asyncio
import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tests.device.support import without_runtime_types
from tunrex_jax_monitor.host import intake

FILES = {
    "final_dashboard.png",
    "final_summary.html",
    "reward_history.png",
    "reward_distributions.png",
    "reward_statistics.png",
    "monitoring_data.json",
}
KINDS = ("listed", "of_numpy", "of_jax", "scalar", "with_none")


class Rewards:
    """Five reward functions, one per kind of result, and what they returned, recorded beneath the wrapper."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.returned = {mode: {kind: [] for kind in KINDS} for mode in ("train", "eval")}
        self.functions = [self._named(kind) for kind in KINDS]

    def _named(self, kind):
        def function(prompts, completions, mode="train", **kwargs):
            values = np.round(self.rng.normal(size=len(completions)), 2).astype(np.float32)
            if kind == "scalar":
                values[:] = values[0]
            if kind == "with_none":
                values[self.rng.random(len(values)) < 0.2] = np.nan
            self.returned[mode][kind].append(values.astype(np.float64))
            return {
                "listed": values.tolist(),
                "of_numpy": values.astype(np.float64),
                "of_jax": jnp.asarray(values),
                "scalar": float(values[0]),
                "with_none": [None if np.isnan(v) else float(v) for v in values],
            }[kind]

        function.__name__ = kind
        return function


def call(functions, size, mode="train", **keywords):
    prompts, completions = ["p"] * size, ["c"] * size
    return [f(prompts=prompts, completions=completions, mode=mode, **keywords) for f in functions]


def setup(tmp_path, functions, **options):
    given = {"use_wandb": False, "verbose": False, "output_dir": tmp_path, "visualization_frequency": 0}
    return trm.setup_grpo_monitoring(functions, **given | options)


def export(tmp_path):
    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads((tmp_path / "monitoring_data.json").read_text(), parse_constant=no_constant)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twelve steps of one to three calls each, with evaluation between: the truth, the export, the monitor."""
    folder, rewards = tmp_path_factory.mktemp("run"), Rewards()
    monitoring = setup(folder, rewards.functions, log_frequency=5)
    functions, calls = monitoring.get_wrapped_reward_functions(), []
    for step in range(12):
        calls.append(1 + step % 3)
        for _ in range(calls[-1]):
            call(functions, 8, num_generations=4)
        if step % 4 == 0:
            call(functions, 6, mode="eval")
        monitoring.update_step(10 * step)
        monitoring.update_step(10 * step + 1)  # nothing new: nothing happens
    monitoring.finalize()
    return rewards, calls, export(folder), monitoring, folder


def by_step(batches, calls):
    batches, out = list(batches), []
    for n in calls:
        out.append(np.concatenate(batches[:n]))
        batches = batches[n:]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_there_once_with_what_was_returned(run, kind):
    rewards, calls, data, *_ = run
    steps = by_step(rewards.returned["train"][kind], calls)
    assert data["steps"] == [10 * step for step in range(12)]
    np.testing.assert_allclose(data["history"][kind], [np.nanmean(x) for x in steps], rtol=1e-5, atol=1e-6)
    assert data["series"][f"{kind}/count"] == [int(np.isfinite(x).sum()) for x in steps]


@pytest.mark.parametrize("kind", KINDS)
def test_the_statistics_are_those_of_every_sample(run, kind):
    rewards, _, data, *_ = run
    x = np.concatenate(rewards.returned["train"][kind])
    valid, stats = x[np.isfinite(x)], data["stats"][kind]
    want = {
        "mean": valid.mean(), "std": valid.std(), "min": valid.min(), "max": valid.max(), "median": np.median(valid),
        "p25": np.percentile(valid, 25), "p99": np.percentile(valid, 99), "count": len(valid),
        "zeros_fraction": (valid == 0).mean(), "negative_fraction": (valid < 0).mean(),
        "nonfinite_count": len(x) - len(valid), "run/count": len(valid),
    }  # fmt: skip
    for key, value in want.items():
        assert stats[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def test_evaluation_is_kept_apart(run):
    rewards, _, data, monitoring, _ = run
    x = np.concatenate(rewards.returned["eval"]["listed"])
    stats = data["modes"]["eval"]["stats"]["listed"]
    assert (stats["count"], stats["mean"]) == (18, pytest.approx(x.mean(), rel=1e-5))
    assert data["modes"]["eval"]["steps"] == [0, 40, 80]
    assert monitoring.side_monitors["eval"].global_step == 80


def test_groups_are_those_of_num_generations(run):
    rewards, _, data, monitoring, _ = run
    assert monitoring.reward_monitor.accumulator.group_size == 4
    x = np.concatenate(rewards.returned["train"]["listed"][-5:]).reshape(-1, 4)  # the last two steps, 2 + 3 calls
    assert data["scalars"]["listed/group_std"] == pytest.approx(x.std(axis=1, ddof=1).mean(), rel=1e-5)


def test_all_files_of_the_document_are_there(run):
    *_, folder = run
    assert {path.name for path in folder.iterdir() if path.is_file()} == FILES
    for name in FILES:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_export_has_the_keys_of_the_document_and_reads_back(run):
    *_, data, monitoring, folder = run
    documented = {"reward_names", "global_step", "stats", "alerts", "function_stats", "history"}
    assert documented <= data.keys()
    assert data["function_stats"]["listed"]["calls"] == 24 + 3
    history = trm.History.read(folder / "monitoring_data.json")
    assert history.to_export()["stats"] == data["stats"]
    assert trm.History.read(monitoring.run_dir).series == data["series"]


def test_the_offline_example_of_the_document_runs(run, tmp_path):
    *_, data, _, folder = run
    visualizer = trm.RewardVisualizer()
    visualizer.plot_reward_history(data["history"], save_path=tmp_path / "history.png", show=False)
    visualizer.plot_reward_distributions(data["history"], save_path=tmp_path / "distributions.png")
    visualizer.plot_reward_dashboard(folder / "monitoring_data.json", save_path=tmp_path / "dashboard.png")
    stats = {name: trm.RewardStats.of(name, data["scalars"]) for name in data["reward_names"]}
    visualizer.plot_ema_comparison(stats, save_path=tmp_path / "emas.png")
    trm.create_monitoring_summary_html(folder / "monitoring_data.json", tmp_path / "page.html")
    assert len(list(tmp_path.iterdir())) == 5


def test_attributes_of_the_document_are_there(run):
    *_, monitoring, _ = run
    assert isinstance(monitoring.reward_monitor, trm.RewardMonitor)
    assert isinstance(monitoring.metrics_logger, trm.RewardMetricsLogger)
    assert isinstance(monitoring.visualizer, trm.RewardVisualizer)
    assert isinstance(monitoring.function_monitor, trm.RewardFunctionMonitor)
    assert monitoring.reward_names == list(KINDS)
    wrapped = monitoring.get_wrapped_reward_functions()
    assert [f.__name__ for f in wrapped] == list(KINDS)
    assert wrapped is not monitoring.get_wrapped_reward_functions()


SINK = trm.MemorySink()


def constant(prompts, completions, **kwargs):
    return [0.5] * len(completions)


def test_without_update_step_every_round_is_a_step(tmp_path, caplog):
    monitoring = setup(tmp_path, [constant])
    for _ in range(100):
        call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["steps"] == list(range(100))
    assert data["stats"]["constant"]["count"] == 400
    (message,) = caplog.messages
    assert message.startswith("update_step was never called: each of 100 rounds")


def test_a_trainer_that_calls_other_functions_is_told_of(tmp_path, caplog):
    monitoring = setup(tmp_path, [constant])
    for step in range(30):
        monitoring.update_step(step)
    (message,) = caplog.messages
    assert message.startswith("10 steps have ended, and no reward function was called. Give the trainer what")


def test_a_group_size_that_the_calls_contradict_is_told(tmp_path, caplog):
    monitoring = setup(tmp_path, [constant], group_size=2)
    for step in range(3):
        call(monitoring.get_wrapped_reward_functions(), 4, num_generations=4)
        monitoring.update_step(step)
    monitoring.finalize()
    (message,) = caplog.messages
    assert message.startswith("group_size: got 2, and calls with num_generations=4.")


def test_what_came_after_the_last_update_step_is_one_more_step(tmp_path):
    monitoring = setup(tmp_path, [constant])
    for step in range(3):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
    call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.finalize()
    assert export(tmp_path)["steps"] == [0, 1, 2, 3]


def test_values_may_be_given_to_update_step(tmp_path, caplog):
    monitoring = setup(tmp_path, [constant])
    for step, value in enumerate((0.25, [0.25, 0.75], np.array([0.5]), jnp.ones(3), None)):
        monitoring.update_step(step, {"constant": value, "nobody": 1.0})
    monitoring.finalize()
    data = export(tmp_path)
    assert data["history"]["constant"] == [0.25, 0.5, 0.5, 1.0]
    assert caplog.text.count("There is no reward 'nobody', so it is left out. Known are: constant.") == 1


def test_finalize_twice_and_calls_after_it_are_harmless(tmp_path):
    monitoring = setup(tmp_path, [constant])
    call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.finalize()
    before = (tmp_path / "monitoring_data.json").read_text()
    call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.update_step(7)
    monitoring.finalize()
    assert (tmp_path / "monitoring_data.json").read_text() == before


def test_a_run_without_a_reward_is_a_strict_export_as_well(tmp_path):
    setup(tmp_path, [constant]).finalize()
    data = export(tmp_path)
    assert (data["steps"], data["stats"], data["alerts"]) == ([], {"constant": {}}, [])


class Nameless:
    """A judge that has something else than a name."""

    def __init__(self, name):
        self.__name__ = name

    def __call__(self, prompts, completions, **kwargs):
        return [0.5] * len(completions)


def test_functions_without_a_usable_name_and_of_one_name_are_told_apart_in_one_warning(tmp_path, caplog):
    functions = [
        constant,
        constant,
        functools.partial(constant),
        Nameless(""),
        Nameless(3),
        Nameless("a/b"),
        Nameless("//"),
    ]
    monitoring = setup(tmp_path, functions)
    names = ["constant", "constant_2", "constant_3", "Nameless", "reward_4", "a_b", "unnamed"]
    assert [f.__name__ for f in monitoring.get_wrapped_reward_functions()] == names == monitoring.reward_names
    assert (
        caplog.text.count("Reward names must be distinct, without slashes and not reserved")
        == len(caplog.messages)
        == 1
    )
    for step in range(2):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
    monitoring.finalize()
    data = export(tmp_path)
    assert {name: data["series"][f"{name}/count"] for name in names} == {name: [4, 4] for name in names}
    assert {stats["calls"] for stats in data["function_stats"].values()} == {2}


def test_without_a_reward_function_there_is_nothing_to_watch(tmp_path):
    with pytest.raises(
        ValueError, match=r"reward_functions: got \[\], allowed: a list of one or more callables\. Pass"
    ):
        setup(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_an_output_dir_that_is_removed_under_us_is_made_again(tmp_path):
    folder = tmp_path / "out"
    monitoring = setup(folder, [constant], log_frequency=1)
    for step in range(4):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
        monitoring.flush(60.0)
        if step == 1:
            shutil.rmtree(folder)
    monitoring.finalize()
    assert export(folder)["steps"] == [0, 1, 2, 3]
    assert FILES <= {path.name for path in folder.iterdir()}


def test_a_result_of_another_length_is_told_and_left_out(tmp_path, caplog):
    monitoring = setup(
        tmp_path, [constant, lambda prompts, completions, **_: [1.0]], reward_names=["constant", "short"]
    )
    for step in range(2):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
    monitoring.finalize()
    assert caplog.text.count("short returned 1 rewards for 4 completions") == 1
    stats = export(tmp_path)["stats"]
    assert stats["constant"]["count"] == 8
    assert "count" not in stats["short"] or stats["short"]["count"] == 0
    calls = monitoring.function_monitor.get_all_stats()
    assert (calls["constant"]["left_out"], calls["short"]["left_out"]) == (0, 2)


class Unreadable:
    """Raises wherever it is asked, as a handle to a remote result may."""

    ndim = property(lambda self: 1 / 0)

    def __array__(self, *_, **__):
        raise RuntimeError("it is elsewhere")


NO_NUMBERS = {
    "text": "text", "texts": [np.str_("1.0")] * 4, "dict": {"a": 1}, "object": object(), "ragged": [[1, 2], [3]],
    "generator": (float(i) for i in range(4)), "unreadable": Unreadable(), "listed": [Unreadable()] * 4,
    "complex": [1j] * 4, "complex_on_device": jnp.ones(4, jnp.complex64), "key": jax.random.key(0),
}  # fmt: skip


def test_a_result_that_is_no_number_goes_through_and_costs_itself_only(tmp_path, caplog):
    def returning(result):
        return lambda prompts, completions, **_: result

    functions = [constant, *map(returning, NO_NUMBERS.values())]
    monitoring = setup(tmp_path, functions, reward_names=["constant", *NO_NUMBERS])
    for step in range(2):
        results = call(monitoring.get_wrapped_reward_functions(), 4)
        assert all(a is b for a, b in zip(results[1:], NO_NUMBERS.values(), strict=True))
        monitoring.update_step(step)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["series"]["constant/count"] == [4, 4]
    for name in NO_NUMBERS:
        assert caplog.text.count(f"{name}: a result could not be recorded") == 1
        assert sum(data["series"][f"{name}/count"]) == 0
    assert list(NO_NUMBERS["generator"]) == [0.0, 1.0, 2.0, 3.0]


def test_a_number_for_all_completions_counts_for_each_wherever_it_lies(tmp_path):
    results = {"host": 0.25, "device": jnp.float32(0.25), "block": np.full((2, 2, 1), 0.25), "huge": 10**400}
    functions = [lambda prompts, completions, r=r, **_: r for r in results.values()]
    monitoring = setup(tmp_path, functions, reward_names=list(results))
    call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.update_step(0)
    monitoring.finalize()
    data = export(tmp_path)
    for name in ("host", "device", "block"):
        assert (data["history"][name], data["series"][f"{name}/count"]) == ([0.25], [4])
    assert data["stats"]["huge"]["nonfinite_count"] == 4


def test_an_output_dir_that_cannot_be_written_is_told_and_replaced(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("here")
    monitoring = setup(blocked, [constant])
    call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.update_step(0)
    monitoring.finalize()
    assert "output_dir: got" in caplog.text
    assert {path.name for path in monitoring.output_dir.iterdir() if path.is_file()} == FILES


def test_pictures_that_cannot_be_drawn_cost_themselves_only(tmp_path, caplog, monkeypatch):
    def no_font(*_, **__):
        raise OSError("no font")

    monitoring = setup(tmp_path, [constant])
    call(monitoring.get_wrapped_reward_functions(), 4)
    monkeypatch.setattr(monitoring.visualizer, "plot_reward_dashboard", no_font)
    monitoring.finalize()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == FILES - {"final_dashboard.png"}
    assert "final_dashboard.png was not written: OSError: no font" in caplog.text


def test_pictures_of_a_step_are_drawn_by_another_process(tmp_path):
    monitoring = setup(tmp_path, [constant], visualization_frequency=4)
    for step in range(6):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
    monitoring.finalize()
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == FILES | {"dashboard_step_4.png", "summary_step_4.html"}


def test_quiet_prints_nothing_and_verbose_the_documents_blocks(tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO):
        for verbose in (False, True):
            monitoring = setup(tmp_path, [constant], verbose=verbose)
            call(monitoring.get_wrapped_reward_functions(), 4)
            monitoring.update_step(0)
            monitoring.finalize()
            if not verbose:
                assert caplog.messages == []
    text = caplog.text
    for line in (
        "Reward Monitoring System Initialized",
        "Wrapped reward function: constant",
        "Visualizations saved to",
        "Monitoring summary saved to",
        "Monitoring 1 reward functions:\n  - constant",
        "W&B logging: disabled",
        "Solved: where the weighted sum of all rewards (name one with correct_reward=) is at least 1",
        "Reward Monitoring Summary (Step 0)",
        "Reward Function Execution Summary",
        "Final reports saved to",
        "Monitoring data saved to",
    ):
        assert line in text
    assert capfd.readouterr().out == ""


def test_producers_on_many_threads_lose_nothing(tmp_path):
    monitoring = setup(tmp_path, [constant], log_frequency=50, window_size=4096)  # the last step may be of any size
    functions = monitoring.get_wrapped_reward_functions()
    threads = [threading.Thread(target=lambda: [call(functions, 4) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(50):
        monitoring.update_step(step)
    for thread in threads:
        thread.join()
    monitoring.finalize()
    assert export(tmp_path)["stats"]["constant"]["run/count"] == 4 * 100 * 4


def test_advantages_are_a_signal_of_their_own(tmp_path):
    monitoring = setup(tmp_path, [constant], group_size=4)
    rng, given = np.random.default_rng(3), []
    for step in range(5):
        call(monitoring.get_wrapped_reward_functions(), 8)
        given.append(rng.normal(size=8).astype(np.float32))
        assert monitoring.metric_fn(prompts=["p"] * 8, completions=["c"] * 8, rewards=None, advantages=given[-1]) == {}
        monitoring.update_step(step)
    monitoring.finalize()
    stats = export(tmp_path)["modes"]["advantages"]["stats"]["advantages"]
    x = np.concatenate(given).astype(np.float64)
    assert (stats["mean"], stats["std"]) == (pytest.approx(x.mean(), rel=1e-5), pytest.approx(x.std(), rel=1e-5))


def test_detection_may_be_switched_off(tmp_path):
    monitoring = setup(tmp_path, [constant], enable_anomaly_detection=False)
    for step in range(40):
        monitoring.update_step(step, {"constant": [np.nan] + [0.0] * 31})
    monitoring.finalize()
    data = export(tmp_path)
    assert data["alerts"] == []
    assert data["scalars"]["alerts/total"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 0}, "window_size: got 0"),
        ({"log_frequency": 0}, "log_frequency: got 0"),
        ({"visualization_frequency": -1}, "visualization_frequency: got -1"),
        ({"summary_frequency": "often"}, "summary_frequency: got 'often'"),
        ({"drop_threshold": 2}, "drop_threshold: got 2"),
        ({"reward_names": ["a", "b"]}, "reward_names: got"),
        ({"reward_names": {"a"}}, "reward_names: got"),
        ({"reward_names": 5}, "reward_names: got 5"),
        ({"output_dir": None}, "output_dir: got None"),
        ({"output_dir": ""}, "output_dir: got ''"),
        ({"use_wandb": "no"}, "use_wandb: got 'no', allowed: True or False"),
        ({"wandb_commit": 1}, "wandb_commit: got 1"),
        ({"wandb_tags": "abc"}, "wandb_tags: got 'abc'"),
        ({"wandb_tags": [1]}, "wandb_tags: got"),
        ({"wandb_config": [1]}, "wandb_config: got"),
        ({"wandb_prefix": 3}, "wandb_prefix: got 3"),
        ({"sinks": 5}, "sinks: got 5"),
        ({"sinks": [object()]}, "sinks: got .*, allowed: objects with write"),
        ({"sinks": [trm.MemorySink]}, "sinks: got .*, allowed: objects with write"),
        ({"sinks": [SINK, SINK]}, "sinks: got .*, allowed: each sink once"),
        ({"reward_names": b"x"}, "reward_names: got b'x'"),
        ({"reward_names": [None]}, "reward_names: got"),
        ({"detect": np.zeros(3)}, "detect: got"),
        ({"correct_reward": np.zeros(3)}, "correct_reward: got"),
    ],
)
def test_bad_configuration_fails_at_once(tmp_path, options, message):
    with without_runtime_types(), pytest.raises(ValueError, match=message):
        setup(tmp_path, [constant], **options)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("windowsize", "Did you mean window_size"), ("wandb_tag", "Did you mean wandb_tags"), ("zzz", "Leave it out")],
)
def test_an_unknown_argument_is_refused_and_the_nearest_named(tmp_path, name, remedy):
    with pytest.raises(
        TypeError, match=f"{name}: got an argument that does not exist. {remedy}.* Allowed: reward_functions, "
    ):
        setup(tmp_path, [constant], **{name: 1})


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: trm.Reporter(trm.RewardAccumulator(("a",)), extra_scalars=5), "extra_scalars: got 5"),
        (lambda: trm.Reporter(trm.RewardAccumulator(("a",)), shared="x"), "shared: got 'x'"),
        (lambda: trm.ConsoleSink(logger=5), "logger: got 5"),
        (lambda: trm.ConsoleSink(quiet="x"), "quiet: got 'x'"),
        (lambda: trm.RewardFunctionMonitor(object()), "verbose: got"),
        (lambda: trm.RewardFunctionMonitor().wrap_all(None), "reward_fns: got None"),
        (lambda: trm.RewardFunctionMonitor().wrap_all([constant], []), "names: got"),
        (lambda: trm.RewardMonitor(["a"], verbose=False).update(None), "rewards: got None"),
        (lambda: trm.attach_to_tunix(object(), 5), "monitoring: got 5"),
        (lambda: trm.JsonlSink("~nobody-of-this-name/run"), "run_dir: got"),
    ],
)
def test_other_arguments_that_are_wrong_are_refused_as_well(call, argument):
    with without_runtime_types(), pytest.raises(ValueError, match=f"{argument}.*allowed"):
        call()


def test_the_home_of_nobody_is_replaced_as_any_other_directory_that_cannot_be(caplog):
    monitoring = trm.setup_grpo_monitoring(
        [constant], use_wandb=False, verbose=False, output_dir="~nobody-of-this-name/x"
    )
    assert monitoring.output_dir.is_dir()
    assert "output_dir: got '~nobody-of-this-name/x', which cannot be written" in caplog.text
    monitoring.finalize()


def test_given_values_take_the_place_of_what_the_function_returned(tmp_path, caplog):
    monitoring = setup(
        tmp_path,
        [constant, lambda prompts, completions, **_: [1.0] * len(completions)],
        reward_names=["constant", "one"],
    )
    for step in range(3):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step, {"constant": [0.25] * 4})
    with without_runtime_types():
        bad = [*({"constant": value} for value in ("abc", ["q"], None, Unreadable())), {Unreadable(): 1.0}, [1.0], 3]
        for step, given in enumerate(bad, start=3):
            call(monitoring.get_wrapped_reward_functions(), 4)
            monitoring.update_step(step, given)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["history"]["constant"][:3] == [0.25] * 3
    assert data["series"]["one/count"] == data["series"]["constant/count"] == [4] * 10
    assert "rewards: got list, allowed: samples by name" in caplog.text


def graded(key):
    return lambda prompts, completions, **_: [float(key(c)) for c in completions]


def total_of(tmp_path):
    series = export(tmp_path)["series"]
    return series["reward/mean"], series["a/count"], series["b/count"]


def test_functions_that_are_given_lists_of_their_own_judge_the_same_completions(tmp_path):
    monitoring = setup(tmp_path, [graded(len), graded(int)], reward_names=["a", "b"])
    for step in range(3):
        for function in monitoring.get_wrapped_reward_functions():
            for part in (["10", "2"], ["333", "4"]):  # two rounds of two
                function(prompts=["p", "p"], completions=list(part))
        monitoring.update_step(step)
    monitoring.finalize()
    total = (12 + 3 + 336 + 5) / 4
    assert total_of(tmp_path) == ([total] * 3, [4] * 3, [4] * 3)


@pytest.mark.parametrize("given", [[1.0, 2.0, 3.0, 4.0], np.arange(1.0, 5.0), jnp.arange(1.0, 5.0)])
def test_given_values_are_of_the_completions_that_the_other_functions_judged(tmp_path, given):
    monitoring = setup(tmp_path, [graded(len), graded(int)], reward_names=["a", "b"])
    for step in range(3):
        for part in (["10", "2"], ["333", "4"]):
            for function in monitoring.get_wrapped_reward_functions():
                function(prompts=["p", "p"], completions=part)
        monitoring.update_step(step, {"b": given})
    monitoring.finalize()
    assert total_of(tmp_path) == ([(2 + 1 + 3 + 1 + 10) / 4] * 3, [4] * 3, [4] * 3)


def test_completions_are_found_whatever_their_place(tmp_path):
    def eight(prompts, completions, **kwargs):
        return [1.0] * len(completions)

    monitoring = setup(tmp_path, [eight])
    (wrapped,) = monitoring.get_wrapped_reward_functions()
    for step in range(3):
        wrapped(["a", "b"], ["c"] * 8)
        monitoring.update_step(step)
    monitoring.finalize()
    assert export(tmp_path)["series"]["eight/count"] == [8, 8, 8]


def test_a_function_that_raises_on_another_thread_costs_its_own_samples_only(tmp_path):
    def judge(prompts, completions, **kwargs):
        if len(judged) % 2:
            judged.append(False)
            raise TimeoutError("busy")
        judged.append(True)
        return [1.0] * len(completions)

    judged, monitoring = [], setup(tmp_path, [constant, judge])
    functions = monitoring.get_wrapped_reward_functions()
    with ThreadPoolExecutor(1) as executor:
        for step in range(10):
            completions = ["c"] * 4
            for function in functions:
                with contextlib.suppress(TimeoutError):
                    executor.submit(function, prompts=["p"] * 4, completions=completions).result()
            monitoring.update_step(step)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["steps"] == list(range(10))
    assert data["series"]["constant/count"] == [4] * 10
    assert data["series"]["judge/count"] == [4, 0] * 5


@pytest.mark.parametrize("case", ["one of two is called every second step", "each has its own list"])
def test_what_a_worker_thread_returned_belongs_to_the_step_that_ends_behind_it(tmp_path, case):
    def value(completions):
        return [float(text) for text in completions]

    def other(completions):
        return [float(text) for text in completions]

    monitoring = setup(tmp_path, [value, other])
    first, second = monitoring.get_wrapped_reward_functions()
    with ThreadPoolExecutor(1) as executor:
        for step in range(6):
            executor.submit(first, [str(step)] * 4).result()
            if case == "each has its own list" or step % 2:
                executor.submit(second, [str(10 + step)] * 4).result()
            monitoring.update_step(step)
    monitoring.finalize()
    data = export(tmp_path)
    assert (data["steps"], data["history"]["value"]) == (list(range(6)), list(range(6)))
    others = [10 + step if case == "each has its own list" or step % 2 else None for step in range(6)]
    assert data["history"]["other"] == others


def test_given_values_take_the_place_of_what_a_worker_thread_returned_too(tmp_path):
    monitoring = setup(tmp_path, [constant, lambda completions, **_: [0.0] * len(completions)], reward_names=["a", "b"])
    with ThreadPoolExecutor(1) as executor:
        for step in range(3):
            executor.submit(call, monitoring.get_wrapped_reward_functions()[:1], 4).result()
            monitoring.update_step(step, {"a": [9.0] * 4})
    monitoring.finalize()
    data = export(tmp_path)
    assert (data["steps"], data["series"]["a/count"], data["series"]["a/mean"]) == ([0, 1, 2], [4] * 3, [9.0] * 3)


def test_a_round_that_a_producer_is_between_two_functions_of_stays_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "_SETTLE_SECONDS", 2.0)  # on a busy machine a thread takes a while to go on

    def one(completions):
        return [1.0] * len(completions)

    def two(completions):
        return [2.0] * len(completions)

    monitoring = setup(tmp_path, [one, two])
    functions = monitoring.get_wrapped_reward_functions()
    called, goes_on = threading.Event(), threading.Event()

    def produce():
        functions[0](["c"] * 4)
        called.set()
        goes_on.wait(60)
        functions[1](["c"] * 4)

    producer = threading.Thread(target=produce)
    producer.start()
    called.wait(60)
    monitoring.update_step(0)
    goes_on.set()
    producer.join()
    monitoring.update_step(1)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["series"]["one/count"] == data["series"]["two/count"] == [4]
    assert data["stats"]["one"]["run/count"] == 4
    assert data["scalars"]["reward"] == 3.0


def test_functions_that_are_awaited_together_keep_their_round_where_a_step_ends_meanwhile(tmp_path):
    async def fast(completions):
        return [1.0] * len(completions)

    async def slow(completions):
        await goes_on.wait()
        return [2.0] * len(completions)

    monitoring = setup(tmp_path, [fast, slow])
    goes_on = asyncio.Event()

    async def train():
        batch = [f"{goes_on}"] * 4
        judged = asyncio.gather(*(f(batch) for f in monitoring.get_wrapped_reward_functions()))
        await asyncio.sleep(0.01)
        monitoring.update_step(0)
        monitoring.flush(60.0)
        goes_on.set()
        await judged
        monitoring.update_step(1)

    asyncio.run(train())
    monitoring.finalize()
    data = export(tmp_path)
    assert (data["steps"], data["series"]["fast/count"], data["series"]["slow/count"]) == ([1], [4], [4])
    assert data["scalars"]["reward"] == 3.0


def test_functions_of_a_round_on_several_threads_stay_together(tmp_path):
    goes_on, called = threading.Event(), threading.Event()

    def fast(completions):
        return [1.0] * len(completions)

    def slow(completions):
        called.set()
        goes_on.wait(60)
        return [2.0] * len(completions)

    monitoring = setup(tmp_path, [fast, slow])
    with ThreadPoolExecutor(2) as executor:
        batch = ["c"] * 4
        calls = [executor.submit(f, batch) for f in monitoring.get_wrapped_reward_functions()]
        calls[0].result()
        called.wait(60)
        monitoring.update_step(0)
        monitoring.flush(60.0)
        goes_on.set()
    monitoring.update_step(1)
    monitoring.finalize()
    data = export(tmp_path)
    assert (data["steps"], data["series"]["fast/count"], data["series"]["slow/count"]) == ([1], [4], [4])


@pytest.mark.parametrize("who", [0, 1])
def test_completions_that_a_function_changes_in_place_are_of_the_same_round(tmp_path, who):
    def changes(completions):
        completions[:] = [text.strip() for text in completions]
        return [1.0] * len(completions)

    def reads(completions):
        return [2.0] * len(completions)

    monitoring = setup(tmp_path, [changes, reads] if who == 0 else [reads, changes])
    for step in range(3):
        batch = [f" {step}"] * 4
        for function in monitoring.get_wrapped_reward_functions():
            function(batch)
        monitoring.update_step(step)
    monitoring.finalize()
    scalars = export(tmp_path)["scalars"]
    assert (scalars["reward"], scalars["reward_std"]) == (3.0, 0.0)


def test_calls_behind_the_end_are_not_kept(tmp_path):
    monitoring = setup(tmp_path, [constant])
    call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.update_step(0)
    monitoring.finalize()
    call(monitoring.get_wrapped_reward_functions(), 4)
    assert monitoring.intake._collector.waiting == 0
    assert monitoring.get_wrapped_reward_functions()[0].call_count == 2


@pytest.mark.parametrize("fault", ["sink", "directory"])
def test_a_sink_that_cannot_begin_costs_itself_only(tmp_path, caplog, fault):
    closed = []

    class NoServer(trm.MemorySink):
        def begin_run(self, manifest):
            raise ConnectionError("no server")

        def close(self):
            closed.append(self)

    kept = trm.MemorySink()
    monitoring = setup(tmp_path, [constant], sinks=[NoServer(), kept] if fault == "sink" else [kept])
    if fault == "directory":
        monitoring.run_dir.write_text("in the way")
    for step in range(4):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["series"]["constant/count"] == [4] * 4
    assert len(kept.records) == 1
    assert (monitoring.run_dir / "records.jsonl").is_file() == (fault == "sink")
    assert kept.records[0].scalars["monitoring/dropped_records"] == 1
    assert len(closed) == (fault == "sink")
    messages = [message for message in caplog.messages if "switched off" in message]
    assert [message.split()[0] for message in messages] == ["NoServer" if fault == "sink" else "JsonlSink"]
    assert ("no server" if fault == "sink" else "FileExistsError") in caplog.text


def test_a_reset_begins_anew_in_the_same_run(tmp_path):
    monitoring = setup(tmp_path, [constant], log_frequency=2)
    for step in range(6):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
        if step == 2:
            monitoring.flush(60.0)
            monitoring.reward_monitor.reset()
    monitoring.finalize()
    data = export(tmp_path)
    assert data["steps"] == [3, 4, 5]
    assert data["stats"]["constant"]["run/count"] == 12


def deleted():
    step = jnp.asarray(7)
    step.delete()
    return step


@pytest.mark.parametrize(
    "step", ["x", None, float("nan"), np.arange(2), jnp.arange(2), 1j, Unreadable(), deleted(), 2**63, 10**400]
)
def test_a_step_that_is_no_number_costs_the_number_only(tmp_path, step):
    monitoring = setup(tmp_path, [constant])
    with without_runtime_types():
        for given in (3, step):
            call(monitoring.get_wrapped_reward_functions(), 4)
            monitoring.update_step(given)
        monitoring.flush("x")
        monitoring.finalize(float("nan"))
    data = export(tmp_path)
    assert (data["steps"], data["series"]["constant/count"]) == ([3, 4], [4, 4])
    assert trm.History.read(monitoring.run_dir).steps().tolist() == [3, 4]


@pytest.mark.parametrize("step", [7, 7.9, "7", True, np.int64(7), jnp.int32(7), np.array([7]), [7], np.float32(7)])
def test_a_step_may_come_as_any_number(tmp_path, step):
    monitoring = setup(tmp_path, [constant])
    call(monitoring.get_wrapped_reward_functions(), 4)
    with without_runtime_types():
        monitoring.update_step(step)
        monitoring.finalize()
    assert export(tmp_path)["steps"] == [1 if step is True else 7]


@pytest.mark.parametrize(
    "columns", [{"num_generations": [4] * 4}, {"mode": ["math"] * 4}, {"trajectory_ids": 3}, {"mode": None}]
)
def test_columns_of_the_data_set_are_not_taken_for_the_trainers_words(tmp_path, columns):
    monitoring = setup(tmp_path, [constant])
    (wrapped,) = monitoring.get_wrapped_reward_functions()
    wrapped(prompts=["p"] * 4, completions=["c"] * 4, **columns)
    monitoring.update_step(0)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["series"]["constant/count"] == [4]
    assert data["modes"] == {}


def test_a_jax_result_may_be_donated_by_the_trainer(tmp_path):
    monitoring = setup(tmp_path, [lambda prompts, completions, **_: jnp.arange(4.0)], reward_names=["ramp"])
    (wrapped,) = monitoring.get_wrapped_reward_functions()
    double = jax.jit(lambda x: 2.0 * x, donate_argnums=0)
    for step in range(3):
        double(wrapped(prompts=["p"] * 4, completions=["c"] * 4)).block_until_ready()
        monitoring.update_step(step)
    monitoring.finalize()
    assert export(tmp_path)["history"]["ramp"] == [1.5] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:os.fork", "ignore:This process")
def test_a_forked_child_calls_the_functions_alone_whatever_locks_were_held(tmp_path):
    monitoring = setup(tmp_path, [constant])
    (wrapped,) = monitoring.get_wrapped_reward_functions()
    call([wrapped], 4)
    intake = monitoring.intake
    locks = [wrapped._lock, monitoring._lock, intake._collector._lock, intake._collector._rewards._lock]
    locks.append(monitoring.reward_monitor._lock)
    ready, done = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            ready.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    ready.wait()
    if not (child := os.fork()):
        try:
            results = call([wrapped], 4)
            monitoring.update_step(0)
            monitoring.metric_fn(completions=["c"] * 4, advantages=[1.0] * 4)
            monitoring.flush()
            monitoring.finalize()
            os._exit(0 if results == [[0.5] * 4] else 1)
        finally:
            os._exit(2)
    done.set()
    holder.join()
    alarm = threading.Timer(60.0, os.kill, (child, signal.SIGKILL))
    alarm.start()
    _, status = os.waitpid(child, 0)
    alarm.cancel()
    assert status == 0
    assert not (tmp_path / "monitoring_data.json").exists()
    monitoring.update_step(0)
    monitoring.finalize()
    assert export(tmp_path)["series"]["constant/count"] == [4]


@pytest.mark.parametrize("at_exit", ["atexit.register(monitoring.finalize)", "pass"])
def test_a_process_that_ends_loses_no_step_whether_finalize_comes_at_its_exit_or_not(tmp_path, at_exit):
    script = f"""
import atexit, sys
import tunrex_jax_monitor as trm
def half(prompts, completions, **_): return [0.0, 1.0]
monitoring = trm.setup_grpo_monitoring([half], use_wandb=False, verbose=False, output_dir=sys.argv[1], log_frequency=5)
{at_exit}
for step in range(40):
    for mode in ("train", "eval"):
        monitoring.get_wrapped_reward_functions()[0](prompts=["p"] * 2, completions=["c"] * 2, mode=mode)
    monitoring.update_step(step)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert "closed" not in done.stderr
    (run_dir,) = tmp_path.glob("run-*")
    assert trm.History.read(run_dir).series["half/count"] == [2] * 40
    if at_exit != "pass":
        data = export(tmp_path)
        assert data["steps"] == data["modes"]["eval"]["steps"] == list(range(40))


def test_two_on_one_directory_keep_their_files_apart(tmp_path, caplog):
    pair = [setup(tmp_path, [constant]) for _ in range(2)]
    for n, monitoring in enumerate(pair, start=1):
        for step in range(n):
            call(monitoring.get_wrapped_reward_functions(), 4)
            monitoring.update_step(step)
        monitoring.finalize()
    assert "is being written by another monitor" in caplog.text
    assert pair[1].output_dir == pair[1].run_dir
    for n, monitoring in enumerate(pair, start=1):
        assert export(monitoring.output_dir)["steps"] == list(range(n))
        assert FILES <= {path.name for path in monitoring.output_dir.iterdir()}
    caplog.clear()
    third = setup(tmp_path, [constant])
    assert third.output_dir == tmp_path
    assert "holds files of an earlier run" in caplog.text
    third.finalize()


def test_a_step_larger_than_the_window_costs_nothing(tmp_path, caplog):
    monitoring = setup(tmp_path, [constant], window_size=16)
    for step, size in enumerate((4, 12, 40)):  # warnings are errors here
        call(monitoring.get_wrapped_reward_functions(), size)
        monitoring.update_step(step)
    monitoring.finalize()
    assert export(tmp_path)["series"]["constant/count"] == [4, 12, 40]
    assert caplog.text.count("A step of 40 samples is larger than the window") == 1


def test_a_step_that_could_not_be_taken_is_counted(tmp_path, monkeypatch):
    monitoring = setup(tmp_path, [constant], log_frequency=1)
    fold = monitoring.reward_monitor.fold
    for step in range(4):
        monkeypatch.setattr(monitoring.reward_monitor, "fold", fold if step != 1 else lambda *_: 1 / 0)
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
        monitoring.flush(60.0)
    monitoring.finalize()
    data = export(tmp_path)
    assert data["steps"] == [0, 2, 3]
    assert data["scalars"]["monitoring/dropped_records"] == 1


def test_one_completion_per_prompt_makes_no_group(tmp_path):
    monitoring = setup(tmp_path, [constant])
    for step, generations in enumerate((1, 4)):
        call(monitoring.get_wrapped_reward_functions(), 4, num_generations=generations)
        monitoring.update_step(0) if step else None
    monitoring.finalize()
    assert export(tmp_path)["config"]["group_size"] == 4


def test_a_reward_called_advantages_keeps_keys_of_its_own(tmp_path):
    monitoring = setup(tmp_path, [constant], reward_names=["advantages"], log_frequency=1)
    call(monitoring.get_wrapped_reward_functions(), 4)
    monitoring.metric_fn(completions=["c"] * 4, advantages=[3.0] * 4)
    monitoring.update_step(0)
    monitoring.flush(60.0)
    monitoring.update_step(1, {"advantages": [0.5] * 4})
    monitoring.finalize()
    scalars = export(tmp_path)["scalars"]
    assert (scalars["advantages_reward/mean"], scalars["advantages/mean"]) == (0.5, 3.0)


def test_pictures_that_came_too_fast_are_told(tmp_path, caplog, monkeypatch):
    monitoring = setup(tmp_path, [constant], visualization_frequency=1)
    monkeypatch.setattr("tunrex_jax_monitor.host.report.child.RenderChild.start", lambda *_: None)
    for step in range(3):
        call(monitoring.get_wrapped_reward_functions(), 4)
        monitoring.update_step(step)
    monitoring.finalize()
    assert "There is no picture of step 1, 2" in caplog.text


def test_the_documents_attributes_and_detectors_are_reachable(tmp_path):
    monitoring = setup(tmp_path, [constant], log_frequency=7, summary_frequency=30)
    assert (monitoring.log_frequency, monitoring.summary_frequency, monitoring.visualization_frequency) == (7, 30, 0)
    assert (monitoring.use_wandb, monitoring.verbose, monitoring.enable_anomaly_detection) == (False, False, True)
    assert monitoring.reward_monitor.global_step == 0
    assert list(monitoring.function_monitor.wrapped_functions) == ["constant"]
    (detector,) = monitoring.reward_monitor.anomaly_detectors.values()
    assert detector is monitoring.reward_monitor.anomaly_detectors["constant"]
    monitoring.finalize()
