"""Gradients of any logit gap: models that are very sure, and logits of any scale."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.state import COUNTERS, EXECUTED

INF = np.inf
SCALES = (1.0, 10.0, 1e3, 1e6)
# What reaches from 0.9 to below 0.4 with a budget of 0.6; then the minimal-norm attacks.
BUDGET = {
    "fgsm": {},
    "pgd": {"eps_step": 0.1, "max_iter": 10},
    "bim": {"eps_step": 0.1, "max_iter": 10},
    "mifgsm": {"eps_step": 0.1, "max_iter": 10},
    "rand_fgsm": {"alpha": 0.01},
    "ilc": {"eps_step": 0.1, "max_iter": 10},
    "apgd": {"max_iter": 10, "nb_random_init": 1},
    "gea": {"eps_step": 0.1, "max_iter": 10},
    "vat": {"max_iter": 2},
}
MINIMAL = {
    "cwl2": {"learning_rate": 0.1},
    "cwlinf": {"learning_rate": 0.1},
    "cwl0": {},
    "ead": {"max_iter": 50},
    "deepfool": {},
    "fab": {"max_iter": 20},
    "ddn": {"max_iter": 100},
    "fmn": {"max_iter": 50},
    "alma": {"max_iter": 100},
    "sigma_zero": {"max_iter": 50},
}


@pytest.fixture(scope="module")
def one_unit():
    """One unit that says 1 above 0.4, with a logit of `gain / 2` at 0.9, as a Classifier.

    Each activation has one model, whose compiled functions serve for all gains.
    """
    models = {
        activation: keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation)])
        for activation in ("sigmoid", "linear")
    }
    classifiers = {activation: Classifier(model) for activation, model in models.items()}

    def build(gain, activation):
        kernel, bias = np.array([[gain]], np.float32), np.array([-0.4 * gain], np.float32)
        models[activation].set_weights([kernel, bias])
        return classifiers[activation]

    return build


@pytest.mark.parametrize(
    "gap", [24.0, *(pytest.param(gap, marks=pytest.mark.slow) for gap in (130.0, 1e6))]
)
@pytest.mark.parametrize("name", [*BUDGET, *MINIMAL])
def test_a_sure_unit_is_broken(name, gap, one_unit):
    """TensorFlow's own gradient of the cross-entropy is zero at all of these gaps."""
    settings = MINIMAL[name] if name in MINIMAL else {"eps": 0.6, **BUDGET[name]}
    activation = "sigmoid" if gap < 1e3 else "linear"
    attack = attacks.get(name, **settings).bind(one_unit(2 * gap, activation))
    x = np.array([[0.9], [0.85]], np.float32)
    result = attack.run(x, np.array([1, 1]))
    assert result.success.all()
    assert (result.zero_gradients == 0).all()
    assert (x - result.x_adv > 0.4).all()


@pytest.fixture(scope="module")
def linear():
    """A linear model of two classes with weights of one draw times a scale, as a Classifier.

    One model, whose compiled functions serve for all scales.
    """
    kernel = np.random.default_rng(3).normal(size=(12, 2)).astype(np.float32)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(2)])
    classifier = Classifier(model, (-10.0, 10.0))

    def build(scale):
        model.set_weights([kernel * np.float32(scale), np.zeros(2, np.float32)])
        return classifier

    return build


@pytest.mark.parametrize("norm", [INF, *(pytest.param(p, marks=pytest.mark.slow) for p in (1, 2))])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "apgd"])
def test_the_scale_of_the_logits_changes_nothing(name, targeted, norm, linear):
    """Two classes: the ascent direction of the cross-entropy is a constant."""
    x = np.random.default_rng(4).normal(size=(16, 12)).astype(np.float32)
    y = (linear(1.0).predict(x).argmax(axis=1) + targeted) % 2
    eps = {1: 3.0, 2: 1.0, INF: 0.3}[norm]
    settings = dict(norm=norm, eps=eps, targeted=targeted)
    if name in ("pgd", "mifgsm"):
        settings.update(eps_step=eps / 4, max_iter=6)
    attack = attacks.get(name, **settings).bind(linear(1.0))

    @tf.function(autograph=False)
    def graph():
        return attack.perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0]))

    found = []
    for scale in SCALES:
        linear(scale)
        found.append(graph().numpy())
    assert np.abs(found[0] - x).max() > 0.1
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-4)


def test_the_direction_of_the_divergence_at_any_scale(linear):
    x = np.random.default_rng(5).normal(size=(16, 12)).astype(np.float32)
    weights = linear(1.0).model.get_weights()[0]
    normal = weights[:, 1] - weights[:, 0]
    normal /= np.linalg.norm(normal)
    for scale in SCALES:
        attack = attacks.get("vat", eps=1.0).bind(linear(scale))
        y = tf.zeros(16, tf.int32)
        moved = attack.perturb(tf.constant(x), y, seed=tf.constant([0, 0])).numpy() - x
        np.testing.assert_allclose(np.abs(moved @ normal), 1.0, rtol=1e-4)
        # Towards the other class: the divergence grows faster there.
        assert (np.sign(moved @ normal) == -np.sign(x @ normal)).mean() == 1.0


def test_draws_count_by_their_doubt():
    """The mean over draws is that of the cross-entropy's gradients, a sure draw counts little."""
    attack = attacks.get("apgd", eps=0.1, eot_iter=2)
    odds, parts = tf.constant([[1.0], [-2.0]]), tf.constant([[[1.0, 0.0]], [[0.0, 1.0]]])
    shares = tf.exp([attack._log_share(one) for one in odds])
    expected = tf.sigmoid(odds)
    np.testing.assert_allclose(shares, expected, rtol=1e-6)

    def differentiate(model, state, x, loss, draw):
        return tf.zeros([1, 2]), odds[draw], parts[draw], state

    attack.differentiate = differentiate
    state = dict.fromkeys(("own", "goal", *COUNTERS, *EXECUTED), tf.zeros([1], tf.int32))
    _, _, mean, _ = attack._gradient(None, {**state, "iterate": tf.zeros([1, 2])})
    wanted = (expected[:, :, None] * parts).numpy().sum(axis=0)
    np.testing.assert_allclose(mean / tf.norm(mean), wanted / np.linalg.norm(wanted), rtol=1e-6)


# ---- a gradient that is nothing all the same is counted --------------------------------------


def blind():
    """Quantises its input, as a defense by masked gradients does: no gradient gets through."""
    inputs = keras.Input((2,))
    steps = keras.layers.Lambda(lambda x: 0.0 * x + keras.ops.round(4 * x) / 4)(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(steps))


@pytest.mark.parametrize("name", ["pgd", "cwl2", "deepfool"])
def test_zero_gradients_are_counted(name):
    model = blind()
    model.layers[-1].set_weights([np.float32([[5, -5], [5, -5]]), np.zeros(2, np.float32)])
    x = np.full((3, 2), 0.5, np.float32)
    settings = {"eps": 0.1, "eps_step": 0.1, "max_iter": 4} if name == "pgd" else {}
    result = attacks.get(name, **settings).bind(model).run(x, np.zeros(3, int))
    assert not result.success.any()
    assert (result.gradients > 0).all()
    np.testing.assert_array_equal(result.zero_gradients, result.gradients)


def test_a_met_hinge_is_no_lost_gradient(linear):
    model = linear(1.0)
    x = np.random.default_rng(6).normal(size=(8, 12)).astype(np.float32)
    result = attacks.get("ead", max_iter=30).bind(model).run(x)
    assert result.success.all()
    np.testing.assert_array_equal(result.zero_gradients, 0)
