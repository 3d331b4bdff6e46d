"""MetricsCollector, judged by numpy."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tunrex_jax_monitor import MetricsCollector


def test_statistics_and_histogram_are_those_of_what_was_added():
    collector, rng = MetricsCollector(), np.random.default_rng(0)
    blocks = [rng.normal(size=n).astype(np.float32) for n in (3, 40, 1)]
    for block in blocks:
        collector.add_dict({"reward": block.tolist(), "b/c": 1.0})
    x = np.concatenate(blocks).astype(float)
    want = {"mean": x.mean(), "std": x.std(), "min": x.min(), "max": x.max(), "median": np.median(x), "count": 44}
    assert collector.get_stats("reward") == pytest.approx(want, rel=1e-5)
    assert collector.get_all_stats()["b/c"]["count"] == 3
    counts, edges = collector.get_histogram_data("reward", bins=10)
    assert counts.sum() == 44
    assert len(edges) == len(counts) + 1 <= 11
    assert len(collector) == 44 + 3
    collector.reset()
    assert (len(collector), collector.get_all_stats(), collector.get_stats("reward")) == (0, {}, {})
    assert len(collector.get_histogram_data("reward")[0]) == 0


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="allowed: numbers and None"):
        MetricsCollector().add("a", "2")


def test_any_thread_may_add():
    collector = MetricsCollector()
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda value: collector.add("reward", float(value)), range(400)))
    assert len(collector) == 400
    assert collector.get_stats("reward")["mean"] == pytest.approx(199.5)
