"""Every key of a record is a documented one, and every documented one occurs."""

import re

import numpy as np
import pytest

from tests.device.support import EVERYTHING, batch
from tests.host.streams import run_loop
from tunrex_jax_monitor import MemorySink, Record, Reporter, RewardAccumulator

ACC = EVERYTHING

# The specification. <name> is a reward, <TYPE> an alert, <k> a power of two.
WINDOW = "mean std min max median p10 p25 p75 p90 p99 count zeros_fraction negative_fraction positive_fraction"
REWARD = f"""
{WINDOW} frac_at_max frac_at_min ema_short ema_long nonfinite_count group_std frac_zero_std advantage_share length_corr
interval/mean interval/std interval/min interval/max interval/count
run/mean run/std run/min run/max run/skew run/kurtosis run/count
run/p01 run/p05 run/p10 run/p25 run/p50 run/p75 run/p90 run/p95 run/p99
"""
OTHER = """
rewards/total_mean rewards/total_std rewards/sum rewards/min_mean rewards/max_mean rewards/corr/<name>/<name>
reward reward_std frac_reward_zero_std
groups/solve_none groups/solve_all groups/solve_partial groups/pass_at_<k>
groups/std_mean groups/mean_std groups/effective_ratio groups/count groups/incomplete
completions/mean_length completions/min_length completions/max_length completions/reward_length_corr
alerts/<TYPE> alerts/total alerts/<name>/<TYPE>
monitoring/alert_count monitoring/total_alerts monitoring/step monitoring/dropped_records monitoring/overhead_ms
"""
SCALARS = [*(f"<name>/{key}" for key in REWARD.split()), *OTHER.split()]
HISTOGRAMS = ["<name>/histogram", "<name>/run/histogram"]
SERIES = [
    "step",
    *(
        f"{row}/{field}"
        for row in ("<name>", "reward")
        for field in ("mean", "std", "min", "max", "ema_short", "ema_long", "count", "frac_zero_std", "alerts")
    ),
]
NAME = "|".join(ACC.reward_names)
TYPE = "OUTLIER|DROP|SPIKE|FLATLINE|NEGATIVE|NONFINITE|SATURATION|GROUP_COLLAPSE"


def expression(pattern):
    names = f"{NAME}|reward" if pattern.startswith("alerts/") else NAME  # the weighted total has alerts of its own
    filled = pattern.replace("<name>", f"({names})").replace("<TYPE>", f"({TYPE})").replace("<k>", r"(1|2|4|8)")
    return re.compile(filled)


def unmatched(keys, patterns):
    """Keys that no pattern describes, and patterns that describe no key."""
    expressions = {pattern: expression(pattern) for pattern in patterns}
    strangers = [key for key in keys if not any(e.fullmatch(key) for e in expressions.values())]
    unused = [pattern for pattern, e in expressions.items() if not any(e.fullmatch(key) for key in keys)]
    return strangers, unused


@pytest.fixture(scope="module")
def record():
    """The last record of a run with everything switched on, and an alert."""
    sink = MemorySink()
    rng = np.random.default_rng(9)
    with Reporter(ACC, [sink]) as reporter:
        mon = ACC.init()
        for step in range(6):
            rewards = batch(step)
            rewards["answer"][0, 0] = np.nan if step == 5 else 0.5
            mon = ACC.update_jit(mon, rewards, lengths=rng.integers(1, 90, (4, 8)))
            mon = reporter.step(step, mon)
    return sink.records[-1]


def test_every_scalar_is_documented_and_every_documented_scalar_occurs(record):
    assert unmatched(record.scalars, SCALARS) == ([], [])


def test_every_histogram_is_documented_and_every_documented_histogram_occurs(record):
    assert unmatched(record.histograms, HISTOGRAMS) == ([], [])


def test_every_series_is_documented_and_every_documented_series_occurs(record):
    assert unmatched(record.series, SERIES) == ([], [])
    assert {len(values) for values in record.series.values()} == {2}


def test_every_value_is_a_finite_python_number(record):
    assert {type(value) for value in record.scalars.values()} == {float}
    assert np.isfinite([*record.scalars.values()]).all()
    assert {type(value) for value in record.counters.values()} == {int}


def test_a_state_read_directly_has_the_same_keys_but_for_what_the_reporter_knows():
    sink = MemorySink()
    with Reporter(ACC, [sink]) as reporter:
        mon = run_loop(reporter, 6)
    found = ACC.record(mon)
    assert {*sink.records[-1].scalars} - {*found.scalars} == {"monitoring/overhead_ms"}
    assert {*found.scalars} <= {*sink.records[-1].scalars}
    assert found.histograms == sink.records[-1].histograms


def test_without_data_a_key_is_absent():
    record = ACC.record(ACC.init())
    counts = "/count|_count|alerts|monitoring|incomplete"
    assert [key for key in record.scalars if not re.search(counts, key)] == []
    assert record.histograms == {}
    assert all(record.scalars[key] == 0 for key in record.scalars if key != "monitoring/step")


def test_a_plain_configuration_has_no_keys_of_groups_lengths_or_correlations():
    acc = RewardAccumulator(("format", "answer"), window_size=16)
    mon = acc.update_jit(acc.init(), {"format": np.ones(4, np.float32), "answer": np.zeros(4, np.float32)})
    strangers = "group|solve|pass_at|zero_std|share|length|corr"
    assert [key for key in acc.record(mon).scalars if re.search(strangers, key)] == []


def test_recent_alerts_that_the_state_has_forgotten_are_not_told():
    """The ring holds the eight newest of a row: from a state alone, no more than those of the trace is known."""
    acc = RewardAccumulator(("a",), detect="literal", log_frequency=10)
    state = acc.init()
    counts = []
    for step in range(60):
        value = np.nan if step < 20 else 10.0 ** (step % 4)
        state = acc.update_jit(state, {"a": np.r_[np.zeros(7, np.float32), np.float32(value)]})
        counts.append(acc.record(state).scalars.get("monitoring/alert_count"))
    assert counts[0] == 0
    assert counts[-1] is None
    known = [count for count in counts if count is not None]
    assert known == sorted(known)


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-4, 0.1, 3.0, 1e6, 2e15, -9e15, 1e16])
@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-3])
def test_a_record_of_any_magnitude_can_be_read_back(value, spread):
    acc, rng = RewardAccumulator(("a",), group_size=4, log_frequency=4), np.random.default_rng(0)
    state = acc.init()
    for _ in range(5):
        x = (value * (1 - spread * rng.random(8))).astype(np.float32)
        state = acc.update_jit(state, {"a": x}, lengths=np.full(8, 7.0, np.float32))
    record = acc.record(state)
    assert Record.from_json(record.to_json()) == record
    assert {name: sum(h.counts) for name, h in record.histograms.items()} == {"a/histogram": 40, "a/run/histogram": 40}


@pytest.mark.parametrize("step", [2**53 + 1, 2**63])
def test_a_step_that_no_reader_could_say_is_counted_on(step, caplog):
    acc, sink = RewardAccumulator(("a",), log_frequency=1), MemorySink()
    with Reporter(acc, [sink]) as reporter:
        reporter.step(step, acc.update_jit(acc.init(), {"a": np.ones(8, np.float32)}))
    assert sink.records[0].step == 0
    assert "it is beyond 2^53" in caplog.text
