"""Sigma-zero attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base, nearest

# Of Adam's means; what keeps its quotient finite; what is left of its rate at the end.
DECAY, DECAY_SQUARE, TINY, LAST_SHARE = 0.9, 0.999, 1e-8, 0.1


class SigmaZero(base.Attack):
    """Fewest changed values, by Adam on a smooth L0 norm with a threshold that adapts.

    Minimises `max(margin(f(x + d)), 0) + mean_i d_i^2 / (d_i^2 + sigma)` by Adam, on the gradient
    over its largest entry, inside the box. After each step the entries of `d` below a threshold
    are set to zero; it rises by `threshold_step` times the rate where the iterate is adversarial
    and falls by as much where it is not. The rate falls from `learning_rate` to a tenth of it along
    a cosine. The adversarial iterate, judged by the same pass, that changes the fewest values is
    returned.

    Values are counted, not pixels of several channels, as `CarliniL0Method` does.

    Not in the paper: the last steps, `prune` of all, try to do without one changed value after the
    other of the best point while all others go to the edge of the box that they went towards, which
    costs nothing in L0. A sample of which none can be spared is done. `prune=0` is the paper's.

    Reference: Cina et al., "sigma-zero: Gradient-based Optimization of l0-norm Adversarial
    Examples", 2024, arXiv:2402.01879, algorithm 1.

    Args:
        model: See `Attack`.
        max_iter: Number of steps, at least 2: each judges, by one pass, where the last one led.
        learning_rate: Of Adam in the first step, for pixels in 0..1.
        sigma: Square of the change at which a value counts as half a changed one, likewise.
        threshold: First threshold, likewise.
        threshold_step: By how much it moves, as a share of the rate.
        prune: Share of the steps, the last ones, that try to spare a value each; less than 1.
        **common: `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`; not `targeted`.

    Example:
        >>> x_adv = SigmaZero(model, max_iter=300).generate(x, y)
    """

    name = "sigma_zero"
    kind = "minimal"
    strategy = "optimization"
    source = "beyond the documents"
    can_target = False
    norm = 0.0
    norms = (0.0,)
    traced = ("max_iter", "learning_rate", "sigma", "threshold", "threshold_step", "prune")
    state_leaves = ("mean", "square", "least", "place", "needed", *nearest.LEAVES)

    def __init__(
        self,
        model: Any = None,
        *,
        max_iter: int = 1000,
        learning_rate: float = 1.0,
        sigma: float = 1e-3,
        threshold: float = 0.3,
        threshold_step: float = 0.01,
        prune: float = 0.05,
        **common: Unpack[base.Common],
    ):
        self.max_iter = checks.check_int("max_iter", max_iter, 2)
        self.learning_rate = checks.check_float("learning_rate", learning_rate, above=True)
        self.sigma = checks.check_float("sigma", sigma, above=True)
        self.threshold = checks.check_float("threshold", threshold)
        self.threshold_step = checks.check_float("threshold_step", threshold_step)
        self.prune = checks.check_float("prune", prune, below=1.0)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        zeros = tf.zeros_like(state["x"])
        rows = tf.shape(zeros)[0]
        own = {"least": tf.fill([rows], params["threshold"]), "mean": zeros, "square": zeros}
        # Of the value that was last tried without, -1 before, and how many in a row were needed.
        own |= {"place": tf.fill([rows], -1), "needed": tf.zeros([rows], tf.int32)}
        return {**nearest.init(state), **own}

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, iterate, sigma = state["x"], state["iterate"], params["sigma"]
        walk, before = self._walk(params), state["best_distance"]
        tried = state["place"] >= 0
        logits, _, gradient, state = self.differentiate(
            model, state, iterate, lambda z: tf.maximum(losses.margin(z, state["y"]), 0.0)
        )
        fooled = self.fools(model, state, iterate, logits)
        delta = iterate - x
        state = nearest.keep(model, state, logits, fooled, norms.norm(delta, 0))

        features = tf.cast(tf.shape(norms.flatten(x))[1], x.dtype)
        gradient += 2 * sigma * delta / tf.square(tf.square(delta) + sigma) / features
        gradient = tf.math.divide_no_nan(
            gradient, norms.expand(norms.norm(gradient, math.inf), gradient)
        )
        mean = DECAY * state["mean"] + (1 - DECAY) * gradient
        square = DECAY_SQUARE * state["square"] + (1 - DECAY_SQUARE) * tf.square(gradient)
        k = norms.expand(tf.cast(state["steps"] + 1, tf.float32), x)
        scale = tf.sqrt(square / (1 - DECAY_SQUARE**k)) + TINY
        first = params["learning_rate"]
        rate = nearest.fall(state, walk, first, LAST_SHARE * first)
        moved = delta - norms.expand(rate, x) * mean / (1 - DECAY**k) / scale
        moved = self.clip(model, x + moved) - x

        change = params["threshold_step"] * rate
        least = tf.clip_by_value(state["least"] + tf.where(fooled, change, -change), 0.0, 1.0)
        small = tf.abs(moved) < norms.expand(least, x)
        moved = norms.select(small, tf.zeros_like(moved), moved)
        needed = tried & (state["best_distance"] >= before)
        state = {
            **state,
            "iterate": norms.select(tf.equal(moved, 0), x, self.clip(model, x + moved)),
            "mean": mean,
            "square": square,
            "least": least,
            "needed": tf.where(needed, state["needed"] + 1, 0),
            "steps": state["steps"] + 1,
        }
        spares = state["found"] & (state["steps"] >= walk)
        return tf.cond(
            tf.reduce_any(spares), lambda: self._spare(model, state, spares), lambda: state
        )

    def _walk(self, params: base.Params) -> tf.Tensor:
        """The number of steps of the paper's algorithm."""
        whole = params["max_iter"]
        return whole - tf.cast(params["prune"] * tf.cast(whole, tf.float32), tf.int32)

    def _spare(self, model: Any, state: base.State, rows: tf.Tensor) -> base.State:
        """In these rows the best point without the changed value that follows the last one tried.

        All others lie at the edge of the box.
        """
        x, (low, high) = state["x"], model.clip_values
        changed = norms.flatten(tf.not_equal(state["best"], x))
        places = tf.range(tf.shape(changed)[1])
        later = changed & (places > state["place"][:, None])
        later |= changed & ~tf.reduce_any(later, axis=1, keepdims=True)
        place = tf.argmax(tf.cast(later, tf.int32), axis=1, output_type=tf.int32)
        kept = tf.reshape(changed & (places != place[:, None]), tf.shape(x))
        edge = low + (high - low) * tf.cast(state["best"] > x, x.dtype)
        return {
            **state,
            "iterate": norms.select(rows, norms.select(kept, edge, x), state["iterate"]),
            "place": tf.where(rows, place, state["place"]),
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        none = tf.cast(state["needed"], tf.float32) >= state["best_distance"]
        return nearest.done(state, params) | none

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]
