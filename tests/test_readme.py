"""The README is run: programs print what stands below them, tables name what the code has."""

import ast
import contextlib
import inspect
import io
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tunrex_jax_monitor as trm
from tunrex_jax_monitor.device.alerts import TYPES

README = (Path(__file__).parents[1] / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", README, flags=re.S)


@pytest.mark.filterwarnings("ignore:.*rank_promotion")
@pytest.mark.parametrize(("program", "output"), PROGRAMS)
def test_programs_print_what_the_readme_shows(
    program: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert printed.getvalue() == output


def test_every_python_block_has_its_output() -> None:
    assert len(PROGRAMS) == README.count("```python")


def test_the_first_program_is_short_and_shown_with_its_output_before_line_20() -> None:
    program, output = PROGRAMS[0]
    assert program.count("\n") <= 12
    lines = README.split("\n")
    assert lines.index(output.rstrip("\n").split("\n")[-1]) + 1 < 20


@pytest.mark.parametrize("name", ["main job", "tests"])
def test_each_command_is_one_line_that_sets_up_everything(name: str) -> None:
    command = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", README, flags=re.S)
    assert command is not None
    assert command[1].count("\n") == 1
    assert command[1].startswith("python3 -m venv .venv && .venv/bin/pip install")


def _documented_keys() -> set[str]:
    rows = [line for line in README.split("## Keys")[1].split("## Alerts")[0].split("\n") if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])}


def _recorded_keys(run_dir: Path) -> set[str]:
    """Return every key of a run with all features, with its names replaced by placeholders."""
    names = ("left", "right")
    acc = trm.RewardAccumulator(names, group_size=4, correlations=True, log_frequency=5, min_samples=4, window_size=64)
    state, rng, keys = acc.init(), np.random.default_rng(0), set[str]()
    with trm.Reporter(acc, run_dir=run_dir) as reporter:
        for step in range(7):
            rewards = {name: rng.normal(size=(8, 4)).astype(np.float32) for name in names}
            rewards["left"][0, 0] = np.nan
            state = acc.update_jit(state, rewards, lengths=rng.integers(1, 9, (8, 4)).astype(np.float32))
            state = reporter.step(step, state)
    for record in trm.read_records(run_dir):
        keys |= set(record.scalars) | set(record.histograms)
    types = "|".join(str(kind.name) for kind in TYPES)
    keys = {re.sub(r"^rewards/corr/left/right$", "rewards/corr/<a>/<b>", key) for key in keys}
    keys = {re.sub(r"^alerts/(?:left|right|reward)/", "alerts/<name>/", key) for key in keys}
    keys = {re.sub(rf"^(alerts/(?:<name>/)?)(?:{types})$", r"\1<TYPE>", key) for key in keys}
    keys = {re.sub(r"^(?:left|right)/", "<name>/", key) for key in keys}
    return {re.sub(r"pass_at_\d+$", "pass_at_<k>", key) for key in keys}


def test_the_key_table_lists_exactly_the_keys_of_a_run(tmp_path: Path) -> None:
    assert _documented_keys() == _recorded_keys(tmp_path / "run")


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the rows below a heading whose first cell is code."""
    section = re.split(r"^#+ ", README.split(f"# {heading}\n")[1], flags=re.M)[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.split("\n") if line.startswith("| ")]


@pytest.mark.parametrize(
    ("heading", "signature_of"),
    [
        ("RewardAccumulator", trm.RewardAccumulator),
        ("Reporter", trm.Reporter),
        ("WandbSink", trm.WandbSink),
        ("setup_grpo_monitoring", trm.GRPOMonitoringIntegration),  # which takes all of its arguments
    ],
)
def test_each_table_of_arguments_lists_all_of_them_with_their_defaults(
    heading: str, signature_of: Callable[..., object]
) -> None:
    documented = {}
    for names, default, _ in _rows(heading)[1:]:
        keys = re.findall(r"`([*\w]+)`", names)
        documented |= dict(zip(keys, re.split(r", (?!\))", default), strict=True))
    parameters = {str(p).split(":")[0]: p for p in inspect.signature(signature_of).parameters.values()}
    assert documented.keys() == parameters.keys()
    for name, default in documented.items():
        if default.endswith(" each"):
            assert parameters[name].default is None, name
        elif default:
            assert ast.literal_eval(default) == parameters[name].default, name
        else:
            assert parameters[name].default is inspect.Parameter.empty, name


def test_the_table_of_extras_lists_all_of_them() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    documented = [extra for row in _rows("Install")[2:] for extra in re.findall(r"`(\w+)`", row[0])]
    assert sorted(documented) == sorted(project["optional-dependencies"])


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", README)
    assert links
    for file, anchor in links:
        assert not file or (root / file).is_file(), file
        if anchor:
            text = (root / file).read_text() if file else README
            headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}, anchor


def test_the_alert_table_lists_exactly_the_alert_types() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \|", README.split("## Alerts")[1], flags=re.M)
    assert rows == [kind.name for kind in TYPES]
