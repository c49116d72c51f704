"""Carlini and Wagner's L2 attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base, constant_search, tanh_space

# The rate at the start of a constant's steps, and what is left of it at their end.
FIRST_RATE, LAST_SHARE = 0.3, 0.005


class CarliniL2Method(base.Attack):
    """Smallest L2 perturbation by Adam in tanh space, with a binary search over the constant.

    Minimises `||x' - x||_2^2 + c * max(margin(f(x')) + confidence, 0)` over `w`, where
    `x' = low + (high - low) * (tanh(w) + 1) / 2`. Each of the `binary_search_steps` runs Adam for
    `max_iter` steps from the sample; `c` is multiplied by 10 until the sample is fooled and is
    then bisected, the last of ten or more steps repeating the smallest `c` that worked. The
    closest point that reaches the confidence is returned.

    Two stronger versions for models whose gradient may mislead near the sample. `restarts` repeats
    the whole search from random points at the L2 distance `restart_radius` of the sample; the
    first search starts at the sample, so that restarts never lose. `gradient_samples` replaces the
    gradient of the hinge by its mean over that many points, drawn afresh in each step from the L2
    ball of radius `gradient_radius` around the iterate. Both draw once for a whole batch.

    ART's class of this name searches along lines of the plain gradient instead of using Adam, so
    that its `learning_rate` has another meaning; this one follows the paper and its authors'
    program.

    Reference: Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017,
    arXiv:1608.04644, section VI-A, with objective f6. The stronger versions: the adaptive attacks
    on NsLoss, a regulariser that flattens the loss around the training samples.

    Args:
        model: See `Attack`.
        confidence: Margin by which the logits must be adversarial. Default 0, the nearest point,
            as in the paper and NSLOSS (5 in its high-confidence attack); AREB has 0.05 for MNIST
            and 0.2 for CIFAR-10, BRELU-GDA 2.3.
        learning_rate: Of Adam, in tanh space, the same in all steps. By default it falls over the
            steps of each constant, from 0.3 to 0.0015 as a cosine does: at ART's default of 0.01 a
            hundred steps do not leave the flat ends of tanh, black and white (62 % of MNIST are not
            fooled), and at 0.1 they jump over the nearest points of larger images (CIFAR-10: a
            median of 0.60 where the falling rate finds 0.22). A constant has worked then if the
            sample is fooled in the last tenth of its steps, not by a long first one.
        binary_search_steps: Number of constants tried.
        max_iter: Adam steps for each of them, at least 2: each judges where the last one led. ART's
            default is 10.
        initial_const: First constant.
        abort_early: End a constant's steps when the objective has not fallen by 0.01 % over a
            tenth of them; says nothing while the rate falls.
        restarts: Number of further searches, from random points.
        restart_radius: Their L2 distance from the sample, in the unit of the inputs. Default:
            the width of the box.
        gradient_samples: Points over which the gradient is averaged; 0 takes it at the iterate.
        gradient_radius: How far these are from the iterate at most, likewise. Default: 0.01 of
            the width of the box.
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
    lengths = {"restart_radius": 1.0, "gradient_radius": 0.01}
    art_defaults = {"learning_rate": 0.01, "max_iter": 10}
    traced = (
        "confidence",
        "learning_rate",
        "binary_search_steps",
        "max_iter",
        "initial_const",
        "restart_radius",
        "gradient_radius",
    )
    state_leaves = (
        "w",
        "mean",
        "square",
        "origin",
        "searches",
        "best_distance",
        *constant_search.LEAVES,
    )

    def __init__(
        self,
        model: Any = None,
        *,
        confidence: float = 0.0,
        learning_rate: float | None = None,
        binary_search_steps: int = 10,
        max_iter: int = 100,
        initial_const: float = 0.01,
        abort_early: bool = True,
        restarts: int = 0,
        restart_radius: float | None = None,
        gradient_samples: int = 0,
        gradient_radius: float | None = None,
        **common: Unpack[base.Common],
    ):
        self.confidence = checks.check_float("confidence", confidence)
        self.learning_rate = (
            None
            if learning_rate is None
            else checks.check_float("learning_rate", learning_rate, above=True)
        )
        self.binary_search_steps = checks.check_int("binary_search_steps", binary_search_steps, 1)
        self.max_iter = checks.check_int("max_iter", max_iter, 2)
        self.initial_const = checks.check_float("initial_const", initial_const, above=True)
        self.abort_early = checks.check_bool("abort_early", abort_early)
        self.restarts = checks.check_int("restarts", restarts, 0)
        self.restart_radius = (
            None
            if restart_radius is None
            else checks.check_float("restart_radius", restart_radius, above=True)
        )
        self.gradient_samples = checks.check_int("gradient_samples", gradient_samples, 0)
        self.gradient_radius = (
            None
            if gradient_radius is None
            else checks.check_float("gradient_radius", gradient_radius, above=True)
        )
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.binary_search_steps * self.max_iter * (self.restarts + 1)

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        start = tanh_space.init(model, state["x"])
        return {
            **state,
            **start,
            **constant_search.init(rows, params["initial_const"]),
            "origin": start["w"],
            "searches": tf.zeros([rows], tf.int32),
            "best": state["x"],
            "best_distance": tf.fill([rows], math.inf),
            "found": state["done"],
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x_adv = tanh_space.point(model, state)
        logits, penalty, gradient, state = self._gradient(model, state, x_adv, params, seed)
        delta = x_adv - state["x"]
        distance = norms.norm(delta, 2)
        fooled = self.fools(model, state, x_adv, logits, params["confidence"])
        closer = fooled & (distance < state["best_distance"])
        state = {
            **tanh_space.adam(model, state, gradient + 2 * delta, self._rate(state, params)),
            "best": norms.select(closer, x_adv, state["best"]),
            "best_distance": tf.where(closer, distance, state["best_distance"]),
            "found": state["found"] | fooled,
            "worked": state["worked"] | (fooled & self._counts(state, params)),
        }
        abort_early = self.abort_early and self.learning_rate is not None
        over, state = constant_search.ended(
            state, tf.square(distance) + penalty, params, abort_early
        )
        zeros = tf.zeros_like(state["w"])
        fresh = {"w": state["origin"], "mean": zeros, "square": zeros}
        state = constant_search.advance(state, over, params, fresh)
        return self._restart(model, state, params, seed) if self.restarts else state

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        over = constant_search.done(state, params)
        return over & (state["searches"] >= self.restarts)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    def _rate(self, state: base.State, params: base.Params) -> tf.Tensor:
        """Adam's rate in this step, `[batch]` or for all."""
        if self.learning_rate is not None:
            return params["learning_rate"]
        share = tf.cast(state["k"] / params["max_iter"], tf.float32)
        return FIRST_RATE * (LAST_SHARE + (1 - LAST_SHARE) * (1 + tf.cos(math.pi * share)) / 2)

    def _counts(self, state: base.State, params: base.Params) -> tf.Tensor:
        """bool: whether a success in this step says that the constant is large enough."""
        if self.learning_rate is not None:
            return tf.ones_like(state["worked"])
        return 10 * state["k"] >= 9 * params["max_iter"]

    def _gradient(
        self, model: Any, state: base.State, x_adv: tf.Tensor, params: base.Params, seed: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, base.State]:
        """Logits and hinge at the iterate, and the gradient there or its mean around it."""
        hinge = constant_search.hinge(self, state, params)
        count = self.gradient_samples
        if not count:
            return self.differentiate(model, state, x_adv, hinge)
        logits, state = self.score(model, state, x_adv)
        radii = tf.fill([count], params["gradient_radius"])
        offsets = norms.random_in_ball([count, *x_adv.shape[1:]], radii, 2, seed)

        def add(state: base.State, i: Any, total: tf.Tensor) -> tuple[Any, ...]:
            point = self.clip(model, x_adv + offsets[i])
            _, _, gradient, state = self.differentiate(model, state, point, hinge, i)
            return state, i + 1, total + gradient

        start = (0, tf.zeros_like(x_adv))
        state, _, total = self.loop(state, lambda i, _: i < count, add, start)
        return logits, hinge(logits), total / count, state

    def _restart(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        """A new search from a random point where one has ended and more are to come."""
        again = constant_search.done(state, params) & (state["searches"] < self.restarts)

        def fresh() -> base.State:
            x = state["x"]
            # One direction for the batch: drawing costs little and packing changes nothing.
            noise = tf.random.stateless_normal(tf.shape(x[:1]), tf.random.fold_in(seed, 1))
            if "mask" in state:
                noise = noise * state["mask"]
            point = self.clip(model, x + params["restart_radius"] * norms.normalize(noise, 2))
            start = tanh_space.init(model, tf.ensure_shape(point, x.shape))
            return {
                **constant_search.init(tf.shape(x)[0], params["initial_const"]),
                **start,
                "origin": start["w"],
                "searches": state["searches"] + 1,
            }

        keys = [*constant_search.LEAVES, "w", "mean", "square", "origin", "searches"]
        changed = tf.cond(
            tf.reduce_any(again),
            lambda: {key: norms.select(again, leaf, state[key]) for key, leaf in fresh().items()},
            lambda: {key: tf.identity(state[key]) for key in keys},
        )
        return {**state, **changed}
