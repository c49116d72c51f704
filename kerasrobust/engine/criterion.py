"""When a point counts as adversarial: the one place where labels are compared."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import losses

# Room for the rounding of a float32 projection, and of the way from 0..1 to grey levels: for a
# budget of one of 255 levels a few parts in a hundred thousand.
SLACK = 1e-4


@dataclasses.dataclass(frozen=True)
class Criterion:
    """When a point counts as adversarial.

    Asked by attacks, drivers, the summary and metrics alike. A point counts if the model accepts it
    and gives it another label than `y` or, `targeted`, the label `y`. A point that a detector
    rejects never counts: it is defended.

    Attributes:
        targeted: Whether `y` holds the classes to reach (True) or to leave (False).
        eps: Budget outside of which nothing counts; None for any distance.
        norm: Norm of that budget.
    """

    targeted: bool = False
    eps: float | None = None
    norm: float = math.inf

    def met(self, labels: Any, y: Any, accepted: Any = None) -> Any:
        """bool: the points count, whatever their distance.

        Args:
            labels: The model's labels, a tensor or an array.
            y: Labels or targets, of the same kind and shape.
            accepted: bool, whether the model accepts the points; None for a model that accepts all.
        """
        hit = labels == y if self.targeted else labels != y
        return hit if accepted is None else hit & accepted

    def reached(
        self, logits: tf.Tensor, y: tf.Tensor, confidence: Any = None, accepted: Any = None
    ) -> tf.Tensor:
        """bool `[batch]`: the points with these logits count, by a margin if one is asked for.

        Args:
            logits: `[batch, classes]`.
            y: Labels or targets `[batch]`.
            confidence: Margin of the logits to be exceeded.
            accepted: See `met`.
        """
        labels = tf.argmax(logits, axis=-1, output_type=tf.int32)
        hit = self.met(labels, y, accepted)
        if confidence is None:
            return hit
        sign = -1.0 if self.targeted else 1.0
        return hit & (sign * losses.margin(logits, y) <= -confidence)

    def inside(self, distance: np.ndarray) -> np.ndarray:
        """bool: distances in `norm` that the budget covers; a failure, at infinity, it never does.

        Without a budget any finite distance will do.
        """
        limit = math.inf if self.eps is None else self.eps * (1.0 + SLACK)
        return np.isfinite(distance) & (distance <= limit)


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
