"""Tables: by rich in a terminal where it is installed, else plain columns that other programs can read."""

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from tunrex_jax_monitor.cli.text import cells, encodable, pad, printable, shorten

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_NARROWEST = 20  # columns that a name has in a terminal, however narrow that is
_FOLDED = 24  # columns from which on a text may be folded
_WIDEST = 40  # columns that a plain first column is padded to; a longer name moves its own line only


class Cell(NamedTuple):
    """A text, and how rich shows it."""

    text: str
    style: str = ""


class Table(NamedTuple):
    """Rows under titles. The first column is text; the others stand to the right, but for those in `left`.

    In a terminal a table that is grouped has a gap where the first column changes, and columns that are optional are
    left out where there is no room, the first of them first.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    left: Sequence[str] = ()
    optional: Sequence[str] = ()
    is_grouped: bool = False


def is_rich() -> bool:
    """Tell whether stdout is a terminal that rich can draw on."""
    return sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


def echo(table: Table) -> None:
    """Print a table to stdout."""
    if not is_rich():
        click.echo(plain(table))
        return
    from rich.console import Console

    console = Console()
    console.print(drawn(table, console.width))


def plain(table: Table) -> str:
    """Return the table as columns, two spaces apart."""
    titles, *rows = [[_shown(cell) for cell in row] for row in (table.titles, *table.rows)]
    widths = [max(map(cells, column)) for column in zip(titles, *rows, strict=True)]
    widths[0] = min(widths[0], _WIDEST)
    right = [bool(at) and title not in table.left for at, title in enumerate(table.titles)]
    lines = [
        "  ".join(pad(text, width, right=is_right) for text, width, is_right in zip(row, widths, right, strict=True))
        for row in (titles, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def drawn(table: Table, width: int) -> "RichTable":
    """Return the table for rich, for a terminal of so many columns. Markup in a cell is text."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = _fitting(table, width)
    result = RichTable(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for at, title in enumerate(table.titles):
        folds = title in table.left
        least = _longest_word([title, *(_text(row[at]) for row in table.rows)]) if folds else None
        justify: Literal["left", "right"] = "left" if folds or at == 0 else "right"
        result.add_column(Text(_shown(title)), justify=justify, no_wrap=not folds, min_width=least)
    for row, below in zip(table.rows, [*table.rows[1:], None], strict=True):
        ends = table.is_grouped and below is not None and _text(below[0]) != _text(row[0])
        name = shorten(_shown(row[0]), max(width // 4, _NARROWEST))
        texts = [name, *map(_shown, row[1:])]
        cells_ = (Text(text, style=_style(cell)) for text, cell in zip(texts, row, strict=True))
        result.add_row(*cells_, end_section=ends)
    return result


def _fitting(table: Table, width: int) -> Table:
    """Return the table without as many optional columns as it takes to have room for the rest."""
    left_out: list[int] = []
    for title in ("", *table.optional):
        left_out += [at for at, other in enumerate(table.titles) if other == title]
        kept = [at for at in range(len(table.titles)) if at not in left_out]
        columns = [[_shown(row[at]) for row in (table.titles, *table.rows)] for at in kept]
        if sum(min(max(map(cells, column)), _FOLDED) + 2 for column in columns) <= width:
            break
    titles, *rows = [[row[at] for at in kept] for row in (table.titles, *table.rows)]
    return table._replace(titles=[_text(title) for title in titles], rows=rows)


def _longest_word(texts: Sequence[str]) -> int:
    """Return the columns that a text needs to be folded between words alone, unless one is very long."""
    return min(max(cells(word) for text in texts for word in _shown(text).split() or ("",)), _FOLDED)


def _shown(cell: Cell | str) -> str:
    return encodable(printable(_text(cell)))


def _text(cell: Cell | str) -> str:
    return cell if isinstance(cell, str) else cell.text


def _style(cell: Cell | str) -> str:
    return "" if isinstance(cell, str) else cell.style
