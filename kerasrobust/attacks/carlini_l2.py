"""Carlini and Wagner's L2 attack."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from typing_extensions import Unpack

from kerasrobust import checks, norms
from kerasrobust.attacks import base, constant_search

ADAM_MEAN, ADAM_SQUARE, ADAM_TINY = 0.9, 0.999, 1e-8
# Keeps atanh finite at the edges of the box.
TANH_SMOOTHER = 0.999999


class CarliniL2Method(base.Attack):
    """Smallest L2 perturbation by Adam in tanh space, with a binary search over the constant.

    Minimises `||x' - x||_2^2 + c * max(margin(f(x')) + confidence, 0)` over `w`, where
    `x' = low + (high - low) * (tanh(w) + 1) / 2`. Each of the `binary_search_steps` runs Adam for
    `max_iter` steps from the sample; `c` is multiplied by 10 until the sample is fooled and is
    then bisected, the last of ten or more steps repeating the smallest `c` that worked. The
    closest point that reaches the confidence is returned.

    ART's class of this name searches along lines of the plain gradient instead of using Adam, so
    that its `learning_rate` has another meaning; this one follows the paper and its authors'
    program.

    Reference: Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017,
    arXiv:1608.04644, section VI-A, with objective f6.

    Args:
        model: See `Attack`.
        confidence: Margin by which the logits must be adversarial.
        learning_rate: Of Adam, in tanh space.
        binary_search_steps: Number of constants tried.
        max_iter: Adam steps for each of them.
        initial_const: First constant.
        abort_early: End a constant's steps when the objective has not fallen by 0.01 % over a
            tenth of them.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = CarliniL2Method(model, max_iter=100).generate(x, y)
    """

    name = "cwl2"
    kind = "minimal"
    strategy = "optimization"
    source = "AREB, NSLOSS"
    norm = 2.0
    norms = (2.0,)
    traced = (
        "confidence",
        "learning_rate",
        "binary_search_steps",
        "max_iter",
        "initial_const",
    )

    def __init__(
        self,
        model: Any = None,
        *,
        confidence: float = 0.0,
        learning_rate: float = 0.01,
        binary_search_steps: int = 10,
        max_iter: int = 100,
        initial_const: float = 0.01,
        abort_early: bool = True,
        **common: Unpack[base.Common],
    ):
        self.confidence = checks.check_float("confidence", confidence)
        self.learning_rate = checks.check_float("learning_rate", learning_rate, above=True)
        self.binary_search_steps = checks.check_int("binary_search_steps", binary_search_steps, 1)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.initial_const = checks.check_float("initial_const", initial_const, above=True)
        self.abort_early = checks.check_bool("abort_early", abort_early)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.binary_search_steps * self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        low, high = model.clip_values
        centred = (state["x"] - low) / (high - low) * 2 - 1
        rows = tf.shape(state["x"])[0]
        start = tf.atanh(centred * TANH_SMOOTHER)
        return {
            **state,
            "start": start,
            "w": start,
            "mean": tf.zeros_like(start),
            "square": tf.zeros_like(start),
            **constant_search.init(rows, params["initial_const"]),
            "best": state["x"],
            "best_distance": tf.fill([rows], math.inf),
            "found": state["done"],
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        low, high = model.clip_values
        tanh = tf.tanh(state["w"])
        x_adv = low + (high - low) * (tanh + 1) / 2
        if "mask" in state:
            x_adv = tf.where(state["mask"] > 0, x_adv, state["x"])
        logits, penalty, gradient, state = self.differentiate(
            model, state, x_adv, constant_search.hinge(self, state, params)
        )
        delta = x_adv - state["x"]
        distance = norms.norm(delta, 2)
        fooled = constant_search.fooled(self, logits, state["y"], params["confidence"])
        closer = fooled & (distance < state["best_distance"])
        gradient = (gradient + 2 * delta) * (1 - tf.square(tanh)) * (high - low) / 2
        if "mask" in state:
            gradient *= state["mask"]

        # Adam with both bias corrections in the length of the step.
        k = tf.cast(state["k"] + 1, tf.float32)
        correction = tf.sqrt(1 - ADAM_SQUARE**k)
        length = params["learning_rate"] * correction / (1 - ADAM_MEAN**k)
        mean = state["mean"] + (1 - ADAM_MEAN) * (gradient - state["mean"])
        square = state["square"] + (1 - ADAM_SQUARE) * (tf.square(gradient) - state["square"])
        tiny = norms.expand(ADAM_TINY * correction, mean)
        state = {
            **state,
            "w": state["w"] - norms.expand(length, mean) * mean / (tf.sqrt(square) + tiny),
            "mean": mean,
            "square": square,
            "best": tf.where(norms.expand(closer, x_adv), x_adv, state["best"]),
            "best_distance": tf.where(closer, distance, state["best_distance"]),
            "found": state["found"] | fooled,
            "worked": state["worked"] | fooled,
            "k": state["k"] + 1,
        }
        over, state = constant_search.ended(
            state, tf.square(distance) + penalty, params, self.abort_early
        )
        zeros = tf.zeros_like(mean)
        fresh = {"w": state["start"], "mean": zeros, "square": zeros}
        return constant_search.advance(state, over, params, fresh)

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return constant_search.done(state, params)

    def finish(self, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]
