"""Findings on attacks, each by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.diagnosis.evidence import LUCK, Repeat, beyond_luck, budget_of, some
from kerasrobust.evaluation.diagnosis.finding import Finding
from kerasrobust.evaluation.diagnosis.words import (
    attack_again,
    kr_eval,
    listed,
    percent,
    samples,
    without_gradient,
)
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust.norms import norm_name

# An attack may be blind on this share of the samples that it did not break.
_BLIND = 0.05
# Gradients that lead through a layer whose own is zero, the best one first.
_THROUGH = ("surrogate", "straight_through")
# Budgets below these shares of the width of the box are not usual in their norms (MNIST: 1.5 in L2,
# CIFAR-10: 0.25 and more): beside grey levels they were probably meant for 0..1.
_USUAL_BUDGET = {1.0: 0.5, 2.0: 0.05, math.inf: 0.9 / 255}
# Weak models misclassify half of their samples, labels that are targets make nearly all count.
_IDLE = 0.75


def check_gradients(
    summaries: Mapping[str, AttackSummary],
    results: Mapping[str, AttackResult],
    offered: Sequence[str] = (),
) -> list[Finding]:
    """Looks for attacks that saw nothing: a gradient that is zero in every entry shows no way.

    A sample was attacked blindly if more than half of the gradients at it were zero before it was
    fooled. More than 5 % of the samples that an attack did not break are worth a finding.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes they were computed from, by the same names.
        offered: Other gradients that layers of the model offer.

    Returns:
        A finding for each attack that was blind.
    """
    findings = []
    for summary in summaries.values():
        result = results[summary.name]
        unbroken = ~result.success & ~result.initially_adversarial
        blind = int((unbroken & (2 * result.zero_gradients > result.gradients)).sum())
        if summary.checks is not None or blind <= _BLIND * unbroken.sum():
            continue
        command = _around(summary, offered)
        findings.append(
            Finding(
                "zero_gradients",
                f"{summary.name} attacked {samples(blind)} blindly "
                f"({percent(blind / unbroken.sum())} of those it did not break): more than half "
                "of their gradients were zero in every entry, so its failures there say nothing. "
                "Attack without that gradient.",
                float(blind / unbroken.sum()),
                _BLIND,
                command,
            )
        )
    return findings


def check_detector_seen(
    summaries: Mapping[str, AttackSummary], results: Mapping[str, AttackResult]
) -> list[Finding]:
    """Looks for attacks that a detector stopped which they could not follow.

    A detector without an `excess` gives no gradient: white-box attacks climb the logits until the
    label changes, and the detector catches what they find. An attacker who knows it looks for
    points that it lets pass (Carlini and Wagner, "Adversarial Examples Are Not Easily Detected",
    2017, arXiv:1705.07263). Counted are samples that no attack broke, and on which a white-box one
    ended in a point of another class that was rejected.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes, by the same names, with `accepted`.

    Returns:
        At most one finding.
    """
    own = [row for row in summaries.values() if row.checks is None]
    white = [row for row in own if row.knowledge == "white" and not row.targeted]
    if not white:
        return []
    broken = np.any([results[row.name].success for row in own], axis=0)
    stopped = np.zeros(len(broken), bool)
    for row in white:
        result = results[row.name]
        if result.accepted is not None:
            stopped |= (
                (result.labels != result.y) & ~result.accepted & ~result.initially_adversarial
            )
    count, left = int((stopped & ~broken).sum()), int((~broken).sum())
    if not beyond_luck(count, left):
        return []
    eps = budget_of(white[0])
    return [
        Finding(
            "blind_to_detector",
            f"On {samples(count)} of the {left:,} that no attack broke, a white-box attack changed "
            "the label and the detector alone stopped it. It offers no `excess(x)` whose gradient "
            "leads to points that it accepts, so that the attacks met it blindly: against an "
            "attacker who knows it this says nothing.",
            count / left,
            LUCK,
            without_gradient(white[0].norm, eps),
        )
    ]


def _around(summary: AttackSummary, offered: Sequence[str]) -> str:
    """A gradient that layers offer, else an attack without one, in the same budget if it can."""
    through = [mode for mode in _THROUGH if mode in offered]
    if through:
        return kr_eval(f"--gradient {through[0]}")
    return without_gradient(summary.norm, budget_of(summary))


def check_lengths(
    summaries: Mapping[str, AttackSummary], clip_values: tuple[float, float]
) -> list[Finding]:
    """Looks at the lengths that attacks were given, which no error can settle.

    - *Small budget*: beside grey levels, one that is usual in 0..1 only.
    - *Short steps*: all steps of an attack together do not reach the edge of its budget.

    Args:
        summaries: The rows of the report, by name.
        clip_values: The box.
    """
    low, high = clip_values
    small: list[tuple[float, float, str]] = []
    short: list[tuple[float, str, str]] = []
    for summary in summaries.values():
        eps = budget_of(summary)
        if eps is None or not np.any(eps > 0):
            continue
        share = float(np.max(eps)) / (high - low)
        usual = _USUAL_BUDGET.get(summary.norm, 0.0)
        if high - low > 2 and share < usual:
            told = f"{summary.name} (eps={np.max(eps):g}, {norm_name(summary.norm)})"
            small.append((share, usual, told))
        step, steps = summary.config.get("eps_step"), summary.config.get("max_iter")
        if step is None or steps is None:
            continue
        reach, edge = float(np.max(step)) * steps, float(np.min(eps[eps > 0]))
        if reach < edge:
            told = f"{summary.name} ({steps} x {np.max(step):g} of {np.max(eps):g})"
            again = {"name": summary.attack, "config": summary.config}
            short.append((reach / edge, told, attack_again(again, "eps", "norm", "max_iter")))
    findings = []
    if small:
        share, usual, _ = min(small)
        findings.append(
            Finding(
                "small_budget",
                f"The pixels are in {low:g}..{high:g}, and the budget of "
                f"{listed(told for *_, told in small)} looks like one for pixels in 0..1: here it "
                f"would be {high - low:g} times as large a number. If so, the accuracy is not "
                "robustness.",
                share,
                usual,
                kr_eval(f"--eps {share * (high - low) ** 2:.4g}"),
            )
        )
    if short:
        reach, _, command = min(short)
        findings.append(
            Finding(
                "short_steps",
                f"The steps of {listed(told for _, told, _ in short)} together do not reach the "
                "edge of the budget: leave eps_step out, or make it longer. The accuracy is that "
                "under a smaller budget.",
                reach,
                1.0,
                command,
            )
        )
    return findings


def check_attack_labels(
    summaries: Mapping[str, AttackSummary],
    results: Mapping[str, AttackResult],
    repeat: Repeat | None = None,
) -> list[Finding]:
    """Attacks on the loss of smoothed labels, which are for reproductions.

    Such a loss falls where the model is surer of the class than the labels: the attack stops there,
    or turns back. What it misses is told by the same attack with hard labels, on some of the
    samples that were not adversarial from the start.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes, by the same names.
        repeat: As of `diagnose`.

    Returns:
        A finding for each such attack.
    """
    findings = []
    for summary in summaries.values():
        if summary.config.get("attack_labels") != "smoothed":
            continue
        result = results[summary.name]
        config = {**summary.config, "attack_labels": "hard", "k": None}
        rows = some(~result.initially_adversarial)
        hard = None
        if repeat is not None and len(rows):
            hard = repeat({"name": summary.attack, "config": config}, rows)
        told, gain = "", None
        if hard is not None:
            gain = float(hard.success.mean() - result.success[rows].mean())
            told = (
                f" Of {samples(len(rows))} it left {int((~result.success[rows]).sum())}, and the "
                f"same attack with hard labels {int((~hard.success).sum())}."
            )
        findings.append(
            Finding(
                "smoothed_labels",
                f"{summary.name} climbed the loss of labels that give the class only "
                f"{summary.config['k']:g}: where the model is surer than that it makes it surer "
                f"still, as a rule weaker than with hard labels.{told} Its figures reproduce "
                "others that were found so, and are not robustness.",
                gain,
                None if gain is None else 0.0,
                attack_again({"name": summary.attack, "config": config}),
            )
        )
    return findings


def check_scores(results: Mapping[str, AttackResult]) -> list[Finding]:
    """Points that attacks ended at where the model's scores are no numbers.

    Args:
        results: The outcomes, by their names in the report.

    Returns:
        At most one finding.
    """
    broken = {name: ~np.isfinite(one.confidence) for name, one in results.items()}
    blank = [f"{name} ({samples(int(b.sum()))})" for name, b in broken.items() if b.any()]
    if not blank:
        return []
    return [
        Finding(
            "non_finite_scores",
            f"Where attacks ended the model's scores are no numbers: {listed(blank)}. Such a point "
            "is no adversarial one, and its label is the first class by chance: the accuracy is "
            "not robustness. Look for a division, a root, a logarithm or half precision in the "
            "model.",
            max(float(b.mean()) for b in broken.values()),
            0.0,
        )
    ]


def check_starts(
    summaries: Mapping[str, AttackSummary], results: Mapping[str, AttackResult]
) -> list[Finding]:
    """Attacks for which most samples, three in four, were adversarial before they did anything.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes, by the same names.
    """
    starts = {name: results[name].initially_adversarial for name in summaries}
    idle = [
        f"{name} ({int(start.sum())} of {samples(len(start))})"
        for name, start in starts.items()
        if start.mean() > _IDLE
    ]
    if not idle:
        return []
    return [
        Finding(
            "adversarial_from_the_start",
            f"Most samples were adversarial before the attack did anything: {listed(idle)}. The "
            "labels are not those of the samples, or they hold targets, which `targeted` says, or "
            "the model is wrong about most of them.",
            float(max(start.mean() for start in starts.values())),
            _IDLE,
        )
    ]
