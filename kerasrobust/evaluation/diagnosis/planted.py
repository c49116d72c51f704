"""Adversarial examples by construction: does an attack find what is certainly there?

The binarisation test of Zimmermann et al., "Increasing Confidence in Adversarial Robustness
Evaluations", NeurIPS 2022, arXiv:2206.13991. The model's last layer is replaced, sample by sample,
by a linear readout into two classes that gives one point on the surface of the ball the one class,
and the sample with many random points of the ball the other. So the sample has an adversarial
example inside the budget, and an attack of use finds one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust import norms
from kerasrobust.attacks import ATTACKS
from kerasrobust.engine.classifier import Classifier, as_seed
from kerasrobust.evaluation.diagnosis.words import Description

# Random points of the ball that the readout gives the class of the sample.
_INNER = 99
# Random points of the surface, of which the one whose logits lie farthest out is planted.
_OUTER = 100
# How far towards the planted point the boundary lies, from the inner point nearest to it.
_CLOSE = 0.999
# What is added to the spread of the inner points' logits, as a share of it in the mean: the
# readout stays defined where logits are fewer than points, or move together.
_RIDGE = 1e-3


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of planting.

    Attributes:
        planted: bool `[n]`, samples for which a readout tells the planted point from the others.
        found: bool `[n]`, those of them for which the attack found an adversarial point.
        queries: Forward passes.
        gradients: Forward and backward passes.
    """

    planted: np.ndarray
    found: np.ndarray
    queries: int
    gradients: int


class Readout(keras.Model):
    """Two logits, 0 and `weights . z(x) + bias`, of the logits `z` that attacks see of a model."""

    def __init__(self, classifier: Classifier, **kwargs: Any):
        super().__init__(**kwargs)
        self.seen = classifier
        self.model = classifier.model  # its layers are this one's, their choices of gradient too
        self.kernel = self.add_weight(shape=(classifier.nb_classes,), trainable=False)
        self.bias = self.add_weight(shape=(), trainable=False)
        self.built = True

    def logits_model(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The logits, for who looks for them."""
        return self(x, training=training)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        score = tf.linalg.matvec(self.seen.plain_logits(x, training), self.kernel) + self.bias
        return tf.stack([tf.zeros_like(score), score], axis=1)


def plant(
    classifier: Classifier,
    description: Description,
    x: np.ndarray,
    *,
    eps: float,
    norm: float,
    seed: int = 0,
) -> Outcome | str:
    """Plants an adversarial example beside each sample, and attacks.

    Deviations from the paper. The readout is of the model's logits and not of its last features:
    every model that has a gradient has them, and a last layer that hides one is part of what is
    tested. Its weights are the discriminant `S^-1 (z_b - m)` of the planted point's logits `z_b`
    and the inner points' mean and covariance, in closed form, not a fit of the logistic loss; a
    sample for which it does not separate the two, with a boundary where the paper has it, is left
    out. One point is planted beside 99 inner ones, so that a random point is adversarial about
    one time in a hundred at most. Of 100 points on the surface, corners of the ball in Linf, it is
    the one with the largest Mahalanobis distance from the inner points: in the few dimensions that
    logits have, most points have others around them.

    Args:
        classifier: The model as attacks see it.
        description: The attack, `{"name": ..., "config": {...}}`.
        x: Samples `[n, ...]`.
        eps: Its budget, in the unit of the samples.
        norm: The norm of that budget.
        seed: Of the points that are drawn.

    Returns:
        The outcome; or why there is none.
    """
    low, high = classifier.clip_values
    model = Readout(classifier)
    seen = Classifier(
        model,
        classifier.clip_values,
        input_shape=x.shape[1:],
        gradient=classifier.gradient_mode,
        jit_compile=classifier.jit_compile,
    )
    config = {**description["config"], "targeted": False, "verbose": False}
    try:
        attack = ATTACKS.get({"name": description["name"], "config": config}).bind(seen)
    except (TypeError, ValueError) as error:
        return f"{description['name']} cannot attack two classes: {error}"
    planted, found = np.zeros(len(x), bool), np.zeros(len(x), bool)
    queries = gradients = 0
    for i, sample in enumerate(x):
        ball = np.repeat(sample[None], _INNER, axis=0)
        radius = tf.fill([_INNER], tf.constant(eps, tf.float32))
        inner = norms.random_in_ball(ball.shape, radius, norm, as_seed(seed, 2 * i)).numpy()
        outer = norms.random_in_ball(
            [_OUTER, *sample.shape], tf.fill([_OUTER], radius[0]), norm, as_seed(seed, 2 * i + 1)
        )
        on = tf.sign(outer) if norm == np.inf else norms.normalize(outer, norm)
        points = np.concatenate([sample[None], ball + inner, sample[None] + eps * on.numpy()])
        z = classifier.predict(np.clip(points, low, high), len(points)).astype(np.float64)
        queries += len(points)
        kernel, bias = _readout(z[:-_OUTER], z[-_OUTER:])
        if kernel is None:
            continue
        planted[i] = True
        model.kernel.assign(kernel)
        model.bias.assign(bias)
        result = attack.run(sample[None], np.zeros(1, np.int64))
        found[i] = bool(result.success[0])
        queries, gradients = queries + result.queries.sum(), gradients + result.gradients.sum()
    return Outcome(planted, found, int(queries), int(gradients))


def _readout(inner: np.ndarray, outer: np.ndarray) -> tuple[Any, float]:
    """Weights and bias that give the inner points less than 0 and the farthest outer one more.

    Args:
        inner: Logits `[m, classes]`.
        outer: Logits `[k, classes]`.

    Returns:
        The weights, None where they do not separate, and the bias. The score of the inner point
        nearest to the boundary is -0.999, that of the outer one 0.001.
    """
    mean = inner.mean(axis=0)
    spread = np.cov(inner, rowvar=False)
    ridge = _RIDGE * np.trace(spread) / len(spread)
    if not (np.isfinite(ridge) and ridge > 0 and np.isfinite(outer).all()):
        return None, 0.0
    kernels = np.linalg.solve(spread + ridge * np.eye(len(spread)), (outer - mean).T).T
    far = int(np.argmax((kernels * (outer - mean)).sum(axis=1)))
    kernel = kernels[far]
    last, reached = float((inner @ kernel).max()), float(outer[far] @ kernel)
    if reached <= last:
        return None, 0.0
    kernel = kernel / (reached - last)
    return kernel, -(last / (reached - last) + _CLOSE)
