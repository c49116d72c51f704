"""DeepFool, FAB and the C&W attacks against closed forms and beside ART and Foolbox."""

from __future__ import annotations

import eagerpy
import foolbox
import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks import evasion

from kerasrobust import art, attacks
from kerasrobust.attacks import hyperplanes
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.state import COUNTERS, EXECUTED

N = 24
INF = np.inf
DUAL = {1: INF, 2: 2, INF: 1}


def affine(kernel, bias):
    """A model `x @ kernel + bias` on flat inputs, with a box that is far away."""
    model = keras.Sequential([keras.Input((len(kernel),)), keras.layers.Dense(len(bias))])
    model.layers[-1].set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    model.clip_values = (-10.0, 10.0)
    return model


def label(model, x):
    return model.predict(x, verbose=0).argmax(axis=1)


CLOSED = [
    ("deepfool", {}, 2),
    ("fab", {"norm": INF, "max_iter": 50}, INF),
    ("fab", {"norm": 2, "max_iter": 50}, 2),
    ("fab", {"norm": 1, "max_iter": 50}, 1),
]


@pytest.mark.parametrize(("name", "settings", "norm"), CLOSED)
def test_two_classes_in_20_dimensions(name, settings, norm):
    """The distance to the hyperplane, `|f(x)| / ||w||_q`."""
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(20, 2)), rng.normal(size=(16, 20)).astype(np.float32)
    # Away from the boundary: DeepFool lengthens each step by 1e-4 of the width of the box.
    model = affine(kernel, np.array([8.0, 0.0]))
    scores = model.predict(x, verbose=0)
    normal = kernel[:, 0] - kernel[:, 1]
    exact = np.abs(scores[:, 0] - scores[:, 1]) / np.linalg.norm(normal, DUAL[norm])
    result = attacks.get(name, **settings).bind(model).run(x, scores.argmax(axis=1))
    assert result.success.all()
    ratio = result.distance(norm) / exact
    assert ratio.min() >= 1 - 1e-4 and ratio.max() <= 1.05


@pytest.mark.parametrize(("name", "settings", "norm"), CLOSED)
def test_nearest_of_ten_classes(name, settings, norm):
    rng = np.random.default_rng(1)
    kernel, x = rng.normal(size=(20, 10)), rng.normal(size=(16, 20)).astype(np.float32)
    model = affine(kernel, rng.normal(size=10))
    scores = model.predict(x, verbose=0)
    y = scores.argmax(axis=1)
    gaps = scores[np.arange(16), y][:, None] - scores
    lengths = np.linalg.norm(kernel[:, :, None] - kernel[:, None], DUAL[norm], axis=0)[:, y].T
    with np.errstate(invalid="ignore"):
        exact = np.nanmin(np.where(gaps > 0, gaps, INF) / lengths, axis=1)
    result = attacks.get(name, **settings).bind(model).run(x, y)
    assert result.success.all()
    # The nearest hyperplane is at least as near as the nearest region of another class.
    ratio = result.distance(norm) / exact
    assert ratio.min() >= 1 - 1e-4 and np.median(ratio) <= 1.05


