"""What a Classifier makes of models that quantise or draw, which no attack knows of."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks, evaluate
from kerasrobust.engine import backward
from kerasrobust.engine.classifier import Classifier

FEATURES, CLASSES = 24, 4
PGD = "pgd:eps=0.08,eps_step=0.02,max_iter=12"


@keras.saving.register_keras_serializable("test")
class Quantise(keras.layers.Layer):
    """Eight levels; offers every gradient."""

    gradients = backward.MODES

    def call(self, x):
        def levels(x):  # sign has a gradient: zero
            steps = [tf.sign(x - (k + 0.5) / 7.0) + 1.0 for k in range(7)]
            return tf.add_n(steps) / 14.0

        def near(x):  # a smooth staircase
            return x - tf.sin(2 * np.pi * 7.0 * x) / (2 * np.pi * 7.0) * 0.9

        return backward.substitute(x, levels, near)


@keras.saving.register_keras_serializable("test")
class Jitter(keras.layers.Layer):
    """Noise at inference, from the layer's own generator."""

    def __init__(self, stddev, **kwargs):
        super().__init__(**kwargs)
        self.stddev = stddev
        self.generator = keras.random.SeedGenerator(5)

    def call(self, x):
        return x + keras.random.normal(tf.shape(x), stddev=self.stddev, seed=self.generator)


def build(*front):
    """A linear classifier behind some layers."""
    draw = np.random.default_rng(3)
    model = keras.Sequential([keras.Input((FEATURES,)), *front, keras.layers.Dense(CLASSES)])
    weights = draw.normal(size=(FEATURES, CLASSES)).astype(np.float32)
    model.layers[-1].set_weights([weights, -weights.mean(axis=0)])
    return model


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).uniform(0.2, 0.8, (60, FEATURES)).astype(np.float32)
    return x, build().predict(x, verbose=0).argmax(axis=1)


