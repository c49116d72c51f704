"""MART: adversarial training that minds which samples are misclassified."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from kerasrobust.defenses.training.ascent import InputAscent
from kerasrobust.defenses.training.base import Batch, Inner
from kerasrobust.defenses.training.labels import integer_labels
from kerasrobust.losses import FAR, cross_entropy, kl_divergence


def log_of_others(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`log(1 - p_k)` for the classes `k = labels`, `[batch]`, without cancellation."""
    this = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)
    others = tf.reduce_logsumexp(logits - FAR * this, axis=-1)
    return others - tf.reduce_logsumexp(logits, axis=-1)


def boosted_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`-log p_y - log(1 - max_{k != y} p_k)`, `[batch]`, of logits `[batch, classes]`."""
    own = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)
    rival = tf.argmax(logits - FAR * own, axis=-1)
    # The authors' code has log(1.0001 - p), which ends at -9.2, where this one goes on.
    return cross_entropy(logits, labels) - log_of_others(logits, rival)


def mart_loss(
    clean_logits: tf.Tensor, adversarial_logits: tf.Tensor, labels: tf.Tensor, beta: float
) -> tf.Tensor:
    """`BCE(p(x_adv), y) + beta * KL(p(x) || p(x_adv)) * (1 - p_y(x))`, `[batch]`."""
    doubt = tf.exp(log_of_others(clean_logits, labels))
    divergence = kl_divergence(clean_logits, adversarial_logits)
    return boosted_cross_entropy(adversarial_logits, labels) + beta * divergence * doubt


@keras.saving.register_keras_serializable("kerasrobust")
class Mart(InputAscent):
    """Trains on adversarial samples, and on agreement with the clean ones where those are doubtful.

    The loss of a sample is

        BCE(p(x_adv), y) + beta * KL(p(x) || p(x_adv)) * (1 - p_y(x))
        BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k)

    with `p` the softmax of the logits and `x_adv` found by PGD on the cross-entropy from
    `x + 0.001 N(0, 1)` (0.001 of the range of the inputs). It is an end of the chain: of the
    compiled loss only the reduction counts. The gradient goes through every term, the weight
    `1 - p_y(x)` and both sides of the divergence too, as in the authors' code.

    Wang, Zou, Yi, Bailey, Ma and Gu, "Improving Adversarial Robustness Requires Revisiting
    Misclassified Examples", ICLR 2020, eq. 8 to 11. The paper's lambda is called `beta`, the name
    in the authors' code; Python has the other one for itself.

    Limits: robustness is gained against one norm and budget and little beyond; clean accuracy is
    lower than with TRADES, since no term asks for it. Labels must be hard: of a soft one the most
    probable class is taken. A step costs `max_iter + 2` forward and backward passes.

    Args:
        eps: Budget of the adversary, in the units of the inputs, at least 0. Default 0.031, the
            value of the authors' code for CIFAR-10 in 0..1.
        eps_step: Length of its steps, likewise. Default 0.007.
        max_iter: Number of its steps, at least 1. Default 10.
        norm: inf (default) or 2.
        beta: Weight of the divergence, at least 0. Default 5, the value of the authors' code.
        crafting: ``"inference"`` (default): the adversary sees the model as it will serve;
            ``"training"``: it sees batch statistics and dropout. Neither moves any statistic.
        batch_norm: Mode of the adversarial pass: ``"training"`` (updates batch-norm statistics,
            the default), ``"inference"`` or ``"stateless"``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(model, "mart", eps=8 / 255, eps_step=2 / 255, max_iter=10)
    """

    name = "mart"
    source = "Wang et al., ICLR 2020"  # on no preprint server
    ends = True

    def __init__(
        self,
        eps: float | None = None,
        eps_step: float | None = None,
        max_iter: int = 10,
        norm: float | str = math.inf,
        beta: float = 5.0,
        crafting: str = "inference",
        batch_norm: str = "training",
    ):
        super().__init__(eps, eps_step, max_iter, norm, beta, crafting, batch_norm)

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        x, batch = batch.pop_extra(self.name)
        clean = inner.logits(batch)
        adversarial = inner.logits(batch.derive(x, "adversarial", self.batch_norm))
        labels = integer_labels(batch.labels, clean.shape[-1])
        return mart_loss(clean, adversarial, labels, self.beta)
