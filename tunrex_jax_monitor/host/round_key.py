"""Round key: what tells the calls of one round from others, the contents of what they were given."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

_PLAIN = (str, bytes, int, float, type(None))


def round_key(completions: Any, keywords: Mapping[str, Any]) -> int:
    """Return what tells the calls of one round from others: the completions, which all functions are given.

    Their contents, since each function may be given a list of its own. Where none are called so, it is the first
    sequence among the keywords that is not of prompts, and where there is none, the thread.
    """
    if completions is None:
        others = (v for k, v in keywords.items() if "prompt" not in k and isinstance(v, list | tuple | np.ndarray))
        completions = next(others, None)
    return threading.get_ident() if completions is None else _fingerprint(completions)


def _fingerprint(value: Any) -> int:
    """Return a hash of the contents; of what lies on a device, or is of a kind not known, that of the object."""
    if isinstance(value, _PLAIN):
        return hash(value)
    if isinstance(value, list | tuple):
        try:
            return hash(tuple(value))  # texts and token ids, twenty times as fast
        except TypeError:
            return hash(tuple(map(_fingerprint, value)))
    if isinstance(value, Mapping):
        return hash(tuple((key, _fingerprint(item)) for key, item in value.items()))
    if isinstance(value, np.ndarray):
        return _fingerprint(value.tolist()) if value.dtype.kind == "O" else hash((value.shape, value.tobytes()))
    return id(value)
