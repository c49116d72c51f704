"""Losses against NumPy, and their gradients where a model is very sure."""

from __future__ import annotations

from decimal import Decimal, getcontext

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from kerasrobust import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(9, 5))
LABELS = RNG.integers(0, 5, size=9)


def others(logits, labels):
    """The largest logit but that of the label."""
    left = logits.copy()
    left[np.arange(len(labels)), labels] = -np.inf
    return left.max(axis=1)


def own(logits, labels):
    return logits[np.arange(len(labels)), labels]


def numpy_cross_entropy(logits, labels):
    return special.logsumexp(logits, axis=1) - own(logits, labels)


def numpy_margin(logits, labels):
    return own(logits, labels) - others(logits, labels)


def numpy_ratio(logits, labels):
    ordered = np.sort(logits, axis=1)
    return -numpy_margin(logits, labels) / (ordered[:, -1] - ordered[:, -3])


def numpy_log_odds(logits, labels):
    left = logits.copy()
    left[np.arange(len(labels)), labels] = -np.inf
    return special.logsumexp(left, axis=1) - own(logits, labels)


PAIRS = [
    (losses.log_odds, numpy_log_odds),
    (losses.cross_entropy, numpy_cross_entropy),
    (losses.margin, numpy_margin),
    (losses.difference_of_logits_ratio, numpy_ratio),
]
every_loss = pytest.mark.parametrize(
    "ours, numpys", PAIRS, ids=[pair[0].__name__ for pair in PAIRS]
)


@every_loss
def test_equals_numpy(ours, numpys):
    value = ours(tf.constant(LOGITS, tf.float32), tf.constant(LABELS))
    assert value.shape == (9,)
    np.testing.assert_allclose(value, numpys(LOGITS, LABELS), rtol=1e-5, atol=1e-5)


def test_kl_divergence_equals_numpy():
    other = RNG.normal(scale=3, size=(9, 5))
    p, q = special.softmax(LOGITS, axis=1), special.softmax(other, axis=1)
    value = losses.kl_divergence(tf.constant(LOGITS, tf.float32), tf.constant(other, tf.float32))
    np.testing.assert_allclose(value, special.rel_entr(p, q).sum(axis=1), rtol=1e-4)
    same = losses.kl_divergence(tf.constant(LOGITS, tf.float32), tf.constant(LOGITS, tf.float32))
    np.testing.assert_allclose(same, np.zeros(9), atol=1e-6)


def test_a_class_that_a_model_rules_out_has_no_part_in_the_margin():
    z = tf.constant([[2.0, 1.0, -np.inf], [-np.inf, 1.0, 3.0]])
    np.testing.assert_allclose(losses.margin(z, tf.constant([0, 1])), [1.0, -2.0])


def test_signs():
    """The margin is positive where the model is right, the other losses rise towards an error."""
    z = tf.constant([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]])
    y = tf.constant([0, 0])
    np.testing.assert_allclose(losses.margin(z, y), [2.0, -2.0])
    np.testing.assert_allclose(losses.difference_of_logits_ratio(z, y), [-2 / 3, 2 / 3], rtol=1e-6)
    right, wrong = losses.cross_entropy(z, y).numpy()
    assert right < wrong


def test_the_ratio_does_not_depend_on_scale_and_shift():
    z, y = tf.constant(LOGITS, tf.float32), tf.constant(LABELS)
    expected = losses.difference_of_logits_ratio(z, y)
    np.testing.assert_allclose(
        losses.difference_of_logits_ratio(100 * z + 7, y), expected, rtol=1e-3
    )


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4, 1e20])
@every_loss
def test_values_and_gradients_are_finite_at_the_extremes(ours, numpys, scale):
    z = tf.constant(LOGITS * scale, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = ours(z, tf.constant(LABELS))
    assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, z)).all()


@pytest.mark.parametrize("scale", [0.0, 1e4, 1e20])
def test_kl_divergence_is_finite_at_the_extremes(scale):
    p = tf.constant(LOGITS * scale, tf.float32)
    q = tf.reverse(p, [1])
    with tf.GradientTape() as tape:
        tape.watch([p, q])
        value = losses.kl_divergence(p, q)
    assert np.isfinite(value).all()
    for gradient in tape.gradient(value, [p, q]):
        assert np.isfinite(gradient).all()


def test_gradients_of_the_margin():
    """`+1` at the label, `-1` at the runner-up, whatever the size of the logits."""
    for scale in (1.0, 1e6):
        z = tf.constant(np.array([[5.0, 2.0, 1.0], [0.0, 4.0, 6.0]]) * scale, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = losses.margin(z, tf.constant([0, 1]))
        np.testing.assert_array_equal(tape.gradient(value, z), [[1, -1, 0], [0, 1, -1]])


@every_loss
def test_xla(ours, numpys):
    z, y = tf.constant(LOGITS, tf.float32), tf.constant(LABELS)
    compiled = tf.function(ours, jit_compile=True, autograph=False)(z, y)
    np.testing.assert_allclose(compiled, ours(z, y), rtol=1e-5, atol=1e-6)


# ---- exact at any gap ------------------------------------------------------------------------

getcontext().prec = 400
STEP = Decimal(10) ** -30


def softmax(z):
    powers = [value.exp() for value in z]
    return [power / sum(powers) for power in powers]


def central_differences(function, z):
    """The gradient of a function of a list of decimals, with digits to spare."""
    z = [Decimal(float(value)) for value in z]
    gradient = []
    for i in range(len(z)):
        up, down = list(z), list(z)
        up[i], down[i] = z[i] + STEP, z[i] - STEP
        gradient.append(float((function(up) - function(down)) / (2 * STEP)))
    return float(function(z)), np.array(gradient)


def value_and_gradient(function, z):
    z = tf.constant(z[None], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = function(z)
    return float(value[0]), tape.gradient(value, z).numpy()[0]


FAR_APART = [
    np.float32([gap, 0.3, -1.0, -0.2])[order]
    for gap in (0.5, 5, 15, 25, 60, 85)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1])
]
STARTS = [z + np.float32([0.1, 0.5, -0.3, 0.2]) for z in FAR_APART]


