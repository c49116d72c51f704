"""Virtual adversarial training against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import (
    Batch,
    Context,
    RobustModel,
    VirtualAdversarialTraining,
    wrap,
)

CE = "sparse_categorical_crossentropy"


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def start_of(model, x, jit=False):
    """The normal draws from which the iterations of the first step begin."""

    @tf.function(jit_compile=jit)
    def draw(x):
        seed = Context(model, tf.constant(0), x).seed("vat")
        return tf.random.stateless_normal(x.shape, seed)

    return np.float64(draw(tf.constant(x)).numpy())


def crafted(model, x, y, step=0):
    """`x + r` as the first step, or another one, makes it."""
    x, y = tf.constant(x), tf.constant(y)
    context = Context(model, tf.constant(step), x)
    return model.defenses[0].prepare(Batch(x, y, y, (0.0, 1.0)), context).extras["vat"].numpy()


@pytest.mark.parametrize(
    ("eps", "mode"), [(0.15, {"run_eagerly": True}), (1.9, {}), (0.15, {"jit_compile": True})]
)
def test_loss_and_update_equal_numpy(linear, points, weights, eps, mode):
    """The iterations, the clipping, and a gradient that does not flow through the clean side."""
    x, y = points
    kernel, bias = np.float64(weights[0]), np.float64(weights[1])
    base = linear()
    link = VirtualAdversarialTraining(eps=eps, xi=0.2, max_iter=2, alpha=3.0)
    model = RobustModel(base, [link], seed=5)
    model.compile(keras.optimizers.SGD(0.1), CE, metrics=["accuracy"], **mode)
    weight = np.linspace(0.5, 2.0, 9)
    history = model.fit(x, y, sample_weight=weight, batch_size=9, shuffle=False, verbose=0).history

    p = softmax(x @ kernel + bias)
    d = start_of(model, x, jit="jit_compile" in mode)
    for _ in range(3):
        d /= np.linalg.norm(d, axis=1, keepdims=True)
        last, d = d, (softmax((x + 0.2 * d) @ kernel + bias) - p) @ kernel.T
    moved = x + eps * last
    assert (eps > 1) == ((moved < 0) | (moved > 1)).any()
    moved = np.clip(moved, 0, 1)
    q = softmax(moved @ kernel + bias)
    divergence = (p * np.log(p / q)).sum(axis=1)
    assert divergence.mean() > 1e-4
    values = -np.log(p[np.arange(9), y]) + 3.0 * divergence
    np.testing.assert_allclose(history["loss"], [(values * weight).mean()], rtol=1e-5)
    share = weight[:, None] / 9
    to_label, to_clean = (p - np.eye(3)[y]) * share, 3.0 * (q - p) * share
    expected = [
        kernel - 0.1 * (x.T @ to_label + moved.T @ to_clean),
        bias - 0.1 * (to_label + to_clean).sum(axis=0),
    ]
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6)
    np.testing.assert_allclose(history["accuracy"], [(p.argmax(1) == y).mean()], rtol=1e-6)


def test_direction_is_unit_label_free_and_drawn_anew(cnn, images):
    x = 0.4 + 0.2 * images[0]  # far enough from the bounds
    model = wrap(cnn(), "vat:eps=0.2")
    first = crafted(model, x, images[1])
    length = np.linalg.norm((first - x).reshape(20, -1), axis=1)
    np.testing.assert_allclose(length, 0.2, rtol=1e-4)
    np.testing.assert_array_equal(first, crafted(model, x, 2 - images[1]))
    assert np.abs(crafted(model, x, images[1], step=1) - first).max() > 0.01


@pytest.mark.parametrize("max_iter", [1, 3])
def test_passes(images, max_iter):
    """One at x and one per iteration to craft; one at x, shared with the loss, one at x + r."""
    calls = []

    class Counts(keras.layers.Layer):
        def call(self, x):
            calls.append(x.shape)
            return x

    inputs = keras.Input((6, 6, 1))
    flat = keras.layers.Flatten()(Counts()(inputs))
    base = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(flat))
    model = wrap(base, "vat", max_iter=max_iter)
    model.compile("sgd", CE, metrics=["accuracy"], run_eagerly=True)
    model.train_on_batch(*images)  # builds
    calls.clear()
    model.train_on_batch(*images)
    assert len(calls) == 1 + max_iter + 2


@pytest.mark.parametrize("crafting", ["inference", "training"])
@pytest.mark.parametrize("mode", ["training", "inference", "stateless"])
def test_batch_norm_of_the_passes(cnn, images, crafting, mode):
    """Crafting moves no statistic; the pass at `x + r` does if it is asked to."""
    x, y = images
    base = cnn(batch_norm=True)
    link = VirtualAdversarialTraining(eps=2.0, max_iter=1, crafting=crafting, batch_norm=mode)
    model = RobustModel(base, [link])
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    parts = (x, crafted(model, x, y))
    means = [features.predict(part, verbose=0).mean(axis=(0, 1, 2)) for part in parts]
    assert np.abs(means[0] - means[1]).max() > 1e-3
    model.compile(keras.optimizers.SGD(0.0), CE, run_eagerly=True)
    model.train_on_batch(x, y)
    expected = 0.5 * means[0]
    if mode == "training":
        expected = 0.5 * expected + 0.5 * means[1]
    np.testing.assert_allclose(base.get_layer("norm").moving_mean.numpy(), expected, atol=1e-5)


def test_direction_survives_float16(points, weights):
    """Divergences of confident predictions have gradients below what float16 can tell from 0."""
    x, y = points
    moved = {}
    for policy in ("float32", "mixed_float16"):
        layer = keras.layers.Dense(3, activation="softmax", dtype=policy)
        model = keras.Sequential([keras.Input((4,)), layer])
        model.set_weights([weights[0], np.float32([14.0, 0.0, 0.0])])
        link = VirtualAdversarialTraining(eps=0.1, xi=0.5, max_iter=2)
        moved[policy] = crafted(RobustModel(model, [link]), x, y) - x
    cosine = (moved["float32"] * moved["mixed_float16"]).sum(axis=1) / 0.01
    assert cosine.min() > 0.99


def test_a_single_output_unit_counts_as_two_classes(points):
    x, y = points
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    base.set_weights([np.float32([[1], [-2], [0.5], [1]]), np.zeros(1, "float32")])
    model = wrap(base, "vat:eps=0.1,max_iter=1")
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    z = base.predict(x, verbose=0)[:, 0]
    moved = base.predict(crafted(model, x, y % 2), verbose=0)[:, 0]
    # One direction is left, that of the weights.
    np.testing.assert_allclose(np.abs(moved - z), 0.1 * np.sqrt(6.25), rtol=1e-3)
    loss = model.train_on_batch(x, y % 2)
    p, q = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-moved))
    values = np.log1p(np.exp(np.where(y % 2, -z, z)))
    values += p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(loss, values.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "`eps` must be a number > 0. Received: eps=0.0"),
        ({"xi": 0}, "`xi` must be a number > 0. Received: xi=0"),
        ({"max_iter": 0}, "integer >= 1. Received: max_iter=0"),
        ({"alpha": -1.0}, "Received: alpha=-1.0"),
        ({"crafting": "stateless"}, "must be one of.*crafting='stateless'"),
        ({"batch_norm": "off"}, "must be one of.*batch_norm='off'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VirtualAdversarialTraining(**arguments)


def test_two_that_craft_are_refused(linear):
    with pytest.raises(ValueError, match="cannot be combined: both craft adversaries"):
        wrap(linear(), ["vat", "adversarial_training"])
