"""ZOO."""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import constant_search
from kerasrobust.attacks.base import Params, State
from kerasrobust.attacks.query_attack import QueryAttack, QueryCommon

ADAM_MEAN, ADAM_SQUARE, ADAM_TINY = 0.9, 0.999, 1e-8
# Sides of the attack space before it is the image itself, and the steps that end the first two.
SIDES = (32, 64, 128)
ENLARGE_AFTER = (2000, 10000)
# Regions along each axis that share a probability of being drawn (section 3.5), and the smallest
# of these probabilities relative to the largest.
REGIONS = 8
LEAST_SHARE = 1e-2
# Below it the curvature tells nothing: a Newton step is no longer than 10 times the gradient.
LEAST_CURVATURE = 0.1


class ZooAttack(QueryAttack):
    """Carlini and Wagner's L2 objective, minimised coordinate by coordinate from scores alone.

    Minimises `||x' - x||_2^2 + c * max(margin(f(x')) + confidence, 0)`. Each step draws
    `nb_parallel` coordinates, takes the differences of the second term over `+-variable_h`
    (eq. 6, 7; the derivatives of the distance are known) and moves the coordinates by Adam
    (Algorithm 2) or by Newton's method (Algorithm 3). `c` is searched for as in `CarliniL2Method`,
    and the closest point that reaches the confidence is returned.

    With `use_resize` an image that is larger than 32 pixels is attacked in a space of 32 by 32,
    from step 2000 on of 64 by 64 and from step 10000 on of 128 by 128, whose values are
    interpolated to the image (section 3.3, 3.4); once it has been enlarged, `use_importance` draws
    coordinates where the perturbation is large. Both do nothing for smaller images. ART's class of
    this name resizes the image itself, keeps only perturbations above zero where the bounds are
    0..1, and shares one constant and one set of Adam's averages between the samples of a batch.

    A difference is divided by the way that the box leaves; where it leaves none on one side, the
    value of the iterate itself, which is known, stands for the query. The random numbers behind
    the coordinates are drawn once for all samples of a batch, so that packing cannot change the
    result; which coordinates they pick depends on the sample.

    Reference: Chen, Zhang, Sharma, Yi & Hsieh, "ZOO: Zeroth Order Optimization based Black-box
    Attacks to Deep Neural Networks without Training Substitute Models", 2017, arXiv:1708.03999.

    Args:
        model: See `Attack`.
        confidence: Margin by which the logits must be adversarial.
        learning_rate: Of Adam, or factor of the Newton step. With ART's defaults (0.01, 10 steps,
            a constant of 1e-3) no sample of an MNIST CNN and 20 % of a CIFAR-10 CNN's are fooled,
            with these all.
        max_iter: Steps for each constant. A step costs `2 * nb_parallel` queries.
        binary_search_steps: Number of constants tried.
        initial_const: First constant.
        abort_early: End a constant's steps when the objective has not fallen by 0.01 % over a
            tenth of them.
        use_resize: Attack large images in smaller spaces first.
        use_importance: Draw coordinates by importance there.
        nb_parallel: Coordinates per step, or all of them where there are fewer.
        variable_h: Half the difference, in the unit of the inputs. Default: 1e-4 of the width of
            the box.
        solver: ``"adam"`` or ``"newton"``.
        **common: `max_queries`: see `QueryAttack`; `targeted`, `batch_size`, `seed`, `verbose`,
            `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = ZooAttack(model, max_iter=200, learning_rate=0.1).generate(x, y)
    """

    name = "zoo"
    kind = "minimal"
    norm = 2.0
    norms = (2.0,)
    strategy = "optimization"
    source = "AREB"
    lengths = {"variable_h": 1e-4}
    art_defaults = {"learning_rate": 0.01, "max_iter": 10, "initial_const": 1e-3}
    traced = (
        "confidence",
        "learning_rate",
        "max_iter",
        "binary_search_steps",
        "initial_const",
        "variable_h",
    )
    chunk = 4
    state_leaves = (
        "start_gap",
        "gap",
        "noise",
        "mean",
        "square",
        "epochs",
        "best_distance",
        *constant_search.LEAVES,
    )

    def __init__(
        self,
        model: Any = None,
        *,
        confidence: float = 0.0,
        learning_rate: float = 0.1,
        max_iter: int = 300,
        binary_search_steps: int = 1,
        initial_const: float = 1.0,
        abort_early: bool = True,
        use_resize: bool = True,
        use_importance: bool = True,
        nb_parallel: int = 128,
        variable_h: float | None = None,
        solver: str = "adam",
        **common: Unpack[QueryCommon],
    ):
        self.confidence = checks.check_float("confidence", confidence)
        self.learning_rate = checks.check_float("learning_rate", learning_rate, above=True)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.binary_search_steps = checks.check_int("binary_search_steps", binary_search_steps, 1)
        self.initial_const = checks.check_float("initial_const", initial_const, above=True)
        self.abort_early = checks.check_bool("abort_early", abort_early)
        self.use_resize = checks.check_bool("use_resize", use_resize)
        self.use_importance = checks.check_bool("use_importance", use_importance)
        self.nb_parallel = checks.check_int("nb_parallel", nb_parallel, 1)
        self.variable_h = (
            None if variable_h is None else checks.check_float("variable_h", variable_h, above=True)
        )
        if solver not in ("adam", "newton"):
            raise ValueError(f"`solver` must be 'adam' or 'newton'. Received: solver={solver!r}")
        self.solver = solver
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.binary_search_steps * self.max_iter

    def init(self, model: Any, state: State, params: Params, seed: Any) -> State:
        x = state["x"]
        logits, _, _, state = self.scores(model, state, x[:, None])
        gap = self._gap(logits, state, params)[:, 0]
        rows = tf.shape(x)[0]
        flat = tf.zeros([rows, math.prod(self._space(x.shape))])
        return {
            **state,
            "start_gap": gap,
            "gap": gap,
            "noise": flat,
            "mean": flat,
            "square": flat,
            "epochs": flat,
            **constant_search.init(rows, params["initial_const"]),
            "best": x,
            "best_distance": tf.fill([rows], math.inf),
            "found": state["done"],
        }

    def step(self, model: Any, state: State, params: Params, seed: Any, t: Any) -> State:
        x, shape = state["x"], state["x"].shape
        level = self._level(state, shape)
        state = self._enlarge(state, shape)
        index, usable = self._choose(state, level, shape, seed)
        first, second, state = self._derivatives(model, state, params, level, index, usable)
        state = self._move(state, params, index, usable, first, second)
        x_adv = self.clip(model, x + self._image(state, level, shape))
        if len(self._levels(shape)) == 1:  # what the box has taken is forgotten
            state["noise"] = norms.flatten(x_adv - x)
        logits, fooled, _, state = self.scores(model, state, x_adv[:, None])
        distance = norms.norm(x_adv - x, 2)
        gap = self._gap(logits, state, params)[:, 0]
        fooled = fooled[:, 0] & tf.equal(gap, 0.0)  # by the confidence
        closer = fooled & (distance < state["best_distance"])
        # The averages of the way there would carry the iterate past the boundary.
        first_time = fooled & ~state["worked"]
        for key in ("mean", "square", "epochs"):
            state[key] = tf.where(first_time[:, None], 0.0, state[key])
        state = {
            **state,
            "gap": gap,
            "best": norms.select(closer, x_adv, state["best"]),
            "best_distance": tf.where(closer, distance, state["best_distance"]),
            "found": state["found"] | fooled,
            "worked": state["worked"] | fooled,
            "k": state["k"] + 1,
        }
        over, state = constant_search.ended(
            state, tf.square(distance) + state["constant"] * gap, params, self.abort_early
        )
        zeros = tf.zeros_like(state["noise"])
        start = dict.fromkeys(("noise", "mean", "square", "epochs"), zeros)
        start["gap"] = state["start_gap"]
        return constant_search.advance(state, over, params, start)

    def done(self, state: State, params: Params) -> tf.Tensor:
        return constant_search.done(state, params)

    def finish(self, model: Any, state: State, params: Params) -> tf.Tensor:
        return state["best"]

    def _gap(self, logits: tf.Tensor, state: State, params: Params) -> tf.Tensor:
        """`max(margin + confidence, 0)` of logits `[batch, k, classes]`."""
        sign = -1.0 if self.targeted else 1.0
        labels = tf.repeat(state["y"][:, None], tf.shape(logits)[1], axis=1)
        return tf.maximum(sign * losses.margin(logits, labels) + params["confidence"], 0.0)

    # ---- coordinates ------------------------------------------------------------------------

    def _choose(self, state: State, level: tf.Tensor, shape: Any, seed: Any) -> tuple[Any, Any]:
        """Coordinates of each sample, `[batch, k]`, and which of them may change."""
        inside = tf.gather(self._insides(shape), level)
        if "mask" in state:
            reach = state["mask"]
            if len(self._levels(shape)) > 1:
                reach = tf.einsum("bhwc,bhi,bwj->bijc", reach, *self._spread(level, shape))
            inside &= norms.flatten(reach) > 0
        share = tf.ones_like(state["noise"])
        if self.use_importance and len(self._levels(shape)) > 1:
            large = self._importance(state["noise"], level, shape)
            share = tf.where((level > 0)[:, None], large, share)
        # The largest of log p + Gumbel noise are a draw without replacement.
        uniform = tf.random.stateless_uniform(state["noise"].shape[1:], seed, minval=1e-7)
        keys = tf.math.log(share) - tf.math.log(-tf.math.log(uniform))
        keys = tf.where(inside, keys, -math.inf)
        keys, index = tf.math.top_k(keys, k=min(self.nb_parallel, keys.shape[1]))
        return index, keys > -math.inf

    def _derivatives(
        self,
        model: Any,
        state: State,
        params: Params,
        level: tf.Tensor,
        index: tf.Tensor,
        usable: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, State]:
        """First and second derivative of the objective at the coordinates, `[batch, k]`."""
        x, shape, h = state["x"], state["x"].shape, params["variable_h"]
        current = self.clip(model, x + self._image(state, level, shape))
        here, constant = state["gap"][:, None], state["constant"][:, None]
        count, across = index.shape[1], list(range(2, shape.rank + 1))
        part = self.points_at_once(count, math.prod(shape[1:]))

        def differ(state: State, index: tf.Tensor, usable: tf.Tensor) -> tuple[Any, ...]:
            push = self._push(index, level, shape)
            if "mask" in state:
                push *= state["mask"][:, None]
            weight = tf.reduce_sum(tf.square(push), axis=across)
            gaps, ways = [], []
            for sign in (1.0, -1.0):
                points = self.clip(model, current[:, None] + sign * h * push)
                # The part of the step that the box has left of it.
                way = tf.reduce_sum((points - current[:, None]) * push, axis=across)
                way = tf.math.divide_no_nan(way, weight)
                needed = usable & tf.not_equal(way, 0.0)
                logits, _, granted, state = self.scores(model, state, points, needed)
                gaps.append(tf.where(granted, self._gap(logits, state, params), here))
                ways.append(tf.where(granted, way, 0.0))
            slope = tf.math.divide_no_nan(gaps[0] - gaps[1], ways[0] - ways[1])
            both = tf.not_equal(ways[0] * ways[1], 0.0)
            bend = tf.where(both, (gaps[0] + gaps[1] - 2 * here) / (h * h), 0.0)
            delta = tf.reduce_sum((current - x)[:, None] * push, axis=across)
            return state, constant * slope + 2 * delta, constant * bend + 2 * weight

        zeros = tf.zeros(tf.shape(index))
        state, first, second = self.in_parts(state, part, differ, (index, usable), (zeros, zeros))
        return first, second, state

    def _move(
        self,
        state: State,
        params: Params,
        index: tf.Tensor,
        usable: tf.Tensor,
        first: tf.Tensor,
        second: tf.Tensor,
    ) -> State:
        """A step of Adam or Newton at the coordinates."""
        if self.solver == "adam":
            state = self._remember(state, index, usable, first)
            mean, square, k = (
                tf.gather(state[key], index, axis=1, batch_dims=1)
                for key in ("mean", "square", "epochs")
            )
            k = tf.maximum(k, 1.0)
            mean /= 1 - ADAM_MEAN**k
            step = mean / (tf.sqrt(square / (1 - ADAM_SQUARE**k)) + ADAM_TINY)
        else:
            # Where the objective bends down there is no minimum ahead: a plain gradient step.
            step = first / tf.where(second <= 0, 1.0, tf.maximum(second, LEAST_CURVATURE))
        step = tf.where(usable, -params["learning_rate"] * step, 0.0)
        return {**state, "noise": state["noise"] + _scatter(index, step, state["noise"])}

    def _remember(self, state: State, index: Any, usable: Any, gradient: tf.Tensor) -> State:
        """Adam's averages with a new gradient at the coordinates."""
        updates = {}
        for key, decay, value in (
            ("mean", ADAM_MEAN, gradient),
            ("square", ADAM_SQUARE, tf.square(gradient)),
        ):
            change = (1 - decay) * (value - tf.gather(state[key], index, axis=1, batch_dims=1))
            updates[key] = state[key] + _scatter(index, tf.where(usable, change, 0.0), state[key])
        once = tf.cast(usable, tf.float32)
        updates["epochs"] = state["epochs"] + _scatter(index, once, state["epochs"])
        return {**state, **updates}

    # ---- the attack space -------------------------------------------------------------------

    def _levels(self, shape: Any) -> list[tuple[int, ...]]:
        """Sides of the attack space, one level after the other."""
        if not self.use_resize or shape.rank != 4 or min(shape[1:3]) <= SIDES[0]:
            return [tuple(shape[1:-1])]
        return [(side, side) for side in SIDES if side <= min(shape[1:3])]

    def _space(self, shape: Any) -> tuple[int, ...]:
        """Shape of the noise: that of the last level, earlier ones use its upper left corner."""
        return (*self._levels(shape)[-1], shape[-1])

    def _level(self, state: State, shape: Any) -> tf.Tensor:
        """The level that the next step of each sample is on."""
        level = tf.zeros_like(state["k"])
        for after in ENLARGE_AFTER[: len(self._levels(shape)) - 1]:
            level += tf.cast(state["k"] >= after, tf.int32)
        return level

    def _insides(self, shape: Any) -> np.ndarray:
        """bool `[levels, coordinates]`: the coordinates that a level has."""
        inside = np.zeros((len(self._levels(shape)), *self._space(shape)), bool)
        for level, sides in enumerate(self._levels(shape)):
            inside[level][tuple(slice(side) for side in sides)] = True
        return inside.reshape(len(inside), -1)

    def _spread(self, level: tf.Tensor, shape: Any) -> list[tf.Tensor]:
        """From the space to the image: rows `[batch, h, i]` and columns `[batch, w, j]`."""
        sides, width = [side for side, _ in self._levels(shape)], self._space(shape)[0]
        return [
            tf.gather(np.stack([_resize(side, size, width) for side in sides]), level)
            for size in shape[1:3]
        ]

    def _image(self, state: State, level: tf.Tensor, shape: Any) -> tf.Tensor:
        """The noise as a perturbation of the image."""
        noise = tf.reshape(state["noise"], [-1, *self._space(shape)])
        if len(self._levels(shape)) > 1:
            noise = tf.einsum("bijc,bhi,bwj->bhwc", noise, *self._spread(level, shape))
        return noise * state["mask"] if "mask" in state else noise

    def _push(self, index: tf.Tensor, level: tf.Tensor, shape: Any) -> tf.Tensor:
        """What a unit of each coordinate adds to the image, `[batch, k, ...]`."""
        space = self._space(shape)
        if len(self._levels(shape)) == 1:
            hot = tf.one_hot(index, math.prod(space))
            return tf.reshape(hot, [-1, index.shape[1], *space])
        rows, columns = (tf.transpose(m, [0, 2, 1]) for m in self._spread(level, shape))
        position = index // space[2]
        row = tf.gather(rows, position // space[1], axis=1, batch_dims=1)
        column = tf.gather(columns, position % space[1], axis=1, batch_dims=1)
        channel = tf.one_hot(index % space[2], space[2])
        return tf.einsum("bkh,bkw,bkc->bkhwc", row, column, channel)

    def _enlarge(self, state: State, shape: Any) -> State:
        """Carries the noise over to a larger space, before a sample's first step there."""
        levels, space = self._levels(shape), self._space(shape)
        for after, (side, _), (following, _) in zip(
            ENLARGE_AFTER, levels[:-1], levels[1:], strict=False
        ):
            now = tf.equal(state["k"], after)[:, None]
            matrix = np.zeros((space[0], space[0]), np.float32)
            matrix[:following] = _resize(side, following, space[0])
            noise = tf.reshape(state["noise"], [-1, *space])
            noise = norms.flatten(tf.einsum("bijc,hi,wj->bhwc", noise, matrix, matrix))
            state = {**state, "noise": tf.where(now, noise, state["noise"])}
            for key in ("mean", "square", "epochs"):
                state[key] = tf.where(now, 0.0, state[key])
        return state

    def _importance(self, noise: tf.Tensor, level: tf.Tensor, shape: Any) -> tf.Tensor:
        """Largest change in the region of each coordinate, on the level of its sample."""
        space = self._space(shape)
        size = tf.abs(tf.reshape(noise, [-1, *space]))
        pooled = []
        for side, _ in self._levels(shape):
            pool = side // REGIONS
            regions = tf.nn.max_pool2d(size[:, :side, :side], pool, pool, "VALID")
            regions = tf.repeat(tf.repeat(regions, pool, axis=1), pool, axis=2)
            edge = space[0] - side
            pooled.append(norms.flatten(tf.pad(regions, [[0, 0], [0, edge], [0, edge], [0, 0]])))
        share = tf.gather(tf.stack(pooled, axis=1), level, axis=1, batch_dims=1)
        largest = tf.reduce_max(share, axis=1, keepdims=True)
        return tf.where(largest > 0, tf.maximum(share, LEAST_SHARE * largest), 1.0)


def _scatter(index: tf.Tensor, values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Zeros, with values `[batch, k]` at the distinct indices `[batch, k]` of each sample."""
    rows = tf.repeat(tf.range(tf.shape(index)[0])[:, None], index.shape[1], axis=1)
    scattered = tf.scatter_nd(tf.stack([rows, index], axis=2), values, tf.shape(like))
    return tf.ensure_shape(scattered, like.shape)


def _resize(side: int, size: int, width: int) -> np.ndarray:
    """Bilinear interpolation from `side` to `size` points as a matrix `[size, width]`."""
    centres = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    weights = np.maximum(1 - np.abs(centres[:, None] - np.arange(side)), 0)
    return np.pad(weights, [(0, 0), (0, width - side)]).astype(np.float32)
