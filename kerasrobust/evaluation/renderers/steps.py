"""What to do about a report: commands, each with the rule that chose it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from typing import NamedTuple

from kerasrobust.evaluation.renderers.table import ReportData

# Options of a `kr-eval` command that say what was evaluated, not how, and those that `kr-harden`
# has too.
_HARDENED = ("model", "dataset", "data-dir", "download", "import", "clip-min", "clip-max", "seed")
_SUBJECT = {
    "kr-eval": (
        *_HARDENED,
        *("samples", "balanced", "batch-size", "defense", "gradient", "eot", "votes"),
        *("mean", "std"),
    ),
    "kr-harden": _HARDENED,
}
# Those that say how: a step that names no attack is about the same ones.
_ATTACKS = ("attacks", "eps", "norm", "targeted", "targets", "max-queries", "only-correct")
# A model that keeps less than this share of its accuracy is worth hardening.
_KEPT = 0.5


class Step(NamedTuple):
    """Something to do next.

    Attributes:
        why: What it is good for, a sentence.
        command: The command line. `...` in it stands for model and data where the report was not
            made by `kr-eval`.
    """

    why: str
    command: str


def next_steps(report: ReportData) -> list[Step]:
    """What to do next: the findings' commands, the gravest first, then what the figures call for.

    By these rules, of which none applies where the figures say nothing:

    - no cascade and no doubt: AutoAttack, in the budget of the evaluation;
    - no minimal-norm attack, or one in a cascade: the distances of the nearest adversarial points;
    - less than half of the accuracy is left: hardening, in the same budget.

    Args:
        report: The report.
    """
    found = [
        Step(f"For what {finding.code} says above.", finding.command)
        for finding in report.findings
        if finding.command
    ]
    if not any(finding.severity == "invalid" for finding in report.findings):
        found += _general(report)
    steps: dict[str, Step] = {}
    for step in found:
        command = _filled(step.command, report.run.get("command"))
        steps.setdefault(command, Step(step.why, command))
    return list(steps.values())


def _general(report: ReportData) -> Iterable[Step]:
    norm, eps = _threat(report)
    white = any(row.knowledge == "white" for row in report.attacks.values())
    if eps is not None and white and not report.settings["cascade"]:
        yield Step(
            "AutoAttack is what published figures are measured with.",
            f"kr-eval ... --attacks autoattack --eps {eps:.4g} --norm {norm:g}",
        )
    minimal = any(row.kind == "minimal" for row in report.attacks.values())
    if white and (report.settings["cascade"] or not minimal):
        yield Step(
            "How far the nearest adversarial points are, whatever the budget.",
            "kr-eval ... --attacks minimal",
        )
    if report.robust["accuracy"] < _KEPT * report.clean["accuracy"]:
        budget = "" if eps is None else f"--eps {eps:.4g} --norm {norm:g} "
        yield Step(
            "Little of the accuracy is left: tune defenses and train, and see what they keep.",
            f"kr-harden ... {budget}--output hardened",
        )


def _threat(report: ReportData) -> tuple[float, float | None]:
    """Norm and budget of the evaluation, else of its first attack that has one."""
    threats = [(report.settings["norm"], report.settings["eps"])]
    threats += [(row.norm, row.config.get("eps")) for row in report.attacks.values()]
    for norm, eps in threats:
        if isinstance(eps, (int, float)) and math.isfinite(eps) and float(norm) in (2.0, math.inf):
            return float(norm), float(eps)
    return math.inf, None


def _filled(step: str, command: str | None) -> str:
    """A step with the options of the command that made the report in the place of its dots."""
    program, _, rest = step.partition(" ... ")
    words = shlex.split(command or "")
    if program not in _SUBJECT or not words or words[0] != "kr-eval":
        return step
    own = {word.partition("=")[0] for word in shlex.split(rest) if word.startswith("--")}
    again = program == "kr-eval" and "--attacks" not in own
    known = (*_SUBJECT[program], *(_ATTACKS if again else ()))
    kept, wanted = [], False
    for word in words[1:]:
        if word.startswith("--"):
            option = word.partition("=")[0]
            wanted = option[2:] in known and option not in own
        if wanted:
            kept.append(word)
    return " ".join([program, *([shlex.join(kept)] if kept else []), rest])
