"""The saliency map attack: the exact best pair, its limits, and ART beside it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from art.attacks import evasion
from art.estimators.classification import TensorFlowV2Classifier

from kerasrobust import attacks
from kerasrobust.attacks.saliency_map import most_salient_pair

N = 24


def best_pair(alpha, beta, free):
    """Over all pairs: the salience, proper pairs before all others."""
    best = (-1, -np.inf)
    for p, q in itertools.combinations(np.flatnonzero(free), 2):
        a, b = alpha[p] + alpha[q], beta[p] + beta[q]
        best = max(best, (1, a * b) if a > 0 and b > 0 else (0, a + b))
    return best


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("shift", [-3.0, 0.0])
def test_pair_is_the_best_of_all(slope, shift):
    """Gains that fall together, that have nothing to do with each other, that oppose."""
    rng = np.random.default_rng(0)
    alpha = rng.normal(size=(20, 40)) + shift
    beta = slope * alpha + 0.3 * rng.normal(size=alpha.shape) + (shift if slope == 0 else 0)
    free = rng.uniform(size=alpha.shape) < 0.7
    alpha, beta = alpha.astype(np.float32), beta.astype(np.float32)
    pair, found = (t.numpy() for t in most_salient_pair(*map(tf.constant, (alpha, beta, free))))
    kinds = set()
    for row in range(20):
        kind, value = best_pair(alpha[row], beta[row], free[row])
        kinds.add(kind)
        assert found[row] == (kind == 1 or value > 0)
        assert pair[row].sum() == (2 if found[row] else 0)
        if found[row]:
            assert free[row][pair[row]].all()
            a, b = alpha[row][pair[row]].sum(), beta[row][pair[row]].sum()
            assert (a > 0 and b > 0) == (kind == 1)
            np.testing.assert_allclose(a * b if kind == 1 else a + b, value, rtol=1e-4)
    assert kinds


def test_no_pair_among_fewer_than_two_pixels():
    ones = tf.ones([2, 6])
    free = tf.constant([[True] + [False] * 5, [False] * 6])
    pair, found = most_salient_pair(ones, ones, free)
    assert not found.numpy().any() and not pair.numpy().any()


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
@pytest.mark.parametrize("theta", [0.25, -0.25])
def test_first_step_in_numpy(theta, outputs, classifier, digits):
    x, y = digits[0][:8], digits[1][:8]
    goal = (y + 1) % 10
    sources = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        scores = classifier.logits(sources)
        if outputs == "probabilities":
            scores = tf.nn.softmax(tf.cast(scores, tf.float64))
    jacobian = tape.batch_jacobian(scores, sources).numpy().reshape(8, 10, 64)
    edge = float(theta > 0)
    for row in range(8):
        alpha = np.sign(theta) * jacobian[row, goal[row]]
        beta = -np.sign(theta) * (jacobian[row].sum(axis=0) - jacobian[row, goal[row]])
        free = x[row].reshape(-1) != edge
        kind, value = best_pair(alpha, beta, free)
        attack = attacks.get("jsma", theta=theta, gamma=2 / 64, targeted=True, outputs=outputs)
        attack = attack.bind(classifier)
        attack.max_steps = lambda: 1
        one = attack.perturb(
            tf.constant(x[row : row + 1]),
            tf.constant(goal[row : row + 1]),
            seed=tf.constant([0, 0]),
        )
        changed = np.flatnonzero(one.numpy().reshape(-1) != x[row].reshape(-1))
        assert len(changed) == 2 and kind == 1
        salience = alpha[changed].sum() * beta[changed].sum()
        np.testing.assert_allclose(salience, value, rtol=2e-3)


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
def test_gamma_is_never_exceeded(outputs, classifier, digits):
    x, y = digits[0][:N], digits[1][:N]
    for gamma in (0.04, 0.1, 0.3):
        attack = attacks.get("jsma", theta=0.3, gamma=gamma, outputs=outputs).bind(classifier)
        moved = attack.perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0])).numpy()
        pixels = (moved != x).reshape(N, -1).sum(axis=1)
        assert pixels.max() <= gamma * 64
        assert pixels.max() >= 2
    with pytest.raises(ValueError, match="`gamma` must be a number <= 1. Received: gamma=1.5"):
        attacks.get("jsma", gamma=1.5)
    with pytest.raises(ValueError, match="`theta` must not be 0"):
        attacks.get("jsma", theta=0)


@pytest.mark.slow
@pytest.mark.parametrize("theta", [0.1, 1.0])
def test_as_strong_as_art(theta, classifier, digits):
    x, y = digits[0][:N], digits[1][:N]
    goal = (y + 1 + np.arange(N) % 9) % 10
    ours = attacks.get("jsma", theta=theta, targeted=True).bind(classifier).run(x, goal)
    model = TensorFlowV2Classifier(classifier.model, 10, (8, 8, 1), clip_values=(0, 1))
    theirs = evasion.SaliencyMapMethod(model, theta, 1.0, batch_size=N, verbose=False)
    x_adv = theirs.generate(x, goal)
    fooled = classifier.predict(x_adv).argmax(axis=1) == goal
    pixels = (np.abs(x_adv - x) > 1e-6).reshape(N, -1).sum(axis=1)
    pixels = np.where(fooled, pixels, np.inf)
    print(fooled.sum(), ours.success.sum(), np.median(pixels), np.median(ours.l0))
    assert ours.success.sum() >= fooled.sum() - 2
    assert np.median(ours.l0) <= np.median(pixels) * 1.03
    assert ours.success.sum() > N // 2
