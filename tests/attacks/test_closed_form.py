"""Attacks on linear models, where the answer is known, and on models made to expose one trait.

On `f(x) = (0, <w, x> + b)` with the box out of reach, the nearest point of the other class is at
the distance `|<w, x> + b| / ||w||_q`, q the dual of the norm.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from keras import layers

from kerasrobust import attacks
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.criterion import SLACK

FEATURES, N = 20, 16
RNG = np.random.default_rng(0)
W = RNG.normal(size=FEATURES)
W[3] = 1.3 * np.abs(W).max()  # one entry that an L1 attack has to find
X = RNG.uniform(0.35, 0.65, size=(N, FEATURES)).astype(np.float32)
B = -float((X @ W).mean())
MARGIN = X.astype(np.float64) @ W + B
Y = (MARGIN > 0).astype(int)
DUAL = {1: math.inf, 2: 2, math.inf: 1}
LENGTH = {p: np.abs(MARGIN) / np.linalg.norm(W, q) for p, q in DUAL.items()}
# Boxes so wide that they never bind; attacks in tanh space and learning rates see the width too.
BOX = (-1.0, 2.0)
every_norm = pytest.mark.parametrize("norm", DUAL)


def linear(kernel, bias, softmax=True):
    model = keras.Sequential(
        [
            keras.Input((len(kernel),)),
            layers.Dense(kernel.shape[1], activation="softmax" if softmax else None),
        ]
    )
    model.set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def hyperplane():
    kernel = np.stack([np.zeros(FEATURES), W], axis=1)
    return Classifier(linear(kernel, np.array([0.0, B])), BOX)


def crosses(x_adv):
    """On the other side, or nearer to the plane than the float32 model can tell."""
    return ((x_adv.astype(np.float64) @ W + B) * np.where(Y == 1, -1, 1) > -1e-6).all()


def test_carlini_finds_the_distance_to_the_hyperplane(hyperplane):
    # Adam's first steps are as long as the learning rate, in every entry: it must be short beside
    # the distances (0.005 to 0.13), or the optimum is stepped over.
    attack = attacks.get("cwl2", max_iter=300, learning_rate=0.002, binary_search_steps=10)
    result = attack.bind(hyperplane).run(X, Y)
    assert result.success.all() and crosses(result.x_adv)
    ratio = result.l2 / LENGTH[2]
    assert (ratio >= 0.999).all() and (ratio <= 1.05).all()


def test_elastic_net_finds_the_largest_weight(hyperplane):
    """The L1 distance is that of the single entry with the largest weight: within 5 %.

    The L2 term, which beta = 1 outweighs, would spread the change over all entries.
    """
    attack = attacks.get(
        "ead",
        beta=1.0,
        max_iter=400,
        learning_rate=0.01,
        binary_search_steps=9,
        initial_const=0.1,
        decision_rule="L1",
    )
    result = attack.bind(hyperplane).run(X, Y)
    assert result.success.all() and crosses(result.x_adv)
    ratio = result.l1 / LENGTH[1]
    assert (ratio >= 0.999).all()
    assert np.median(ratio) <= 1.05 and ratio.max() <= 1.15


@every_norm
def test_projected_gradient_succeeds_exactly_where_the_budget_reaches(norm, hyperplane):
    for share, fools in ((1.02, True), (0.98, False)):
        eps = LENGTH[norm] * share
        attack = attacks.get("pgd", norm=norm, eps=eps, eps_step=eps / 5, max_iter=10)
        result = attack.bind(hyperplane).run(X, Y)
        assert (result.success == fools).all()
    start = attacks.get(
        "pgd", norm=norm, eps=LENGTH[norm] * 1.05, eps_step=eps / 3, max_iter=30, num_random_init=2
    )
    assert start.bind(hyperplane).run(X, Y).success.all()


@every_norm
def test_fast_gradient_is_the_dual_step(norm, hyperplane):
    eps = LENGTH[norm] * 1.5
    result = attacks.get("fgsm", norm=norm, eps=eps).bind(hyperplane).run(X, Y)
    away = np.where(Y == 1, -1.0, 1.0)[:, None]
    if norm == math.inf:
        direction = np.tile(np.sign(W), (N, 1))
    elif norm == 2:
        direction = np.tile(W / np.linalg.norm(W), (N, 1))
    else:
        direction = np.tile(np.eye(FEATURES)[np.abs(W).argmax()] * np.sign(W[3]), (N, 1))
    expected = X + away * eps[:, None] * direction
    np.testing.assert_allclose(result.x_adv, expected, atol=2e-5)
    assert (result.gradients == 1).all()


def test_targeted_equals_untargeted_with_two_classes(hyperplane):
    for name in ("fgsm", "pgd"):
        attack = attacks.get(name, eps=0.1)
        targeted = attacks.get(name, eps=0.1, targeted=True)
        np.testing.assert_allclose(
            attack.bind(hyperplane).generate(X, Y),
            targeted.bind(hyperplane).generate(X, 1 - Y),
            atol=1e-6,
        )


@pytest.mark.parametrize("norm", [2, math.inf])
def test_hop_skip_jump_comes_near_in_5000_queries(norm, hyperplane):
    attack = attacks.get("hsja", norm=norm, max_iter=22, init_eval=40, max_eval=1000, seed=1)
    result = attack.bind(hyperplane).run(X, Y)
    assert result.success.all() and crosses(result.x_adv) and not result.gave_up.any()
    assert result.queries.max() <= 5000
    ratio = result.distance(norm) / LENGTH[norm]
    assert ratio.min() >= 0.999
    assert np.median(ratio) <= 1.15


def test_eps_of_each_sample(hyperplane):
    eps = np.where(np.arange(N) % 2 == 0, LENGTH[2] * 1.05, LENGTH[2] * 0.5)
    for given in (eps, eps.tolist(), eps.astype(np.float32)):
        attack = attacks.get("pgd", norm=2, eps=given, eps_step=eps / 4, max_iter=8, batch_size=5)
        result = attack.bind(hyperplane).run(X, Y)
        np.testing.assert_array_equal(result.success, np.arange(N) % 2 == 0)
        assert (np.linalg.norm(result.x_adv - X, axis=1) <= eps * (1 + SLACK)).all()
    with pytest.raises(ValueError, match=r"one number or one per sample \(16\). Received: 3 val"):
        attacks.get("pgd", eps=[0.1, 0.2, 0.3]).bind(hyperplane).run(X, Y)


@every_norm
def test_a_mask_leaves_the_dual_norm_of_what_is_free(norm, hyperplane):
    mask = np.arange(FEATURES) % 2 == 0
    needed = np.abs(MARGIN) / np.linalg.norm(W[mask], DUAL[norm])
    for share, fools in ((1.03, True), (0.97, False)):
        eps = needed * share
        attack = attacks.get("pgd", norm=norm, eps=eps, eps_step=eps / 4, max_iter=12)
        result = attack.bind(hyperplane).run(X, Y, mask=mask)
        assert (result.success == fools).all()
        np.testing.assert_array_equal(result.x_adv[:, ~mask], X[:, ~mask])


def test_carlini_with_a_mask_finds_the_distance_along_the_free_entries(hyperplane):
    mask = np.arange(FEATURES) % 2 == 0
    attack = attacks.get("cwl2", max_iter=300, learning_rate=0.002)
    result = attack.bind(hyperplane).run(X, Y, mask=mask)
    ratio = result.l2 / (np.abs(MARGIN) / np.linalg.norm(W[mask]))
    assert (ratio >= 0.999).all() and (ratio <= 1.05).all()


def test_confidence_moves_the_goal(hyperplane):
    """C&W with confidence k ends where the margin is k: at `(|margin| + k) / ||w||`."""
    attack = attacks.get("cwl2", confidence=0.5, max_iter=300, learning_rate=0.01)
    result = attack.bind(hyperplane).run(X, Y)
    reached = np.abs(result.x_adv.astype(np.float64) @ W + B)
    assert crosses(result.x_adv) and (reached >= 0.499).all()
    ratio = result.l2 / ((np.abs(MARGIN) + 0.5) / np.linalg.norm(W))
    assert (ratio >= 0.999).all() and (ratio <= 1.05).all()


def test_the_box_binds():
    """In one free dimension per class, the box stops what the budget would allow."""
    model = linear(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([0.0, -1.5]))
    x, y = np.full((2, 2), 0.5, np.float32), np.zeros(2, int)
    assert not attacks.get("pgd", eps=1.0).bind(Classifier(model, (0, 1))).run(x, y).success.any()
    wide = attacks.get("pgd", eps=1.1).bind(Classifier(model, (0, 2))).run(x, y)
    assert wide.success.all() and wide.x_adv.max() <= 1.6 + 1e-6


def dead_start():
    """`relu(x_0 - 0.5)` decides, from 0.55 on: no gradient below 0.5, where the samples lie."""
    inputs = keras.Input((2,))
    hidden = layers.Dense(1, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    model.set_weights(
        [np.array([[1.0], [0.0]]), np.array([-0.5]), np.array([[0.0, 20.0]]), np.array([1.0, 0.0])]
    )
    return Classifier(model)


def test_restarts_help_where_the_gradient_is_dead():
    """A random start lies above 0.5 with probability 1/3, and climbs from there."""
    x, y = np.full((60, 2), 0.45, np.float32), np.zeros(60, int)
    rates = {}
    classifier = dead_start()
    settings = {"eps": 0.15, "eps_step": 0.05, "max_iter": 5}
    for starts in (0, 1, 4, 12):
        attack = attacks.get("pgd", num_random_init=starts, **settings).bind(classifier)
        result = attack.run(x, y)
        rates[starts] = result.success.mean()
        assert result.gradients.max() <= 5 * max(starts, 1)
    expected = {n: 1 - (2 / 3) ** n for n in (1, 4, 12)}
    assert rates[0] == 0
    for starts, rate in expected.items():
        assert abs(rates[starts] - rate) < 4 * math.sqrt(rate * (1 - rate) / 60) + 1e-9


def test_early_stop_saves_gradients_and_nothing_else(hyperplane):
    settings = {"norm": 2, "eps": 0.5, "eps_step": 0.02, "max_iter": 40}
    full = attacks.get("pgd", **settings).bind(hyperplane).run(X, Y)
    early = attacks.get("pgd", early_stop=True, **settings).bind(hyperplane).run(X, Y)
    np.testing.assert_array_equal(full.success, early.success)
    assert (full.gradients == 40).all()
    # ceil(distance / step) steps reach the other side, one more pass sees it.
    steps = np.ceil(LENGTH[2] / 0.02)
    assert (np.abs(early.gradients - (steps + 1)) <= 1)[full.success & (steps < 38)].all()
    assert early.executed_gradients < full.executed_gradients
    assert (early.confidence[full.success] <= full.confidence[full.success] + 1e-6).all()


@pytest.mark.parametrize(
    "name, settings",
    [
        ("pgd", {"norm": 2, "eps": 0.4, "eps_step": 0.01, "max_iter": 80, "early_stop": True}),
        ("cwl2", {"max_iter": 60, "binary_search_steps": 5, "learning_rate": 0.002}),
        ("ead", {"max_iter": 40, "binary_search_steps": 4, "initial_const": 0.1}),
    ],
)
def test_packing_changes_nothing(name, settings, hyperplane):
    """Easy samples leave early; the hard ones end as they do alone."""
    mixed = attacks.get(name, batch_size=N, **settings).bind(hyperplane).run(X, Y)
    assert len(set(mixed.gradients)) > 1 or name == "ead"
    for i in range(0, N, 3):
        alone = attacks.get(name, batch_size=1, **settings).bind(hyperplane)
        alone = alone.run(X[i : i + 1], Y[i : i + 1])
        np.testing.assert_allclose(alone.x_adv[0], mixed.x_adv[i], atol=1e-5)
        assert alone.gradients[0] == mixed.gradients[i]
        assert alone.success[0] == mixed.success[i]


@pytest.mark.slow
def test_hop_skip_jump_does_not_depend_on_what_ran_before(hyperplane):
    """Compiled pieces are shared; how many directions a pass draws must not be."""
    settings = {"max_iter": 3, "max_eval": 60, "seed": 2}
    fresh = Classifier(hyperplane.model, BOX)
    expected = attacks.get("hsja", init_eval=30, batch_size=200, **settings)
    expected = expected.bind(fresh).run(X, Y).x_adv
    used = Classifier(hyperplane.model, BOX)
    attacks.get("hsja", init_eval=60, batch_size=16, **settings).bind(used).run(X, Y)
    again = attacks.get("hsja", init_eval=30, batch_size=200, **settings).bind(used).run(X, Y)
    np.testing.assert_array_equal(again.x_adv, expected)


def test_hop_skip_jump_on_a_model_that_pools():
    """TensorFlow fails on an empty batch there, which is sent when no sample wants a query."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 7, strides=8),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    x = RNG.random((8, 16, 16, 3))
    result = attacks.get("hsja", max_iter=1, max_eval=50, init_eval=50, init_size=3)
    result = result.bind(model).run(x)
    assert (result.success | result.gave_up).all()


