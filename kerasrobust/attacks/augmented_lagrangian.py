"""Augmented Lagrangian attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base, nearest

# The length of the first step: by norm, as a share of the width of the box, and at most as a share
# of the distance of the linearised boundary.
FIRST_STEP, FIRST_SHARE = {2.0: 0.1, 1.0: 0.5}, {2.0: 0.1, 1.0: 0.15}
DUAL = {2.0: 2.0, 1.0: math.inf}
# What is left of the rate at the end.
LAST_SHARE = 0.01
# Steps between two looks at the constraint, how far it is to have fallen, and by what `rho` grows.
LOOK, FALLEN, GROWTH = 10, 0.95, 1.2
# Between which bounds the multiplier is held, and what keeps RMSProp's quotient finite.
LEAST, MOST, TINY = 1e-6, 1e12, 1e-8
# The search for the first rate: how many halvings, and by how much the box can raise it at most.
HALVINGS, LARGEST_FACTOR = 16, 100.0


class AugmentedLagrangian(base.Attack):
    """Smallest perturbation by RMSProp on an augmented Lagrangian, its multiplier found on the way.

    With the constraint `c(x') = (z_y - max_{j != y} z_j) / (z_(1) - z_(3)) + tolerance < 0` each
    step descends along the gradient of `||d||_p + P(c(x + d), rho, mu)`, where for `c >= 0`
    `P = mu c + mu rho c^2 + rho^2 c^3 / 6`, else `mu c / (1 - rho c)` (the paper's P2). `mu`
    follows `dP/dc` as a mean with weight `alpha` on the past; `rho` grows by a fifth after each ten
    steps in which no point was found and the constraint has not fallen by 5 %. The rate is such
    that the first step, along `P` alone, is `first_step` long, and falls to a hundredth of it,
    exponentially, from the first adversarial iterate on. The nearest adversarial iterate, judged by
    the same pass, is returned. Where the first gradient is zero it is random, one for a batch.

    The first step's length is that of RMSProp's step inside the box; the authors' program measures
    that of the plain gradient. Where there are fewer than three classes, which leaves nothing of
    the ratio, the margin is divided by its size at the sample. The paper's other distances (SSIM,
    LPIPS, CIEDE2000) are left out.

    Reference: Rony et al., "Augmented Lagrangian Adversarial Attacks", 2021, arXiv:2011.11857,
    algorithm 1.

    Args:
        model: See `Attack`.
        norm: 2 or 1.
        max_iter: Number of steps, at least 2: each judges, by one pass, where the last one led.
        alpha: Weight of the past in the multiplier, in RMSProp's mean square and in its momentum.
        first_step: Length of the first step, in the unit of the inputs. Default: the paper's 0.1
            (L2) or 0.5 (L1) times the width of the box, or 0.1 (L2) or 0.15 (L1) of the distance of
            the boundary of the model made linear, if that is less: the last steps of a walk that
            begins with 0.1 are too long for a boundary at 0.1. On a linear model whose boundary is
            nearer than 0.3 in L1 the paper's first step ends 52 % too far (median, 1,000 steps),
            this one 1.6 %.
        tolerance: By how much the ratio is to be negative.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = AugmentedLagrangian(model, norm=1, max_iter=300).generate(x, y)
    """

    name = "alma"
    kind = "minimal"
    strategy = "optimization"
    source = "beyond the documents"
    norms = (2.0, 1.0)
    lengths = {"first_step": None}
    traced = ("max_iter", "alpha", "first_step", "tolerance")
    state_leaves = (
        "multiplier",
        "rho",
        "looked",
        "scale",
        "square",
        "momentum",
        "rate",
        "fell",
        *nearest.LEAVES,
    )

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = 2,
        max_iter: int = 1000,
        alpha: float = 0.9,
        first_step: float | None = None,
        tolerance: float = 1e-4,
        **common: Unpack[base.Common],
    ):
        self.norm = norms.check_norm(norm, self.norms)
        self.max_iter = checks.check_int("max_iter", max_iter, 2)
        self.alpha = checks.check_float("alpha", alpha, below=1.0)
        self.first_step = (
            None if first_step is None else checks.check_float("first_step", first_step, above=True)
        )
        self.tolerance = checks.check_float("tolerance", tolerance)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        ones = tf.ones([tf.shape(state["x"])[0]])
        return {
            **nearest.init(state),
            "multiplier": ones,
            "rho": ones,
            "looked": ones,
            "scale": ones,
            "rate": ones,
            "square": tf.ones_like(state["x"]),
            "momentum": tf.zeros_like(state["x"]),
            "fell": tf.zeros_like(state["y"]),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, iterate, begins = state["x"], state["iterate"], tf.equal(state["steps"], 0)
        logits, constraint, gradient, state = self._constraint(model, state, params, begins)
        # The distance of the boundary, were the constraint linear.
        slope = tf.maximum(norms.norm(gradient, DUAL[self.norm]), norms.TINY)
        reach = tf.abs(constraint) / slope
        state = self._weights(state, params, constraint, begins)
        delta = iterate - x
        fooled = self.fools(model, state, iterate, logits)
        state = nearest.keep(model, state, logits, fooled, norms.norm(delta, self.norm))

        weight = self._slope(constraint, state["rho"], state["multiplier"])
        outwards = tf.sign(delta) if self.norm == 1 else norms.normalize(delta, 2)
        gradient = norms.expand(weight, x) * gradient + outwards
        lost = begins & tf.equal(norms.norm(gradient, 0), 0)
        random = nearest.direction(state, gradient, seed)
        gradient = norms.select(lost, random, gradient)
        alpha = params["alpha"]
        square = alpha * state["square"] + (1 - alpha) * tf.square(gradient)
        momentum = alpha * state["momentum"] + gradient / (tf.sqrt(square) + TINY)
        first = tf.cond(
            tf.reduce_any(begins),
            lambda: tf.where(
                begins, self._first_rate(model, x, momentum, reach, params), state["rate"]
            ),
            lambda: tf.identity(state["rate"]),
        )
        # Steps since the first success, of as many as there were to come.
        since = tf.cast(state["fell"], tf.float32)
        left = tf.cast(params["max_iter"] - 1 - state["steps"], tf.float32)
        rate = first * LAST_SHARE ** (since / tf.maximum(since + left, 1.0))
        return {
            **state,
            "iterate": self.clip(model, iterate - norms.expand(rate, x) * momentum),
            "square": square,
            "momentum": momentum,
            "rate": first,
            "fell": state["fell"] + tf.cast(state["found"], tf.int32),
            "steps": state["steps"] + 1,
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return nearest.done(state, params)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    def _constraint(
        self, model: Any, state: base.State, params: base.Params, begins: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, base.State]:
        """Logits, the constraint, its gradient and the new state."""
        few = model.nb_classes < 3

        def constraint(logits: tf.Tensor) -> tf.Tensor:
            sign = -1.0 if self.targeted else 1.0
            if few:
                gap = losses.margin(logits, state["y"])
                size = tf.where(begins, tf.abs(tf.stop_gradient(gap)), state["scale"])
                gap = gap / tf.maximum(size, norms.TINY)
            else:
                gap = -losses.difference_of_logits_ratio(logits, state["y"])
            return sign * gap + params["tolerance"]

        logits, value, gradient, state = self.differentiate(
            model, state, state["iterate"], constraint
        )
        if few:
            size = tf.abs(losses.margin(logits, state["y"]))
            state = {**state, "scale": tf.where(begins, size, state["scale"])}
        return logits, value, gradient, state

    def _weights(
        self, state: base.State, params: base.Params, constraint: tf.Tensor, begins: tf.Tensor
    ) -> base.State:
        """The state with the penalty's weights for this step."""
        looks = tf.equal((state["steps"] + 1) % LOOK, 0) & ~begins
        idle = looks & ~state["found"] & (constraint >= FALLEN * state["looked"])
        rho = tf.where(idle, GROWTH * state["rho"], state["rho"])
        past, alpha = state["multiplier"], params["alpha"]
        multiplier = alpha * past + (1 - alpha) * self._slope(constraint, rho, past)
        multiplier = tf.where(begins, past, tf.clip_by_value(multiplier, LEAST, MOST))
        looked = tf.where(looks | begins, constraint, state["looked"])
        return {**state, "rho": rho, "multiplier": multiplier, "looked": looked}

    @staticmethod
    def _slope(c: tf.Tensor, rho: tf.Tensor, multiplier: tf.Tensor) -> tf.Tensor:
        """`dP/dc`."""
        above = multiplier + 2 * multiplier * rho * c + tf.square(rho * c) / 2
        below = multiplier / tf.square(1 - rho * tf.minimum(c, 0.0))
        return tf.where(c >= 0, above, below)

    def _first_rate(
        self,
        model: Any,
        x: tf.Tensor,
        momentum: tf.Tensor,
        reach: tf.Tensor,
        params: base.Params,
    ) -> tf.Tensor:
        """The rate at which the first step is as long as it is to be, inside the box, `[batch]`."""
        low, high = model.clip_values
        wanted = params.get(
            "first_step",
            tf.minimum(FIRST_STEP[self.norm] * (high - low), FIRST_SHARE[self.norm] * reach),
        )
        # The box makes steps shorter, never longer.
        rate = wanted / tf.maximum(norms.norm(momentum, self.norm), norms.TINY)
        least, most = tf.ones_like(rate), tf.fill(tf.shape(rate), LARGEST_FACTOR)
        for _ in range(HALVINGS):
            factor = tf.sqrt(least * most)
            moved = self.clip(model, x - norms.expand(factor * rate, x) * momentum) - x
            short = norms.norm(moved, self.norm) < wanted
            least, most = tf.where(short, factor, least), tf.where(short, most, factor)
        return most * rate
