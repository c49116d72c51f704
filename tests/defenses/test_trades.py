"""TRADES against plain TensorFlow: the loss, its gradient on both sides, and the ascent."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import Batch, Context, RobustModel, Trades, wrap
from kerasrobust.defenses.training import ascent

CE = "sparse_categorical_crossentropy"


def craft(model, x, y, step=0):
    """What the outermost link of the chain prepares."""
    batch, link = Batch(x, y, y, model.clip_values), model.defenses[0]
    return link.prepare(batch, Context(model, tf.constant(step), x)).extras[link.name]


def crafted(model, x, y, step=0):
    return craft(model, tf.constant(x), tf.constant(y), step).numpy()


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def divergence(p, q):
    return (p * (np.log(p) - np.log(q))).sum(axis=1)


def sgd_step(base, objective, rate=0.1):
    """Value and weights after one step of plain gradient descent on `objective()`."""
    with tf.GradientTape() as tape:
        loss = objective()
    gradients = tape.gradient(loss, base.trainable_weights)
    moved = [
        w.numpy() - rate * g.numpy() for w, g in zip(base.trainable_weights, gradients, strict=True)
    ]
    return float(loss), moved


@pytest.mark.parametrize("norm", ["inf", 2])
def test_a_step_equals_the_formula(linear, points, norm, mode, monkeypatch):
    """With sample weights; the expected gradient goes through p(x) and p(x_adv)."""
    # Far enough for the first direction not to hang on how the compiler rounds.
    monkeypatch.setattr(ascent, "START", 0.05)
    x, y = points
    weight = np.linspace(0.5, 2, 9).astype("float32")
    base, twin = linear(), linear(activation=None)
    model = RobustModel(base, [Trades(0.1, 0.04, 4, norm, beta=3.0)])
    model.compile(keras.optimizers.SGD(0.1), CE, metrics=["accuracy"], **mode)
    # XLA draws other numbers than a plain graph: the same way as the step.
    graph = tf.function(lambda x, y: craft(model, x, y), jit_compile=mode.get("jit_compile", False))
    x_adv = graph(tf.constant(x), tf.constant(y)).numpy()
    fit = {"batch_size": 9, "shuffle": False, "verbose": 0, "sample_weight": weight}
    history = model.fit(x, y, **fit).history

    def objective():
        p, q = tf.nn.softmax(twin(x)), tf.nn.softmax(twin(x_adv))
        clean = -tf.math.log(tf.gather(p, y, axis=1, batch_dims=1))
        change = tf.reduce_sum(p * tf.math.log(p / q), axis=1)
        return tf.reduce_mean(weight * (clean + 3.0 * change))

    loss, expected = sgd_step(twin, objective)
    assert loss > float(divergence(*map(softmax, (twin(x).numpy(), twin(x_adv).numpy()))).max())
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    hits = linear().predict(x, verbose=0).argmax(1) == y
    np.testing.assert_allclose(history["accuracy"], [hits.mean()], rtol=1e-6)  # clean ones


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_the_ascent_equals_numpy(linear, points, weights, norm):
    """Projected gradient ascent of the divergence, p(x) held, from the start that was drawn."""
    x, y = points
    kernel, bias = np.float64(weights[0]), np.float64(weights[1])
    model = RobustModel(linear(), [Trades(0.05, 0.02, 3, norm)], seed=4)
    seed = Context(model, tf.constant(7), tf.constant(x)).seed("trades")
    noise = tf.random.stateless_normal([9, 4], seed, stddev=1e-3).numpy()
    assert 5e-4 < np.abs(noise).mean() < 2e-3

    p, iterate = softmax(x @ kernel + bias), np.clip(x + np.float64(noise), 0, 1)
    for _ in range(3):
        gradient = (softmax(iterate @ kernel + bias) - p) @ kernel.T
        if norm == 2:
            direction = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
        else:
            direction = np.sign(gradient)
        delta = np.clip(iterate + 0.02 * direction, 0, 1) - x
        if norm == 2:
            length = np.linalg.norm(delta, axis=1, keepdims=True)
            delta *= np.minimum(1, 0.05 / length)
        iterate = x + np.clip(delta, -0.05, 0.05)
    np.testing.assert_allclose(
        crafted(model, x, y, step=7), iterate, atol=2e-4
    )  # next to x: rounding


def test_the_ascent_raises_the_divergence_and_not_the_loss(cnn, images):
    """A sample that is misclassified is moved too, and labels play no part."""
    x, y = images
    base = cnn()
    model = RobustModel(base, [Trades(0.1, 0.03, 10)])
    x_adv = crafted(model, x, y)
    np.testing.assert_array_equal(x_adv, crafted(model, x, (y + 1) % 3))
    assert np.abs(x_adv - x).max() <= 0.1 + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    rng = np.random.default_rng(0)
    p = base.predict(x, verbose=0)
    far = divergence(p, base.predict(x_adv, verbose=0))
    for _ in range(5):
        corner = np.clip(x + 0.1 * rng.choice([-1, 1], x.shape), 0, 1)
        assert (far > divergence(p, base.predict(corner, verbose=0))).all()


def test_the_start_is_measured_in_the_range_of_the_inputs(linear, points):
    x, y = points
    near = RobustModel(linear(), [Trades(0.0, 0.0, 1)], clip_values=(0, 1))
    np.testing.assert_array_equal(crafted(near, x, y), x)  # projected like every iterate
    wide = RobustModel(linear(), [Trades(50.0, 0.0, 1)], clip_values=(0, 100))
    assert 0.05 < np.abs(crafted(wide, 100 * x, y) - 100 * x).mean() < 0.2


def test_beta_zero_is_plain_training(linear, points, softmax_step):
    x, y = points
    base = linear()
    model = RobustModel(base, [Trades(beta=0.0)])
    model.compile(keras.optimizers.SGD(0.1), CE)
    history = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history
    loss, expected = softmax_step(x, y, np.full(9, 1 / 9), 0.1)
    np.testing.assert_allclose(history["loss"], [loss.mean()], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_label_smoothing_smooths_the_clean_term_alone(linear, points):
    x, y = points
    model = wrap(linear(), ["label_smoothing:k=0.8", Trades(0.1, 0.04, 4, beta=2.0)])
    x_adv = crafted(model, x, y)
    model.compile(keras.optimizers.SGD(0.1), CE)
    logged = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history["loss"]
    p, q = (linear().predict(samples, verbose=0) for samples in (x, x_adv))
    clean = -((0.7 * np.eye(3)[y] + 0.1) * np.log(p)).sum(axis=1)
    np.testing.assert_allclose(logged, [(clean + 2 * divergence(p, q)).mean()], rtol=1e-5)


def test_two_passes_and_their_statistics(cnn, images):
    """The clean pass is shared by both terms; crafting moves nothing."""
    x, y = images
    for mode in ("stateless", "training"):
        base = cnn(batch_norm=True, dropout=0.3)
        features = keras.Model(base.inputs, base.get_layer("norm").input)
        model = RobustModel(base, [Trades(0.1, 0.05, 2, crafting="training", batch_norm=mode)])
        x_adv = crafted(model, x, y)
        mean = [features.predict(s, verbose=0).mean(axis=(0, 1, 2)) for s in (x, x_adv)]
        before = base.get_layer("drop").seed_generator.state.numpy().copy()
        model.compile(keras.optimizers.SGD(0.0), CE, run_eagerly=True)
        model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
        moved = 0.5 * mean[0] if mode == "stateless" else 0.25 * mean[0] + 0.5 * mean[1]
        np.testing.assert_allclose(base.get_layer("norm").moving_mean.numpy(), moved, atol=1e-6)
        drawn = base.get_layer("drop").seed_generator.state.numpy() - before
        np.testing.assert_array_equal(drawn, [0, 1 if mode == "stateless" else 2])


def test_a_single_unit_counts_as_two_classes(points):
    x, y = points[0], points[1] % 2
    start = keras.initializers.GlorotUniform(0)
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer=start)])
    model = RobustModel(base, [Trades(0.2, 0.05, 5, beta=4.0)])
    x_adv = crafted(model, x, y)
    z, z_adv = (base.predict(s, verbose=0) for s in (x, x_adv))
    p, q = (softmax(np.concatenate([0 * s, s], axis=1)) for s in (z, z_adv))
    expected = (-np.log(p[np.arange(9), y]) + 4 * divergence(p, q)).mean()
    model.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    logged = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history["loss"]
    assert divergence(p, q).min() > 1e-4
    np.testing.assert_allclose(logged, [expected], rtol=1e-5)


def test_config_and_bad_arguments(linear, points):
    link = Trades(eps=0.1, norm="inf", beta=1.0, crafting="training")
    assert link.get_config()["norm"] == "inf" and Trades(norm=2).get_config()["norm"] == 2
    assert Trades.from_config(link.get_config()).get_config() == link.get_config()
    for arguments, message in [
        ({"eps": -1}, "Received: eps=-1"),
        ({"eps_step": "x"}, "Received: eps_step='x'"),
        ({"max_iter": 0}, "Received: max_iter=0"),
        ({"norm": 1}, "Received: norm=1"),
        ({"beta": -1}, "Received: beta=-1"),
        ({"crafting": "stateless"}, "Received: crafting='stateless'"),
        ({"batch_norm": "off"}, "Received: batch_norm='off'"),
    ]:
        with pytest.raises(ValueError, match=message):
            Trades(**arguments)
    with pytest.raises(ValueError, match="both craft adversaries"):
        wrap(linear(), ["trades", "adversarial_training:attack=fgsm"])
    model = wrap(linear(activation="sigmoid"), "trades")
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match="needs the model's logits"):
        model.fit(points[0], np.eye(3)[points[1]], verbose=0)
