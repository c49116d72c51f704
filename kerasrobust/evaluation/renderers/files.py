"""A report as a folder: JSON, Markdown, HTML, pictures."""

from __future__ import annotations

import io
import json
import os
import pathlib

from kerasrobust.evaluation import pictures
from kerasrobust.evaluation.renderers import curves, html, markdown
from kerasrobust.evaluation.renderers.table import ReportData


def save(report: ReportData, folder: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.json`, `report.md`, `report.html` and what pictures there are.

    These are `examples.png` of images, `budget.png` of minimal-norm attacks and of budget attacks
    at several budgets, `certified.png` of a certified model, and those that `evaluate` was asked
    for, of which `security_curves.png` may make `budget.png` superfluous; the page holds them as
    well.

    Args:
        report: The report.
        folder: Created if absent; files of these names in it are replaced.

    Returns:
        The folder.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(report)
    for name, png in drawn.items():
        (folder / name).write_bytes(png)
    text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown.render(report, list(drawn)), encoding="utf-8")
    (folder / "report.html").write_text(html.page(report, drawn), encoding="utf-8")
    return folder


def draw(report: ReportData) -> dict[str, bytes]:
    """The pictures that a report has, as PNG files by name."""
    drawn = {}
    if report.examples is not None and pictures.are_images(report.examples.x):
        bounds = tuple(report.settings["clip_values"])
        grid = io.BytesIO()
        names = report.settings["class_names"]
        pictures.adversarial_grid(grid, report.examples, bounds, names)
        drawn["examples.png"] = grid.getvalue()
    asked = report.settings.get("pictures") or []
    security = curves.security_curves(report) if "security_curves" in asked else {}
    found = curves.budget_curves(report)
    if found.keys() - security.keys():  # else it would show the same again
        budget = io.BytesIO()
        pictures.budget_curves(budget, found)
        drawn["budget.png"] = budget.getvalue()
    verdict = report.robust.get("verdict")
    if verdict:
        sides = {"robust (at most)": "robust", "certified (at least)": "certified"}
        lines = {
            name: {"radius": verdict["radius"], "accuracy": verdict[key]}
            for name, key in sides.items()
        }
        certified = io.BytesIO()
        pictures.certified_curves(certified, lines)
        drawn["certified.png"] = certified.getvalue()
    for name in asked:
        requested = io.BytesIO()
        if name == "security_curves":
            proven = None
            if not security:
                continue
            if verdict:
                proven = {"radius": verdict["radius"], "accuracy": verdict["certified"]}
            pictures.security_curves(requested, security, proven)
        elif name in report.surfaces:
            _surface(requested, name, report)
        else:
            continue
        drawn[f"{name}.png"] = requested.getvalue()
    return drawn


def _surface(file: io.BytesIO, name: str, report: ReportData) -> None:
    surface, model = report.surfaces[name], report.settings["model"]
    if name == "decision_space":
        panels = {
            f"sample {place + 1}: class {label}": surface.take(place)
            for place, label in enumerate(surface.y)
        }
        pictures.decision_space(file, panels)
    elif name == "loss_surface":
        pictures.loss_surface(file, {model: surface})
    else:
        pictures.loss_against_eps(file, {model: surface})
