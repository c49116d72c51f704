"""When a point counts as adversarial: the one place where labels are compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import losses

# Room for the rounding of a float32 projection, and of the way from 0..1 to grey levels: for a
# budget of one of 255 levels a few parts in a hundred thousand.
SLACK = 1e-4


def answers(logits: tf.Tensor) -> tf.Tensor:
    """bool `[batch]`: a class is the model's, as no logit `[batch, classes]` is NaN or infinite.

    Minus infinity is the logit of a class that is ruled out.
    """
    return tf.reduce_all(logits < math.inf, axis=-1)


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

        Logits that are no answer (`answers`) do not count.

        Args:
            logits: `[batch, classes]`.
            y: Labels or targets `[batch]`.
            confidence: Margin of the logits to be reached.
            accepted: See `met`.
        """
        labels = tf.argmax(logits, axis=-1, output_type=tf.int32)
        hit = self.met(labels, y, accepted) & answers(logits)
        if confidence is None:
            return hit
        sign = -1.0 if self.targeted else 1.0
        return hit & (sign * losses.margin(logits, y) <= -confidence)

    def beside_detector(self, y: tf.Tensor) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """How logits look where a detector has a say: as a point that is rejected counts.

        Attacks follow losses of logits. For them a rejected point of logits `z` is one that the
        model gives the class `y`, by a margin that grows with what the detector has against it:
        `z_y` is raised to the largest logit, and `excess` times the spread of the logits above it;
        `targeted`, it is lowered likewise. The margin of a rejected point thus leads to points that
        are accepted, that of an accepted one stays as it is. It is the combined classifier of
        Carlini and Wagner, "Adversarial Examples Are Not Easily Detected", 2017, arXiv:1705.07263,
        section 4.1, without a class of its own for what is rejected.

        Args:
            y: Labels or targets `[batch]`.

        Returns:
            Logits `[batch, classes]` and `excess` `[batch]`, 0 or more where the detector rejects,
            to logits.
        """

        def seen(logits: tf.Tensor, excess: tf.Tensor) -> tf.Tensor:
            own = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
            others = tf.where(own, tf.fill(tf.shape(logits), logits.dtype.min), logits)
            own_logit = tf.reduce_sum(tf.where(own, logits, tf.zeros_like(logits)), axis=-1)
            best = tf.reduce_max(others, axis=-1)
            spread = tf.stop_gradient(
                tf.reduce_max(logits, axis=-1) - tf.reduce_min(logits, axis=-1)
            )
            if self.targeted:
                moved = tf.minimum(own_logit, best) - excess * spread
            else:
                moved = tf.maximum(own_logit, best) + excess * spread
            rejected = (excess >= 0)[:, None] & own
            return tf.where(rejected, moved[:, None], logits)

        return seen

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
