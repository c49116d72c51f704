"""Tables and pictures of the protocols: functions of what they found."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kerasrobust.evaluation import pictures
from kerasrobust.evaluation.renderers.table import Table
from kerasrobust.norms import norm_name

_INTERVAL = "In brackets the 95 % Wilson interval."


class Found(Protocol):
    """What a renderer reads of a `ProtocolResult`."""

    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def rows(self) -> list[dict[str, Any]]: ...


def _percent(share: dict[str, Any] | None, interval: bool = False) -> str:
    if share is None:
        return "-"
    ends = f" ({100 * share['low']:.1f}-{100 * share['high']:.1f})" if interval else ""
    return f"{100 * share['value']:.1f}{ends}"


def _value(share: dict[str, Any] | None) -> float | None:
    return None if share is None else share["value"]


def _names(found: Found, key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in found.rows))


def _cells(
    found: Found, attack: str, down: Sequence[str], across: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """The rows of a transfer matrix, in its two directions."""
    cells = {
        (row["crafted_on"], row["judged_by"]): row for row in found.rows if row["attack"] == attack
    }
    return [[cells[one, other] for other in across] for one in down]


def _transfer_matrix(found: Found) -> dict[str, Table]:
    down, across = found.settings["crafted_on"], found.settings["models"]
    tables = {}
    for attack in _names(found, "attack"):
        cells = _cells(found, attack, down, across)
        body = [["no attack", *(_percent(cell["clean"]) for cell in cells[0])]]
        for name, row in zip(down, cells, strict=True):
            body.append([name, *(_percent(cell["accuracy"], interval=True) for cell in row)])
        legend = (
            "Accuracy % of the model of the column on samples that were crafted on the model of "
            f"the row. {_INTERVAL}"
        )
        tables[attack] = Table(["crafted on", *across], body, [legend])
    return tables


def _transfer_picture(path: str | os.PathLike[str], found: Found) -> None:
    down, across = found.settings["crafted_on"], found.settings["models"]
    maps = {
        attack: [
            [_value(cell["accuracy"]) for cell in row]
            for row in _cells(found, attack, down, across)
        ]
        for attack in _names(found, "attack")
    }
    pictures.heat_maps(path, maps, down, across, "crafted on", "judged by")


def _ensembles(found: Found) -> tuple[list[str], dict[tuple[str, str], dict[str, Any]]]:
    cells = {(row["model"], row["ensemble"]): row for row in found.rows}
    return [name for name in found.settings["models"] if name in _names(found, "model")], cells


def _n_of_six(found: Found) -> dict[str, Table]:
    ensembles = list(found.settings["ensembles"])
    models, cells = _ensembles(found)
    header = ["model", "all samples"]
    header += [f"{name} {kind}" for name in ensembles for kind in ("true", "adv")]
    kept = {row["ensemble"]: row["kept"] for row in found.rows}
    body = [["kept", str(found.settings["samples"])]]
    body[0] += [text for name in ensembles for text in (str(kept[name]), "")]
    for model in models:
        line = [model, _percent(found.settings["clean"][model])]
        for name in ensembles:
            row = cells.get((model, name))
            line += ["", ""] if row is None else [_percent(row[k]) for k in ("true", "adversarial")]
        body.append(line)
    legend = (
        "Accuracy % on the samples that the whole ensemble gets right without attack and wrong "
        "under it: without attack (true) and under it (adv). Empty where the model is part of the "
        "ensemble, - where no sample was kept."
    )
    return {"accuracy by ensemble": Table(header, body, [legend])}


def _n_of_six_picture(path: str | os.PathLike[str], found: Found) -> None:
    models, cells = _ensembles(found)
    ensembles = list(found.settings["ensembles"])
    values = [
        [_value(cells.get((model, name), {}).get("adversarial")) for name in ensembles]
        for model in models
    ]
    pictures.heat_maps(path, {"gea": values}, models, ensembles, "judged by", "ensemble")


def _all_targets(found: Found) -> dict[str, Table]:
    body = []
    for row in found.rows:
        cases = ("accuracy", "best", "average", "worst")
        shares = [_percent(row[case], interval=True) for case in cases]
        median = f"{float(row['median']):.4g}"
        body.append([row["attack"], norm_name(float(row["norm"])), *shares, median])
    header = ["attack", "norm", "accuracy %", "best case %", "average %", "worst case %", "median"]
    legend = (
        f"Accuracy: instances, {found.settings['instances']:,} of them, that are right without "
        "attack and whose target is not reached. The rest is success, a target that is reached. "
        "Best case: samples with such a target; average: instances; worst case: samples all of "
        "whose targets are reached. Median distance of instances, a failure as infinite. "
        f"{_INTERVAL} Those of instances allow for the instances of a sample being alike."
    )
    return {"every wrong class as the target": Table(header, body, [legend])}


def _all_targets_picture(path: str | os.PathLike[str], found: Found) -> None:
    names = [str(label) for label in range(found.settings["classes"])]
    maps = {row["attack"]: row["classes"] for row in found.rows}
    pictures.heat_maps(path, maps, names, names, "true class", "target", "success, %")


def _repeated(found: Found) -> dict[str, Table]:
    body = []
    for row in found.rows:
        cells = [f"{100 * row[key]:.2f}" for key in ("mean", "deviation")]
        ends = [f"{100 * end(row['values']):.1f}" for end in (min, max)]
        body.append([row["attack"], *cells, *ends])
    header = ["attack", "mean %", "deviation", "lowest", "highest"]
    legend = (
        f"Accuracy over {found.settings['draws']} draws of {found.settings['samples']:,} samples "
        f"out of {found.settings['of']:,}; the standard deviation is that of one draw, in points."
    )
    return {"accuracy over draws": Table(header, body, [legend])}


def _repeated_picture(path: str | os.PathLike[str], found: Found) -> None:
    pictures.spread(path, {row["attack"]: row["values"] for row in found.rows})


def _curves(found: Found) -> dict[str, list[dict[str, Any]]]:
    """Rows of a sweep by model and attack."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows:
        several = len(found.settings["models"]) > 1
        name = f"{row['model']}, {row['attack']}" if several else row["attack"]
        curves.setdefault(name, []).append(row)
    return curves


