"""Superimposed images against NumPy and SciPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from kerasrobust import defenses
from kerasrobust.defenses import (
    AdversarialTraining,
    Batch,
    Context,
    RobustModel,
    Superimpose,
    wrap,
)
from kerasrobust.defenses.training.superimpose import beta_quantile, other_rows

CE = "sparse_categorical_crossentropy"


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def drawn(model, x, step=0, jit=False):
    """The other images and their shares that `model` draws at a step."""

    @tf.function(jit_compile=jit)
    def draw(x, step):
        batch = Batch(x, x, x, model.clip_values)
        extras = model.defenses[-1].prepare(batch, Context(model, step, x)).extras
        return extras["superimpose"], extras["superimpose_alpha"]

    other, alpha = draw(tf.constant(x), tf.constant(step))
    return np.float64(other), np.float64(alpha)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({"alpha": 0.3}, {}),
        ({"alpha": 0.3}, {"jit_compile": True}),
        ({"alpha": 0.3, "kl_weight": 5.0}, {}),
        ({"alpha": 0.3, "kl_weight": 5.0, "stop_gradient": False}, {"run_eagerly": True}),
        ({"p": 2.0, "q": 4.0}, {}),
        ({"p": 2.0, "q": 4.0, "kl_weight": 3.0}, {"jit_compile": True}),
    ],
    ids=str,
)
def test_loss_and_update_equal_numpy(linear, points, weights, options, mode):
    """The three forms, and a gradient that flows through the clean side only where asked to."""
    x, y = points
    kernel, bias = np.float64(weights[0]), np.float64(weights[1])
    base = linear()
    link = Superimpose(**options)
    model = RobustModel(base, [link], seed=5)
    model.compile(keras.optimizers.SGD(0.1), CE, metrics=["accuracy"], **mode)
    weight = np.linspace(0.5, 2.0, 9)
    history = model.fit(x, y, sample_weight=weight, batch_size=9, shuffle=False, verbose=0).history

    other, alpha = drawn(model, x, jit="jit_compile" in mode)
    if "p" in options:
        assert len(np.unique(alpha)) == 9
    else:
        np.testing.assert_allclose(alpha, 0.3, rtol=1e-6)
    mixed = (1 - alpha[:, None]) * x + alpha[:, None] * other
    p, q, truth = softmax(x @ kernel + bias), softmax(mixed @ kernel + bias), np.eye(3)[y]
    share = weight[:, None] / 9
    if link.kl_weight == 0:
        values = -np.log(q[np.arange(9), y])
        gradients = [(mixed, (q - truth) * share)]
        name, hits = "superimposed_accuracy", q.argmax(1) == y
    else:
        log_ratio = np.log(p / q)
        divergence = (p * log_ratio).sum(axis=1, keepdims=True)
        assert divergence.mean() > 1e-4
        values = -np.log(p[np.arange(9), y]) + link.kl_weight * divergence[:, 0]
        pulled = 0 if link.stop_gradient else p * (log_ratio - divergence)
        gradients = [
            (x, (p - truth + link.kl_weight * pulled) * share),
            (mixed, link.kl_weight * (q - p) * share),
        ]
        name, hits = "accuracy", p.argmax(1) == y
    np.testing.assert_allclose(history["loss"], [(values * weight).mean()], rtol=1e-5)
    np.testing.assert_allclose(history[name], [np.average(hits, weights=weight)], rtol=1e-5)
    expected = [
        kernel - 0.1 * sum(inputs.T @ residual for inputs, residual in gradients),
        bias - 0.1 * sum(residual.sum(axis=0) for _, residual in gradients),
    ]
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_the_other_image_is_any_other_one():
    seeds = [tf.constant([1, step]) for step in range(600)]
    rows = np.stack([other_rows(tf.constant(6), seed).numpy() for seed in seeds])
    assert (rows != np.arange(6)).all()
    for own in range(6):
        counts = np.bincount(rows[:, own], minlength=6)
        assert counts[own] == 0
        assert stats.chisquare(np.delete(counts, own)).pvalue > 1e-3
    # Drawn for each image by itself: two images meet the same one in 4 of 25 cases.
    assert abs((rows[:, 0] == rows[:, 1]).mean() - 4 / 25) < 0.06
    np.testing.assert_array_equal(other_rows(tf.constant(2), seeds[0]), [1, 0])
    np.testing.assert_array_equal(other_rows(tf.constant(1), seeds[0]), [0])
    assert other_rows(tf.constant(0), seeds[0]).shape == (0,)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("p", "q"), [(2.0, 10.0), (0.5, 0.5)])
def test_beta_quantile_equals_scipy(p, q, jit):
    u = np.linspace(0.001, 0.999, 500).astype("float32")
    quantile = tf.function(lambda u: beta_quantile(u, p, q), jit_compile=jit)
    np.testing.assert_allclose(quantile(u), special.betaincinv(p, q, np.float64(u)), atol=1e-5)


def test_shares_are_beta_distributed(linear):
    x = np.full((3000, 4), 0.5, "float32")
    keep = RobustModel(linear(), [Superimpose(p=2, q=4, beyond_half="keep")])
    first, second = drawn(keep, x)[1], drawn(keep, x, step=1)[1]
    for alpha in (first, second):
        assert stats.kstest(alpha, stats.beta(2, 4).cdf).pvalue > 1e-3
        assert abs((alpha > 0.5).mean() - 0.1875) < 0.03
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08
    for how, expected in (
        ("fold", np.where(first > 0.5, 1 - first, first)),
        ("clip", np.where(first > 0.5, 0.5, first)),
    ):
        model = RobustModel(linear(), [Superimpose(p=2, q=4, beyond_half=how)])
        np.testing.assert_allclose(drawn(model, x)[1], expected, atol=1e-6)
    batch = RobustModel(linear(), [Superimpose(p=2, q=4, draw_per="batch", beyond_half="keep")])
    shares = np.array([drawn(batch, x[:5], step)[1] for step in range(20)])
    assert shares.shape == (20, 5) and (shares == shares[:, :1]).all()
    assert len(np.unique(shares)) == 20


def test_names_and_defaults_of_the_forms():
    forms = {
        "superimpose": (0.4, None, None, 0.0),
        "superimpose:alpha=0.4": (0.4, None, None, 0.0),
        "superimpose:alpha=0.4,kl_weight=10": (0.4, None, None, 10.0),
        "superimpose:p=2,q=4,kl_weight=10": (None, 2.0, 4.0, 10.0),
        "superimpose:p=2,q=6": (None, 2.0, 6.0, 10.0),
    }
    for name, expected in forms.items():
        link = defenses.get(name)
        assert (link.alpha, link.p, link.q, link.kl_weight) == expected
        assert Superimpose.from_config(link.get_config()).get_config() == link.get_config()


def test_adversaries_are_laid_over_clean_images(linear, points, weights, shift):
    """Inside adversarial training both of its terms are superimposed, by the same images."""
    x, y = points
    links = [Superimpose(alpha=0.3), AdversarialTraining(shift(0.1), 0.25)]
    model = RobustModel(linear(), links, seed=5)
    model.compile(keras.optimizers.SGD(0.0), CE, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history
    assert model.defenses[-1] is links[0]
    other = drawn(model, x)[0]
    moved = np.clip(x + 0.1 * np.cos(np.arange(4)), 0, 1)
    q = [softmax((0.7 * part + 0.3 * other) @ weights[0] + weights[1]) for part in (x, moved)]
    values = [-np.log(part[np.arange(9), y]).mean() for part in q]
    np.testing.assert_allclose(history["loss"], [0.25 * values[0] + 0.75 * values[1]], rtol=1e-5)


@pytest.mark.parametrize("mode", ["training", "inference", "stateless"])
@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
def test_batch_norm_of_the_mixed_pass(cnn, images, mode, kl_weight):
    """Without a divergence it is the only pass."""
    x, y = images
    base = cnn(batch_norm=True)
    model = RobustModel(base, [Superimpose(0.45, kl_weight=kl_weight, batch_norm=mode)])
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    mixed = np.float32(0.55 * x + 0.45 * drawn(model, x)[0])
    means = [features.predict(part, verbose=0).mean(axis=(0, 1, 2)) for part in (x, mixed)]
    assert np.abs(means[0] - means[1]).max() > 1e-3
    model.compile(keras.optimizers.SGD(0.0), CE)
    model.train_on_batch(x, y)
    expected = 0.5 * means[0] if kl_weight else 0 * means[0]
    if mode == "training":
        expected = 0.5 * expected + 0.5 * means[1]
    np.testing.assert_allclose(base.get_layer("norm").moving_mean.numpy(), expected, atol=1e-5)


def test_a_batch_of_one_is_left_alone(linear, points):
    x, y = points
    model = wrap(linear(), "superimpose")
    other, _ = drawn(model, x[:1])
    np.testing.assert_array_equal(other, x[:1])
    model.compile("sgd", CE)
    p = model.predict(x[:1], verbose=0)
    np.testing.assert_allclose(model.train_on_batch(x[:1], y[:1]), -np.log(p[0, y[0]]), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.5}, "above 0 and below 0.5. Received: alpha=0.5"),
        ({"alpha": 0.0}, "above 0 and below 0.5. Received: alpha=0.0"),
        ({"alpha": "a"}, "Received: alpha='a'"),
        ({"p": 2}, "either fixed.*Received: alpha=None, p=2, q=None"),
        ({"q": 2}, "either fixed.*Received: alpha=None, p=None, q=2"),
        ({"alpha": 0.4, "p": 2, "q": 4}, "either fixed.*Received: alpha=0.4, p=2, q=4"),
        ({"p": 0, "q": 4}, "`p` must be a number > 0. Received: p=0"),
        ({"p": 2, "q": -4}, "`q` must be a number > 0. Received: q=-4"),
        ({"kl_weight": -1}, "Received: kl_weight=-1"),
        ({"beyond_half": "redraw"}, "must be one of.*beyond_half='redraw'"),
        ({"draw_per": "epoch"}, "must be one of.*draw_per='epoch'"),
        ({"stop_gradient": 1}, "True or False. Received: stop_gradient=1"),
        ({"batch_norm": "off"}, "must be one of.*batch_norm='off'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Superimpose(**arguments)
