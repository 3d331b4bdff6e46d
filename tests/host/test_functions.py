"""Wrapped reward functions: what the trainer sees stays as it was, and what we count is right."""

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.device.support import without_runtime_types
from tunrex_jax_monitor import RewardAccumulator, RewardFunctionMonitor, RewardFunctionWrapper
from tunrex_jax_monitor.host import names
from tunrex_jax_monitor.host.collector import Collector
from tunrex_jax_monitor.host.samples import capture, to_samples


def match(prompts, completions, answer=None, *, num_generations: int = 4, **kwargs):
    """Says what it does."""
    return [1.0] * len(completions)


class Judge:
    name = "mine"
    call_count = 77

    def __call__(self, prompts, completions, **kwargs):
        return np.zeros(len(completions))


def test_a_wrapper_looks_like_its_function():
    wrapper = RewardFunctionWrapper(match)
    assert inspect.signature(wrapper) == inspect.signature(match)
    assert (wrapper.__name__, wrapper.__doc__, wrapper.__wrapped__) == ("match", match.__doc__, match)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(match, answer=3), "match"),
        (functools.partial(functools.partial(match), answer=3), "match"),
        (Judge(), "Judge"),
        (lambda prompts: 0, "lambda"),
    ],
)
def test_partials_and_objects_get_a_name(function, name):
    wrapper = RewardFunctionWrapper(function)
    assert wrapper.__name__ == name
    assert inspect.signature(wrapper) == inspect.signature(function)


def test_attributes_of_the_function_do_not_overwrite_the_counters():
    wrapper = RewardFunctionWrapper(Judge())
    wrapper([], ["a"])
    assert (wrapper.call_count, wrapper.name) == (1, "Judge")


@pytest.mark.parametrize("value", [[1.0, None], np.arange(3), jnp.arange(3), 0.5, None, {"a": 1}, "text"])
def test_results_come_back_untouched(value):
    assert RewardFunctionWrapper(lambda: value)() is value


def test_errors_are_counted_told_once_and_raised(caplog):
    def broken(completions):
        raise KeyError("answer")

    wrapper = RewardFunctionWrapper(broken)
    for _ in range(3):
        with pytest.raises(KeyError, match="answer"):
            wrapper(["x"])
    stats = wrapper.get_stats()
    assert (stats["calls"], stats["errors"], stats["error_rate"]) == (3, 3, 1.0)
    assert stats["recent_errors"] == ["KeyError: 'answer'"] * 3
    assert caplog.text.count("Reward function broken raised") == 1


def test_an_async_function_stays_one_and_is_counted_when_it_has_been_awaited():
    async def judge(completions):
        await asyncio.sleep(0.01)
        return [1 / len(completions)]

    class Remote:
        async def __call__(self, completions):
            return [2.0]

    calls = []
    wrapper, remote = RewardFunctionWrapper(judge, listener=calls.append), RewardFunctionWrapper(Remote())
    assert asyncio.iscoroutinefunction(wrapper)
    assert asyncio.iscoroutinefunction(remote)
    assert not asyncio.iscoroutinefunction(RewardFunctionWrapper(match))
    pending = wrapper(["a"])
    assert wrapper.call_count == 0
    assert asyncio.run(pending) == [1.0]
    assert asyncio.run(remote(["a"])) == [2.0]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(wrapper([]))
    assert [call.samples.tolist() for call in calls] == [[1.0], []]
    assert (wrapper.call_count, wrapper.error_count) == (2, 1)
    assert wrapper.get_stats()["max_time"] >= 0.01


def test_a_call_that_is_cancelled_is_an_error():
    async def slow(completions):
        await asyncio.sleep(60)

    def interrupted(completions):
        raise KeyboardInterrupt

    wrapper, other = RewardFunctionWrapper(slow), RewardFunctionWrapper(interrupted)
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(wrapper(["a"]), 0.01))
    with pytest.raises(KeyboardInterrupt):
        other(["a"])
    assert [(w.call_count, w.error_count) for w in (wrapper, other)] == [(1, 1)] * 2


def test_attributes_of_the_function_are_there():
    function = functools.partial(match)
    function.weight = 2.5
    wrapper = RewardFunctionWrapper(function)
    assert (wrapper.weight, pickle.loads(pickle.dumps(wrapper)).weight) == (2.5, 2.5)
    assert not hasattr(wrapper, "other")


