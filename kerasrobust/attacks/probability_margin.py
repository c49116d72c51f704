"""Probability margin attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses
from kerasrobust.attacks import base
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent

# The terms that a step climbs.
BOTH, OWN, OTHER = 0, 1, 2


class ProbabilityMarginAttack(ProjectedGradientDescent):
    """Projected gradient ascent of `max_{j != y} p_j - p_y`, after one of its terms alone.

    Each start is a point of the ball, drawn uniformly. The first half of its `max_iter` steps
    climbs one term, `-p_y` in the first, third, ... start and `max_{j != y} p_j` in the others, the
    second half the margin. In each half the steps fall along a cosine from `2 * eps` towards zero.
    A term that outweighs the other in the margin's gradient leads astray at first (Ma et al., the
    marginal decomposition attack, whose schedule this is, with probabilities for logits).

    What a step follows is the gradient of the probabilities, scaled so that it keeps its direction
    where a model is so sure of itself that they round to 0 and 1 (`losses.probability_margin`).
    Other than in the authors' program the first step climbs what the others of its half do, where
    theirs raises `p_y`; their L2 form is not published, this is the step of `pgd`.

    References: Xie et al., "Towards Million-Scale Adversarial Robustness Evaluation With Stronger
    Individual Attacks", 2024, arXiv:2411.15210, section 3; Ma et al., "Imbalanced Gradients: A
    Subtle Cause of Overestimated Adversarial Robustness", 2020, arXiv:2006.13726.

    Args:
        model: See `Attack`.
        norm: inf, 2 or 1.
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`. Default: 0.3 of
            the width of the box.
        max_iter: Gradient steps per start, at least 2; the authors' 100.
        num_random_init: Number of starts; the authors' 2, one for each term.
        early_stop: End a sample at its first adversarial iterate, as the authors do. Without it the
            last iterate of the last start counts, as of `pgd`.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = ProbabilityMarginAttack(model, eps=8 / 255).generate(x, y)
    """

    name = "pma"
    source = "beyond the documents"
    lengths = {"eps": 0.3}
    common = base.Common
    state_leaves = ("part",)

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        eps: Any = None,
        max_iter: int = 100,
        num_random_init: int = 2,
        early_stop: bool = True,
        **common: Unpack[base.Common],
    ):
        super().__init__(
            model,
            norm=norm,
            eps=eps,
            eps_step=None,
            max_iter=checks.check_int("max_iter", max_iter, 2),
            num_random_init=checks.check_int("num_random_init", num_random_init, 1),
            early_stop=early_stop,
            **common,
        )

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        state = super().init(model, state, params, seed)
        return {**state, "part": tf.zeros_like(state["steps"])}

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        state = {**state, "part": self._part(state["steps"], params)}
        return super().step(model, state, params, seed, t)

    def _part(self, steps: tf.Tensor, params: base.Params) -> tf.Tensor:
        """What the step after so many ones climbs."""
        start, steps = steps // params["max_iter"], steps % params["max_iter"]
        alone = tf.where(tf.equal(start % 2, 0), OWN, OTHER)
        return tf.where(steps < params["max_iter"] // 2, alone, BOTH)

    def _step_length(self, state: base.State, params: base.Params) -> tf.Tensor:
        steps = tf.cast(state["steps"] % params["max_iter"], tf.float32)
        half = tf.cast(params["max_iter"] // 2, tf.float32)
        rest = tf.cast(params["max_iter"], tf.float32) - half
        done = tf.where(steps < half, steps / half, (steps - half) / rest)
        return state["eps"] * (1 + tf.cos(math.pi * done))

    def _objective(self, logits: tf.Tensor, state: base.State) -> tf.Tensor:
        part = state["part"]
        loss = losses.probability_margin(
            logits, state["y"], tf.not_equal(part, OTHER), tf.not_equal(part, OWN)
        )
        return -loss if self.targeted else loss