def _budget_sweep(found: Found) -> dict[str, Table]:
    curves = _curves(found)
    norm = norm_name(float(found.settings["norm"]))
    columns = list(zip(*curves.values(), strict=True))
    body = [
        [f"{rows[0]['eps']:.4g}", *(_percent(row["accuracy"], interval=True) for row in rows)]
        for rows in columns
    ]
    legend = f"Accuracy % within the budget. {_INTERVAL}"
    return {f"accuracy by {norm} budget": Table([f"{norm} eps", *curves], body, [legend])}


def _budget_picture(path: str | os.PathLike[str], found: Found) -> None:
    curves = {
        name: {
            "norm": found.settings["norm"],
            "eps": [row["eps"] for row in rows],
            "accuracy": [row["accuracy"]["value"] for row in rows],
        }
        for name, rows in _curves(found).items()
    }
    # With room beside the panel for the names, however many models there are.
    pictures.security_curves(path, curves)


TABLES: dict[str, Callable[[Found], dict[str, Table]]] = {
    "all_targets": _all_targets,
    "budget_sweep": _budget_sweep,
    "n_of_six": _n_of_six,
    "repeated": _repeated,
    "transfer_matrix": _transfer_matrix,
}
PICTURES: dict[str, Callable[[str | os.PathLike[str], Found], None]] = {
    "all_targets": _all_targets_picture,
    "budget_sweep": _budget_picture,
    "n_of_six": _n_of_six_picture,
    "repeated": _repeated_picture,
    "transfer_matrix": _transfer_picture,
}