def test_a_masked_array_has_no_sample_where_it_is_masked():
    np.testing.assert_array_equal(to_samples(np.ma.array([1, 2], mask=[False, True])), [1.0, np.nan])


@pytest.mark.parametrize(("arguments", "message"), [((3,), "reward_fn: got 3"), ((match, 3), "name: got 3")])
def test_what_cannot_be_wrapped_is_refused(arguments, message):
    with without_runtime_types(), pytest.raises(ValueError, match=message):
        RewardFunctionWrapper(*arguments)


def test_calls_that_are_in_no_statistic_are_counted():
    wrapper = RewardFunctionWrapper(lambda value: value, listener=lambda call: call.samples is not None)
    for value in (1.0, "text", None, {"a": 1}):
        wrapper(value)
    assert wrapper.get_stats()["left_out"] == 2
    monitor = RewardFunctionMonitor()
    monitor.wrap(lambda value: value, "f")("text")
    assert "Left out of the statistics: 1" in monitor.format_summary()


def test_a_listener_that_raises_costs_the_caller_nothing(caplog):
    def listener(call):
        raise RuntimeError("no")

    wrapper = RewardFunctionWrapper(match, listener=listener)
    assert [wrapper([], ["a"]) for _ in range(3)] == [[1.0]] * 3
    assert caplog.text.count("could not be recorded") == 1


def test_no_argument_and_no_result_is_retained():
    class Payload(list):
        pass

    argument = Payload(["text"])
    wrapper = RewardFunctionWrapper(lambda completions: Payload([1.0]))
    alive = [weakref.ref(wrapper(argument)), weakref.ref(argument)]
    del argument
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_a_copy_is_the_wrapper_itself_as_with_a_function_and_pickling_leaves_counters_behind():
    wrapper = RewardFunctionWrapper(match, "named", listener=print)
    wrapper([], ["a"])
    assert copy.deepcopy([wrapper])[0] is wrapper
    assert copy.copy(wrapper) is wrapper
    other = pickle.loads(pickle.dumps(wrapper))
    assert (other.name, other.call_count, other([], ["a", "b"])) == ("named", 0, [1.0, 1.0])


def test_a_function_without_a_return_is_told_once(caplog):
    wrapper = RewardFunctionWrapper(lambda prompts, completions: None, "judge", listener=lambda call: True)
    for _ in range(3):
        assert wrapper([], ["a"]) is None
    (message,) = caplog.messages
    assert message == "Reward function judge returned None, which counts as NaN. Is a return missing?"


@pytest.mark.parametrize("result", ["2", ["1", 2.0], [None, "3"], np.array(["1"]), [b"1"], 1j, [object()]])
def test_text_is_no_number(result):
    with pytest.raises((TypeError, ValueError)):
        to_samples(result)


