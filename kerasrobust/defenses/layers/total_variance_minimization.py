"""Total variance minimization: a smooth image that agrees with some pixels of the given one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kerasrobust import norms
from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.layers.preprocessing import ImagePreprocessing

# Iterations between two looks at the duality gap.
CHECK = 10
RELAXATION = 1.9
# A primal step is this, by norm, divided by `lamb`; a dual one is as long as convergence then
# allows, the squared norm of taking differences being at most 8. Found by trial.
BALANCE = {1: 0.18, 2: 0.07, math.inf: 0.07}
WINDOW = 5
TINY = 1e-12
# Change of the adjoint in an iteration, beside its size, at which it counts as found.
STILL = 1e-4

# Point `[height, width, planes]`, and multipliers of its differences down and across, times the
# primal step.
State = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class Minimum(NamedTuple):
    """What `TotalVarianceMinimization.minimize` found.

    Attributes:
        points: float32, shape of the images.
        objective: float32 `[batch]`, of the points, in the unit of the images.
        converged: bool `[batch]`, whether the duality gap of every channel is within the tolerance.
    """

    points: tf.Tensor
    objective: tf.Tensor
    converged: tf.Tensor


@keras.saving.register_keras_serializable("kerasrobust")
class TotalVarianceMinimization(ImagePreprocessing):
    """Keeps a random part of the values and finds the image of least variation near to them.

    Each channel `x` of an image becomes the `z` that minimises

        ||m * (z - x)||_2 + lamb * sum_i ||z[i + 1, :] - z[i, :]||_p
                          + lamb * sum_j ||z[:, j + 1] - z[:, j]||_p,

    `m` being 1 with probability `prob`, else 0, drawn for each value of each image anew.

    Guo, Rana, Cisse and van der Maaten, "Countering Adversarial Images using Input
    Transformations", 2018, arXiv:1711.00117, section 4.2, with ART's objective: the first term is
    no square, and variation is counted by whole rows and columns.

    The objective is convex. It is solved by the primal-dual method of Chambolle and Pock, "A
    First-Order Primal-Dual Algorithm for Convex Problems with Applications to Imaging", 2011,
    doi:10.1007/s10851-010-0251-1, over-relaxed, all channels of a batch at once. Each is finished
    when its duality gap proves its objective within a share `tol` of the least one. One that is not
    after `max_iter` iterations has the best point on the way: `minimize` says which those are.

    Gradients: ``"exact"`` is that of the minimiser with the mask held fast, by implicit
    differentiation: the adjoint of one iteration, repeated at the solution until it changes no
    more, at most `max_iter` times; memory does not grow with their number. ``"surrogate"`` is the
    same; ``"straight_through"`` takes the layer for the identity. A pass draws one mask, which
    output and gradient share: attack it with several `draws`.

    Limits: the gradient of an image that has not converged is that of its best point. With the
    norms 1 and inf and a small `lamb` there are many minimisers, as between two kept values; their
    gradient is that of the one that was reached, and finite differences may differ.

    Args:
        prob: Probability that a value is kept, above 0 and at most 1. Default 0.3, ART's.
        norm: `p`: 1, 2 or inf. Default 2, ART's.
        lamb: Weight of the variation, above 0. Default 0.5, ART's.
        max_iter: Most iterations, at least 1. Default 500.
        tol: Largest relative duality gap of a solution, above 0. Default 0.01.
        seed: Seed of the masks.
        clip_values: Smallest and largest valid pixel. Default: what `wrap` is given, (0, 1) alone.
        apply_fit: Whether it acts in training.
        apply_predict: Whether it acts in inference.
        data_format: ``"channels_last"`` or ``"channels_first"``. Default: Keras's setting.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(model, defense="tvm", lamb=0.2)
    """

    gradients = ("exact", "straight_through", "surrogate", "ignore")

    def __init__(
        self,
        prob: float = 0.3,
        norm: float | str = 2,
        lamb: float = 0.5,
        max_iter: int = 500,
        tol: float = 0.01,
        seed: int = 0,
        clip_values: tuple[float, float] | None = None,
        apply_fit: bool = False,
        apply_predict: bool = True,
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            data_format,
            clip_values=clip_values,
            apply_fit=apply_fit,
            apply_predict=apply_predict,
            **kwargs,
        )
        self.prob = check_float("prob", prob, above=True)
        if self.prob > 1:
            raise ValueError(
                f"`prob` must be a number between 0 and 1, above 0. Received: prob={prob!r}"
            )
        self.norm = norms.check_norm(norm)
        self.lamb = check_float("lamb", lamb, above=True)
        self.max_iter = check_int("max_iter", max_iter, 1)
        self.tol = check_float("tol", tol, above=True)
        self.seed = check_int("seed", seed, 0)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def draw(self, x: tf.Tensor) -> dict[str, Any]:
        """The mask, of the shape of the images."""

        def drawn(images: tf.Tensor) -> tf.Tensor:
            uniform = keras.random.uniform(tf.shape(images), seed=self.seed_generator)
            return tf.cast(uniform < self.prob, tf.float32)

        return {"mask": tf.ensure_shape(self._on_channels_last(x, drawn), x.shape)}

    def transform(self, x: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        return self.minimize(x, mask).points

    def surrogate(self, x: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        return self.transform(x, mask)

    def minimize(self, x: Any, mask: Any = None) -> Minimum:
        """The minimisers for given masks.

        Args:
            x: Images `[batch, ...]`, inside the bounds, in the order of `data_format`.
            mask: 1 where a value is kept, else 0, of the same shape. Default: drawn.

        Returns:
            A `Minimum`. The points are differentiable in `x`.
        """
        x = tf.cast(x, tf.float32)
        mask = self.draw(x)["mask"] if mask is None else tf.cast(mask, tf.float32)
        low, high = self.bounds
        last = self.data_format == "channels_last"
        order, back = ((1, 2, 0, 3), (2, 0, 1, 3)) if last else ((2, 3, 0, 1), (2, 3, 0, 1))
        turned = tf.transpose((x - low) / (high - low), order)
        shape = tf.shape(turned)
        planes = tf.concat([shape[:2], [-1]], 0)
        z, value, converged = _minimized(
            tf.reshape(turned, planes),
            tf.reshape(tf.transpose(mask, order), planes),
            self.norm,
            self.lamb,
            self.max_iter,
            self.tol,
        )
        points = tf.transpose(tf.reshape(z, shape), back) * (high - low) + low
        objective = tf.reduce_sum(tf.reshape(value, shape[2:]), axis=1) * (high - low)
        converged = tf.reduce_all(tf.reshape(converged, shape[2:]), axis=1)
        return Minimum(tf.ensure_shape(points, x.shape), objective, converged)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "prob": self.prob,
            "norm": self.norm,
            "lamb": self.lamb,
            "max_iter": self.max_iter,
            "tol": self.tol,
            "seed": self.seed,
        }


def _minimized(
    x: tf.Tensor, mask: tf.Tensor, order: float, lamb: float, max_iter: int, tol: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Minimisers, their objectives and whether they are proven, of planes in 0..1.

    Planes `[height, width, planes]`: what is summed over are rows and columns, never planes.
    """

    @tf.custom_gradient
    def solved(x: tf.Tensor) -> Any:
        state, value, converged = _solved(x, mask, order, lamb, max_iter, tol)

        def backward(upstream: tf.Tensor, *_: Any) -> tf.Tensor:
            return _pulled_back(upstream, x, mask, state, order, lamb, max_iter)

        return (state[0], value, tf.cast(converged, tf.float32)), backward

    z, value, converged = solved(x)
    return z, tf.stop_gradient(value), converged > 0.5


