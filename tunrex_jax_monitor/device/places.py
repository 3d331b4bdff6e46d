"""How arrays are scattered: what is out of range is dropped, and no place is negative, which JAX would look for."""

from typing import Any

WITHIN: dict[str, Any] = {"mode": "drop", "wrap_negative_indices": False}
