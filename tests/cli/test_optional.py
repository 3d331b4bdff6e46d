"""What is not installed is told with the line that installs it."""

import importlib.util
import sys

import pytest

import tunrex_jax_monitor as trm
from tests.cli.support import call, run_dir

MAKERS = {
    "wandb": ("wandb", lambda path: trm.WandbSink()),
    "tensorboardX": ("tensorboard", lambda path: trm.TensorBoardSink(path)),
    "tunix.rl": ("tunix", lambda path: trm.register_reward_manager(object.__new__(trm.GRPOMonitoringIntegration))),
    "matplotlib.style": ("plots", lambda path: trm.RewardVisualizer()),
}


@pytest.fixture(params=list(MAKERS))
def missing(request, monkeypatch):
    for module in [request.param, *(name for name in sys.modules if name.startswith(f"{request.param}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    return request.param


def test_a_missing_package_is_told_with_its_extra(missing, tmp_path):
    extra, make = MAKERS[missing]
    package = missing.partition(".")[0]
    with pytest.raises(ImportError, match=rf"^{package}: got .*pip install 'tunrex-jax-monitor\[{extra}\]'$"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("target", "module"), [("wandb", "wandb"), ("tensorboard", "tensorboardX"), ("parquet", "pyarrow")]
)
def test_an_export_without_its_package_is_refused(monkeypatch, tmp_path, target, module):
    monkeypatch.setitem(sys.modules, module, None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else find(name, *more))
    result = call("export", run_dir(), "--to", target, "-o", tmp_path / "out", code=2)
    assert f"pip install 'tunrex-jax-monitor[{target}]'" in result.stderr
