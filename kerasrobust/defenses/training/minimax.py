"""Minimax training: lower the loss at an adversary, and how fast it grows there."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust import attacks, norms
from kerasrobust.checks import check_float
from kerasrobust.defenses.training.base import (
    CRAFTS,
    Batch,
    Context,
    Inner,
    TrainingDefense,
    check_mode,
)
from kerasrobust.defenses.training.crafting import craft
from kerasrobust.engine.classifier import UPSTREAM_SCALE


def gradient_length(gradient: tf.Tensor, norm: float, over: str = "sample") -> tf.Tensor:
    """L1 or L2 norm of each sample's gradient, `[batch]`; over the ``"batch"`` of all, `[1]`.

    It has a derivative at zero, zero, where `norms.norm` has none for L2.
    """
    flat = norms.flatten(gradient)
    if over == "batch":
        flat = tf.reshape(flat, [1, -1])
    if norm == 1:
        return tf.reduce_sum(tf.abs(flat), axis=1)
    return norms.root(tf.reduce_sum(tf.square(flat), axis=1))


@keras.saving.register_keras_serializable("kerasrobust")
class Minimax(TrainingDefense):
    """Trains on FGSM adversaries with a penalty on the input gradient there, and on clean samples.

    The loss of a sample is

        alpha * J(x, y) + (1 - alpha) * [J(x_adv, y) + eps / 2 * ||dJ(x_adv, y) / dx_adv||]

    with `J` the rest of the chain and `x_adv = clip(x + eps * sign(dJ/dx))` of FGSM, held constant.
    The penalty is differentiated with respect to the weights, a true second-order term.

    The equation has the norm over the minibatch, `eps N / 2 * ||dJ / dx_adv||` with `J` the mean of
    the `N` losses; its factor `N` undoes that mean. With ``norm_over="batch"`` it is taken to the
    letter: to every sample `eps / 2 * (sum_i ||dJ_i / dx_i||^2)^(1/2)` is added, for L2 about
    `sqrt(N)` times the norm of one sample. The default takes it sample by sample: it does not grow
    with the batch, is the equation for one sample, and for L1 that to the letter over `N`.

    E2SAD, eq. 2.8, after Hamm, "Machine vs Machine: Minimax-Optimal Defense Against Adversarial
    Examples", 2017, arXiv:1711.04368. The mixture with clean samples is E2SAD's (section 3.3.1);
    `alpha=0` is eq. 2.8 alone, with no clean pass.

    Limits: E2SAD finds the result robust to FGSM and without any defense against iterated FGSM. A
    step costs three forward and backward passes (two with `alpha=0`), and one of them is
    differentiated again, which costs about another two. In a network of ReLUs the penalty moves
    weights, but never through where its units switch.

    Args:
        eps: Linf budget of FGSM and, halved, weight of the penalty, above 0, in the units of the
            inputs. Default 0.3, the document's value for MNIST in 0..1.
        alpha: Weight of the clean samples, at least 0 and below 1. Default 0.5: the document's for
            FGSM training on MNIST, as it gives none for this.
        norm: Norm of the gradient, 2 (default) or 1; the equation leaves it open. To first order
            the L1 norm times the budget is what an Linf step adds to the loss.
        norm_over: ``"sample"`` (default) or ``"batch"``, that of each device where there are
            several: what the norm is taken over.
        crafting: ``"inference"`` (default): FGSM sees the model as it will serve;
            ``"training"``: it sees batch statistics and dropout. Neither moves any statistic.
        batch_norm: Mode of the adversarial pass: ``"training"`` (updates batch-norm statistics,
            the default), ``"inference"`` or ``"stateless"``. In the first and the last the
            gradient includes what a sample does to others through the batch statistics.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(model, defense="minimax", eps=0.3, alpha=0.5)
    """

    name = "minimax"
    source = "E2SAD"
    rank = CRAFTS
    lengths = {"eps": 0.3}

    def __init__(
        self,
        eps: float | None = None,
        alpha: float = 0.5,
        norm: Any = 2,
        norm_over: str = "sample",
        crafting: str = "inference",
        batch_norm: str = "training",
    ):
        self.eps = None if eps is None else check_float("eps", eps, above=True)
        self.alpha = check_float("alpha", alpha)
        if self.alpha >= 1:
            raise ValueError(f"`alpha` must be below 1. Received: alpha={alpha!r}")
        self.norm = norms.check_norm(norm, (1.0, 2.0))
        self.norm_over = check_mode("norm_over", norm_over, ("sample", "batch"))
        self.crafting = check_mode("crafting", crafting, ("inference", "training"))
        self.batch_norm = check_mode("batch_norm", batch_norm)
        self.views = (crafting,)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        recipe = attacks.FastGradientMethod(eps=self.length("eps", batch.clip_values))
        x = craft(recipe, batch, context, self.crafting, self.name)
        return batch.with_extra(self.name, x)

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        x, batch = batch.pop_extra(self.name)
        # The clean pass comes first: its batch statistics are the older ones in the moving mean.
        clean = inner(batch) if self.alpha else None
        adversarial = batch.derive(x, "adversarial", self.batch_norm)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(adversarial.x)
            values = inner(adversarial)
        # A power of two: exact in float32, and small gradients survive a float16 model.
        scale = tf.fill(tf.shape(values), UPSTREAM_SCALE)
        gradient = tape.gradient(values, adversarial.x, output_gradients=scale)
        if gradient is None:
            raise ValueError(
                "'minimax' needs the gradient of the loss with respect to the inputs, and none "
                "leads there. Received: a model without one"
            )
        length = gradient_length(gradient / UPSTREAM_SCALE, self.norm, self.norm_over)
        penalized = values + self.length("eps", batch.clip_values) / 2 * length
        if clean is None:
            return penalized
        return self.alpha * clean + (1.0 - self.alpha) * penalized

    def get_config(self) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "alpha": self.alpha,
            "norm": self.norm,
            "norm_over": self.norm_over,
            "crafting": self.crafting,
            "batch_norm": self.batch_norm,
        }
