"""Sign-OPT."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks.base import Params, State
from kerasrobust.attacks.query_attack import QueryAttack, QueryCommon

# Times that the step is doubled while that helps, or else divided by four until it does.
MOST_STEPS = 15
# A step this small is no step: the next ones begin at one again, with a finer tolerance.
SMALLEST_STEP, SMALLEST_BETA = 1e-4, 1e-8
# Precision of the first distances in units of the value range, and of all others in beta's.
FIRST_PRECISION, PRECISION = 1e-3, 1 / 500
# The first bracket of a distance that has fallen, as a share of it; it doubles until it holds it.
BRACKET = 0.01
# The point that is kept lies this share of the distance beyond the boundary, and this share of the
# box's diagonal: points are rounded, and a pass with other samples beside it rounds differently.
BEYOND, ROUNDING = 1e-5, 5e-7


class SignOPTAttack(QueryAttack):
    """Descends on the distance to the boundary along a direction, on labels alone.

    `g(theta)` is the distance from `x` to the boundary along the unit vector `theta`. Its gradient
    is estimated from the signs of `g(theta + epsilon * u_q) - g(theta)` for `k` random unit
    vectors `u_q`, each of which takes one query: whether `x + g(theta) * (theta + epsilon * u_q)`,
    the direction made unit length, is adversarial (eq. 3, 4). The step along the estimate begins
    at `alpha` and is doubled while `g` falls, else divided by four until it does; `g` is found by
    a binary search to `beta / 500` of the value range (Algorithm 1).

    Starts are the best of `num_trial` Gaussian directions; where none reaches another class, the
    nearest of the other data points of the call that is adversarial, and where there is none
    either, the attack gives up on the sample and says so (`AttackResult.gave_up`). The
    vectors `u_q` are drawn once for all samples of a batch: each sample's own estimate is
    distributed as in the paper, and packing cannot change the result.

    ART's class of this name measures `g` for every step it tries. Here one query tells whether it
    has fallen, and it is only measured if it has, with the same outcome.

    Reference: Cheng, Singh, Chen, Chen, Liu & Hsieh, "Sign-OPT: A Query-Efficient Hard-label
    Adversarial Attack", 2020, arXiv:1909.10773.

    Args:
        model: See `Attack`; a callable that returns scores or one-hot decisions will do.
        epsilon: Length of the random vectors next to the unit vector `theta`.
        num_trial: Random directions tried at the start.
        max_iter: Iterations.
        query_limit: No iteration begins after as many queries; `max_queries` is the limit that
            is never exceeded.
        k: Random vectors of an estimate.
        alpha: First step length.
        beta: Tolerance of the step's search; see above.
        **common: `max_queries`: see `QueryAttack`; `targeted`, `batch_size`, `seed`, `verbose`,
            `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = SignOPTAttack(model, max_iter=20).generate(x, y)
    """

    name = "signopt"
    kind = "minimal"
    access = "labels"
    norm = 2.0
    norms = (2.0,)
    art_defaults = {"targeted": True}
    strategy = "optimization"
    source = "AREB"
    traced = ("epsilon", "num_trial", "max_iter", "query_limit", "alpha", "beta")
    needs_starts = True
    chunk = 1
    state_leaves = ("theta", "distance", "alpha", "beta", "steps")

    def __init__(
        self,
        model: Any = None,
        *,
        epsilon: float = 0.001,
        num_trial: int = 100,
        max_iter: int = 1000,
        query_limit: int = 20000,
        k: int = 200,
        alpha: float = 0.2,
        beta: float = 0.001,
        **common: Unpack[QueryCommon],
    ):
        self.epsilon = checks.check_float("epsilon", epsilon, above=True)
        self.num_trial = checks.check_int("num_trial", num_trial, 0)
        self.max_iter = checks.check_int("max_iter", max_iter, 0)
        self.query_limit = checks.check_int("query_limit", query_limit, 1)
        self.k = checks.check_int("k", k, 1)
        self.alpha = checks.check_float("alpha", alpha, above=True)
        self.beta = checks.check_float("beta", beta, above=True)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: State, params: Params, seed: Any) -> State:
        wanted, x = ~state["done"], state["x"]
        low, high = model.clip_values
        fine = tf.fill([tf.shape(x)[0]], FIRST_PRECISION * (high - low))
        state = {
            **state,
            "theta": tf.zeros_like(x),
            "distance": tf.fill([tf.shape(x)[0]], math.inf),
        }

        def draw(state: State, i: Any) -> tuple[Any, ...]:
            noise = tf.random.stateless_normal(x.shape[1:], tf.random.fold_in(seed, i))
            noise = (high - low) * noise[None] + tf.zeros_like(x)
            if "mask" in state:
                noise *= state["mask"]
            return self._try(model, state, noise, wanted, fine), i + 1

        given = "has_start" not in state  # by the caller, and then it is the first one tried
        if given:
            state = self._try(model, state, state["start"] - x, wanted, fine)
            wanted &= tf.math.is_inf(state["distance"])
        state, _ = self.loop(
            state, lambda i: i < params["num_trial"], draw, (0,), changes=("theta", "distance")
        )
        if not given:
            fallback = wanted & state["has_start"] & tf.math.is_inf(state["distance"])
            state = self._try(model, state, state["start"] - x, fallback, fine)
        wanted = ~state["done"]
        found = tf.math.is_finite(state["distance"])
        return {
            **state,
            "best": norms.select(found, self._at(model, state), x),
            "alpha": tf.fill([tf.shape(x)[0]], params["alpha"]),
            "beta": tf.fill([tf.shape(x)[0]], params["beta"]),
            "found": found | ~wanted,
            "gave_up": wanted & ~found,
            "steps": tf.zeros_like(state["y"]),
        }

    def step(self, model: Any, state: State, params: Params, seed: Any, t: Any) -> State:
        active = ~state["done"]
        gradient, state = self._gradient(model, state, params, seed)
        before = state["distance"]
        theta = state["theta"]

        def search(state: State, factor: float, onwards: bool, at_work: tf.Tensor) -> State:
            """Tries one step length after the other, until one fails (`onwards`) or succeeds."""

            def trial(state: State, i: Any, at_work: Any) -> tuple[Any, ...]:
                alpha, old = state["alpha"], state["distance"]
                following = tf.where(at_work, alpha * factor, alpha)
                # Longer steps begin with the last length, shorter ones below it.
                length = norms.expand(alpha if onwards else following, theta)
                direction = norms.normalize(theta - length * gradient, 2)
                precision = state["beta"] * PRECISION * (high - low)
                state = self._measure(model, state, direction, at_work, precision)
                fell = state["distance"] < old
                return (
                    {**state, "alpha": following},
                    i + 1,
                    at_work & (fell if onwards else ~fell),
                )

            state, _, _ = self.loop(
                state,
                lambda i, at_work: (i < MOST_STEPS) & tf.reduce_any(at_work),
                trial,
                (0, at_work),
                changes=("theta", "distance", "alpha"),
            )
            return state

        low, high = model.clip_values
        state = search(state, 2.0, True, active)
        state = search(state, 0.25, False, active & (state["distance"] >= before))
        small = active & (state["alpha"] < SMALLEST_STEP)
        return {
            **state,
            "alpha": tf.where(small, 1.0, state["alpha"]),
            "beta": tf.where(small, state["beta"] * 0.1, state["beta"]),
            "best": self._at(model, state),
            "steps": state["steps"] + 1,
        }

    def done(self, state: State, params: Params) -> tf.Tensor:
        over = state["steps"] >= params["max_iter"]
        over |= state["queries"] > params["query_limit"]
        return state["gave_up"] | over | (state["beta"] < SMALLEST_BETA)

    def finish(self, model: Any, state: State, params: Params) -> tf.Tensor:
        return state["best"]

    def _gradient(
        self, model: Any, state: State, params: Params, seed: Any
    ) -> tuple[tf.Tensor, State]:
        """Estimate of the gradient of `g`, the mean of the signed random vectors."""
        theta, active = state["theta"], ~state["done"]
        features = math.prod(theta.shape[1:])
        draws = self.points_at_once(self.k, features)

        def estimate(state: State, i: Any, total: Any) -> tuple[Any, ...]:
            noise = tf.random.stateless_normal(
                [draws, *theta.shape[1:]], tf.random.fold_in(seed, i)
            )
            if "mask" in state:
                noise = noise[None] * state["mask"][:, None]
                noise = tf.reshape(noise, [-1, *theta.shape[1:]])
                noise = tf.reshape(norms.normalize(noise, 2), [-1, draws, *theta.shape[1:]])
            else:
                noise = norms.normalize(noise, 2)[None]
            around = tf.reshape(theta[:, None] + params["epsilon"] * noise, [-1, *theta.shape[1:]])
            around = tf.reshape(norms.normalize(around, 2), [-1, draws, *theta.shape[1:]])
            points = state["x"][:, None] + norms.expand(state["distance"], around) * around
            used = (i * draws + tf.range(draws) < self.k)[None] & active[:, None]
            fits, state = self.ask(model, state, self.clip(model, points), used)
            # An adversarial point at this distance: g is smaller that way.
            sign = (1.0 - 2.0 * tf.cast(fits, tf.float32)) * tf.cast(used, tf.float32)
            noise = tf.reshape(noise, [-1, draws, features])
            if "mask" in state:
                total += tf.matmul(sign[:, None], noise)[:, 0]
            else:
                total += tf.matmul(sign, noise[0])
            return state, i + 1, total

        total = tf.zeros_like(norms.flatten(theta))
        state, _, total = self.loop(state, lambda i, _: i * draws < self.k, estimate, (0, total))
        gradient = tf.ensure_shape(tf.reshape(total / self.k, tf.shape(theta)), theta.shape)
        return gradient, state

    def _at(self, model: Any, state: State) -> tf.Tensor:
        """The point beyond the boundary along `theta`; the sample where there is none."""
        distance, theta = state["distance"], state["theta"]
        (low, high), features = model.clip_values, math.prod(theta.shape[1:])
        beyond = distance * (1 + BEYOND) + ROUNDING * (high - low) * math.sqrt(features)
        length = norms.expand(tf.where(tf.math.is_finite(distance), beyond, 0.0), theta)
        return self.clip(model, state["x"] + length * theta)

    def _try(
        self, model: Any, state: State, way: tf.Tensor, wanted: tf.Tensor, precision: tf.Tensor
    ) -> State:
        """A direction, whose end need not be as far as the best distance so far."""
        longest = norms.norm(way, 2)
        bound = tf.minimum(state["distance"], longest)
        first = tf.math.is_inf(state["distance"])
        # Where there is no distance yet, the bracket of a first one is the whole way.
        share = tf.where(first, 1.0, BRACKET)
        return self._measure(model, state, norms.normalize(way, 2), wanted, precision, bound, share)

    def _measure(
        self,
        model: Any,
        state: State,
        theta: tf.Tensor,
        wanted: tf.Tensor,
        precision: tf.Tensor,
        bound: tf.Tensor | None = None,
        bracket: tf.Tensor | float = BRACKET,
    ) -> State:
        """Takes over a direction, and the distance along it, where that is smaller than `bound`."""
        upper = state["distance"] if bound is None else bound
        x = state["x"]

        def fits(state: State, distance: tf.Tensor, needed: tf.Tensor) -> tuple[Any, State]:
            # An infinite distance is never asked for, and must not make NaN.
            distance = tf.where(tf.math.is_finite(distance), distance, 0.0)
            point = self.clip(model, x + norms.expand(distance, x) * theta)
            answer, state = self.ask(model, state, point[:, None], needed[:, None])
            return answer[:, 0], state

        closer, state = fits(state, upper, wanted & (upper > 0))
        lower = tf.maximum(upper * (1 - bracket), 0.0)

        # Down to where it is not adversarial any more ...
        def widen(state: State, lower: Any, upper: Any, share: Any, open_: Any) -> tuple[Any, ...]:
            answer, state = fits(state, lower, open_ & (lower > 0))
            upper = tf.where(answer, lower, upper)
            share = tf.where(answer, 2 * share, share)
            lower = tf.where(answer, tf.maximum(upper * (1 - share), 0.0), lower)
            return state, lower, upper, share, answer

        share = tf.zeros_like(upper) + bracket
        state, lower, upper, _, _ = self.loop(
            state,
            lambda lower, upper, share, open_: tf.reduce_any(open_),
            widen,
            (lower, upper, share, closer),
        )
        # ... and between the two. float32 cannot tell points apart that are closer.
        precision = tf.maximum(precision, 2e-7 * upper)

        def bisect(state: State, lower: Any, upper: Any) -> tuple[Any, ...]:
            wide = closer & (upper - lower > precision)
            middle = (lower + upper) / 2
            answer, state = fits(state, middle, wide)
            lower = tf.where(wide & ~answer, middle, lower)
            return state, lower, tf.where(answer, middle, upper)

        state, lower, upper = self.loop(
            state,
            lambda lower, upper: tf.reduce_any(closer & (upper - lower > precision)),
            bisect,
            (lower, upper),
        )
        closer &= upper < state["distance"]
        return {
            **state,
            "theta": norms.select(closer, theta, state["theta"]),
            "distance": tf.where(closer, upper, state["distance"]),
        }
