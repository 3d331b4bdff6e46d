"""How far long work is, on stderr: a bar where a person watches, else a few lines."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import click

from tunrex_jax_monitor.cli.options import tell

T = TypeVar("T")
_LINES = 5


@contextlib.contextmanager
def progress(items: Iterable[T], length: int, noun: str) -> Iterator[Iterable[T]]:
    """Enter it for the same items, which are told as they are taken.

    Args:
      items: what is worked on, one after the other.
      length: how many there are.
      noun: what one is called.
    """
    if sys.stderr.isatty():
        with click.progressbar(items, length=length, label=f"{noun}s", file=sys.stderr) as bar:
            yield bar
    else:
        yield _with_lines(items, length, noun)


def _with_lines(items: Iterable[T], length: int, noun: str) -> Iterator[T]:
    every = max(1, length // _LINES)
    for count, item in enumerate(items, start=1):
        yield item
        if count % every == 0:
            tell(f"{noun} {count} of {length}")
