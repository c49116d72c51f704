"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from kerasrobust.evaluation.renderers import steps, table, templates
from kerasrobust.specs import jsonable

# Pictures of more pixels across are not shrunk to the width of a telephone, but scrolled.
_WIDE = 720
# What a screen reader says in place of a picture, and what stands below it.
_CAPTIONS = {
    "examples.png": "Clean samples, what each attack made of them, and the difference, magnified "
    "as stated: grey where nothing changed.",
    "budget.png": "Accuracy against budget.",
    "certified.png": "Accuracy against L2 radius: certified, and left by the attacks.",
    "security_curves.png": "Accuracy against budget: left by each attack, and certified if it is.",
    "decision_space.png": "The model's classes, and the loss, on planes through four samples: "
    "across in the direction of PGD, up in a random one.",
    "loss_surface.png": "Mean loss around the samples: in the direction of FGSM and a random one.",
    "loss_against_eps.png": "Loss of the samples along the direction of FGSM.",
}


def page(report: table.ReportData, pictures: Mapping[str, bytes] = {}) -> str:
    """The report as a page of its own.

    It asks the network for nothing and follows the reader's choice of light or dark. What comes
    from outside, names of data sets, attacks and classes, is shown as text.

    Args:
        report: The report.
        pictures: PNG files by their names, which become part of the page.
    """
    return _render("page.html.jinja", report, pictures)


def fragment(report: table.ReportData) -> str:
    """The same without pictures and without the frame of a page, for a notebook."""
    return _render("report.html.jinja", report, {})


def _render(template: str, report: table.ReportData, pictures: Mapping[str, bytes]) -> str:
    return templates.template(template, escape=True).render(
        report=report,
        title=table.title(report),
        verdict=table.verdict(report),
        threat=table.threat_model(report),
        main=table.main_table(report),
        further={
            "Accuracy by budget": table.budgets_table(report),
            "Nearest adversaries": table.nearest_table(report),
            "Two-sided verdict": table.verdict_table(report),
        },
        counts={"Counts": table.counts_table(report), **table.class_tables(report)},
        pictures={
            name: {
                "data": base64.b64encode(png).decode(),
                "caption": _CAPTIONS.get(name, name),
                "wide": int.from_bytes(png[16:20]) > _WIDE,  # the width in the header of a PNG
            }
            for name, png in pictures.items()
        },
        steps=steps.next_steps(report),
        facts=table.facts(report),
        parameters={name: _pretty(row.config) for name, row in report.attacks.items()},
        settings=table.further_settings(report),
        worst=table.WORST,
    )


def _pretty(value: object) -> str:
    return json.dumps(jsonable(value), indent=2, sort_keys=True)
