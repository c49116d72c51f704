"""Carlini & Wagner in L0 and Linf, and the stronger versions in L2."""

from __future__ import annotations

from itertools import combinations

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks import evasion

from kerasrobust import art, attacks
from kerasrobust.attacks import tanh_space
from kerasrobust.engine import drivers

N = 24
INF = np.inf


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:N], digits[1][:N]


def affine(kernel, bias, box):
    model = keras.Sequential([keras.Input((len(kernel),)), keras.layers.Dense(len(bias))])
    model.layers[-1].set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    model.clip_values = box
    return model


@pytest.mark.slow
def test_linf_on_a_hyperplane():
    """Near `|f(x)| / ||w||_1`, between the bound that works and the next smaller one."""
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(20, 2)), rng.uniform(-0.5, 0.5, (16, 20)).astype(np.float32)
    model = affine(kernel, np.array([3.0, 0.0]), (-1.0, 1.0))
    scores = model.predict(x, verbose=0)
    exact = np.abs(scores[:, 0] - scores[:, 1]) / np.abs(kernel[:, 0] - kernel[:, 1]).sum()
    attack = attacks.get("cwlinf", decrease_factor=0.98, learning_rate=0.005).bind(model)
    result = attack.run(x, scores.argmax(axis=1))
    ratio = result.linf / exact
    assert ratio.min() >= 1 - 1e-4 and np.median(ratio) <= 1.05


def test_fewest_values_of_a_linear_model():
    """Against all subsets of eight values, each of which may go to its edge of the box."""
    rng = np.random.default_rng(1)
    kernel, x = rng.normal(size=(8, 2)), rng.uniform(0.2, 0.8, (16, 8)).astype(np.float32)
    model = affine(kernel, np.array([1.0, 0.0]), (0.0, 1.0))
    y = model.predict(x, verbose=0).argmax(axis=1)
    exact = np.full(16, INF)
    for i in range(16):
        normal = kernel[:, 1 - y[i]] - kernel[:, y[i]]
        gap = x[i] @ normal + (1 if y[i] == 1 else -1)
        gain = np.where(normal > 0, normal * (1 - x[i]), -normal * x[i])
        for size in range(1, 9):
            if any(gap + gain[list(s)].sum() > 1e-3 for s in combinations(range(8), size)):
                exact[i] = size
                break
    result = attacks.get("cwl0", max_iter=200).bind(model).run(x, y)
    np.testing.assert_array_equal(result.success, np.isfinite(exact))
    assert (result.l0 >= exact).all()
    assert (result.l0 <= exact + 1).mean() >= 0.9 and np.mean(result.l0 == exact) >= 0.5


def test_first_adam_step_is_the_learning_rate():
    """As in the Keras optimizer, over three steps."""

    class Box:
        clip_values = (-2.0, 6.0)

    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 5, (3, 4)).astype(np.float32)
    state = {"k": tf.zeros([3], tf.int32), **tanh_space.init(Box, tf.constant(x))}
    np.testing.assert_allclose(tanh_space.point(Box, state), x, atol=1e-4)
    w = tf.Variable(state["w"])
    optimizer = keras.optimizers.Adam(0.1, epsilon=1e-8)
    for _ in range(3):
        with tf.GradientTape() as tape:
            point = -2.0 + 8.0 * (tf.tanh(w) + 1) / 2
            loss = tf.reduce_sum(point**3)
        optimizer.apply([tape.gradient(loss, w)], [w])
        state = tanh_space.adam(Box, state, 3 * tanh_space.point(Box, state) ** 2, 0.1)
        np.testing.assert_allclose(state["w"], w, rtol=1e-3, atol=1e-4)


# ---- the adaptive attacks of NsLoss ---------------------------------------------------------

SEARCH = {"max_iter": 20, "learning_rate": 0.2, "binary_search_steps": 4}


@pytest.mark.slow
def test_restarts_are_prefixes_of_one_another(classifier, samples):
    """So that accuracy against the number of restarts can only fall."""
    results = [
        attacks.get("cwl2", restarts=count, **SEARCH).bind(classifier).run(*samples)
        for count in (0, 1, 3)
    ]
    for fewer, more in zip(results, results[1:], strict=False):
        assert (more.l2 <= fewer.l2 + 1e-5).all()
        assert more.gradients.sum() > 1.5 * fewer.gradients.sum()
    assert results[2].l2.sum() < results[0].l2.sum()


@pytest.mark.slow
def test_restarts_leave_a_flat_neighbourhood():
    """A plateau around the samples has no gradient; a start outside it has one."""
    inputs = keras.Input((10,))
    size = keras.ops.sum(keras.ops.square(inputs), axis=1, keepdims=True)
    outside = keras.ops.maximum(size - 1.0, 0.0)
    # Class 1 where the squared distance from the origin is more than 2.
    model = keras.Model(inputs, keras.ops.concatenate([0.0 * size + 1.0, outside], axis=1))
    model.clip_values = (-3.0, 3.0)
    x, y = np.full((4, 10), 0.01, np.float32), np.zeros(4, int)
    search = {**SEARCH, "learning_rate": 0.01}
    plain = attacks.get("cwl2", **search).bind(model).run(x, y)
    assert not plain.success.any()
    started = attacks.get("cwl2", restarts=1, restart_radius=1.2, **search).bind(model).run(x, y)
    assert started.success.all()
    assert started.l2.max() < 1.6


