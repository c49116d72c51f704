"""Iterative least-likely class method."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasrobust.attacks import base
from kerasrobust.attacks.basic_iterative import BasicIterativeMethod


class IterativeLeastLikelyClass(BasicIterativeMethod):
    """Small steps towards the class that the model finds least likely.

    `x_{t+1} = clip_{x, eps}(x_t - eps_step * sign(grad CE(f(x_t), y_LL)))` with
    `y_LL = argmin_c f_c(x)`, chosen once, at the clean sample, for one query. The mistakes are
    more interesting, a dog taken for a plane and not for another dog, and harder to reach: as in
    the paper a sample counts as fooled when it leaves its class, wherever it lands. With
    `targeted=True` the classes to reach are those in `y`, and nothing is chosen.

    Reference: Kurakin, Goodfellow & Bengio, "Adversarial Examples in the Physical World", 2017,
    arXiv:1607.02533, section 2.3.

    Args:
        model: See `Attack`.
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`. Default: 0.3 of
            the width of the box.
        eps_step: Step length, likewise; None (default) for that of `ProjectedGradientDescent`.
        max_iter: Gradient steps.
        early_stop: End a sample at its first adversarial iterate.
        **common: `attack_labels`, `k`: see `ProjectedGradientDescent`; `targeted`, `batch_size`,
            `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = IterativeLeastLikelyClass(model, eps=0.3, max_iter=20).generate(x, y)
    """

    name = "ilc"
    source = "AREB"
    always_aims = True
    state_leaves = ("goal",)

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        state = super().init(model, state, params, seed)
        if self.targeted:
            return {**state, "goal": state["y"]}
        logits, state = self.score(model, state, state["x"])
        return {**state, "goal": tf.argmin(logits, axis=-1, output_type=tf.int32)}

    def _objective(self, logits: tf.Tensor, state: base.State) -> tf.Tensor:
        return -self._loss(logits, state["goal"])
