"""Jacobian regularisation: push the decision boundary away from the samples."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust import norms
from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.training.base import Batch, Context, Inner, check_mode
from kerasrobust.defenses.training.penalty import Penalty
from kerasrobust.engine.classifier import UPSTREAM_SCALE

POWERS = ("square", "half_square", "norm")


def projected_jacobian(
    tape: tf.GradientTape, logits: tf.Tensor, x: tf.Tensor, directions: tf.Tensor
) -> tf.Tensor | None:
    """`sum_i ||d (v_i . z) / d x||_2^2` for each sample, one backward pass for each `i`.

    Args:
        tape: A persistent tape that watched `x` while the logits were computed.
        logits: `z`, float32 `[batch, classes]`.
        x: Inputs `[batch, ...]`.
        directions: `v`, `[batch, k, classes]`, k a fixed number.

    Returns:
        float32 `[batch]`, which can be differentiated once more; None where no gradient leads from
        `logits` to `x`.
    """
    total = tf.zeros_like(logits[:, 0])
    for direction in tf.unstack(directions, axis=1):
        # Small entries would be lost on their way through a float16 model; a power of two changes
        # nothing in float32.
        gradient = tape.gradient(logits, x, output_gradients=direction * UPSTREAM_SCALE)
        if gradient is None:
            return None
        row = norms.flatten(tf.convert_to_tensor(gradient)) / UPSTREAM_SCALE
        total += tf.reduce_sum(tf.square(row), axis=1)
    return total


@keras.saving.register_keras_serializable("kerasrobust")
class Jacobian(Penalty):
    """Penalises the Frobenius norm of the Jacobian of the logits, squared.

    The loss of a sample is

        J(x, y) + weight * ||d z(x) / d x||_F^2

    (or another `power` of the norm) for the logits `z` and inputs scaled to 0..1, exactly, or,
    without bias, by `projections` random unit vectors `v`:

        classes / projections * sum_i ||d (v_i . z(x)) / d x||_2^2.

    The gradient with respect to the weights is the true one, of second order.

    Jakubovitz and Giryes, "Improving DNN Robustness to Adversarial Attacks using Jacobian
    Regularization", 2018, arXiv:1803.08680; the projections are those of Hoffman, Roberts and
    Yaida, "Robust Learning with Jacobian Regularization", 2019, arXiv:1908.02729, section 2.3.
    As one half of the NsLoss defense it has no formula in that paper, which says "as implemented in
    [14]", very probably Jakubovitz and Giryes, who penalise the norm itself (``power="norm"``);
    Hoffman et al. have half its square (``"half_square"``). The default is the square, which random
    projections estimate without bias, and whose gradient fades with the Jacobian, where that of the
    norm does not. The paper's weights belong to the form that it used, which is not known: for any
    form `kerasrobust.defenses.search_lambda` finds one.

    Limits: a small Jacobian says something of small perturbations only. With batch norm in training
    mode a sample's input also moves the others' logits; what is penalised is the gradient of the
    batch's summed logits. Compiled by XLA, TensorFlow 2.21 compares the entries of a max-pooling
    window in bfloat16 when it differentiates a second time: where the two largest agree to 1 in 256
    the gradient may go to the wrong one. The value is not affected, nor is training without
    ``jit_compile``, Keras's choice on a CPU.

    A step costs one backward pass for each class (or projection), and about twice as much again to
    differentiate them: above some twenty classes use projections.

    Args:
        weight: Factor of the penalty (lambda_2), at least 0. Default 0.01, the value of the NsLoss
            paper for MNIST (0.1 for CIFAR-10, 0.01 beside NsLoss).
        power: What of the norm is penalised: ``"square"`` (default), ``"half_square"`` or
            ``"norm"``, whose gradient is taken for zero where the Jacobian is. The norm that
            projections estimate is too small in the mean.
        projections: Random directions per sample, at least 1; None (default) for the exact norm.

    Raises:
        ValueError: If an argument is out of range, or the model's logits cannot be had.

    Example:
        >>> model = kerasrobust.wrap(model, defense="jacobian", weight=0.1, projections=1)
    """

    name = "jacobian"
    source = "NSLOSS"
    rank = 14

    def __init__(self, weight: float = 0.01, projections: int | None = None, power: str = "square"):
        self.weight = check_float("weight", weight)
        self.power = check_mode("power", power, POWERS)
        self.projections = None if projections is None else check_int("projections", projections, 1)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        if self.projections is None:
            return batch
        # A model that does not know its classes hides its logits too, which is told later.
        shape = getattr(context.model, "output_shape", None) or (None, 2)
        seed, k, classes = context.seed(self.name), self.projections, max(shape[-1], 2)

        def sample(n: tf.Tensor) -> tf.Tensor:
            normal = tf.random.stateless_normal([n * k, classes], seed)
            return tf.reshape(norms.normalize(normal, 2), [n, k, classes])

        return batch.with_extra(self.name, context.draw(sample))

    def penalty(self, batch: Batch, inner: Inner) -> tuple[tf.Tensor, Batch]:
        directions = None
        if self.projections is not None:
            directions, batch = batch.pop_extra(self.name)
        # A pass that an outer link made before was out of the tape's sight: it is made again, under
        # a name of its own. Any other is shared with all that comes after.
        for x in (batch.x, tf.identity(batch.x)):
            batch = batch.replace(x=x)
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(x)
                logits = inner.logits(batch)
            factor, v = 1.0, directions
            if v is None:
                v = tf.tile(tf.eye(logits.shape[-1])[None], [tf.shape(logits)[0], 1, 1])
            else:
                factor = logits.shape[-1] / self.projections
            term = projected_jacobian(tape, logits, x, v)
            if term is not None:
                low, high = batch.clip_values
                # With respect to inputs scaled to 0..1: a weight means the same in any unit.
                return self._raised((high - low) ** 2 * factor * term), batch
        raise ValueError(
            "The Jacobian penalty needs a gradient path from the model's outputs to its inputs. "
            "Received: a model without one"
        )

    def _raised(self, square: tf.Tensor) -> tf.Tensor:
        """The penalty of squared norms `[batch]`."""
        if self.power == "norm":
            return norms.root(square)
        return square / 2 if self.power == "half_square" else square

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight, "projections": self.projections, "power": self.power}
