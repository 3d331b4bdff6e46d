"""Text for terminals and pipes: without what would steer a terminal, in what stdout can say, in columns of cells."""

import shutil
import sys
import textwrap
import unicodedata
from typing import TextIO

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidirectional marks), halves of pairs, line ends


def printable(text: str) -> str:
    r"""Return the text on one line, without control and format characters, so that a name cannot steer a terminal.

    >>> printable("a\x1b[2Jb\n\u202ec")
    'a[2Jbc'
    """
    return "".join(c for c in text if unicodedata.category(c) not in _INVISIBLE)


def encodable(text: str) -> str:
    """Return the text as stdout can say it, with escapes for the rest, so that columns keep their widths."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def speaks_unicode() -> bool:
    """Tell whether stdout takes any character."""
    return (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a wide character, none for a combining one."""
    return sum((unicodedata.east_asian_width(c) in "WF") + 1 for c in text if not unicodedata.combining(c))


def shorten(text: str, width: int) -> str:
    """Return a text of at most `width` columns that keeps both its ends.

    >>> shorten("a_reward_of_a_long_name", 11)
    'a_re...name'
    """
    if cells(text) <= width:
        return text
    head, tail = (width - 2) // 2, (width - 3) // 2
    return f"{_fitting(text, head)}...{_fitting(text[::-1], tail)[::-1]}"


def folded(text: str, stream: TextIO, indent: str = "  ") -> str:
    """Return the text, broken between words where the stream is a terminal; further lines are indented."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return the text, filled with spaces to `width` columns."""
    space = " " * (width - cells(text))
    return space + text if right else text + space


def _fitting(text: str, width: int) -> str:
    taken = 0
    for at, character in enumerate(text):
        taken += cells(character)
        if taken > width:
            return text[:at]
    return text
