import logging

import pytest

from tests.host.support import make_record, run_python
from tunrex_jax_monitor.host.record import AlertEvent
from tunrex_jax_monitor.host.sinks.base import Sink
from tunrex_jax_monitor.host.sinks.console import ConsoleSink, ascii_safe, format_summary

FIGURES = {
    "mean": 2.45,
    "std": 0.98,
    "min": 0.0,
    "max": 3.0,
    "median": 3.0,
    "p25": 0.0,
    "p75": 3.0,
    "p90": 3.0,
    "p99": 3.0,
    "ema_short": 2.52,
    "ema_long": 2.48,
    "positive_fraction": 0.68,
    "negative_fraction": 0.0,
    "zeros_fraction": 0.32,
    "count": 100.0,
}
SCALARS = {f"format_exact/{key}": value for key, value in FIGURES.items()}

# The original document's example, with P99 added and the plus-minus sign in ASCII.
BLOCK = """\
================================================================================
Reward Monitoring Summary (Step 100)
================================================================================

format_exact:
  Mean: 2.4500 +/- 0.9800
  Range: [0.0000, 3.0000]
  Median: 3.0000
  Percentiles: P25=0.0000, P75=3.0000, P90=3.0000, P99=3.0000
  EMAs: Short=2.5200, Long=2.4800
  Distribution: 68.0% positive, 0.0% negative, 32.0% zero
  Samples: 100

Total Alerts: 0
================================================================================"""


def alert(step: int, message: str = "DROP: a fell", remedy: str = "Look.") -> AlertEvent:
    return AlertEvent(step=step, reward="a", type="DROP", message=message, remedy=remedy)


def summary(scalars=SCALARS, names=("format_exact",), **fields) -> str:
    return format_summary(make_record(100, names=names, scalars=scalars, **fields))


@pytest.fixture
def logger(caplog):
    logger = logging.getLogger("tests.console")
    with caplog.at_level(logging.INFO, logger.name):
        yield logger


@pytest.fixture
def package_logger():
    logger = logging.getLogger("tunrex_jax_monitor")
    level = logger.level
    yield logger
    logger.setLevel(level)


def test_summary_has_the_layout_of_the_original_document():
    assert summary() == BLOCK


def test_every_reward_is_shown_in_the_order_of_names():
    scalars = SCALARS | {"b/mean": 1.0, "a/mean": 2.0}
    lines = summary(scalars, names=("b", "format_exact", "a")).splitlines()
    assert [line for line in lines if line.endswith(":")] == ["b:", "format_exact:", "a:"]


@pytest.mark.parametrize("key", [key for key in FIGURES if key != "mean"])
def test_an_absent_figure_reads_na(key):
    assert "n/a" in summary({k: v for k, v in SCALARS.items() if k != f"format_exact/{key}"})


def test_a_reward_without_data_takes_one_line():
    assert "silent:\n  Samples: n/a (no valid sample in the window)\n\nTotal" in summary({}, names=("silent",))


def test_small_and_large_figures_keep_four_digits():
    text = summary(SCALARS | {"format_exact/mean": -1.23456e-7, "format_exact/std": 1.23456e9})
    assert "Mean: -1.235e-07 +/- 1.235e+09" in text


def test_groups_are_shown_only_when_there_are_groups():
    groups = {"frac_reward_zero_std": 0.25, "groups/pass_at_8": 0.9, "groups/pass_at_16": 1.0, "groups/pass_at_1": 0.5}
    assert "Prompt groups" not in summary()
    text = summary(SCALARS | groups)
    assert "  Zero variance: 25.0%\n  Solved: none n/a, partial n/a, all n/a\n" in text
    assert "Pass@k: 1=0.5000, 8=0.9000, 16=1.0000" in text


def test_figures_say_what_they_are_over():
    more = {"format_exact/run/count": 25600.0, "format_exact/advantage_share": 0.613, "reward": 1.5, "reward_std": 0.25}
    text = summary(SCALARS | more | {"frac_reward_zero_std": 0.25})
    assert "  Samples: the last 100 of 25600\n  Advantages: 61.3% of them come from this reward, since the" in text
    assert "\nPrompt groups, since the last emission:\n  Weighted total: 1.5000 +/- 0.2500\n  Zero variance" in text


@pytest.mark.parametrize("scale", [1.0, 1 / 16], ids=["counts", "fractions"])
def test_solved_shares_are_the_same_for_counts_and_fractions(scale):
    solved = {"groups/solve_none": 2 * scale, "groups/solve_partial": 10 * scale, "groups/solve_all": 4 * scale}
    assert "Solved: none 12.5%, partial 62.5%, all 25.0%" in summary(SCALARS | solved)


def test_solved_shares_of_no_group_read_na():
    solved = {"groups/solve_none": 0.0, "groups/solve_partial": 0.0, "groups/solve_all": 0.0}
    assert "Solved: none n/a, partial n/a, all n/a" in summary(solved)


def test_what_was_left_out_or_dropped_is_told():
    text = summary(SCALARS | {"format_exact/nonfinite_count": 3.0, "monitoring/dropped_records": 2.0})
    assert "  Left out: 3 not finite" in text
    assert "\nDropped Records: 2\n" in text


def test_the_last_five_alerts_are_listed_under_the_total():
    scalars = SCALARS | {"alerts/total": 12.0, "monitoring/alert_count": 7.0}
    lines = summary(scalars, alerts=tuple(alert(step) for step in range(7))).splitlines()
    assert lines[-9:-1] == [
        "Total Alerts: 12",
        "Recent Alerts (last 100 steps): 7",
        "Newest Alerts:",
        *(f"  Step {step}: DROP: a fell" for step in range(2, 7)),
    ]