def test_counts_are_exact_under_threads():
    wrapper = RewardFunctionWrapper(match)
    threads = [threading.Thread(target=lambda: [wrapper([], ["a"]) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrapper.call_count == 4000


def test_recent_values_are_the_newest_samples():
    wrapper = RewardFunctionWrapper(lambda n: list(range(n)))
    wrapper(250)
    assert wrapper.recent_values == list(range(150, 250))
    assert wrapper.get_stats()["recent_values"] == list(range(240, 250))
    wrapper.reset()
    assert (wrapper.call_count, wrapper.recent_values) == (0, [])


def test_the_set_keeps_order_and_logs_the_documents_keys():
    monitor = RewardFunctionMonitor()
    wrapped = monitor.wrap_all([match, Judge()])
    wrapped[0]([], ["a"])
    assert list(monitor.wrapped_functions) == ["match", "Judge"]
    metrics = monitor.get_metrics_dict()
    keys = ("calls", "errors", "error_rate", "avg_time_ms", "max_time_ms")
    assert set(metrics) == {f"reward_fn/{name}/{key}" for name in ("match", "Judge") for key in keys}
    assert metrics["reward_fn/match/calls"] == 1.0
    assert 0 < metrics["reward_fn/match/avg_time_ms"] <= metrics["reward_fn/match/max_time_ms"]
    assert "match:\n  Calls: 1\n  Errors: 0 (0.0%)" in monitor.format_summary()
    assert monitor.wrap(match, "second", False, False).name == "second"
    assert [w.name for w in monitor.wrap_all([match], ["third"], log_errors=False, track_timing=False)] == ["third"]
    monitor.reset_all()
    assert monitor.get_metrics_dict()["reward_fn/match/calls"] == 0.0


def test_names_are_made_distinct_with_one_warning(caplog):
    found = names.assign([match] * 5, ["a/b", "a b", "sum", "reward", "advantages"])
    assert found == ["a_b", "a_b_2", "sum_reward", "reward_reward", "advantages_reward"]
    assert len(caplog.messages) == 1
    assert "'a b' is logged as 'a_b_2'" in caplog.text


@pytest.mark.parametrize(
    "given",
    [
        "//",
        "",
        " _ ",
        "<lambda>",
        "a/b c",
        "_sum_",
        "reward_fn",
        "reward_fn_",
        "eval",
        "\x00\x7f",
        "pr\xe9cis",
        "a" * 500,
        "%s",
        "{}",
        "a\x9b31m\u202e\ud800",
    ],
)
def test_a_cleaned_name_stays_as_it_is_and_is_accepted(given):
    name = names.clean(given)
    assert names.clean(name) == name == RewardAccumulator((name,)).reward_names[0]
    assert RewardFunctionWrapper(match, given).name == RewardFunctionWrapper(match, name).name == name


@pytest.mark.parametrize(
    ("functions", "given", "message"),
    [
        ([], None, r"reward_functions: got \[\], allowed: a list of one or more callables\. Pass"),
        (match, None, "reward_functions: got <function"),
        ([match, 3], None, "reward_functions: got"),
        ([match], ["a", "b"], "reward_names: got .*, allowed: 1 names, one per function"),
        ([match], "a", "reward_names: got 'a'"),
    ],
)
def test_what_are_no_reward_functions_is_refused(functions, given, message):
    with without_runtime_types(), pytest.raises(ValueError, match=message):
        names.assign(functions, given)


@pytest.mark.parametrize(
    ("result", "samples"),
    [
        ([1, None, 2.5], [1.0, np.nan, 2.5]),
        (np.ones((2, 2), bool), [1.0] * 4),
        (jnp.bfloat16(0.5), [0.5]),
        (None, [np.nan]),
        ([1e300], [np.inf]),
        ([], []),
    ],
)
def test_any_result_becomes_float32_samples(result, samples):
    found = to_samples(result)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, samples)


def test_a_column_called_self_and_a_method_are_called_as_before():
    wrapped = RewardFunctionWrapper(lambda **columns: [columns["self"]], name="column")
    assert wrapped(self=1.0) == [1.0]

    class Judge:
        @RewardFunctionWrapper
        def score(self, completions):
            return [float(len(c)) for c in completions]

    assert Judge().score(["ab"]) == [2.0]
    assert Judge.score.recent_values == [2.0]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda f: f(["p1", "p2"], ["r"] * 8), 8),
        (lambda f: f(prompts=["p1", "p2"], responses=["r"] * 8), 8),
        (lambda f: f([["a"] * 4, ["b"] * 4], None), 8),
    ],
)
def test_what_is_not_named_completions_says_nothing_of_how_many_there_are(call, expected):
    heard = []
    function = RewardFunctionWrapper(lambda prompts, responses: [1.0] * 8, "f", listener=heard.append)
    call(function)
    collector = Collector(("f",), None)
    assert collector.hear(heard[0]) is True
    ((round_,),) = collector.take("all").values()
    assert round_["f"].size == expected


@pytest.mark.parametrize("argument", ["log_errors", "track_timing", "listener"])
def test_a_flag_or_listener_that_is_none_is_refused(argument):
    with without_runtime_types(), pytest.raises(ValueError, match=f"{argument}: got 'no', allowed"):
        RewardFunctionWrapper(lambda completions: [1.0], **{argument: "no"})


def test_a_traced_or_complex_array_is_no_result():
    with pytest.raises(TypeError, match="got complex64, allowed: numbers"):
        capture(jnp.zeros(2, jnp.complex64))
    with pytest.raises(TypeError, match="got a traced array, allowed: numbers"):
        jax.eval_shape(capture, jnp.zeros(2))
