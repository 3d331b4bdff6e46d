"""RewardVisualizer: the original document's pictures, as PNG files or matplotlib figures."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunrex_jax_monitor.device.config import invalid
from tunrex_jax_monitor.host.history import History
from tunrex_jax_monitor.host.optional import load
from tunrex_jax_monitor.host.record import Histogram
from tunrex_jax_monitor.host.stats import RewardStats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path_ = str | os.PathLike[str] | None


class RewardVisualizer:
    """Draws rewards. Every method returns the `Figure`, and writes a PNG where `save_path` is given.

    What is drawn may come from a live `RewardMonitor`, from a `History`, or from a file of one.

    Args:
      style: a matplotlib style to draw in, instead of our own.

    Raises:
      ImportError: matplotlib is not installed.
    """

    def __init__(self, style: str | None = None) -> None:
        library = load("matplotlib.style", "plots").library
        if style is not None and not (isinstance(style, str) and style in library):
            known = sorted(library)
            raise ValueError(f"style: got {style!r}, allowed: one of {known}. Leave it out for our own.")
        self._style: str | dict[str, Any] = style or {}

    def plot_reward_history(
        self,
        history: Mapping[str, Sequence[float | None]],
        title: str = "Reward history",
        save_path: Path_ = None,
        show: bool = False,
        *,
        steps: Sequence[int] | None = None,
    ) -> "Figure":
        """Draw the step means of each reward, a panel each; `history` maps names to them."""
        from tunrex_jax_monitor.host.report import figures

        return self._finish(lambda: figures.history(history, steps, title), save_path, show)

    def plot_reward_distributions(
        self,
        history: Mapping[str, Any],
        title: str = "Reward distributions",
        save_path: Path_ = None,
        show: bool = False,
        bins: int = 50,
    ) -> "Figure":
        """Draw a histogram of each reward; `history` maps names to samples, or to histograms."""
        from tunrex_jax_monitor.host.report import figures

        histograms = {name: _histogram(values, bins) for name, values in history.items()}
        return self._finish(lambda: figures.distributions(histograms, title), save_path, show)

    def plot_reward_statistics(
        self,
        stats: Mapping[str, RewardStats],
        title: str = "Reward statistics",
        save_path: Path_ = None,
        show: bool = False,
    ) -> "Figure":
        """Draw mean, spread, quantiles and shares of all rewards."""
        from tunrex_jax_monitor.host.report import figures

        return self._finish(lambda: figures.statistics(stats, title), save_path, show)

    def plot_ema_comparison(
        self,
        stats: Mapping[str, RewardStats],
        title: str = "Short against long average",
        save_path: Path_ = None,
        show: bool = False,
    ) -> "Figure":
        """Draw where the short average of each reward is, against the long one."""
        from tunrex_jax_monitor.host.report import figures

        return self._finish(lambda: figures.ema_comparison(stats, title), save_path, show)

    def plot_reward_dashboard(
        self, reward_monitor: Any, save_path: Path_ = None, show: bool = False, title: str | None = None
    ) -> "Figure":
        """Draw averages, distribution, groups without variance and alerts of each reward, the worst rewards first.

        A page has eight rewards. The first is returned, and written to `save_path`; the next ones are written beside
        it, as `<name>-2.png` and so on.

        Args:
          reward_monitor: a `RewardMonitor`, a `History`, a run directory or a `monitoring_data.json`.
          save_path: where the PNG goes.
          show: open a window, where there is a display.
          title: above the figure.
        """
        from tunrex_jax_monitor.host.report.dashboard import Layout, draw

        run = to_history(reward_monitor)
        heading = "No rewards yet" if run.last is None else f"Rewards {run.span}"
        layout = Layout.of_run(run, heading if title is None else title)
        if save_path is not None:
            target = Path(save_path)
            for page in range(1, layout.pages):
                beside = target.with_name(f"{target.stem}-{page + 1}{target.suffix}")
                self._finish(partial(draw, layout, page), beside, show=False)
        return self._finish(partial(draw, layout, 0), save_path, show)

    def _finish(self, draw: "Callable[[], Figure]", save_path: Path_, show: bool) -> "Figure":
        from matplotlib import style

        from tunrex_jax_monitor.host.report.style import save

        with style.context(self._style):
            figure = draw()
            if save_path is not None:
                save(figure, Path(save_path).expanduser())
        if show:
            _show(figure)
        return figure


def _show(figure: "Figure") -> None:
    """Open a window, or in a notebook an output; where there is neither, pyplot says so."""
    from matplotlib import pyplot

    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    picture.seek(0)
    width, height = figure.get_size_inches()
    pyplot.figure(figsize=(width, height), dpi=figure.dpi).figimage(pyplot.imread(picture))
    pyplot.show()


def to_history(source: Any) -> History:
    """Return the history of a monitor, or read it from a path."""
    if isinstance(source, History):
        return source
    if isinstance(source, str | os.PathLike):
        return History.read(source)
    if not callable(getattr(source, "get_history", None)):
        raise invalid("reward_monitor", source, "a RewardMonitor, a History or a path", "Pass the monitor itself.")
    history: History = source.get_history()
    return history


def _histogram(values: Any, bins: int) -> Histogram:
    if isinstance(values, Histogram):
        return values
    import numpy as np

    samples = np.array([np.nan if v is None else v for v in values], float)
    counts, edges = np.histogram(samples[np.isfinite(samples)], bins)
    return Histogram(counts.tolist(), edges.tolist())
