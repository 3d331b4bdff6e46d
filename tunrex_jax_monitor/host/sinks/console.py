"""ConsoleSink: alerts as they come, and a summary block a person can read.

Everything goes through the logger "tunrex_jax_monitor", in pure ASCII. Where no logging handler listens it is printed
to stdout, so that it is seen without any set-up; neither the root logger nor any handler is touched.
"""

import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tunrex_jax_monitor.host.record import AlertEvent, Record

_RULE = "=" * 80
_RECENT = 5
_ALERTS_PER_RECORD = 20
_PASS_AT = "groups/pass_at_"


class ConsoleSink:
    """Logs every alert at once (level WARNING), and a summary block of the last record at `close` (level INFO).

    Args:
      logger: where to log. None takes the logger "tunrex_jax_monitor" and, unless it has a level, sets it to INFO.
      quiet: True logs nothing at all.
      summary_every: how many records lie between two summary blocks; None gives one block, at the end.
      summary_steps: the same in steps: a block comes with the first record behind so many. Give one of the two.
    """

    def __init__(
        self,
        *,
        logger: logging.Logger | None = None,
        quiet: bool = False,
        summary_every: int | None = None,
        summary_steps: int | None = None,
    ) -> None:
        if logger is not None and not callable(getattr(logger, "log", None)):
            raise ValueError(
                f"logger: got {logger!r}, allowed a logging.Logger, or None. Leave it out for the package's."
            )
        if not isinstance(quiet, bool):
            raise ValueError(f"quiet: got {quiet!r}, allowed True or False. Leave it out to see alerts.")
        _require_interval("summary_every", summary_every)
        _require_interval("summary_steps", summary_steps)
        self._logger = default_logger() if logger is None else logger
        self._quiet = quiet
        self._summary_every, self._summary_steps = summary_every, summary_steps
        self._written = self._blocks = 0
        self._recent: deque[AlertEvent] = deque(maxlen=_RECENT)
        self._unsummarised: Record | None = None
        self._summarised: int | None = None  # the updates that the last block knew of

    def write(self, record: Record) -> None:
        """Log the alerts that began in this record, and its summary when it is due."""
        self._written += 1
        self._recent.extend(record.alerts)
        self._unsummarised = record
        for line in _alert_lines(record.alerts):
            self._say(logging.WARNING, line)
        if self._is_due(record):
            self._summarise()

    def close(self) -> None:
        """Log the summary of the last record, unless it has been logged."""
        self._summarise()

    def _is_due(self, record: Record) -> bool:
        if self._summary_steps is not None:
            before, self._blocks = self._blocks, record.update // self._summary_steps
            return self._blocks > before
        return self._summary_every is not None and self._written % self._summary_every == 0

    def _summarise(self) -> None:
        record, self._unsummarised = self._unsummarised, None
        if record is not None and record.update != self._summarised:
            self._summarised = record.update
            self._say(logging.INFO, "\n" + format_summary(record, recent=self._recent))

    def _say(self, level: int, text: str) -> None:
        if not self._quiet:
            say(text, level, self._logger)


def say(text: str, level: int = logging.INFO, logger: logging.Logger | None = None) -> None:
    """Log a text, through the package's logger by default; print it where nobody listens."""
    logger = default_logger() if logger is None else logger
    if not logger.isEnabledFor(level):
        return
    if logger.hasHandlers():
        logger.log(level, "%s", text)
    else:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def format_summary(record: Record, *, recent: Iterable[AlertEvent] | None = None) -> str:
    """Return the summary block of a record as ASCII text, without a line break at the end.

    Args:
      record: `record.names` says which rewards are shown; a figure that the record does not have reads n/a.
      recent: the alerts to list, of which the last five are; None takes those of the record.
    """
    alerts = tuple(record.alerts if recent is None else recent)[-_RECENT:]
    lines = [_RULE, f"Reward Monitoring Summary (Step {record.step})", _RULE]
    for name in record.names:
        lines += ["", *_reward_lines(name, record.scalars)]
    lines += _group_lines(record.scalars)
    lines += ["", *_closing_lines(record.scalars, alerts), _RULE]
    return "\n".join(lines)


def ascii_safe(text: str) -> str:
    r"""Return `text` on one line of printable ASCII; anything else, and a backslash, is escaped as in Python source.

    >>> ascii_safe("précis\x1b[2J")
    'pr\\xe9cis\\x1b[2J'
    """
    return text.encode("unicode_escape").decode("ascii")


