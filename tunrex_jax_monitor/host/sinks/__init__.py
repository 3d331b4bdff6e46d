"""Where records go. Each sink has `write(record)` and `close()`."""
