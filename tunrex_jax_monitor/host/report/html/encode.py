"""Numbers and texts as a page carries them.

Columns are `TYPE:BASE64`, little-endian: float32 says every step value of the device exactly, in 5.3 characters.
"""

import base64
import json
from typing import Any

import numpy as np

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def floats(values: np.ndarray) -> str:
    """Return a column of floats; NaN is no data. What float32 cannot hold takes eight bytes a value."""
    finite = np.where(np.isfinite(values), values, np.nan)
    fits = np.nanmax(np.abs(finite), initial=0.0) <= np.finfo(np.float32).max
    return _column(finite, "<f4" if fits else "<f8")


def integers(values: np.ndarray) -> str:
    """Return a column of integers; what 32 bits cannot hold becomes float64, exact to 2^53."""
    fits = np.abs(values).max(initial=0) < 2**31
    return _column(values, "<i4" if fits else "<f8")


def octets(values: np.ndarray) -> str:
    """Return a column of integers from 0 to 255."""
    return _column(values, "|u1")


def script_json(data: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def _column(values: np.ndarray, dtype: str) -> str:
    return f"{dtype[1:]}:{base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode('ascii')}"
