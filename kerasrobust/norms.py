"""Lp norms, projections and random points of batches of samples.

Every function takes samples with a leading batch axis, works on tensors of any rank, runs in
graph, eager and XLA mode, and never returns NaN: zero vectors stay zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

TINY = 1e-30


def check_norm(norm: Any, allowed: tuple[float, ...] = (1.0, 2.0, math.inf)) -> float:
    """Returns a norm order given as a number or as ``"inf"``, ``"l2"`` or ``"linf"``.

    Raises:
        ValueError: If it is not one of the allowed orders.
    """
    order: Any = norm
    if isinstance(norm, str):
        order = norm.lower().removeprefix("l")
    try:
        order = float(order)
    except (TypeError, ValueError):
        order = None
    if order not in allowed or isinstance(norm, bool):
        names = ", ".join("inf" if p == math.inf else f"{p:g}" for p in allowed)
        raise ValueError(f"`norm` must be one of {names}. Received: norm={norm!r}")
    return float(order)


def flatten(x: tf.Tensor) -> tf.Tensor:
    """`[batch, ...]` to `[batch, features]`."""
    shape = x.shape[1:]
    features = shape.num_elements() if shape.is_fully_defined() else -1
    return tf.reshape(x, [tf.shape(x)[0], features])


def expand(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Per-sample values `[batch]` with trailing axes of size one, to broadcast against `like`."""
    values = tf.convert_to_tensor(values)
    return tf.reshape(values, tf.concat([tf.shape(values), [1] * (like.shape.rank - 1)], 0))


