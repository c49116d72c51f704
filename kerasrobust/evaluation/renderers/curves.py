"""Accuracy against budget: what a report holds of it."""

from __future__ import annotations

import json
from typing import Any

from kerasrobust.engine.box import LENGTHS
from kerasrobust.evaluation.renderers.table import ReportData
from kerasrobust.norms import norm_name
from kerasrobust.specs import jsonable

Curves = dict[str, dict[str, Any]]


def budget_curves(report: ReportData) -> Curves:
    """Curves of accuracy against budget, by name.

    A minimal-norm attack gives one by itself, all such attacks of a norm together another. A budget
    attack that was run at several budgets and is else the same gives one from its rows, which
    begins at the clean accuracy; not so in a cascade, whose rows are not of one attack alone.

    Returns:
        `{"norm", "eps", "accuracy"}` by name.
    """
    curves = _of_minimal(report)
    if not report.settings["cascade"]:
        joined = _of_budgets(report)
        curves |= {name: curve for name, curve in joined.items() if len(curve["eps"]) > 1}
    for found in report.robust.get("nearest") or []:
        if len(found["attacks"]) > 1:
            curves[f"nearest, {norm_name(float(found['norm']))}"] = found
    return curves


def security_curves(report: ReportData) -> Curves:
    """Accuracy against budget of each attack of a report, by its name.

    As `budget_curves`; an attack that was run with one budget is a curve of one point, and
    cross-checks and what attacks have in common are left out.

    Returns:
        `{"norm", "eps", "accuracy"}` by name.
    """
    return _of_minimal(report, checks=False) | _of_budgets(report, checks=False)


def _of_minimal(report: ReportData, checks: bool = True) -> Curves:
    return {
        name: row.figures["budget_curve"]
        for name, row in report.attacks.items()
        if row.figures.get("budget_curve") and (checks or row.checks is None)
    }


def _of_budgets(report: ReportData, checks: bool = True) -> Curves:
    """Budget attacks that are the same but for their budget, named after what they share."""
    series: dict[str, list[str]] = {}
    for name, row in report.attacks.items():
        if row.kind != "budget" or not isinstance(row.config.get("eps"), (int, float)):
            continue
        if checks or row.checks is None:
            config = {key: value for key, value in row.config.items() if key not in LENGTHS}
            same = [row.attack, row.norm, row.checks, config]
            series.setdefault(json.dumps(jsonable(same), sort_keys=True), []).append(name)
    curves: Curves = {}
    for names in series.values():
        rows = {float(report.attacks[name].config["eps"]): report.attacks[name] for name in names}
        points = [(eps, rows[eps].accuracy) for eps in sorted(rows)]
        if len(points) > 1:
            points.insert(0, (0.0, report.clean["accuracy"]))
        eps, accuracy = (list(column) for column in zip(*points, strict=True))
        # Of several budgets of an evaluation the rows are `pgd@0.1`, `pgd@0.2`.
        stems = {name.rpartition("@")[0] for name in names}
        stem = stems.pop() if len(names) > 1 and len(stems) == 1 else ""
        name = stem if stem and stem not in curves else names[0]
        curves[name] = {"norm": report.attacks[names[0]].norm, "eps": eps, "accuracy": accuracy}
    return curves
