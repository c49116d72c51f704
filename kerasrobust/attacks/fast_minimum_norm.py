"""Fast minimum-norm attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base, nearest

# What is left of `alpha` and of `gamma` at the end.
LAST_ALPHA, LAST_GAMMA = 0.01, 0.02
# L2 length of the first step, by norm, where none is given.
ALPHA = {math.inf: 10.0, 2.0: 1.0, 1.0: 1.0, 0.0: 10.0}
DUAL = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}


class FastMinimumNorm(base.Attack):
    """Gradient steps inside a ball whose radius follows the boundary, in any of four norms.

    With `m` the margin of the logits and `g_k` the gradient of `log((1 - p_y) / p_y)` at `x + d_k`,
    which is judged by the same pass: `d_{k+1} = clip(P_e(d_k + alpha_k g_k / ||g_k||_2))`, with
    `P_e` the Euclidean projection onto the ball of radius `e`. Until a point is adversarial,
    `e = ||d_k||_p + |m| / ||g_k||_q`, where the linearised boundary lies (`q` the dual of `p`);
    from then on `e` shrinks by `1 - gamma_k`, to at most the best distance, where `x + d_k` is
    adversarial, and grows by `1 + gamma_k` where it is not. In L0 `e` is a number of values that
    changes by at least one, and `P_e` keeps the largest of them. `alpha_k` and `gamma_k` fall along
    a cosine, to a hundredth and a fiftieth. The nearest adversarial iterate is returned.

    The paper climbs the margin. The odds, which look at all classes, where the margin looks at the
    nearest one, end closer in every norm: on an MNIST CNN at a mean of 0.088 instead of 0.091
    (Linf), 1.19 instead of 1.22 (L2), 7.06 instead of 7.41 (L1) and 8.6 instead of 9.0 values.
    In L0 on a CNN for CIFAR-10 it is the other way round, 7.31 and 7.04. So `p` is that of a
    temperature that falls along the cosine, too, from 1 to a fiftieth, where the odds are the
    margin (`losses.log_odds`): 7.15 values there, and nearer than by the odds in every norm on
    both networks (CIFAR-10: 1.6 % in L2, 1.4 % in Linf, 0.3 % in L1; MNIST: at most 0.2 %).

    L0 counts values, not pixels of several channels. Where the gradient is zero the direction is
    random, one for a batch, as in `DecoupledDirectionNorm`; the paper's stays where it is.
    Until a point is adversarial `e` grows by `1 + gamma_k` at least: steps that the box cuts come
    ever closer to the boundary without crossing it (on an MNIST CNN 65 % of the samples in L2). In
    L0 `e` begins at 0, so that one value is tried. There is no start at a point of another class.
    1,000 steps are the longest of the paper's runs.

    Reference: Pintor et al., "Fast Minimum-norm Adversarial Attacks through Adaptive Norm
    Constraints", 2021, arXiv:2102.12827, algorithm 1.

    Args:
        model: See `Attack`.
        norm: inf, 2, 1 or 0.
        max_iter: Number of steps, at least 2: each judges, by one pass, where the last one led.
        alpha: L2 length of the first step, for pixels in 0..1. Default: 1 for L2 and L1, and 10 for
            Linf and L0, whose balls are long in L2 (at 1 the points of an MNIST CNN lie 0.5 % and
            3 % farther away in the mean).
        gamma: Share by which the ball shrinks or grows in the first step, below 1.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = FastMinimumNorm(model, norm="inf", max_iter=300).generate(x, y)
    """

    name = "fmn"
    kind = "minimal"
    strategy = "optimization"
    source = "beyond the documents"
    norms = (math.inf, 2.0, 1.0, 0.0)
    traced = ("max_iter", "alpha", "gamma")
    state_leaves = ("radius", *nearest.LEAVES)

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        max_iter: int = 1000,
        alpha: float | None = None,
        gamma: float = 0.05,
        **common: Unpack[base.Common],
    ):
        self.norm = norms.check_norm(norm, self.norms)
        self.max_iter = checks.check_int("max_iter", max_iter, 2)
        self.alpha = None if alpha is None else checks.check_float("alpha", alpha, above=True)
        self.gamma = checks.check_float("gamma", gamma, above=True, below=1.0)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        return {**nearest.init(state), "radius": tf.zeros([tf.shape(state["x"])[0]])}

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, iterate = state["x"], state["iterate"]
        loss = nearest.odds(state, params["max_iter"], self.targeted)
        logits, _, gradient, state = self.differentiate(model, state, iterate, loss)
        gap = losses.margin(logits, state["y"])
        fooled = self.fools(model, state, iterate, logits)
        distance = norms.norm(iterate - x, self.norm)
        state = nearest.keep(model, state, logits, fooled, distance)

        back = nearest.goes_back(fooled, logits)
        radius = self._radius(state, params, back, distance, gap, gradient)
        radius = tf.minimum(radius, nearest.farthest(model, state, self.norm))
        alpha = params.get("alpha", ALPHA[self.norm])
        length = norms.expand(nearest.fall(state, params["max_iter"], alpha, LAST_ALPHA * alpha), x)
        moved = iterate - x + length * nearest.direction(state, gradient, seed)
        return {
            **state,
            "iterate": self.clip(model, x + norms.project(moved, radius, self.norm)),
            "radius": radius,
            "steps": state["steps"] + 1,
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return nearest.done(state, params)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    def _radius(
        self,
        state: base.State,
        params: base.Params,
        back: tf.Tensor,
        distance: tf.Tensor,
        gap: tf.Tensor,
        gradient: tf.Tensor,
    ) -> tf.Tensor:
        """The radius of the next iterate, `[batch]`."""
        gamma = nearest.fall(
            state, params["max_iter"], params["gamma"], LAST_GAMMA * params["gamma"]
        )
        radius, best = state["radius"], state["best_distance"]
        less, more = (1 - gamma) * radius, (1 + gamma) * radius
        if self.norm == 0:
            less = tf.maximum(tf.minimum(radius - 1, tf.floor(less)), 0.0)
            return tf.where(back, tf.minimum(less, best), tf.maximum(radius + 1, tf.floor(more)))
        slope = norms.norm(gradient, DUAL[self.norm])
        to_boundary = tf.abs(gap) / tf.maximum(slope, norms.TINY)
        # Steps that the box cuts come ever closer to the boundary without crossing it.
        outside = tf.where(state["found"], more, tf.maximum(more, distance + to_boundary))
        return tf.where(back, tf.minimum(less, best), outside)
