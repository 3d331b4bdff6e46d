"""MemorySink: records in a list, for tests and notebooks."""

from tunrex_jax_monitor.host.record import Record


class MemorySink:
    """Keeps the records it gets.

    Attributes:
      records: oldest first. They stay after `close`.

    Args:
      maxlen: how many records to keep, the newest; None keeps all.
    """

    durable = True  # an append is never slow, so there is no reason to lose one

    def __init__(self, maxlen: int | None = None) -> None:
        if maxlen is not None and (isinstance(maxlen, bool) or not isinstance(maxlen, int) or maxlen < 1):
            raise ValueError(
                f"maxlen: got {maxlen!r}, allowed an int of at least 1, or None. Leave it out to keep every record."
            )
        self.records: list[Record] = []
        self._maxlen = maxlen

    def write(self, record: Record) -> None:
        """Append the record; beyond `maxlen` the oldest goes."""
        self.records.append(record)
        if self._maxlen is not None:
            del self.records[: -self._maxlen]

    def close(self) -> None:
        """Do nothing: the records stay readable."""
