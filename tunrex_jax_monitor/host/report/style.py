"""How pictures look: colours that colour-blind readers tell apart, one shape per alert type, safe texts, small files.

Colours: Okabe & Ito 2008, "Color Universal Design". Lines also differ in their dashes, and alerts in their shapes, so a
grey print can be read.
"""

import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from PIL import Image, ImageColor

from tunrex_jax_monitor.host.files import replacing
from tunrex_jax_monitor.host.report.text import WIDTH, display_name, number

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#6B7680"
HEAT = "Blues"
DPI, PANEL_WIDTH = 100, 13.0  # pixels per inch, inches
SMALL, NORMAL, LARGE = 8, 9, 12
DASHED = (0, (4, 1.5))
_COLORS = 128  # of a PNG's palette, besides those that stay exact
MARKS: dict[str, tuple[str, str]] = {  # shape and colour of each alert type
    "NONFINITE": ("X", BLACK),
    "DROP": ("v", VERMILLION),
    "FLATLINE": ("s", PURPLE),
    "GROUP_COLLAPSE": ("D", BLUE),
    "SATURATION": ("P", GREEN),
    "NEGATIVE": ("o", GREY),
    "SPIKE": ("^", GREEN),
    "OUTLIER": ("*", ORANGE),
}
STATUS = {"bad": VERMILLION, "watch": "#8A6100", "ok": GREY, "empty": GREY}  # dark enough for text on white
_EXACT = tuple(dict.fromkeys(["#FFFFFF", *(color for _, color in MARKS.values()), *STATUS.values()]))


def mark(kind: str) -> tuple[str, str]:
    """Return shape and colour of an alert type, also of one from elsewhere."""
    return MARKS.get(kind, ("h", GREY))


def tidy(axes: Axes) -> None:
    """Leave out what carries no data, and write ticks as short numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, lw=0.5)
    axes.tick_params(labelsize=SMALL)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value), _digits(axes.get_ylim()))))


def _digits(limits: tuple[float, float]) -> int:
    """Return how many digits tell the ticks of an axis apart."""
    size, span = max(map(abs, limits)), abs(limits[1] - limits[0])
    return 3 if span <= 0 or span > 0.05 * size else min(15, 2 + math.ceil(math.log10(size / span)))


def over_steps(axes: Axes, steps: np.ndarray) -> None:
    """Let an axis run over the steps, with thousands apart."""
    first, last = (float(steps.min()), float(steps.max())) if len(steps) else (0.0, 1.0)
    axes.set_xlim((first, last) if last > first else (first - 0.5, last + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True) if last > first else FixedLocator([first]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def say_empty(axes: Axes, words: str) -> None:
    """Say why there is nothing to see."""
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=NORMAL)


def safe(name: str, width: int = WIDTH) -> str:
    """Return a display name of which the font has every character; others are written as their code."""
    known = get_font(findfont(FontProperties())).get_charmap()
    coded = "".join(c if ord(c) in known else f"\\u{ord(c):04x}" for c in display_name(name, width))
    return display_name(coded, width)


def fit(text: str, shorten: Callable[[str, int], str], inches: float, *, bold: bool = False) -> str:
    """Return the text, shortened to so many letters that it is at most so wide in NORMAL size."""
    letters, fitting = len(text), text
    while letters > 4 and width_of(fitting, bold=bold) > inches:
        letters = int(0.9 * letters)
        fitting = shorten(text, letters)
    return fitting


def width_of(text: str, *, bold: bool = False) -> float:
    """Return how wide a text is in NORMAL size, in inches."""
    font = get_font(findfont(FontProperties(weight="bold" if bold else "normal")))
    font.set_size(NORMAL, 72)
    font.set_text(text)
    return float(font.get_width_height()[0] / 64 / 72)


def finish(figure: Figure) -> Figure:
    """Take every text as it is: a dollar sign in a name must not start mathematics."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


def legend_of(kinds: Iterable[str]) -> list[Line2D]:
    """Return legend entries of alert types."""
    marks = [(kind, *mark(kind)) for kind in kinds]
    return [Line2D([], [], color=color, marker=shape, ls="", ms=6, label=kind) for kind, shape, color in marks]


def save(figure: Figure, target: Path) -> None:
    """Write a figure; a PNG with a palette, a third of the size. A reader sees the whole file or the one before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        if target.suffix.lower() == ".png":
            part.write_bytes(to_png(figure))
        else:
            figure.savefig(part)


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG with a palette; white, and the colours of marks and words, stay exactly as they are."""
    canvas: Any = FigureCanvasAgg(figure)  # untyped
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    rough = Image.fromarray(pixels[..., :3]).quantize(_COLORS, dither=Image.Dither.NONE)
    palette, indices = (rough.getpalette() or [])[: 3 * _COLORS], np.array(rough)
    words = pixels.view(np.uint32)[..., 0]
    for i, color in enumerate(_EXACT):
        rgb = ImageColor.getrgb(color)
        indices[words == np.array([*rgb, 255], np.uint8).view(np.uint32)] = len(palette) // 3 + i
    picture = Image.frombytes("P", rough.size, indices.tobytes())
    picture.putpalette([*palette, *(value for color in _EXACT for value in ImageColor.getrgb(color))])
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
