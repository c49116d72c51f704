"""The decision boundaries of a model made linear, and the nearest: what DeepFool and FAB share."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kerasrobust import losses, norms
from kerasrobust.attacks import base
from kerasrobust.engine.classifier import SIDE_BY_SIDE
from kerasrobust.engine.loops import while_loop


def nearest(
    attack: base.Attack, model: Any, state: base.State, x: tf.Tensor, nb_grads: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, base.State]:
    """The boundary `f_k + <w_k, d> = 0` with the smallest `|f_k| / ||w_k||_q`.

    `f_k = z_k - z_y` and `w_k = grad z_k - grad z_y` at `x`, for the likeliest wrong classes `k`.
    Many classes are differentiated in blocks, each on a forward pass of its own, of which the
    nearest so far is kept: memory does not grow with their number.

    Args:
        attack: Whose norm is that of the distance.
        model: What its `step` was given.
        state: The state, for the labels to leave.
        x: The points `[batch, ...]`.
        nb_grads: Number of likeliest classes looked at, the one to leave among them.

    Returns:
        Logits `[batch, classes]`, gap `f_k` `[batch]`, normal `w_k`, shape of `x`, and the new
        state.
    """
    classes = model.nb_classes
    own = tf.one_hot(state["y"], classes)
    others = min(nb_grads, classes) - 1
    ranks = None

    def likeliest(logits: tf.Tensor) -> tf.Tensor:
        if ranks is not None:
            return ranks
        return tf.math.top_k(logits - losses.FAR * own, k=others).indices

    def among(first: Any, count: int, state: base.State) -> tuple[tf.Tensor, Any, base.State]:
        """Logits; distance, gap and normal of the nearest of a few classes by rank; state."""

        def differences(logits: tf.Tensor) -> tf.Tensor:
            chosen = tf.slice(likeliest(logits), [0, first], [-1, count])
            return tf.one_hot(chosen, classes) - own[:, None]

        logits, normals, state = attack.differentiate_classes(model, state, x, differences)
        gaps = tf.reduce_sum(differences(logits) * logits[:, None], axis=2)
        distances = norms.plane_distances(gaps, normals, attack.norm)
        place = tf.argmin(distances, axis=1, output_type=tf.int32)
        found = (tf.gather(one, place, axis=1, batch_dims=1) for one in (distances, gaps, normals))
        return logits, tuple(found), state

    if model.draws > 1:  # gradients are means over them, and each has an order of its own
        logits, state = attack.score(model, state, x)
        ranks = likeliest(logits)
    first = (others - 1) % SIDE_BY_SIDE + 1
    logits, best, state = among(0, first, state)
    if first < others:
        ranks = likeliest(logits)

        def block(first: tf.Tensor, best: Any, state: base.State) -> tuple[Any, ...]:
            _, found, state = among(first, SIDE_BY_SIDE, state)
            nearer = found[0] < best[0]
            best = tuple(
                norms.select(nearer, new, old) for new, old in zip(found, best, strict=True)
            )
            return first + SIDE_BY_SIDE, best, state

        _, best, state = while_loop(lambda first, *_: first < others, block, (first, best, state))
    _, gap, normal = best
    return logits, gap, normal, state
