"""Render: a template, a style sheet and scripts become one page that needs nothing else and asks nobody.

The content security policy names the hashes of the page's own scripts and of its style sheet: an injected one does
nothing, even if escaping were forgotten somewhere. (What a script sets in `element.style` needs no permission.)
"""

import base64
import functools
import hashlib
import json
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from tunrex_jax_monitor.host.report.html import encode, tables
from tunrex_jax_monitor.host.report.html.payload import SIGNS
from tunrex_jax_monitor.host.report.text import display_name, number, share, signed

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = resources.files("tunrex_jax_monitor")
_ASSETS = _PACKAGE / "host" / "report" / "html" / "assets"
_UPLOT = _PACKAGE / "_vendor" / "uplot"
_SCRIPTS = ("numbers", "sections", "charts", "heat", "view", "keys", "export", "main")  # in this order


def render(template: str, data: dict[str, Any], **context: Any) -> str:
    """Return a page.

    Args:
      template: a file of `assets`.
      data: what the script gets.
      **context: what the template gets; texts are escaped.
    """
    from markupsafe import Markup  # comes with jinja2, and is loaded with it

    library, script = _text(_UPLOT / "uPlot.iife.min.js"), _script()
    style = _text(_UPLOT / "uPlot.min.css") + _text(_ASSETS / "style.css")
    page = _environment().get_template(template)
    return page.render(
        version=metadata.version("tunrex-jax-monitor"),
        policy=_policy(style, library, script),
        style=Markup(style),
        data=Markup(encode.script_json(data)),
        library=Markup(library),
        script=Markup(script),
        library_license=_text(_UPLOT / "LICENSE"),
        library_version=json.loads(_text(_UPLOT / "manifest.json"))["version"],
        **context,
    )


@functools.cache
def _environment() -> "Environment":
    import jinja2  # only where a page is made: the package loads fast

    loader = jinja2.FunctionLoader(lambda name: _text(_ASSETS / name))
    environment: Environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        full=_full, number=number, signed=signed, share=share, kind=_kind, address=tables.address
    )
    environment.globals["steps"] = tables.step_range
    return environment


def _full(name: str) -> str:
    """Return a whole name without characters that act, for a tooltip."""
    return display_name(name, max(len(name), 1))


def _kind(alert_type: str) -> str:
    """Return the class of an alert type; a type from elsewhere is a text that must not become one."""
    return alert_type.lower() if alert_type in SIGNS else "other"


@functools.cache
def _script() -> str:
    parts = "\n".join(_text(_ASSETS / f"{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();'


def _policy(style: str, *scripts: str) -> str:
    hashes = " ".join(map(_hash, scripts))
    return f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _text(file: Any) -> str:
    text: str = file.read_text(encoding="utf-8")
    return text
