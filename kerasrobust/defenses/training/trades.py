"""TRADES: accuracy on clean samples, and predictions that change little around them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import tensorflow as tf

from kerasrobust.attacks.base import Params, State
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.defenses.training.ascent import InputAscent
from kerasrobust.defenses.training.base import Batch, Inner
from kerasrobust.losses import kl_divergence, log_kl_divergence, log_softmax


class _DivergenceAscent(ProjectedGradientDescent):
    """PGD on `KL(p(x) || p(x'))`, whatever the label; `p(x)` is taken once and stays."""

    state_leaves = ("clean",)

    def init(self, model: Any, state: State, params: Params, seed: Any) -> State:
        logits, state = self.score(model, state, state["x"])
        return super().init(model, {**state, "clean": log_softmax(logits)}, params, seed)

    def _objective(self, logits: tf.Tensor, state: State) -> tf.Tensor:
        return log_kl_divergence(state["clean"], logits)


@keras.saving.register_keras_serializable("kerasrobust")
class Trades(InputAscent):
    """Trains on the clean samples, and against predictions that an adversary can change.

    The loss of a sample is

        J(x, y) + beta * KL(p(x) || p(x_adv))
        x_adv = argmax_{||x' - x|| <= eps} KL(p(x) || p(x'))

    with `J` the rest of the chain and `p` the softmax of the logits. The gradient goes through
    both sides of the divergence, as in the authors' code. `x_adv` is found by PGD from
    `x + 0.001 N(0, 1)` (0.001 of the range of the inputs), since at `x` itself the divergence has
    no gradient. Other links that belong into the chain apply to `J` alone: label smoothing smooths
    the labels of the clean term.

    Zhang, Yu, Jiao, Xing, El Ghaoui and Jordan, "Theoretically Principled Trade-off between
    Robustness and Accuracy", 2019, arXiv:1901.08573, eq. 5 and algorithm 1, where
    `beta = 1 / lambda`. The authors' code makes the clean pass a second time for the divergence;
    here both terms share it.

    Limits: robustness is gained against one norm and budget and little beyond, and costs clean
    accuracy, the more the larger `beta`. In float16 the divergence next to `x` is within the
    rounding of the logits, so that the first step of the ascent has a direction close to random. A
    step costs `max_iter + 2` forward and backward passes and one more forward pass.

    Args:
        eps: Budget of the adversary, in the units of the inputs, at least 0. Default 0.031, the
            paper's value for CIFAR-10 in 0..1 (0.3 for MNIST).
        eps_step: Length of its steps, likewise. Default 0.007 (0.01 for MNIST).
        max_iter: Number of its steps, at least 1. Default 10 (40 for MNIST).
        norm: inf (default) or 2.
        beta: Weight of the divergence, at least 0. Default 6.
        crafting: ``"inference"`` (default): the adversary sees the model as it will serve;
            ``"training"``: it sees batch statistics and dropout. Neither moves any statistic.
        batch_norm: Mode of the adversarial pass: ``"training"`` (updates batch-norm statistics,
            the default), ``"inference"`` or ``"stateless"``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(model, "trades", eps=0.3, eps_step=0.01, max_iter=40, beta=1.0)
    """

    name = "trades"
    ascent: ClassVar[type[ProjectedGradientDescent]] = _DivergenceAscent

    def __init__(
        self,
        eps: float | None = None,
        eps_step: float | None = None,
        max_iter: int = 10,
        norm: float | str = math.inf,
        beta: float = 6.0,
        crafting: str = "inference",
        batch_norm: str = "training",
    ):
        super().__init__(eps, eps_step, max_iter, norm, beta, crafting, batch_norm)

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        x, batch = batch.pop_extra(self.name)
        clean = inner(batch)
        adversarial = batch.derive(x, "adversarial", self.batch_norm)
        divergence = kl_divergence(inner.logits(batch), inner.logits(adversarial))
        return clean + self.beta * divergence
