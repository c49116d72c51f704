"""DeepFool."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base, hyperplanes

# Added to the length of each step, relative to the width of the box.
EXTRA = 1e-4


class DeepFool(base.Attack):
    """Steps onto the nearest decision boundary of the model made linear, until the label changes.

    At `x_i` the boundary to class `k` is the hyperplane `f_k + <w_k, d> = 0` with
    `f_k = z_k - z_y` and `w_k = grad z_k - grad z_y`; the step goes to the one with the smallest
    `|f_k| / ||w_k||_2`. The sum of the steps is lengthened by `1 + epsilon` to cross it.

    The classes of all samples are differentiated on one forward pass, and a sample ends when its
    lengthened, clipped point has another label. ART lengthens only the final perturbation, by
    1e-6, and scales each step by the width of the box, which overshoots for any but `(0, 1)`.

    Reference: Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep neural
    networks", 2016, arXiv:1511.04599, algorithm 2.

    Args:
        model: See `Attack`.
        max_iter: Largest number of steps.
        epsilon: Overshoot; the paper's 0.02. ART's default is 1e-6.
        nb_grads: Number of likeliest classes looked at in a step, the one to leave among them.
        **common: `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`; not `targeted`.

    Example:
        >>> x_adv = DeepFool(model).generate(x, y)
    """

    name = "deepfool"
    kind = "minimal"
    strategy = "optimization"
    source = "AREB, BRELU-GDA"
    can_target = False
    norm = 2.0
    norms = (2.0,)
    traced = ("max_iter", "epsilon")
    # Most samples need three or four steps, each of as many passes as there are classes.
    chunk = 1
    state_leaves = ("iterate", "total", "steps", "stuck")
    art_defaults = {"epsilon": 1e-6}

    def __init__(
        self,
        model: Any = None,
        *,
        max_iter: int = 100,
        epsilon: float = 0.02,
        nb_grads: int = 10,
        **common: Unpack[base.Common],
    ):
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.epsilon = checks.check_float("epsilon", epsilon)
        self.nb_grads = checks.check_int("nb_grads", nb_grads, 2)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        return {
            **state,
            "iterate": state["x"],
            "total": tf.zeros_like(state["x"]),
            "steps": tf.zeros([rows], tf.int32),
            "stuck": tf.zeros([rows], tf.bool),
            "found": state["done"],
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, iterate = state["x"], state["iterate"]
        logits, gap, normal, state = hyperplanes.nearest(self, model, state, iterate, self.nb_grads)
        # Clipped steps come ever closer to the boundary without crossing it; hence the authors'
        # program adds a little to each. The shortest step inside the box would need none, and a
        # third of the steps, and ends a tenth farther away.
        low, high = model.clip_values
        length = tf.math.divide_no_nan(tf.abs(gap), norms.norm(normal, 2)) + EXTRA * (high - low)
        total = state["total"] + norms.expand(length, x) * norms.normalize(normal, 2)
        moved = self.clip(model, x + (1 + params["epsilon"]) * total)

        # A sample that is adversarial already stays where it is.
        at_once = self.fools(model, state, iterate, logits)
        moved = norms.select(at_once, iterate, moved)
        logits, state = self.score(model, state, moved)
        return {
            **state,
            "iterate": moved,
            "total": total,
            "steps": state["steps"] + 1,
            "stuck": tf.equal(norms.norm(moved - iterate, 1), 0),
            "found": self.fools(model, state, moved, logits),
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return state["found"] | state["stuck"] | (state["steps"] >= params["max_iter"])

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["iterate"]
