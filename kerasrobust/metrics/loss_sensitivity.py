"""Loss sensitivity: how steep the loss is at the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.engine.classifier import Classifier
from kerasrobust.metrics.base import Metric, Outcome, Points


def loss_sensitivity(
    model: Any,
    x: Any,
    y: Any,
    *,
    norm: float | str = 2,
    batch_size: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """`||grad_x CE(f(x), y)||_p` of each sample; its mean is the loss sensitivity.

    Arpit et al. take the mean L1 norm, as does AREB (equation 9), BRELU-GDA and ART the mean L2
    norm. It tells of the slope at these samples alone: a model that masks its gradients has a low
    one and need not be robust.

    Reference: Arpit et al., "A Closer Look at Memorization in Deep Networks", 2017,
    arXiv:1706.05394.

    Args:
        model: A `keras.Model` or a `Classifier` with gradients.
        x: Samples, shape `(n, ...)`.
        y: Labels, integers `(n,)` or one-hot `(n, classes)`.
        norm: 1, 2 or inf.
        batch_size: Samples per pass. Default: 128, or as many as hold 2^22 numbers (27 images of
            224x224x3).
        seed: Of what a randomised model draws; its gradients are means over its `draws`.

    Returns:
        Shape `(n,)`, in nats per unit of the samples.

    Raises:
        TypeError: If the model has no gradient.
        ValueError: If `x`, `y` or `norm` do not fit.

    Example:

    >>> kerasrobust.metrics.loss_sensitivity(model, x, y).mean()
    """
    classifier, order = Classifier.of(model), norms.check_norm(norm)
    if not classifier.has_gradient:
        raise TypeError(
            "Loss sensitivity needs gradients: give a Keras model. "
            f"Received: model={classifier.model!r}"
        )
    x = classifier.check(np.asarray(x))
    batch_size = checks.check_batch_size(batch_size, x.shape[1:])
    y = checks.check_labels(np.asarray(y), len(x), classifier.nb_classes).astype(np.int32)

    def steepness(x: tf.Tensor, y: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor]:
        _, _, slope = classifier.gradient(x, lambda z: losses.cross_entropy(z, y), key=key)
        return (norms.norm(slope, order),)

    role = f"loss_sensitivity:{order}"
    return classifier.passes(role, steepness, (x, y), batch_size, (seed, 0))[0]


class LossSensitivity(Metric):
    """Mean norm of the loss gradient: at the clean samples, and where each attack ended.

    It counts all samples, as AREB's Table 12 does, with their true labels.
    """

    norm: float
    rows = ("clean", "attack")
    needs = "gradient"
    stored = True
    legend = (
        "Loss sens.: mean norm of the gradient of the cross-entropy at the clean samples, or where "
        "the attack ended."
    )

    def measure(self, points: Points) -> np.ndarray | None:
        if points.classifier is None:
            return None
        return loss_sensitivity(
            points.classifier,
            points.x_adv,
            points.y,
            norm=self.norm,
            batch_size=points.batch_size,
            seed=points.seed,
        )

    def compute(self, outcome: Outcome) -> float | None:
        steepness = outcome.result.columns.get(self.key)
        return None if steepness is None else float(np.mean(steepness, dtype=np.float64))


class LossSensitivityL1(LossSensitivity):
    """Loss sensitivity in L1; see `LossSensitivity`."""

    key = "loss_sensitivity_l1"
    header = "loss sens. L1"
    norm = 1.0


class LossSensitivityL2(LossSensitivity):
    """Loss sensitivity in L2; see `LossSensitivity`."""

    key = "loss_sensitivity_l2"
    header = "loss sens. L2"
    norm = 2.0
