"""The search for the constant `c` between distance and misclassification, each sample at its pace.

C&W and EAD minimise `distance(x') + c * max(margin(f(x')) + confidence, 0)` for one constant after
the other: ten times as large until the model is fooled, then bisected (Carlini & Wagner,
"Towards Evaluating the Robustness of Neural Networks", 2017, section VI-A).

Leaves of the state: `constant`, its bounds `least` and `most`, `worked` (this constant fooled the
model), `k` (steps taken with it), `round` (constants tried) and `last_loss`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from kerasrobust import losses, norms
from kerasrobust.attacks import base

# A sample that no constant up to this one has fooled is given up.
LARGEST_CONSTANT = 1e10
LEAVES = ("constant", "least", "most", "worked", "last_loss", "k", "round")


def init(rows: tf.Tensor, initial: tf.Tensor) -> base.State:
    """The leaves at the start."""
    zeros = tf.zeros([rows], tf.int32)
    return {
        "constant": tf.fill([rows], initial),
        "least": tf.zeros([rows]),
        "most": tf.fill([rows], math.inf),
        "worked": tf.zeros([rows], tf.bool),
        "last_loss": tf.fill([rows], math.inf),
        "k": zeros,
        "round": zeros,
    }


def hinge(
    attack: base.Attack, state: base.State, params: base.Params
) -> Callable[[tf.Tensor], tf.Tensor]:
    """`c * max(margin + confidence, 0)` of logits, the margin turned round for a target."""
    sign = -1.0 if attack.targeted else 1.0

    def loss(logits: tf.Tensor) -> tf.Tensor:
        gap = sign * losses.margin(logits, state["y"]) + params["confidence"]
        return state["constant"] * tf.maximum(gap, 0.0)

    return loss


def ended(
    state: base.State, loss: tf.Tensor, params: base.Params, abort_early: bool
) -> tuple[tf.Tensor, base.State]:
    """Whether the steps with this constant are over: all taken, or no progress in a tenth."""
    over = state["k"] >= params["max_iter"]
    if not abort_early:
        return over, state
    tenth = tf.maximum((params["max_iter"] + 9) // 10, 1)
    look = tf.equal((state["k"] - 1) % tenth, 0)
    stuck = look & (loss > 0.9999 * state["last_loss"])
    return over | stuck, {**state, "last_loss": tf.where(look, loss, state["last_loss"])}


def advance(
    state: base.State, over: tf.Tensor, params: base.Params, fresh: base.State
) -> base.State:
    """The next constant, and the leaves in `fresh`, for the samples whose steps are over.

    The last of ten or more rounds takes the smallest constant that worked once more.
    """

    def following() -> base.State:
        constant, worked = state["constant"], state["worked"]
        most = tf.where(worked, tf.minimum(state["most"], constant), state["most"])
        least = tf.where(worked, state["least"], tf.maximum(state["least"], constant))
        after = tf.where(tf.math.is_inf(most), constant * 10, (least + most) / 2)
        tried = state["round"] + 1
        rounds = params["binary_search_steps"]
        last = (tried == rounds - 1) & (rounds >= 10) & tf.math.is_finite(most)
        changed = {
            **fresh,
            "constant": tf.where(last, most, after),
            "least": least,
            "most": most,
            "worked": tf.zeros_like(worked),
            "last_loss": tf.fill(tf.shape(constant), math.inf),
            "k": tf.zeros_like(tried),
            "round": tried,
        }
        return {key: norms.select(over, leaf, state[key]) for key, leaf in changed.items()}

    keys = [*fresh, *LEAVES]
    # In most steps no sample is over, and nothing is to be computed.
    changed = tf.cond(
        tf.reduce_any(over), following, lambda: {key: tf.identity(state[key]) for key in keys}
    )
    return {**state, **changed}


def done(state: base.State, params: base.Params) -> tf.Tensor:
    """bool: all constants tried, or the largest one in vain."""
    return (state["round"] >= params["binary_search_steps"]) | (
        state["constant"] > LARGEST_CONSTANT
    )
