"""From a Summary of numpy arrays to a Record."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tunrex_jax_monitor.device import histogram
from tunrex_jax_monitor.device.config import Config
from tunrex_jax_monitor.device.summary import Summary
from tunrex_jax_monitor.host import events, keys
from tunrex_jax_monitor.host.events import AlertHistory
from tunrex_jax_monitor.host.record import Histogram, Record

RECENT = 100  # steps that `monitoring/alert_count` looks back
_RUN_COUNTS = ("valid", "nan", "posinf", "neginf", "masked")


def build(
    config: Config, summary: Summary, steps: Sequence[int], time: float, history: AlertHistory, *, dropped: int = 0
) -> Record:
    """Return the record of one emission.

    Args:
      config: what the summary was made with.
      summary: numpy arrays, as `unpack` returns them.
      steps: the owner's steps of the interval, at least the last.
      time: seconds since the epoch.
      history: the alerts of the emissions before; it takes in those of this one.
      dropped: emissions that were lost so far.
    """
    values = dict(keys.scalars(config, summary))
    values["monitoring/step"] = float(steps[-1])
    recent = history.count(summary, RECENT)
    values["monitoring/alert_count"] = math.nan if recent is None else float(recent)
    values["monitoring/dropped_records"] = float(dropped)
    return Record(
        step=steps[-1],
        update=int(summary.updates),
        time=time,
        names=config.reward_names,
        scalars={key: value for key, value in values.items() if math.isfinite(value)},
        histograms=dict(_histograms(config, summary)),
        series=events.series(config, summary, steps),
        alerts=events.alerts(config, summary, steps),
        counters=_counters(config, summary),
    )


def _histograms(config: Config, s: Summary) -> Iterator[tuple[str, Histogram]]:
    counts = s.bin_counts
    if counts.shape[1] < histogram.BINS:  # two to a word
        counts = np.concatenate([counts & 0xFFFF, counts >> 16], axis=1)
    for i, name in enumerate(config.reward_names):
        used = np.flatnonzero(counts[i])
        if used.size:
            bins = int(used[-1]) + 1
            edges = histogram.edges(int(s.bin_exponent[i]), int(s.bin_first[i]), bins)
            yield f"{name}/histogram", Histogram(counts[i, :bins].tolist(), edges.tolist())


def _counters(config: Config, s: Summary) -> dict[str, int]:
    counters = {
        f"{name}/{field}": keys.read_count(s.run_counts[:, k, i])
        for i, name in enumerate(config.reward_names)
        for k, field in enumerate(_RUN_COUNTS)
    }
    counters["trace_dropped"] = max(0, int(s.interval) - len(s.trace))
    return counters
