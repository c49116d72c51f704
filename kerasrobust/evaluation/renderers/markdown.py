"""A report as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jinja2

from kerasrobust.evaluation.renderers import table
from kerasrobust.specs import jsonable

_TEMPLATE = "report.md.jinja"


def render(report: table.ReportData, images: Sequence[str] = ()) -> str:
    """The report as Markdown.

    Args:
        report: The report.
        images: File names of pictures to show at its end.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["compact"] = _compact
    return environment.get_template(_TEMPLATE).render(
        report=report,
        title=table.title(report),
        found=table.verdict(report),
        threat=table.threat_model(report),
        main=table.main_table(report),
        nearest=table.nearest_table(report),
        verdict=table.verdict_table(report),
        counts=table.counts_table(report),
        classes=table.class_tables(report),
        images=images,
    )


def _compact(value: Any) -> str:
    return json.dumps(jsonable(value), sort_keys=True)
