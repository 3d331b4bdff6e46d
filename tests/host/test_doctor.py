"""Each check of the doctor against a machine that has what it looks for."""

import json
import os
import sys
import types

import pytest

from tests.cli.support import call, environment, spawn
from tunrex_jax_monitor.host import doctor


def found(findings, check):
    return [finding for finding in findings if finding.check == check]


@pytest.fixture(scope="module")
def healthy():
    return doctor.diagnose()


def test_versions_and_devices_are_those_of_this_process(healthy):
    import jax

    (versions,) = found(healthy, "versions")
    assert f"jax {jax.__version__}" in versions.found
    (devices,) = found(healthy, "devices")
    assert devices.found.startswith("cpu:0 ")
    assert found(healthy, "process")[0].found.startswith("0 of 1;")


def test_a_package_that_is_missing_is_a_note_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (rich,) = found(doctor.diagnose(), "rich")
    assert (rich.status, rich.remedy) == ("note", "pip install 'tunrex-jax-monitor[terminal]'")


def test_a_directory_that_cannot_be_written_is_a_problem_and_none_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    findings = found(doctor.diagnose([tmp_path / "new" / "run", tmp_path / "file" / "run"]), "write")
    assert [finding.status for finding in findings] == ["ok", "problem"]
    assert "(to be made)" in findings[0].found
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_chip_that_jax_does_not_see_is_a_problem(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: path == "/dev/nvidia0")
    (devices, _) = doctor._found_devices(["cpu:0 cpu"], 0, 1)
    assert (devices.status, devices.remedy.split(",")[0]) == ("problem", 'pip install "jax[cuda13]"')
    (devices, _) = doctor._found_devices(["cuda:0 H100"], 0, 1)
    assert devices.status == "ok"


def test_devices_are_asked_for_in_another_process_which_may_hang(monkeypatch):
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(doctor, "_SECONDS", 0.1)
    monkeypatch.setattr(doctor, "_DEVICES", "import time; time.sleep(60)")
    (devices,) = doctor._devices()
    assert devices.status == "problem"
    assert "JAX_PLATFORMS=cpu" in devices.remedy


def test_a_slow_disk_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "_SECONDS", 0.1)
    monkeypatch.setattr(doctor, "_BACKEND", "import time; time.sleep(60)")
    (backend,) = doctor._matplotlib()
    assert (backend.status, backend.found) == ("note", "matplotlib took more than 0 s to import")


def test_a_listener_without_a_run_behind_it_is_a_problem(monkeypatch):
    import jax.monitoring

    def log_scalar(event, value, **_):
        raise AssertionError

    log_scalar.__module__ = "metrax.logging.wandb_backend"
    jax.monitoring.register_scalar_listener(log_scalar)
    try:
        monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=object()))
        assert [f.status for f in doctor._listeners()] == ["ok"]
        monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=None))
        (stale,) = doctor._listeners()
    finally:
        jax.monitoring.unregister_scalar_listener(log_scalar)
    assert stale.status == "problem"
    assert "metrax.logging.wandb_backend" in stale.found
    assert "unregister_scalar_listener" in stale.remedy


def test_an_active_wandb_run_is_told_with_how_our_rows_join_it(monkeypatch):
    run = types.SimpleNamespace(id="abc", step=7, settings=types.SimpleNamespace(mode="offline"))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run))
    (finding,) = doctor._wandb()
    assert finding.found.startswith("abc, offline, at step 7; opened by the training")


def test_a_check_that_fails_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "_terminal", lambda: 1 / 0)
    (finding,) = found(doctor.diagnose(), "terminal")
    assert (finding.status, finding.found) == ("problem", "ZeroDivisionError: division by zero")


# The command


def test_no_problem_is_exit_status_0_and_a_problem_1(tmp_path):
    (tmp_path / "file").write_text("")
    done = spawn("doctor", tmp_path, "--json")  # a process without what other tests left behind in this one
    document = json.loads(done.stdout)
    assert (done.returncode, document["problems"]) == (0, 0), done.stdout
    assert {"check", "status", "found", "remedy"} == set(document["findings"][0])
    result = call("doctor", tmp_path / "file" / "run", code=1)
    assert "\n  write: Choose another directory" in result.stdout.split("what to do")[1]
    assert "1 problem" in result.stderr


@pytest.mark.skipif(os.environ.get("JAX_PLATFORMS", "cpu") != "cpu", reason="needs a machine that computes on its CPU")
def test_as_a_process_it_finds_the_devices_and_a_backend_that_is_none(tmp_path):
    options = environment(MPLBACKEND="nonsense", JAX_PLATFORMS="cpu")
    done = spawn("doctor", tmp_path, "--json", **options)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["devices"]["found"] == "cpu:0 cpu"
    assert findings["backend"]["status"] == "problem"
    assert "MPLBACKEND" in findings["backend"]["remedy"]
    assert done.returncode == 1
