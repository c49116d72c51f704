"""MART against plain TensorFlow and NumPy: the loss, its gradient, its place in the chain."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.defenses import Batch, Context, Mart, RobustModel, wrap
from kerasrobust.defenses.training.mart import boosted_cross_entropy, mart_loss

CE = "sparse_categorical_crossentropy"


def crafted(model, x, y):
    batch = Batch(tf.constant(x), tf.constant(y), tf.constant(y), model.clip_values)
    context = Context(model, tf.constant(0), batch.x)
    return model.defenses[0].prepare(batch, context).extras["mart"].numpy()


def softmax(z):
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def written_out(p, q, y, beta):
    """The paper's formula, sample by sample, on the probabilities at x and at x_adv."""
    losses = []
    for clean, adversarial, label in zip(p, q, y, strict=True):
        rival = max(value for k, value in enumerate(adversarial) if k != label)
        boosted = -np.log(adversarial[label]) - np.log(1 - rival)
        divergence = np.sum(clean * np.log(clean / adversarial))
        losses.append(boosted + beta * divergence * (1 - clean[label]))
    return np.array(losses)


def test_loss_equals_numpy():
    rng = np.random.default_rng(0)
    z, z_adv, y = rng.normal(0, 3, (40, 5)), rng.normal(0, 3, (40, 5)), rng.integers(0, 5, 40)
    clean, adversarial = (tf.constant(value, tf.float32) for value in (z, z_adv))
    got = mart_loss(clean, adversarial, tf.constant(y), 5.0)
    np.testing.assert_allclose(got, written_out(softmax(z), softmax(z_adv), y, 5.0), rtol=2e-5)


def test_loss_is_exact_where_the_model_is_certain():
    """p_y = 1 - 1e-26 and its opposite, where 1 - p computed from p is 0 or 1."""
    z = tf.constant([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]])
    y = tf.constant([0, 0])
    with tf.GradientTape() as tape:
        tape.watch(z)
        values = boosted_cross_entropy(z, y)
    rare = np.exp(-60.0)
    np.testing.assert_allclose(values, [0, 120 - np.log(2)], atol=1e-5)
    gradient = tape.gradient(values, z).numpy()
    # Of the second sample: -log p_0 pulls class 0 up, class 1 down; -log(p_0 + p_2) likewise.
    np.testing.assert_allclose(gradient[1], [-1.5, 2, -0.5], atol=1e-6)
    assert np.isfinite(gradient).all() and np.abs(gradient[0]).max() < 10 * rare + 1e-6
    adversarial = tf.constant([[0.0, 4.0, 0.0]])
    weighted = mart_loss(z[:1], adversarial, y[:1], 1e30) - mart_loss(z[:1], adversarial, y[:1], 0)
    np.testing.assert_allclose(weighted / 1e30, [2 * rare * np.log(np.exp(4) + 2)], rtol=1e-4)


def test_a_step_equals_the_formula(linear, points, mode):
    """The gradient of every term: p(x) in the divergence and in its weight, p(x_adv) in both."""
    x, y = points
    weight = np.linspace(0.5, 2, 9).astype("float32")
    base, twin = linear(), linear(activation=None)
    # Long steps end in the corners of the ball, whatever the start.
    model = RobustModel(base, [Mart(0.1, 0.11, 2, beta=5.0)])
    x_adv = crafted(model, x, y)
    one_hot = tf.one_hot(y, 3)
    model.compile(keras.optimizers.SGD(0.1), CE, metrics=["accuracy"], **mode)
    fit = {"batch_size": 9, "shuffle": False, "verbose": 0, "sample_weight": weight}
    history = model.fit(x, y, **fit).history

    with tf.GradientTape() as tape:
        p, q = tf.nn.softmax(twin(x)), tf.nn.softmax(twin(x_adv))
        boosted = -tf.math.log(tf.reduce_sum(q * one_hot, 1))
        boosted -= tf.math.log(1 - tf.reduce_max(q * (1 - one_hot), 1))
        divergence = tf.reduce_sum(p * tf.math.log(p / q), axis=1)
        doubt = 1 - tf.reduce_sum(p * one_hot, axis=1)
        loss = tf.reduce_mean(weight * (boosted + 5.0 * divergence * doubt))
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    gradients = tape.gradient(loss, twin.trainable_weights)
    for got, w, gradient in zip(base.weights, twin.trainable_weights, gradients, strict=True):
        np.testing.assert_allclose(got, w - 0.1 * gradient, atol=1e-6)
    hits = linear().predict(x, verbose=0).argmax(1) == y
    np.testing.assert_allclose(history["accuracy"], [hits.mean()], rtol=1e-6)  # clean ones


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_the_ascent_is_pgd_on_the_cross_entropy(cnn, images, norm):
    x, y = images
    eps, eps_step = (0.1, 0.11) if norm == np.inf else (0.8, 0.3)
    base = cnn()
    model = RobustModel(base, [Mart(eps, eps_step, 8, norm)])
    x_adv = crafted(model, x, y)
    recipe = attacks.get("pgd", norm=norm, eps=eps, eps_step=eps_step, max_iter=8).bind(base)
    from_x = recipe.perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0])).numpy()

    def loss(samples):
        return -np.log(base.predict(samples, verbose=0)[np.arange(20), y])

    np.testing.assert_allclose(loss(x_adv), loss(from_x), rtol=0.02)
    assert (loss(x_adv) > loss(x)).all()
    length = np.linalg.norm((x_adv - x).reshape(20, -1), ord=norm, axis=1)
    assert length.max() <= eps + 1e-5 and x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_compiled_loss_gives_the_reduction_alone(linear, points, one_hot):
    x, y = points
    labels = keras.utils.to_categorical(y, 3) if one_hot else y[:, None]
    model = RobustModel(linear(), [Mart(0.1, 0.11, 2)])
    x_adv = crafted(model, x, y)
    p, q = (linear().predict(samples, verbose=0) for samples in (x, x_adv))
    kind = keras.losses.MeanSquaredError if one_hot else keras.losses.SparseCategoricalCrossentropy
    model.compile(keras.optimizers.SGD(0.1), kind(reduction="sum"))
    logged = model.fit(x, labels, batch_size=9, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(logged, [written_out(p, q, y, 5.0).sum()], rtol=1e-5)


def test_it_ends_the_chain(linear):
    wrap(linear(), ["awp", "mart"])
    for other in ("gda", "label_smoothing"):
        with pytest.raises(ValueError, match="has a loss of its own and would never call"):
            wrap(linear(), ["mart", other])
    for other in ("trades", "adversarial_training"):
        with pytest.raises(ValueError, match="both craft adversaries|'mart' has a loss"):
            wrap(linear(), [other, "mart"])


def test_config_and_bad_arguments():
    link = Mart(eps=0.1, norm="l2", beta=6)
    assert link.get_config()["norm"] == 2 and link.get_config()["beta"] == 6
    assert Mart.from_config(link.get_config()).get_config() == link.get_config()
    assert Mart().beta == 5
    for arguments in ({"beta": -1}, {"eps": -0.1}, {"max_iter": 0.5}, {"norm": 1}):
        ((key, value),) = arguments.items()
        with pytest.raises(ValueError, match=f"Received: {key}={value}"):
            Mart(**arguments)
