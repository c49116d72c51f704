"""Losses against NumPy, and their gradients where a model is very sure."""

from __future__ import annotations

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


PAIRS = [
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
