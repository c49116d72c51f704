"""The probability margin attack: its loss, its schedule, its strength."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks, losses
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import evaluate


def softmax(z):
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def gradient_of_the_margin(z, y, own, other):
    """Of `max_{j != y} p_j - p_y` or of one of its terms, in float64: `dp_k = p_k (e_k - p)`."""
    p, rows = softmax(z), np.arange(len(z))
    p_other = p.copy()
    p_other[rows, y] = -1
    k = p_other.argmax(axis=1)
    unit = np.eye(z.shape[1])
    # `e_y - p` by its others, as 1 - p_y cancels.
    toward_y = -p
    toward_y[rows, y] = np.where(unit[y] > 0, 0, p).sum(axis=1)
    found = np.zeros_like(z)
    if own:
        found -= p[rows, y][:, None] * toward_y
    if other:
        found += p[rows, k][:, None] * (unit[k] - p)
    return found


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("gap", [0.0, 3.0, 30.0, 300.0])
def test_the_gradient_has_the_direction_of_the_probabilities(gap, parts):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(20, 5)), rng.integers(0, 5, 20)
    z[np.arange(20), y] += gap
    logits = tf.constant(z.astype(np.float32))
    own, other = (tf.fill([20], part) for part in parts)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.probability_margin(logits, tf.constant(y, tf.int32), own, other)
    found = tape.gradient(loss, logits).numpy().astype(np.float64)
    expected = gradient_of_the_margin(logits.numpy().astype(np.float64), y, *parts)
    found, expected = (part / np.abs(part).max(axis=1, keepdims=True) for part in (found, expected))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    p = softmax(z)
    rest = np.where(np.eye(5)[y] > 0, -1, p).max(axis=1)
    np.testing.assert_allclose(loss, rest - p[np.arange(20), y], atol=1e-6)


def test_steps_fall_twice_and_terms_take_turns(digits_model, digits):
    """What is climbed, and how far a step goes, over two starts of eight steps."""
    attack = attacks.get("pma", eps=0.1, max_iter=8, early_stop=False).bind(digits_model)
    lengths, parts = [], []
    params = {"max_iter": tf.constant(8)}
    state = {"eps": tf.fill([1], 0.1), "part": tf.zeros([1], tf.int32)}
    for k in range(16):
        state["steps"] = tf.fill([1], k)
        lengths.append(float(attack._step_length(state, params)[0]))
        parts.append(int(attack._part(state["steps"], params)[0]))
    half = 0.1 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(lengths, np.tile(half, 4), rtol=1e-5)
    assert parts == [1] * 4 + [0] * 4 + [2] * 4 + [0] * 4


@pytest.mark.slow
def test_stronger_than_apgd_on_the_cross_entropy_with_as_many_passes(digits_model, digits):
    x, y = digits[0][:100], digits[1][:100]
    classifier = Classifier(digits_model)
    ours = attacks.get("pma", eps=0.06, max_iter=50).bind(classifier).run(x, y)
    other = attacks.get("apgd", eps=0.06, max_iter=100, nb_random_init=1).bind(classifier).run(x, y)
    assert 0.1 < ours.success.mean() < 0.99
    assert ours.success.mean() >= other.success.mean() - 0.01


@pytest.mark.slow
def test_pma_plus(digits_model, digits):
    x, y = digits[0][:40], digits[1][:40]
    first = evaluate(digits_model, x, y, attacks="pma+", eps=0.06)
    whole = evaluate(digits_model, x, y, attacks="autoattack", eps=0.06)
    assert list(first.attacks) == ["pma", "apgd-t"]
    assert abs(first.robust_accuracy - whole.robust_accuracy) <= 1 / 40
