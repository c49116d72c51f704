"""`kr-compare`: reports side by side."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kerasrobust_cli.common import library, output_file


@click.command(name="kr-compare", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What is printed.",
)
@click.option(
    "--leaderboard",
    metavar="FILE",
    callback=output_file,
    help="Write a JSON list with an entry for each report, the most robust first, in RobustBench's "
    "fields. One report is enough then.",
)
@click.version_option(package_name="kerasrobust")
def main(reports, form, leaderboard) -> None:
    """Lay REPORTS, folders or report.json files, beside the first of them.

    Reports on the same samples are tested in pairs, others by their intervals.
    """
    import json

    if len(reports) < 2 and leaderboard is None:
        raise click.UsageError("give at least two reports")
    names = [str(path) for path in reports]
    if len(set(names)) < len(names):
        raise click.UsageError("give each report once")
    with library():
        from kerasrobust.evaluation import Report, compare
        from kerasrobust.evaluation.renderers.leaderboard import ranked

        loaded = {name: Report.load(name) for name in names}
        if leaderboard is not None:
            entries = ranked(report.leaderboard() for report in loaded.values())
            text = json.dumps(entries, indent=2, allow_nan=False)
            leaderboard.write_text(text + "\n", encoding="utf-8")
            click.echo(f"Leaderboard written to {leaderboard}", err=True)
        if len(loaded) < 2:
            return
        found = compare(loaded)
    if form == "json":
        click.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    elif sys.stdout.isatty():
        found.render()
    else:
        click.echo(str(found))
