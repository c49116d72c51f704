"""Label smoothing: the true class gets less than all."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust import losses
from kerasrobust.checks import check_float
from kerasrobust.defenses.training.base import Batch, Context, Inner, TrainingDefense
from kerasrobust.defenses.training.labels import class_distribution


@keras.saving.register_keras_serializable("kerasrobust")
class LabelSmoothing(TrainingDefense):
    """Trains with labels in which the true class has the probability `k` instead of 1.

    The other `C - 1` classes share the rest in equal parts:

        q_y = k,    q_j = (1 - k) / (C - 1)  for j != y

    Everything that comes after the labels sees these: the compiled cross-entropy, whichever it is,
    takes them as they are. Attacks and metrics keep the labels as they came. Labels that are soft
    already are smoothed as the mixture of classes that they are.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
    arXiv:1512.00567, section 7, which spreads `eps = (1 - k) * C / (C - 1)` over all `C` classes,
    the true one as well: the same labels. As a defense: Warde-Farley and Goodfellow, "Adversarial
    Perturbations of Deep Neural Networks", 2016.

    Limits: the gain against attacks that follow the gradient is mostly gradient masking. In Table 5
    of the AREB paper an MNIST network trained with it keeps 100 % under PGD, and 1 % under
    HopSkipJump, which asks for nothing but labels. Measure it with a black-box attack beside the
    white-box ones, and combine it with adversarial training. With two classes only `k` above 0.5
    tells them apart. With the labels of a compiled loss that smooths by itself it smooths twice.

    Args:
        k: Probability of the true class, above `1 / C` and at most 1 (which changes nothing).
            Default 0.9.

    Raises:
        ValueError: If `k` is out of range; in training, if it is not above `1 / C`.

    Example:
        >>> model = kerasrobust.wrap(model, defense=["brelu", "label_smoothing:k=0.9"])
    """

    name = "label_smoothing"
    source = "all"
    rank = 0
    views = ("inference",)

    def __init__(self, k: float = 0.9):
        self.k = check_float("k", k, above=True)
        if self.k > 1:
            raise ValueError(f"`k` must be at most 1. Received: k={k!r}")

    def prepare(self, batch: Batch, context: Context) -> Batch:
        classes = context.classifier().nb_classes
        if self.k * classes <= 1:
            raise ValueError(
                f"`k` must be above 1 / {classes}, the share of each class of this model, or the "
                f"true class would not be the likeliest one. Received: k={self.k!r}"
            )
        return batch.replace(y=losses.smooth(class_distribution(batch.y, classes), self.k))

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        return inner(batch)

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k}
