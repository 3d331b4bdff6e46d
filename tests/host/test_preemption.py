"""SIGTERM: what is pending is written, then happens what would have happened. Each case is a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from tests.device.support import LEAN
from tests.host.support import ROOT, run_python
from tunrex_jax_monitor.host import transfer
from tunrex_jax_monitor.host.preemption import Preemption
from tunrex_jax_monitor.host.reporter import Reporter
from tunrex_jax_monitor.host.rundir import read_records

START = """
import os, signal, time
from tunrex_jax_monitor.host.preemption import Preemption
def say(text): os.write(1, f"{text}\\n".encode())
def flush(seconds):
    say("written")
    return True
def term(): os.kill(os.getpid(), signal.SIGTERM)
"""
ENDED = -signal.SIGTERM


def outcome(code):
    done = run_python(START + code)
    assert done.stderr == ""
    return done.stdout.split(), done.returncode


def test_without_a_handler_it_writes_and_ends_as_the_signal_does():
    assert outcome("p = Preemption(flush); p.install(); term(); say('alive')") == (["written"], ENDED)


def test_a_handler_that_is_there_is_called_behind_what_can_be_written_and_the_next_step_writes_again():
    code = """
signal.signal(signal.SIGTERM, lambda signum, frame: say(f"owner:{signum}:{frame is not None}"))
p = Preemption(lambda seconds: say("never"), flush); p.install(); term()
say(p.pending)
with p: say(p.take())
say(p.take())
"""
    assert outcome(code) == (["written", "owner:15:True", "True", "True", "False"], 0)


def test_a_handler_that_is_there_is_called_at_once_within_a_step():
    code = """
signal.signal(signal.SIGTERM, lambda *_: say("owner"))
p = Preemption(flush); p.install()
with p: term(); say(p.take())
"""
    assert outcome(code) == (["owner", "True"], 0)


def test_a_handler_that_ends_the_process_finds_all_written():
    code = """
def end(signum, frame): signal.signal(signum, signal.SIG_DFL); term()
signal.signal(signal.SIGTERM, end)
p = Preemption(flush); p.install(); term(); say("alive")
"""
    assert outcome(code) == (["written"], ENDED)


def test_a_handler_between_two_that_hold_the_signal_keeps_neither_from_writing():
    code = """
one, two = (Preemption(lambda seconds, name=name: say(name) or True) for name in ("one", "two"))
one.install()
below = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *arguments: below(*arguments))
two.install()
with two: term(); say("step of two")
say("alive")
"""
    found, ended = outcome(code)
    assert "alive" not in found
    assert {"one", "two"} <= set(found)
    assert ended == ENDED


def test_a_signal_that_comes_when_the_step_has_looked_already_waits_for_the_next_one():
    code = """
signal.signal(signal.SIGTERM, lambda *_: None)
p = Preemption(flush); p.install()
with p:
    say(p.take())
    term()
with p: say(p.take())
"""
    assert outcome(code) == (["False", "True"], 0)


def test_a_signal_within_a_step_writes_what_the_step_left():
    assert outcome("p = Preemption(flush); p.install()\nwith p: term(); say('step')\nsay('alive')") == (
        ["step", "written"],
        ENDED,
    )


def test_a_handler_that_exits_exits():
    code = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
p = Preemption(flush); p.install(); term()
"""
    assert outcome(code) == (["written"], 3)


def test_a_signal_that_was_ignored_stays_ignored():
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); p = Preemption(flush); p.install(); term(); say(p.pending)"
    assert outcome(code) == (["True"], 0)


def test_whoever_is_interrupted_on_the_way_out_holds_the_signal_back_until_the_next_step_only():
    code = """
p = Preemption(flush); p.install()
p.__enter__()  # and nobody leaves
with p: say("step")
term(); say("alive")
"""
    assert outcome(code) == (["step", "written"], ENDED)


@pytest.mark.parametrize(("closed", "written"), [("", ["one", "two"]), ("one.restore()", ["two"])])
def test_several_that_hold_the_signal_all_write(closed, written):
    code = f"""
one, two = (Preemption(lambda seconds, name=name: say(name) or True) for name in ("one", "two"))
one.install(); two.install()
{closed}
term(); say("alive")
"""
    found, ended = outcome(code)
    assert (sorted(found), ended) == (written, ENDED)


def test_of_several_one_that_has_to_wait_for_its_step_gets_it():
    code = """
states = []
one, two = Preemption(lambda seconds: bool(states)), Preemption(flush)
one.install(); two.install(); term()
with two: say("step of two")
with one: say("step of one"); states.append("fresh")
say("alive")
"""
    assert outcome(code) == (["written", "step", "of", "two", "step", "of", "one"], ENDED)


