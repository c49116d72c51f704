"""FGSM's relatives and VAT: closed forms, the papers' formulas in NumPy, ART beside them."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks import evasion
from art.estimators.classification import TensorFlowV2Classifier

from kerasrobust import art, attacks
from kerasrobust.engine.classifier import Classifier

N = 24
INF = np.inf
FEATURES = 20


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:N], digits[1][:N]


@pytest.fixture(scope="module")
def gradient_of(classifier):
    """Input gradients of the cross-entropy as ART computes them."""
    estimator = art.classifier(classifier)
    return lambda x, y: estimator.loss_gradient(x, y)


@pytest.fixture(scope="module")
def linear():
    """Two classes, 20 features, a box that is never reached, and the weights of the difference."""
    rng = np.random.default_rng(0)
    # Small weights: a confidence that rounds to one has no gradient.
    kernel = 0.2 * rng.normal(size=(FEATURES, 2)).astype(np.float32)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)])
    model.set_weights([kernel, np.zeros(2, np.float32)])
    return Classifier(model, (-100.0, 100.0)), kernel[:, 1] - kernel[:, 0]


def last_iterate(name, classifier, x, y, **settings):
    attack = attacks.get(name, **settings).bind(classifier)
    return attack.perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0])).numpy()


# ---- minimal --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1, 2, INF])
def test_minimal_is_the_distance_to_the_hyperplane(norm, linear):
    classifier, w = linear
    x = np.random.default_rng(1).normal(size=(32, FEATURES)).astype(np.float32)
    dual = {1: INF, 2: 2, INF: 1}[norm]
    exact = np.abs(x @ w) / np.linalg.norm(w, dual)
    attack = attacks.get("fgsm", minimal=True, norm=norm, eps=20.0, eps_step=0.5)
    result = attack.bind(classifier).run(x)
    assert result.success.all()
    np.testing.assert_array_less(exact * 0.9999, result.distance(norm))
    assert (result.distance(norm) <= exact + 0.5 / 2**10 + 1e-4).all()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", [2, INF])
def test_minimal_without_halving_is_arts(norm, targeted, classifier, samples):
    x, y = samples
    y = (y + 1) % 10 if targeted else y
    eps, step = {2: (3.0, 0.25), INF: (0.6, 0.05)}[norm]
    estimator = art.classifier(classifier)
    theirs = evasion.FastGradientMethod(
        estimator, norm, eps, step, minimal=True, targeted=targeted
    ).generate(x, y)
    common = {"minimal": True, "norm": norm, "eps": eps, "eps_step": step, "targeted": targeted}
    ours = attacks.get("fgsm", **common, binary_search_steps=0).bind(classifier).run(x, y)
    labels = classifier.predict(theirs).argmax(axis=1)
    fooled = labels == y if targeted else labels != y
    # ART stops a rounding error below eps, where the last step of ours is eps itself.
    assert (ours.success >= fooled).all() and fooled.sum() >= (3 if targeted else 15)
    both = fooled & ~ours.initially_adversarial
    theirs = np.linalg.norm((theirs - x).reshape(N, -1), norm, axis=1)
    np.testing.assert_allclose(ours.distance(norm)[both], theirs[both], rtol=1e-3)
    finer = attacks.get("fgsm", **common).bind(classifier).run(x, y)
    assert (finer.success == ours.success).all()
    assert (finer.distance(norm)[both] <= ours.distance(norm)[both] + 1e-6).all()
    assert finer.distance(norm)[both].mean() < 0.99 * ours.distance(norm)[both].mean()


def test_minimal_counts_one_gradient_and_the_lengths_it_tried(linear):
    classifier, w = linear
    x = np.outer([1.3, 2.2, 30.0], np.sign(w)).astype(np.float32)  # these are the Linf distances
    attack = attacks.get("fgsm", minimal=True, eps=3.0, eps_step=0.5, binary_search_steps=4)
    result = attack.bind(classifier).run(x)
    np.testing.assert_array_equal(result.success, [True, True, False])
    np.testing.assert_array_equal(result.gradients, [1, 1, 1])
    # One clean and one final forward pass beside those of the search.
    np.testing.assert_array_equal(result.queries - 2, [3 + 4, 5 + 4, 6])
    np.testing.assert_allclose(result.linf[:2], [1.3, 2.2], atol=0.5 / 2**4)


def test_minimal_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="`eps_step` must be > 0 where `minimal`"):
        attacks.get("fgsm", minimal=True, eps_step=0.0)
    with pytest.raises(ValueError, match="`num_random_init` must be 0 where `minimal`"):
        attacks.get("fgsm", minimal=True, num_random_init=2)


# ---- BIM, ILC, MI-FGSM, Random+FGSM ---------------------------------------------------------


def test_bim_in_numpy_and_its_step_length(classifier, samples, gradient_of):
    x, y = samples
    expected = x
    for _ in range(4):
        moved = expected + 0.2 / 4 * np.sign(gradient_of(expected, y))
        expected = np.clip(np.clip(moved, x - 0.2, x + 0.2), 0, 1)
    ours = last_iterate("bim", classifier, x, y, eps=0.2, eps_step=0.05, max_iter=4)
    # The sign of a zero within rounding is anyone's guess, and every step inherits it.
    assert (np.abs(ours - expected) < 1e-5).mean() > 0.99


def test_ilc_in_numpy(classifier, samples, gradient_of):
    x, y = samples
    goal = classifier.predict(x).argmin(axis=1)
    expected = x
    for _ in range(3):
        moved = expected - 0.05 * np.sign(gradient_of(expected, goal))
        expected = np.clip(np.clip(moved, x - 0.12, x + 0.12), 0, 1)
    ours = last_iterate("ilc", classifier, x, y, eps=0.12, eps_step=0.05, max_iter=3)
    assert (np.abs(ours - expected) < 1e-5).mean() > 0.99
    other = last_iterate("bim", classifier, x, y, eps=0.12, eps_step=0.05, max_iter=3)
    assert (np.abs(ours - other) > 1e-3).mean() > 0.1


@pytest.mark.parametrize("norm", [2, INF])
def test_momentum_in_numpy(norm, classifier, samples, gradient_of):
    x, y = samples
    eps, step, decay = {2: (0.8, 0.3), INF: (0.15, 0.06)}[norm] + (0.7,)
    axes = (1, 2, 3)
    expected, momentum = x, np.zeros_like(x)
    for _ in range(4):
        g = gradient_of(expected, y)
        momentum = decay * momentum + g / np.abs(g).sum(axis=axes, keepdims=True)
        if norm == INF:
            moved = np.clip(expected + step * np.sign(momentum), 0, 1)
            expected = x + np.clip(moved - x, -eps, eps)
        else:
            length = np.sqrt((momentum**2).sum(axis=axes, keepdims=True))
            delta = np.clip(expected + step * momentum / length, 0, 1) - x
            size = np.sqrt((delta**2).sum(axis=axes, keepdims=True))
            expected = x + delta * np.minimum(1, eps / size)
    settings = {"norm": norm, "eps": eps, "eps_step": step, "max_iter": 4}
    ours = last_iterate("mifgsm", classifier, x, y, decay=decay, **settings)
    assert (np.abs(ours - expected) < 1e-4).mean() > 0.99
    plain = last_iterate("mifgsm", classifier, x, y, decay=0.0, **settings)
    pgd = last_iterate("pgd", classifier, x, y, **settings)
    np.testing.assert_allclose(plain, pgd, atol=1e-5)
    assert (np.abs(ours - plain) > 1e-3).any()


@pytest.mark.parametrize("noise", ["sign", "gaussian"])
def test_random_fgsm_spends_alpha_first(noise, classifier, samples):
    x, y = samples
    inner = (x > 0.3) & (x < 0.7)  # where the box does not clip
    assert inner.sum() > 100
    settings = {"eps": 0.2, "alpha": 0.05, "noise": noise}
    ours = last_iterate("rand_fgsm", classifier, x, y, **settings)
    size = np.abs(ours - x)[inner]
    if noise == "sign":  # both steps together, or against each other
        assert (np.isclose(size, 0.2, atol=1e-5) | np.isclose(size, 0.1, atol=1e-5)).all()
        assert 0.3 < np.isclose(size, 0.2, atol=1e-5).mean() < 0.7
    else:
        assert size.min() >= 0.1 - 1e-5 and size.max() <= 0.2 + 1e-5
        assert len(np.unique(size.round(4))) > 20
    # Nothing is left for the second step where alpha exceeds eps.
    all_noise = last_iterate("rand_fgsm", classifier, x, y, eps=0.04, alpha=0.05, noise="sign")
    np.testing.assert_allclose(np.abs(all_noise - x)[inner], 0.04, atol=1e-5)


# ---- VAT ------------------------------------------------------------------------------------


def test_virtual_direction_is_the_first_eigenvector_of_the_fisher_matrix():
    """For linear logits the Hessian of the divergence at zero is `W (diag(p) - p p^T) W^T`."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(12, 5))
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(5)])
    model.set_weights([kernel, np.zeros(5)])
    x = rng.normal(size=(6, 12)).astype(np.float32) / 3
    attack = attacks.get("vat", eps=0.5, max_iter=60, finite_diff=0.05)
    attack = attack.bind(Classifier(model, (-9.0, 9.0)))
    moved = attack.perturb(tf.constant(x), tf.zeros([6], tf.int32), seed=tf.constant([0, 0]))
    delta = moved.numpy() - x
    np.testing.assert_allclose(np.linalg.norm(delta, axis=1), 0.5, rtol=1e-4)
    for row, d in zip(x, delta, strict=True):
        z = row @ kernel
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        values, vectors = np.linalg.eigh(kernel @ (np.diag(p) - np.outer(p, p)) @ kernel.T)
        assert values[-1] > 1.05 * values[-2]
        assert abs(vectors[:, -1] @ d) / 0.5 > 0.98

        def divergence(point, z=z, p=p):
            q = point @ kernel
            return p @ (z - np.log(np.exp(z).sum()) - q + np.log(np.exp(q).sum()))

        assert divergence(row + d) >= divergence(row - d) - 1e-6


def test_virtual_adversary_beats_arts(digits_model, samples):
    """ART makes one pass per pixel and iteration; the divergence is what both maximise."""
    x, y = samples[0][:8], samples[1][:8]
    model = TensorFlowV2Classifier(digits_model, 10, (8, 8, 1), clip_values=(0, 1))
    np.random.seed(0)
    theirs = evasion.VirtualAdversarialMethod(
        model, max_iter=3, finite_diff=1e-2, eps=1.0, batch_size=8, verbose=False
    ).generate(x)
    ours = last_iterate("vat", digits_model, x, y, eps=1.0, max_iter=3)
    scores = [digits_model.predict(batch, verbose=0) + 1e-12 for batch in (x, theirs, ours)]
    clean, *others = scores
    divergence = [(clean * np.log(clean / other)).sum(axis=1) for other in others]
    assert np.median(divergence[1]) >= np.median(divergence[0])
    assert math.isfinite(divergence[1].max())