def test_each_gradient_of_a_quantising_layer(data):
    """Exact: none to follow. The three others: that of what stands for the layer."""
    x, _ = data
    model = build(Quantise())
    y = model.predict(x, verbose=0).argmax(axis=1)
    weights = model.layers[-1].get_weights()[0]
    gradients = {}
    for mode in backward.MODES:
        classifier = Classifier(model, gradient=mode)
        points = tf.constant(x)
        logits, _, gradient = classifier.gradient(points, lambda z: z[:, 1])
        gradients[mode] = gradient.numpy()
        clean = model.predict(x, verbose=0)
        if mode != "ignore":  # the forward pass is the defended one
            np.testing.assert_allclose(logits, clean, rtol=1e-6, atol=1e-6)
        else:
            bare = x @ weights + model.layers[-1].get_weights()[1]
            np.testing.assert_allclose(logits, bare, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(
                classifier.judging.predict(x), Classifier(model).predict(x)
            )
    assert not gradients["exact"].any()
    through = np.tile(weights[:, 1], (len(x), 1))
    np.testing.assert_allclose(gradients["straight_through"], through, rtol=1e-6)
    np.testing.assert_allclose(gradients["ignore"], through, rtol=1e-6)
    slope = 1 - 0.9 * np.cos(2 * np.pi * 7.0 * x.astype(np.float64))
    np.testing.assert_allclose(gradients["surrogate"], through * slope, rtol=1e-3, atol=1e-4)

    left = {
        mode: evaluate(Classifier(model, gradient=mode), x, y, attacks=PGD).robust_accuracy
        for mode in backward.MODES
    }
    assert left["exact"] == 1.0  # masked
    assert left["straight_through"] < 0.2 and left["ignore"] < 0.4 and left["surrogate"] < 0.4


def test_a_gradient_that_no_layer_offers_is_refused():
    with pytest.raises(ValueError, match="exact one only.*Received: gradient='straight_through'"):
        Classifier(build(), gradient="straight_through")
    with pytest.raises(ValueError, match="Received: gradient='bpda'"):
        Classifier(build(Quantise()), gradient="bpda")


@pytest.mark.parametrize("draws", [1, 10, 100])
def test_gradients_are_means_over_stateless_draws(data, draws):
    x, y = data
    model = build(Jitter(0.3), keras.layers.Activation("tanh"))
    state = model.layers[0].generator.state
    before = state.numpy().copy()
    classifier = Classifier(model, draws=draws, votes=1)
    classifier.randomised = True
    key = tf.constant([3, 4])

    def once(key):
        return classifier.gradient(tf.constant(x), lambda z: z[:, 0] ** 2, key=key)[2].numpy()

    gradient = once(key)
    np.testing.assert_array_equal(gradient, once(key))
    assert (gradient != once(tf.constant([3, 5]))).any()
    np.testing.assert_array_equal(state.numpy(), before)  # the model's own seeds stay
    # The mean of single draws, made one by one by the keys that the loop makes.
    fold = tf.random.experimental.stateless_fold_in
    single = Classifier(model)
    single.randomised = True
    keys = [key] if draws == 1 else [fold(key, i) for i in range(draws)]
    parts = [single.gradient(tf.constant(x), lambda z: z[:, 0] ** 2, key=k)[2] for k in keys]
    np.testing.assert_allclose(gradient, np.mean(parts, axis=0), rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_more_draws_make_a_stronger_attack_and_cost_what_they_cost(data):
    x, _ = data
    model = build(Jitter(0.4), keras.layers.Activation("tanh"))
    left, costs = [], []
    for draws in (1, 10, 100):
        classifier = Classifier(model, draws=draws, votes=15)
        classifier.randomised = True
        y = classifier.judge(x)[0]
        result = attacks.get(PGD).bind(classifier).run(x, y)
        again = attacks.get(PGD).bind(classifier).run(x, y)
        np.testing.assert_array_equal(result.x_adv, again.x_adv)
        np.testing.assert_array_equal(result.labels, again.labels)
        left.append(1 - result.success.mean())
        costs.append(result.gradients.max())
    assert costs == [12, 120, 1200]
    assert left[2] <= left[1] + 0.05 and left[1] < left[0] + 0.05


def test_votes_are_a_majority(data):
    x, _ = data
    model = build(Jitter(0.5))
    classifier = Classifier(model, votes=9)
    classifier.randomised = True
    labels, _, _ = classifier.judge(x, key=(1, 0))
    counts = np.zeros((len(x), CLASSES))
    for vote in range(9):
        counts[np.arange(len(x)), classifier.predict(x, key=(1, vote)).argmax(axis=1)] += 1
    np.testing.assert_array_equal(labels, counts.argmax(axis=1))
    key, counts = tf.constant([0, 1]), np.zeros((len(x), CLASSES))
    for vote in range(9):
        one = tf.random.experimental.stateless_fold_in(key, vote)
        chosen = classifier.logits(tf.constant(x), key=one).numpy().argmax(axis=1)
        counts[np.arange(len(x)), chosen] += 1
    in_graph, accepted = classifier.decide(tf.constant(x), key)
    assert accepted is None
    np.testing.assert_array_equal(in_graph, counts.argmax(axis=1))


def test_judged_by_another_model(data):
    x, y = data
    easy, hard = build(), build()
    kernel, bias = hard.layers[-1].get_weights()
    hard.layers[-1].set_weights([kernel + 0.5, bias - 6.0])
    attack = attacks.get(PGD).bind(Classifier(easy, judge=hard))
    result = attack.run(x)
    np.testing.assert_array_equal(result.y, hard.predict(x, verbose=0).argmax(axis=1))
    np.testing.assert_array_equal(
        result.labels, hard.predict(result.x_adv, verbose=0).argmax(axis=1)
    )
    own = attacks.get(PGD).bind(easy).run(x, result.y)
    np.testing.assert_allclose(own.x_adv, result.x_adv, atol=1e-6)
