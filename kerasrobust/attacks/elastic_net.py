"""Elastic-net attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base, constant_search

DECISION_RULES = ("EN", "L1", "L2")


class ElasticNet(base.Attack):
    """Sparse perturbations by FISTA, with a binary search over the constant.

    Minimises `c * max(margin(f(x')) + confidence, 0) + ||x' - x||_2^2 + beta * ||x' - x||_1`. Each
    step takes a gradient step of the smooth part at the slack point `z`, shrinks it towards `x` by
    `beta` inside the box (eq. 5), and moves the slack on by `k / (k + 3)` times the last move. The
    learning rate falls with the square root of the steps left. The closest point that reaches the
    confidence, by the decision rule, is returned.

    ART's class of this name drops the L2 term from the gradient once the margin is met and, for a
    non-zero confidence, counts a point as adversarial by its label alone; this one follows the
    paper's algorithm 1 in both.

    `learning_rate`, `beta` and `initial_const` are for inputs scaled to 0..1, whatever their unit;
    ART's are in the unit of the inputs.

    Reference: Chen et al., "EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial
    Examples", 2018, arXiv:1709.04114.

    Args:
        model: See `Attack`.
        confidence: Margin by which the logits must be adversarial.
        learning_rate: Of the first step.
        binary_search_steps: Number of constants tried.
        max_iter: Steps for each of them.
        beta: Weight of the L1 term.
        initial_const: First constant.
        decision_rule: Which distance to keep the best of: ``"EN"`` (`beta * L1 + L2^2`), ``"L1"``
            or ``"L2"``.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = ElasticNet(model, decision_rule="L1").generate(x, y)
    """

    name = "ead"
    kind = "minimal"
    strategy = "sensitivity"
    source = "AREB"
    norm = 1.0
    norms = (1.0,)
    traced = (
        "confidence",
        "learning_rate",
        "binary_search_steps",
        "max_iter",
        "beta",
        "initial_const",
    )
    state_leaves = ("iterate", "slack", "best_distance", *constant_search.LEAVES)

    def __init__(
        self,
        model: Any = None,
        *,
        confidence: float = 0.0,
        learning_rate: float = 0.01,
        binary_search_steps: int = 9,
        max_iter: int = 100,
        beta: float = 0.001,
        initial_const: float = 0.001,
        decision_rule: str = "EN",
        **common: Unpack[base.Common],
    ):
        self.confidence = checks.check_float("confidence", confidence)
        self.learning_rate = checks.check_float("learning_rate", learning_rate, above=True)
        self.binary_search_steps = checks.check_int("binary_search_steps", binary_search_steps, 1)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.beta = checks.check_float("beta", beta)
        self.initial_const = checks.check_float("initial_const", initial_const, above=True)
        if decision_rule not in DECISION_RULES:
            raise ValueError(
                f"`decision_rule` must be one of {', '.join(DECISION_RULES)}. "
                f"Received: decision_rule={decision_rule!r}"
            )
        self.decision_rule = decision_rule
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.binary_search_steps * self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        return {
            **state,
            **constant_search.init(rows, params["initial_const"]),
            "iterate": state["x"],
            "slack": state["x"],
            "best": state["x"],
            "best_distance": tf.fill([rows], math.inf),
            "found": state["done"],
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, slack = state["x"], state["slack"]
        _, penalty, gradient, state = self.differentiate(
            model, state, slack, constant_search.hinge(self, state, params)
        )
        gradient += 2 * (slack - x)
        k = tf.cast(state["k"], tf.float32)
        rate = params["learning_rate"] * tf.sqrt(1 - k / tf.cast(params["max_iter"], tf.float32))
        iterate = self._shrink(model, slack - norms.expand(rate, x) * gradient, x, params["beta"])
        if "mask" in state:
            iterate = tf.where(state["mask"] > 0, iterate, x)
        momentum = norms.expand(k / (k + 3), x)
        slack = iterate + momentum * (iterate - state["iterate"])

        logits, state = self.score(model, state, iterate)
        fooled = self.fools(model, state, iterate, logits, params["confidence"])
        distance = self._distance(iterate - x, params["beta"])
        closer = fooled & (distance < state["best_distance"])
        state = {
            **state,
            "best": norms.select(closer, iterate, state["best"]),
            "best_distance": tf.where(closer, distance, state["best_distance"]),
            "found": state["found"] | fooled,
            "worked": state["worked"] | fooled,
            "k": state["k"] + 1,
            "iterate": iterate,
            "slack": slack,
        }
        over, state = constant_search.ended(state, penalty, params, abort_early=False)
        return constant_search.advance(state, over, params, {"iterate": x, "slack": x})

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return constant_search.done(state, params)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    def _shrink(self, model: Any, z: tf.Tensor, x: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        low, high = model.clip_values
        up, down = tf.minimum(z - beta, high), tf.maximum(z + beta, low)
        return norms.select(z - x > beta, up, norms.select(z - x < -beta, down, x))

    def _distance(self, delta: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
        if self.decision_rule == "L1":
            return norms.norm(delta, 1)
        if self.decision_rule == "L2":
            return norms.norm(delta, 2)
        return beta * norms.norm(delta, 1) + tf.square(norms.norm(delta, 2))
