"""False alarms on healthy rewards and delay on planted faults: `literal` and `guarded` rules, beside river's detectors.

    python benchmarks/alerts.py            # tables
    python benchmarks/alerts.py --json     # the same figures for a program

Every stream is 64 samples a step, in groups of 8; rates are over all runs, delays are medians over the runs that found
the fault. River's Page-Hinkley and ADWIN watch the step means on the host, with their own defaults.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from measuring import add_json, environment, publish

import tunrex_jax_monitor as trm
from tunrex_jax_monitor.device.alerts import TYPES, Memory
from tunrex_jax_monitor.device.state import unpack

SAMPLES, GROUP, FAULT_AT = 64, 8, 300
OF_HEALTHY = (
    "stream", "literal steps %", "literal per 1000", "guarded per 1000", "guarded per run", "Page-Hinkley", "ADWIN",
)  # fmt: skip
OF_FAULTS = ("fault", "expected", "literal", "guarded", "guarded any", "Page-Hinkley", "ADWIN")
Stream = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]


def _learning(curve: Callable[[np.ndarray], np.ndarray]) -> Stream:
    def stream(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
        chance = 0.05 + 0.85 * curve(np.arange(shape[1]) / shape[1])
        return rng.random(shape) < chance[None, :, None]

    return stream


def _of_prompts(draw: Callable[..., np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """Return one number for each group, for all of its members."""
    return np.repeat(draw(size=(*shape[:2], shape[2] // GROUP)), GROUP, axis=-1)


HEALTHY: dict[str, Stream] = {
    "N(2,1)": lambda rng, shape: rng.normal(2, 1, shape),
    "N(0,1)": lambda rng, shape: rng.normal(0, 1, shape),
    "-|N(0,1)|": lambda rng, shape: -np.abs(rng.normal(0, 1, shape)),
    "Bernoulli 0.02": lambda rng, shape: rng.random(shape) < 0.02,
    "Bernoulli 0.97": lambda rng, shape: rng.random(shape) < 0.97,
    "Student t3": lambda rng, shape: rng.standard_t(3, shape),
    "learning 0.05 -> 0.9": _learning(lambda t: t),
    "easy and hard prompts": lambda rng, shape: _of_prompts(rng.normal, shape) + rng.normal(0, 0.5, shape),
    "1 % of prompts fail": lambda rng, shape: (
        1 - 4 * (_of_prompts(rng.random, shape) < 0.01) + rng.normal(0, 0.2, shape)
    ),
}
# Not a fault, but true: the short average does rise by more than half of the long one. Told once.
TRUE_CHANGES: dict[str, Stream] = {
    "sigmoid learning, x10 in 150 steps": _learning(lambda t: 1 / (1 + np.exp(-10 * (t - 0.5)))),
}


def _after(change: Callable[[np.random.Generator, np.ndarray], np.ndarray], base: Stream) -> Stream:
    def stream(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
        x = base(rng, shape).astype(np.float32)
        x[:, FAULT_AT:] = change(rng, x[:, FAULT_AT:])
        return x

    return stream


def _contaminate(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return np.where(rng.random(x.shape) < 0.01, 12.0, x)  # 10 sigma above N(2, 1)


def _bad_prompts(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return np.where(_of_prompts(rng.random, x.shape) < 0.02, 12.0, x)


def _one_nan(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    x[:, 0, 0] = np.nan
    return x


def _collapse(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return np.repeat(x[..., ::GROUP], GROUP, axis=-1)


_normal: Stream = lambda rng, shape: rng.normal(2, 1, shape)  # noqa: E731
_coin: Stream = lambda rng, shape: rng.random(shape) < 0.5  # noqa: E731
_near_minus_one: Stream = lambda rng, shape: rng.normal(-1, 0.5, shape)  # noqa: E731
FAULTS: dict[str, tuple[str, Stream]] = {
    "mean falls by 70 %": ("DROP", _after(lambda rng, x: x - 1.4, _normal)),
    "returns 0": ("FLATLINE", _after(lambda rng, x: 0 * x, _normal)),
    "0/1 reward returns 0": ("FLATLINE", _after(lambda rng, x: 0 * x, _coin)),
    "returns constant 0.7": ("FLATLINE", _after(lambda rng, x: 0 * x + 0.7, _normal)),
    "falls from -1 to -5": ("DROP", _after(lambda rng, x: x - 4.0, _near_minus_one)),
    "jumps by 3x": ("SPIKE", _after(lambda rng, x: 3 * x, _normal)),
    "1 % of samples at 10 sigma": ("OUTLIER", _after(_contaminate, _normal)),
    "2 % of prompts at 10 sigma": ("OUTLIER", _after(_bad_prompts, _normal)),
    "one NaN": ("NONFINITE", _after(_one_nan, _normal)),
    "all groups of zero variance": ("GROUP_COLLAPSE", _after(_collapse, _normal)),
    "stuck at its maximum": ("SATURATION", _after(lambda rng, x: 0 * x + 1.0, _coin)),
    "1 % of samples at 9 sigma, of easy and hard prompts": (
        "OUTLIER",
        _after(lambda rng, x: np.where(rng.random(x.shape) < 0.01, 10.0, x), HEALTHY["easy and hard prompts"]),
    ),
}


@partial(jax.jit, static_argnums=0)
def _watch(acc: trm.RewardAccumulator, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return events so far and open episodes per run, step and type: [runs, steps, 8], for x [runs, steps, samples]."""

    def step(state: trm.MonitorState, rewards: jax.Array) -> tuple[trm.MonitorState, tuple[jax.Array, jax.Array]]:
        state = acc.update(state, {"r": rewards})
        fields = unpack(acc, state)
        return state, (fields.alerts[:, :2].sum(1), Memory(*fields.memory).flags[0])

    return jax.vmap(lambda run: jax.lax.scan(step, acc.init(), run)[1])(x)


