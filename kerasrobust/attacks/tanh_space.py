"""Adam in tanh space, where every point is inside the box.

`x' = low + (high - low) * (tanh(w) + 1) / 2`: the change of variable of Carlini & Wagner, "Towards
Evaluating the Robustness of Neural Networks", 2017, section V-B.

Leaves of the state: `w`, the moments `mean` and `square`, and `k`, the steps taken.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasrobust import norms
from kerasrobust.attacks import base

ADAM_MEAN, ADAM_SQUARE, ADAM_TINY = 0.9, 0.999, 1e-8
# Keeps atanh finite at the edges of the box.
TANH_SMOOTHER = 0.999999


def init(model: Any, x: tf.Tensor, off_edges: tf.Tensor | None = None) -> base.State:
    """The leaves for a start at `x`, without `k`.

    At the edges of the box tanh is flat, and it takes Adam hundreds of steps to leave them. An
    attack that allows small changes gives how far inside a start is to be, `[batch]`, as a share
    of the width of the box.
    """
    low, high = model.clip_values
    centred = (x - low) / (high - low) * 2 - 1
    largest = tf.constant(TANH_SMOOTHER)
    if off_edges is not None:
        largest = norms.expand(tf.minimum(1 - 2 * off_edges, largest), x)
    w = tf.atanh(tf.clip_by_value(centred * TANH_SMOOTHER, -largest, largest))
    return {"w": w, "mean": tf.zeros_like(w), "square": tf.zeros_like(w)}


def point(model: Any, state: base.State) -> tf.Tensor:
    """The point that `w` stands for; outside the mask the sample's own values."""
    low, high = model.clip_values
    x_adv = low + (high - low) * (tf.tanh(state["w"]) + 1) / 2
    return tf.where(state["mask"] > 0, x_adv, state["x"]) if "mask" in state else x_adv


def adam(
    model: Any, state: base.State, gradient: tf.Tensor, learning_rate: tf.Tensor
) -> base.State:
    """One step against the gradient with respect to the point."""
    low, high = model.clip_values
    gradient = gradient * (1 - tf.square(tf.tanh(state["w"]))) * (high - low) / 2
    if "mask" in state:
        gradient *= state["mask"]
    # Both bias corrections are in the length of the step.
    k = tf.cast(state["k"] + 1, tf.float32)
    correction = tf.sqrt(1 - ADAM_SQUARE**k)
    length = norms.expand(learning_rate * correction / (1 - ADAM_MEAN**k), gradient)
    mean = state["mean"] + (1 - ADAM_MEAN) * (gradient - state["mean"])
    square = state["square"] + (1 - ADAM_SQUARE) * (tf.square(gradient) - state["square"])
    tiny = norms.expand(ADAM_TINY * correction, gradient)
    return {
        **state,
        "w": state["w"] - length * mean / (tf.sqrt(square) + tiny),
        "mean": mean,
        "square": square,
        "k": state["k"] + 1,
    }
