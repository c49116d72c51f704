"""When a sample counts as right, and when as defended: a detector's rejection included."""

from __future__ import annotations

import numpy as np


def clean_correct(labels: np.ndarray, accepted: np.ndarray | None, y: np.ndarray) -> np.ndarray:
    """Clean samples that the model gets right: their true label, and not rejected.

    A clean sample that a detector rejects is a false positive and is not right.

    Args:
        labels: Labels the model gives, shape `(n,)`.
        accepted: Booleans of shape `(n,)`, what the detector let pass; `None` without a detector.
        y: True labels, shape `(n,)`.

    Returns:
        Booleans of shape `(n,)`.
    """
    right = labels == y
    return right if accepted is None else right & accepted


def survived(
    labels: np.ndarray, accepted: np.ndarray | None, y: np.ndarray, clean_correct: np.ndarray
) -> np.ndarray:
    """Samples that were right before the attack, and are right or rejected after it.

    A rejected input counts as defended: nobody was fooled by it. An attack cannot repair what was
    wrong before.

    Args:
        labels: Labels the model gives the attacked samples, shape `(n,)`.
        accepted: Booleans of shape `(n,)`, what the detector let pass; `None` without a detector.
        y: True labels, shape `(n,)`.
        clean_correct: Booleans of shape `(n,)`, right without attack.

    Returns:
        Booleans of shape `(n,)`.
    """
    defended = labels == y
    return clean_correct & (defended if accepted is None else defended | ~accepted)
