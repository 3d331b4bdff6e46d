"""`watch`: follow a live run, which need not have begun and may begin anew."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import click

from tunrex_jax_monitor.cli import live, tables
from tunrex_jax_monitor.cli.options import Problem, json_option, run_argument, tell
from tunrex_jax_monitor.cli.runs import newest_in, reading
from tunrex_jax_monitor.host.follow import Follower, News


@click.command(short_help="Follow a live run.")
@run_argument
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds between two looks."
)
@json_option
def watch(run: Path, every: float, as_json: bool) -> None:
    """Follow RUN while it is written, until Ctrl-C. It need not have begun, and may begin anew.

    A table in a terminal, else one line per record and alert; with --json each line is a strict JSON document.
    """
    path = run.expanduser()
    with reading(path):
        if path.is_file():
            raise Problem(f"RUN: got '{run}', a file, allowed: a run directory. A file does not go on: try `show`.")
    view = live.Json() if as_json else live.Screen() if tables.is_rich() else live.Lines()
    with contextlib.suppress(KeyboardInterrupt), view.display(), reading(path):
        for news_of, news in follow(path, every):
            view.show(news_of, news)


def follow(given: Path, every: float) -> Iterator[tuple[Path, News]]:
    """Yield what each look finds, for ever; the newest run in a directory takes the place of the one before."""
    follower: Follower | None = None
    if newest_in(given) is None:
        tell(f"waiting for a run in {given}")
    while True:
        path = newest_in(given)
        if path is not None and (follower is None or path != follower.run_dir):
            yield path, News(restarted=follower is not None)
            follower = Follower(path)
        news = News(restarted=True)
        while follower is not None and news:
            news = follower.poll()
            yield follower.run_dir, news
        time.sleep(every)
