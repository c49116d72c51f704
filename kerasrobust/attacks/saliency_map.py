"""Jacobian-based saliency map attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base

# The pair is sought among this many pixels, which is more than can be in the best pair (below).
CANDIDATES = 48


class SaliencyMapMethod(base.Attack):
    """Few pixels, two at a time, chosen by their saliency for a target class (JSMA).

    Of all pairs `(p, q)` in the search domain the one with the largest `-alpha * beta` is changed
    by `theta`, where `alpha = sum_{i in {p, q}} dF_t/dx_i` must be positive and
    `beta = sum_{i in {p, q}} sum_{j != t} dF_j/dx_i` negative (for `theta < 0` the other way
    round). A pixel leaves the domain at the edge of the box; the rest is out of bounds once the
    fraction `gamma` has been changed.

    `F` are the probabilities of the model, or the logits with which the paper replaced them in its
    experiments; E2SAD (section 2.1.3) describes the attack with logits. Probabilities sum to one,
    so that `beta = -alpha` and the pair holds the two largest `dF_t/dx_i`; they are taken from
    `d log F_t / dx_i`, which has the same order and does not vanish. Half as many pixels need be
    changed as with logits, whose second term also counts classes that are out of the race.

    Without a target the class to reach is the runner-up at the clean sample, and the attack ends
    as soon as the class is left; ART draws a class at random. ART's class of this name takes the
    two pixels with the largest `dF_t/dx_i`, alpha alone, whatever `F`; this one maximises the
    saliency, exactly, over all pairs.

    Reference: Papernot et al., "The Limitations of Deep Learning in Adversarial Settings", 2016,
    arXiv:1511.07528, algorithms 2 and 3.

    Args:
        model: See `Attack`; it must know the shape of a sample.
        theta: Change of each of the two pixels, in the unit of the inputs; positive or negative.
            Default: the width of the box, all the way to the upper edge, the paper's choice. ART's
            default of 0.1 changes twice as many pixels (MNIST: 33 in the median against 16).
        gamma: Largest fraction of the pixels (of the features, where there are channels) that may
            be changed, above 0 and up to 1.
        outputs: What `F` is: ``"probabilities"`` or ``"logits"``.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = SaliencyMapMethod(model, theta=1.0, gamma=0.1).generate(x, y)
    """

    name = "jsma"
    kind = "minimal"
    strategy = "sensitivity"
    source = "AREB, E2SAD, BRELU-GDA"
    norm = 0.0
    norms = (0.0,)
    lengths = {"theta": 1.0}
    traced = ("gamma",)
    state_leaves = ("goal", "iterate", "changed", "ended")
    art_defaults = {"theta": 0.1}

    def __init__(
        self,
        model: Any = None,
        *,
        theta: float | None = None,
        gamma: float = 1.0,
        outputs: str = "probabilities",
        **common: Unpack[base.Common],
    ):
        self.theta = None if theta is None else checks.check_float("theta", theta, -math.inf)
        self.gamma = checks.check_float("gamma", gamma, above=True)
        if self.theta == 0:
            raise ValueError(f"`theta` must not be 0. Received: theta={theta!r}")
        if self.gamma > 1:
            raise ValueError(f"`gamma` must be a number <= 1. Received: gamma={gamma!r}")
        if outputs not in ("probabilities", "logits"):
            raise ValueError(
                f"`outputs` must be 'probabilities' or 'logits'. Received: outputs={outputs!r}"
            )
        self.outputs = outputs
        super().__init__(model, **common)

    def check(self) -> None:
        shape = self.bound.input_shape
        if shape is None or None in shape:
            raise ValueError(
                "SaliencyMapMethod needs the shape of a sample: pass "
                f"`Classifier(model, input_shape=...)`. Received: input shape {shape}"
            )
        if math.prod(size or 1 for size in shape) < 2:
            raise ValueError(
                "SaliencyMapMethod changes two input values at a time and needs at least two. "
                f"Received: input shape {shape}"
            )

    def max_steps(self) -> int:
        features = math.prod(size or 1 for size in self.bound.input_shape or ())
        # Every step takes two pixels one `theta` closer to the edge.
        # Rounded first: 1 / 0.1 is ten steps, whatever the unit they are given in.
        steps = math.ceil(round(1 / abs(self.in_unit("theta")), 4))
        return (features * steps + 1) // 2

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        if self.targeted:
            goal = state["y"]
        else:
            logits, state = self.score(model, state, state["x"])
            others = tf.where(
                tf.one_hot(state["y"], tf.shape(logits)[1], on_value=True, off_value=False),
                -math.inf,
                logits,
            )
            goal = tf.argmax(others, axis=-1, output_type=tf.int32)
        return {
            **state,
            "goal": goal,
            "iterate": state["x"],
            "changed": tf.zeros_like(state["x"], tf.bool),
            "ended": tf.zeros([rows], tf.bool),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, theta = state["iterate"], self.in_unit("theta")
        sign = math.copysign(1.0, theta)

        def weigh(logits: tf.Tensor) -> tf.Tensor:
            own = tf.one_hot(state["goal"], tf.shape(logits)[1])
            if self.outputs == "probabilities":
                return sign * (own - tf.nn.softmax(logits))[:, None]
            return sign * tf.stack([own, own - 1.0], axis=1)

        logits, jacobian, state = self.differentiate_classes(model, state, x, weigh)
        fooled = self.fools(model, state, x, logits)

        low, high = model.clip_values
        edge = high if theta > 0 else low
        free = norms.flatten(tf.not_equal(x, edge))
        if "mask" in state:
            free &= norms.flatten(state["mask"]) > 0
        changed = norms.flatten(state["changed"])
        allowed = params["gamma"] * tf.cast(tf.shape(changed)[1], tf.float32)
        used = tf.reduce_sum(tf.cast(changed, tf.float32), axis=1)
        free &= changed | (used + 2 <= allowed)[:, None]
        alpha = norms.flatten(jacobian[:, 0])
        if self.outputs == "probabilities":
            pair, found = most_salient_two(alpha, free)
        else:
            pair, found = most_salient_pair(alpha, norms.flatten(jacobian[:, 1]), free)
        moves = found & ~fooled
        chosen = pair & moves[:, None]
        shape = tf.shape(x)
        moved = self.clip(model, x + theta * tf.cast(tf.reshape(chosen, shape), x.dtype))
        return {
            **state,
            "iterate": tf.ensure_shape(moved, x.shape),
            "changed": state["changed"] | tf.reshape(chosen, shape),
            "ended": ~moves,
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return state["ended"]

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["iterate"]


def most_salient_two(alpha: tf.Tensor, free: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The two free pixels with the largest gain, `[batch, pixels]`, and whether it is one."""
    top = tf.math.top_k(tf.where(free, alpha, -math.inf), k=2)
    found = tf.reduce_sum(top.values, axis=1) > 0
    pair = tf.one_hot(top.indices, alpha.shape[1], on_value=True, off_value=False)
    return tf.reduce_any(pair, axis=1) & found[:, None], found


