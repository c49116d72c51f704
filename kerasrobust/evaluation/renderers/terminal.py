"""A report on a terminal."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kerasrobust.evaluation.renderers.steps import next_steps
from kerasrobust.evaluation.renderers.table import (
    ReportData,
    budgets_table,
    main_table,
    nearest_table,
    title,
    verdict_table,
)


def render(report: ReportData, console: Console | None = None) -> None:
    """Prints the table, the nearest points, the verdict of a certified model, and the findings.

    Args:
        report: The report.
        console: A `rich` console; standard output by default.
    """
    console = console or Console()
    table = _table(report, narrow=False)
    unbounded = console.options.update(width=1000)
    if console.measure(table, options=unbounded).maximum > console.width:
        # A narrow terminal gets the figures without their intervals, not a table cut off.
        table = _table(report, narrow=True)
    console.print(table)
    console.print(" ".join(main_table(report).legends), style="dim", highlight=False, markup=False)
    further = {
        "Accuracy by budget": budgets_table(report),
        "Nearest adversaries": nearest_table(report),
        "Two-sided verdict": verdict_table(report),
    }
    for heading, content in further.items():
        if content is not None:
            small = Table(title=heading, title_justify="left", box=box.SIMPLE)
            for column in content.header:
                small.add_column(Text(column), justify="right")
            for row in content.rows:
                small.add_row(*map(Text, row))
            console.print(small)
            console.print(" ".join(content.legends), style="dim", highlight=False, markup=False)
    for finding in report.findings:
        about = ", ".join(part for part in (finding.severity, finding.measured) if part)
        console.print(Text.assemble((finding.code, "bold"), f" ({about}): ", finding.message))
    for step in next_steps(report):
        console.print(Text.assemble(("Next: ", "bold"), step.why))
        console.print(Text(f"  {step.command}"), soft_wrap=True)


def text(report: ReportData) -> str:
    """What `render` prints, 130 columns wide and without colours."""
    buffer = io.StringIO()
    render(report, Console(file=buffer, width=130, no_color=True, force_terminal=False))
    return buffer.getvalue()


def _table(report: ReportData, narrow: bool) -> Table:
    content = main_table(report, narrow)
    table = Table(
        title=Text(title(report), style="table.title"),
        title_justify="left",
        box=box.SIMPLE if narrow else box.HEAVY_HEAD,
        padding=(0, 1 - narrow),
    )
    for i, column in enumerate(content.header):
        table.add_column(Text(column), justify="left" if i < 2 else "right", no_wrap=True)
    last = len(content.rows) - 1
    for i, row in enumerate(content.rows):
        style = "bold" if i == last else None
        # As `Text`: brackets in a name are no markup.
        table.add_row(*map(Text, row), end_section=i in (0, last - 1), style=style)
    return table
