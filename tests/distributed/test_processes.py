"""Real processes over loopback: one answer, one writer, and messages that name both sides."""

import hashlib

import numpy as np
import pytest

from tests.device import support
from tests.device.support import LEAN as ACC
from tests.distributed import jobs
from tests.distributed.worker import DIES_AT, STEPS, batch
from tunrex_jax_monitor.host.rundir import read_manifest, read_records


def digest(state) -> str:
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in state)).hexdigest()


@pytest.fixture(scope="module")
def alone():
    """What one device says: the state after the last step, with the intervals that a reporter ends."""
    state, emitted = ACC.init(), []
    for seed in range(STEPS):
        state = support.update(ACC, state, {"x": batch(seed)})
        if (seed + 1) % ACC.log_frequency == 0:
            emitted.append(ACC.record(state).scalars)
            state = support.reset_interval(ACC, state)
    return state, emitted


@pytest.fixture(scope="module")
def two_by_four(tmp_path_factory):
    """Two processes of four devices each, after `worker.everything`."""
    folder = tmp_path_factory.mktemp("two_by_four")
    statuses = jobs.run("everything", 2, 4, folder)
    assert statuses == [0, 0], jobs.output(folder, 0)[-3000:] + jobs.output(folder, 1)[-3000:]
    return folder


@pytest.mark.parametrize("how", ["jit", "shard_map"])
def test_two_processes_hold_the_bits_of_one_device(two_by_four, how, alone):
    assert {jobs.result(two_by_four, index)[how] for index in range(2)} == {digest(alone[0])}


@pytest.mark.parametrize("how", ["jit", "shard_map"])
def test_the_first_process_writes_the_log_of_one_device(two_by_four, how, alone):
    records = read_records(two_by_four / how)
    assert [record.step for record in records] == [3, 7, 11, 15, 19, 21]
    assert read_manifest(two_by_four / how)["processes"] == 2
    for record, scalars in zip(records, alone[1], strict=False):
        host = ("monitoring/",)
        assert {k: v for k, v in record.scalars.items() if not k.startswith(host)} == {
            k: v for k, v in scalars.items() if not k.startswith(host) and "/run/p" not in k
        }


def test_each_process_says_once_what_it_does(two_by_four):
    first, second = (jobs.output(two_by_four, index) for index in range(2))
    assert first.count("Reward monitor: process") == second.count("Reward monitor: process") == 1
    assert "process 0 of 2 reads, writes and logs for all of them." in first
    assert "process 1 of 2 dispatches and stays quiet; process 0 writes." in second


@pytest.mark.parametrize("index", [0, 1])
def test_different_configurations_are_refused_on_both_sides(two_by_four, index):
    error = jobs.result(two_by_four, index)["differ"]
    assert error.startswith(
        f"ValueError: log_frequency: got {5 + index} on process {index} and {6 - index} on process {1 - index}"
    )
    assert "allowed: one value on all processes" in error
    assert "Give them the same configuration" in error


def test_a_process_that_makes_no_reporter_costs_a_warning(two_by_four):
    assert jobs.output(two_by_four, 0).count("Process 1 of the job has made no Reporter within 1 s of process 0") == 1


def test_only_the_first_process_of_a_facade_writes_logs_and_draws(two_by_four):
    first, second = (jobs.output(two_by_four, index) for index in range(2))
    assert (two_by_four / "facade/of-0/monitoring_data.json").is_file()
    assert not (two_by_four / "facade/of-1").exists()
    assert "Reward Monitoring System Initialized" in first
    gloo = ("[Gloo]", "peer ranks")  # its threads may tear a line of theirs apart
    told = [line for line in second.splitlines() if not any(word in line for word in gloo)]
    assert len(told) == 1  # what it does
    assert jobs.result(two_by_four, 0)["draws"]
    assert not jobs.result(two_by_four, 1)["draws"]
    assert not jobs.result(two_by_four, 1)["uses_wandb"]


@pytest.fixture(scope="module")
def four_by_one(tmp_path_factory):
    """Four processes of one device each; the second differs from the others in its last configuration."""
    folder = tmp_path_factory.mktemp("four_by_one")
    assert jobs.run("plain", 4, 1, folder) == [0] * 4, jobs.output(folder, 0)[-3000:]
    return folder


def test_four_processes_hold_the_bits_of_one_device(four_by_one, alone):
    assert {jobs.result(four_by_one, index)["jit"] for index in range(4)} == {digest(alone[0])}


def heard(folder, what):
    return [jobs.result(folder, index).get(what) for index in range(4)]


def test_who_agrees_with_the_first_process_is_told_of_another_that_does_not(four_by_one):
    told = heard(four_by_one, "differ")
    assert told[1].startswith("ValueError: log_frequency: got 6 on process 1 and 5 on process 0")
    assert told[0].startswith("ValueError: log_frequency: got 5 on process 0 and 6 on process 1")
    assert told[2] == told[3] == told[0]


def test_a_process_that_does_not_come_hides_no_other_that_differs(four_by_one):
    told = heard(four_by_one, "one missing")
    assert told[0].startswith("ValueError: log_frequency: got 5 on process 0 and 6 on process 3")
    assert told[3].startswith("ValueError: log_frequency: got 6 on process 3 and 5 on process 0")


def test_where_the_first_process_cannot_begin_no_other_goes_on(four_by_one):
    first, *others = heard(four_by_one, "in use")
    assert first.startswith("FileExistsError: ")
    assert others == [f"ValueError: Process 0 could not begin, so no other has to: {first}"] * 3


def test_sigterm_is_left_to_the_job(four_by_one):
    assert heard(four_by_one, "handler") == ["0"] * 4  # as Python says of a handler that is not its own
    assert "SIGTERM is left to JAX's distributed runtime" in jobs.output(four_by_one, 1)


def test_a_killed_process_leaves_what_was_emitted(tmp_path, alone):
    statuses = jobs.run("dies", 2, 1, tmp_path)
    assert statuses[1] == 9
    assert statuses[0] != 0  # JAX ends what is left of the job
    records = read_records(tmp_path / "jit")
    emitted = DIES_AT // ACC.log_frequency
    assert [record.step for record in records[:emitted]] == [3, 7, 11]
    for record, scalars in zip(records[:emitted], alone[1], strict=False):
        assert record.scalars["x/run/mean"] == scalars["x/run/mean"]
