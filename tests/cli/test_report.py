import importlib.util
import re

import pytest

from tests.cli.support import STEPS, call, call_json, export_file, healthy, run_dir
from tests.host.support import make_record
from tunrex_jax_monitor.cli import span
from tunrex_jax_monitor.cli.options import Problem
from tunrex_jax_monitor.host.history import History


def test_the_page_goes_where_it_is_told_and_its_path_is_printed(tmp_path):
    target = tmp_path / "page.html"
    result = call("report", run_dir(), "-o", target)
    assert result.stdout == f"{target}\n"
    assert target.read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_by_default_it_goes_into_the_run_directory(tmp_path):
    run = healthy(tmp_path / "run", steps=30)
    assert call("report", run).stdout == f"{run / 'report.html'}\n"
    assert (run / "report.html").is_file()


def test_a_dash_streams_the_page_and_nothing_else():
    result = call("report", run_dir(), "-o", "-")
    assert result.stdout.startswith("<!doctype html>")
    assert result.stdout.rstrip().endswith("</html>")


def test_png_draws_the_dashboard_beside_the_page_or_into_a_directory(tmp_path):
    pytest.importorskip("matplotlib")
    run = healthy(tmp_path / "run", steps=30)
    call("report", run, "--png")
    assert (run / "dashboard.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "pictures").mkdir()
    written = call_json("report", run, "--png", tmp_path / "pictures", "--force")["written"]
    assert written == [str(run / "report.html"), str(tmp_path / "pictures" / "dashboard.png")]
    assert len(list((tmp_path / "pictures").iterdir())) == 1


def test_without_matplotlib_a_drawing_is_refused_before_any_work(tmp_path, monkeypatch):
    run = healthy(tmp_path / "run", steps=10, rewards=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    stderr = call("report", run, "--png", code=2).stderr
    assert "got no matplotlib" in stderr
    assert "pip install 'tunrex-jax-monitor[plots]'" in stderr
    assert not (run / "report.html").exists()


def test_png_may_stand_before_the_run(tmp_path):
    pytest.importorskip("matplotlib")
    run = healthy(tmp_path / "run", steps=30)
    call("report", "--png", run)
    assert (run / "dashboard.png").is_file()
    assert "Missing argument 'RUN'" in call("report", "--png", code=2).stderr


def test_more_rewards_than_a_page_holds_go_on_more_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    run = healthy(tmp_path / "run", steps=20, rewards=10)
    written = call_json("report", run, "--png")["written"]
    assert written == [str(run / name) for name in ("report.html", "dashboard.png", "dashboard-2.png")]
    (run / "report.html").unlink()
    (run / "dashboard.png").unlink()
    assert "dashboard-2.png', which exists" in call("report", run, "--png", code=2).stderr
    assert not (run / "dashboard.png").exists()


def test_nothing_is_replaced_without_force(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("mine")
    result = call("report", run_dir(), "-o", target, code=2)
    assert re.search(r"output: got '.*page.html', which exists, allowed: a new file. .* add --force", result.stderr)
    assert target.read_text() == "mine"
    call("report", run_dir(), "-o", target, "--force")
    assert target.read_text() != "mine"


def test_a_directory_that_is_not_there_is_told_with_how_to_make_it(tmp_path):
    stderr = call("report", run_dir(), "-o", tmp_path / "missing" / "page.html", code=2).stderr
    assert "in a directory that does not exist" in stderr
    assert f"mkdir -p '{tmp_path / 'missing'}'" in stderr
    assert "which is a directory" in call("report", run_dir(), "-o", tmp_path, code=2).stderr


def test_two_documents_do_not_share_stdout():
    assert "allowed: one of them on stdout" in call("report", run_dir(), "-o", "-", "--json", code=2).stderr


def test_an_export_file_is_reported_beside_itself(tmp_path):
    export_file(tmp_path / "monitoring_data.json")
    call("report", tmp_path / "monitoring_data.json")
    assert (tmp_path / "report.html").is_file()


# --steps


@pytest.mark.parametrize(("text", "steps"), [
    ("100:200", range(100, 201)),
    ("395:", range(395, STEPS)),
    (":7", range(8)),
    ("13:13", range(13, 14)),
])  # fmt: skip
def test_steps_cut_the_series_and_the_alerts(text, steps):
    from tunrex_jax_monitor.cli.runs import load, records_of

    path, history = load(run_dir())
    part = span.cut(history, records_of(path, history), text)
    assert part.series["step"] == list(steps)
    assert part.series["answer/mean"] == history.series["answer/mean"][steps[0] : steps[-1] + 1]
    assert [alert.step for alert in part.alerts] == [a.step for a in history.alerts if a.step in steps]
    assert part.last.step == steps[-1]


def test_what_goes_back_to_the_beginning_of_the_run_is_no_part_of_it():
    scalars = {"a/mean": 1.0, "a/run/mean": 2.0, "a/nonfinite_count": 3}
    run = [make_record(t, names=("a",), series={"step": [t]}, scalars=scalars, counters={"a/nan": 1}) for t in range(3)]
    history = History()
    for record in run:
        history.write(record)
    late, early = span.cut(history, run, "1:"), span.cut(history, run, ":1")
    assert (late.last.scalars, late.last.counters) == ({"a/mean": 1.0}, {})
    assert (early.last.scalars, early.last.counters) == (scalars, {"a/nan": 1})


def test_a_page_of_some_steps_is_another_page(tmp_path):
    whole, part = (call("report", run_dir(), "-o", "-", *more).stdout for more in ((), ("--steps", "100:200")))
    assert "<h1>Rewards of steps 100 to 200</h1>" in part
    assert "steps 100 to 200; statistics and counts that go back to the beginning of the run are left out" in part
    assert f"<h1>Rewards up to step {STEPS - 1}</h1>" in whole


@pytest.mark.parametrize("text", ["", ":", "a:b", "5", "1:2:3", "-:3", "1.5:2", "9:3"])
def test_steps_that_cannot_be_read_are_refused(text):
    with pytest.raises(Problem, match=r"--steps: got .*, allowed: .* Write"):
        span.parse(text)


def test_steps_beyond_the_run_are_refused_with_those_that_there_are():
    stderr = call("report", run_dir(), "-o", "-", "--steps", "1000:", code=2).stderr
    assert "there is no step" in stderr
    assert f"the run has steps 0 to {STEPS - 1}" in stderr
