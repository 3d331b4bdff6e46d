"""Names of any kind become something that can be shown; numbers are short."""

import unicodedata

import pytest

from tests.host.report.runs import HOSTILE
from tunrex_jax_monitor.host.report.text import display_name, display_names, number, share, signed


@pytest.mark.parametrize("name", [*HOSTILE, "\ud800", "\n\t", "", " a\u2028b "])
@pytest.mark.parametrize("width", [8, 40])
def test_a_shown_name_is_short_one_line_and_does_nothing(name, width):
    shown = display_name(name, width)
    assert 0 < len(shown) <= max(width, len("(no name)"))
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert shown == shown.strip()


@pytest.mark.parametrize("name", ["answer", "check $x$", "_private", "答案", "[red]x[/red]", "<b>", "naïve"])
def test_a_harmless_name_stays_as_it_is(name):
    assert display_name(name) == name


def test_a_long_name_keeps_both_ends():
    shown = display_name("start" + "x" * 300 + "end", 20)
    assert len(shown) == 20
    assert shown.startswith("start")
    assert shown.endswith("end")


def test_names_that_would_look_the_same_get_a_number():
    shown = display_names(("a\x00", "a", "x" * 300 + "1", "y", "x" * 300), 12)
    assert len(set(shown.values())) == 5
    assert (shown["a\x00"], shown["a"]) == ("a", "a (2)")
    assert all(len(text) <= 12 for text in shown.values())


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.02e-92, "0"), (-1e-12, "0"), (0.25, "0.25"), (1.23456, "1.23"), (1e6, "1e+06"), (float("inf"), "inf"),
     (float("nan"), "n/a"), (None, "n/a"), (-0.0, "0")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text
    assert signed(value) == (f"+{text}" if value is not None and value > 1e-9 else text)


@pytest.mark.parametrize(("value", "text"), [(0.0, "0 %"), (1.0, "100 %"), (0.006, "0.6 %"), (0.0001, "0 %")])
def test_shares_are_percent(value, text):
    assert share(value) == text
