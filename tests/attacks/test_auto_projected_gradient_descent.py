"""Auto-PGD: the papers' schedule, projection and losses, and how strong it is."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks import evasion
from art.estimators.classification import TensorFlowV2Classifier
from scipy import optimize

from kerasrobust import attacks, losses, norms
from kerasrobust.attacks import AutoProjectedGradientDescent
from kerasrobust.engine import drivers

N = 40
INF = np.inf


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:N], digits[1][:N]


def test_checkpoints_are_the_papers():
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), w_j = ceil(100 p_j)."""
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    expected = [math.ceil(round(100 * value, 6)) for value in p[1:] if value <= 1]
    steps, gaps, radii = AutoProjectedGradientDescent(max_iter=100)._schedule()
    assert len(steps) == 101 and set(radii) == {1.0}
    found = [step for step, gap in zip(steps, gaps, strict=True) if gap]
    assert found == expected
    assert [gap for gap in gaps if gap] == list(np.diff([0, *expected]))


def test_stages_of_l1():
    steps, gaps, radii = AutoProjectedGradientDescent(norm=1, max_iter=100)._schedule()
    # 30, 30 and 40 steps of radius 3, 2 and 1 eps, each with a gradient at its first point.
    assert [radii.count(r) for r in (3.0, 2.0, 1.0)] == [31, 31, 41]
    assert radii == sorted(radii, reverse=True)
    assert [i for i, step in enumerate(steps) if step == 0] == [0, 31, 62]
    short = AutoProjectedGradientDescent(norm=1, max_iter=1)._schedule()
    assert short[2][-1] == 1.0


def test_projection_onto_l1_ball_and_box():
    """Against the threshold that scipy finds, and against the plain L1 projection."""
    rng = np.random.default_rng(0)
    for scale in (0.05, 0.5, 3.0):
        x = rng.uniform(size=(30, 12)) * (rng.uniform(size=(30, 12)) > 0.2)
        delta = scale * rng.normal(size=x.shape)
        eps = rng.uniform(0.05, 3.0, size=30)
        ours = norms.project_l1_in_box(
            *(tf.constant(v, tf.float32) for v in (delta, eps, -x, 1 - x))
        ).numpy()
        for d, r, o, point in zip(delta, eps, ours, x, strict=True):
            room = np.where(d > 0, 1 - point, point)

            def excess(t, d=d, r=r, room=room):
                return np.clip(np.abs(d) - t, 0, room).sum() - r

            t = 0.0 if excess(0) <= 0 else optimize.brentq(excess, 0, 100, xtol=1e-12)
            np.testing.assert_allclose(o, np.sign(d) * np.clip(np.abs(d) - t, 0, room), atol=3e-6)
    wide = tf.fill([30, 12], 100.0)
    delta, eps = tf.constant(delta, tf.float32), tf.constant(eps, tf.float32)
    free = norms.project_l1_in_box(delta, eps, -wide, wide)
    np.testing.assert_allclose(free, norms.project(delta, eps, 1.0), atol=1e-5)


def test_targeted_dlr_in_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 6)).astype(np.float32)
    y, t = rng.integers(6, size=50), rng.integers(6, size=50)
    ordered = np.sort(logits, axis=1)[:, ::-1]
    rows = np.arange(50)
    expected = -(logits[rows, y] - logits[rows, t]) / (
        ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    )
    ours = losses.targeted_difference_of_logits_ratio(
        tf.constant(logits), tf.constant(y, tf.int32), tf.constant(t, tf.int32)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


BUDGETS = {INF: 0.1, 2: 0.5, 1: 1.5}


@pytest.mark.parametrize("norm", BUDGETS)
def test_no_weaker_than_pgd_with_as_many_gradients(norm, classifier, samples):
    """PGD at the best of three step lengths, which Auto-PGD does not have to be told."""
    x, y = samples
    eps = BUDGETS[norm]
    apgd = attacks.get("apgd", norm=norm, eps=eps, max_iter=39, nb_random_init=1).bind(classifier)
    ours = apgd.run(x, y)
    pgd = [
        attacks.get("pgd", norm=norm, eps=eps, eps_step=eps * share, max_iter=40, num_random_init=1)
        .bind(classifier)
        .run(x, y)
        for share in (0.05, 0.1, 0.25)
    ]
    best = max(int(result.success.sum()) for result in pgd)
    print(norm, ours.success.sum(), best)
    assert 5 < best < N
    assert ours.success.sum() >= best - 1
    assert ours.gradients.max() <= 42
    assert (ours.l2 >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "difference_logits_ratio"])
