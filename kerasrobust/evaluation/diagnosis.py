"""Reasons to distrust a result, found in the result itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from kerasrobust.engine.criterion import SLACK, Criterion
from kerasrobust.engine.pixel_range import PixelRange
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust.specs import jsonable

# A distance must be this much smaller before one attack counts as nearer than another.
_MARGIN = 0.03
# A white-box attack may miss this share of the samples by bad luck.
_LUCK = 0.01
# A median this many times another one's is far behind it.
_FAR_BEHIND = 2.0
_SIGNIFICANCE = 0.05
# How grave each finding is, the gravest first. "invalid": the figures say nothing about robustness;
# "doubtful": it is probably overestimated; "note": what a reader should know.
SEVERITY = {
    "constant_predictions": "invalid",
    "chance_level": "invalid",
    "mixes_samples": "invalid",
    "certificate_violated": "invalid",
    "randomised": "doubtful",
    "pixel_range": "doubtful",
    "small_budget": "doubtful",
    "short_steps": "doubtful",
    "smoothed_labels": "doubtful",
    "adversarial_from_the_start": "doubtful",
    "gradient_masking": "doubtful",
    "zero_gradients": "doubtful",
    "black_box_stronger": "doubtful",
    "one_step_stronger": "doubtful",
    "success_falls": "doubtful",
    "step_too_long": "doubtful",
    "not_converged": "doubtful",
    "cross_check": "doubtful",
    "saturated": "note",
    "few_samples": "note",
    "gave_up": "note",
    "no_counterpart": "note",
    "few_classes": "note",
    "no_labels": "note",
}
# Budgets below these shares of the width of the box are not usual in their norms (MNIST: 1.5 in L2,
# CIFAR-10: 0.25 and more): beside grey levels they were probably meant for 0..1.
_USUAL_BUDGET = {1.0: 0.5, 2.0: 0.05, math.inf: 0.9 / 255}
# Half-width, in points, from which an interval is worth a sentence.
_WIDE = 3.0
# Fewer clean samples do not tell a bad model from bad luck.
_ENOUGH = 20
# Weak models misclassify half of their samples, labels that are targets make nearly all count.
_IDLE = 0.75
# A step is small that fits into the budget this many times.
_STEPS = 4
# Attacks that choose their own step.
_OWN_STEP = ("apgd",)
# On how many samples an attack is repeated.
_REPEATED = 32
# How many more iterations a repeated minimal-norm attack gets.
_PATIENCE = 5
# An attack may be blind on this share of the samples that it did not break.
_BLIND = 0.05
# Gradients that lead through a layer whose own is zero.
_THROUGH = ("straight_through", "surrogate")
# On this share of the samples a saturated softmax is worth a word.
_SATURATED = 0.5
# What is advised against a model that draws.
_DRAWS = "--eot 20 --votes 10, or Classifier(model, draws=20, votes=10)"
_NOISE = (
    "The model draws at inference: this may be noise. Repeat it with averaged gradients and votes "
    f"({_DRAWS}) before you speak of masked gradients."
)

Description = dict[str, Any]
Repeat = Callable[[Description, np.ndarray], AttackResult | None]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something a reader of the report should know.

    Attributes:
        code: One of the keys of `SEVERITY`.
        message: One or two sentences with the figures.
        command: What to run next: a command line, in which `...` stands for the model and the data
            of this run; None where there is nothing to run.
    """

    code: str
    message: str
    command: str | None = None

    @property
    def severity(self) -> str:
        """`"invalid"`, `"doubtful"` or `"note"`: see `SEVERITY`."""
        return SEVERITY[self.code]

    def to_dict(self) -> dict[str, str | None]:
        """The finding in JSON types."""
        return {**dataclasses.asdict(self), "severity": self.severity}