def test_the_mean_gradient_sees_through_noise():
    """Ripples that hardly change the scores drown the gradient; their mean is near zero."""
    inputs = keras.Input((8, 8, 1))
    rippled = keras.layers.Flatten()(inputs + 0.02 * keras.ops.sin(200.0 * inputs))
    layer = keras.layers.Dense(10)
    model = keras.Model(inputs, layer(rippled))
    kernel = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    layer.set_weights([kernel, np.zeros(10, np.float32)])
    x = np.random.default_rng(1).uniform(0.2, 0.8, (N, 8, 8, 1)).astype(np.float32)
    scores = model.predict(x, verbose=0)
    y = scores.argmax(axis=1)
    second = np.where(np.eye(10)[y] > 0, -INF, scores).argmax(axis=1)
    smooth = (kernel[:, y] - kernel[:, second]).T

    def alignment(**settings):
        """Cosine between the attack's gradient and that of the model without ripples."""
        attack = attacks.get("cwl2", gradient_radius=1.0, **settings).bind(model)
        leaves = {
            "x": tf.constant(x),
            "y": tf.constant(y, tf.int32),
            "done": tf.zeros([N], tf.bool),
        }
        params, seed = attack.params(), tf.constant([0, 1])
        state = drivers.Machine(attack, attack.bound).initialise(leaves, params, seed)
        _, _, gradient, state = attack._gradient(
            attack.bound.view(), state, tf.constant(x), params, seed
        )
        gradient = gradient.numpy().reshape(N, -1)
        sizes = np.linalg.norm(gradient, axis=1) * np.linalg.norm(smooth, axis=1)
        return (gradient * smooth).sum(axis=1) / sizes, state

    plain, _ = alignment()
    mean, state = alignment(gradient_samples=64)
    assert np.median(plain) < 0.5 < 0.85 < np.median(mean)
    assert (state["gradients"].numpy() == 64).all() and (state["queries"].numpy() == 1).all()


def test_a_tiny_radius_changes_nothing(classifier, samples):
    plain = attacks.get("cwl2", **SEARCH).bind(classifier).run(*samples)
    tiny = attacks.get("cwl2", gradient_samples=3, gradient_radius=1e-7, **SEARCH)
    result = tiny.bind(classifier).run(*samples)
    assert abs(int(plain.success.sum()) - int(result.success.sum())) <= 1
    assert np.median(result.l2) == pytest.approx(np.median(plain.l2), rel=0.05)


# ---- beside ART -----------------------------------------------------------------------------


def outcome(model, x, y, x_adv, size):
    fooled = model.predict(x_adv, verbose=0).argmax(axis=1) != y
    wrong = model.predict(x, verbose=0).argmax(axis=1) != y
    return fooled.sum(), np.median(np.where(wrong, 0.0, np.where(fooled, size(x_adv - x), INF)))


def largest(delta):
    return np.abs(delta).reshape(len(delta), -1).max(axis=1)


def count(delta):
    return (np.abs(delta) > 1e-6).reshape(len(delta), -1).sum(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rival", "settings", "size"),
    [
        ("cwlinf", "CarliniLInfMethod", {"max_iter": 10, "initial_const": 1.0}, largest),
        (
            "cwl0",
            "CarliniL0Method",
            {"max_iter": 10, "initial_const": 1.0, "binary_search_steps": 3},
            count,
        ),
    ],
)
def test_as_strong_as_art(name, rival, settings, size, digits_model, samples):
    x, y = samples[0][:6], samples[1][:6]
    settings = {**settings, "learning_rate": 0.1}
    estimator = art.classifier(digits_model)
    original = getattr(evasion, rival)(estimator, verbose=False, **settings)
    theirs = outcome(digits_model, x, y, original.generate(x, y), size)
    ours = attacks.get(name, **settings).bind(digits_model).generate(x, y)
    ours = outcome(digits_model, x, y, ours, size)
    print(name, "ours", ours, "theirs", theirs)
    assert ours[0] >= theirs[0] and ours[0] >= 5
    assert ours[1] <= theirs[1] * 1.03


def test_messages():
    with pytest.raises(ValueError, match="`decrease_factor` must be less than 1"):
        attacks.get("cwlinf", decrease_factor=1.0)
    with pytest.raises(ValueError, match="`const_factor` must be a number > 1"):
        attacks.get("cwlinf", const_factor=1.0)
    with pytest.raises(ValueError, match="`restarts` must be an integer >= 0"):
        attacks.get("cwl2", restarts=-1)
