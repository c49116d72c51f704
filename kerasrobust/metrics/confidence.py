"""Average confidence score."""

from __future__ import annotations

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome


def average_confidence(confidence, where=None) -> float:
    """Mean probability that the model gives to the label it predicts.

    AREB, section 2.3.1. For adversarial samples pass `where=` the successful ones: the confidence
    of a sample the attack could not move says nothing about the attack.

    Args:
        confidence: Probabilities of the predicted labels, shape `(n,)`, in `[0, 1]`.
        where: Booleans of shape `(n,)`, the samples that count. All by default.

    Returns:
        The mean, NaN when no sample counts.

    Raises:
        ValueError: If a value lies outside `[0, 1]` or the shapes differ.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    keep = np.ones(confidence.shape, bool) if where is None else np.asarray(where)
    if confidence.ndim != 1 or keep.shape != confidence.shape or keep.dtype != bool:
        raise ValueError(
            "Expected a vector of probabilities and a vector of booleans of the same length. "
            f"Received: confidence of shape {confidence.shape}, where of shape {keep.shape}"
        )
    # Softmax in float32 may exceed one by a rounding step.
    if not np.all((confidence >= 0.0) & (confidence <= 1.0 + 1e-5)):
        raise ValueError(
            "Expected probabilities in [0, 1]. "
            f"Received: confidence between {np.min(confidence)} and {np.max(confidence)}"
        )
    return float(confidence[keep].mean()) if keep.any() else float("nan")


class AverageConfidence(Metric):
    """Mean probability of the predicted label: of the successes, or of all clean samples.

    `None` without any.
    """

    key = "average_confidence"
    header = "confid."
    narrow = "conf."
    digits = 2
    legend = "Confidence of the predicted label: mean over the successes."
    rows = ("clean", "attack")

    def compute(self, outcome: Outcome) -> float | None:
        confidence = outcome.result.confidence
        # Where the model's scores are no numbers there is none; a finding tells of these points.
        where = np.isfinite(confidence)
        if outcome.row != "clean":
            where = where & outcome.found
        value = average_confidence(np.nan_to_num(confidence), where)
        return None if np.isnan(value) else value