@pytest.mark.parametrize("norm", [2, INF])
def test_as_strong_as_art(norm, loss, classifier, samples):
    x, y = samples
    eps = BUDGETS[norm]
    model = keras.Sequential.from_config(classifier.model.get_config())
    model.layers[-1].activation = keras.activations.linear
    model.set_weights(classifier.model.get_weights())
    estimator = TensorFlowV2Classifier(
        model, 10, (8, 8, 1), keras.losses.CategoricalCrossentropy(True), clip_values=(0, 1)
    )
    theirs = evasion.AutoProjectedGradientDescent(
        estimator, norm, eps, 2 * eps, 20, nb_random_init=1, loss_type=loss, batch_size=N,
        verbose=False,
    ).generate(x, y)  # fmt: skip
    ours = attacks.get("apgd", norm=norm, eps=eps, max_iter=20, nb_random_init=1, loss_type=loss)
    ours = ours.bind(classifier).run(x, y)
    fooled = classifier.predict(theirs).argmax(axis=1) != y
    print(norm, loss, ours.success.sum(), fooled.sum())
    assert ours.success.sum() >= fooled.sum() - 2
    assert ours.success.sum() > 5


def test_targets_are_the_likeliest_wrong_classes_one_by_one(classifier, samples):
    x, y = samples
    settings = {"eps": 0.08, "max_iter": 8, "nb_random_init": 2, "early_stop": True}
    attack = attacks.get(
        "apgd", **settings, loss_type="difference_logits_ratio", nb_target_classes=9
    ).bind(classifier)
    result = attack.run(x, y)
    failed = ~result.success
    assert failed.any() and result.success.any()
    assert (result.gradients[failed] == 9 * 9 * 2).all()
    assert (result.gradients[result.success] < 9 * 9 * 2).all()
    one = attacks.get("apgd", **settings, loss_type="difference_logits_ratio").bind(classifier)
    assert result.success.sum() >= one.run(x, y).success.sum()
    state = {
        "x": tf.constant(x),
        "y": tf.constant(y, tf.int32),
        "eps": tf.fill([N], 0.08),
        "done": tf.zeros([N], tf.bool),
    }
    seed = tf.constant([0, 0])
    state = drivers.Machine(attack, classifier).initialise(state, attack.params(), seed)
    scores = classifier.predict(x)
    scores[np.arange(N), y] = -np.inf
    np.testing.assert_array_equal(state["goals"], np.argsort(-scores, axis=1)[:, :9])


def test_averages_gradients_of_a_randomised_model(classifier, samples):
    x, y = samples
    attack = attacks.get("apgd", eps=0.1, max_iter=3, nb_random_init=1, eot_iter=4)
    result = attack.bind(classifier).run(x, y)
    assert (result.gradients == 4 * 4).all()
    plain = attacks.get("apgd", eps=0.1, max_iter=3, nb_random_init=1).bind(classifier).run(x, y)
    np.testing.assert_allclose(result.x_adv, plain.x_adv, atol=1e-5)  # the model has no noise


def test_bad_settings(digits_model):
    with pytest.raises(ValueError, match="leave `nb_target_classes` out"):
        attacks.get("apgd", targeted=True, nb_target_classes=3)
    with pytest.raises(ValueError, match="`loss_type` must be one of"):
        attacks.get("apgd", loss_type="hinge")
    with pytest.raises(ValueError, match="needs at least 12 classes. Received: a model with 10"):
        attacks.get("apgd", nb_target_classes=11).bind(digits_model)
