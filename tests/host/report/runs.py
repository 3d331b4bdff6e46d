"""Runs as the device would have recorded them, made by NumPy in a second: no JAX, no compilation.

Statistics are those of the samples (float64 of float32 samples); alert episodes are planted where the faults are.
"""

import functools

import numpy as np

from tunrex_jax_monitor import JsonlSink
from tunrex_jax_monitor.host.record import AlertEvent, Histogram, Record

GROUPS, GROUP_SIZE, WINDOW, EVERY = 4, 8, 1000, 10
SAMPLES = GROUPS * GROUP_SIZE
TYPES = ("OUTLIER", "DROP", "SPIKE", "FLATLINE", "NEGATIVE", "NONFINITE", "SATURATION", "GROUP_COLLAPSE")
NAMES = ("format", "answer", "length", "style", "safety", "tool_use", "language", "brevity")
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "price $5 to $6 \\frac{1",
    "_hidden",
    "答案正确性",
    "bell\x07 and \x1b[31mred\x1b[0m",
    "[red]markup[/red]",
    "long_" + "x" * 290 + "_end",
    "right\u202eto left",
)
SPIKE_VALUE = 50.0
ALPHAS = (0.1, 0.01)


def planted(steps):
    """Return the faults as {(reward, type): (first, last)}; the last reward's and the total's are the run's own."""
    at = lambda share: round(share * steps)  # noqa: E731
    return {
        ("answer", "DROP"): (at(0.62), at(0.66)),
        ("length", "OUTLIER"): (at(0.5), at(0.5)),
        ("style", "FLATLINE"): (at(0.8), steps - 1),
        ("safety", "NONFINITE"): (at(0.3), at(0.302)),
        ("reward", "GROUP_COLLAPSE"): (at(0.9), at(0.94)),
    }


