"""Minimax training against its formula with the gradient written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import Minimax, RobustModel, wrap

CE = "sparse_categorical_crossentropy"


def formula(x, y, weight, kernel, bias, eps, alpha, norm, penalty=1.0):
    """Loss and float64 gradients of softmax regression, whose `dJ/dx` is `(p - e_y) W^T`."""
    kernel, bias = tf.constant(kernel, tf.float64), tf.constant(bias, tf.float64)
    one_hot = tf.one_hot(y, 3, dtype=tf.float64)

    def terms(x):
        log_p = tf.nn.log_softmax(x @ kernel + bias)
        return -tf.reduce_sum(one_hot * log_p, 1), (tf.exp(log_p) - one_hot) @ tf.transpose(kernel)

    x = tf.constant(x, tf.float64)
    adversarial = tf.clip_by_value(x + eps * tf.sign(terms(x)[1]), 0, 1)
    with tf.GradientTape() as tape:
        tape.watch([kernel, bias])
        loss, gradient = terms(adversarial)
        length = tf.norm(gradient, ord=norm, axis=1)
        values = alpha * terms(x)[0] + (1 - alpha) * (loss + penalty * eps / 2 * length)
        total = tf.reduce_mean(weight * values)
    return float(total), [part.numpy() for part in tape.gradient(total, [kernel, bias])]


@pytest.mark.parametrize(("alpha", "norm"), [(0.3, 2), (0.0, 1)])
def test_loss_and_update_equal_the_formula(linear, points, weights, alpha, norm, mode):
    x, y = points
    weight = np.linspace(0.5, 2.0, 9)
    base = linear()
    model = RobustModel(base, [Minimax(eps=0.3, alpha=alpha, norm=norm)])
    model.compile(keras.optimizers.SGD(1.0), CE, metrics=["accuracy"], **mode)
    history = model.fit(x, y, sample_weight=weight, batch_size=9, shuffle=False, verbose=0).history

    loss, gradients = formula(x, y, weight, *weights, 0.3, alpha, norm)
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    for got, start, gradient in zip(base.get_weights(), weights, gradients, strict=True):
        np.testing.assert_allclose(got, start - gradient, atol=2e-6)
    assert set(history) == {"loss", "accuracy" if alpha else "adversarial_accuracy"}
    # The penalty's share of the step is far above the tolerance.
    plain = formula(x, y, weight, *weights, 0.3, alpha, norm, penalty=0.0)[1]
    assert np.abs(gradients[0] - plain[0]).max() > 1e-3


def test_second_order_through_a_network(images):
    """Convolution, pooling and batch norm: a central difference of the loss along the step."""
    x, y = images
    start = keras.initializers.GlorotUniform
    inputs = keras.Input((6, 6, 1))
    h = keras.layers.Conv2D(4, 3, activation="tanh", kernel_initializer=start(0))(inputs)
    h = keras.layers.BatchNormalization()(keras.layers.MaxPooling2D()(h))
    h = keras.layers.Flatten()(h)
    h = keras.layers.Dense(3, activation="softmax", kernel_initializer=start(1))(h)
    base = keras.Model(inputs, h)
    # Without moving statistics FGSM's points stay but where a sign changes.
    model = RobustModel(base, [Minimax(eps=0.2, alpha=0.0, batch_norm="stateless")])
    model.compile(keras.optimizers.SGD(1.0), CE)
    before = [variable.numpy() for variable in base.trainable_variables]
    model.train_on_batch(x, y)
    step = [v.numpy() - old for v, old in zip(base.trainable_variables, before, strict=True)]
    model.compile(keras.optimizers.SGD(0.0), CE)

    def loss(share):
        for variable, old, part in zip(base.trainable_variables, before, step, strict=True):
            variable.assign(old + share * part)
        return float(model.train_on_batch(x, y))

    slope = (loss(5e-4) - loss(-5e-4)) / 1e-3
    square = sum(float((part**2).sum()) for part in step)
    np.testing.assert_allclose(slope, -square, rtol=0.02)


@pytest.mark.parametrize("norm", [1, 2])
def test_no_gradient_is_no_penalty(linear, points, softmax_step, norm):
    """Without a kernel the loss does not depend on the inputs: a plain step, and no NaN."""
    x, y = points
    zero = [np.zeros((4, 3), "float32"), np.float32([0.1, 0.2, 0.3])]
    base = linear()
    base.set_weights(zero)
    model = RobustModel(base, [Minimax(eps=0.3, norm=norm)])
    model.compile(keras.optimizers.SGD(0.1), CE)
    model.train_on_batch(x, y)
    _, expected = softmax_step(x, y, np.full(9, 1 / 9), 0.1, zero)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_penalty_survives_float16():
    """Of predictions so sure that their gradient has hardly a digit in float16."""
    kernel = np.float32([[0, 0.5, 0], [0, 0.25, 0], [0, 0, -0.25], [0, 0, 0.5]])
    bias = np.float32([16, 0, 0])
    x = np.float32([[0.5, 0.25, 0.75, 0.5], [0.25, 0.5, 0.5, 0.75]])  # exact in float16
    y = np.zeros(2, int)
    logged = []
    for defense in (
        "minimax:eps=0.125,alpha=0",
        "adversarial_training:attack=(fgsm:eps=0.125),alpha=0",
    ):
        layer = keras.layers.Dense(3, activation="softmax", dtype="mixed_float16")
        base = keras.Sequential([keras.Input((4,)), layer])
        base.set_weights([kernel, bias])
        model = wrap(base, defense)
        model.compile(keras.optimizers.SGD(0.0), CE)
        logged.append(float(model.train_on_batch(x, y)))
    moved = x + 0.125 * np.float32([1, 1, -1, 1])
    p = np.exp(np.float64(moved @ kernel + bias))
    p /= p.sum(axis=1, keepdims=True)
    length = np.linalg.norm((p - np.eye(3)[y]) @ kernel.T, axis=1)
    assert length.max() < 2e-7  # steps of float16 are 6e-8 there
    np.testing.assert_allclose(logged[0] - logged[1], (0.125 / 2 * length).mean(), rtol=0.02)


def test_passes(images):
    """One for FGSM, a clean one, and one that the adversarial loss and its gradient share."""
    calls = []

    class Counts(keras.layers.Layer):
        def call(self, x):
            calls.append(x.shape)
            return x

    inputs = keras.Input((6, 6, 1))
    flat = keras.layers.Flatten()(Counts()(inputs))
    base = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(flat))
    counts = []
    for alpha in (0.5, 0.0):
        model = wrap(base, "minimax", alpha=alpha)
        model.compile("sgd", CE, metrics=["accuracy"], run_eagerly=True)
        model.train_on_batch(*images)  # builds
        calls.clear()
        model.train_on_batch(*images)
        counts.append(len(calls))
    assert counts == [3, 2]


@pytest.mark.parametrize("mode", ["training", "inference", "stateless"])
def test_batch_norm_of_the_adversarial_pass(cnn, images, mode):
    x, y = images
    base = cnn(batch_norm=True)
    model = RobustModel(base, [Minimax(eps=0.2, batch_norm=mode)])
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    fgsm = wrap(base, "adversarial_training:attack=(fgsm:eps=0.2)").defenses[0].attack
    x_adv = fgsm.bind(base).perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0]))
    parts = (x, x_adv.numpy())
    means = [features.predict(part, verbose=0).mean(axis=(0, 1, 2)) for part in parts]
    assert np.abs(means[0] - means[1]).max() > 1e-3
    model.compile(keras.optimizers.SGD(0.0), CE)
    model.train_on_batch(x, y)
    expected = 0.5 * means[0]
    if mode == "training":
        expected = 0.5 * expected + 0.5 * means[1]
    np.testing.assert_allclose(base.get_layer("norm").moving_mean.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "`eps` must be a number > 0. Received: eps=0.0"),
        ({"alpha": 1.0}, "below 1. Received: alpha=1.0"),
        ({"norm": "inf"}, "must be one of 1, 2. Received: norm='inf'"),
        ({"crafting": "stateless"}, "must be one of.*crafting='stateless'"),
        ({"batch_norm": "off"}, "must be one of.*batch_norm='off'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Minimax(**arguments)


def test_two_that_craft_are_refused(linear):
    with pytest.raises(ValueError, match="both craft adversaries"):
        wrap(linear(), ["minimax", "vat"])