def test_one_step_of_deepfool_is_the_papers():
    """`(|f_l| / ||w_l|| + 1e-4 width) * w_l / ||w_l||`, times the overshoot, in NumPy."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(6, 8)), rng.normal(size=(8, 4))
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", use_bias=False),
            keras.layers.Dense(4, use_bias=False),
        ]
    )
    model.set_weights([first.astype(np.float32), second.astype(np.float32)])
    model.clip_values = (-1.0, 1.0)
    x = rng.uniform(-0.3, 0.3, (5, 6)).astype(np.float32)
    hidden = np.tanh(x @ first)
    scores = hidden @ second
    y = scores.argmax(axis=1)
    expected = np.zeros((5, 6))
    for i in range(5):
        jacobian = first @ np.diag(1 - hidden[i] ** 2) @ second
        best = INF
        for k in set(range(4)) - {y[i]}:
            w, f = jacobian[:, k] - jacobian[:, y[i]], scores[i, k] - scores[i, y[i]]
            if abs(f) / np.linalg.norm(w) < best:
                best = abs(f) / np.linalg.norm(w)
                expected[i] = x[i] + 1.1 * (best + 2e-4) * w / np.linalg.norm(w)
    assert np.abs(expected).max() < 1  # else the box cuts it
    attack = attacks.get("deepfool", max_iter=1, epsilon=0.1).bind(model)
    ours = attack.perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0])).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


def nearest(classifier, x, y, norm, nb_grads):
    """Gaps, normals and the gradients counted."""
    attack = attacks.get("fab", norm=norm, nb_grads=nb_grads).bind(classifier)
    counters = {name: tf.zeros([len(x)], tf.int32) for name in (*COUNTERS, *EXECUTED)}

    @tf.function(autograph=False)
    def call(x, y, key):
        view = classifier.view(key=key)
        return hyperplanes.nearest(attack, view, {"y": y, **counters}, x, nb_grads)[1:]

    gaps, normals, state = call(tf.constant(x), tf.constant(y, tf.int32), tf.constant([0, 0]))
    return gaps.numpy(), normals.numpy(), state["gradients"].numpy()


@pytest.mark.parametrize(("norm", "nb_grads"), [(INF, 22), (2, 46), (1, 100)])
def test_nearest_of_many_boundaries_in_numpy(norm, nb_grads):
    """In two and more blocks, of the likeliest classes and of all; each class is to be left once.

    Large normals make the boundaries of unlikely classes the nearest of all as often as others.
    """
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(6, 60)) * np.linspace(1, 10, 60)
    bias = -kernel.sum(axis=0) / 2
    x, y = rng.uniform(size=(60, 6)).astype(np.float32), np.arange(60)
    scores = x @ kernel + bias
    others = np.where(np.eye(60, dtype=bool), -INF, scores)
    rank = np.argsort(-others, axis=1)[:, : min(nb_grads, 60) - 1]
    gaps = np.take_along_axis(scores, rank, 1) - scores[y, y][:, None]
    normals = kernel.T[rank] - kernel.T[:, None]
    place = np.argmin(np.abs(gaps) / np.linalg.norm(normals, DUAL[norm], axis=2), axis=1)
    assert place.min() == 0 and place.max() == rank.shape[1] - 1
    classifier = Classifier(affine(kernel, bias), (0.0, 1.0))
    gap, normal, counted = nearest(classifier, x, y, norm, nb_grads)
    np.testing.assert_allclose(gap, gaps[y, place], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(normal, normals[y, place], rtol=1e-4, atol=1e-4)
    assert (counted == rank.shape[1]).all()


class NoisyScores(keras.layers.Layer):
    """Scores in another order at each call, whose gradients do not change."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, scores):
        return scores + 5 * keras.random.normal(keras.ops.shape(scores), seed=self.seeds)


def test_means_over_draws_are_of_one_class():
    rng = np.random.default_rng(4)
    kernel, x = rng.normal(size=(6, 5)), rng.uniform(size=(8, 6)).astype(np.float32)
    y = np.zeros(8, int)
    inner = affine(kernel, 50.0 * np.eye(5)[0])
    model = keras.Sequential([keras.Input((6,)), *inner.layers, NoisyScores()])
    classifier = Classifier(model, (0.0, 1.0), draws=4)
    _, normal, counted = nearest(classifier, x, y, 2, 3)
    apart = normal[:, None] - (kernel.T[1:] - kernel.T[:1])
    assert np.abs(apart).max(axis=2).min(axis=1).max() < 1e-5
    assert (counted == 4 * 2).all()