def check_predictions(labels: np.ndarray, y: np.ndarray | None, nb_classes: int) -> list[Finding]:
    """Looks at the clean predictions: nothing that follows means anything if they are noise.

    - *Constant predictions*: one class for all samples, though the samples are of several; or for
      nearly all of them, though at least half are of other classes.
    - *Chance level*: the accuracy is not above `1 / nb_classes` (exact binomial test, p < 0.05).

    Both ask for at least 20 samples.

    Args:
        labels: Labels the model gives the clean samples, shape `(n,)`.
        y: True labels, shape `(n,)`; `None` where there are none.
        nb_classes: Number of classes.

    Returns:
        At most one finding.
    """
    if len(labels) < _ENOUGH:
        return []
    advice = (
        "The model is untrained or constant, or expects its pixels in another unit: check "
        "`clip_values` (--clip-min, --clip-max). The other figures say nothing about robustness."
    )
    values, counts = np.unique(labels, return_counts=True)
    often, share = values[counts.argmax()], counts.max() / len(labels)
    its_own = 0.0 if y is None else float(np.mean(y == often))
    if (share == 1.0 and its_own <= 0.9) or (share >= 0.95 and y is not None and its_own <= 0.5):
        true = "" if y is None else f", which {_percent(its_own)} of them are"
        return [
            Finding(
                "constant_predictions",
                f"{_percent(share)} of the {_samples(len(labels))} are taken for class {often}"
                f"{true}. {advice}",
            )
        ]
    if y is None:
        return []
    hits = int(np.sum(labels == y))
    chance = 1.0 / nb_classes
    if binomtest(hits, len(y), chance, alternative="greater").pvalue < _SIGNIFICANCE:
        return []
    return [
        Finding(
            "chance_level",
            f"{hits} of {_samples(len(y))} are classified right without any attack, which is not "
            f"above chance ({_percent(chance)} for {nb_classes} classes). {advice}",
        )
    ]


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
        commands = [f"--attacks hsja:norm={'inf' if summary.norm == math.inf else 2}"]
        budget = _budget(summary)
        if budget is not None and not budget.ndim and summary.norm in (2.0, math.inf):
            square = {"name": "square", "config": {"eps": float(budget), "norm": summary.norm}}
            commands.insert(0, f"--attacks {_spec(square)}")
        commands += [f"--gradient {mode}" for mode in _THROUGH if mode in offered]
        findings.append(
            Finding(
                "zero_gradients",
                f"{summary.name} attacked {_samples(blind)} blindly "
                f"({_percent(blind / unbroken.sum())} of those it did not break): more than half "
                "of their gradients were zero in every entry, so its failures there say nothing. "
                f"Attack without that gradient: {' or '.join(commands)}.",
            )
        )
    return findings


