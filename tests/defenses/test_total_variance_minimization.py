"""Total variance minimization against SciPy, ART and finite differences."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from kerasrobust import Classifier
from kerasrobust.defenses import TotalVarianceMinimization, wrap
from kerasrobust.engine import backward

NORMS = (1, 2, np.inf)
every_norm = pytest.mark.parametrize("norm", NORMS)


def images(n=2, side=6, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, side, side + 1, channels)).astype("float32")
    return x, (rng.uniform(size=x.shape) < 0.5).astype("float32")


def objective(z, x, mask, norm, lamb):
    """Of images `[n, height, width, channels]`, as the formula has it, in NumPy."""
    total = np.zeros(len(z))
    for k in range(z.shape[-1]):
        a, b, m = (np.float64(one[..., k]) for one in (z, x, mask))
        total += np.linalg.norm((m * (a - b)).reshape(len(a), -1), axis=1)
        total += lamb * np.linalg.norm(a[:, 1:] - a[:, :-1], norm, axis=2).sum(axis=1)
        total += lamb * np.linalg.norm(a[:, :, 1:] - a[:, :, :-1], norm, axis=1).sum(axis=1)
    return total


def least(x, mask, norm, lamb):
    """SciPy's minimiser for one image of one channel: SLSQP, with a variable above each norm."""
    side = x.shape[1:3]
    n = np.prod(side)

    def above(z):
        """What the sum has to be above of: the length first, then the variation."""
        z = z.reshape(side)
        apart = np.sqrt(np.sum((mask[0, ..., 0] * (z - x[0, ..., 0])) ** 2) + 1e-14)
        vectors = [*(z[1:] - z[:-1]), *(z[:, 1:] - z[:, :-1]).T]
        if norm == 2:
            return np.array([apart, *(np.sqrt(np.sum(one**2) + 1e-14) for one in vectors)])
        return np.concatenate([[apart], *(sign * one for sign in (1, -1) for one in vectors)])

    lengths = [side[1]] * (side[0] - 1) + [side[0]] * (side[1] - 1)
    if norm == 2:
        owner = np.arange(len(lengths))
    elif norm == 1:
        owner = np.tile(np.arange(sum(lengths)), 2)
    else:
        owner = np.tile(np.repeat(np.arange(len(lengths)), lengths), 2)
    owner = np.concatenate([[0], owner + 1])
    weights = np.full(owner.max() + 1, lamb)
    weights[0] = 1
    start = np.concatenate([np.reshape(x, -1), np.full(len(weights), 1.0)]).astype("float64")
    found = scipy.optimize.minimize(
        lambda v: weights @ v[n:],
        start,
        jac=lambda v: np.concatenate([np.zeros(n), weights]),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda v: v[n:][owner] - above(v[:n])},
        options={"maxiter": 300, "ftol": 1e-9},
    )
    return found.x[:n].reshape(x.shape)


@every_norm
@pytest.mark.parametrize("lamb", [pytest.param(0.05, marks=pytest.mark.slow), 0.3])
def test_it_is_the_minimum(norm, lamb):
    """As low as SciPy's, and nothing near by is lower."""
    x, mask = images(side=4)
    layer = TotalVarianceMinimization(norm=norm, lamb=lamb, tol=1e-3, max_iter=5000)
    found = layer.minimize(x, mask)
    assert found.converged.numpy().all()
    np.testing.assert_allclose(
        found.objective, objective(found.points, x, mask, norm, lamb), rtol=1e-4
    )
    for k in range(len(x)):
        one = slice(k, k + 1)
        other = objective(least(x[one], mask[one], norm, lamb), x[one], mask[one], norm, lamb)
        assert found.objective[k] <= 1.001 * other[0]
        assert other[0] < 1.02 * found.objective[k]  # SciPy has got there too
    # Near by it is no lower.
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 1e-1):
        moved = found.points + size * rng.normal(size=x.shape)
        assert (objective(moved, x, mask, norm, lamb) > 0.999 * found.objective.numpy()).all()


@pytest.mark.parametrize("norm", [1, 2])
def test_below_arts_with_its_mask(norm):
    from art.defences.preprocessor import TotalVarMin

    x, _ = images(3, 10, 3)
    np.random.seed(3)  # noqa: NPY002
    theirs, _ = TotalVarMin(norm=norm, lamb=0.1, max_iter=200, clip_values=(0, 1))(x)
    np.random.seed(3)  # noqa: NPY002
    mask = np.stack([np.random.rand(*one.shape) < 0.3 for one in x])  # noqa: NPY002
    found = TotalVarianceMinimization(norm=norm, lamb=0.1).minimize(x, mask)
    assert found.converged.numpy().all()
    assert (found.objective <= objective(theirs, x, mask, norm, 0.1)).numpy().all()


