"""The nearest adversarial point so far, in one run of `max_iter` steps from the sample.

What attacks share that judge every iterate by the pass that they differentiate, and so need no
pass beside it.

Leaves of the state: `iterate`, `steps` taken, `best` with its `best_distance`, and `found`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerasrobust import losses, norms
from kerasrobust.attacks import base
from kerasrobust.engine.criterion import answers

LEAVES = ("iterate", "steps", "best_distance")
# Of the odds that are climbed, at the end; 1 at the start.
LAST_TEMPERATURE = 0.02


def init(state: base.State) -> base.State:
    """The leaves at the start."""
    rows = tf.shape(state["x"])[0]
    return {
        **state,
        "iterate": state["x"],
        "steps": tf.zeros([rows], tf.int32),
        "best": state["x"],
        "best_distance": tf.fill([rows], math.inf),
        "found": state["done"],
    }


def keep(
    model: Any, state: base.State, logits: tf.Tensor, fooled: tf.Tensor, distance: tf.Tensor
) -> base.State:
    """The state after the iterate was judged: it is the best where it counts and is nearer.

    What is kept is judged once more, in another batch, whose logits differ by rounding. The last
    iterates swing about the boundary as closely as rounding allows: only those count here that lead
    by more than it (`BlackBox.clear`).
    """
    margin = losses.margin(logits, state["y"])
    own = tf.gather(logits, state["y"], axis=-1, batch_dims=1)
    clear = tf.abs(margin) >= model.clear * (tf.abs(own) + tf.abs(own - margin))
    counts = fooled & clear
    closer = counts & (distance < state["best_distance"])
    best = norms.select(closer, state["iterate"], state["best"])
    return {
        **state,
        "best": best,
        "best_distance": tf.where(closer, distance, state["best_distance"]),
        "found": state["found"] | counts,
    }


def goes_back(fooled: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """bool `[batch]`: where a walk has gone far enough, or to where scores are no numbers."""
    return fooled | ~answers(logits)


def farthest(model: Any, state: base.State, order: float) -> tf.Tensor:
    """`[batch]`: the distance of the corner of the box that is farthest from the sample."""
    x, (low, high) = state["x"], model.clip_values
    room = tf.maximum(x - low, high - x)
    return norms.norm(room * state["mask"] if "mask" in state else room, order)


def odds(state: base.State, steps: tf.Tensor, targeted: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """The loss of logits that rises towards an adversarial point.

    The odds against the label, or for the target, of a temperature that falls over so many steps:
    from a look at all classes to the nearest alone, whose boundary is to be met.
    """
    temperature = fall(state, steps, 1.0, LAST_TEMPERATURE)
    sign = -1.0 if targeted else 1.0
    return lambda logits: sign * losses.log_odds(logits, state["y"], temperature)


def direction(state: base.State, gradient: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The gradient at unit L2 length; where it is zero a random direction, one for the batch."""
    lost = tf.equal(norms.norm(gradient, 0), 0)

    def replaced() -> tf.Tensor:
        noise = tf.random.stateless_normal(tf.shape(gradient[:1]), seed)
        noise = noise * state["mask"] if "mask" in state else noise
        noise += tf.zeros_like(gradient)
        return norms.normalize(norms.select(lost, noise, gradient), 2)

    return tf.cond(tf.reduce_any(lost), replaced, lambda: norms.normalize(gradient, 2))


def fall(
    state: base.State, steps: tf.Tensor, first: tf.Tensor | float, last: tf.Tensor | float
) -> tf.Tensor:
    """`[batch]`: what falls from `first` to `last` over so many steps, as a cosine does."""
    share = tf.minimum(tf.cast(state["steps"] / steps, tf.float32), 1.0)
    return last + (first - last) * (1 + tf.cos(math.pi * share)) / 2


def done(state: base.State, params: base.Params) -> tf.Tensor:
    """bool: all steps taken, or adversarial where it began."""
    return (state["steps"] >= params["max_iter"]) | tf.equal(state["best_distance"], 0)