def check_confidence(confidence: np.ndarray) -> list[Finding]:
    """Looks for a softmax that float32 cannot tell from a hard decision.

    Where the largest probability rounds to 1, the gradient of a cross-entropy in float32 is zero or
    noise. The attacks of this package do not use it; figures that were found by it are too good.

    Args:
        confidence: Probability of the predicted class on the clean samples, float32 `(n,)`.

    Returns:
        At most one finding, from 20 samples on.
    """
    share = float(np.mean(confidence >= np.float32(1))) if len(confidence) else 0.0
    if len(confidence) < _ENOUGH or share < _SATURATED:
        return []
    return [
        Finding(
            "saturated",
            f"On {_percent(share)} of the clean samples the probability of the predicted class is "
            "1 in float32, where the gradient of a cross-entropy vanishes. The attacks here climb "
            "the logits' odds instead and are not stopped by it; do not compare these figures with "
            "ones that were found on the probabilities.",
        )
    ]


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one evaluation, the most serious first."""
    order = list(SEVERITY)
    return sorted(findings, key=lambda finding: order.index(finding.code))


def check_draws(
    results: Mapping[str, AttackResult],
    *,
    draws: int,
    votes: int,
    repeatable: bool,
    averaged: bool,
    criterion: Criterion,
    nb_classes: int,
) -> list[Finding]:
    """Says what the figures of a model that draws at inference are worth.

    Args:
        results: The outcomes, by name, with the column `holds` where they were judged twice.
        draws: Passes that a gradient is the mean of.
        votes: Passes that a label is voted by.
        repeatable: Whether the same seed gives the same answers.
        averaged: Whether the attacks averaged gradients themselves.
        criterion: The budget of the evaluation.
        nb_classes: Number of classes.

    Returns:
        At most one finding: none where gradients were averaged, labels voted, and all can be
        repeated.
    """
    single = not averaged and (draws == 1 or votes == 1)
    if repeatable and not single:
        return []
    told = ["Two passes over the same samples differ: the model draws at inference."]
    judged = [result for result in results.values() if "holds" in result.columns]
    found = [result.success & ~result.initially_adversarial for result in judged]
    total = sum(int(fooled.sum()) for fooled in found)
    if total:
        gone = sum(int((f & ~r.columns["holds"]).sum()) for f, r in zip(found, judged, strict=True))
        told.append(
            f"Of {total:,} successes {gone:,} ({_percent(gone / total)}) did not hold when they "
            "were judged again."
        )
    if single:
        command = ""
        if nb_classes >= 4 and criterion.norm in (2.0, math.inf):
            budget = "..." if criterion.eps is None else f"{criterion.eps:.4g}"
            norm = "" if criterion.norm == math.inf else " --norm 2"
            command = f"; or --attacks autoattack-rand --eps {budget}{norm}"
        told.append(
            "A gradient of one draw misleads an attack, and a label of one draw is chance: average "
            f"gradients (EOT) and vote: {_DRAWS}{command}."
        )
    if not repeatable:
        told.append(
            "It does not draw by Keras's seed generators: the same seed gives other figures in "
            "another run."
        )
    return [Finding("randomised", " ".join(told))]


def check_batches(mixes_samples: bool, batch_size: int) -> list[Finding]:
    """Says what the figures of a model are worth that looks at several samples at once.

    Args:
        mixes_samples: Whether its answer to a sample depends on the others of the batch.
        batch_size: Samples per batch of this evaluation.
    """
    if not mixes_samples:
        return []
    return [
        Finding(
            "mixes_samples",
            "The model's answer to a sample depends on the other samples of its batch: batch "
            "normalization that is always called with training=True does that. Figures hold for "
            f"batches of {batch_size} in this order only, and an attack moves all samples of a "
            "batch at once: give the model a mode in which it looks at one sample.",
        )
    ]


def check_certificate(
    labels: np.ndarray, radii: np.ndarray, y: np.ndarray, results: Mapping[str, AttackResult]
) -> list[Finding]:
    """Looks for points within a certified radius to which the model gives another class.

    Args:
        labels: Classes that are certified, shape `(n,)`, -1 for none.
        radii: L2 radii of the certificates, shape `(n,)`.
        y: True labels, shape `(n,)`.
        results: What the attacks found.

    Returns:
        At most one finding.
    """
    violated = np.zeros(len(labels), bool)
    for result in results.values():
        changed = result.success & (result.labels != y) & (result.labels != labels)
        violated |= changed & (labels >= 0) & (result.l2 < radii)
    if not violated.any():
        return []
    return [
        Finding(
            "certificate_violated",
            f"For {_samples(int(violated.sum()))} of the {int((labels >= 0).sum())} that are "
            "certified an attack found another class within the radius. A certificate may fail "
            "with the probability that its level allows; if these are more, the model that is "
            "certified is not the one that is attacked.",
        )
    ]


def check_pixels(found: PixelRange | None, bounds: tuple[float, float]) -> list[Finding]:
    """Looks at the unit of the pixels: were bounds given that the model's layers contradict?

    Args:
        found: What the model's first layers expect.
        bounds: What was attacked in.
    """
    if found is None or found.bounds == bounds:
        return []
    return [
        Finding(
            "pixel_range",
            f"The model's first layers, {found.source}, expect pixels in "
            f"{found.low:g}..{found.high:g}, and it was attacked in {bounds[0]:g}..{bounds[1]:g}: "
            "check `clip_values` (--clip-min, --clip-max).",
        )
    ]


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
    small, short = [], []
    for summary in summaries.values():
        eps = _budget(summary)
        if eps is None or not np.any(eps > 0):
            continue
        if high - low > 2 and np.max(eps) < (high - low) * _USUAL_BUDGET.get(summary.norm, 0.0):
            small.append(f"{summary.name} (eps={np.max(eps):g}, {_norm(summary.norm)})")
        step, steps = summary.config.get("eps_step"), summary.config.get("max_iter")
        if step is not None and steps is not None and np.max(step) * steps < np.min(eps[eps > 0]):
            short.append(f"{summary.name} ({steps} x {np.max(step):g} of {np.max(eps):g})")
    findings = []
    if small:
        findings.append(
            Finding(
                "small_budget",
                f"The pixels are in {low:g}..{high:g}, and the budget of {_listed(small)} looks "
                f"like one for pixels in 0..1: there it would be {1 / (high - low):.2g} times as "
                "large a number. If so, the accuracy is not robustness.",
            )
        )
    if short:
        findings.append(
            Finding(
                "short_steps",
                f"The steps of {_listed(short)} together do not reach the edge of the budget: "
                "leave eps_step out, or make it longer. The accuracy is that under a smaller "
                "budget.",
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
    findings, again = [], _once(repeat)
    for summary in summaries.values():
        if summary.config.get("attack_labels") != "smoothed":
            continue
        result = results[summary.name]
        config = {**summary.config, "attack_labels": "hard", "k": None}
        rows = _some(~result.initially_adversarial)
        hard = again({"name": summary.attack, "config": config}, rows) if len(rows) else None
        told = ""
        if hard is not None:
            told = (
                f" Of {_samples(len(rows))} it left {int((~result.success[rows]).sum())}, and the "
                f"same attack with hard labels {int((~hard.success).sum())}."
            )
        findings.append(
            Finding(
                "smoothed_labels",
                f"{summary.name} climbed the loss of labels that give the class only "
                f"{summary.config['k']:g}: where the model is surer than that it makes it surer "
                f"still, as a rule weaker than with hard labels.{told} Its figures reproduce "
                "others that were found so, and are not robustness: repeat it with "
                "attack_labels=hard.",
            )
        )
    return findings


def check_starts(
    summaries: Mapping[str, AttackSummary], results: Mapping[str, AttackResult]
) -> list[Finding]:
    """Attacks for which most samples, three in four, were adversarial before they did anything.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes, by the same names.
    """
    idle = [
        f"{name} ({int(start.sum())} of {_samples(len(start))})"
        for name in summaries
        if (start := results[name].initially_adversarial).mean() > _IDLE
    ]
    if not idle:
        return []
    return [
        Finding(
            "adversarial_from_the_start",
            f"Most samples were adversarial before the attack did anything: {_listed(idle)}. The "
            "labels are not those of the samples, or they hold targets, which `targeted` says, or "
            "the model is wrong about most of them.",
        )
    ]


def diagnose(
    summaries: Mapping[str, AttackSummary],
    results: Mapping[str, AttackResult],
    repeat: Repeat | None = None,
    in_a_row: bool = False,
    randomised: bool = False,
) -> list[Finding]:
    """Looks through the results of all attacks for signs that they cannot be trusted.

    - *Gradient masking* (Athalye et al., "Obfuscated gradients give a false sense of security",
      ICML 2018): a black-box attack sees less than a white-box one and cannot do better unless the
      gradient misleads. It is compared with all white-box attacks together: inside the budget
      of each (what none of them broke there), and by distances in the norm of each minimal-norm one
      (paired sign test, p < 0.05). The word falls where a white-box attack with small steps, or one
      repeated with smaller steps, failed as well; otherwise the finding is
      `"black_box_stronger"` and says how to repeat it. A repetition that closes the gap is
      `"step_too_long"` or `"not_converged"`.
    - A single step that broke more than an iterative attack did inside the same budget, and an
      attack that broke fewer samples with a larger budget: both miss what is within their reach
      (Carlini et al., "On evaluating adversarial robustness", 2019; paired sign test, p < 0.05).
    - A minimal-norm attack whose median distance in its own norm is more than twice another one's.
    - A cross-check that is stronger than the attack it checks.
    - Few samples, and samples that a decision attack gave up on.

    Args:
        summaries: The rows of the report, by name.
        results: The outcomes they were computed from, by the same names.
        repeat: Runs an attack, given as `{"name": ..., "config": {...}}`, on some of the samples,
            given by at most 32 places, and returns its outcome on them, or `None` where it cannot;
            called at most once per attack and places.
        in_a_row: Whether each outcome holds what the ones before it broke: distances are not
            not compared then.
        randomised: Whether the model draws at inference. What a black-box attack did better may be
            noise then: successes that did not hold (column `holds`) are no evidence, and the word
            masking does not fall.

    Returns:
        The findings, the most serious first.
    """
    findings: list[Finding] = []
    own = [s for s in summaries.values() if s.checks is None]
    again = _once(repeat)
    for black in (s for s in own if s.knowledge == "black"):
        whites = [s for s in own if s.knowledge == "white" and s.targeted == black.targeted]
        held = {**results, black.name: _held(results[black.name])}
        findings += _inside_budgets(black, whites, held, again, randomised)
        if not in_a_row:
            findings += _nearer(black, whites, held, again, randomised)
    if not in_a_row:
        findings += [f for s in own if (f := _far_behind(s, own, results)) is not None]
        findings += _one_step(own, results)
        findings += _falling(own, results)
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
    return by_weight(findings)


def _once(repeat: Repeat | None) -> Repeat:
    """`repeat`, asked once for the same thing; `None` always where there is no `repeat`."""
    asked: dict[str, AttackResult | None] = {}

    def again(description: Description, rows: np.ndarray) -> AttackResult | None:
        if repeat is None:
            return None
        key = json.dumps(jsonable([description, rows.tolist()]), sort_keys=True)
        if key not in asked:
            asked[key] = repeat(description, rows)
        return asked[key]

    return again


def _some(samples: np.ndarray) -> np.ndarray:
    """Places of these samples, of many only a few from all over."""
    rows = np.flatnonzero(samples)
    return rows[:: -(-len(rows) // _REPEATED)]


def _held(result: AttackResult) -> AttackResult:
    """The same outcome without the successes that did not count a second time."""
    holds = result.columns.get("holds")
    if holds is None:
        return result
    gone = result.success & ~holds
    distances: dict[str, Any] = {
        norm: np.where(gone, np.inf, getattr(result, norm)) for norm in ("l0", "l1", "l2", "linf")
    }
    return dataclasses.replace(result, success=result.success & holds, **distances)


def _inside_budgets(
    black: AttackSummary,
    whites: list[AttackSummary],
    results: Mapping[str, AttackResult],
    again: Repeat,
    randomised: bool,
) -> Iterable[Finding]:
    """What a black-box attack broke inside a budget in which no white-box attack broke it."""
    attacked = _attacked(black, whites, results)
    for norm, eps, names in _budgets(whites):

        def fits(result: AttackResult, rows: Any = slice(None), norm=norm, eps=eps) -> np.ndarray:
            budget = eps[rows] if eps.ndim else eps
            return result.success & (result.distance(norm) <= budget * (1.0 + SLACK))

        broken = {white.name: fits(results[white.name]) for white in whites}
        missed = attacked & fits(results[black.name]) & ~np.any([*broken.values()], axis=0)
        if not _beyond_luck(int(missed.sum()), int(attacked.sum())):
            continue
        inside = [white for white in whites if white.name in names]
        best = max(inside, key=lambda white: int(broken[white.name].sum()))
        smaller = _smaller_step(best, norm, eps)
        count, where = _samples(missed.sum()), f"the budget of {_listed(names)} ({_norm(norm)})"
        if randomised:
            yield Finding(
                "black_box_stronger",
                f"{black.name}, a black-box attack, broke {count} inside {where} that no white-box "
                f"attack broke. {_NOISE}",
            )
            continue
        careful = [white.name for white in inside if _is_careful(white, eps)]
        rows = _some(missed)
        repeated = again(smaller, rows)
        if repeated is not None:
            closed = fits(repeated, rows)
            left = round(missed.sum() * float(np.mean(~closed)))
            told = f"{_spec(smaller)} broke {closed.sum()} of {len(rows)} of them"
            if not _beyond_luck(left, int(attacked.sum())):
                yield Finding(
                    "step_too_long",
                    f"{black.name}, which sees no gradient, broke {count} inside {where} that no "
                    f"white-box attack broke; repeated in smaller steps, {told}. No gradient is "
                    f"masked, the steps were too long or too few: the accuracy of "
                    f"{_percent(best.accuracy)} under {best.name} is not robustness.",
                )
                continue
            careful = [f"{best.name} repeated in smaller steps ({told})"]
        if careful:
            yield Finding(
                "gradient_masking",
                f"{black.name}, which sees no gradient, broke {count} inside {where} on which "
                f"every white-box attack failed, {_listed(careful)} among them. The gradient "
                "misleads the attack (gradient masking): the accuracy of "
                f"{_percent(best.accuracy)} under {best.name} is not robustness.",
            )
        else:
            yield Finding(
                "black_box_stronger",
                f"{black.name}, a black-box attack, broke {count} inside {where} that no white-box "
                "attack broke. The steps were too long or too few, or the gradient misleads: do "
                f"not read the accuracy of {_percent(best.accuracy)} under {best.name} as "
                "robustness before it was repeated with a smaller step: "
                f'--attacks "{_spec(smaller)}".',
            )


def _nearer(
    black: AttackSummary,
    whites: list[AttackSummary],
    results: Mapping[str, AttackResult],
    again: Repeat,
    randomised: bool,
) -> Iterable[Finding]:
    """A black-box attack that came nearer than all white-box attacks, in the norm of some."""
    attacked = _attacked(black, whites, results)
    free = [white for white in whites if _budget(white) is None]
    for norm in sorted({white.norm for white in free}):
        inside = [white for white in free if white.norm == norm]
        reach = results[black.name].distance(norm)
        best = np.min([results[white.name].distance(norm) for white in whites], axis=0)
        nearer, farther = _nearer_and_farther(reach, best, attacked)
        if not _clearly(nearer, farther, attacked):
            continue
        told = (
            f"{black.name}, which sees no gradient, came nearer than every white-box attack in "
            f"{_norm(norm)}, the norm of {_listed(white.name for white in inside)}, on "
            f"{_samples(nearer)}, and they nearer on {farther}."
        )
        if randomised:
            yield Finding("black_box_stronger", f"{told} {_NOISE}")
            continue
        medians = [np.median(results[white.name].distance(norm)[attacked]) for white in inside]
        closest = inside[int(np.argmin(medians))]
        longer = _more_steps(closest) if closest.config.get("max_iter") else None
        rows = _some(attacked & _is_nearer(reach, best))
        repeated = None if longer is None else again(longer, rows)
        if longer is not None and repeated is not None:
            still = float(np.mean(_is_nearer(reach[rows], repeated.distance(norm))))
            if _clearly(round(nearer * still), farther, attacked):
                yield Finding(
                    "gradient_masking",
                    f"{told} With max_iter={longer['config']['max_iter']} {closest.name} came no "
                    "nearer: the gradient misleads the attack (gradient masking), do not take its "
                    "figures for robustness.",
                )
            else:
                yield Finding(
                    "not_converged",
                    f"{told} With max_iter={longer['config']['max_iter']} {closest.name} came as "
                    "near: it had been stopped too early, its figures are no measure of "
                    "robustness.",
                )
            continue
        advice = "" if longer is None else f" (max_iter={longer['config']['max_iter']}, say)"
        yield Finding(
            "black_box_stronger",
            f"{told} {closest.name} was stopped too early or its gradient misleads: do not take "
            f"its figures for robustness before it was repeated with more steps{advice}.",
        )


def _far_behind(
    late: AttackSummary, own: list[AttackSummary], results: Mapping[str, AttackResult]
) -> Finding | None:
    """A minimal-norm attack far behind one that knows no more, in its own norm."""
    steps = late.config.get("max_iter")
    if late.kind != "minimal" or steps is None:
        return None
    ahead: list[tuple[float, float, str]] = []
    for other in own:
        if (other.knowledge, other.targeted) != (late.knowledge, late.targeted) or other is late:
            continue
        attacked = _attacked(late, [other], results)
        if not attacked.any():
            continue
        far = results[late.name].distance(late.norm)
        near = results[other.name].distance(late.norm)
        medians = float(np.median(near[attacked])), float(np.median(far[attacked]))
        if medians[1] > _FAR_BEHIND * medians[0] and _significant(
            *_nearer_and_farther(near, far, attacked)
        ):
            ahead.append((*medians, other.name))
    if not ahead:
        return None
    near_median, far_median, name = min(ahead)
    rate = late.config.get("learning_rate")
    settings = f"max_iter={steps}" + ("" if rate is None else f", learning_rate={rate:g}")
    return Finding(
        "not_converged",
        f"{late.name}'s median distance in its own norm ({_norm(late.norm)}) is "
        f"{far_median:.4g} where the points of {name} lie at {near_median:.4g}: {late.name} has "
        f"not converged with {settings}. Its figures are no measure of robustness before it was "
        "repeated with more or larger steps.",
    )


def _one_step(own: list[AttackSummary], results: Mapping[str, AttackResult]) -> Iterable[Finding]:
    """Iterative attacks that broke less than a single step inside the same budget."""
    whites = [(s, eps) for s in own if s.knowledge == "white" and (eps := _budget(s)) is not None]
    for many, far in (row for row in whites if row[0].config.get("max_iter", 1) != 1):
        for one, reach in (row for row in whites if "max_iter" not in row[0].config):
            same = one.norm == many.norm and one.targeted == many.targeted
            if not same or not np.array_equal(reach, far):
                continue
            more, less = _broken_by_one(one, many, results)
            if _significant(more, less):
                yield Finding(
                    "one_step_stronger",
                    f"{one.name} broke {_samples(more)} in a single step that {many.name}, which "
                    f"makes several with the same budget, did not, and {many.name} {less} that it "
                    "did not. The steps are too short for their number, or the gradient misleads: "
                    f"the accuracy of {_percent(many.accuracy)} under {many.name} is not "
                    "robustness.",
                )


def _falling(own: list[AttackSummary], results: Mapping[str, AttackResult]) -> Iterable[Finding]:
    """Attacks that broke less with a larger budget."""
    rows = [(s, float(eps)) for s in own if (eps := _budget(s)) is not None and not eps.ndim]
    for small, least in rows:
        for large, most in rows:
            if most <= least or _but_lengths(small) != _but_lengths(large):
                continue
            more, less = _broken_by_one(small, large, results)
            if _significant(more, less):
                yield Finding(
                    "success_falls",
                    f"{small.name} (eps {least:.4g}) broke {_samples(more)} that {large.name} "
                    f"(eps {most:.4g}) did not, and {large.name} {less} that it did not. The "
                    f"larger ball holds the smaller one: {large.name} misses what is within its "
                    "reach, its steps are too long or the gradient misleads.",
                )


def _but_lengths(summary: AttackSummary) -> Any:
    """What must be equal for two rows to differ in their budget alone."""
    config = {key: v for key, v in summary.config.items() if not key.startswith("eps")}
    return summary.attack, summary.norm, summary.targeted, json.dumps(jsonable(config))


def _broken_by_one(
    one: AttackSummary, other: AttackSummary, results: Mapping[str, AttackResult]
) -> tuple[int, int]:
    """On how many samples only the one attack succeeded, and only the other."""
    attacked = _attacked(one, [other], results)
    first, second = _held(results[one.name]).success, _held(results[other.name]).success
    return int((attacked & first & ~second).sum()), int((attacked & second & ~first).sum())


def _attacked(
    one: AttackSummary, others: list[AttackSummary], results: Mapping[str, AttackResult]
) -> np.ndarray:
    """Samples that all of these attacks had something to do on."""
    return ~np.any(
        [results[summary.name].initially_adversarial for summary in (one, *others)], axis=0
    )


def _budget(summary: AttackSummary) -> np.ndarray | None:
    """The radius, one or one per sample, that a budget attack works to."""
    if summary.kind != "budget" or summary.config.get("eps") is None:
        return None
    eps = np.asarray(summary.config["eps"], dtype=np.float64)
    return eps if eps.ndim == 0 else eps.reshape(-1)


def _budgets(whites: list[AttackSummary]) -> list[tuple[float, np.ndarray, list[str]]]:
    """Each budget once: norm, radius, the attacks that work to it."""
    found: list[tuple[float, np.ndarray, list[str]]] = []
    for white in whites:
        eps = _budget(white)
        if eps is None:
            continue
        for norm, radius, names in found:
            if norm == white.norm and np.array_equal(radius, eps):
                names.append(white.name)
                break
        else:
            found.append((white.norm, eps, [white.name]))
    return found


def _is_careful(white: AttackSummary, eps: np.ndarray) -> bool:
    """Whether it walked through its budget in small steps, and far enough."""
    if white.attack in _OWN_STEP:
        return True
    step, steps = white.config.get("eps_step"), white.config.get("max_iter")
    if step is None or steps is None:
        return False
    longest, radius = float(np.max(step)), float(np.max(eps))
    return longest <= radius / _STEPS and longest * steps >= radius


def _smaller_step(white: AttackSummary, norm: float, eps: np.ndarray) -> Description:
    """The same attack in smaller steps, and more of them; PGD for one that has a single step."""
    radius, step = float(np.max(eps)), white.config.get("eps_step")
    if white.attack in _OWN_STEP:
        return _more_steps(white)
    if step is not None and white.config.get("max_iter") is not None:
        name, config = white.attack, dict(white.config)
        config["eps_step"] = min(radius / 10, float(np.max(step)) / _STEPS)
    else:
        kept = ("eps", "targeted", "batch_size", "seed", "verbose")
        name, config = "pgd", {key: white.config[key] for key in kept if key in white.config}
        config.update(norm="inf" if norm == math.inf else norm, eps_step=radius / 10, max_iter=0)
    needed = math.ceil(_STEPS * radius / config["eps_step"])
    config["max_iter"] = max(config["max_iter"], needed)
    return {"name": name, "config": config}


def _more_steps(white: AttackSummary) -> Description:
    """The same attack with more iterations."""
    steps = _PATIENCE * white.config["max_iter"]
    return {"name": white.attack, "config": {**white.config, "max_iter": steps}}


def _spec(description: Description) -> str:
    """As it is written on the command line, what is not at issue left out."""
    config, parts = description["config"], []
    for key in ("eps", "norm", "eps_step", "max_iter"):
        value = config.get(key)
        if value is None or np.ndim(value) or (key == "norm" and value in ("inf", math.inf)):
            continue
        parts.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return f"{description['name']}:{','.join(parts)}"


def _nearer_and_farther(
    one: np.ndarray, other: np.ndarray, attacked: np.ndarray
) -> tuple[int, int]:
    """On how many samples one attack came clearly nearer than another, and the other way round."""
    nearer, farther = attacked & _is_nearer(one, other), attacked & _is_nearer(other, one)
    return int(nearer.sum()), int(farther.sum())


def _is_nearer(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one < (1.0 - _MARGIN) * other


def _clearly(nearer: int, farther: int, attacked: np.ndarray) -> bool:
    """More often nearer than farther, and on more samples than bad luck explains."""
    return _significant(nearer, farther) and _beyond_luck(nearer, int(attacked.sum()))


def _beyond_luck(missed: int, attacked: int) -> bool:
    """Whether so many samples are more than an attack may miss by bad luck (exact test)."""
    if not missed:
        return False
    return binomtest(missed, attacked, _LUCK, alternative="greater").pvalue < _SIGNIFICANCE


def _cross_check(
    native: AttackSummary, check: AttackSummary, of_native: AttackResult, of_check: AttackResult
) -> Finding | None:
    attacked = ~of_native.initially_adversarial
    if native.kind == "budget":
        better = int((attacked & of_check.success & ~of_native.success).sum())
        worse = int((attacked & of_native.success & ~of_check.success).sum())
    else:
        ours, theirs = of_native.distance(native.norm), of_check.distance(native.norm)
        better, worse = _nearer_and_farther(theirs, ours, attacked)
    if not _significant(better, worse):
        return None
    return Finding(
        "cross_check",
        f"{check.name} did better than {native.name} on {_samples(better)} and worse on "
        f"{worse}: {native.name} is weaker here than its reference.",
    )


def _significant(more: int, less: int) -> bool:
    """One-sided sign test of paired outcomes."""
    if more <= less:
        return False
    return binomtest(more, more + less, 0.5, alternative="greater").pvalue < _SIGNIFICANCE


def _norm(norm: float) -> str:
    return "Linf" if norm == math.inf else f"L{norm:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _samples(count: int) -> str:
    return f"{count:,} sample" + ("" if count == 1 else "s")


def _listed(names: Iterable[str]) -> str:
    """`"a"`, `"a and b"`, `"a, b and c"`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
