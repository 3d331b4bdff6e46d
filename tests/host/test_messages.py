import pytest

from tunrex_jax_monitor.device.alerts import Alert
from tunrex_jax_monitor.host.messages import describe

NUMBERS = dict.fromkeys(("mean", "std", "min", "max", "ema_short", "ema_long", "zero_share"), 0.0)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.7, 0.7, "one constant value"),
        (0.0, 0.7, "almost only zeros"),
        (-0.1, 0.7, "almost only zeros"),
        (0.0, 0.0, "almost only zeros"),
        (None, None, "one constant value, or almost only zeros"),
    ],
)
def test_flatline_says_which_of_both_it_is_by_the_step_before(low, high, text):
    before = {**NUMBERS, "min": low, "max": high}
    assert describe(Alert.FLATLINE, "a", NUMBERS, before).startswith(f"FLATLINE: a - {text} (")


def test_without_the_numbers_of_the_step_flatline_says_both():
    assert describe(Alert.FLATLINE, "a", None) == "FLATLINE: a - one constant value, or almost only zeros"
