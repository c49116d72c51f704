"""Findings on the model: its predictions, its draws, its certificates, its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import binomtest

from kerasrobust.engine.criterion import Criterion
from kerasrobust.engine.pixel_range import PixelRange
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.diagnosis.evidence import SIGNIFICANCE, beyond
from kerasrobust.evaluation.diagnosis.finding import Finding
from kerasrobust.evaluation.diagnosis.words import kr_eval, listed, percent, samples

# Fewer clean samples do not tell a bad model from bad luck.
_ENOUGH = 20
# Share of the samples in one class from which on predictions count as constant.
_CONSTANT = 0.95
# A class is moved if of so many of its samples at least this share is taken for one other class; so
# many of the classes are worth a finding.
_OF_A_CLASS, _AS_A_WHOLE, _MOVED = 5, 0.8, 0.05
# On this share of the samples a saturated softmax is worth a word.
_SATURATED = 0.5
# What is done about a model that draws.
_DRAWS = ("--eot 20", "--votes 10")


def check_predictions(labels: np.ndarray, y: np.ndarray | None, nb_classes: int) -> list[Finding]:
    """Looks at the clean predictions: nothing that follows means anything if they are noise.

    - *Other order*: two classes or more, one in twenty at least, whose samples (four in five, of at
      least five; of all of them clearly more than half, exact test) are taken for one other class,
      each for one of its own. The labels count the classes in another order than the model, or
      from 1.
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
        "`clip_values` (--clip-min, --clip-max), or its classes are others than those of the "
        "labels. The other figures say nothing about robustness."
    )
    if y is not None and (moved := _moved(labels, y)):
        told = [f"{taken} for {true}" for true, taken in list(moved.items())[:3]]
        return [
            Finding(
                "other_order",
                f"{len(moved)} classes are taken for other ones as a whole, each for one of its "
                f"own: the model says {listed(told)}{', ...' if len(moved) > 3 else ''}. The true "
                "labels count the classes in another order than the model, or from another "
                "number: what is left of the accuracy of these classes is no robustness.",
                len(moved) / len(np.unique(y)),
                _MOVED,
            )
        ]
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


def _moved(labels: np.ndarray, y: np.ndarray) -> dict[int, int]:
    """By true class, the other class that the model says instead, and for no other class."""
    main: dict[int, int] = {}
    moved = []
    for true in np.unique(y).tolist():
        values, counts = np.unique(labels[y == true], return_counts=True)
        often, size = int(counts.max()), int(counts.sum())
        if 2 * often > size:
            main[true] = int(values[counts.argmax()])
            if main[true] != true and size >= _OF_A_CLASS and often >= _AS_A_WHOLE * size:
                moved.append((true, often, size))
    said = list(main.values())
    alone = [(true, often, size) for true, often, size in moved if said.count(main[true]) == 1]
    hits, total = sum(often for _, often, _ in alone), sum(size for *_, size in alone)
    if len(alone) < max(2, _MOVED * len(np.unique(y))) or not beyond(0.5, hits, total):
        return {}
    return {true: main[true] for true, *_ in alone}


def check_confidence(
    confidence: np.ndarray, hidden: bool = False, climbed: bool = True
) -> list[Finding]:
    """Looks for a softmax that float32 cannot tell from a hard decision.

    Where the largest probability rounds to 1, the gradient of a cross-entropy in float32 is zero or
    noise. The attacks of this package climb logits instead; figures that were found by it are too
    good. Of a model whose logits are hidden behind its probabilities they climb the logarithms of
    these, which stand still there: then it is this report whose figures are too good.

    Args:
        confidence: Probability of the predicted class on the clean samples, float32 `(n,)`.
        hidden: Whether all that is known of the logits are probabilities.
        climbed: Whether an attack follows scores or their gradient.

    Returns:
        At most one finding, from 20 samples on.
    """
    share = float(np.mean(confidence >= np.float32(1))) if len(confidence) else 0.0
    if len(confidence) < _ENOUGH or share < _SATURATED or not climbed:
        return []
    if hidden:
        return [
            Finding(
                "flat_scores",
                f"On {percent(share)} of the clean samples the probability of the predicted class "
                "is 1 in float32, and the logits behind it cannot be reached: an attack that "
                "climbs scores finds them flat there. Give the model an attribute `logits_model`, "
                "or one that returns logits, or attack by its decisions.",
                share,
                _SATURATED,
                kr_eval("--attacks hsja"),
            )
        ]
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


def check_detector(accepted: np.ndarray) -> list[Finding]:
    """Looks for a model that withholds its answer on nearly all clean samples.

    Args:
        accepted: Clean samples that the detector lets pass and on which votes are clear, `(n,)`.

    Returns:
        At most one finding, from 20 samples on.
    """
    share = float(np.mean(~accepted)) if len(accepted) else 0.0
    if len(accepted) < _ENOUGH or share < _CONSTANT:
        return []
    return [
        Finding(
            "rejects_clean",
            f"{percent(share)} of the {samples(len(accepted))} are rejected without any attack, by "
            "the detector or because the vote is too close. Nothing is left to attack: check the "
            "detector's threshold, and the unit of the pixels that it is given.",
            share,
            _CONSTANT,
        )
    ]


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
