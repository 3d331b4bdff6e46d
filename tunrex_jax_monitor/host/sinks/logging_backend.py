"""The `LoggingBackend` protocol of metrax and Tunix, in both directions: scalars only, `log_scalar` and `close`."""

from typing import Any, Protocol, runtime_checkable

from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.host.guard import attempt
from tunrex_jax_monitor.host.record import Record


@runtime_checkable
class LoggingBackend(Protocol):
    """What metrax and Tunix log to."""

    def log_scalar(self, event: str, value: Any, **kwargs: Any) -> None:
        """Log one value; `step` is among the keywords."""

    def close(self) -> None:
        """Let go of files and connections."""


class LoggingBackendSink:
    """Writes the scalars of records to a backend: metrax's TensorBoard, CLU or W&B, or one of your own.

    Args:
      backend: who takes the values. It stays open at the end, unless it is ours.
      own: True closes it at the end.

    Raises:
      ValueError: the backend has no `log_scalar`.
    """

    def __init__(self, backend: LoggingBackend, *, own: bool = False) -> None:
        if not callable(getattr(backend, "log_scalar", None)):
            remedy = "Pass an instance, for example metrax.logging.TensorboardBackend(log_dir)."
            raise invalid("backend", backend, "an object with log_scalar(event, value, **kwargs) and close()", remedy)
        self._backend, self._own = backend, own

    def write(self, record: Record) -> None:
        """Log each scalar at the record's step."""
        for key, value in record.scalars.items():
            self._backend.log_scalar(key, value, step=record.step)

    def close(self) -> None:
        """Close the backend, if it is ours. A second call does nothing."""
        own, self._own = self._own, False
        if own:
            self._backend.close()


class ScalarCollector:
    """A backend that keeps the newest value of each event, to be put into our records.

    collector = ScalarCollector()
    MetricsLoggerOptions(log_dir, backend_kwargs={"custom_backend": [lambda: collector]})   # Tunix logs to it
    Reporter(acc, sinks, extra_scalars=collector)                                           # and we say it too
    """

    def __init__(self) -> None:
        self._values: dict[str, float] = {}

    def log_scalar(self, event: str, value: Any, **__: Any) -> None:
        """Keep a value; what is no number is left out."""
        number, _ = attempt(lambda: float(value))
        if number is None:
            self._values.pop(event, None)
        else:
            self._values[event] = number

    def close(self) -> None:
        """Do nothing: the values stay readable."""

    def __call__(self) -> dict[str, float]:
        """Return the newest values by event."""
        return dict(self._values)
