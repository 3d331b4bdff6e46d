"""The library that the HTML report carries: the published files, unchanged, with licence and origin."""

import hashlib
import json
import tomllib

import pytest

from tests.test_package import CHECKOUT, PACKAGE

UPLOT = PACKAGE / "_vendor" / "uplot"
MANIFEST = json.loads((UPLOT / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(MANIFEST["sha256"]))
def test_vendored_file_is_the_published_one(name):
    assert hashlib.sha256((UPLOT / name).read_bytes()).hexdigest() == MANIFEST["sha256"][name]


def test_manifest_names_every_file_and_the_pinned_version():
    assert {path.name for path in UPLOT.iterdir()} == {*MANIFEST["sha256"], "manifest.json"}
    assert MANIFEST["version"] == "1.6.32"
    assert f"(v{MANIFEST['version']})" in (UPLOT / "uPlot.iife.min.js").read_text(encoding="utf-8")[:100]
    assert MANIFEST["sha256"]["uPlot.iife.min.js"].startswith("19c8d4c6ad88")


def test_the_licence_goes_with_it():
    assert "The MIT License (MIT)" in (UPLOT / "LICENSE").read_text(encoding="utf-8")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0 AND MIT"
    assert "tunrex_jax_monitor/_vendor/uplot/LICENSE" in project["license-files"]
