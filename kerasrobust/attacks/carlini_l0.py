"""Carlini and Wagner's L0 attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base, tanh_space

# A round fixes that times the square root of the number of values still changed: the authors'.
FIXED_PER_ROUND = 0.3
# Enough for 190,000 values at that rate.
MOST_ROUNDS = 3000
# Share of the width of the box below which a change is none.
UNCHANGED = 1e-6
EDGE = 0.01
# A changed value without effect still comes before one that is not changed.
SMALLEST = np.finfo(np.float32).tiny


class CarliniL0Method(base.Attack):
    """Fewest changed values: L2 attacks on ever fewer of them.

    Each round minimises `||x' - x||_2^2 + c * max(margin(f(x')) + confidence, 0)` by Adam in tanh
    space over the values that may still change, until the model is fooled. Then the values that
    matter least, by `|g_i * (x'_i - x_i)|` with `g` the gradient of the margin, are fixed to those
    of the sample for good. When `max_iter` steps do not fool the model, `c` is multiplied by 10;
    the attack ends when `binary_search_steps` constants are used up.

    As in the authors' program a round ends at the first success instead of searching for the best
    constant, `c` never falls, and several values are fixed at once, 0.3 times the square root of
    their number; the paper fixes one. Values are counted, not pixels of several channels. ART
    repeats the whole binary search in every round and ends after as many rounds as the image has
    rows.

    Reference: Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017,
    arXiv:1608.04644, section VI-B.

    Args:
        model: See `Attack`.
        confidence: Margin by which the logits must be adversarial.
        learning_rate: Of Adam, in tanh space. ART's default is 0.01.
        binary_search_steps: Number of constants.
        max_iter: Adam steps for a set of values and a constant. ART's default is 10.
        initial_const: First constant.
        warm_start: Start each round, and each constant, where the last ended instead of at the
            sample.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = CarliniL0Method(model).generate(x, y)
    """

    name = "cwl0"
    kind = "minimal"
    strategy = "optimization"
    source = "BRELU-GDA"
    norm = 0.0
    norms = (0.0,)
    art_defaults = {"learning_rate": 0.01, "max_iter": 10}
    traced = ("confidence", "learning_rate", "binary_search_steps", "max_iter", "initial_const")
    state_leaves = ("w", "mean", "square", "allowed", "constant", "tried", "k", "best_distance")

    def __init__(
        self,
        model: Any = None,
        *,
        confidence: float = 0.0,
        learning_rate: float = 0.1,
        binary_search_steps: int = 10,
        max_iter: int = 100,
        initial_const: float = 0.01,
        warm_start: bool = True,
        **common: Unpack[base.Common],
    ):
        self.confidence = checks.check_float("confidence", confidence)
        self.learning_rate = checks.check_float("learning_rate", learning_rate, above=True)
        self.binary_search_steps = checks.check_int("binary_search_steps", binary_search_steps, 1)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.initial_const = checks.check_float("initial_const", initial_const, above=True)
        self.warm_start = checks.check_bool("warm_start", warm_start)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter * (self.binary_search_steps + MOST_ROUNDS)

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        x = state["x"]
        rows = tf.shape(x)[0]
        return {
            **state,
            **self._start_at(model, x),
            "allowed": state.get("mask", tf.ones_like(x)),
            "constant": tf.fill([rows], params["initial_const"]),
            "tried": tf.zeros([rows], tf.int32),
            "k": tf.zeros([rows], tf.int32),
            "best": x,
            "best_distance": tf.fill([rows], math.inf),
            "found": state["done"],
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, allowed = state["x"], state["allowed"]
        low, high = model.clip_values
        sign = -1.0 if self.targeted else 1.0
        x_adv = tanh_space.point(model, {**state, "mask": allowed})
        logits, gap, gradient, state = self.differentiate(
            model, state, x_adv, lambda z: sign * losses.margin(z, state["y"])
        )
        delta = x_adv - x
        fooled = self.fools(model, state, x_adv, logits, params["confidence"])
        weight = tf.where(gap + params["confidence"] > 0, state["constant"], 0.0)
        objective = norms.expand(weight, x) * gradient + 2 * delta
        moved = tanh_space.adam(
            model, {**state, "mask": allowed}, objective, params["learning_rate"]
        )

        changed = (allowed > 0) & (tf.abs(delta) > UNCHANGED * (high - low))
        count = tf.reduce_sum(tf.cast(norms.flatten(changed), tf.float32), axis=1)
        closer = fooled & (count < state["best_distance"])
        best = norms.select(closer, x_adv, state["best"])
        state = {
            **state,
            **{key: moved[key] for key in ("w", "mean", "square", "k")},
            "best": best,
            "best_distance": tf.where(closer, count, state["best_distance"]),
            "found": state["found"] | fooled,
        }
        failed = ~fooled & (state["k"] >= params["max_iter"])
        fewer = tf.where(changed, self._matter_more(gradient * delta, changed, count), 0.0)
        allowed = norms.select(fooled, fewer, allowed)
        point = tf.where(allowed > 0, best, x) if self.warm_start else x
        over = fooled | failed
        fresh = {**self._start_at(model, point), "k": tf.zeros_like(state["k"])}
        if self.warm_start:  # a larger constant goes on where the smaller one got to
            fresh["w"] = norms.select(failed, state["w"], fresh["w"])
        return {
            **state,
            **{k: norms.select(over, leaf, state[k]) for k, leaf in fresh.items()},
            "allowed": allowed,
            "constant": tf.where(failed, state["constant"] * 10, state["constant"]),
            "tried": state["tried"] + tf.cast(failed, tf.int32),
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        nothing_left = tf.equal(norms.norm(state["allowed"], 1), 0)
        return (state["tried"] >= params["binary_search_steps"]) | nothing_left

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    @staticmethod
    def _start_at(model: Any, point: tf.Tensor) -> base.State:
        return tanh_space.init(model, point, tf.fill([tf.shape(point)[0]], EDGE))

    @staticmethod
    def _matter_more(effect: tf.Tensor, changed: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """1 for the changed values but the ones with the least effect, of which some go."""
        size = norms.flatten(tf.where(changed, tf.maximum(tf.abs(effect), SMALLEST), 0.0))
        gone = tf.maximum(tf.floor(FIXED_PER_ROUND * tf.sqrt(count)), 1.0)
        keep = tf.cast(tf.maximum(count - gone, 0.0), tf.int32)
        kept = tf.cast(norms.largest(size, keep[:, None]), tf.float32)
        return tf.reshape(kept, tf.shape(effect))