@pytest.mark.parametrize("kind", ["float64", "uint8", "bool", "int64"])
def test_samples_of_any_number_type(kind, hyperplane):
    x = (X > 0.5).astype(kind)
    result = attacks.get("fgsm", eps=0.1).bind(hyperplane).run(x)
    plain = attacks.get("fgsm", eps=0.1).bind(hyperplane).run(x.astype(np.float32))
    assert result.x_adv.dtype == np.float32
    np.testing.assert_array_equal(result.x_adv, plain.x_adv)


@pytest.mark.parametrize("name, settings", [("pgd", {"norm": 2}), ("pgd", {}), ("cwl2", {})])
def test_the_unit_of_the_inputs_does_not_matter(name, settings):
    """A model of 0..255 behind a Rescaling layer falls at 255 times the distance."""
    kernel, bias = np.stack([np.zeros(FEATURES), W], axis=1), np.array([0.0, B])
    plain = linear(kernel, bias)
    scaled = keras.Sequential(
        [keras.Input((FEATURES,)), layers.Rescaling(1 / 255), *linear(kernel, bias).layers]
    )
    scaled.layers[-1].set_weights([kernel, bias])
    budget = {"eps": 0.1, "eps_step": 0.02, "max_iter": 10} if name == "pgd" else {"max_iter": 60}
    large = {k: v * 255 if k.startswith("eps") else v for k, v in budget.items()}
    small = attacks.get(name, **settings, **budget).bind(Classifier(plain)).run(X, Y)
    big = attacks.get(name, **settings, **large).bind(Classifier(scaled, (0, 255)))
    big = big.run(X * 255, Y)
    np.testing.assert_array_equal(small.success, big.success)
    assert small.success.any()
    np.testing.assert_allclose(big.l2 / 255, small.l2, rtol=2e-3)
