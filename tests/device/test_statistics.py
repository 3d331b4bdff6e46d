"""Every window, interval and run scalar of a record against float64 on the whole stream.

Data sets and dtypes ride in one accumulator, a reward each, so that a size costs one compilation.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from tests.datasets import DATASETS, cast, upcast
from tests.device import support
from tunrex_jax_monitor.accumulator import RewardAccumulator

SHORT = ("normal", "large_offset", "heavy_tail", "lognormal", "with_nan_inf")  # in the floats that overflow or round
STREAMS = (
    *((name, "float32") for name in DATASETS if name not in ("empty", "single")),
    *((name, dtype) for name in SHORT for dtype in ("float16", "bfloat16")),
    *((name, dtype) for name in ("constant", "negative", "heavy_tail") for dtype in ("int32", "bool")),
)
NAMES = tuple(f"{name}-{dtype}" for name, dtype in STREAMS)
WINDOW = 600
ACC = RewardAccumulator(NAMES, window_size=WINDOW)
STEPS, BEFORE_INTERVAL = 4, 2
# (samples per step, shape they are padded to, mask)
UNMASKED = [(n, n, "none") for n in (0, 1, 7, 64, 8192)]
PADDED = [(0, 64, "padded"), (1, 64, "padded"), (7, 64, "padded"), (512, 8192, "padded")]
MASKED = [(n, n, kind) for n in (64, 8192) for kind in ("random", "all-false")]
CASES = UNMASKED + PADDED + MASKED
ALPHAS = {"ema_short": 0.1, "ema_long": 0.01}


def _step(size: int, padded: int, step: int) -> dict[str, np.ndarray]:
    rewards = {}
    for i, (key, (name, dtype)) in enumerate(zip(NAMES, STREAMS, strict=True)):
        x = cast(DATASETS[name](np.random.default_rng([20, i, size, step]), size), dtype)
        rewards[key] = np.concatenate([x, np.ones(padded - size, x.dtype)])
    return rewards


def _mask(kind: str, size: int, padded: int, step: int) -> np.ndarray | None:
    if kind == "none":
        return None
    if kind == "padded":
        return np.arange(padded) < size
    return np.random.default_rng([21, size, step]).random(padded) < (0.7 if kind == "random" else 0.0)


@functools.cache
def _run(size: int, padded: int, kind: str):
    state, steps, masks = ACC.init(batch_size=8192 if padded == 8192 else None), [], []
    for i in range(STEPS):
        steps.append(_step(size, padded, i))
        masks.append(_mask(kind, size, padded, i))
        if i == BEFORE_INTERVAL:
            state = support.reset_interval(ACC, state)
        options = {} if masks[-1] is None else {"mask": jnp.asarray(masks[-1])}
        state = ACC.update_jit(state, {k: jnp.asarray(v) for k, v in steps[-1].items()}, **options)
    return ACC.record(state), steps, masks, state.window.shape[1]


def _near(got: float, want: float, scale: float, bound: float) -> bool:
    return math.isnan(want) or abs(got - want) <= bound * scale


@pytest.mark.parametrize("stream", NAMES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[2]}")
def test_record_equals_numpy(case, stream):
    record, steps, masks, window = _run(*case)
    kept = [upcast(s[stream])[slice(None) if m is None else m] for s, m in zip(steps, masks, strict=True)]
    run, interval = np.concatenate(kept), np.concatenate(kept[BEFORE_INTERVAL:])
    latest = reference.valid(run[-window:])  # a sample that is not finite takes its place and is skipped
    prefix = f"{stream}/"
    got = {key.removeprefix(prefix): v for key, v in record.scalars.items() if key.startswith(prefix)}

    want = reference.statistics(latest)
    want |= {"frac_at_max": reference.fraction_equal(latest, reference.maximum(run))}
    want |= {"frac_at_min": reference.fraction_equal(latest, reference.minimum(run))}
    want |= {key: reference.ema(kept, alpha) for key, alpha in ALPHAS.items()}
    moments = {"mean": reference.mean, "std": reference.std, "min": reference.minimum, "max": reference.maximum}
    for horizon, x in {"interval": interval, "run": run}.items():
        want |= {f"{horizon}/{key}": f(x) for key, f in moments.items()}
        want[f"{horizon}/count"] = float(reference.count(x))
    want |= {"run/skew": reference.skew(run), "run/kurtosis": reference.kurtosis(run)}
    counts = [reference.nonfinite_counts(upcast(s[stream]), m) for s, m in zip(steps, masks, strict=True)]
    want["nonfinite_count"] = float(sum(c["nan"] + c["posinf"] + c["neginf"] for c in counts))
    percentiles = {f"run/p{p:02d}" for p in (1, 5, 10, 25, 50, 75, 90, 95, 99)} if reference.count(run) else set()

    assert set(got) - percentiles == {key for key, value in want.items() if not math.isnan(value)}
    assert percentiles <= set(got)
    spread, size = reference.std(run), max(abs(reference.minimum(run)), abs(reference.maximum(run)))
    wrong = {}
    for key, value in want.items():
        if math.isnan(value):
            continue
        field = key.rpartition("/")[2]
        if field in ("mean", "ema_short", "ema_long", "p10", "p25", "median", "p75", "p90", "p99"):
            fine = _near(got[key], value, max(size, spread), 1e-6 if field != "mean" else 2e-7)
        elif field == "std":
            fine = _near(got[key], value, value, 1e-5) if value else got[key] == 0
        elif field in ("skew", "kurtosis"):
            fine = _near(got[key], value, max(abs(value), 1.0), 1e-4)
        else:
            fine = got[key] == value or _near(got[key], value, 1.0, 1e-15)
        if not fine:
            wrong[key] = (got[key], value)
    assert not wrong
    for field in ("nan", "posinf", "neginf", "masked"):
        assert record.counters[f"{stream}/{field}"] == sum(c[field] for c in counts)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[2]}")
def test_totals_are_over_the_rewards_that_have_data(case):
    record, *_ = _run(*case)
    means = [record.scalars[f"{n}/mean"] for n in NAMES if f"{n}/mean" in record.scalars]
    stds = [record.scalars[f"{n}/std"] for n in NAMES if f"{n}/mean" in record.scalars]
    keys = {"rewards/total_mean", "rewards/total_std", "rewards/sum", "rewards/min_mean", "rewards/max_mean"}
    if not means:
        assert not keys & set(record.scalars)
        return
    want = (np.mean(means), np.mean(stds), np.sum(means), np.min(means), np.max(means))
    got = [record.scalars[f"rewards/{k}"] for k in ("total_mean", "total_std", "sum", "min_mean", "max_mean")]
    np.testing.assert_allclose(got, want, rtol=1e-12)
