"""RewardMonitor, RewardStats, RewardAnomalyDetector and the logging backends: host objects over the device state."""

import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tests import reference
from tests.device.support import without_runtime_types
from tests.host.support import make_record

NAMES = ("a", "b")


def monitor(**options):
    return trm.RewardMonitor(NAMES, verbose=False, **{"log_frequency": 4} | options)


@pytest.fixture(scope="module")
def run():
    """Ten steps of samples, the last of them not emitted yet."""
    rng, watched, seen = np.random.default_rng(0), monitor(), {name: [] for name in NAMES}
    for step in range(10):
        rewards = {name: rng.normal(size=6).round(2) for name in NAMES}
        rewards["b"][0] = np.nan if step == 5 else rewards["b"][0]
        for name, values in rewards.items():
            seen[name].append(values.astype(np.float32).astype(float))
        stats = watched.update(rewards, step=100 + step)
    return watched, seen, stats


def test_update_returns_the_statistics_with_the_step_in_them(run):
    _, seen, stats = run
    for name in NAMES:
        x = reference.valid(np.concatenate(seen[name]))
        s = stats[name]
        assert isinstance(s, trm.RewardStats)
        assert (s.name, s.count) == (name, len(x))
        want = reference.statistics(x)
        for key in ("mean", "std", "min", "max", "median", "p10", "p25", "p75", "p90", "p99", "zeros_fraction"):
            assert getattr(s, key) == pytest.approx(want[key], rel=1e-5, abs=1e-6), key
        assert s.sum == pytest.approx(x.sum(), rel=1e-5)
        assert s.ema_short == pytest.approx(reference.ema(seen[name], 0.1), rel=1e-5)
        assert len(s.to_dict()) == 16
        assert s.to_dict()[f"{name}/mean"] == s.mean


def test_the_history_has_every_step_emitted_or_not(run):
    watched, seen, _ = run
    history = watched.get_history()
    assert history.series["step"] == list(range(100, 110))
    for name in NAMES:
        np.testing.assert_allclose(
            watched.reward_history[name], [np.nanmean(x) for x in seen[name]], rtol=1e-5, atol=1e-6
        )


def test_alerts_and_metrics_have_the_documents_keys(run):
    watched, *_ = run
    (alert,) = [a for a in watched.all_alerts if a["type"] == "NONFINITE"]
    assert {"step", "reward", "message", "value", "stats", "type"} <= alert.keys()
    assert (alert["step"], alert["reward"]) == (105, "b")
    assert alert["message"].startswith("NONFINITE: b")
    assert alert["stats"]["count"] == 5
    metrics = watched.get_metrics_dict()
    assert {"a/mean", "rewards/total_mean", "rewards/sum", "monitoring/total_alerts"} <= metrics.keys()
    assert "Reward Monitoring Summary (Step 109)" in watched.get_summary()
    assert watched.global_step == 109


def test_reset_forgets_everything():
    watched = monitor()
    watched.update({"a": 1.0, "b": 2.0})
    watched.reset()
    assert watched.global_step == 0
    assert watched.update({"a": 3.0})["a"].count == 1
    assert watched.global_step == 0


def test_before_the_first_step_there_is_nothing_and_no_error():
    watched = monitor()
    assert np.isnan(watched.stats["a"].mean)
    assert (watched.reward_history, watched.all_alerts, watched.get_metrics_dict()) == ({"a": [], "b": []}, [], {})
    assert "no valid sample" in watched.get_summary()
    watched.close()


def test_an_unknown_reward_is_refused():
    with pytest.raises(ValueError, match=r"rewards: got \['c'\], allowed: names among \('a', 'b'\)\. Correct"):
        monitor().update({"c": 1.0})


def test_steps_of_any_size_keep_their_samples():
    watched = monitor(group_size=2, window_size=64)
    for n in (2, 7, 0, 30, 1):
        watched.update({"a": np.arange(n), "b": np.arange(n)})
    assert watched.stats["a"].count == 40
    assert watched.get_history().series["a/count"] == [2, 7, 0, 30, 1]


def test_a_detector_tells_what_begins_and_keeps_rewards_apart():
    rng, detector = np.random.default_rng(1), trm.RewardAnomalyDetector()
    told = {"good": [], "reward": []}
    for step in range(60):
        for name in told:
            value = rng.normal(1.0, 0.1) if name == "good" or step < 40 else 0.0
            told[name] += [(step, m) for m in detector.detect(value, name, trm.RewardStats(name))]
    assert told["good"] == []
    assert any(m.startswith("DROP: reward - ") and 40 <= step < 50 for step, m in told["reward"])
    assert [m for _, m in detector_messages(detector, np.nan)] == ["NONFINITE"]


def detector_messages(detector, value):
    return [(0, m.split(":")[0]) for m in detector.detect(value, "good")]


@pytest.mark.parametrize(
    "options", [{"window_size": 0}, {"std_threshold": -1}, {"drop_threshold": 2}, {"spike_threshold": 0.5}]
)
def test_a_detector_refuses_bad_thresholds(options):
    with without_runtime_types(), pytest.raises(ValueError, match=r"got .*, allowed: "):
        trm.RewardAnomalyDetector(**options)


class Backend:
    def __init__(self):
        self.values, self.closed = [], 0

    def log_scalar(self, event, value, **kwargs):
        self.values.append((event, value, kwargs))

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("own", [True, False])
def test_a_backend_gets_every_scalar_at_its_step(own):
    backend = Backend()
    sink = trm.LoggingBackendSink(backend, own=own)
    sink.write(make_record(7, scalars={"a/mean": 0.5, "a/std": 0.25}))
    sink.close()
    sink.close()
    assert backend.values == [("a/mean", 0.5, {"step": 7}), ("a/std", 0.25, {"step": 7})]
    assert backend.closed == int(own)


def test_what_is_no_backend_is_refused():
    with (
        without_runtime_types(),
        pytest.raises(ValueError, match=r"backend: got .*, allowed: an object with log_scalar"),
    ):
        trm.LoggingBackendSink(object())


def test_scalars_of_others_come_into_our_records():
    collector, sink = trm.ScalarCollector(), trm.MemorySink()
    watched = trm.RewardMonitor(NAMES, verbose=False, sinks=[sink], extra_scalars=collector, log_frequency=4)
    for step in range(4):
        collector.log_scalar("actor/loss", np.float32(step), step=step)
        for value in ("text", 10**400, np.zeros(3)):
            collector.log_scalar("broken", value)
        collector.log_scalar("nan", float("nan"))
        collector.log_scalar("a/mean", -1.0)
        watched.update({"a": 1.0, "b": 0.0})
    watched.close()
    last = sink.records[-1].scalars
    assert last["actor/loss"] == 3.0
    assert last["a/mean"] == 1.0  # our own keys stay
    assert {"broken", "nan"}.isdisjoint(last)


def test_extra_scalars_that_fail_are_told_once(caplog):
    def fail():
        raise RuntimeError("no")

    sink = trm.MemorySink()
    watched = trm.RewardMonitor(NAMES, verbose=False, sinks=[sink], extra_scalars=fail, log_frequency=1)
    for _ in range(3):
        watched.update({"a": 1.0})
    watched.close()
    assert len(sink.records) >= 3
    assert caplog.text.count("extra_scalars failed") == 1
