"""The attacks on scores or labels alone against closed forms, SciPy and TensorFlow."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import fft

from kerasrobust import attacks, losses
from kerasrobust.attacks import square, zoo
from kerasrobust.engine import drivers
from kerasrobust.engine.classifier import Classifier


@pytest.fixture(scope="module")
def hyperplane():
    """A linear two-class model in 20 dimensions, points, and their distances to the hyperplane."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=20), 0.3
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(2)])
    model.set_weights([np.stack([-w, w], axis=1).astype(np.float32), np.array([-b, b], np.float32)])
    x = rng.normal(size=(12, 20)).astype(np.float32)
    return Classifier(model, (-20.0, 20.0)), x, np.abs(x @ w + b) / np.linalg.norm(w)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hsja", {"max_eval": 500}),
        pytest.param("boundary", {"max_iter": 400}, marks=pytest.mark.slow),
        pytest.param("signopt", {"num_trial": 20, "k": 100}, marks=pytest.mark.slow),
    ],
)
def test_decision_attacks_come_near_a_hyperplane(name, settings, hyperplane):
    model, x, exact = hyperplane
    result = attacks.get(name, max_queries=5000, **settings).bind(model).run(x)
    assert result.queries.max() <= 5000
    assert (result.l2 >= exact * (1 - 1e-4)).all()
    assert np.median(result.l2 / exact) <= 1.15
    assert (result.l2 / exact).max() <= 1.3


@pytest.mark.slow
def test_zoo_comes_near_a_hyperplane(hyperplane):
    """With all coordinates in every step it is C&W's attack without its change of variables."""
    model, x, exact = hyperplane
    # Rate and constant are in the unit of the box.
    width = model.clip_values[1] - model.clip_values[0]
    settings = {"max_iter": 100, "binary_search_steps": 6, "variable_h": 0.01}
    settings.update(learning_rate=0.1 / width, initial_const=0.1 / width**2)
    for solver in ("adam", "newton"):
        attack = attacks.get("zoo", solver=solver, **settings)
        result = attack.bind(model).run(x)
        assert (result.l2 >= exact * (1 - 1e-4)).all()
        assert np.median(result.l2 / exact) <= 1.15


def test_zoos_differences_are_the_gradient(digits_model, digits):
    x, y = tf.constant(digits[0][:6]), tf.constant(digits[1][:6], tf.int32)
    model = Classifier.of(digits_model)
    attack = attacks.get("zoo", variable_h=1e-2, initial_const=1.0, confidence=50.0).bind(model)
    inside = tf.clip_by_value(x, 0.1, 0.9)
    leaves = {"x": inside, "y": y, "done": tf.zeros([6], tf.bool)}
    params = attack.params()
    state = drivers.Machine(attack, model).initialise(leaves, params, tf.constant([0, 0]))
    view = model.view(attack.access)
    index = tf.repeat(tf.range(64)[None], 6, axis=0)
    first, second, state = attack._derivatives(
        view, state, params, state["k"], index, tf.ones([6, 64], tf.bool)
    )
    own = tf.one_hot(y, 10)

    def margin(z):
        return tf.reduce_sum(z * own, 1) - tf.reduce_max(z - 1e9 * own, 1)

    expected = tf.reshape(model.gradient(inside, margin)[2], [6, 64]).numpy()
    # Away from the kinks of the ReLUs, which a difference over +-0.01 may straddle.
    close = np.abs(first.numpy() - expected) <= 1e-2 * np.abs(expected).max()
    assert close.mean() >= 0.9
    np.testing.assert_array_equal(state["queries"], 1 + 2 * 64)


@pytest.mark.parametrize(("side", "size"), [(32, 64), (32, 50), (64, 224)])
def test_zoos_interpolation_is_tensorflows(side, size):
    image = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    matrix = zoo._resize(side, size, side)
    expected = tf.image.resize(image[..., None], (size, size))[..., 0]
    np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-4)


