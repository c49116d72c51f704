"""Reasons to distrust a result, found in the result itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import binomtest

from kerasrobust.attacks import AttackResult
from kerasrobust.evaluation.summary import AttackSummary

# A distance must be this much smaller before one attack counts as nearer than another.
_MARGIN = 0.03
# A white-box attack may miss this share of the samples by bad luck.
_LUCK = 0.01
_SIGNIFICANCE = 0.05
_ORDER = ("gradient_masking", "black_box_stronger", "cross_check", "few_samples", "gave_up")
# Half-width, in points, from which an interval is worth a sentence.
_WIDE = 3.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something a reader of the report should know.

    Attributes:
        code: `"gradient_masking"`, `"black_box_stronger"`, `"cross_check"`, `"few_samples"`,
            `"gave_up"`, `"no_labels"` or `"no_counterpart"`.
        message: One or two sentences with the figures.
    """

    code: str
    message: str


def diagnose(
    summaries: Mapping[str, AttackSummary], results: Mapping[str, AttackResult]
) -> list[Finding]:
    """Looks through the results of all attacks for signs that they cannot be trusted.

    - *Gradient masking* (Athalye et al., "Obfuscated gradients give a false sense of security",
      ICML 2018): a black-box attack sees less than a white-box one and cannot do better unless the
      gradient misleads. Against a budget attack the comparison is made inside its own budget and
      norm; against a minimal-norm attack by distances in its own norm (paired sign test, p < 0.05).
    - A black-box attack that leaves less accuracy than a white-box one, but at larger
      distances, is reported as well, with the more careful conclusion it allows.
    - A cross-check that is stronger than the attack it checks.
    - Few samples, and samples that a decision attack gave up on.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes they were computed from, by the same names.

    Returns:
        The findings, the most serious first.
    """
    findings = []
    own = [s for s in summaries.values() if s.checks is None]
    for white in (s for s in own if s.knowledge == "white"):
        for black in (s for s in own if s.knowledge == "black"):
            if black.targeted == white.targeted:
                finding = _compare(white, black, results[white.name], results[black.name])
                if finding:
                    findings.append(finding)
    for check in summaries.values():
        if check.checks is not None and check.checks in summaries:
            native = summaries[check.checks]
            finding = _cross_check(native, check, results[native.name], results[check.name])
            if finding:
                findings.append(finding)
    samples = max((s.samples for s in summaries.values()), default=0)
    if samples:
        half = 100.0 * 1.96 * math.sqrt(0.25 / samples)
        if half > _WIDE:
            findings.append(
                Finding(
                    "few_samples",
                    f"Judged on {_samples(samples)}: the 95 % intervals reach up to "
                    f"{half:.0f} points to either side.",
                )
            )
    for summary in summaries.values():
        if summary.gave_up:
            findings.append(
                Finding(
                    "gave_up",
                    f"{summary.name} found no adversarial starting point for "
                    f"{summary.gave_up} of {_samples(summary.attacked)} and gave up on "
                    "them. Their distance counts as infinite, which does not make them robust.",
                )
            )
    return sorted(findings, key=lambda finding: _ORDER.index(finding.code))


def _compare(
    white: AttackSummary, black: AttackSummary, of_white: AttackResult, of_black: AttackResult
) -> Finding | None:
    attacked = ~(of_white.initially_adversarial | of_black.initially_adversarial)
    norm = _norm_name(white.norm)
    reach = of_black.distance(white.norm)
    if white.kind == "budget" and white.config.get("eps") is not None:
        eps = np.asarray(white.config["eps"], dtype=np.float64)
        inside = reach <= eps * (1.0 + 1e-5)
        missed = attacked & inside & ~of_white.success
        if missed.sum() > _LUCK * attacked.sum():
            return Finding(
                "gradient_masking",
                f"{black.name}, which sees no gradient, broke {_samples(missed.sum())} inside the "
                f"budget of {white.name} ({norm}) on which {white.name} failed. The "
                f"gradient misleads the attack (gradient masking): the accuracy of "
                f"{_percent(white.accuracy)} under {white.name} is not robustness.",
            )
    else:
        nearer = attacked & (reach < (1.0 - _MARGIN) * of_white.distance(white.norm))
        farther = attacked & (of_white.distance(white.norm) < (1.0 - _MARGIN) * reach)
        if _significant(nearer.sum(), farther.sum()):
            return Finding(
                "gradient_masking",
                f"{black.name}, which sees no gradient, came nearer than {white.name} in "
                f"{white.name}'s own norm ({norm}) on {_samples(nearer.sum())}, and "
                f"{white.name} nearer on {farther.sum()}. The gradient misleads the attack "
                f"(gradient masking) or {white.name} was stopped too early: do not take its "
                "figures for robustness.",
            )
    more = attacked & of_black.success & ~of_white.success
    less = attacked & of_white.success & ~of_black.success
    if _significant(more.sum(), less.sum()):
        return Finding(
            "black_box_stronger",
            f"{black.name}, a black-box attack, leaves {_percent(black.accuracy)} accuracy where "
            f"{white.name}, a white-box attack, leaves {_percent(white.accuracy)}. {black.name} "
            f"went farther than {white.name} ({norm}), so this may be the larger "
            "perturbation or gradient masking: do not read the higher accuracy as robustness "
            f"before {white.name} was repeated with a larger budget and more steps.",
        )
    return None


def _cross_check(
    native: AttackSummary, check: AttackSummary, of_native: AttackResult, of_check: AttackResult
) -> Finding | None:
    attacked = ~of_native.initially_adversarial
    if native.kind == "budget":
        better = attacked & of_check.success & ~of_native.success
        worse = attacked & of_native.success & ~of_check.success
    else:
        ours, theirs = of_native.distance(native.norm), of_check.distance(native.norm)
        better = attacked & (theirs < (1.0 - _MARGIN) * ours)
        worse = attacked & (ours < (1.0 - _MARGIN) * theirs)
    if not _significant(better.sum(), worse.sum()):
        return None
    return Finding(
        "cross_check",
        f"{check.name} did better than {native.name} on {_samples(better.sum())} and worse on "
        f"{worse.sum()}: {native.name} is weaker here than its reference.",
    )


def _significant(more: int, less: int) -> bool:
    """One-sided sign test of paired outcomes."""
    if more <= less:
        return False
    return binomtest(int(more), int(more + less), 0.5, alternative="greater").pvalue < _SIGNIFICANCE


def _norm_name(norm: float) -> str:
    return "Linf" if norm == math.inf else f"L{norm:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _samples(count: int) -> str:
    return f"{count:,} sample" + ("" if count == 1 else "s")
