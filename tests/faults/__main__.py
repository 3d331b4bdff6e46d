"""`python -m tests.faults --runs N --seed S`: run the campaign, print and keep its table."""

import json
import platform
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from tests.faults import campaign

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.txt"


@click.command()
@click.option("--runs", type=click.IntRange(1), default=240, show_default=True, help="how many, over all faults")
@click.option("--seed", type=int, default=0, show_default=True, help="of what is done, and when")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, and keep nothing")
def main(runs: int, seed: int, as_json: bool) -> None:
    """Kill, fill, hang and corrupt at random points, and count what survives."""
    start = time.perf_counter()
    quiet = Console(stderr=True, quiet=as_json)
    results = list(track(campaign.run(runs, seed), "faults", total=runs, console=quiet, transient=True))
    failed = [result for result in results if result.outcome.problems]
    if as_json:
        lost = sum(result.outcome.lost for result in results)
        runs_of = {name: sum(result.fault == name for result in results) for name, *_ in campaign.FAULTS}
        problems = {result.seed: result.outcome.problems for result in failed}
        click.echo(json.dumps({"runs": len(results), "of": runs_of, "lost": lost, "problems": problems}))
    else:
        with Console(record=True, width=120) as console:
            console.print(f"python -m tests.faults --runs {runs} --seed {seed}")
            console.print(f"Python {platform.python_version()}, {time.perf_counter() - start:.0f} s", highlight=False)
            console.print(campaign.table(results))
            for result in failed:
                console.print(f"{result.seed}: {'; '.join(result.outcome.problems)}", highlight=False, markup=False)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(console.export_text())
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
