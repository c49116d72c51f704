"""Norms, projections and random points, against NumPy, scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, stats

from kerasrobust import norms

ORDERS = [1, 2, math.inf]
SHAPES = [(5, 7), (4, 3, 2), (3, 4, 4, 3), (2, 2, 3, 2, 2)]
every_order = pytest.mark.parametrize("order", ORDERS)


def tensor(value):
    return tf.constant(value, tf.float32)


def flat(value):
    value = np.asarray(value, np.float64)
    return value.reshape(len(value), -1)


def project_l1(v, eps):
    """Projection onto the L1 ball by bisection of the threshold, in float64."""
    size = np.abs(v)
    if size.sum() <= eps:
        return v
    low, high = 0.0, size.max()
    for _ in range(200):
        middle = (low + high) / 2
        if np.maximum(size - middle, 0).sum() > eps:
            low = middle
        else:
            high = middle
    return np.sign(v) * np.maximum(size - high, 0)


@pytest.mark.parametrize(
    "given, expected",
    [(1, 1.0), (2, 2.0), ("2", 2.0), ("l2", 2.0), ("inf", math.inf), ("Linf", math.inf)],
)
def test_check_norm(given, expected):
    assert norms.check_norm(given) == expected


@pytest.mark.parametrize("given", [3, 0, "max", None, True, math.nan, -1, [2]])
def test_check_norm_refuses(given):
    with pytest.raises(ValueError, match=r"must be one of 1, 2, inf\. Received: norm="):
        norms.check_norm(given)


def test_check_norm_names_what_is_allowed():
    with pytest.raises(ValueError, match=r"must be one of 2, inf\. Received: norm=1"):
        norms.check_norm(1, (2.0, math.inf))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("order", [0, *ORDERS])
def test_norm_equals_numpys(order, shape):
    x = np.random.default_rng(0).normal(size=shape)
    x[0, 0] = 0
    expected = np.linalg.norm(flat(x), order, axis=1)
    np.testing.assert_allclose(norms.norm(tensor(x), order), expected, rtol=1e-5)


@every_order
def test_normalize(order):
    x = np.random.default_rng(1).normal(size=(6, 3, 4)) * 10.0 ** np.array(
        [-30, -20, 0, 3, 20, 30]
    ).reshape(-1, 1, 1)
    unit = flat(norms.normalize(tensor(x), order))
    np.testing.assert_allclose(np.linalg.norm(unit, order, axis=1), 1, rtol=1e-5)
    direction = flat(x) / np.linalg.norm(flat(x), order, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, direction, atol=1e-6)


@every_order
def test_zero_stays_zero(order):
    zero, eps = tf.zeros([2, 3, 3]), tensor([0.0, 1.0])
    for result in (
        norms.normalize(zero, order),
        norms.project(zero, eps, order),
        norms.ascent_direction(zero, eps, order, zero - 1, zero + 1),
    ):
        np.testing.assert_array_equal(result, np.zeros((2, 3, 3)))


@every_order
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_projection_inside_on_and_outside_the_ball(order, shape):
    rng = np.random.default_rng(2)
    delta = rng.normal(size=shape).astype(np.float32)
    length = np.linalg.norm(flat(delta), order, axis=1)
    inside = norms.project(tensor(delta), tensor(length * 1.5), order)
    np.testing.assert_allclose(inside, delta, rtol=1e-6)
    on = norms.project(tensor(delta), tensor(length), order)
    np.testing.assert_allclose(on, delta, rtol=1e-5, atol=1e-6)
    outside = norms.project(tensor(delta), tensor(length / 3), order)
    np.testing.assert_allclose(np.linalg.norm(flat(outside), order, axis=1), length / 3, rtol=1e-5)
    nothing = norms.project(tensor(delta), tf.zeros([shape[0]]), order)
    np.testing.assert_array_equal(nothing, np.zeros(shape))


@every_order
def test_projection_is_the_nearest_point_of_the_ball(order):
    """Against scipy: the ball in split variables `d = p - n`, `p, n >= 0`."""
    rng = np.random.default_rng(3)
    for eps in (0.3, 1.0, 2.5):
        v = rng.normal(size=5)
        got = norms.project(tensor(v[None]), tensor([eps]), order).numpy()[0]
        if order == 1:
            limits = {"type": "ineq", "fun": lambda s, eps=eps: eps - s.sum()}
        elif order == 2:
            limits = {
                "type": "ineq",
                "fun": lambda s, eps=eps: eps**2 - ((s[:5] - s[5:]) ** 2).sum(),
            }
        else:
            limits = {"type": "ineq", "fun": lambda s, eps=eps: eps - s}
        best = optimize.minimize(
            lambda s, v=v: ((s[:5] - s[5:] - v) ** 2).sum() + 1e-9 * (s**2).sum(),
            np.full(10, 0.01),
            method="SLSQP",
            bounds=[(0, None)] * 10,
            constraints=limits,
            options={"ftol": 1e-13, "maxiter": 500},
        )
        np.testing.assert_allclose(got, best.x[:5] - best.x[5:], atol=3e-4)


@pytest.mark.parametrize("features", [1, 2, 10, 3072])
def test_l1_projection_equals_a_bisection_of_its_threshold(features):
    rng = np.random.default_rng(4)
    v = rng.normal(size=(8, features))
    v[0] = 1.0  # ties
    v[1, : features // 2] = 0.0
    eps = rng.uniform(0.1, 3, size=8)
    expected = np.stack([project_l1(row, e) for row, e in zip(v, eps, strict=True)])
    np.testing.assert_allclose(norms.project(tensor(v), tensor(eps), 1), expected, atol=2e-5)


@every_order
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_projection_of_tiny_and_huge_values(order, scale):
    rng = np.random.default_rng(5)
    v = rng.normal(size=(4, 6))
    small = flat(norms.project(tensor(v), tf.ones([4]), order))
    scaled = flat(norms.project(tensor(v * scale), tf.fill([4], scale), order))
    np.testing.assert_allclose(scaled / scale, small, atol=1e-5)


@pytest.mark.parametrize("order, dual", [(2, 2), (math.inf, 1)])
def test_ascent_reaches_the_dual_norm(order, dual):
    """`max <g, d>` over `||d||_p <= length` is `length * ||g||_q`."""
    g = np.random.default_rng(6).normal(size=(5, 3, 4))
    length = np.array([0.1, 0.5, 1.0, 2.0, 0.0])
    wide = tf.fill([5, 3, 4], 1e9)
    step = flat(norms.ascent_direction(tensor(g), tensor(length), order, -wide, wide))
    gain = (flat(g) * step).sum(axis=1)
    np.testing.assert_allclose(gain, length * np.linalg.norm(flat(g), dual, axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(step, order, axis=1), length, rtol=1e-5)


def test_l1_ascent_is_optimal_inside_the_box():
    """Against a linear programme in `d = p - n` with `sum(p + n) <= length`."""
    rng = np.random.default_rng(7)
    g = rng.normal(size=(12, 6))
    lower, upper = -rng.uniform(0, 0.6, size=(12, 6)), rng.uniform(0, 0.6, size=(12, 6))
    upper[0], lower[1] = 0.0, 0.0
    length = rng.uniform(0.1, 3.0, size=12)
    step = norms.ascent_direction(tensor(g), tensor(length), 1, tensor(lower), tensor(upper))
    step = np.asarray(step, np.float64)
    for i in range(12):
        best = optimize.linprog(
            np.concatenate([-g[i], g[i]]),
            A_ub=np.ones((1, 12)),
            b_ub=[length[i]],
            bounds=[*((0, u) for u in upper[i]), *((0, -v) for v in lower[i])],
        )
        assert (g[i] * step[i]).sum() == pytest.approx(-best.fun, abs=1e-5)
    assert (step <= upper + 1e-6).all() and (step >= lower - 1e-6).all()
    assert (np.abs(step).sum(axis=1) <= length + 1e-5).all()


def test_equal_gradients_share_the_l1_step():
    """Each takes the same part of its room; larger ones come first, smaller ones get nothing."""
    g = tensor([[2.0, -2.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    upper = tensor([[0.4, 0.2, 0.1, 0.5, 0.5]] * 2)
    step = norms.ascent_direction(g, tensor([0.4, 0.4]), 1, -upper, upper)
    np.testing.assert_allclose(step, [[0.2, -0.1, 0.1, 0, 0], [0, 0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("features", [1, 2, 50, 3072])
def test_entries_of_a_rank_equal_sorting(features):
    rng = np.random.default_rng(3)
    size = rng.integers(0, 20, size=(6, features)) * 10.0 ** rng.integers(-30, 30, size=(6, 1))
    size = size.astype(np.float32)
    rank = rng.integers(1, features + 1, size=(6, 1)).astype(np.int32)
    expected = np.take_along_axis(-np.sort(-size, axis=1), rank - 1, axis=1)
    got = norms.of_rank(tensor(size), tf.constant(rank))
    # Numbers below the normal ones count as zero on a CPU, and one of them may stand for it.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2.0**-126)


@pytest.mark.parametrize("jit", [False, True])
def test_samples_and_entries_are_selected(jit):
    rng = np.random.default_rng(4)
    x, y = (rng.normal(size=(5, 3, 2)).astype(np.float32) for _ in range(2))
    select = tf.function(norms.select, jit_compile=jit)
    for condition in (rng.random(5) > 0.5, rng.random((5, 3, 2)) > 0.5, np.bool_(True)):
        wide = condition[:, None, None] if condition.shape == (5,) else condition
        got = select(tf.constant(condition), tensor(x), tensor(y))
        np.testing.assert_array_equal(got, np.where(wide, x, y))


@every_order
def test_ascent_ignores_entries_that_are_not_finite(order):
    g = tensor([[np.nan, 1.0, np.inf, -2.0]])
    clean = tensor([[0.0, 1.0, 0.0, -2.0]])
    box = tf.ones_like(g)
    step = norms.ascent_direction(g, tensor([0.5]), order, -box, box)
    expected = norms.ascent_direction(clean, tensor([0.5]), order, -box, box)
    np.testing.assert_array_equal(step, expected)
    assert np.isfinite(step).all() and np.abs(step).max() > 0


@every_order
def test_ascent_does_not_lose_tiny_gradients(order):
    g = np.random.default_rng(8).normal(size=(1, 9))
    box = tf.ones([1, 9])
    for scale in (1e-25, 1e25):
        step = norms.ascent_direction(tensor(g * scale), tensor([0.5]), order, -box, box)
        expected = norms.ascent_direction(tensor(g), tensor([0.5]), order, -box, box)
        np.testing.assert_allclose(step, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(4000, 3), (4000, 2, 3), (2000, 4, 4, 3)], ids=str)
@every_order
def test_random_points_fill_the_ball_evenly(order, shape):
    """In `d` dimensions the share of a ball within the radius `r` is `r^d`."""
    points = flat(norms.random_in_ball(shape, tf.fill([shape[0]], 0.7), order, (3, 4)))
    radius = np.linalg.norm(points, order, axis=1) / 0.7
    assert radius.max() <= 1 + 1e-6
    features = points.shape[1]
    assert stats.kstest(radius**features, "uniform").pvalue > 1e-3
    spread = points.std() / math.sqrt(len(points))
    assert np.abs(points.mean(axis=0)).max() < 4.5 * spread
    # Entries are exchangeable and symmetric.
    assert stats.ks_2samp(points[:, 0], -points[:, -1]).pvalue > 1e-3


def test_random_points_differ_in_radius_by_sample_and_depend_on_the_seed():
    eps = tensor([0.0, 0.5, 2.0])
    for order in ORDERS:
        first = norms.random_in_ball((3, 4, 4), eps, order, (0, 1))
        again = norms.random_in_ball((3, 4, 4), eps, order, (0, 1))
        other = norms.random_in_ball((3, 4, 4), eps, order, (0, 2))
        np.testing.assert_array_equal(first, again)
        assert (first.numpy()[1:] != other.numpy()[1:]).any()
        np.testing.assert_array_equal(first[0], np.zeros((4, 4)))
        assert np.linalg.norm(flat(first)[2], order) > 0.5


@every_order
def test_compiled_by_xla_equals_eager(order):
    rng = np.random.default_rng(9)
    x, eps = tensor(rng.normal(size=(4, 3, 5))), tensor(rng.uniform(0.2, 2, size=4))

    def everything(x, eps):
        return (
            norms.norm(x, order),
            norms.normalize(x, order),
            norms.project(x, eps, order),
            norms.ascent_direction(x, eps, order, -tf.ones_like(x), tf.ones_like(x)),
        )

    compiled = tf.function(everything, jit_compile=True, autograph=False)(x, eps)
    for a, b in zip(everything(x, eps), compiled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@every_order
def test_random_points_compiled_by_xla(order):
    """XLA draws other numbers from the same seed; they fill the same ball."""
    eps = tf.fill([2000], 0.7)
    draw = tf.function(norms.random_in_ball, jit_compile=True, autograph=False)
    points = flat(draw((2000, 3, 2), eps, order, tf.constant([3, 4])))
    radius = np.linalg.norm(points, order, axis=1) / 0.7
    assert radius.max() <= 1 + 1e-6
    assert stats.kstest(radius**6, "uniform").pvalue > 1e-3


def test_an_open_batch_size_keeps_the_other_axes():
    @tf.function(input_signature=[tf.TensorSpec([None, 3, 4]), tf.TensorSpec([None])])
    def graph(x, eps):
        assert norms.flatten(x).shape.as_list() == [None, 12]
        return norms.project(x, eps, 1)

    x = np.random.default_rng(10).normal(size=(5, 3, 4))
    expected = norms.project(tensor(x), tf.ones([5]), 1)
    np.testing.assert_allclose(graph(tensor(x), tf.ones([5])), expected, atol=1e-6)