def _reward_lines(name: str, scalars: Mapping[str, float]) -> Iterator[str]:
    def number(key: str) -> str:
        return _number(scalars.get(f"{name}/{key}"))

    def share(key: str) -> str:
        return _percent(scalars.get(f"{name}/{key}"))

    yield f"{ascii_safe(name)}:"
    if f"{name}/mean" in scalars:
        yield f"  Mean: {number('mean')} +/- {number('std')}"
        yield f"  Range: [{number('min')}, {number('max')}]"
        yield f"  Median: {number('median')}"
        yield f"  Percentiles: P25={number('p25')}, P75={number('p75')}, P90={number('p90')}, P99={number('p99')}"
        yield f"  EMAs: Short={number('ema_short')}, Long={number('ema_long')}"
        yield (
            f"  Distribution: {share('positive_fraction')} positive, {share('negative_fraction')} negative, "
            f"{share('zeros_fraction')} zero"
        )
        yield f"  Samples: {_samples(name, scalars)}"
    else:
        yield "  Samples: n/a (no valid sample in the window)"
    if f"{name}/advantage_share" in scalars:
        yield f"  Advantages: {share('advantage_share')} of them come from this reward, since the last emission"
    if nonfinite := scalars.get(f"{name}/nonfinite_count"):
        yield f"  Left out: {_whole(nonfinite)} not finite (NaN or infinite)"


def _samples(name: str, scalars: Mapping[str, float]) -> str:
    """Return over how many samples the figures above go, and where known how many there were in all."""
    window, run = (scalars.get(f"{name}/{key}") for key in ("count", "run/count"))
    return _whole(window) if run is None else f"the last {_whole(window)} of {_whole(run)}"


def _group_lines(scalars: Mapping[str, float]) -> Iterator[str]:
    """Yield the block of the prompt groups; nothing for a run without groups."""
    solved = [scalars.get(f"groups/solve_{kind}") for kind in ("none", "partial", "all")]
    ks = sorted(int(key.removeprefix(_PASS_AT)) for key in scalars if key.startswith(_PASS_AT))
    zero_std = scalars.get("frac_reward_zero_std")
    if zero_std is None and not ks and solved == [None] * 3:
        return
    yield from ("", "Prompt groups, since the last emission:")
    if "reward" in scalars:
        yield f"  Weighted total: {_number(scalars['reward'])} +/- {_number(scalars.get('reward_std'))}"
    yield f"  Zero variance: {_percent(zero_std)}"
    none, partial, every = _shares(solved)
    yield f"  Solved: none {none}, partial {partial}, all {every}"
    if ks:
        yield "  Pass@k: " + ", ".join(f"{k}={_number(scalars[f'{_PASS_AT}{k}'])}" for k in ks)


def _closing_lines(scalars: Mapping[str, float], recent: Sequence[AlertEvent]) -> Iterator[str]:
    if dropped := scalars.get("monitoring/dropped_records"):
        yield f"Dropped Records: {_whole(dropped)}"
    yield f"Total Alerts: {_whole(scalars.get('alerts/total', float(len(recent))))}"
    if "monitoring/alert_count" in scalars:
        yield f"Recent Alerts (last 100 steps): {_whole(scalars['monitoring/alert_count'])}"
    if recent:
        yield "Newest Alerts:"
    for alert in recent:
        yield f"  Step {alert.step}: {ascii_safe(alert.message)}"


def _alert_lines(alerts: Sequence[AlertEvent]) -> Iterator[str]:
    for alert in alerts[:_ALERTS_PER_RECORD]:
        remedy = f" | {ascii_safe(alert.remedy)}" if alert.remedy else ""
        yield f"[ALERT] Step {alert.step}: {ascii_safe(alert.message)}{remedy}"
    if (more := len(alerts) - _ALERTS_PER_RECORD) > 0:
        yield f"[ALERT] Step {alerts[-1].step}: and {more} more"


def _shares(counts: Sequence[float | None]) -> list[str]:
    """Return each count's part of their sum: the same for counts of groups and for fractions."""
    total = sum(count or 0 for count in counts)
    return [_percent(None if count is None or not total else count / total) for count in counts]


def _number(value: float | None) -> str:
    """Return four decimals, as the original does, where they show the figure; else four digits."""
    if value is None:
        return "n/a"
    return f"{value:.4f}" if value == 0 or 1e-2 <= abs(value) < 1e6 else f"{value:.4g}"


def _whole(count: float | None) -> str:
    return "n/a" if count is None else f"{count:.0f}"


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{share:.1%}"


def default_logger() -> logging.Logger:
    """Return the package's logger, at INFO unless somebody has set its level."""
    logger = logging.getLogger("tunrex_jax_monitor")
    if logger.level == logging.NOTSET:  # the root logger's WARNING would hide what was asked for
        logger.setLevel(logging.INFO)
    return logger


def _require_interval(name: str, given: int | None) -> None:
    allowed = isinstance(given, int) and not isinstance(given, bool) and given >= 1
    if given is not None and not allowed:
        raise ValueError(
            f"{name}: got {given!r}, allowed an int of at least 1, or None. Leave it out for one summary, at the end."
        )
