"""The campaign is run, in a process that may fork; and it notices what it is there to notice."""

import json
import random
import subprocess
import sys
import time

import pytest

from tests.faults import campaign, files, lives, writers
from tests.host.support import ROOT
from tunrex_jax_monitor.host import preemption, resuming
from tunrex_jax_monitor.host.sinks import jsonl
from tunrex_jax_monitor.host.sinks.jsonl import JsonlSink
from tunrex_jax_monitor.host.worker import SinkWorker

RUNS = 210


@pytest.fixture(scope="module")
def result():
    command = [sys.executable, "-m", "tests.faults", "--runs", str(RUNS), "--seed", "7", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_every_run_survives_and_nothing_is_lost_beyond_the_promise(result):
    assert result["problems"] == {}
    assert result["lost"] == 0


def test_every_fault_was_met(result):
    assert result["runs"] == sum(result["of"].values()) == RUNS
    assert min(result["of"].values()) > 0


# What the campaign would say of a package that breaks its promises. These fork, from a process with JAX in it that
# only runs Python there.

MUTANTS = {
    "a torn line stays": (resuming, "end_of_lines", lambda path: path.stat().st_size, lives.resume),
    "steps are written twice": (JsonlSink, "_new", lambda self, record: record, lives.resume),
    "part of a line stays": (jsonl, "append", lambda file, data: _append_carelessly(file, data), writers.fill),
    "a removed file is written": (JsonlSink, "_require_there", lambda self, file: None, writers.vanish),
    "drops are not counted": (SinkWorker, "_drop", lambda self: None, writers.fill),
    "a signal ends it at once": (preemption._Handler, "is_written", lambda self: True, lives.preempt),
    "nobody locks": (JsonlSink, "_lock", lambda self, file: file, lives.second),
    "a file is replaced in place": (
        files,
        "write_atomically",
        lambda path, text: _write_slowly(path, text),
        files.replace,
    ),
}


def _append_carelessly(file, data):
    while data:
        data = data[file.write(data) :]


def _write_slowly(path, text):
    with path.open("w") as file:
        for start in range(0, len(text), 10_000):
            file.write(text[start : start + 10_000])
            file.flush()
            time.sleep(5e-4)


@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_promise_is_noticed(mutant, monkeypatch):
    home, name, broken, fault = MUTANTS[mutant]
    monkeypatch.setattr(home, name, broken)
    seeds = (f"{mutant}:{n}" for n in range(40))
    assert any(campaign.run_one(mutant, fault, seed).outcome.problems for seed in seeds)


def test_a_seed_brings_the_same_run_back(tmp_path):
    data = bytes(range(256)) * 8
    assert files._damaged(random.Random("1:x:0"), data) == files._damaged(random.Random("1:x:0"), data)
