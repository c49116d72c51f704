"""A report as a folder: JSON, Markdown, pictures."""

from __future__ import annotations

import json
import os
import pathlib

from kerasrobust.evaluation import pictures
from kerasrobust.evaluation.renderers import markdown
from kerasrobust.evaluation.renderers.table import ReportData


def save(report: ReportData, folder: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.json`, `report.md` and, of images, `examples.png` and `budget.png`.

    Args:
        report: The report.
        folder: Created if absent; files of these names in it are replaced.

    Returns:
        The folder.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if report.examples is not None and pictures.are_images(report.examples.x):
        bounds = tuple(report.settings["clip_values"])
        pictures.adversarial_grid(folder / "examples.png", report.examples, bounds)
        drawn.append("examples.png")
    curves = {
        name: row.figures["budget_curve"]
        for name, row in report.attacks.items()
        if row.figures.get("budget_curve")
    }
    if curves:
        pictures.budget_curves(folder / "budget.png", curves)
        drawn.append("budget.png")
    text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown.render(report, drawn), encoding="utf-8")
    return folder
