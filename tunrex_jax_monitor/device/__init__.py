"""What runs inside jit: pure functions of arrays. Nothing here prints, reads a clock or imports `host`."""