def test_while_the_state_is_in_the_owners_step_it_waits_for_the_next_of_ours():
    code = """
states = []
p = Preemption(lambda seconds: bool(states)); p.install(); term()
say("owner")
with p: say("step"); states.append("fresh")
say("alive")
"""
    assert outcome(code) == (["owner", "step"], ENDED)


def test_without_a_next_step_it_ends_after_the_grace():
    code = "p = Preemption(lambda seconds: False); p.install(grace_seconds=0.1); term()\nwhile True: time.sleep(0.01)"
    assert outcome(code) == ([], ENDED)


@pytest.mark.parametrize("broken", ["time.sleep(99)", "1 / 0"])
def test_a_flush_that_hangs_or_raises_does_not_hold_the_process(broken):
    code = f"p = Preemption(lambda seconds: {broken}); p.install(grace_seconds=0.1); term(); say('alive')"
    assert outcome(code) == ([], ENDED)


def test_a_second_signal_does_not_wait():
    code = (
        "p = Preemption(lambda seconds: False); p.install(grace_seconds=99); term(); say('once'); term(); say('twice')"
    )
    assert outcome(code) == (["once"], ENDED)


def test_a_forked_child_ends_without_writing():
    code = """
p = Preemption(flush); p.install()
child = os.fork()
if not child:
    term(); os._exit(0)
say(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
    assert outcome(code) == (["15"], 0)


def test_restore_gives_back_what_was_there():
    code = """
def own(*_): say("own")
for before in (own, signal.SIG_IGN, signal.SIG_DFL):
    signal.signal(signal.SIGTERM, before)
    p = Preemption(flush); p.install(); p.install(); p.restore(); p.restore()
    say(signal.getsignal(signal.SIGTERM) == before)
"""
    assert outcome(code) == (["True"] * 3, 0)


def test_a_handler_put_on_top_is_left_alone_and_reaches_the_one_below():
    code = """
signal.signal(signal.SIGTERM, lambda *_: say("below"))
p = Preemption(flush); p.install()
ours = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *at: (say("top"), ours(*at)))
p.restore(); term(); say(p.pending)
"""
    assert outcome(code) == (["top", "below", "False"], 0)


def test_who_has_left_from_below_a_handler_of_others_does_not_end_the_process_for_the_rest():
    code = """
states = []
one, two = Preemption(flush), Preemption(lambda seconds: bool(states))
one.install()
below = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *arguments: below(*arguments))
two.install()
one.restore()
term(); say("owner")
with two: states.append("fresh")
say("alive")
"""
    assert outcome(code) == (["owner"], ENDED)


def test_on_another_thread_it_is_refused():
    raised = []

    def install():
        try:
            Preemption(lambda seconds: True).install()
        except ValueError as error:
            raised.append(str(error))

    thread = threading.Thread(target=install, name="loader")
    thread.start()
    thread.join()
    assert raised[0].startswith("flush_on_sigterm: got a call on 'loader', allowed: on the main thread")


def test_importing_and_reporting_install_nothing():
    before = signal.getsignal(signal.SIGTERM)
    Preemption(lambda seconds: True).restore()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("given", "said"),
    [("", ["written"]), ("signal.signal(signal.SIGTERM, lambda *_: say('handler'))", ["written", "handler", "alive"])],
)
def test_a_process_that_takes_no_threads_any_more_writes_all_the_same(given, said):
    code = f"""
import threading
def refuse(self): raise RuntimeError("can't create new thread at interpreter shutdown")
{given}
p = Preemption(flush); p.install()
threading.Thread.start = refuse
term(); say("alive")
"""
    assert outcome(code) == (said, 0 if given else ENDED)


def test_what_is_at_work_then_ends_before_the_process_does():
    code = """
import threading
def refuse(self): raise RuntimeError("can't create new thread at interpreter shutdown")
p = Preemption(flush); p.install()
threading.Thread.start = refuse
with p: term(); say("step")
say("alive")
"""
    assert outcome(code) == (["step", "written"], ENDED)


def test_what_holds_the_signal_back_may_lie_within_another_that_does():
    code = """
p = Preemption(flush); p.install()
with p:
    with p.hold(): term()
    say("within")
