"""TensorBoardSink: records as TensorBoard event files, by tensorboardX."""

import os

from tunrex_jax_monitor.host.arguments import require_path
from tunrex_jax_monitor.host.optional import load
from tunrex_jax_monitor.host.record import Histogram, Record


class TensorBoardSink:
    """Writes scalars, histograms and alerts at the record's step.

    Args:
      log_dir: where the event file goes; other event files there stay.

    Raises:
      ValueError: `log_dir` is no path.
      ImportError: tensorboardX is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        require_path("log_dir", log_dir)
        tensorboard = load("tensorboardX", "tensorboard")
        self._writer = tensorboard.SummaryWriter(os.fspath(log_dir), flush_secs=5)  # its own thread writes

    def write(self, record: Record) -> None:
        """Take one record; it is in the file within five seconds, or at the end."""
        at = {"global_step": record.step, "walltime": record.time}
        for key, value in record.scalars.items():
            self._writer.add_scalar(key, value, **at)
        for key, histogram in record.histograms.items():
            self._add_histogram(key, histogram, record)
        for event in record.alerts:
            text = f"step {event.step}: {event.message}. {event.remedy}"
            self._writer.add_text(f"alerts/{event.reward}/{event.type}", text, **at)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._writer.close()

    def _add_histogram(self, key: str, h: Histogram, record: Record) -> None:
        centers = [(a + b) / 2 for a, b in zip(h.edges, h.edges[1:], strict=False)]
        self._writer.add_histogram_raw(
            key,
            min=h.edges[0],
            max=h.edges[-1],
            num=sum(h.counts),
            sum=sum(n * x for n, x in zip(h.counts, centers, strict=True)),
            sum_squares=sum(n * x * x for n, x in zip(h.counts, centers, strict=True)),
            bucket_limits=h.edges[1:],
            bucket_counts=h.counts,
            global_step=record.step,
            walltime=record.time,
        )
