"""e2SAD against its formulas in NumPy and plain TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import (
    AdversarialTraining,
    Batch,
    Context,
    E2sad,
    LabelSmoothing,
    RobustModel,
)
from kerasrobust.defenses.training.e2sad import dissimilarity
from kerasrobust.engine.classifier import Classifier

CE = "sparse_categorical_crossentropy"
A, L, E1, E2 = 0.2, 0.4, 0.3, 0.1


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def soft_labels(y, soft):
    return np.where(np.eye(3)[y] > 0, soft, (1 - soft) / 2)


def adversaries(x, targets, weights):
    """Both points of the entropy reading for softmax regression, in NumPy."""
    kernel, bias = np.float64(weights[0]), np.float64(weights[1])
    first = np.clip(x + E1 * np.sign((softmax(x @ kernel + bias) - targets) @ kernel.T), 0, 1)
    p = softmax(first @ kernel + bias)
    entropy = -(p * np.log(p)).sum(axis=1, keepdims=True)
    upstream = -p * (np.log(p) + entropy)  # the gradient of the entropy by the logits
    return first, np.clip(first + E2 * np.sign(upstream @ kernel.T), 0, 1), upstream @ kernel.T


def crafted(link, base, x, y, step=0):
    """What `prepare` makes of a batch, and its context."""
    model = RobustModel(base, [link])
    x, y = tf.constant(x), tf.constant(y)
    context = Context(model, tf.constant(step), x)
    return link.prepare(Batch(x, y, y, model.clip_values), context), context


@pytest.mark.parametrize("soft", [0.75, 1.0])
@pytest.mark.parametrize("one_hot", [False, True])
def test_loss_and_step_equal_the_formula(linear, points, weights, soft, mode, one_hot):
    x, y = points
    base = linear()
    model = RobustModel(base, [E2sad(A, L, E1, E2, soft)])
    loss = "categorical_crossentropy" if one_hot else CE
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], **mode)
    labels = np.eye(3, dtype="float32")[y] if one_hot else y
    history = model.fit(x, labels, batch_size=9, shuffle=False, verbose=0).history

    targets = soft_labels(y, soft)
    first, second, _ = adversaries(x, targets, weights)
    assert np.abs(second - x).max() > E1 + 0.05  # x2 is not held in a ball around x
    kernel, bias = (tf.Variable(np.float64(value)) for value in weights)
    with tf.GradientTape() as tape:

        def log_p(inputs):
            return tf.nn.log_softmax(tf.constant(inputs, tf.float64) @ kernel + bias)

        def cross_entropy(inputs):
            return -tf.reduce_sum(targets * log_p(inputs), axis=1)

        distance = -tf.reduce_sum(tf.exp(log_p(first)) * log_p(second), axis=1)
        value = tf.reduce_mean(A * cross_entropy(x) + (1 - A) * cross_entropy(first) + L * distance)
    np.testing.assert_allclose(history["loss"], [value], rtol=1e-5)
    for got, start, gradient in zip(
        base.get_weights(), weights, tape.gradient(value, [kernel, bias]), strict=True
    ):
        np.testing.assert_allclose(got, start - 0.1 * gradient, atol=1e-6)
    # Measured on the clean pass, against the labels as they came.
    hits = (x @ weights[0] + weights[1]).argmax(1) == y
    np.testing.assert_allclose(history["accuracy"], [hits.mean()], rtol=1e-6)


def test_the_dissimilarity_is_differentiated_in_both_arguments():
    a, b = tf.constant([[0.3, -1.0, 2.0]]), tf.constant([[1.0, 0.5, -0.5]])
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        value = dissimilarity(a, b)
    p, q = softmax(a.numpy()), softmax(b.numpy())
    cost = -np.log(q)
    np.testing.assert_allclose(value, (p * cost).sum(1), rtol=1e-6)
    by_a, by_b = tape.gradient(value, [a, b])
    np.testing.assert_allclose(by_a, p * (cost - (p * cost).sum()), rtol=1e-5)
    np.testing.assert_allclose(by_b, q - p, rtol=1e-5)


def test_the_literal_gradient_is_rounding_noise_and_entropy_is_its_formula(linear, points, weights):
    x, y = points
    first, _, expected = adversaries(x, soft_labels(y, 0.75), weights)
    classifier, at = Classifier(linear()), tf.constant(first, tf.float32)
    entropy = classifier.gradient(at, lambda z: dissimilarity(z, z))[2].numpy()
    literal = classifier.gradient(at, lambda z: dissimilarity(tf.stop_gradient(z), z))[2].numpy()
    np.testing.assert_allclose(entropy, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.02
    assert np.abs(literal).max() < 2e-7


@pytest.mark.parametrize("second_step", ["entropy", "random_start", "literal"])
def test_points_of_each_reading(linear, points, weights, second_step):
    x, y = points
    link = E2sad(A, L, E1, E2, second_step=second_step, xi=0.2)
    batch, context = crafted(link, linear(), x, y, step=5)
    targets = soft_labels(y, 0.75)
    np.testing.assert_allclose(batch.y, targets, rtol=1e-6)
    np.testing.assert_array_equal(batch.labels, y)
    first, second, _ = adversaries(x, targets, weights)
    np.testing.assert_allclose(batch.extras["e2sad_first"], first, atol=1e-6)
    got = batch.extras["e2sad_second"].numpy()
    if second_step == "entropy":
        np.testing.assert_allclose(got, second, atol=1e-6)
    elif second_step == "random_start":
        reach = 0.2 * E2
        noise = tf.random.stateless_uniform([9, 4], context.seed("e2sad"), -reach, reach).numpy()
        assert 0.5 * reach < np.abs(noise).max() <= reach
        near = np.clip(first + noise, 0, 1)
        kernel, bias = np.float64(weights[0]), np.float64(weights[1])
        gap = softmax(near @ kernel + bias) - softmax(first @ kernel + bias)
        wanted = np.clip(first + E2 * np.sign(gap @ kernel.T), 0, 1)
        # Where the two predictions differ by next to nothing the sign is that of the rounding.
        clear = np.abs(gap @ kernel.T) > 1e-6
        assert clear.mean() > 0.9
        np.testing.assert_allclose(got[clear], wanted[clear], atol=1e-6)
    else:
        steps = np.abs(got - first)
        inside = (first > E2) & (first < 1 - E2)
        near_zero_or_full = np.minimum(steps, np.abs(steps - E2))
        np.testing.assert_allclose(near_zero_or_full[inside], 0, atol=1e-6)
    assert got.min() >= 0 and got.max() <= 1


def test_without_dissimilarity_it_is_fgsm_training(cnn, images):
    results = []
    for link in (
        E2sad(alpha=0.3, lam=0.0, eps1=0.1, soft=1.0),
        AdversarialTraining("fgsm:eps=0.1", alpha=0.3),
    ):
        base = cnn(batch_norm=True)
        model = RobustModel(base, [link])
        model.compile(keras.optimizers.SGD(0.1), CE)
        model.fit(*images, batch_size=10, shuffle=False, verbose=0)
        results.append(base.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


class Passes(keras.layers.Layer):
    """Writes down how it was called; eager mode only."""

    seen: list = []

    def call(self, inputs, training=False):
        Passes.seen.append(bool(training))
        return inputs


@pytest.mark.parametrize(
    ("arguments", "crafting", "trained"),
    [
        ({}, 2, 3),
        ({"alpha": 0.0}, 2, 2),
        ({"lam": 0.0}, 1, 2),
        ({"second_step": "random_start"}, 3, 3),
    ],
)
def test_no_hidden_pass(points, arguments, crafting, trained):
    inputs = keras.Input((4,))
    base = keras.Model(inputs, keras.layers.Dense(3, "softmax")(Passes()(inputs)))
    model = RobustModel(base, [E2sad(**arguments)])
    model.compile("sgd", CE, metrics=["accuracy"], run_eagerly=True)
    logs = model.train_on_batch(*points, return_dict=True)
    Passes.seen.clear()
    model.train_on_batch(*points)
    assert Passes.seen == [False] * crafting + [True] * trained
    name = "accuracy" if arguments.get("alpha", 1) else "adversarial_accuracy"
    assert set(logs) == {"loss", name}


@pytest.mark.parametrize("crafting", ["inference", "training"])
def test_crafting_moves_no_statistic(cnn, images, crafting):
    x, y = images
    base = cnn(batch_norm=True, dropout=0.3)
    model = RobustModel(base, [E2sad(crafting=crafting, batch_norm="stateless")])
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    mean = features.predict(x, verbose=0).mean(axis=(0, 1, 2))
    model.compile(keras.optimizers.SGD(0.0), CE)
    model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
    np.testing.assert_allclose(base.get_layer("norm").moving_mean, 0.5 * mean, atol=1e-6)


def test_a_confident_float16_model_keeps_its_steps(points):
    """Gradients of 1e-8 and less, below what float16 can hold, still have their sign."""
    x, y = points
    kernel = np.array([[9, -9, 0], [6, 3, -9], [-3, 6, -3], [8, -8, 1]], "float32")
    firsts = []
    for policy in ("float32", "mixed_float16"):
        layers = [
            keras.layers.Dense(3, dtype=policy),
            keras.layers.Softmax(dtype="float32"),
        ]
        base = keras.Sequential([keras.Input((4,)), *layers])
        base.set_weights([kernel, np.array([9, 0, -9], "float32")])
        label = (x @ kernel + [9, 0, -9]).argmax(1)
        batch, _ = crafted(E2sad(soft=1.0), base, x, label)
        firsts.append([batch.extras[f"e2sad_{name}"].numpy() for name in ("first", "second")])
    for one, other in zip(*firsts, strict=True):
        assert (np.abs(one - x).max(axis=1) > 0.05).all()
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_labels_are_smoothed_once(linear, points):
    with pytest.raises(ValueError, match="both smooth the labels; give 'e2sad' soft=1"):
        RobustModel(linear(), [E2sad(), LabelSmoothing()])
    results = []
    for links in ([E2sad(soft=0.6)], [E2sad(soft=1.0), LabelSmoothing(k=0.6)]):
        base = linear()
        model = RobustModel(base, links)
        model.compile(keras.optimizers.SGD(0.1), CE)
        model.fit(*points, batch_size=9, shuffle=False, verbose=0)
        results.append(base.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    model = RobustModel(linear(), [E2sad(soft=0.3)])
    model.compile("sgd", CE)
    with pytest.raises(ValueError, match="above 1 / 3.*Received: soft=0.3"):
        model.fit(*points, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.0}, "below 1. Received: alpha=1.0"),
        ({"lam": -0.1}, "Received: lam=-0.1"),
        ({"eps1": -1}, "Received: eps1=-1"),
        ({"eps2": "x"}, "Received: eps2='x'"),
        ({"soft": 0}, "Received: soft=0"),
        ({"soft": 1.5}, "at most 1. Received: soft=1.5"),
        ({"xi": 0.0}, "Received: xi=0.0"),
        ({"second_step": "third"}, "must be one of.*second_step='third'"),
        ({"crafting": "stateless"}, "must be one of.*crafting='stateless'"),
        ({"batch_norm": "off"}, "must be one of.*batch_norm='off'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        E2sad(**arguments)
