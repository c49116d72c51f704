"""Adversarial weight perturbation against plain TensorFlow, around several chains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import (
    AdversarialTraining,
    AdversarialWeightPerturbation,
    Batch,
    Context,
    Mart,
    RobustModel,
    Trades,
    wrap,
)
from kerasrobust.defenses.training.adversarial_weight_perturbation import weight_step

CE = "sparse_categorical_crossentropy"


def worst_weights(base, objective, gamma, steps=1):
    """Moves the kernels of `base`, layer by layer, and returns the weights they had."""
    saved = base.get_weights()
    kernels = [w for w in base.trainable_weights if len(w.shape) > 1]
    lengths = [gamma / steps * np.linalg.norm(w.numpy()) for w in kernels]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = objective()
        gradients = tape.gradient(loss, kernels)
        for kernel, gradient, length in zip(kernels, gradients, lengths, strict=True):
            unit = gradient.numpy() / np.linalg.norm(gradient.numpy())
            kernel.assign(kernel.numpy() + length * unit)
    return saved


def expected_step(base, objective, gamma, steps=1, rate=0.1):
    """Loss at the worst weights, and `w - rate * gradient` there of the weights as they were."""
    saved = worst_weights(base, objective, gamma, steps)
    with tf.GradientTape() as tape:
        loss = objective()
    gradients = tape.gradient(loss, base.trainable_weights)
    new = {id(w): g.numpy() for w, g in zip(base.trainable_weights, gradients, strict=True)}
    moved = [old - rate * new.get(id(w), 0) for w, old in zip(base.weights, saved, strict=True)]
    return float(loss), moved


def fit(model, x, y, **options):
    return model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0, **options).history


def assert_weights(base, expected, atol=1e-6):
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=atol)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("warmup", [0, 1])
def test_plain_training_equals_the_formula(cnn, images, steps, warmup, mode):
    """With sample weights, two layers, and a first step that is plain where there is a warm-up."""
    x, y = images
    weight = np.linspace(0.1, 2, 20).astype("float32")
    base, twin = cnn(), cnn()
    link = AdversarialWeightPerturbation(0.2, steps, warmup)
    model = RobustModel(base, [link])
    model.compile(keras.optimizers.SGD(0.1), CE, **mode)
    history = fit(model, x, y, epochs=2, sample_weight=weight)

    def objective():
        p = tf.gather(twin(x, training=True), y, axis=1, batch_dims=1)
        return tf.reduce_mean(-tf.math.log(p) * weight)

    losses = []
    for step in range(2):
        loss, moved = expected_step(twin, objective, 0.2 if step >= warmup else 0.0, steps)
        losses.append(loss)
        twin.set_weights(moved)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    assert_weights(base, moved, 2e-6)


def craft(model, link, x, y):
    batch = Batch(tf.constant(x), tf.constant(y), tf.constant(y), (0.0, 1.0))
    return link.prepare(batch, Context(model, tf.constant(0), batch.x)).extras[link.name].numpy()


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {}])
def test_around_trades_equals_the_formula(cnn, images, mode):
    """Worst weights for the loss of TRADES at adversaries crafted before the weights moved."""
    x, y = images
    base, twin = cnn(), cnn()
    trades = Trades(0.1, 0.03, 5, beta=3.0)
    x_adv = craft(RobustModel(base, [trades]), trades, x, y)
    model = RobustModel(base, [trades, AdversarialWeightPerturbation(0.05)])
    assert [link.name for link in model.defenses] == ["awp", "trades"]
    model.compile(keras.optimizers.SGD(0.1), CE, **mode)
    history = fit(model, x, y)

    def objective():
        p, q = twin(x), twin(x_adv)
        clean = -tf.math.log(tf.gather(p, y, axis=1, batch_dims=1))
        return tf.reduce_mean(clean + 3.0 * tf.reduce_sum(p * tf.math.log(p / q), axis=1))

    plain = float(objective())
    loss, moved = expected_step(twin, objective, 0.05)
    assert loss > plain + 0.01
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    assert_weights(base, moved)


@pytest.mark.parametrize("inner", ["adversarial_training", "mart"])
def test_any_chain_gets_worse(cnn, images, shift, inner):
    """By about the first-order amount, `gamma * sum_l ||w_l|| ||g_l||`."""
    x, y = images

    def link():
        return Mart(0.1, 0.11, 2) if inner == "mart" else AdversarialTraining(shift(0.2), 0.5)

    losses = {}
    for gamma in (0.0, 1e-3):
        links = [AdversarialWeightPerturbation(gamma)] if gamma else []
        model = RobustModel(cnn(), [link(), *links])
        model.compile(keras.optimizers.SGD(1.0), CE)
        before = model.get_weights()
        losses[gamma] = fit(model, x, y)["loss"][0]
        if not gamma:
            steps = zip(before, model.get_weights(), strict=True)
            rise = sum(
                np.linalg.norm(a) * np.linalg.norm(a - b) for a, b in steps if np.ndim(a) > 1
            )
    np.testing.assert_allclose(losses[1e-3] - losses[0.0], 1e-3 * rise, rtol=0.05)


def test_statistics_and_dropout_are_those_of_the_objective(cnn, images):
    """The ascent sees the dropout of the pass to come and leaves no trace of its own."""
    x, y = images
    base, twin = cnn(batch_norm=True, dropout=0.3), cnn(batch_norm=True, dropout=0.3)
    model = RobustModel(base, [AdversarialWeightPerturbation(0.1)])
    model.compile(keras.optimizers.SGD(0.1), CE)
    history = fit(model, x, y)
    seed = twin.get_layer("drop").seed_generator.state
    start = seed.numpy()

    def objective():
        seed.assign(start)
        return tf.reduce_mean(-tf.math.log(tf.gather(twin(x, training=True), y, batch_dims=1)))

    saved = worst_weights(twin, objective, 0.1)
    shape = [len(np.shape(w)) for w in saved]
    assert 1 in shape and 4 in shape  # scales and biases, which stay; kernels, which move
    mean = tf.reduce_mean(keras.Model(twin.inputs[0], twin.get_layer("norm").input)(x), (0, 1, 2))
    np.testing.assert_allclose(history["loss"], [float(objective())], rtol=1e-5)
    np.testing.assert_allclose(base.get_layer("norm").moving_mean, 0.5 * mean, atol=1e-6)
    drawn = base.get_layer("drop").seed_generator.state.numpy() - start
    np.testing.assert_array_equal(drawn, [0, 1])


def test_an_inner_pass_keeps_its_mode(cnn, images, shift):
    """Adversaries in inference mode are so in the ascent as well."""
    x, y = images
    base, twin = cnn(batch_norm=True), cnn(batch_norm=True)
    for model in (base, twin):
        model.get_layer("norm").moving_mean.assign([0.5, -0.5, 0.3, -0.3])
    crafted = AdversarialTraining(shift(0.2), 0.0, batch_norm="inference")
    model = RobustModel(base, [crafted, AdversarialWeightPerturbation(0.1)])
    model.compile(keras.optimizers.SGD(0.1), CE)
    history = fit(model, x, y)
    x_adv = np.clip(x + 0.2, 0, 1)

    def objective():
        return tf.reduce_mean(-tf.math.log(tf.gather(twin(x_adv), y, axis=1, batch_dims=1)))

    loss, moved = expected_step(twin, objective, 0.1)
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    assert_weights(base, moved, 2e-6)


def test_weights_return_bit_for_bit(cnn, images):
    base = cnn()
    model = RobustModel(base, [AdversarialWeightPerturbation(0.7, steps=2), Trades()])
    model.compile(keras.optimizers.SGD(0.0), CE)
    before = base.get_weights()
    fit(model, *images, epochs=3)
    for old, new in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_regularisers_and_losses_of_layers_are_no_part_of_the_ascent(points):
    """They are added where the gradient is taken, once."""
    x, y = points

    def make(**options):
        start = keras.initializers.GlorotUniform
        hidden = keras.layers.Dense(5, activation="relu", kernel_initializer=start(0), **options)
        output = keras.layers.Dense(3, activation="softmax", kernel_initializer=start(1))
        return keras.Sequential([keras.Input((4,)), hidden, output])

    squares = keras.regularizers.L2
    base, twin = make(kernel_regularizer=squares(2.0), activity_regularizer=squares(0.5)), make()
    model = RobustModel(base, [AdversarialWeightPerturbation(0.1)])
    model.compile(keras.optimizers.SGD(0.1), CE)
    history = fit(model, x, y)

    def objective():
        return tf.reduce_mean(-tf.math.log(tf.gather(twin(x), y, axis=1, batch_dims=1)))

    worst_weights(twin, objective, 0.1)
    kernel, bias = twin.get_weights()[:2]
    activity = np.square(np.maximum(x @ kernel + bias, 0)).sum(axis=1).mean()
    expected = float(objective()) + 2 * np.square(kernel).sum() + 0.5 * activity
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)


def test_small_gradients_survive_float16():
    """Gradients of a mean over 64 confident samples, below what float16 can hold unscaled."""
    x = np.random.default_rng(0).uniform(0.2, 0.8, (64, 4)).astype("float32")
    y = np.zeros(64, int)
    kernel = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    worst = {}
    for policy in ("float32", "mixed_float16"):
        base = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3, dtype=policy, activation="softmax")]
        )
        base.set_weights([kernel, np.array([13.0, 0.0, 0.0], "float32")])
        seen = []

        class Look(AdversarialTraining):
            def objective(self, batch, inner, seen=seen, base=base):
                seen.append(base.get_weights()[0])
                return inner(batch)

        link = Look("fgsm:eps=0.0")
        model = RobustModel(base, [link, AdversarialWeightPerturbation(0.5)])
        sgd = keras.optimizers.SGD(0.0)
        scaled = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=2.0**15)
        model.compile(scaled, "sparse_categorical_crossentropy", run_eagerly=True)
        fit(model, x, y)
        np.testing.assert_array_equal(seen[0], kernel)  # in the ascent
        worst[policy] = seen[1] - kernel
    np.testing.assert_allclose(np.linalg.norm(worst["float32"]), 0.5 * np.linalg.norm(kernel))
    np.testing.assert_allclose(worst["mixed_float16"], worst["float32"], atol=0.02)


def test_weight_step():
    weight = tf.constant([[3.0, 0.0], [0.0, 4.0]])
    step = weight_step(weight, tf.constant([[0.0, 1e-30], [0.0, 0.0]]), tf.constant(0.1))
    np.testing.assert_allclose(step, [[0, 0.5], [0, 0]], rtol=1e-6)
    for useless in (0.0, np.inf, np.nan):
        gradient = tf.constant([[useless, 0.0], [0.0, 0.0]])
        np.testing.assert_array_equal(
            weight_step(weight, gradient, tf.constant(0.1)), np.zeros((2, 2))
        )


def test_config_and_bad_arguments(linear):
    link = AdversarialWeightPerturbation(0.005, steps=2, warmup=100)
    assert link.get_config() == {"gamma": 0.005, "steps": 2, "warmup": 100}
    for arguments in ({"gamma": 0}, {"steps": 0}, {"warmup": -1}):
        ((key, value),) = arguments.items()
        with pytest.raises(ValueError, match=f"Received: {key}={value}"):
            AdversarialWeightPerturbation(**arguments)
    with pytest.raises(ValueError, match="already holds 'awp'"):
        wrap(linear(), ["awp", "awp"])