def select(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Samples of `x` where a condition holds, elsewhere of `y`; both `[batch, ...]`, of one shape.

    What `tf.where` does with the condition expanded; but that broadcasts, and takes on a CPU up to
    thirty times as long for images.

    Args:
        condition: bool `[batch]`, or a scalar for all samples, or of the shape of both for single
            entries.
        x: Where it holds.
        y: Where it does not.
    """
    return tf.compat.v1.where(condition, x, y)


def finite(x: tf.Tensor) -> tf.Tensor:
    """With 0 for what is not finite."""
    return select(tf.math.is_finite(x), x, tf.zeros_like(x))


def norm(x: tf.Tensor, order: float) -> tf.Tensor:
    """Lp norm of each sample, `[batch, ...]` to `[batch]`, for the orders 0, 1, 2 and inf."""
    flat = flatten(x)
    if order == 0:
        return tf.reduce_sum(tf.cast(tf.not_equal(flat, 0), x.dtype), axis=1)
    if order == 1:
        return tf.reduce_sum(tf.abs(flat), axis=1)
    if order == 2:
        return tf.sqrt(tf.reduce_sum(tf.square(flat), axis=1))
    return tf.reduce_max(tf.abs(flat), axis=1)


def root(squares: tf.Tensor) -> tf.Tensor:
    """The square root, whose derivative at zero is taken for zero and not for infinite.

    A norm in a loss is the root of a sum of squares: its chain rule has `inf * 0` there.
    """
    positive = squares > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squares, 1.0)), 0.0)


def norm_name(order: float) -> str:
    """`"Linf"`, `"L2"` and so on."""
    return f"L{order:g}"


def normalize(x: tf.Tensor, order: float) -> tf.Tensor:
    """Each sample divided by its Lp norm; a zero sample stays zero.

    Very small and very large samples are scaled by their largest entry first, so that squaring
    neither underflows nor overflows.
    """
    largest = expand(norm(x, math.inf), x)
    x = tf.math.divide_no_nan(x, largest)
    return tf.math.divide_no_nan(x, expand(norm(x, order), x))


def project(delta: tf.Tensor, eps: tf.Tensor, order: float) -> tf.Tensor:
    """Euclidean projection of each sample onto the Lp ball of radius `eps` around zero.

    L2: `delta * min(1, eps / ||delta||_2)`. Linf: clipping. L1: soft thresholding
    (Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML
    2008), with the threshold of Michelot, "A Finite Algorithm for Finding the Projection of a
    Point onto the Canonical Simplex of R^n", 1986. L0: the largest `floor(eps)` entries stay, of
    equal ones the first. Every entry moves towards zero and none changes its sign.

    Args:
        delta: `[batch, ...]`.
        eps: Radii, `[batch]`; for L0 a number of entries.
        order: 0, 1, 2 or inf.

    Returns:
        A tensor of the shape of `delta`.
    """
    radius = expand(eps, delta)
    if order == math.inf:
        return tf.clip_by_value(delta, -radius, radius)
    if order == 2:
        length = expand(norm(delta, 2), delta)
        return delta * tf.minimum(1.0, radius / tf.maximum(length, TINY))
    size = tf.abs(flatten(delta))
    eps = tf.reshape(eps, [-1, 1])
    if order == 0:
        count = tf.cast(tf.clip_by_value(eps, 0.0, tf.cast(tf.shape(size)[1], eps.dtype)), tf.int32)
        flat = flatten(delta)
        kept = select(largest(size, count), flat, tf.zeros_like(flat))
        return tf.reshape(kept, tf.shape(delta))
    inside = tf.reduce_sum(size, axis=1, keepdims=True) <= eps
    threshold = tf.where(inside, tf.zeros_like(eps), tf.maximum(_threshold(size, eps), 0.0))
    shrunk = tf.sign(flatten(delta)) * tf.maximum(size - threshold, 0.0)
    return tf.reshape(shrunk, tf.shape(delta))


def _threshold(size: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    """`t` with `sum(max(size - t, 0)) = eps` where `size` sums up to more.

    From below, by Michelot's steps: the threshold of the entries that are above the last one, until
    none falls below. They take an eighth of the time of sorting.

    Args:
        size: `[batch, n]`, not negative.
        eps: `[batch, 1]`.

    Returns:
        Thresholds `[batch, 1]`.
    """
    fixed = tf.stop_gradient(size)

    def of_those_above(least: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        above = tf.cast(fixed > least, size.dtype)
        total, count = (tf.reduce_sum(v, axis=1, keepdims=True) for v in (size * above, above))
        return tf.where(count > 0, (total - eps) / tf.maximum(count, 1.0), least)

    nothing = tf.fill(tf.shape(eps), tf.constant(-1.0, size.dtype))
    least = _climbed(lambda least: of_those_above(least, fixed), nothing)
    return of_those_above(tf.stop_gradient(least), size)


def _climbed(following: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor) -> tf.Tensor:
    """Where numbers `[batch, 1]`, each the one that follows on the last, rise no more."""
    last, _ = tf.while_loop(
        lambda last, new: tf.reduce_any(new > last),
        lambda last, new: (tf.maximum(last, new), following(tf.maximum(last, new))),
        (start, following(start)),
        parallel_iterations=1,
    )
    return last


def _largest(holds: Callable[[tf.Tensor], tf.Tensor], size: tf.Tensor) -> tf.Tensor:
    """The largest number, `[batch, 1]`, up to the largest of each row for which a condition holds.

    Args:
        holds: Of numbers `[batch, 1]`, bool likewise; it holds up to some number and not beyond.
            Zero where it never does.
        size: `[batch, n]`, float32, not negative.
    """
    # Bits of such floats are ordered as the floats are: they are bisected.
    high = tf.bitcast(tf.reduce_max(size, axis=1, keepdims=True), tf.int32) + 1
    low = tf.zeros_like(high)

    def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = low + (high - low) // 2
        enough = holds(tf.bitcast(middle, size.dtype))
        return tf.where(enough, middle, low), tf.where(enough, high, middle)

    low, _ = tf.while_loop(
        lambda low, high: tf.reduce_any(high - low > 1), halve, (low, high), parallel_iterations=1
    )
    return tf.bitcast(low, size.dtype)


def largest(size: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Which entries are the largest of each sample, of equal ones the first; without sorting.

    Args:
        size: `[batch, n]`, not negative.
        count: How many, int32 `[batch, 1]` in 0..n.

    Returns:
        bool `[batch, n]`.
    """
    least = of_rank(size, count)
    larger, equal = size > least, tf.cast(tf.equal(size, least), tf.int32)
    room = count - tf.reduce_sum(tf.cast(larger, tf.int32), axis=1, keepdims=True)
    return larger | ((equal > 0) & (tf.cumsum(equal, axis=1) <= room))


def of_rank(size: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
    """The entry of each row that is the `rank`-th largest, `[batch, 1]`; the largest for rank 0.

    Args:
        size: `[batch, n]`, float32, not negative.
        rank: int32 `[batch, 1]`.
    """

    def enough(least: tf.Tensor) -> tf.Tensor:
        reached = tf.cast(size >= least, tf.int32)
        return tf.reduce_sum(reached, axis=1, keepdims=True) >= rank

    return _largest(enough, size)


def _taken(size: tf.Tensor, cost: tf.Tensor, budget: tf.Tensor) -> tf.Tensor:
    """The share of each entry, `[batch, n]`, when the largest are taken up to a budget.

    Equals are taken to the same share. All are taken where the budget is more than all cost.

    Args:
        size: `[batch, n]`, float32, not negative.
        cost: Of the whole entry, likewise.
        budget: `[batch, 1]`.
    """

    def total(taken: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(cost * tf.cast(taken, cost.dtype), axis=1, keepdims=True)

    least = _largest(lambda least: total(size >= least) >= budget, size)
    larger, equal = size > least, tf.equal(size, least)
    share = tf.math.divide_no_nan(budget - total(larger), total(equal))
    share = tf.clip_by_value(share, 0.0, 1.0) * tf.cast(equal, cost.dtype)
    return tf.cast(larger, cost.dtype) + share


def project_l1_in_box(
    delta: tf.Tensor, eps: tf.Tensor, lower: tf.Tensor, upper: tf.Tensor
) -> tf.Tensor:
    """Euclidean projection of each sample onto the L1 ball intersected with a box around zero.

    Entry i becomes `sign(d_i) * clip(|d_i| - t, 0, room_i)`, `room_i` the way to the edge of the
    box, with the one threshold `t >= 0` at which the sizes add up to `eps`. Their sum is piecewise
    linear in `t` with a kink at each `|d_i|` and `|d_i| - room_i`, and is solved for exactly
    (Croce & Hein, "Mind the Box", 2021, arXiv:2103.01208, proposition 2.2), by bisection of the
    bits of `t` where they sort the kinks.

    Args:
        delta: `[batch, ...]`.
        eps: Radii, `[batch]`.
        lower: Lower edges, shape of `delta`, none above zero.
        upper: Upper edges, likewise, none below zero.

    Returns:
        A tensor of the shape of `delta`.
    """
    flat = flatten(delta)
    size, eps = tf.abs(flat), tf.reshape(eps, [-1, 1])
    room = flatten(select(delta > 0, upper, -lower))

    def left(least: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.clip_by_value(size - least, 0.0, room), axis=1, keepdims=True)

    least = _largest(lambda least: left(least) >= eps, size)
    # On to where the sum is eps: no entry meets its edge before the next number.
    free = (size > least) & (size - least < room)
    free = tf.reduce_sum(tf.cast(free, size.dtype), axis=1, keepdims=True)
    threshold = least + tf.math.divide_no_nan(left(least) - eps, free)
    inside = tf.reduce_sum(tf.minimum(size, room), axis=1, keepdims=True) <= eps
    threshold = tf.where(inside, 0.0, threshold)
    shrunk = tf.sign(flat) * tf.clip_by_value(size - threshold, 0.0, room)
    return tf.reshape(shrunk, tf.shape(delta))


def ascent_direction(
    gradient: tf.Tensor, length: tf.Tensor, order: float, lower: tf.Tensor, upper: tf.Tensor
) -> tf.Tensor:
    """The step `d` with `||d||_p <= length` that raises `<gradient, d>` most.

    Linf: `length * sign(g)`. L2: `length * g / ||g||_2`. L1: all of the length goes into the
    entries with the largest `|g|`, each as far as the box lets it (`lower <= d <= upper`), which is
    the maximiser over the intersection of ball and box. Without the box it is the single largest
    entry, as in ART, which stalls as soon as that entry has reached the edge of the box.

    Args:
        gradient: `[batch, ...]`; entries that are not finite count as zero.
        length: Step lengths, `[batch]`.
        order: 1, 2 or inf.
        lower: Smallest allowed step, shape of `gradient`; used for L1 only.
        upper: Largest allowed step, likewise.

    Returns:
        The step, shape of `gradient`.
    """
    gradient = finite(gradient)
    scale = expand(length, gradient)
    if order == math.inf:
        return scale * tf.sign(gradient)
    if order == 2:
        return scale * normalize(gradient, 2)
    flat = flatten(gradient)
    room = flatten(select(gradient > 0, upper, -lower))
    room = select(tf.equal(flat, 0), tf.zeros_like(room), tf.maximum(room, 0.0))
    share = _taken(tf.abs(flat), room, tf.reshape(length, [-1, 1]))
    return tf.reshape(share * room * tf.sign(flat), tf.shape(gradient))


def project_onto_hyperplane(
    x: tf.Tensor,
    normal: tf.Tensor,
    gap: tf.Tensor,
    order: float,
    clip_values: tuple[float, float],
) -> tf.Tensor:
    """The smallest `d` with `<normal, d> = gap` that keeps `x + d` in the box, by its Lp norm.

    Entry i moves in the direction that closes the gap, by `min(room_i, level)` for Linf and by
    `min(room_i, level * |normal_i|)` for L2, with the one level that closes it; for L1 the entries
    with the largest `|normal_i|` move first, each as far as the box lets it. This is the convex
    problem of Croce & Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive
    Boundary Attack", 2020, arXiv:1907.02044, eq. 4. Where no point of the box closes the gap, it is
    the step that closes most of it.

    Args:
        x: `[batch, ...]`, inside the box.
        normal: Shape of `x`; entries that are zero do not move.
        gap: `[batch]`.
        order: 1, 2 or inf.
        clip_values: The box.

    Returns:
        The step, shape of `x`; zero where `normal` or `gap` is zero.
    """
    low, high = clip_values
    # Scaled to a largest entry of one, so that products neither underflow nor overflow.
    largest = norm(normal, math.inf)
    flat = flatten(tf.math.divide_no_nan(normal, expand(largest, normal)))
    gap = tf.math.divide_no_nan(gap, largest)[:, None]
    size = tf.abs(flat)
    direction = tf.sign(flat) * tf.sign(gap)
    gap = tf.abs(gap)
    x = flatten(x)
    room = tf.maximum(select(direction > 0, high - x, x - low), 0.0)
    room = select(tf.equal(direction, 0), tf.zeros_like(room), room)
    if order == 1:
        move = _taken(size, size * room, gap) * room
    else:
        unit = size if order == 2 else tf.ones_like(size)
        move = tf.minimum(room, _level(size, unit, room, gap) * unit)
    return tf.reshape(move * direction, tf.shape(normal))


def _level(size: tf.Tensor, unit: tf.Tensor, room: tf.Tensor, gap: tf.Tensor) -> tf.Tensor:
    """`l` with `sum(size * min(room, l * unit)) = gap`, or one that leaves no room.

    From below, by Newton's steps on the sum, which is concave: each goes on with the entries that
    have not met their edge. They take an eighth of the time of sorting.

    Args:
        size: `[batch, n]`, not negative.
        unit: Likewise.
        room: Likewise.
        gap: `[batch, 1]`, not negative.

    Returns:
        Levels `[batch, 1]`.
    """
    gain, slope = size * room, size * unit

    def following(level: tf.Tensor) -> tf.Tensor:
        free = tf.cast(level * unit < room, size.dtype)
        behind, steep = (
            tf.reduce_sum(v, axis=1, keepdims=True) for v in (gain * (1 - free), slope * free)
        )
        return tf.where(steep > 0, (gap - behind) / tf.maximum(steep, TINY), level)

    return _climbed(following, tf.zeros_like(gap))


def plane_distances(gaps: tf.Tensor, normals: tf.Tensor, order: float) -> tf.Tensor:
    """How far each of k hyperplanes is from a sample: `|gap| / ||normal||_q`.

    The Lp distance to a hyperplane has the dual norm, `1/p + 1/q = 1`, in its denominator.

    Args:
        gaps: `[batch, k]`.
        normals: `[batch, k, ...]`; a normal that is zero counts as infinitely far.
        order: The order p of the distance: 1, 2 or inf.

    Returns:
        `[batch, k]`.
    """
    shape = tf.shape(normals)
    flat = tf.reshape(normals, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
    flat = tf.ensure_shape(flat, [None, *normals.shape[2:]])
    dual = {1: math.inf, 2: 2, math.inf: 1}[order]
    length = tf.reshape(norm(flat, dual), tf.shape(gaps))
    return tf.where(length > 0, tf.abs(gaps) / tf.maximum(length, TINY), math.inf)


def random_in_ball(shape: Any, eps: tf.Tensor, order: float, seed: tf.Tensor) -> tf.Tensor:
    """Points drawn uniformly from Lp balls of radius `eps` around zero.

    L2: a Gaussian direction times `u^(1/d)`. L1: `d + 1` exponential variates, all but one
    normalised by their sum, with random signs (Barthe et al., "A probabilistic approach to the
    geometry of the l_p^n-ball", Annals of Probability 2005).

    Args:
        shape: `[batch, ...]`.
        eps: Radii, `[batch]`.
        order: 1, 2 or inf.
        seed: Two integers.

    Returns:
        float32 tensor of that shape.
    """
    shape = tf.convert_to_tensor(shape)
    batch, features = shape[0], tf.reduce_prod(shape[1:])
    seeds = tf.random.split(seed, 3)
    radius = tf.reshape(tf.cast(eps, tf.float32), [-1, 1])
    flat = [batch, features]
    if order == math.inf:
        points = tf.random.stateless_uniform(flat, seeds[0], -1.0, 1.0)
    elif order == 2:
        points = tf.random.stateless_normal(flat, seeds[0])
        length = tf.random.stateless_uniform([batch, 1], seeds[1])
        points = normalize(points, 2) * length ** (1.0 / tf.cast(features, tf.float32))
    else:
        uniform = tf.random.stateless_uniform(flat, seeds[0], minval=1e-7, maxval=1.0)
        last = tf.random.stateless_uniform([batch, 1], seeds[1], minval=1e-7, maxval=1.0)
        sizes = -tf.math.log(uniform)
        sizes /= tf.reduce_sum(sizes, axis=1, keepdims=True) - tf.math.log(last)
        positive = tf.random.stateless_uniform(flat, seeds[2]) < 0.5
        points = tf.where(positive, sizes, -sizes)
    return tf.reshape(points * radius, shape)
