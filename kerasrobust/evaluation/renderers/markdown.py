"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from kerasrobust.evaluation.renderers import steps, table, templates

_TEMPLATE = "report.md.jinja"


def render(report: table.ReportData, images: Sequence[str] = ()) -> str:
    """The report as Markdown.

    Args:
        report: The report.
        images: File names of pictures to show at its end.
    """
    return templates.template(_TEMPLATE, escape=False).render(
        report=report,
        title=table.title(report),
        found=table.verdict(report),
        threat=table.threat_model(report),
        main=table.main_table(report),
        budgets=table.budgets_table(report),
        nearest=table.nearest_table(report),
        verdict=table.verdict_table(report),
        counts=table.counts_table(report),
        classes=table.class_tables(report),
        steps=steps.next_steps(report),
        facts=table.facts(report),
        settings=table.further_settings(report),
        images=images,
    )