def _solved(
    x: tf.Tensor, mask: tf.Tensor, order: float, lamb: float, max_iter: int, tol: float
) -> tuple[State, tf.Tensor, tf.Tensor]:
    low, high = _range_of_kept(x, mask)

    def looked_at(state: State) -> tuple[State, tf.Tensor, tf.Tensor]:
        z, *multipliers = state
        z = tf.clip_by_value(z, low, high)
        value = _objective(z, x, mask, order, lamb)
        return (
            (z, *multipliers),
            value,
            _lower_bound(
                [one * (lamb / BALANCE[order]) for one in multipliers], x, mask, low, high
            ),
        )

    def iterate(
        done: tf.Tensor, state: State, best: State, value: tf.Tensor, bound: tf.Tensor
    ) -> Any:
        count = tf.minimum(CHECK, max_iter - done)

        def step(i: tf.Tensor, state: State, _: State) -> Any:
            new = _step(x, mask, state, order, lamb)
            relaxed = tuple(
                one + RELAXATION * (other - one) for one, other in zip(state, new, strict=True)
            )
            return i + 1, relaxed, new

        _, state, new = tf.while_loop(
            lambda i, *_: i < count, step, (tf.constant(0), state, state), parallel_iterations=1
        )
        new, least, greatest = looked_at(new)
        # What is proven stays as it is, whatever else is in the batch.
        going_on = value - bound > tol * value
        better = going_on & (least < value)
        best = tuple(tf.where(better, one, other) for one, other in zip(new, best, strict=True))
        bound = tf.where(going_on, tf.maximum(bound, greatest), bound)
        return done + count, state, best, tf.where(better, least, value), bound

    z = _filled_in(x, mask)
    start = (z, tf.zeros_like(z[1:]), tf.zeros_like(z[:, 1:]))
    _, _, best, value, bound = tf.while_loop(
        lambda done, state, best, value, bound: (
            (done < max_iter) & tf.reduce_any(value - bound > tol * value)
        ),
        iterate,
        (tf.constant(0), start, *looked_at(start)),
        parallel_iterations=1,
    )
    return best, value, value - bound <= tol * value


