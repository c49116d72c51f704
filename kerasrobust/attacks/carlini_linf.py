"""Carlini and Wagner's Linf attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base, tanh_space

# The search ends when the bound is below one grey level of an image.
SMALLEST_BOUND = 1 / 256
# How far from the edges of the box a round starts, as a share of the bound, which allows it.
EDGE = 0.2


class CarliniLInfMethod(base.Attack):
    """Smallest Linf perturbation: Adam against a bound on each entry that falls step by step.

    Minimises `c * max(margin(f(x')) + confidence, 0) + sum_i max(|x'_i - x_i| - tau, 0)` in tanh
    space, lengths in units of the width of the box. From `tau = 1` on, each round runs Adam for
    `max_iter` steps, or until the objective is zero. If it has found a closer adversarial point,
    `tau` becomes `decrease_factor` times its distance (or times `tau`, if that is smaller) and the
    next round starts there; else `c` is multiplied by `const_factor`, up to `largest_const`.

    The constant is kept when `tau` falls, as in the authors' program. ART begins again with
    `initial_const`, tries every constant for every `tau` and starts each from the sample.

    Reference: Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017,
    arXiv:1608.04644, section VI-C.

    Args:
        model: See `Attack`.
        confidence: Margin by which the logits must be adversarial.
        learning_rate: Of Adam, in tanh space.
        max_iter: Adam steps for each pair of `tau` and `c`. ART's default is 10.
        decrease_factor: Of `tau`, in 0..1.
        initial_const: First constant.
        largest_const: Last constant.
        const_factor: Of the constant, more than 1.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = CarliniLInfMethod(model).generate(x, y)
    """

    name = "cwlinf"
    kind = "minimal"
    strategy = "optimization"
    source = "BRELU-GDA"
    norm = math.inf
    norms = (math.inf,)
    art_defaults = {"max_iter": 10}
    traced = (
        "confidence",
        "learning_rate",
        "max_iter",
        "decrease_factor",
        "initial_const",
        "largest_const",
        "const_factor",
    )
    state_leaves = ("w", "mean", "square", "constant", "bound", "k", "worked", "best_distance")

    def __init__(
        self,
        model: Any = None,
        *,
        confidence: float = 0.0,
        learning_rate: float = 0.01,
        max_iter: int = 100,
        decrease_factor: float = 0.9,
        initial_const: float = 1e-5,
        largest_const: float = 20.0,
        const_factor: float = 2.0,
        **common: Unpack[base.Common],
    ):
        self.confidence = checks.check_float("confidence", confidence)
        self.learning_rate = checks.check_float("learning_rate", learning_rate, above=True)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.decrease_factor = checks.check_float("decrease_factor", decrease_factor, above=True)
        self.initial_const = checks.check_float("initial_const", initial_const, above=True)
        self.largest_const = checks.check_float("largest_const", largest_const, initial_const)
        self.const_factor = checks.check_float("const_factor", const_factor, 1.0, above=True)
        if self.decrease_factor >= 1:
            raise ValueError(
                "`decrease_factor` must be less than 1. "
                f"Received: decrease_factor={decrease_factor!r}"
            )
        super().__init__(model, **common)

    def max_steps(self) -> int:
        bounds = math.log(SMALLEST_BOUND) / math.log(self.decrease_factor)
        constants = math.log(self.largest_const / self.initial_const) / math.log(self.const_factor)
        return self.max_iter * (math.ceil(bounds) + math.ceil(constants) + 2)

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        return {
            **state,
            **tanh_space.init(model, state["x"], EDGE * tf.ones([rows])),
            "constant": tf.fill([rows], params["initial_const"]),
            "bound": tf.ones([rows]),
            "k": tf.zeros([rows], tf.int32),
            "worked": tf.zeros([rows], tf.bool),
            "best": state["x"],
            "best_distance": tf.fill([rows], math.inf),
            "found": state["done"],
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x = state["x"]
        low, high = model.clip_values
        x_adv = tanh_space.point(model, state)
        sign = -1.0 if self.targeted else 1.0

        def hinge(logits: tf.Tensor) -> tf.Tensor:
            gap = sign * losses.margin(logits, state["y"]) + params["confidence"]
            return state["constant"] * tf.maximum(gap, 0.0)

        logits, penalty, gradient, state = self.differentiate(model, state, x_adv, hinge)
        delta = (x_adv - x) / (high - low)
        outside = tf.cast(tf.abs(delta) > norms.expand(state["bound"], x), tf.float32)
        gradient += outside * tf.sign(delta) / (high - low)
        distance = norms.norm(delta, math.inf)
        fooled = self.fools(model, state, x_adv, logits) & (penalty <= 0)
        closer = fooled & (distance < state["best_distance"])
        worked = state["worked"] | closer
        state = {
            **tanh_space.adam(model, state, gradient, params["learning_rate"]),
            "best": norms.select(closer, x_adv, state["best"]),
            "best_distance": tf.where(closer, distance, state["best_distance"]),
            "found": state["found"] | fooled,
            "worked": worked,
        }
        # At an objective of zero there is nothing left to gain from this bound.
        over = (state["k"] >= params["max_iter"]) | (fooled & (distance <= state["bound"]))
        return self._next_round(model, state, over, params)

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return (state["bound"] < SMALLEST_BOUND) | (state["constant"] > params["largest_const"])

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    def _next_round(
        self, model: Any, state: base.State, over: tf.Tensor, params: base.Params
    ) -> base.State:
        """A smaller bound where the round worked, a larger constant where it did not."""
        worked = state["worked"]
        nearer = tf.minimum(state["bound"], state["best_distance"]) * params["decrease_factor"]
        bound = tf.where(worked, nearer, state["bound"])
        larger = state["constant"] * params["const_factor"]
        fresh = {
            # Before anything is found that is the sample.
            **tanh_space.init(model, state["best"], EDGE * bound),
            "bound": bound,
            "constant": tf.where(worked, state["constant"], larger),
            "worked": tf.zeros_like(worked),
            "k": tf.zeros_like(state["k"]),
        }
        return {
            **state,
            **{k: norms.select(over, leaf, state[k]) for k, leaf in fresh.items()},
        }
