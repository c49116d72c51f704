"""HopSkipJump."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base
from kerasrobust.attacks.query_attack import QueryAttack, QueryCommon

# Both relative to the distance: the smallest radius of an estimate, and a precision of the binary
# search that is small beside it.
SMALLEST_RADIUS = 1e-3
SMALLEST_PRECISION = 1e-5
# Halvings of the step before a sample stays where it is.
MAX_HALVINGS = 25


class HopSkipJump(QueryAttack):
    """Walks along the decision boundary on labels alone.

    Each iteration estimates the direction of the boundary's normal at the current point from the
    labels of `min(init_eval * sqrt(t + 1), max_eval)` points around it (eq. 9, with the mean label
    as baseline, eq. 16), takes the longest step `||x_t - x||_p / sqrt(t + 1) / 2^k` along it that
    stays adversarial, and returns to the boundary by a binary search towards the sample. The
    nearest point seen is returned.

    Starts are `init_size` uniform images; where none of them is adversarial the nearest one of the
    other data points of the call that is, and where there is none either, the attack gives up on
    the sample and says so (`AttackResult.gave_up`). The directions of an iteration are drawn once
    and used for all samples of a batch; each sample's own estimate is distributed as in the paper.

    ART's class of this name leaves the last point where the last step put it; here and in the
    authors' program every iteration ends on the boundary.

    Reference: Chen, Jordan & Wainwright, "HopSkipJumpAttack: A Query-Efficient Decision-Based
    Attack", 2020, arXiv:1904.02144.

    Args:
        model: See `Attack`; a callable that returns scores or one-hot decisions will do.
        norm: 2 or inf.
        max_iter: Iterations.
        max_eval: Most points of one estimate.
        init_eval: Points of the first estimate.
        init_size: Random starts tried.
        curr_iter: Iterations that lie behind a `start` from an earlier call, from which the count
            goes on: estimates are larger and steps shorter then.
        **common: `max_queries`: see `QueryAttack`; `targeted`, `batch_size`, `seed`, `verbose`,
            `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = HopSkipJump(model, max_iter=10, max_eval=1000).generate(x)
    """

    name = "hsja"
    kind = "minimal"
    strategy = "optimization"
    source = "AREB, NSLOSS"
    access = "labels"
    norms = (2.0, math.inf)
    traced = ("max_iter", "max_eval", "init_size", "curr_iter")
    needs_starts = True
    chunk = 1
    state_leaves = ("current", "best_distance", "steps")

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = 2,
        max_iter: int = 50,
        max_eval: int = 10000,
        init_eval: int = 100,
        init_size: int = 100,
        curr_iter: int = 0,
        **common: Unpack[QueryCommon],
    ):
        self.norm = norms.check_norm(norm, (2.0, math.inf))
        self.max_iter = checks.check_int("max_iter", max_iter, 0)
        self.max_eval = checks.check_int("max_eval", max_eval, 1)
        self.init_eval = checks.check_int("init_eval", init_eval, 1)
        self.init_size = checks.check_int("init_size", init_size, 0)
        self.curr_iter = checks.check_int("curr_iter", curr_iter, 0)
        if init_eval > max_eval:
            raise ValueError(
                "`max_eval` must be at least `init_eval`. "
                f"Received: init_eval={init_eval}, max_eval={max_eval}"
            )
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        wanted = ~state["done"]
        start, found, state = self.find_start(model, state, params, seed)
        boundary, state = self._to_boundary(model, state, start, found)
        return {
            **state,
            "current": norms.select(found, boundary, state["x"]),
            "best": norms.select(found, boundary, state["x"]),
            "best_distance": tf.where(
                found, norms.norm(boundary - state["x"], self.norm), math.inf
            ),
            "found": found | ~wanted,
            "gave_up": wanted & ~found,
            "steps": tf.zeros_like(state["y"]),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, current, t = state["x"], state["current"], t + params["curr_iter"]
        distance = norms.norm(current - x, self.norm)
        direction, state = self._normal(model, state, params, seed, t, distance)
        current, state = self._longest_step(
            model, state, direction, distance / tf.sqrt(tf.cast(t + 1, tf.float32))
        )
        current, state = self._to_boundary(model, state, current, ~state["done"])
        distance = norms.norm(current - x, self.norm)
        closer = distance < state["best_distance"]
        return {
            **state,
            "current": current,
            "best": norms.select(closer, current, state["best"]),
            "best_distance": tf.where(closer, distance, state["best_distance"]),
            "steps": state["steps"] + 1,
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return state["gave_up"] | (state["steps"] >= params["max_iter"])

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    def _normal(
        self,
        model: Any,
        state: base.State,
        params: base.Params,
        seed: Any,
        t: Any,
        distance: tf.Tensor,
    ) -> tuple[tf.Tensor, base.State]:
        """The update direction from labels around the current point: unit length, or signs."""
        current, active = state["current"], ~state["done"]
        low, high = model.clip_values
        features = math.prod(current.shape[1:])
        # eq. 15: the radius shrinks with the distance; the first one is the authors' choice. On
        # images of more than a thousand values theirs would drown in float32's rounding.
        first = tf.fill(tf.shape(distance), 0.1 * (high - low))
        radius = tf.where(t == 0, first, distance * max(1 / features, SMALLEST_RADIUS))
        radius = tf.maximum(radius, 1e-6 * (high - low))
        evaluations = self.init_eval * tf.sqrt(tf.cast(t + 1, tf.float32))
        evaluations = tf.minimum(tf.cast(evaluations, tf.int32), params["max_eval"])
        draws = self.points_at_once(self.init_eval, features)
        shape = [draws, *current.shape[1:]]

        def estimate(state: base.State, i: Any, sums: Any, balance: Any) -> tuple[Any, ...]:
            key = tf.random.fold_in(seed, i)
            if self.norm == 2:
                noise = tf.random.stateless_normal(shape, key)
            else:
                noise = tf.random.stateless_uniform(shape, key, -1.0, 1.0)
            if "mask" in state:
                noise = noise[None] * state["mask"][:, None]
                noise = tf.reshape(noise, [-1, *current.shape[1:]])
                noise = tf.reshape(norms.normalize(noise, 2), [-1, *shape])
            else:
                noise = norms.normalize(noise, 2)[None]
            points = current[:, None] + tf.reshape(radius, [-1] + [1] * len(shape)) * noise
            points = tf.clip_by_value(points, low, high)
            used = (i * draws + tf.range(draws) < evaluations)[None] & active[:, None]
            fits, state = self.ask(model, state, points, used)
            used = tf.cast(used, tf.float32)
            sign = (2.0 * tf.cast(fits, tf.float32) - 1.0) * used
            # One product for both sums: of the points with their signs, and of the points.
            flat = tf.reshape(points, [-1, draws, features])
            sums += tf.matmul(tf.stack([sign, used], axis=1), flat)
            return state, i + 1, sums, balance + tf.reduce_sum(sign, axis=1)

        rows = tf.shape(current)[0]
        sums = tf.ensure_shape(tf.zeros([rows, 2, features]), [current.shape[0], 2, features])
        state, _, sums, balance = self.loop(
            state,
            lambda i, *_: i * draws < evaluations,
            estimate,
            (0, sums, tf.zeros_like(distance)),
        )
        count = tf.cast(evaluations, tf.float32)
        # From sums of points to sums of offsets from the current one.
        weights = tf.stack([balance, tf.fill(tf.shape(balance), count)], axis=1)
        sums -= weights[:, :, None] * norms.flatten(current)[:, None]
        mean = balance / count
        # Where all labels agree the baseline would cancel everything.
        baseline = tf.where(tf.abs(mean) > 1 - 1e-6, tf.zeros_like(mean), mean)
        normal = tf.reshape(sums[:, 0] - baseline[:, None] * sums[:, 1], tf.shape(current))
        normal = norms.normalize(normal, 2) if self.norm == 2 else tf.sign(normal)
        return tf.ensure_shape(normal, current.shape), state

    def _longest_step(
        self, model: Any, state: base.State, direction: tf.Tensor, length: tf.Tensor
    ) -> tuple[tf.Tensor, base.State]:
        """The first of the steps `length / 2^k` that stays adversarial; none if all fail."""
        current = state["current"]

        def halve(state: base.State, i: Any, point: Any, at_work: Any) -> tuple[Any, ...]:
            scale = norms.expand(length * 0.5 ** tf.cast(i, tf.float32), current)
            trial = self.clip(model, current + scale * direction)
            fits, state = self.ask(model, state, trial[:, None], at_work[:, None])
            point = norms.select(fits[:, 0], trial, point)
            return state, i + 1, point, at_work & ~fits[:, 0]

        state, _, point, _ = self.loop(
            state,
            lambda i, point, at_work: (i < MAX_HALVINGS) & tf.reduce_any(at_work),
            halve,
            (0, current, ~state["done"]),
        )
        return point, state

    def _to_boundary(
        self, model: Any, state: base.State, point: tf.Tensor, active: tf.Tensor
    ) -> tuple[tf.Tensor, base.State]:
        """Binary search between the sample and an adversarial point; its end is adversarial."""
        x = state["x"]
        features = math.prod(x.shape[1:])
        if self.norm == 2:
            upper = tf.ones([tf.shape(x)[0]])
            threshold = tf.fill([tf.shape(x)[0]], self._theta(features))
        else:
            upper = norms.norm(point - x, math.inf)
            threshold = upper * self._theta(features)

        def between(share: tf.Tensor) -> tf.Tensor:
            share = norms.expand(share, x)
            if self.norm == 2:
                return (1 - share) * x + share * point
            return tf.clip_by_value(point, x - share, x + share)

        def bisect(state: base.State, lower: Any, upper: Any) -> tuple[Any, ...]:
            wide = active & (upper - lower > threshold)
            middle = (lower + upper) / 2
            fits, state = self.ask(model, state, between(middle)[:, None], wide[:, None])
            fits = fits[:, 0]
            return state, tf.where(wide & ~fits, middle, lower), tf.where(fits, middle, upper)

        state, _, upper = self.loop(
            state,
            lambda lower, upper: tf.reduce_any(active & (upper - lower > threshold)),
            bisect,
            (tf.zeros_like(upper), upper),
        )
        return between(upper), state

    def _theta(self, features: int) -> float:
        """Precision of the binary search relative to the distance (section IV-B)."""
        return max(features**-1.5 if self.norm == 2 else features**-2.0, SMALLEST_PRECISION)
