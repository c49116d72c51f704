"""Virtual adversarial method."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base


class VirtualAdversarialMethod(base.Attack):
    """A step along the direction in which the prediction changes fastest, whatever the label.

    `x_adv = clip(x + eps * d)` with `d` the largest eigenvector of the Hessian of
    `KL(f(x) || f(x + r))` at `r = 0`, found by power iteration from a random unit vector:
    `d <- grad_r KL(f(x) || f(x + r)) / ||.||_2` at `r = finite_diff * d`. Of `d` and `-d`, equal to
    second order, the one with the larger divergence at `eps` is taken, for two queries; the paper
    leaves this to chance. The labels play no part but in judging the result.

    ART's class of this name takes the gradient with unit steps, `r = d`, by a difference quotient
    over every pixel: one pass for each of them, where this one makes one for all.

    Reference: Miyato et al., "Virtual Adversarial Training: A Regularization Method for Supervised
    and Semi-Supervised Learning", 2018, arXiv:1704.03976, section 3.3.

    Args:
        model: See `Attack`.
        eps: Budget, an L2 length in the unit of the inputs: a number, or one per sample `[n]`.
            Default: 2.1 times the width of the box, BRELU-GDA's number for images in 0..1 (for
            training; it gives none for the attack). ART's default is 0.1.
        finite_diff: L2 length of the step at which the divergence is differentiated (the paper's
            xi). Default: 0.1 of that width. At ART's 1e-6 single precision leaves nothing of the
            divergence but rounding.
        max_iter: Power iterations.
        **common: `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`; never `targeted`.

    Example:
        >>> x_adv = VirtualAdversarialMethod(model, eps=2.1).generate(x)
    """

    name = "vat"
    kind = "budget"
    strategy = "sensitivity"
    source = "BRELU-GDA"
    can_target = False
    random = True
    norm = 2.0
    norms = (2.0,)
    lengths = {"eps": 2.1, "finite_diff": 0.1}
    traced = ("finite_diff", "max_iter")
    state_leaves = ("direction", "clean", "steps")
    art_defaults = {"eps": 0.1, "finite_diff": 1e-6}

    def __init__(
        self,
        model: Any = None,
        *,
        eps: Any = None,
        finite_diff: float | None = None,
        max_iter: int = 10,
        **common: Unpack[base.Common],
    ):
        self.eps = None if eps is None else checks.check_size("eps", eps)
        self.finite_diff = (
            None
            if finite_diff is None
            else checks.check_float("finite_diff", finite_diff, above=True)
        )
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter + 1

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        direction = tf.random.stateless_normal(tf.shape(state["x"]), seed)
        direction = tf.ensure_shape(direction, state["x"].shape)
        if "mask" in state:
            direction *= state["mask"]
        logits, state = self.score(model, state, state["x"])
        return {
            **state,
            "direction": norms.normalize(direction, 2),
            "clean": losses.log_softmax(logits),
            "steps": tf.zeros([tf.shape(state["x"])[0]], tf.int32),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        return tf.cond(
            t < params["max_iter"],
            lambda: self._iterate_power(model, state, params),
            lambda: self._choose_sign(model, state),
        )

    def _iterate_power(self, model: Any, state: base.State, params: base.Params) -> base.State:
        # The step may leave the box: it is only there to differentiate at.
        _, _, gradient, state = self.differentiate(
            model,
            state,
            state["x"] + params["finite_diff"] * state["direction"],
            lambda z: losses.log_kl_divergence(state["clean"], z),
        )
        # Where the divergence is flat there is no better direction than the last one.
        flat = norms.expand(tf.equal(norms.norm(gradient, 2), 0), gradient)
        direction = tf.where(flat, state["direction"], norms.normalize(gradient, 2))
        return {**state, "direction": direction, "steps": state["steps"] + 1}

    def _choose_sign(self, model: Any, state: base.State) -> base.State:
        """The paper leaves the sign of the eigenvector to the random start."""
        divergence = []
        for sign in (1.0, -1.0):
            point = self._point(model, state, sign * state["direction"])
            logits, state = self.score(model, state, point)
            divergence.append(losses.log_kl_divergence(state["clean"], logits))
        sign = tf.where(divergence[0] >= divergence[1], 1.0, -1.0)
        direction = norms.expand(sign, state["x"]) * state["direction"]
        return {**state, "direction": direction, "steps": state["steps"] + 1}

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return state["steps"] > params["max_iter"]

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return self._point(model, state, state["direction"])

    def _point(self, model: Any, state: base.State, direction: tf.Tensor) -> tf.Tensor:
        return self.clip(model, state["x"] + norms.expand(state["eps"], direction) * direction)