def most_salient_pair(
    alpha: tf.Tensor, beta: tf.Tensor, free: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The pair of free pixels with the largest `(a_p + a_q) * (b_p + b_q)`, both sums positive.

    The product grows with either sum. So a pixel that two others match in both `a` and `b` is
    never needed: one of the two is not its partner and can take its place. What remains, a
    staircase of two rows, is found by a running second-largest `b` in the order of falling `a`.
    It holds 9 of 784 pixels in the median over MNIST samples and 20 at most.

    Where no pair has two positive sums the paper leaves the choice open; here it is the pair with
    the largest sum of both, as long as that is positive.

    Args:
        alpha: `[batch, pixels]`, gain of the target.
        beta: `[batch, pixels]`, loss of the other classes.
        free: bool `[batch, pixels]`, the search domain.

    Returns:
        bool `[batch, pixels]`, the pair, and bool `[batch]`, whether there is one.
    """
    pixels = alpha.shape[1]
    k = min(CANDIDATES, pixels)
    out = tf.fill(tf.shape(alpha), -math.inf)
    a, b = tf.where(free, alpha, out), tf.where(free, beta, out)
    order = tf.argsort(a, axis=1, direction="DESCENDING", stable=True)
    sorted_b = tf.gather(b, order, axis=1, batch_dims=1)
    _, second = _running_top_two(sorted_b)
    before = tf.concat([tf.fill([tf.shape(b)[0], 1], -math.inf), second[:, :-1]], axis=1)
    kept = tf.where((sorted_b > before) & tf.math.is_finite(sorted_b), 1.0, 0.0)
    # `top_k` takes the first of equals: the staircase from its upper end, then anything.
    rank = tf.math.top_k(kept, k=k).indices
    places = tf.gather(order, rank, axis=1, batch_dims=1)
    a, b = (tf.gather(values, places, axis=1, batch_dims=1) for values in (a, b))
    sum_a, sum_b = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
    distinct = ~tf.eye(k, dtype=tf.bool) & tf.math.is_finite(sum_a + sum_b)
    total = tf.where(distinct, sum_a + sum_b, -math.inf)
    # Scaled, so that a product of two small sums does not vanish.
    scale = tf.reduce_max(tf.where(distinct, tf.abs(total), 0.0), axis=[1, 2], keepdims=True)
    scale = tf.maximum(scale, norms.TINY)
    proper = distinct & (sum_a > 0) & (sum_b > 0)
    product = tf.where(proper, (sum_a / scale) * (sum_b / scale), -math.inf)
    any_proper = tf.reduce_any(proper, axis=[1, 2], keepdims=True)
    salience = tf.reshape(tf.where(any_proper, product, total), [-1, k * k])
    best = tf.argmax(salience, axis=1, output_type=tf.int32)
    found = any_proper[:, 0, 0] | (tf.reduce_max(salience, axis=1) > 0)
    ends = tf.stack([best // k, best % k], axis=1)
    ends = tf.gather(places, ends, axis=1, batch_dims=1)
    pair = tf.reduce_any(tf.one_hot(ends, pixels, on_value=True, off_value=False), axis=1)
    return pair & found[:, None], found


def _running_top_two(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The largest and the second-largest of all entries up to each, `[batch, n]`, by doubling."""
    first, second = values, tf.fill(tf.shape(values), -math.inf)
    shift = 1
    while shift < values.shape[1]:
        fill = tf.fill([tf.shape(values)[0], shift], -math.inf)
        left, next_left = (tf.concat([fill, part[:, :-shift]], axis=1) for part in (first, second))
        second = tf.maximum(tf.minimum(first, left), tf.maximum(second, next_left))
        first = tf.maximum(first, left)
        shift *= 2
    return first, second