def _range_of_kept(x: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Smallest and largest kept value: no minimiser leaves this range."""
    low = tf.reduce_min(tf.where(mask > 0, x, math.inf), axis=(0, 1))
    high = tf.reduce_max(tf.where(mask > 0, x, -math.inf), axis=(0, 1))
    some = low <= high
    # Where nothing is kept any constant will do.
    return tf.where(some, low, 0.5), tf.where(some, high, 0.5)


def _filled_in(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Means of the kept values around, from which the iteration starts."""
    kept, number = (tf.nn.avg_pool2d(one[None], WINDOW, 1, "SAME")[0] for one in (mask * x, mask))
    return tf.where(number > 0, tf.math.divide_no_nan(kept, number), x)


def _step(x: tf.Tensor, mask: tf.Tensor, state: State, order: float, lamb: float) -> State:
    """One iteration, without relaxation."""
    z, down, across = state
    moved = z - _transposed(down, across)
    # The norm draws the kept values near by the length of a step.
    away = mask * (moved - x)
    length = tf.sqrt(tf.maximum(tf.reduce_sum(away**2, axis=(0, 1)), TINY))
    new = moved - away * tf.minimum(1.0, BALANCE[order] / lamb / length)
    ahead = (2 * new - z) / 8
    return (
        new,
        _projected(down + (ahead[1:] - ahead[:-1]), 1, order),
        _projected(across + (ahead[:, 1:] - ahead[:, :-1]), 0, order),
    )


def _transposed(down: tf.Tensor, across: tf.Tensor) -> tf.Tensor:
    """What multipliers of the differences are to the pixels: the transpose of taking them."""
    down = tf.pad(down, ((1, 1), (0, 0), (0, 0)))
    across = tf.pad(across, ((0, 0), (1, 1), (0, 0)))
    return down[:-1] - down[1:] + across[:, :-1] - across[:, 1:]


def _projected(multipliers: tf.Tensor, axis: int, order: float) -> tf.Tensor:
    """Vectors along an axis, into the ball of the norm dual to `order`.

    Its radius is `lamb` times the primal step.
    """
    if order == 1:
        return tf.clip_by_value(multipliers, -BALANCE[order], BALANCE[order])
    if order == 2:
        squares = tf.reduce_sum(multipliers**2, axis=axis, keepdims=True)
        return multipliers * tf.minimum(1.0, BALANCE[order] * tf.math.rsqrt(squares + TINY))
    turn, back = ((0, 2, 1), (0, 2, 1)) if axis == 1 else ((1, 2, 0), (2, 0, 1))
    turned = tf.transpose(multipliers, turn)
    rows = tf.reshape(turned, [-1, tf.shape(turned)[2]])
    rows = norms.project(rows, tf.fill([tf.shape(rows)[0]], BALANCE[order]), 1)
    return tf.transpose(tf.reshape(rows, tf.shape(turned)), back)


def _objective(z: tf.Tensor, x: tf.Tensor, mask: tf.Tensor, order: float, lamb: float) -> tf.Tensor:
    def lengths(differences: tf.Tensor, axis: int) -> tf.Tensor:
        return tf.reduce_sum(tf.norm(differences, order, axis=axis), axis=0)

    variation = lengths(z[1:] - z[:-1], 1) + lengths(z[:, 1:] - z[:, :-1], 0)
    return tf.norm(mask * (z - x), axis=(0, 1)) + lamb * variation


def _lower_bound(
    multipliers: Any,
    x: tf.Tensor,
    mask: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
) -> tf.Tensor:
    """The least that the objective can be in the range of what is kept, by its dual.

    For multipliers `q` of the differences, each in its ball, and `v` of the kept values with
    `||v||_2 <= 1`, the objective of `z` is at least `<v, z - x> + <q, D z>`.
    """
    pull = _transposed(*multipliers)
    kept = mask * pull
    length = tf.sqrt(tf.reduce_sum(kept**2, axis=(0, 1)))
    kept = -kept / tf.maximum(length, 1.0)
    rest = pull + kept
    return tf.reduce_sum(tf.minimum(rest * low, rest * high) - kept * x, axis=(0, 1))


def _pulled_back(
    upstream: tf.Tensor,
    x: tf.Tensor,
    mask: tf.Tensor,
    state: State,
    order: float,
    lamb: float,
    max_iter: int,
) -> tf.Tensor:
    """The gradient in `x` of a function of the minimiser, whose own gradient is `upstream`.

    The minimiser is a fixed point `s = T(s, x)`. Its derivative is `sum_k (dT/ds)^k dT/dx`.
    """

    def pull(adjoint: State, of: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((x, state))
            new = _step(x, mask, state, order, lamb)
        return tape.gradient(new, of, output_gradients=adjoint)

    first = (upstream, tf.zeros_like(state[1]), tf.zeros_like(state[2]))

    def further(i: tf.Tensor, adjoint: State, _: tf.Tensor) -> Any:
        pulled = pull(adjoint, state)
        new = tuple(one + other for one, other in zip(first, pulled, strict=True))
        change = tf.reduce_max(tf.abs(new[0] - adjoint[0]))
        return i + 1, new, change > STILL * tf.reduce_max(tf.abs(new[0]))

    _, adjoint, _ = tf.while_loop(
        lambda i, _, moving: (i < max_iter) & moving,
        further,
        (tf.constant(0), first, tf.constant(True)),
        parallel_iterations=1,
    )
    return pull(adjoint, x)
