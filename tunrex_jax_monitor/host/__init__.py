"""What runs in Python: the read-out, files, threads. Only `host.transfer` copies from a device."""
