"""Accuracy against budget: what a report holds of it."""

from __future__ import annotations

import json
from typing import Any

from kerasrobust.evaluation.renderers.table import ReportData, norm_name
from kerasrobust.specs import jsonable

# Of the same attack at several budgets these differ.
_OF_THE_BUDGET = ("eps", "eps_step")


def budget_curves(report: ReportData) -> dict[str, dict[str, Any]]:
    """Curves of accuracy against budget, by name.

    A minimal-norm attack gives one by itself, all such attacks of a norm together another. A budget
    attack that was run at several budgets and is else the same gives one from its rows, which
    begins at the clean accuracy.

    Returns:
        `{"norm", "eps", "accuracy"}` by name.
    """
    curves = {
        name: row.figures["budget_curve"]
        for name, row in report.attacks.items()
        if row.figures.get("budget_curve")
    }
    series: dict[str, list[str]] = {}
    for name, row in report.attacks.items():
        if row.kind == "budget" and isinstance(row.config.get("eps"), (int, float)):
            config = {k: v for k, v in row.config.items() if k not in _OF_THE_BUDGET}
            same = [row.attack, row.norm, row.checks, config]
            series.setdefault(json.dumps(jsonable(same), sort_keys=True), []).append(name)
    for names in series.values():
        rows = {report.attacks[name].config["eps"]: report.attacks[name] for name in names}
        if len(rows) > 1 and not report.settings["cascade"]:
            budgets = sorted(rows)
            accuracy = [report.clean["accuracy"], *(rows[eps].accuracy for eps in budgets)]
            curve = {"norm": rows[budgets[0]].norm, "eps": [0.0, *budgets], "accuracy": accuracy}
            curves[names[0]] = curve
    for found in report.robust.get("nearest") or []:
        if len(found["attacks"]) > 1:
            curves[f"nearest, {norm_name(float(found['norm']))}"] = found
    return curves