@functools.cache
def samples(steps, rewards, faults, seed):
    """Rewards of a whole run, float32[steps, rewards, GROUPS, GROUP_SIZE]; NaN is one."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps, dtype=np.float32)[:, None, None, None]
    r = np.arange(rewards, dtype=np.float32)[None, :, None, None]
    skill = 1 / (1 + np.exp(-(t - steps * (0.15 + 0.08 * (r % 5))) / (steps * 0.07)))
    scale, base = np.where(r % 3 == 0, 3, np.where(r % 3 == 1, 2, 1)), np.where(r % 8 == 7, -1.5, 0)
    noise = rng.standard_normal((steps, rewards, GROUPS, GROUP_SIZE), np.float32)
    prompts = rng.standard_normal((steps, rewards, GROUPS, 1), np.float32)
    spread = 0.15 + 0.6 * skill * (1 - skill)
    if faults:
        collapsed = planted(steps)["reward", "GROUP_COLLAPSE"]
        noise[collapsed[0] : collapsed[1] + 1] = 0
    easy = (rng.random((steps, rewards, GROUPS, 1)) < 0.1 + 0.5 * skill).astype(np.float32)  # groups without variance
    x = base + scale * skill + spread * (noise * (1 - easy) + 0.4 * prompts)
    if faults:
        _plant(x, steps)
    return x.astype(np.float32)


def _plant(x, steps):
    for (name, kind), (first, last) in planted(steps).items():
        row, span = NAMES.index(name) if name in NAMES else None, slice(first, last + 1)
        if row is None or row >= x.shape[1]:
            continue
        if kind == "DROP":
            x[span, row] *= 0.3
        elif kind == "OUTLIER":
            x[span, row] = SPIKE_VALUE
        elif kind == "FLATLINE":
            x[span, row] = 0.0
        elif kind == "NONFINITE":
            x[span, row, 0, 0] = np.nan


@functools.cache
def records(steps=10_000, rewards=8, *, faults=True, names=None, group_size=GROUP_SIZE, seed=0):
    """The records of a run, a tuple; the rewards are NAMES, then NAMES with a number."""
    names = names or tuple(NAMES[i % 8] + (f"_{i // 8}" if i >= 8 else "") for i in range(rewards))
    x = samples(steps, rewards, faults, seed)
    series, bits = _series(x, names, group_size), _bits(steps, names, faults)
    ends = [*range(EVERY - 1, steps, EVERY)]
    ends += [steps - 1] if not ends or ends[-1] != steps - 1 else []
    starts = [0, *(end + 1 for end in ends[:-1])]
    return tuple(_record(x, names, group_size, series, bits, span, faults) for span in zip(starts, ends, strict=True))


def write(path, **options):
    """Write a run directory, and return its path."""
    made = records(**options)
    sink = JsonlSink(path)
    config = {"reward_names": list(made[0].names) if made else [], "log_frequency": EVERY, "window_size": WINDOW}
    devices = [{"id": 0, "platform": "cpu", "kind": "cpu"}]
    sink.begin_run({"config": {**config, "group_size": options.get("group_size", GROUP_SIZE)}, "devices": devices})
    for record in made:
        sink.write(record)
    sink.close()
    return path


def _series(x, names, group_size):
    """Per-step columns, float32 values as float64."""
    total = np.nansum(x, axis=1, keepdims=True)
    x = np.concatenate([x, total], axis=1).astype(np.float64)
    flat = x.reshape(*x.shape[:2], -1)
    known = np.isfinite(flat)
    with np.errstate(invalid="ignore"):
        count, filled = known.sum(-1), np.where(known, flat, 0)
        mean = filled.sum(-1) / count
        fields = {
            "mean": mean,
            "std": np.sqrt(np.where(known, (flat - mean[..., None]) ** 2, 0).sum(-1) / count),
            "min": np.where(known, flat, np.inf).min(-1),
            "max": np.where(known, flat, -np.inf).max(-1),
        }
    fields |= {key: _ema(mean, alpha) for key, alpha in zip(("ema_short", "ema_long"), ALPHAS, strict=True)}
    if group_size is not None:
        fields["frac_zero_std"] = (np.ptp(np.nan_to_num(x), axis=-1) <= 1e-6).mean(-1)
    found = {}
    for i, name in enumerate((*names, "reward")):
        found |= {f"{name}/{key}": values[:, i].astype(np.float32).astype(float) for key, values in fields.items()}
        found[f"{name}/count"] = count[:, i]
        found[f"{name}/nonfinite"] = (~known[:, i]).sum(-1).cumsum()
    return found


def _ema(x, alpha):
    """Bias-corrected averages over axis 0."""
    value, out = np.zeros(x.shape[1]), np.empty_like(x)
    for t, row in enumerate(x):
        value += alpha * (row - value)
        out[t] = value / (1 - (1 - alpha) ** (t + 1))
    return out


def _bits(steps, names, faults):
    bits = {name: np.zeros(steps, int) for name in (*names, "reward")}
    for (name, kind), (first, last) in planted(steps).items() if faults else ():
        if name in bits:
            bits[name][first : last + 1] |= 1 << TYPES.index(kind)
    return bits


def _record(x, names, group_size, series, bits, span, faults):
    first, last = span
    steps = x.shape[0]
    per_step = -(-WINDOW // SAMPLES)
    window = x[max(0, last + 1 - per_step) : last + 1].swapaxes(0, 1).reshape(len(names), -1)[:, -WINDOW:]
    part = slice(first, last + 1)
    scalars, histograms = _window(window, names)
    for name in names:
        scalars |= {f"{name}/{key}": float(series[f"{name}/{key}"][last]) for key in ("ema_short", "ema_long")}
        scalars[f"{name}/nonfinite_count"] = float(series[f"{name}/nonfinite"][last])
    if group_size is not None:
        keys = {f"{name}/frac_zero_std": f"{name}/frac_zero_std" for name in names}
        keys["frac_reward_zero_std"] = "reward/frac_zero_std"
        scalars |= {key: float(series[of][part].mean()) for key, of in keys.items()}
        solved = float(np.clip(scalars.get(f"{names[0]}/mean", 0.0) / 3, 0, 1))
        scalars |= {"groups/pass_at_1": solved, "groups/solve_all": solved**2, "groups/solve_none": (1 - solved) ** 2}
        scalars["groups/solve_partial"] = 1 - scalars["groups/solve_all"] - scalars["groups/solve_none"]
    scalars["reward"] = float(series["reward/mean"][part].mean())
    alerts = tuple(
        _alert(name, kind, at[0], series) for (name, kind), at in planted(steps).items()
        if faults and first <= at[0] <= last and name in bits
    )  # fmt: skip
    scalars["alerts/total"] = float(sum(at[0] <= last for (n, _), at in planted(steps).items() if faults and n in bits))
    chunk = {key: [None if v != v else v for v in values[part].tolist()] for key, values in series.items()
             if not key.endswith("/nonfinite")}  # fmt: skip
    chunk |= {f"{name}/alerts": values[part].tolist() for name, values in bits.items()}
    return Record(
        step=last,
        update=last + 1,
        time=1.7e9 + last,
        names=names,
        scalars=scalars,
        histograms=histograms,
        series={"step": list(range(first, last + 1)), **chunk},
        alerts=alerts,
        counters={f"{name}/nan": int(scalars[f"{name}/nonfinite_count"]) for name in names} | {"trace_dropped": 0},
    )


def _window(window, names):
    scalars, histograms = {}, {}
    for name, samples_ in zip(names, window.astype(np.float64), strict=True):
        known = samples_[np.isfinite(samples_)]
        if not known.size:
            continue
        keys = ("min", "p10", "p25", "median", "p75", "p90", "p99", "max")
        quantiles = np.percentile(known, (0, 10, 25, 50, 75, 90, 99, 100))
        scalars |= {f"{name}/{key}": float(v) for key, v in zip(keys, quantiles, strict=True)}
        scalars |= {f"{name}/mean": float(known.mean()), f"{name}/std": float(known.std())}
        scalars |= {f"{name}/count": float(known.size), f"{name}/zeros_fraction": float((known == 0).mean())}
        scalars |= {f"{name}/positive_fraction": float((known > 0).mean())}
        scalars |= {f"{name}/negative_fraction": float((known < 0).mean())}
        histograms[f"{name}/histogram"] = histogram(known)
    return scalars, histograms


def histogram(known):
    """At most 64 bins of a power of two, as the device makes them."""
    low, high = known.min(), known.max()
    width = 2.0 ** (np.floor(np.log2((high - low) / 62)) + 1) if high > low else 2.0**-3
    index = np.floor(known / width + 0.5).astype(np.int64)
    counts = np.bincount(index - index.min())
    edges = (index.min() - 0.5 + np.arange(len(counts) + 1)) * width
    return Histogram(counts.tolist(), edges.tolist())


def _alert(name, kind, step, series):
    value = float(series[f"{name}/ema_short"][step])
    message = f"{kind}: {name} - planted ({value:.4g})"
    return AlertEvent(step, name, kind, message, "Look at what was planted.", value, 0.5)
