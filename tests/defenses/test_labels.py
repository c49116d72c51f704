"""Labels in any form reach the loss, whatever cross-entropy was compiled."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import RobustModel, TrainingDefense
from kerasrobust.defenses.point_loss import PointLoss
from kerasrobust.defenses.training.labels import class_distribution, integer_labels

SOFT = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.0, 1.0, 0.0]] * 3, "float32")


class Soften(TrainingDefense):
    """Half the loss of given labels, half that of the labels as they came."""

    name = "soften"

    def objective(self, batch, inner):
        soft = inner(batch.replace(y=tf.constant(SOFT)[: tf.shape(batch.x)[0]]))
        return 0.5 * soft + 0.5 * inner(batch)

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    ("y", "nb_classes", "labels", "rows"),
    [
        ([2, 0], 3, [2, 0], [[0, 0, 1], [1, 0, 0]]),
        ([[2], [0]], 3, [2, 0], [[0, 0, 1], [1, 0, 0]]),
        ([2.0, 0.0], 3, [2, 0], [[0, 0, 1], [1, 0, 0]]),
        ([[0, 1, 0], [1, 0, 0]], 3, [1, 0], [[0, 1, 0], [1, 0, 0]]),
        ([[0.1, 0.7, 0.2]], 3, [1], [[0.1, 0.7, 0.2]]),
        ([1, 0], 2, [1, 0], [[0, 1], [1, 0]]),
        ([[0.75], [0.25]], 2, [1, 0], [[0.25, 0.75], [0.75, 0.25]]),
        ([3, -1], 3, [3, -1], [[np.nan] * 3] * 2),
    ],
)
def test_forms_of_labels(y, nb_classes, labels, rows):
    y = tf.constant(y)
    got = integer_labels(y, nb_classes)
    assert got.dtype == tf.int32
    np.testing.assert_array_equal(got, labels)
    got = class_distribution(y, nb_classes)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, rows, rtol=1e-6)


@pytest.mark.parametrize(
    ("activation", "loss", "one_hot"),
    [
        ("softmax", "sparse_categorical_crossentropy", False),
        ("softmax", keras.losses.sparse_categorical_crossentropy, False),
        ("softmax", keras.losses.SparseCategoricalCrossentropy(), False),
        (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), False),
        ("softmax", "categorical_crossentropy", True),
        (None, keras.losses.CategoricalCrossentropy(from_logits=True), True),
        ("softmax", "ce", False),
        ("softmax", "ce", True),
    ],
)
def test_soft_labels_with_any_cross_entropy(
    linear, points, weights, activation, loss, one_hot, mode
):
    x, y = points
    base = linear(activation)
    model = RobustModel(base, [Soften()])
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], **mode)
    hard = np.eye(3, dtype="float32")[y]
    history = model.fit(x, hard if one_hot else y, batch_size=9, shuffle=False, verbose=0).history

    z = x.astype("float64") @ weights[0] + weights[1]
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    targets = 0.5 * SOFT + 0.5 * hard
    np.testing.assert_allclose(history["loss"], [-(targets * log_p).sum(1).mean()], rtol=1e-5)
    # Metrics compare with the labels as they came.
    np.testing.assert_allclose(history["accuracy"], [(z.argmax(1) == y).mean()], rtol=1e-6)
    residual = (np.exp(log_p) - targets) / 9
    expected = [weights[0] - 0.1 * x.T @ residual, weights[1] - 0.1 * residual.sum(0)]
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("ending", ["softmax", None])
def test_from_the_probabilities_where_logits_are_not_at_hand(ending):
    logits = tf.constant([[1.0, 2.0, -1.0]])
    loss = PointLoss("sparse_categorical_crossentropy", ending=ending)
    got = loss(tf.constant(SOFT[:1]), tf.nn.softmax(logits), logits if ending else None)
    wanted = -tf.reduce_sum(SOFT[:1] * tf.nn.log_softmax(logits), axis=1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_a_single_unit_takes_the_second_class():
    loss = PointLoss("ce")
    outputs = tf.constant([[0.8], [0.3]])
    wanted = -np.log([0.8, 0.7]) * 0.9 - np.log([0.2, 0.3]) * 0.1
    for y in ([[0.1, 0.9], [0.9, 0.1]], [[0.9], [0.1]], [0.9, 0.1]):
        np.testing.assert_allclose(loss(tf.constant(y), outputs, None), wanted, rtol=1e-5)


def test_an_ignored_class_and_soft_labels_are_refused():
    loss = PointLoss(keras.losses.SparseCategoricalCrossentropy(ignore_class=2))
    outputs = tf.fill([3, 3], 1 / 3)
    np.testing.assert_allclose(
        loss(tf.constant([0, 2, 1]), outputs, None), [np.log(3), 0, np.log(3)]
    )
    with pytest.raises(ValueError, match="cannot take .* soft labels.*Received: ignore_class=2"):
        loss(tf.constant(SOFT[:3]), outputs, None)
