"""Schema: what the fields of a record may hold, once they come from a file that anybody may have changed.

Strict JSON only, and only what can be worked with afterwards: whoever reads a run gets a record or a ValueError.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

_LARGEST = 2**63  # no counter goes beyond
_LAST_STEP = 2**53  # what a browser, and a float64, can count to
_LATEST = 253_370_764_800  # seconds: the year 9999, the last that a calendar can say in any time zone


def read_object(data: str | bytes) -> dict[str, Any]:
    """Read strict JSON, in UTF-8, that is one object.

    Raises:
      ValueError: what it is instead, to follow a "got" of the caller; a `json.JSONDecodeError` or `UnicodeDecodeError`
        where it is no JSON at all.
    """
    text = data.decode() if isinstance(data, bytes) else data
    try:
        found = json.loads(text, parse_constant=_refuse)
        if "\\ud" in text.lower():  # half a surrogate pair, as JSON can say it, could never be written out again
            json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(f"text that is no JSON: {error.msg}", error.doc, error.pos) from None
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair, which is no character") from None
    except RecursionError:
        raise ValueError("values nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which strict JSON has not")


def is_whole(value: object) -> bool:
    """Tell whether it is an int that a counter can have."""
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST


def is_number(value: object) -> bool:
    """Tell whether it is a finite number."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def is_step(value: object) -> bool:
    """Tell whether it is an int that every reader of a step can say exactly."""
    return isinstance(value, int) and not isinstance(value, bool) and -_LAST_STEP <= value <= _LAST_STEP


def is_time(value: object) -> bool:
    """Tell whether it is seconds since the epoch that can be said as a date."""
    return is_number(value) and isinstance(value, int | float) and 0 <= value < _LATEST


def _is_number_or_null(value: object) -> bool:
    return value is None or is_number(value)


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _maps(value: object, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(map(check, value.values()))


def _lists(value: object, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(check, value))


def _is_count_or_null(value: object) -> bool:
    return value is None or is_whole(value)


def _are_bits_or_null(value: object) -> bool:
    return value is None or (isinstance(value, int) and is_whole(value) and 0 <= value < 2**16)


_COLUMNS: dict[str, Callable[[Any], bool]] = {  # by what follows the last slash of a key
    "step": is_step,
    "count": _is_count_or_null,
    "alerts": _are_bits_or_null,
}


def _is_series(value: object) -> bool:
    """Tell whether it is columns of one length, the steps without a gap."""
    if not isinstance(value, Mapping) or (value and "step" not in value):
        return False
    checks = {key: _COLUMNS.get(key.rpartition("/")[2], _is_number_or_null) for key in value}
    return all(_lists(value[key], check) for key, check in checks.items()) and len(set(map(len, value.values()))) <= 1


def is_histogram(value: object) -> bool:
    """Tell whether it is counts and increasing edges, as `Histogram` has them."""
    if not isinstance(value, Mapping) or value.keys() != {"counts", "edges"}:
        return False
    counts, edges = value["counts"], value["edges"]
    if not counts or not _lists(counts, lambda count: is_whole(count) and count >= 0) or not _lists(edges, is_number):
        return False
    return len(edges) == len(counts) + 1 and list(edges) == sorted(set(edges))


_ALERT: dict[str, Callable[[Any], bool]] = {
    "step": is_step,
    "reward": _is_text,
    "type": _is_text,
    "message": _is_text,
    "remedy": _is_text,
    "value": _is_number_or_null,
    "threshold": _is_number_or_null,
}


def _is_alert(value: object) -> bool:
    if not isinstance(value, Mapping) or not value.keys() <= _ALERT.keys() <= value.keys() | {"value", "threshold"}:
        return False
    return all(_ALERT[key](item) for key, item in value.items())


CHECKS: dict[str, Callable[[Any], bool]] = {
    "step": is_step,
    "update": is_whole,
    "time": is_time,
    "names": _are_names,
    "scalars": lambda value: _maps(value, is_number),
    "histograms": lambda value: _maps(value, is_histogram),
    "series": _is_series,
    "alerts": lambda value: _lists(value, _is_alert),
    "counters": lambda value: _maps(value, is_whole),
}
ALLOWED = {
    "step": "a whole number up to 2^53",
    "update": "a whole number",
    "time": "seconds since 1970, before the year 9999",
    "names": "a list of different texts",
    "scalars": "finite numbers by key",
    "histograms": "counts, of 0 or more, and one edge more, each greater than the last, by key",
    "series": "lists of one length by key, of finite numbers and null, one of them `step`",
    "alerts": "a list of alert events",
    "counters": "whole numbers by key",
}


_CONFIG: dict[str, tuple[Callable[[Any], bool], str]] = {
    "reward_names": (_are_names, "a list of different texts"),
}
_MANIFEST: dict[str, tuple[Callable[[Any], bool], str]] = {
    "start_time": (lambda value: value is None or is_time(value), "seconds since 1970, before the year 9999"),
    "config": (lambda value: isinstance(value, Mapping), "an object"),
    "versions": (lambda value: isinstance(value, Mapping), "an object"),
    "resumed": (lambda value: isinstance(value, list), "a list"),
}


def require_manifest(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest of which a field that is read later, where it is there, holds something else.

    Raises:
      ValueError: the message names the field.
    """
    _require(manifest, _MANIFEST)
    _require(manifest.get("config", {}), _CONFIG)


def _require(given: Mapping[str, Any], checks: Mapping[str, tuple[Callable[[Any], bool], str]]) -> None:
    for key, (check, allowed) in checks.items():
        if key in given and not check(given[key]):
            raise ValueError(f"{key}: got {short(given[key])}, allowed: {allowed}. Restore it from a copy.")


def short(value: object) -> str:
    """Return a value in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
