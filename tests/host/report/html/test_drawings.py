"""Small drawings of the page."""

from tests.host.support import make_record
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.record import Histogram
from tunrex_jax_monitor.host.report.html.drawings import bars


def test_the_axis_of_a_reward_of_0_and_1_ends_there_though_bins_reach_beyond():
    width = 1 / 32
    histogram = Histogram([3, *[0] * 31, 5], [(i - 0.5) * width for i in range(34)])
    for prefix in ("a/run/", "a/"):
        scalars = {f"{prefix}min": 0.0, f"{prefix}max": 1.0}
        record = make_record(9, names=("a",), scalars=scalars, histograms={f"{prefix}histogram": histogram})
        drawn = bars(History.of([record]), "a")
        assert (drawn.low, drawn.high) == ("0", "1")
