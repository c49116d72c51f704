"""The projection onto a hyperplane inside the box, against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize

from kerasrobust import norms

DUAL = {1: np.inf, 2: 2, np.inf: 1}
every_order = pytest.mark.parametrize("order", DUAL)


def project(x, normal, gap, order, box=(0.0, 1.0), jit=False):
    def call(x, normal, gap):
        return norms.project_onto_hyperplane(x, normal, gap, order, box)

    arguments = [tf.constant(value, tf.float32) for value in (x, normal, gap)]
    return tf.function(call, jit_compile=jit)(*arguments).numpy().astype(np.float64)


@every_order
def test_far_from_the_box_it_is_the_dual_norm(order):
    """`|gap| / ||normal||_q`, the distance to a hyperplane."""
    rng = np.random.default_rng(0)
    normal, gap = rng.normal(size=(16, 5, 4)), rng.normal(size=16)
    step = project(np.zeros((16, 5, 4)), normal, gap, order, (-1e3, 1e3)).reshape(16, -1)
    flat = normal.reshape(16, -1)
    np.testing.assert_allclose((flat * step).sum(axis=1), gap, rtol=1e-4)
    expected = np.abs(gap) / np.linalg.norm(flat, DUAL[order], axis=1)
    np.testing.assert_allclose(np.linalg.norm(step, order, axis=1), expected, rtol=1e-4)


@every_order
@pytest.mark.parametrize("jit", [False, True])
def test_inside_the_box_it_is_what_scipy_finds(order, jit):
    rng = np.random.default_rng(1)
    n, d = 20, 8
    x, normal = rng.uniform(-1, 3, (n, d)), rng.normal(size=(n, d))
    normal[:, 0] = 0
    most = np.where(normal > 0, normal * (3 - x), normal * (-1 - x)).sum(axis=1)
    gap = most * rng.uniform(0.05, 0.98, n)  # the box is active for most of them
    step = project(x, normal, gap, order, (-1.0, 3.0), jit)
    assert (step[:, 0] == 0).all()
    assert ((x + step) >= -1 - 1e-6).all() and ((x + step) <= 3 + 1e-6).all()
    np.testing.assert_allclose((normal * step).sum(axis=1), gap, rtol=1e-4)
    for row in range(n):
        expected = smallest(x[row], normal[row], gap[row], order)
        assert np.linalg.norm(step[row], order) == pytest.approx(expected, rel=1e-4)


def smallest(x, normal, gap, order):
    """The Lp norm of the smallest step, by linear programming or SLSQP."""
    d = len(x)
    bounds = list(zip(-1 - x, 3 - x, strict=True))
    if order == 2:
        found = optimize.minimize(
            lambda s: s @ s,
            np.zeros(d),
            jac=lambda s: 2 * s,
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda s: normal @ s - gap, "jac": lambda s: normal},
            options={"ftol": 1e-12, "maxiter": 500},
            method="SLSQP",
        )
        assert found.success
        return np.sqrt(found.fun)
    sizes = d if order == 1 else 1  # variables: the step, and bounds on its absolute values
    above = np.hstack([np.eye(d), -np.eye(d) if order == 1 else -np.ones((d, 1))])
    below = np.hstack([-np.eye(d), above[:, d:]])
    found = optimize.linprog(
        np.r_[np.zeros(d), np.ones(sizes)],
        A_ub=np.vstack([above, below]),
        b_ub=np.zeros(2 * d),
        A_eq=np.r_[normal, np.zeros(sizes)][None],
        b_eq=[gap],
        bounds=[*bounds, *[(0, None)] * sizes],
    )
    assert found.success
    return found.fun


@every_order
def test_out_of_reach_it_goes_to_the_corner(order):
    x, normal = np.array([[0.2, 0.7, 0.5]]), np.array([[1.0, -2.0, 0.0]])
    step = project(x, normal, [9.0], order)
    np.testing.assert_allclose(step, [[0.8, -0.7, 0.0]], atol=1e-6)


@every_order
@pytest.mark.parametrize("scale", [0.0, 1e-35, 1e30])
def test_extreme_gradients_give_no_nan(order, scale):
    step = project([[0.2, 0.7]], [[scale, -scale]], [0.1 * scale], order)
    assert np.isfinite(step).all()
    if scale == 0:
        np.testing.assert_array_equal(step, 0)
