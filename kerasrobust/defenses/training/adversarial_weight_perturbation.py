"""Adversarial weight perturbation: train at the worst weights around those of the model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust import norms
from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.training.base import Batch, Context, Inner, TrainingDefense


def weight_step(weight: tf.Tensor, gradient: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """`length * ||weight||_2 * gradient / ||gradient||_2`, zero for a gradient that is no vector.

    A float16 gradient that overflowed has no direction; nor has zero.
    """
    direction = norms.normalize(gradient[None], 2)[0]
    usable = tf.reduce_all(tf.math.is_finite(direction))
    return tf.where(usable, length * tf.norm(weight) * direction, tf.zeros_like(weight))


@keras.saving.register_keras_serializable("kerasrobust")
class AdversarialWeightPerturbation(TrainingDefense):
    """Takes the gradient of any loss where the weights are worst for it, close to the model's own.

    The loss is that of the rest of the chain, plain, `adversarial_training`, `trades` or `mart`,
    at the weights `w + v` instead of `w`, for each layer

        v_l = gamma * ||w_l|| * g_l / ||g_l||,    g = grad_w L(w)

    with `L` the loss of the global batch, adversaries and sample weights included. Only kernels
    move, weights with more than one axis; biases and the scales of a batch norm stay. The weights
    are back before the optimizer changes them: `w <- w - rate * grad L(w + v)`.

    The ascent sees the same passes as the objective, with the same dropout, and leaves batch-norm
    statistics alone. Weight regularisers and losses that layers add are no part of it; the
    gradient of a weight regulariser is taken at `w + v` like that of the loss. Compiled metrics
    and the logged loss are those at `w + v`.

    Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust Generalization", 2020,
    arXiv:2004.05884, section 4 and algorithm 1. Several ascent steps are of length `gamma / steps`
    here, so that `v` cannot leave its ball and needs no projection.

    Limits: adds no robustness by itself, it narrows the gap between training and test robustness
    of what it is put around, and slows training down. A step costs as many more passes as the
    objective makes, times `steps`; crafting is not repeated. On several devices these passes are
    made during the warm-up as well.

    Args:
        gamma: Length of the perturbation, as a share of each kernel's own, above 0. Default 0.01,
            the paper's value for adversarial training (0.005 for TRADES).
        steps: Ascent steps, at least 1. Default 1, as in the paper.
        warmup: Training steps before it begins, at least 0. Default 0. The authors' code waits for
            10 epochs before TRADES.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(model, ["awp:gamma=0.005", "trades"])
    """

    name = "awp"
    rank = 30

    def __init__(self, gamma: float = 0.01, steps: int = 1, warmup: int = 0):
        self.gamma = check_float("gamma", gamma, above=True)
        self.steps = check_int("steps", steps, 1)
        self.warmup = check_int("warmup", warmup, 0)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        kernels = [v for v in context.model.trainable_weights if len(v.shape) > 1]
        saved = [tf.identity(kernel.value) for kernel in kernels]

        def restore() -> None:
            for kernel, value in zip(kernels, saved, strict=True):
                kernel.assign(value)

        context.defer(restore)
        begun = context.step >= self.warmup
        length = tf.cast(begun, tf.float32) * self.gamma / self.steps

        def ascend() -> tf.Tensor:
            for _ in range(self.steps):
                gradients = _gradients(batch, context, kernels)
                for kernel, start, gradient in zip(kernels, saved, gradients, strict=True):
                    if gradient is not None:
                        kernel.assign_add(weight_step(start, gradient, length))
            return begun

        # Replicas cannot add up their gradients inside a branch.
        if self.warmup and context.replicas == 1:
            tf.cond(begun, ascend, lambda: begun)
        else:
            ascend()
        return batch

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        return inner(batch)

    def get_config(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "steps": self.steps, "warmup": self.warmup}


def _gradients(batch: Batch, context: Context, kernels: list[Any]) -> list[tf.Tensor | None]:
    """Gradient of the global batch's loss, up to a factor that all kernels share."""
    assert context.inner is not None  # as in every `prepare`
    # A scope, not the mode "stateless": each pass keeps the mode and the dropout that it will
    # have in the objective.
    with tf.GradientTape() as tape, keras.StatelessScope():
        values = context.inner(batch)
        if batch.sample_weight is not None:
            values *= batch.sample_weight
        loss = tf.reduce_sum(values) / tf.cast(context.global_size, tf.float32)
        # The optimizer's scale adapts to the overflows of a gradient that is as large as this one.
        loss = context.model.optimizer.scale_loss(loss)
    gradients = [
        None if gradient is None else tf.convert_to_tensor(gradient)
        for gradient in tape.gradient(loss, [kernel.value for kernel in kernels])
    ]
    if context.replicas > 1:
        used = [gradient for gradient in gradients if gradient is not None]
        replica = tf.distribute.get_replica_context()
        summed = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, used))
        gradients = [None if gradient is None else next(summed) for gradient in gradients]
    return gradients
