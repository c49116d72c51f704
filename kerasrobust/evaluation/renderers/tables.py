"""Tables under headings, with notes below them: on a terminal and as Markdown."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kerasrobust.evaluation.renderers import templates
from kerasrobust.evaluation.renderers.table import Table


def render(
    tables: Mapping[str, Table], notes: Sequence[str], console: Console | None = None
) -> None:
    """Prints tables under their headings, what explains them, and the notes.

    Args:
        tables: By heading.
        notes: Sentences, one a line.
        console: A `rich` console; standard output by default.
    """
    console = console or Console()
    for heading, table in tables.items():
        # As `Text`: brackets in a name are no markup.
        title = Text(heading, style="table.title")
        shown = RichTable(title=title, title_justify="left", box=box.SIMPLE)
        for i, column in enumerate(table.header):
            shown.add_column(Text(column), justify="left" if i < 2 else "right", overflow="fold")
        for i, row in enumerate(table.rows):
            shown.add_row(*map(Text, row), end_section=i == 0)
        console.print(shown)
    legends = dict.fromkeys(legend for table in tables.values() for legend in table.legends)
    console.print(" ".join(legends), style="dim", highlight=False, markup=False)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def text(tables: Mapping[str, Table], notes: Sequence[str]) -> str:
    """What `render` prints, 130 columns wide and without colours."""
    buffer = io.StringIO()
    render(tables, notes, Console(file=buffer, width=130, no_color=True, force_terminal=False))
    return buffer.getvalue()


def markdown(
    title: str,
    tables: Mapping[str, Table],
    notes: Sequence[str],
    images: Sequence[str] = (),
    lead: str = "",
) -> str:
    """The same as Markdown.

    Args:
        title: Heading of the whole.
        tables: By heading.
        notes: Sentences.
        images: File names of pictures to show after the tables.
        lead: A sentence before the tables.
    """
    lines = [f"# {title}", "", *([f"**{lead}**", ""] if lead else [])]
    for heading, table in tables.items():
        lines += [f"## {heading}", "", _line(table.header)]
        lines.append(_line(["---" if i < 2 else "---:" for i in range(len(table.header))]))
        lines += [_line(row) for row in table.rows] + [""]
    legends = dict.fromkeys(legend for table in tables.values() for legend in table.legends)
    lines += [part for legend in legends for part in (legend, "")]
    lines += [part for image in images for part in (f"![{image}]({image})", "")]
    lines += [part for note in notes for part in (note, "")]
    return "\n".join(lines)


def page(
    title: str,
    verdict: str,
    tables: Mapping[str, Table],
    notes: Sequence[str],
    pictures: Mapping[str, bytes] = {},
) -> str:
    """The same as a page of HTML that needs no other file.

    Args:
        title: Heading of the whole.
        verdict: What it comes to; it stands first.
        tables: By heading.
        notes: Sentences.
        pictures: PNG files by what they show.
    """
    return _html("tables_page.html.jinja", title, verdict, tables, notes, pictures)


def fragment(title: str, verdict: str, tables: Mapping[str, Table], notes: Sequence[str]) -> str:
    """The same without pictures and without the frame of a page, for a notebook."""
    return _html("tables.html.jinja", title, verdict, tables, notes, {})


def _html(
    template: str,
    title: str,
    verdict: str,
    tables: Mapping[str, Table],
    notes: Sequence[str],
    pictures: Mapping[str, bytes],
) -> str:
    return templates.template(template, escape=True).render(
        title=title,
        verdict=verdict,
        tables=tables,
        notes=notes,
        pictures={told: base64.b64encode(png).decode() for told, png in pictures.items()},
    )


def _line(cells: Sequence[str]) -> str:
    # On one line, whatever a name holds.
    told = [" ".join(cell.replace("|", "\\|").splitlines()) for cell in cells]
    return "| " + " | ".join(told) + " |"