def test_hostile_names_and_messages_come_out_as_one_line_of_printable_ascii():
    name = "länge\n\x1b[2J\x9b\u202e\ud800✓<script>"
    text = summary({f"{name}/mean": 1.0}, names=(name,), alerts=(alert(1, f"DROP: {name}"),))
    assert all(" " <= character <= "~" for character in text.replace("\n", ""))
    assert len(text.splitlines()) == len(BLOCK.splitlines()) + 2
    assert ascii_safe("a\\n") != ascii_safe("a\n")


def test_alerts_are_logged_at_once_and_the_summary_at_close(caplog, logger):
    sink = ConsoleSink(logger=logger)
    assert isinstance(sink, Sink)
    sink.write(make_record(100, names=("format_exact",), scalars=SCALARS, alerts=(alert(97),)))
    assert caplog.messages == ["[ALERT] Step 97: DROP: a fell | Look."]
    assert caplog.records[0].levelno == logging.WARNING
    sink.close()
    assert caplog.messages[1].startswith("\n====")
    assert "  Step 97: DROP: a fell" in caplog.messages[1]


def test_the_closing_summary_lists_alerts_of_earlier_records(caplog, logger):
    sink = ConsoleSink(logger=logger)
    sink.write(make_record(10, alerts=(alert(9),)))
    sink.write(make_record(20))
    sink.close()
    assert "Total Alerts: 1\nNewest Alerts:\n  Step 9: DROP: a fell" in caplog.messages[-1]


def test_closing_twice_or_without_a_record_adds_nothing(caplog, logger):
    ConsoleSink(logger=logger).close()
    assert caplog.messages == []
    sink = ConsoleSink(logger=logger)
    sink.write(make_record())
    sink.close()
    sink.close()
    assert len(caplog.messages) == 1


def test_summary_every_counts_records_and_the_last_is_not_repeated(caplog, logger):
    sink = ConsoleSink(logger=logger, summary_every=2)
    for step in range(4):
        sink.write(make_record(step))
    sink.close()
    assert [text.split("(")[1].split(")")[0] for text in caplog.messages] == ["Step 1", "Step 3"]


def test_a_flood_of_alerts_in_one_record_is_cut_short_and_counted(caplog, logger):
    ConsoleSink(logger=logger).write(make_record(9, alerts=tuple(alert(step) for step in range(50))))
    assert len(caplog.messages) == 21
    assert caplog.messages[-1] == "[ALERT] Step 49: and 30 more"


def test_quiet_logs_nothing(caplog, logger):
    sink = ConsoleSink(logger=logger, quiet=True, summary_every=1)
    sink.write(make_record(alerts=(alert(1),)))
    sink.close()
    assert caplog.messages == []


def test_percent_signs_in_messages_are_not_a_format(caplog, logger):
    ConsoleSink(logger=logger).write(make_record(alerts=(alert(1, "FLATLINE: 95% s %d", remedy=""),)))
    assert caplog.messages == ["[ALERT] Step 1: FLATLINE: 95% s %d"]


def test_a_level_set_by_the_user_is_kept(package_logger):
    package_logger.setLevel(logging.ERROR)
    ConsoleSink()
    assert package_logger.level == logging.ERROR


@pytest.mark.parametrize("summary_every", [0, -5, True])
def test_a_bad_interval_names_got_allowed_and_remedy(summary_every):
    with pytest.raises(ValueError, match=rf"summary_every: got {summary_every}, allowed .* Leave it out"):
        ConsoleSink(summary_every=summary_every)


USE = """
sink = ConsoleSink()
sink.write(record(3, alerts=(AlertEvent(2, "a", "DROP", "DROP: a", ""),)))
sink.close()
"""


def test_without_any_logging_set_up_everything_appears_on_stdout():
    done = run_python(USE)
    assert done.stdout.startswith("[ALERT] Step 2: DROP: a\n\n====")
    assert done.stderr == ""


def test_no_handler_is_ever_added():
    done = run_python(
        USE + "import logging\nprint(logging.root.handlers, logging.getLogger('tunrex_jax_monitor').handlers)"
    )
    assert done.stdout.endswith("[] []\n")


@pytest.mark.parametrize("level", ["", "level=logging.WARNING"], ids=["default", "warning"])
def test_a_handler_of_the_user_gets_everything_exactly_once(level):
    done = run_python(f"import logging\nlogging.basicConfig({level})" + USE)
    assert done.stdout == ""
    assert done.stderr.count("[ALERT]") == done.stderr.count("Reward Monitoring Summary") == 1


def test_a_handler_added_later_takes_over_without_doubling():
    done = run_python(
        "import logging\nsink = ConsoleSink()\nlogging.basicConfig()" + USE.replace("sink = ConsoleSink()", "")
    )
    assert done.stdout == ""
    assert done.stderr.count("[ALERT]") == 1


def test_blocks_come_with_the_first_record_behind_so_many_steps(caplog):
    sink = ConsoleSink(summary_steps=100)
    with caplog.at_level(logging.INFO):
        for update in range(30, 301, 30):
            sink.write(make_record(update - 1, update=update))
    assert [line for line in caplog.text.splitlines() if "Step" in line] == [
        f"Reward Monitoring Summary (Step {step})" for step in (119, 209, 299)
    ]
