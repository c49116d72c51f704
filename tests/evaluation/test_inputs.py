"""A model that is given inputs other than those it was trained on is found out, and no other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import Classifier, evaluate
from kerasrobust.evaluation.diagnosis import look_for_unit

SHAPE, CLASSES, N = (6, 6, 3), 4, 80


def network(*front):
    """Four classes by which corner of the image is bright and in which colour, on x in 0..1."""
    kernel = np.zeros((*SHAPE, CLASSES), np.float32)
    for label in range(CLASSES):
        kernel[:3, 3 * (label % 2) : 3 * (label % 2) + 3, label // 2, label] = 1
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            *front,
            layer(lambda v: keras.ops.clip(v, 0, 1)),  # or it would hardly care for the unit
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )
    model.set_weights([kernel.reshape(-1, CLASSES), np.array([0.0, -2.0, 1.0, -1.0], np.float32)])
    return model


def layer(function):
    return keras.layers.Lambda(function)


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0)
    x = draw.uniform(0.1, 0.4, (N, *SHAPE)).astype(np.float32)
    y = np.arange(N) % CLASSES
    for image, label in zip(x, y, strict=True):
        image[:3, 3 * (label % 2) : 3 * (label % 2) + 3, label // 2] += 0.45
    assert (network().predict(x, verbose=0).argmax(axis=1) == y).all()
    return x, y


# What the model does first with what it expects, its bounds, how it is given x, what is said of it.
MEAN, DEVIATION = 0.27, 0.17
WRONG = {
    "0..255 given 0..1": ((lambda v: v / 255), (0, 1), lambda x: x, "0..255", "--clip-max 255"),
    "-1..1 given 0..1": ((lambda v: (v + 1) / 2), (0, 1), lambda x: x, "-1..1", "--clip-min -1"),
    "0..1 given 0..255": ((lambda v: v), (0, 255), lambda x: 255 * x, "0..1", "--clip-max 1"),
    "standardised": (
        (lambda v: DEVIATION * v + MEAN),
        *((0, 1), lambda x: x, "less their mean", "--mean 0."),
    ),
    "inverted": ((lambda v: 1 - v), (0, 1), lambda x: x, "light and dark", None),
    "channels": ((lambda v: v[..., ::-1]), (0, 1), lambda x: x, "red and blue", None),
    "transposed": (
        (lambda v: tf.transpose(v, [0, 2, 1, 3])),
        *((0, 1), lambda x: x, "rows and columns", None),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_the_model_was_not_trained_on(name, data):
    front, bounds, given, told, command = WRONG[name]
    x, y = data
    (finding,) = look_for_unit(Classifier(network(layer(front)), bounds), given(x), y, 40)
    assert finding.code == "another_unit" and finding.severity == "doubtful"
    assert told in finding.message and f"Of {N} samples" in finding.message
    assert finding.command is None if command is None else command in finding.command
    assert finding.value >= finding.threshold


def checked(v):
    with tf.control_dependencies([tf.debugging.assert_less_equal(v, 1.0)]):
        return tf.identity(v)


def test_a_model_that_gets_what_it_expects(data):
    x, y = data
    wrong = np.where(np.arange(N) % 3 == 0, (y + 1) % CLASSES, y)
    for model, labels in (
        (network(), y),
        (network(layer(checked)), y),  # takes no other range, and says so by an error
        (network(), wrong),  # two thirds right
        (network(layer(lambda v: 0 * v)), y),  # constant, whatever it is given
    ):
        assert not look_for_unit(Classifier(model), x, labels, 40)
    # Labels that are all wrong: another reading is not better than chance.
    assert not look_for_unit(Classifier(network()), x, (y + 1) % CLASSES, 40)


def test_the_report_says_so_where_it_may_probe(data, probes):
    x, y = data
    model = network(layer(lambda v: (v + 1) / 2))
    for probed in (True, False):
        report = evaluate(model, x, y, attacks="fgsm:eps=0.1", probes=probed)
        assert ("another_unit" in [finding.code for finding in report.findings]) == probed
    plain = evaluate(network(), x, y, attacks="fgsm:eps=0.1")
    assert "another_unit" not in [finding.code for finding in plain.findings]