@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("z", FAR_APART)
def test_the_cross_entropy_has_the_gradient_of_its_limit(z, y):
    """To a relative error of rounding, where TensorFlow's own is zero above a gap of 17."""
    expected, gradient = central_differences(lambda v: -softmax(v)[y].ln(), z)
    value, ours = value_and_gradient(lambda v: losses.cross_entropy(v, tf.constant([y])), z)
    np.testing.assert_allclose(value, expected, rtol=3e-5)
    np.testing.assert_allclose(ours, gradient, rtol=3e-5)


@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("z", FAR_APART)
def test_the_log_odds_rise_with_the_cross_entropy(z, y):
    """`CE = log(1 + e^m)`, so that the gradients have one direction."""
    _, climbed = value_and_gradient(lambda v: losses.log_odds(v, tf.constant([y])), z)
    _, gradient = central_differences(lambda v: -softmax(v)[y].ln(), z)
    assert np.abs(climbed).max() == 1 and climbed[y] == -1
    np.testing.assert_allclose(climbed, gradient / np.abs(gradient).max(), rtol=1e-5)


@pytest.mark.parametrize("temperature", [2.0, 0.3, np.geomspace(0.02, 1, 9)])
def test_the_log_odds_at_a_temperature(temperature):
    warmth = np.broadcast_to(temperature, 9)
    logits = tf.constant(LOGITS, tf.float32)
    value = losses.log_odds(logits, tf.constant(LABELS), temperature)
    expected = warmth * numpy_log_odds(LOGITS / warmth[:, None], LABELS)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("z", FAR_APART)
def test_cold_log_odds_are_the_margin(z):
    y = tf.constant([1])
    value, cold = value_and_gradient(lambda v: losses.log_odds(v, y, 1e-3), z)
    gap, margin = value_and_gradient(lambda v: losses.margin(v, y), z)
    np.testing.assert_allclose(value, -gap, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(cold, -margin, atol=1e-5)


@pytest.mark.parametrize("i", range(len(FAR_APART)))
def test_the_logarithm_of_the_divergence(i):
    z, start = FAR_APART[i], STARTS[i]
    p = softmax([Decimal(float(value)) for value in z])

    def divergence(v):
        return sum(a * (a / b).ln() for a, b in zip(p, softmax(v), strict=True)).ln()

    log_p = losses.log_softmax(tf.constant(z[None]))
    expected, gradient = central_differences(divergence, start)
    value, ours = value_and_gradient(lambda v: losses.log_kl_divergence(log_p, v), start)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(ours, gradient, rtol=1e-4)


@pytest.mark.parametrize("z", FAR_APART)
@pytest.mark.parametrize("labels", [[0, 1, 0, 0], [0.05, 0.05, 0.85, 0.05], [0.5, 0, 0.5, 0]])
def test_the_divergence_from_labels(labels, z):
    """Soft and hard ones; for a hard one it is the cross-entropy."""

    def divergence(v):
        terms = zip([Decimal(value) for value in labels], softmax(v), strict=True)
        return sum(a * (a / b).ln() for a, b in terms if a).ln()

    expected, gradient = central_differences(divergence, z)
    log_p = tf.math.log(tf.constant([labels], tf.float32))
    value, ours = value_and_gradient(lambda v: losses.log_kl_divergence(log_p, v), z)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("z", FAR_APART)
def test_the_logarithm_of_the_entropy(z):
    expected, gradient = central_differences(
        lambda v: (-sum(p * p.ln() for p in softmax(v))).ln(), z
    )
    value, ours = value_and_gradient(losses.log_entropy, z)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(ours, gradient, rtol=1e-4)


@pytest.mark.parametrize("gap", [1e3, 1e6])
def test_directions_have_the_size_of_one_at_any_gap(gap):
    z = np.float32([gap, 0.3, -1.0, -0.2])
    log_p = losses.log_softmax(tf.constant(z[None] + np.float32([0, 0.5, -0.3, 0.2])))
    for climbed in (
        lambda v: losses.log_odds(v, tf.constant([0])),
        lambda v: losses.log_kl_divergence(log_p, v),
        losses.log_entropy,
    ):
        value, gradient = value_and_gradient(climbed, z)
        assert np.isfinite(value) and 0.5 < np.abs(gradient).max() < 10
        assert gradient[0] != 0 and (gradient[1:] != 0).all()


def test_no_divergence_has_no_direction():
    z = np.float32([3.0, 1.0, 0.0, 2.0])
    log_p = losses.log_softmax(tf.constant(z[None]))
    value, gradient = value_and_gradient(lambda v: losses.log_kl_divergence(log_p, v), z)
    assert value < -1e29
    np.testing.assert_array_equal(gradient, 0)