say("alive")
"""
    assert outcome(code) == (["within", "written"], ENDED)


# With the device

JAX_NOTICE = """
import signal
import jax
jax.distributed.initialize("127.0.0.1:{port}", 1, 0)
import tunrex_jax_monitor as trm
trm.Reporter(trm.RewardAccumulator(("x",))).flush_on_sigterm()
print(signal.getsignal(signal.SIGTERM))
"""


def test_the_notice_of_jaxs_runtime_is_left_in_place(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code = JAX_NOTICE.format(port=free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"  # as Python says of a handler that is not its own
    assert "SIGTERM is left to JAX's distributed runtime" in done.stderr


def test_a_writer_that_takes_longer_than_the_handler_waits_says_of_each_step_what_it_was(tmp_path, monkeypatch):
    """Training goes on meanwhile, with the same states: neither steps nor values are mixed with those that follow."""
    emit, entered, goes_on = transfer.emit, threading.Event(), threading.Event()

    def emit_late(acc, state):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            goes_on.wait(60)
        return emit(acc, state)

    monkeypatch.setattr(transfer, "emit_compiled", lambda acc, state, _: emit_late(acc, state))
    update, state = jax.jit(LEAN.update), LEAN.init()
    with Reporter(LEAN, run_dir=tmp_path / "run") as reporter:
        for step in range(30):
            state = reporter.step(step, update(state, {"x": np.full(8, step, np.float32)}))
            if step == 9:
                writer = threading.Thread(target=reporter._flush_now, args=(60.0,))
                writer.start()
                entered.wait(60)
            if step == 10:
                goes_on.set()
                writer.join()
        reporter.close(state)
    logged = [pair for record in read_records(tmp_path / "run") for pair in zip(*series_of(record), strict=True)]
    assert logged == [(step, float(step)) for step in range(30)]


def series_of(record):
    return record.series["step"], record.series["x/mean"]


def test_a_state_that_another_thread_takes_meanwhile_waits_for_that_step(tmp_path, monkeypatch, caplog):
    def emit_taken(acc, state):
        LEAN.update_jit(state, {"x": np.ones(8, np.float32)})  # as the trainer does, and donates it
        return emit(acc, state)

    emit = transfer.emit
    with Reporter(LEAN, run_dir=tmp_path / "run") as reporter:
        reporter.step(0, LEAN.update_jit(LEAN.init(), {"x": np.zeros(8, np.float32)}))
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(transfer, "emit", emit_taken)
            assert reporter._flush_now(5.0) is False
        reporter.step(1, LEAN.update_jit(LEAN.init(), {"x": np.zeros(8, np.float32)}))
        assert reporter._flush_now(5.0) is True
    assert read_records(tmp_path / "run")[0].series["step"][-1] == 1
    assert caplog.messages == []


TRAINS = """
import logging, os, signal, sys
import jax, numpy as np
from tests.device.support import LEAN
from tunrex_jax_monitor import JsonlSink, Reporter
how, run_dir = sys.argv[1:]
logging.basicConfig(format="%(message)s")
if how == "owner":
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
mon = LEAN.init()
with Reporter(LEAN, run_dir=run_dir) as reporter:
    reporter.flush_on_sigterm()
    for step in range(100):
        mon = LEAN.update_jit(mon, {"x": np.full(8, step, np.float32)})
        if how == "inside" and step == 9:
            os.kill(os.getpid(), signal.SIGTERM)  # the state that the reporter knows is donated
        mon = reporter.step(step, mon)
        if how != "inside" and step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        if how == "owner" and stop and step == 14:
            break
print("closed")
"""


@pytest.mark.parametrize(("how", "last"), [("between", 9), ("inside", 9), ("owner", 14)])
def test_no_step_is_lost_and_none_told_twice(tmp_path, how, last):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", TRAINS, how, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("closed\n" if how == "owner" else "", "")
    assert done.returncode == (0 if how == "owner" else ENDED)
    records = read_records(tmp_path / "run")
    assert [step for record in records for step in record.series["step"]] == list(range(last + 1))
    assert "x/run/p50" in records[-1].scalars


WRAPPED = """
import logging, os, signal, sys
import tunrex_jax_monitor as trm
how, output_dir = sys.argv[1:]
logging.basicConfig(format="%(message)s")
if how == "owner":
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def grade(completions): return [float(text) for text in completions]
monitoring = trm.setup_grpo_monitoring(
    [grade], use_wandb=False, verbose=False, output_dir=output_dir, visualization_frequency=0
)
(function,) = monitoring.get_wrapped_reward_functions()
monitoring.flush_on_sigterm(grace_seconds=60)
for step in range(100):
    function(["0", str(step)])
    if how == "inside" and step == 14:
        os.kill(os.getpid(), signal.SIGTERM)
    if how != "unstepped":
        monitoring.update_step(step)
    if how != "inside" and step == 14:
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "owner" and stop and step == 15:
        os._exit(3)
"""


@pytest.mark.parametrize("how", ["between", "inside", "unstepped", "owner"])
def test_wrapped_functions_lose_no_step_either(tmp_path, how):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", WRAPPED, how, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    told = "update_step was never called: each of 15 rounds" if how == "unstepped" else ""
    assert (done.stdout, done.stderr[: len(told) or None]) == ("", told)
    assert done.returncode == (3 if how == "owner" else ENDED)
    (run_dir,) = tmp_path.glob("run-*")
    records = read_records(run_dir)
    last = 15 if how == "owner" else 14
    assert [step for record in records for step in record.series["step"]] == list(range(last + 1))
    assert [value for record in records for value in record.series["grade/max"]] == list(range(last + 1))
