"""Label smoothing against NumPy, alone and beside other links."""

import keras
import numpy as np
import pytest

from kerasrobust.defenses import LabelSmoothing, RobustModel, wrap

CE = "sparse_categorical_crossentropy"


def smoothed_step(x, targets, share, rate, weights):
    """NumPy: loss and SGD step of softmax regression on rows with soft targets."""
    kernel, bias = (np.float64(part) for part in weights)
    z = np.float64(x) @ kernel + bias
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    residual = (p - targets) * share[:, None]
    loss = -(share[:, None] * targets * np.log(p)).sum()
    return loss, [kernel - rate * x.T @ residual, bias - rate * residual.sum(axis=0)]


@pytest.mark.parametrize("k", [0.9, *(pytest.param(k, marks=pytest.mark.slow) for k in (0.5, 1.0))])
@pytest.mark.parametrize("form", ["sparse", "column", "one_hot", "soft"])
def test_equals_numpy(linear, points, weights, k, form, mode):
    x, y = points
    eye = np.eye(3)
    given = {"sparse": y, "column": y[:, None], "one_hot": eye[y].astype("float32")}
    given["soft"] = (0.8 * eye[y] + 0.2 * eye[(y + 1) % 3]).astype("float32")
    base = linear()
    model = RobustModel(base, [LabelSmoothing(k)])
    model.compile(
        keras.optimizers.SGD(0.1), "ce" if form != "sparse" else CE, metrics=["accuracy"], **mode
    )
    history = model.fit(x, given[form], batch_size=9, shuffle=False, verbose=0).history

    rest = (1 - k) / 2  # of three classes
    rows = np.full((3, 3), rest)
    np.fill_diagonal(rows, k)
    targets = given[form] @ rows if form in ("one_hot", "soft") else rows[y]
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    loss, expected = smoothed_step(x, targets, np.full(9, 1 / 9), 0.1, weights)
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    # Metrics are of the labels as they came.
    hits = (x @ weights[0] + weights[1]).argmax(axis=1) == y
    np.testing.assert_allclose(history["accuracy"], [hits.mean()], rtol=1e-6)


@pytest.mark.parametrize("columns", [False, True])
def test_a_single_unit_counts_as_two_classes(points, columns):
    x, y = points[0], (points[1] > 0).astype("float32")
    kernel, bias = np.array([[0.4], [-0.3], [0.1], [0.8]]), np.array([0.1])
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    base.set_weights([kernel, bias])
    model = RobustModel(base, [LabelSmoothing(0.8)])
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    labels = y[:, None] if columns else y
    got = model.fit(x, labels, batch_size=9, shuffle=False, verbose=0).history["loss"]
    p = 1 / (1 + np.exp(-(x @ kernel + bias)[:, 0]))
    q = np.where(y == 1, 0.8, 0.2)
    np.testing.assert_allclose(got, [-(q * np.log(p) + (1 - q) * np.log(1 - p)).mean()], rtol=1e-5)


def test_with_adversarial_training(linear, points, weights):
    """Both terms are smoothed; the attack climbs the loss of the true labels."""
    x, y = points
    base = linear()
    links = ["adversarial_training:attack=(fgsm:eps=0.1),alpha=0.25", "label_smoothing:k=0.7"]
    model = wrap(base, links)
    model.compile(keras.optimizers.SGD(0.1), CE)
    history = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history

    z = x @ weights[0] + weights[1]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    x_adv = np.clip(x + 0.1 * np.sign((p - np.eye(3)[y]) @ weights[0].T), 0, 1)
    targets = np.where(np.eye(3)[y] == 1, 0.7, 0.15)
    share = np.repeat([0.25 / 9, 0.75 / 9], 9)
    loss, expected = smoothed_step(
        np.concatenate([x, x_adv]), np.tile(targets, (2, 1)), share, 0.1, weights
    )
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_the_line_of_the_specification(cnn, images):
    model = wrap(cnn(), defense=["brelu", "label_smoothing"])
    model.compile("sgd", CE)
    p = model.predict(images[0], verbose=0)
    rate = model.optimizer.learning_rate
    rate.assign(0.0)
    logged = model.fit(*images, batch_size=20, shuffle=False, verbose=0).history["loss"]
    q = np.where(np.eye(3)[images[1]] == 1, 0.9, 0.05)
    np.testing.assert_allclose(logged, [-(q * np.log(p)).sum(axis=1).mean()], rtol=1e-5)


@pytest.mark.parametrize("k", [0.0, -0.1, 1.1, "x"])
def test_bad_k(k):
    with pytest.raises(ValueError, match=f"`k` must be .*Received: k={k!r}"):
        LabelSmoothing(k)


def test_k_must_leave_the_true_class_on_top(linear, points):
    model = RobustModel(linear(), [LabelSmoothing(1 / 3)])
    model.compile("sgd", CE)
    with pytest.raises(ValueError, match="above 1 / 3.*Received: k=0.333"):
        model.fit(*points, verbose=0)


def test_a_custom_loss_for_integers_is_told_what_it_gets():
    def sparse(y, p):
        labels = keras.ops.cast(keras.ops.reshape(y, (-1, 1)), "int32")
        return -keras.ops.log(keras.ops.take_along_axis(p, labels, axis=1))[:, 0]

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model = wrap(model, "label_smoothing")
    model.compile("sgd", sparse)
    with pytest.raises(ValueError, match="must take labels that are distributions.*Received"):
        model.fit(np.full((5, 4), 0.5), np.arange(5) % 3, verbose=0)
