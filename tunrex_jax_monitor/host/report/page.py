"""One HTML page of a run: the figures of each reward, its course, and the alerts. Self-contained, no script."""

import html
import os
from pathlib import Path
from typing import Any

from tunrex_jax_monitor.host.files import write_atomically
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.report.visualizer import to_history

_FIELDS = ("mean", "std", "min", "median", "max", "ema_short", "ema_long", "count")
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #0072B2; --alert: #CC3311 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line) }
td { text-align: right; font-variant-numeric: tabular-nums } th:first-child, td:first-child { text-align: left }
.scroll { overflow-x: auto } .alert { border-left: 4px solid var(--alert); padding: .2rem .8rem; margin: .5rem 0 }
polyline { fill: none; stroke: var(--accent); stroke-width: 1.5 } small { opacity: .7 }
"""


def create_monitoring_summary_html(
    reward_monitor: Any, output_path: str | os.PathLike[str] = "monitoring_summary.html"
) -> Path:
    """Write the page, and return its path.

    Args:
      reward_monitor: a `RewardMonitor`, a `History`, a run directory or a `monitoring_data.json`.
      output_path: where the page goes.
    """
    target = Path(output_path).expanduser()
    write_atomically(target, page(to_history(reward_monitor)))
    return target


def page(run: History) -> str:
    """Return the page of a run."""
    step = 0 if run.last is None else run.last.step
    body = "".join(
        [
            f"<h1>Rewards up to step {step}</h1><div class=scroll>{_table(run)}</div>",
            f"<h2>Alerts ({len(run.alerts)})</h2>{_alerts(run)}",
            f"<p><small>Up to step {step}; {len(run.series.get('step', []))} steps recorded.</small></p>",
        ]
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Reward monitor</title>'
    return f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>\n'


def _table(run: History) -> str:
    head = "".join(f"<th>{field}</th>" for field in ("reward", *_FIELDS, "course"))
    return f"<table><tr>{head}</tr>{''.join(_row(run, name) for name in run.names)}</table>"


def _row(run: History, name: str) -> str:
    scalars = {} if run.last is None else run.last.scalars
    values = [scalars.get(f"{name}/{field}") for field in _FIELDS]
    cells = "".join(f"<td>{'n/a' if v is None else f'{v:.4g}'}</td>" for v in values)
    return f"<tr><td>{html.escape(name)}</td>{cells}<td>{_spark(run.series.get(f'{name}/ema_short', []))}</td></tr>"


def _spark(values: list[float | None], width: int = 160, height: int = 32) -> str:
    """Return a small curve, thinned to one point per pixel."""
    points = [(i, v) for i, v in enumerate(values) if v is not None][:: max(1, len(values) // width)]
    if len(points) < 2:
        return ""
    low, high = (pick(v for _, v in points) for pick in (min, max))
    x, y = width / max(len(values) - 1, 1), (height - 4) / ((high - low) or 1.0)
    line = " ".join(f"{i * x:.1f},{height - 2 - (v - low) * y:.1f}" for i, v in points)
    return f'<svg width="{width}" height="{height}" role="img" aria-label="course"><polyline points="{line}"/></svg>'


def _alerts(run: History) -> str:
    shown = [
        f"<div class=alert>Step {a.step}: {html.escape(a.message)}<br><small>{html.escape(a.remedy)}</small></div>"
        for a in run.alerts[-50:]
    ]
    return "".join(reversed(shown)) or "<p>None.</p>"
