"""Findings on the model: its predictions, its draws, its certificates, its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import binomtest

from kerasrobust.engine.criterion import Criterion
from kerasrobust.engine.pixel_range import PixelRange
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.diagnosis.evidence import SIGNIFICANCE
from kerasrobust.evaluation.diagnosis.finding import Finding
from kerasrobust.evaluation.diagnosis.words import kr_eval, percent, samples

# Fewer clean samples do not tell a bad model from bad luck.
_ENOUGH = 20
# Share of the samples in one class from which on predictions count as constant.
_CONSTANT = 0.95
# On this share of the samples a saturated softmax is worth a word.
_SATURATED = 0.5
# What is done about a model that draws.
_DRAWS = ("--eot 20", "--votes 10")


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
    nearly = share >= _CONSTANT and y is not None and its_own <= 0.5
    if (share == 1.0 and its_own <= 0.9) or nearly:
        true = "" if y is None else f", which {percent(its_own)} of them are"
        return [
            Finding(
                "constant_predictions",
                f"{percent(share)} of the {samples(len(labels))} are taken for class {often}"
                f"{true}. {advice}",
                float(share),
                _CONSTANT,
            )
        ]
    if y is None:
        return []
    hits = int(np.sum(labels == y))
    chance = 1.0 / nb_classes
    if binomtest(hits, len(y), chance, alternative="greater").pvalue < SIGNIFICANCE:
        return []
    return [
        Finding(
            "chance_level",
            f"{hits} of {samples(len(y))} are classified right without any attack, which is not "
            f"above chance ({percent(chance)} for {nb_classes} classes). {advice}",
            hits / len(y),
            chance,
        )
    ]


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
            f"On {percent(share)} of the clean samples the probability of the predicted class is "
            "1 in float32, where the gradient of a cross-entropy vanishes. The attacks here climb "
            "the logits' odds instead and are not stopped by it; do not compare these figures with "
            "ones that were found on the probabilities.",
            share,
            _SATURATED,
        )
    ]


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
    lost, command = None, None
    if total:
        gone = sum(int((f & ~r.columns["holds"]).sum()) for f, r in zip(found, judged, strict=True))
        lost = gone / total
        told.append(
            f"Of {total:,} successes {gone:,} ({percent(gone / total)}) did not hold when they "
            "were judged again."
        )
    if single:
        command = kr_eval(*_DRAWS)
        if nb_classes >= 4 and criterion.norm in (2.0, math.inf) and criterion.eps is not None:
            norm = () if criterion.norm == math.inf else ("--norm 2",)
            rand = ("--attacks autoattack-rand", f"--eps {criterion.eps:.4g}", *norm)
            command = kr_eval(*rand, "--votes 10")
        told.append(
            "A gradient of one draw misleads an attack, and a label of one draw is chance: average "
            "gradients (EOT) and vote, `Classifier(model, draws=20, votes=10)`."
        )
    if not repeatable:
        told.append(
            "It does not draw by Keras's seed generators: the same seed gives other figures in "
            "another run."
        )
    return [Finding("randomised", " ".join(told), lost, None if lost is None else 0.0, command)]


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
            f"For {samples(int(violated.sum()))} of the {int((labels >= 0).sum())} that are "
            "certified an attack found another class within the radius. A certificate may fail "
            "with the probability that its level allows; if these are more, the model that is "
            "certified is not the one that is attacked.",
            float(violated.sum() / (labels >= 0).sum()),
            0.0,
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
            "one of the two is wrong, `clip_values` probably.",
            command=kr_eval(f"--clip-min {found.low:g}", f"--clip-max {found.high:g}"),
        )
    ]
