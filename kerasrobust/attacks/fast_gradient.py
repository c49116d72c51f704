"""Fast gradient method."""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base
from kerasrobust.attacks.projected_gradient_descent import LabelCommon, ProjectedGradientDescent

# Distance between the lengths tried, as a share of the budget.
LENGTH = 0.1


class FastGradientMethod(ProjectedGradientDescent):
    """One step along the gradient of the cross-entropy: of length `eps`, or as short as will do.

    `x_adv = clip(x + eps * argmax_{||d||_p <= 1} <d, grad CE(f(x), y)>)`, for Linf
    `x + eps * sign(grad)`: projected gradient descent with one step as long as the budget. It
    equals ART's method for Linf and L2; L1 differs as described there.

    With `minimal=True` the length is searched for along this one direction: `eps_step`,
    `2 * eps_step`, ... and `eps` itself until the sample is fooled, which is ART's search; then
    the last interval is halved `binary_search_steps` times. So the distance is at most ART's, and
    within `eps_step / 2^binary_search_steps` of the end of the interval that holds it.

    Reference: Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples",
    2015, arXiv:1412.6572.

    Args:
        model: See `Attack`.
        norm: inf, 1 or 2.
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`. Default: 0.3 of
            the width of the box.
        eps_step: Distance between the lengths tried where `minimal`, likewise; else not used. None
            (default) for a tenth of `eps`; ART's default is 0.1.
        num_random_init: Number of starts drawn uniformly from the ball; 0 starts at the sample.
        minimal: Search for the smallest length.
        binary_search_steps: Halvings of the last interval where `minimal`; 0 is ART's result.
        **common: `attack_labels`, `k`: see `ProjectedGradientDescent`; `targeted`, `batch_size`,
            `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = FastGradientMethod(model, eps=0.1).generate(x, y)
        >>> nearest = FastGradientMethod(model, eps=1.0, minimal=True).generate(x, y)
    """

    name = "fgsm"
    traced = ("max_iter", "binary_search_steps")
    state_leaves = ("gradient", "least", "most", "tried", "halved")

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        eps: Any = None,
        eps_step: Any = None,
        num_random_init: int = 0,
        minimal: bool = False,
        binary_search_steps: int = 10,
        **common: Unpack[LabelCommon],
    ):
        self.minimal = checks.check_bool("minimal", minimal)
        self.binary_search_steps = checks.check_int("binary_search_steps", binary_search_steps, 0)
        if self.minimal:
            self.kind = "minimal"
            if eps_step is not None and np.min(checks.check_size("eps_step", eps_step)) <= 0:
                raise ValueError(
                    f"`eps_step` must be > 0 where `minimal`. Received: eps_step={eps_step!r}"
                )
            if num_random_init:
                raise ValueError(
                    "The smallest step is searched for from the sample itself: `num_random_init` "
                    f"must be 0 where `minimal`. Received: num_random_init={num_random_init!r}"
                )
        super().__init__(
            model,
            norm=norm,
            eps=eps,
            eps_step=eps_step,
            max_iter=1,
            num_random_init=num_random_init,
            **common,
        )

    def max_steps(self) -> int:
        if not self.minimal:
            return super().max_steps()
        lengths = np.asarray(1.0 / LENGTH)
        if self.eps_step is not None:
            lengths = np.asarray(self.eps, float) / np.asarray(self.eps_step, float)
        return int(np.ceil(lengths).max()) + 1 + self.binary_search_steps

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        if not self.minimal:
            return super().init(model, state, params, seed)
        if self.eps_step is None:
            state = {**state, "eps_step": LENGTH * state["eps"]}
        _, _, gradient, state = self.differentiate(
            model, state, state["x"], lambda z: self._objective(z, state)
        )
        zeros = tf.zeros_like(state["eps"])
        return {
            **state,
            "gradient": gradient,
            "least": zeros,  # the longest step that is known to fail
            "most": zeros + math.inf,  # the shortest one that is known to do
            "tried": tf.cast(zeros, tf.int32),
            "halved": tf.cast(zeros, tf.int32),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        if not self.minimal:
            return super().step(model, state, params, seed, t)
        found = tf.math.is_finite(state["most"])
        # A multiple, not a sum, so that no rounding error builds up.
        grid = state["eps_step"] * tf.cast(state["tried"] + 1, tf.float32)
        length = tf.minimum(grid, state["eps"])
        length = tf.where(found, (state["least"] + state["most"]) / 2, length)
        point = self._along(model, state, length)
        logits, state = self.score(model, state, point)
        fooled = self.fools(model, state, point, logits)
        one = tf.ones_like(state["tried"])
        return {
            **state,
            "least": tf.where(fooled, state["least"], length),
            "most": tf.where(fooled, length, state["most"]),
            "tried": state["tried"] + one,
            "halved": state["halved"] + tf.where(found, one, 0),
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        if not self.minimal:
            return super().done(state, params)
        found = tf.math.is_finite(state["most"])
        spent = state["least"] >= state["eps"]
        return tf.where(found, state["halved"] >= params["binary_search_steps"], spent)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        if not self.minimal:
            return super().finish(model, state, params)
        length = tf.minimum(state["most"], state["eps"])
        # A sample that was adversarial from the start has not moved.
        length = tf.where(state["tried"] > 0, length, 0.0)
        return self._along(model, state, length)

    def _step_length(self, state: base.State, params: base.Params) -> tf.Tensor:
        return state["eps"]

    def _along(self, model: Any, state: base.State, length: tf.Tensor) -> tf.Tensor:
        """The clean sample plus a step of this length."""
        low, high = model.clip_values
        x = state["x"]
        return self.clip(
            model,
            x + norms.ascent_direction(state["gradient"], length, self.norm, low - x, high - x),
        )
