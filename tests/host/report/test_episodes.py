"""Episodes: from the bits of the series, with what the events say; the worst first."""

import dataclasses

import numpy as np
import pytest

from tests.host.report import runs
from tunrex_jax_monitor.device.alerts import TYPES as DEVICE_TYPES
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import AlertEvent, Record
from tunrex_jax_monitor.host.report.episodes import SEVERITY, TYPES, by_severity, collapse_limit, episodes

STEPS = 500


@pytest.fixture(scope="module")
def found():
    return episodes(History.of(runs.records(STEPS)))


def history(bits, events=(), names=("a",), first=0):
    """A run of one reward with these alert bits."""
    steps = list(range(first, first + len(bits)))
    series = {"step": steps, "a/alerts": bits, "a/ema_short": [float(s) for s in steps], "a/mean": [1.0] * len(bits)}
    return History.of([Record(steps[-1], len(bits), 0.0, {}, {}, series, tuple(events), names=names)])


def gone_back():
    """A run that went back from step 9 to step 4, with a fall in each of its lives."""
    lives = ((range(10), range(7, 9)), (range(4, 10), range(5, 6)))
    records = []
    for steps, falls in lives:
        bits = [2 * (step in falls) for step in steps]
        series = {"step": list(steps), "a/alerts": bits, "a/ema_short": [float(step) for step in steps]}
        updates = len(bits) + sum(len(record.series["step"]) for record in records)
        records.append(Record(9, updates, 0.0, {}, {}, series, (event(falls[0]),), names=("a",)))
    return History.of(records)


def event(step, kind="DROP", reward="a"):
    return AlertEvent(step, reward, kind, f"{kind}: {reward} - told", "Do this.", 0.5, 0.25)


def test_a_run_that_went_back_has_the_episodes_of_each_of_its_lives():
    assert [(e.first, e.last, e.message) for e in episodes(gone_back())] == [
        (7, 8, "DROP: a - told"),
        (5, 5, "DROP: a - told"),
    ]


@pytest.mark.parametrize(
    ("config", "limit"), [({}, 0.8), ({"collapse_threshold": 0.5}, 0.5), ({"collapse_threshold": "x"}, 0.8)]
)
def test_the_limit_of_collapsed_groups_is_that_of_the_run(config, limit):
    run = History()
    run.config = config
    assert collapse_limit(run) == limit


def test_the_types_are_those_of_the_device():
    assert tuple(kind.name for kind in DEVICE_TYPES) == TYPES
    assert set(SEVERITY) == set(TYPES)


def test_every_planted_fault_is_an_episode_with_its_steps(found):
    assert {(e.reward, e.type): (e.first, e.last) for e in found} == runs.planted(STEPS)
    assert [e.first for e in found] == sorted(e.first for e in found)
    assert all(e.remedy == "Look at what was planted." and e.threshold == 0.5 for e in found)


def test_the_peak_is_the_value_furthest_from_normal(found):
    peaks = {e.type: e.peak for e in found}
    run = History.of(runs.records(STEPS))
    first, last = runs.planted(STEPS)["answer", "DROP"]
    assert peaks["OUTLIER"] == runs.SPIKE_VALUE
    assert peaks["DROP"] == run.array("answer/ema_short")[first : last + 1].min()
    assert peaks["GROUP_COLLAPSE"] == 1.0


def test_an_episode_that_reaches_the_last_step_is_open(found):
    assert {e.type for e in found if e.is_open} == {"FLATLINE"}


def test_two_types_at_once_are_two_episodes():
    found = episodes(history([0, 2, 2 | 8, 8, 0]))
    assert [(e.type, e.first, e.last) for e in found] == [("DROP", 1, 2), ("FLATLINE", 2, 3)]


def test_bits_without_an_event_are_an_episode_all_the_same():
    (only,) = episodes(history([0, 2, 2]))
    assert (only.message, only.remedy, only.threshold, only.peak) == ("DROP: a", "", None, 1.0)


def test_an_event_without_bits_is_its_first_step():
    (only,) = episodes(history([0, 0, 0], [event(1)]))
    assert (only.first, only.last, only.is_open, only.message) == (1, 1, False, "DROP: a - told")


def test_every_event_goes_to_its_own_episode():
    bits = [0, 2, 2, 0, 0, 2, 0]
    found = episodes(history(bits, [event(1), event(5), event(6, "SPIKE")]))
    assert [(e.type, e.first, e.last, e.message) for e in found] == [
        ("DROP", 1, 2, "DROP: a - told"),
        ("DROP", 5, 5, "DROP: a - told"),
        ("SPIKE", 6, 6, "SPIKE: a - told"),
    ]


def test_thousands_of_episodes_are_all_found():
    bits = [1, 0] * 5000
    assert len(episodes(history(bits, [event(step, "OUTLIER") for step in range(0, 10_000, 2)]))) == 5000


def test_a_run_without_series_has_no_episodes():
    assert episodes(History()) == []


def test_open_before_past_then_the_worst_type_then_the_number():
    def episode(reward, kind, is_open):
        return dataclasses.replace(base, reward=reward, type=kind, is_open=is_open)

    (base,) = episodes(history([0, 2, 0]))
    given = [
        episode("past_nan", "NONFINITE", False),
        episode("open_outlier", "OUTLIER", True),
        episode("open_drop", "DROP", True),
        episode("one_spike", "SPIKE", False),
        *[episode("two_spikes", "SPIKE", False)] * 2,
    ]
    names = ["quiet", "one_spike", "two_spikes", "past_nan", "calm", "open_outlier", "open_drop"]
    assert by_severity(names, given) == [
        "open_drop", "open_outlier", "past_nan", "two_spikes", "one_spike", "quiet", "calm",
    ]  # fmt: skip


def test_a_peak_of_nothing_but_missing_values_is_none():
    run = history([0, 32])
    run.series._columns["a/mean"][1] = np.nan
    assert episodes(run)[0].peak is None
