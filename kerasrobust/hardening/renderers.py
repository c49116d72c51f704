"""How hardening looks: tables and sentences, functions of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kerasrobust.evaluation.renderers.table import WORST, Table
from kerasrobust.evaluation.summary import read_figures
from kerasrobust.hardening.rules import SHARES
from kerasrobust.metrics import registry
from kerasrobust.norms import norm_name

# Where the steps leave pictures in the folder, and what they show.
PICTURES = {
    "2-preprocessing/tuning.png": "Step 2: accuracy against the parameter of each defense.",
    "4-check/threat-before/examples.png": "Before: samples, and what each attack made of them.",
    "4-check/threat-after/examples.png": "After: samples, and what each attack made of them.",
}
_INTERVAL = "In brackets 95 % Wilson intervals."


class Found(Protocol):
    """What a renderer reads of a `Hardening`."""

    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def candidates(self) -> list[dict[str, Any]]: ...
    @property
    def preprocessing(self) -> dict[str, Any] | None: ...
    @property
    def rounds(self) -> list[dict[str, Any]]: ...
    @property
    def choices(self) -> list[dict[str, Any]]: ...
    @property
    def checks(self) -> dict[str, dict[str, Any]]: ...
    @property
    def seconds(self) -> dict[str, float]: ...
    @property
    def kept(self) -> str: ...
    @property
    def ended(self) -> str: ...


def title(found: Found) -> str:
    """What was hardened against what, in one line."""
    settings = found.settings
    return f"Hardening: {settings['model']} on {settings['dataset'] or 'data'}, {_budget(found)}"


def _budget(found: Found) -> str:
    norm = norm_name(float(found.settings["norm"]))
    return f"{norm} {found.settings['eps']:.4g}"


def verdict(found: Found) -> str:
    """What was found, in a few sentences: before, after, goal, trust."""
    check = found.checks["threat"]
    before, after = check["before"], check["after"]
    samples = f"{check['samples']:,} test samples that chose nothing"
    if after is None:
        told = (
            "Hardening did not help: no model withstands more than the undefended one on the "
            "validation samples by more than chance without losing too much. The model is kept as "
            f"it was: of {samples}, {_percent(before[WORST])} % withstand every attack within "
            f"{_budget(found)}, {_percent(before['clean'])} % are right without one."
        )
    else:
        gain = next(one for one in check["differences"] if one["row"] == WORST)
        ends = f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
        told = (
            f"Of {samples}, {_percent(after[WORST])} % withstand every attack within "
            f"{_budget(found)} instead of {_percent(before[WORST])} % ({100 * gain['value']:+.1f} "
            f"points, 95 % interval {ends}); {_percent(after['clean'])} % are right without attack "
            f"instead of {_percent(before['clean'])} %. Kept: {found.kept}."
        )
        if gain["p_value"] >= 0.05 or gain["value"] <= 0:
            told += (
                " The gain that chose it is not confirmed on the test samples: use the model as it "
                "was."
            )
    goal = found.settings["goal"]
    if goal is not None:
        reached = (after or before)[WORST]["accuracy"] >= goal
        told += f" The goal of {100 * goal:g} % is {'met' if reached else 'not met'} on them."
    grave = [
        one["code"]
        for one in check["findings"]["after" if after else "before"]
        if one["severity"] != "note"
    ]
    if grave:
        told += f" Reasons to distrust the figure: {', '.join(dict.fromkeys(grave))}."
    return told


def tables(found: Found) -> dict[str, Table]:
    """By heading: the check before and after first, then the steps."""
    shown = {"Before and after, within the budget": _check(found, "threat")}
    if "benchmark" in found.checks:
        name = found.settings["benchmark"]
        shown[f"Before and after, {name} with all metrics"] = _check(found, "benchmark")
    shown["Step 1: attacks"] = _candidates(found)
    if found.preprocessing is not None:
        rows = found.preprocessing["rows"]
        shown["Step 2: preprocessing"] = _rows(rows, found.kept)
    if found.rounds:
        shown["Steps 3 to 5: training"] = _rounds(found)
    return shown


def notes(found: Found) -> list[str]:
    """Every choice, its reason and its rule, why it ended, and the findings of the check."""
    told = [
        f"Step {one['step']}, {one['choice']}. {one['because'].rstrip('.')}."
        for one in found.choices
    ]
    rules = {one["rule"]: one["step"] for one in reversed(found.choices)}
    told += [f"Rule of step {step}: {rule.rstrip('.')}." for rule, step in reversed(rules.items())]
    told += [f"Ended by {found.ended}.", f"Minutes: {_minutes(found.seconds)}."]
    for name, check in found.checks.items():
        for side, findings in check["findings"].items():
            codes = dict.fromkeys(one["code"] for one in findings)
            if codes:
                told.append(
                    f"Reasons to distrust figures, told in 4-check/{name}-{side}: "
                    f"{', '.join(codes)}."
                )
    return told


def _minutes(seconds: dict[str, float]) -> str:
    parts = [f"{name} {took / 60:.1f}" for name, took in seconds.items()]
    return f"{', '.join(parts)}; together {sum(seconds.values()) / 60:.1f}"


def _percent(figures: dict[str, Any]) -> str:
    return f"{100 * figures['accuracy']:.1f}"


def _check(found: Found, name: str) -> Table:
    check = found.checks[name]
    metrics = registry.known(check["metrics"])
    sides = {side: check[side] for side in ("before", "after") if check[side] is not None}
    read = {
        side: {row: read_figures(figures) for row, figures in rows.items()}
        for side, rows in sides.items()
    }
    shown = [
        metric
        for metric in metrics
        if any(rows[row].get(metric.key) is not None for rows in read.values() for row in rows)
    ]
    body = []
    for row in check["before"]:
        for side, rows in read.items():
            cells = [metric.cell(rows[row], check["samples"]) for metric in shown]
            body.append([row, side, *cells])
    legends = list(dict.fromkeys(metric.legend for metric in shown if metric.legend))
    legends.insert(0, f"On {check['samples']:,} test samples that played no part in any choice.")
    return Table(["attack", "model", *(str(metric.header) for metric in shown)], body, legends)


def _candidates(found: Found) -> Table:
    body = []
    for one in found.candidates:
        told = ", ".join(f"{key}={_short(value)}" for key, value in one["parameters"].items())
        left = [str(count) for count in one["left"]]
        mark = "chosen" if one["chosen"] else ""
        body.append([one["attack"], told or "as given", *left, f"{one['passes']:.0f}", mark])
    parts = ["budget", *(f"{share:g} of it" for share in SHARES[1:])]
    legend = (
        f"Of {found.settings['validation_samples']:,} validation samples those that the undefended "
        "model still gets right, at the budget and at shares of it; forward passes a sample, a "
        "gradient counted as two. Steps are shares of the budget."
    )
    return Table(["attack", "parameters", *parts, "passes", ""], body, [legend])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(rows: Sequence[dict[str, Any]], kept: str) -> Table:
    attacks = list(rows[0]["attacks"])
    body = [
        [row["name"], *_cells(row, attacks), "kept" if row["name"] == kept else ""] for row in rows
    ]
    header = ["setting", "clean %", *(f"{name} %" for name in attacks), f"{WORST} %", ""]
    legend = f"On the validation samples; attacks see the layers. {_INTERVAL}"
    return Table(header, body, [legend])


def _cells(row: dict[str, Any], attacks: Sequence[str]) -> list[str]:
    low, high = (100 * end for end in row["robust"]["interval"])
    worst = f"{_percent(row['robust'])} [{low:.0f}, {high:.0f}]"
    under = [_percent(row["attacks"][name]) for name in attacks]
    return [_percent(row["clean"]), *under, worst]


def _rounds(found: Found) -> Table:
    attacks = list(found.rounds[0]["row"]["attacks"])
    body = []
    for one in found.rounds:
        row, plan = one["row"], one["plan"]
        kept = "kept" if row["name"] == found.kept else ""
        name = "ensemble" if len(plan["attacks"]) > 1 else ""
        trained = plan["defense"] or f"{name} {' + '.join(plan['attacks'])}".strip()
        how = [f"{plan['alpha']:g}" if plan["defense"] is None else "", str(plan["epochs"])]
        body.append([row["name"], trained, *how, plan["start"], *_cells(row, attacks), kept])
    header = ["round", "trained with", "alpha", "epochs", "from", "clean %"]
    header += [*(f"{name} %" for name in attacks), f"{WORST} %", ""]
    legend = (
        "On the validation samples, with the layers of step 2 in front. Alpha: weight of the "
        f"clean samples. {_INTERVAL}"
    )
    return Table(header, body, [legend])
