"""Reports as entries of a leaderboard, with the fields of RobustBench's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from kerasrobust.evaluation.renderers.table import ReportData
from kerasrobust.norms import norm_name

# What a report does not know, and what RobustBench has where there is nothing to say.
_ABOUT: dict[str, Any] = {
    "name": None,
    "link": "",
    "authors": "",
    "venue": "N/A",
    "additional_data": None,
    "architecture": None,
    "footnote": "",
}


def entry(report: ReportData, **about: Any) -> dict[str, Any]:
    """An entry of a leaderboard, in strict JSON types.

    The fields are those of the files in RobustBench's `model_info/<dataset>/<threat model>/`, and
    `threat_model`, which is the folder there. Accuracies are in percent, numbers where RobustBench
    has text, which its readers convert. `autoattack_acc` is None but after the `autoattack` preset
    on four classes and more; `reported` is the worst case over whatever attacks there were. Beyond
    its fields: `attacks`, `n_examples`, the 95 % `interval` of `reported`, the hash of the
    `weights`. Where only samples were counted that are right without attack, the entry is about
    all of them.

    Reference: Croce et al., RobustBench, NeurIPS Datasets and Benchmarks 2021 (arXiv:2010.09670).

    Args:
        report: The report.
        **about: What a report does not know: `name` (by default the model's file, else its name),
            `link`, `authors`, `venue`, `additional_data` (whether more data than the training set
            were used), `architecture` (by default the model's name), `footnote`.

    Raises:
        ValueError: If the evaluation had no budget, which a threat model needs.
        TypeError: If `about` holds anything else.
    """
    unknown = sorted(set(about) - set(_ABOUT))
    if unknown:
        raise TypeError(f"Expected some of {list(_ABOUT)}. Received: {unknown[0]!r}")
    settings = report.settings
    if settings["eps"] is None:
        raise ValueError(
            "An entry of a leaderboard needs a threat model: evaluate with a budget (eps=, --eps). "
            "Received: a report with eps=None"
        )
    about = {**_ABOUT, **about}
    low, high = settings["clip_values"]
    # Where only samples are counted that are right without attack, the entry is about all of them.
    chosen = settings["only_correct"]
    share = 1.0 if chosen is None else chosen["accuracy"]
    accuracy = _percent(share * report.robust["accuracy"])
    few = any(finding.code == "few_classes" for finding in report.findings)
    whole = settings["preset"] == "autoattack" and settings["partial"] is None and not few
    file, classifier = settings["file"], settings["classifier"]
    stem = None if file is None else os.path.splitext(os.path.basename(file))[0]
    return {
        "link": about["link"],
        "name": about["name"] or stem or settings["model"],
        "authors": about["authors"],
        "additional_data": about["additional_data"],
        "number_forward_passes": classifier.get("judge", classifier)["votes"],
        "dataset": settings["dataset"],
        "venue": about["venue"],
        "architecture": about["architecture"] or settings["model"],
        "threat_model": norm_name(float(settings["norm"])),
        "eps": _fraction(float(settings["eps"]) / (high - low)),
        "clean_acc": _percent(share * report.clean["accuracy"]),
        "reported": accuracy,
        "autoattack_acc": accuracy if whole else None,
        "footnote": about["footnote"],
        "unreliable": any(finding.severity != "note" for finding in report.findings),
        "attacks": settings["preset"] or ", ".join(report.attacks),
        "n_examples": settings["samples"] if chosen is None else chosen["of"],
        "interval": [_percent(share * end) for end in report.robust["accuracy_interval"]],
        "weights": settings["weights"],
    }


def ranked(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries by data set and threat model, the most robust first."""
    order = ("dataset", "threat_model", "eps")
    return sorted(
        map(dict, entries),
        key=lambda one: ([str(one[key]) for key in order], -one["reported"], -one["clean_acc"]),
    )


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _fraction(eps: float) -> str:
    """A budget in 0..1 as RobustBench writes it: `"8/255"`, `"0.5"`."""
    short, levels = f"{eps:.6g}", round(255 * eps)
    grey = levels and abs(255 * eps - levels) < 1e-4 and len(short) > 4
    return f"{levels}/255" if grey else short
