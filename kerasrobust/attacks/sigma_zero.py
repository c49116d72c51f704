"""Sigma-zero attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base, nearest

# Of Adam's means; what keeps its quotient finite; what is left of its rate at the end.
DECAY, DECAY_SQUARE, TINY, LAST_SHARE = 0.9, 0.999, 1e-8, 0.1


class SigmaZero(base.Attack):
    """Fewest changed values, by Adam on a smooth L0 norm with a threshold that adapts.

    Minimises `max(margin(f(x + d)), 0) + mean_i d_i^2 / (d_i^2 + sigma)` by Adam, on the gradient
    over its largest entry, inside the box. After each step the entries of `d` below a threshold
    are set to zero; it rises by `threshold_step` times the rate where the iterate is adversarial
    and falls by as much where it is not. The rate falls from `learning_rate` to a tenth of it along
    a cosine. The adversarial iterate, judged by the same pass, that changes the fewest values is
    returned.

    Values are counted, not pixels of several channels, as `CarliniL0Method` does.

    Reference: Cina et al., "sigma-zero: Gradient-based Optimization of l0-norm Adversarial
    Examples", 2024, arXiv:2402.01879, algorithm 1.

    Args:
        model: See `Attack`.
        max_iter: Number of steps, at least 2: each judges, by one pass, where the last one led.
        learning_rate: Of Adam in the first step, for pixels in 0..1.
        sigma: Square of the change at which a value counts as half a changed one, likewise.
        threshold: First threshold, likewise.
        threshold_step: By how much it moves, as a share of the rate.
        **common: `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`; not `targeted`.

    Example:
        >>> x_adv = SigmaZero(model, max_iter=300).generate(x, y)
    """

    name = "sigma_zero"
    kind = "minimal"
    strategy = "optimization"
    source = "beyond the documents"
    can_target = False
    norm = 0.0
    norms = (0.0,)
    traced = ("max_iter", "learning_rate", "sigma", "threshold", "threshold_step")
    state_leaves = ("mean", "square", "least", *nearest.LEAVES)

    def __init__(
        self,
        model: Any = None,
        *,
        max_iter: int = 1000,
        learning_rate: float = 1.0,
        sigma: float = 1e-3,
        threshold: float = 0.3,
        threshold_step: float = 0.01,
        **common: Unpack[base.Common],
    ):
        self.max_iter = checks.check_int("max_iter", max_iter, 2)
        self.learning_rate = checks.check_float("learning_rate", learning_rate, above=True)
        self.sigma = checks.check_float("sigma", sigma, above=True)
        self.threshold = checks.check_float("threshold", threshold)
        self.threshold_step = checks.check_float("threshold_step", threshold_step)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        zeros = tf.zeros_like(state["x"])
        least = tf.fill([tf.shape(zeros)[0]], params["threshold"])
        return {**nearest.init(state), "mean": zeros, "square": zeros, "least": least}

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, iterate, sigma = state["x"], state["iterate"], params["sigma"]
        logits, _, gradient, state = self.differentiate(
            model, state, iterate, lambda z: tf.maximum(losses.margin(z, state["y"]), 0.0)
        )
        fooled = self.fools(model, state, iterate, logits)
        delta = iterate - x
        state = nearest.keep(model, state, logits, fooled, norms.norm(delta, 0))

        features = tf.cast(tf.shape(norms.flatten(x))[1], x.dtype)
        gradient += 2 * sigma * delta / tf.square(tf.square(delta) + sigma) / features
        gradient = tf.math.divide_no_nan(
            gradient, norms.expand(norms.norm(gradient, math.inf), gradient)
        )
        mean = DECAY * state["mean"] + (1 - DECAY) * gradient
        square = DECAY_SQUARE * state["square"] + (1 - DECAY_SQUARE) * tf.square(gradient)
        k = norms.expand(tf.cast(state["steps"] + 1, tf.float32), x)
        scale = tf.sqrt(square / (1 - DECAY_SQUARE**k)) + TINY
        first = params["learning_rate"]
        rate = nearest.fall(state, params, first, LAST_SHARE * first)
        moved = delta - norms.expand(rate, x) * mean / (1 - DECAY**k) / scale
        moved = self.clip(model, x + moved) - x

        change = params["threshold_step"] * rate
        least = tf.clip_by_value(state["least"] + tf.where(fooled, change, -change), 0.0, 1.0)
        small = tf.abs(moved) < norms.expand(least, x)
        moved = norms.select(small, tf.zeros_like(moved), moved)
        return {
            **state,
            "iterate": norms.select(tf.equal(moved, 0), x, self.clip(model, x + moved)),
            "mean": mean,
            "square": square,
            "least": least,
            "steps": state["steps"] + 1,
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return nearest.done(state, params)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]
