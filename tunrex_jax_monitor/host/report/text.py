"""Text for people: names that cannot break what they are put into, and numbers that are short.

A name is data of the user: it may hold control characters, mathematics, markup, or 300 letters. Escaping for HTML,
terminals and markup stays with what writes them; matplotlib gets its texts with `parse_math=False`.
"""

import math
import unicodedata

WIDTH = 40
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, direction, halves of a pair, line ends
_ZERO = 1e-9  # what is smaller is rounding


def display_name(name: str, width: int = WIDTH) -> str:
    r"""Return a name without characters that act, and with its middle left out where it is longer than `width`.

    >>> display_name("check_\x1b[31manswer"), display_name("a" * 300, 9)
    ('check_[31manswer', 'aaaa…aaaa')
    """
    seen = "".join(c for c in name if unicodedata.category(c) not in _UNSEEN)
    seen = " ".join(seen.split()) or "(no name)"
    if len(seen) <= width:
        return seen
    head = (width - 1) // 2 + (width - 1) % 2
    return f"{seen[:head]}…{seen[len(seen) - (width - 1 - head) :]}"


def display_names(names: tuple[str, ...], width: int = WIDTH) -> dict[str, str]:
    """Return a display name for each name; those that would look the same get a number."""
    shown: dict[str, str] = {}
    for name in names:
        plain, number = display_name(name, width), 1
        unique = plain
        while unique in shown.values():
            number += 1
            unique = f"{display_name(plain, width - 4)} ({number})"
        shown[name] = unique
    return shown


def number(value: float | None, digits: int = 3) -> str:
    """Return a number in a few digits.

    >>> number(0.61803), number(-3.02e-92), number(None), number(123456.0)
    ('0.618', '0', 'n/a', '1.23e+05')
    """
    if value is None or math.isnan(value):
        return "n/a"
    return "0" if abs(value) < _ZERO else f"{value:.{digits}g}"


def percent(change: float) -> str:
    """Return a relative change.

    >>> percent(-0.146), percent(-1e-7)
    ('-14.6 %', '0.0 %')
    """
    text = f"{100 * change:+.1f} %"
    return text if float(text[:-1]) else "0.0 %"


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign.

    >>> signed(0.25), signed(-1.0), signed(0.0)
    ('+0.25', '-1', '0')
    """
    text = number(value, digits)
    return f"+{text}" if value is not None and value >= _ZERO else text


def share(value: float | None) -> str:
    """Return a share in percent.

    >>> share(0.8), share(0.004), share(None)
    ('80 %', '0.4 %', 'n/a')
    """
    if value is None or math.isnan(value):
        return "n/a"
    percent = 100 * value
    return f"{percent:.0f} %" if percent >= 1 or percent < 0.05 else f"{percent:.1f} %"


def plural(count: int, noun: str) -> str:
    """Return the count with its noun.

    >>> plural(1, "alert"), plural(2, "alert")
    ('1 alert', '2 alerts')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