@pytest.mark.slow
def test_zoo_carries_the_noise_to_a_larger_space(monkeypatch):
    """Short schedule, a linear model on 70x70 images: it still reaches the boundary."""
    monkeypatch.setattr(zoo, "ENLARGE_AFTER", (3, 6))
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((70, 70, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    smooth = np.outer(np.sin(np.arange(70) / 10), np.cos(np.arange(70) / 10)).reshape(-1, 1)
    model.layers[-1].set_weights([np.hstack([smooth, -smooth]) / 10, np.array([0.5, 0.0])])
    x = rng.uniform(0.4, 0.6, (3, 70, 70, 1)).astype(np.float32)
    attack = attacks.get(
        "zoo", max_iter=12, initial_const=10.0, learning_rate=0.05, variable_h=0.01, seed=1
    )
    result = attack.bind(model).run(x)
    assert result.success.all()
    # 128 coordinates of the enlarged space change more pixels than there were coordinates.
    assert (result.l0 > 12 * 128).all()


@pytest.mark.parametrize("basis", ["px", "dct"])
def test_simbas_basis(basis):
    attack = attacks.get("simba", attack=basis)
    vectors = attack._basis(tf.range(4 * 6 * 3), (4, 6, 3)).numpy()
    flat = vectors.reshape(72, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(72), atol=1e-5)
    if basis == "dct":
        unit = np.eye(72).reshape(72, 4, 6, 3)
        np.testing.assert_allclose(vectors, fft.idctn(unit, axes=(1, 2), norm="ortho"), atol=1e-6)


def test_simbas_order_begins_with_the_lowest_frequencies():
    groups = attacks.get("simba", freq_dim=2, stride=2)._groups((6, 6, 1)).reshape(6, 6)
    expected = np.full((6, 6), 2.0)
    expected[:4, :4] = 1
    expected[:2, :2] = 0
    np.testing.assert_array_equal(groups, expected)


def test_simba_on_a_linear_model_takes_one_step_per_vector():
    """Every pixel lowers the score one way: in each step the right sign is kept."""
    w = np.linspace(-1, 1, 64).astype(np.float32)
    w[w == 0] = 0.1
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.layers[-1].set_weights([np.stack([w, -w], axis=1), np.array([50.0, 0.0], np.float32)])
    x = np.full((3, 8, 8, 1), 0.5, np.float32)
    attack = attacks.get("simba", attack="px", epsilon=0.25, max_iter=64).bind(model)
    out = attack.perturb(tf.constant(x), tf.zeros([3], tf.int32), seed=tf.constant([0, 0])).numpy()
    np.testing.assert_allclose((out - x).reshape(3, 64), np.tile(-0.25 * np.sign(w), (3, 1)))


@pytest.mark.parametrize("norm", [math.inf, 2])
def test_square_looks_the_same_whichever_axis_the_channels_are(norm):
    inputs = keras.Input((6, 9, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    first = keras.Sequential([keras.Input((3, 6, 9)), keras.layers.Permute((2, 3, 1)), model])
    x = np.random.default_rng(0).uniform(0.3, 0.7, (4, 6, 9, 3)).astype(np.float32)
    y = model.predict(x, verbose=0).argmin(axis=1)
    attack = attacks.get("square", norm=norm, eps=0.2, max_iter=20, targeted=True)
    expected = attack.bind(model).generate(x, y)
    found = attack.bind(first).generate(np.moveaxis(x, -1, 1), y)
    assert np.abs(expected - x).max() > 0
    np.testing.assert_allclose(np.moveaxis(found, 1, -1), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["square", "simba"])
def test_what_is_no_image_is_refused_before_any_work(name):
    """AutoAttack on a table, say."""
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"needs images .* Received: samples of shape \(12,\)"):
        attacks.get(name).bind(model)


def test_squares_schedule():
    """As in the authors' program: sides at each of 10,000 iterations of a 28x28 image."""
    bounds = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    for norm in (math.inf, 2):
        sides = attacks.get("square", norm=norm)._sides(28, 28)
        for level in range(len(bounds) + 1):
            side = max(round(math.sqrt(0.8 / 2**level * 784)), 1 if norm == math.inf else 3)
            side += norm == 2 and side % 2 == 0
            assert sides[level] == min(side, 28)


@pytest.mark.parametrize("side", [1, 3, 5, 11])
def test_squares_bump_is_two_pyramids_of_opposite_sign(side):
    bump = square._bump(side)
    np.testing.assert_allclose(np.linalg.norm(bump), 1, rtol=1e-6)
    assert (bump[: side // 2] > 0).all() and (bump[side // 2 :] < 0).all()
    if side > 1:
        np.testing.assert_allclose((bump[: side // 2] ** 2).sum(), 0.5, rtol=1e-5)


def test_square_l2_spends_the_whole_budget_where_the_box_is_far(digits_model, digits):
    x, y = tf.constant(digits[0][:8] * 0.2 + 0.4), tf.constant(digits[1][:8], tf.int32)
    moved = []
    for steps in (1, 20):
        attack = attacks.get("square", norm=2, eps=0.3, max_iter=steps).bind(digits_model)
        out = attack.perturb(x, y, seed=tf.constant([0, 0]))
        length = tf.norm(tf.reshape(out - x, [8, -1]), axis=1).numpy()
        # Nothing that was tried helped the others, which stay where they are.
        np.testing.assert_allclose(length[length > 0], 0.3, rtol=1e-4)
        moved.append(int((length > 0).sum()))
    assert min(moved) > 0


def test_square_starts_where_that_helps_and_leaves_the_misclassified_alone(digits_model, digits):
    x, y = digits[0][:16], (digits[1][:16] + (np.arange(16) < 4)) % 10
    for norm, eps in ((2, 0.3), (np.inf, 0.05)):
        attack = attacks.get("square", norm=norm, eps=eps, max_iter=1).bind(digits_model)
        found = attack.run(x, y)
        assert found.initially_adversarial[:4].all()
        np.testing.assert_array_equal(found.x_adv[:4], x[:4])
        assert (found.queries[:4] == 3).all()  # two that judge and one that sees that it is so

        before, after = (
            losses.margin(tf.constant(attack.bound.predict(points)), tf.constant(y, tf.int32))
            for points in (x, found.x_adv)
        )
        moved = (found.x_adv != x).any(axis=(1, 2, 3))
        assert 0 < moved[4:].sum() < 12
        assert (after.numpy() < before.numpy())[moved].all()