def watch(acc: trm.RewardAccumulator, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return events [runs, steps, 8] that began at each step, and the open conditions of the reward."""
    counts, flags = (np.asarray(v) for v in _watch(acc, x.astype(np.float32)))
    began = np.diff(counts.astype(np.int64), axis=1, prepend=0)
    return began, flags[..., None] >> np.arange(len(TYPES)) & 1


def river_events(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return where river's detectors report drift, bool[runs, steps], fed with step means."""
    from river import drift

    found = {}
    for name, detector in (("Page-Hinkley", drift.PageHinkley), ("ADWIN", drift.ADWIN)):
        hits = np.zeros(x.shape[:2], bool)
        for run, means in enumerate(np.nanmean(x, axis=2)):
            model = detector()
            for t, mean in enumerate(means):
                model.update(float(mean))
                hits[run, t] = model.drift_detected
        found[name] = hits
    return found


def false_alarms(runs: int, steps: int, seed: int) -> list[dict[str, object]]:
    """Return one row per healthy stream."""
    rows = []
    for i, (name, stream) in enumerate((HEALTHY | TRUE_CHANGES).items()):
        x = stream(np.random.default_rng([seed, i]), (runs, steps, SAMPLES)).astype(np.float32)
        row: dict[str, object] = {"stream": name}
        for detect in ("literal", "guarded"):
            began, active = watch(trm.RewardAccumulator(("r",), group_size=GROUP, detect=detect), x)
            row[f"{detect} steps %"] = _by_type(100 * active.mean((0, 1)))
            row[f"{detect} per 1000"] = _by_type(1000 * began.mean((0, 1)))
            row[f"{detect} per run"] = _by_type(began.sum(1).max(0))
        row |= {key: round(1000 * float(hits.mean()), 2) for key, hits in river_events(x).items()}
        rows.append(row)
    return rows


def delays(runs: int, seed: int) -> list[dict[str, object]]:
    """Return one row per planted fault."""
    rows = []
    for i, (name, (expected, stream)) in enumerate(FAULTS.items()):
        x = stream(np.random.default_rng([seed, 100 + i]), (runs, 2 * FAULT_AT, SAMPLES)).astype(np.float32)
        row: dict[str, object] = {"fault": name, "expected": expected}
        for detect in ("literal", "guarded"):
            began, _ = watch(trm.RewardAccumulator(("r",), group_size=GROUP, detect=detect), x)
            hits = began[..., [kind.name for kind in TYPES].index(expected)] > 0
            row[detect] = _delay(hits)
            row[f"{detect} any"] = _delay(began.sum(-1) > 0)
        row |= {key: _delay(hits) for key, hits in river_events(x).items()}
        rows.append(row)
    return rows


def _by_type(values: np.ndarray) -> dict[str, float]:
    return {str(kind.name): round(float(v), 2) for kind, v in zip(TYPES, values, strict=True) if v > 0}


def _delay(hits: np.ndarray) -> str:
    """Return `median delay in steps (found of runs)` of the first hit at or after the fault."""
    found = [int(run[FAULT_AT:].argmax()) for run in hits if run[FAULT_AT:].any()]
    return f"{statistics.median(found):.0f} ({len(found)}/{len(hits)})" if found else f"- (0/{len(hits)})"


def _cell(value: object) -> str:
    return ", ".join(f"{k} {v:g}" for k, v in value.items()) or "0" if isinstance(value, dict) else str(value)


def _table(rows: list[dict[str, object]], columns: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(_cell(row[c]) for c in columns) + " |" for row in rows])


def text_of(result: dict[str, Any], options: argparse.Namespace) -> str:
    """Return both tables."""
    healthy, faults = _table(result["false_alarms"], OF_HEALTHY), _table(result["delays"], OF_FAULTS)
    return (
        f"Healthy streams, {options.runs} runs x {options.steps} steps x {SAMPLES} samples.\n\n{healthy}\n\n"
        f"Planted faults at step {FAULT_AT}: median delay in steps (found of {options.runs} runs).\n\n{faults}"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="independent runs of each stream (default %(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="steps of a healthy run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)
    options = parser.parse_args()
    result = {
        "environment": environment("alerts"),
        "false_alarms": false_alarms(options.runs, options.steps, options.seed),
        "delays": delays(options.runs, options.seed),
    }
    publish(result, text_of(result, options), options.json)


if __name__ == "__main__":
    main()