def test_channels_and_images_are_apart():
    x, mask = images(3, 6, 3)
    layer = TotalVarianceMinimization(lamb=0.1)
    whole = layer.minimize(x, mask)
    for i in range(3):
        one = layer.minimize(x[i : i + 1], mask[i : i + 1])
        np.testing.assert_allclose(one.points[0], whole.points[i], atol=1e-5)
        for k in range(3):
            alone = layer.minimize(x[i : i + 1, ..., k : k + 1], mask[i : i + 1, ..., k : k + 1])
            np.testing.assert_allclose(alone.points[0, ..., 0], whole.points[i, ..., k], atol=1e-5)


def test_where_it_has_not_converged_it_says_so():
    x, mask = images(4, 12)
    short = TotalVarianceMinimization(lamb=0.2, max_iter=10, tol=1e-4).minimize(x, mask)
    assert not short.converged.numpy().any()
    long = TotalVarianceMinimization(lamb=0.2, max_iter=3000, tol=1e-4).minimize(x, mask)
    assert long.converged.numpy().all() and (long.objective < short.objective).numpy().all()
    # A flat image is its own minimiser.
    flat = TotalVarianceMinimization(max_iter=1).minimize(np.full_like(x, 0.25), mask)
    assert flat.converged.numpy().all()
    np.testing.assert_allclose(flat.points, 0.25, atol=1e-6)


def test_a_channel_of_which_nothing_is_kept():
    x, mask = images(2)
    found = TotalVarianceMinimization().minimize(x, 0 * mask)
    np.testing.assert_array_equal(found.points, np.full_like(x, 0.5))
    assert found.converged.numpy().all()


@every_norm
def test_gradient_is_that_of_the_minimiser(norm):
    """Finite differences of minimisers, each found anew; where there is one only."""
    x, mask = images(1, 5, seed=3)
    layer = TotalVarianceMinimization(norm=norm, lamb=0.3, max_iter=2000, tol=1e-6)
    weights = np.random.default_rng(4).normal(size=x.shape).astype("float32")
    solve = tf.function(layer.minimize)
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = tf.reduce_sum(weights * solve(given, mask).points)
    slope = tape.gradient(value, given).numpy()
    assert not slope[mask == 0].any()  # what is thrown away has no part in it
    assert np.abs(slope).max() > 0.2
    h = 4e-3
    for place in np.argwhere(mask > 0)[::3]:
        at = [x.copy(), x.copy()]
        at[0][tuple(place)] += h
        at[1][tuple(place)] -= h
        above, below = (np.sum(weights * solve(tf.constant(one), mask).points) for one in at)
        np.testing.assert_allclose(slope[tuple(place)], (above - below) / (2 * h), atol=0.01)


def test_one_draw_for_output_and_gradient():
    x, _ = images(2, 6)
    given = tf.constant(x)

    def layer():
        return TotalVarianceMinimization(lamb=0.1, max_iter=10)

    mask = layer().draw(given)["mask"].numpy()
    expected = layer().minimize(x, mask).points.numpy()
    for mode in ("exact", "surrogate", "straight_through"):
        with backward.mode(mode), tf.GradientTape() as tape:
            tape.watch(given)
            y = layer()(given)
        slope = tape.gradient(y, given).numpy()
        np.testing.assert_array_equal(y, expected)
        if mode == "straight_through":
            np.testing.assert_array_equal(slope, 1)
        else:
            # Only kept values have a gradient, and they are those of the output.
            assert not slope[mask == 0].any() and slope.any()


def test_share_of_kept_values():
    x = np.zeros((50, 20, 20, 1), "float32")
    for prob in (0.3, 0.8, 1.0):
        mask = TotalVarianceMinimization(prob=prob).draw(tf.constant(x))["mask"].numpy()
        assert set(np.unique(mask)) <= {0.0, 1.0} and abs(mask.mean() - prob) < 0.01


def test_a_classifier_draws_by_the_key_of_a_pass(cnn, images):
    x, _ = images
    seen = Classifier(wrap(cnn(), "tvm:lamb=0.1,max_iter=10"), draws=2)
    seen.look_for_draws(x)
    assert seen.randomised and seen.repeatable
    first, again, other = (seen.predict(x, key=key) for key in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