@pytest.mark.slow
def test_fab_with_single_classes_and_restarts(digits_model, digits):
    """Nine classes one by one are about as near as all at once; restarts never lose."""
    x, y = digits[0][:N], digits[1][:N]
    model = digits_model

    def median(**settings):
        attack = attacks.get("fab", **{"norm": 2, "max_iter": 20, **settings}).bind(model)
        result = attack.run(x, y)
        assert result.success.all()
        return np.median(result.l2), result

    once, plain = median()
    single, by_class = median(nb_target_classes=9)
    assert single <= once * 1.1
    # One backward pass per step, not one per other class.
    steps = (~plain.initially_adversarial).sum() * 20
    assert plain.gradients.sum() == steps * 9
    assert by_class.gradients.sum() == steps * 9
    again, more = median(restarts=3)
    assert (more.l2 <= plain.l2 + 1e-5).all() and again <= once
    _, early = median(restarts=3, early_stop=True, eps=0.8)
    assert early.gradients.sum() < more.gradients.sum() / 2
    np.testing.assert_array_equal(early.l2 <= 0.8, more.l2 <= 0.8)


def test_messages():
    with pytest.raises(ValueError, match="cannot aim at a class. Received: targeted=True"):
        attacks.get("deepfool", targeted=True)
    with pytest.raises(ValueError, match="`beta` must be in 0..1. Received: beta=1.2"):
        attacks.get("fab", beta=1.2)
    with pytest.raises(ValueError, match="leave `nb_target_classes` out"):
        attacks.get("fab", targeted=True, nb_target_classes=3)
    with pytest.raises(ValueError, match="Received: nb_target_classes=9"):
        attacks.get("fab", nb_target_classes=9).bind(affine(np.ones((3, 2)), np.zeros(2)))


# ---- beside ART and Foolbox -----------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:N], digits[1][:N]


@pytest.fixture
def foolbox_model(digits_model, monkeypatch):
    """The network up to its logits in Foolbox."""
    # eagerpy 0.30 calls a function that NumPy 2 has dropped.
    dropped = "find_common_type"
    monkeypatch.setattr(np, dropped, lambda a, s: np.result_type(*a, *s), raising=False)
    model = keras.Sequential.from_config(digits_model.get_config())
    model.layers[-1].activation = keras.activations.linear
    model.set_weights(digits_model.get_weights())
    return foolbox.models.TensorFlowModel(model, bounds=(0, 1))


def outcome(model, x, y, x_adv, norm):
    """Successes and the median distance with failures as infinite."""
    fooled = label(model, x_adv) != y
    distance = np.linalg.norm((x_adv - x).reshape(len(x), -1), ord=norm, axis=1)
    distance = np.where(label(model, x) != y, 0.0, np.where(fooled, distance, INF))
    return fooled.sum(), np.median(distance)


def assert_as_strong(ours, theirs):
    print("ours", ours, "theirs", theirs)
    assert ours[0] >= theirs[0] - 2 and ours[0] > N // 2
    assert ours[1] <= theirs[1] * 1.03


@pytest.mark.slow
def test_deepfool_is_as_strong_as_arts(digits_model, samples):
    x, y = samples
    rival = evasion.DeepFool(art.classifier(digits_model), epsilon=0.02, verbose=False)
    theirs = outcome(digits_model, x, y, rival.generate(x), 2)
    ours = attacks.get("deepfool").bind(digits_model).generate(x, y)
    assert_as_strong(outcome(digits_model, x, y, ours, 2), theirs)


def test_deepfool_is_as_strong_as_foolboxs(digits_model, foolbox_model, samples):
    x, y = samples
    inputs, labels = eagerpy.astensors(tf.constant(x), tf.constant(y, tf.int32))
    _, found, _ = foolbox.attacks.L2DeepFoolAttack()(foolbox_model, inputs, labels, epsilons=None)
    theirs = outcome(digits_model, x, y, found.numpy(), 2)
    ours = attacks.get("deepfool").bind(digits_model).generate(x, y)
    assert_as_strong(outcome(digits_model, x, y, ours, 2), theirs)
