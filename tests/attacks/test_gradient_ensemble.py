"""The gradient ensemble attack against its equations and against the basic iterative method."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.attacks import GradientEnsembleAttack

N = 40


@pytest.fixture(scope="module")
def ensemble(digits_model):
    """Three networks: the trained one and two disturbed copies with other confidences."""
    rng = np.random.default_rng(0)
    models = [digits_model]
    for scale in (3.0, 0.3):
        model = keras.Sequential.from_config(digits_model.get_config())
        # By a factor: a variance must stay positive.
        weights = [w * (1 + 0.1 * rng.normal(size=w.shape)) for w in digits_model.get_weights()]
        weights[-2:] = [scale * w for w in weights[-2:]]
        model.set_weights(weights)
        models.append(model)
    return models


def gradients(model, x, y):
    """Of the odds against the label, in double precision from the softmax's argument."""
    x, own = tf.constant(x), np.eye(10)[y]
    logits = keras.Model(model.inputs, model.layers[-2].output)
    kernel, bias = model.layers[-1].get_weights()
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.cast(logits(x, training=False) @ kernel + bias, tf.float64)
        others = tf.reduce_logsumexp(tf.where(own > 0, -np.inf, z), axis=1)
        odds = others - tf.reduce_sum(own * z, axis=1)
    return tape.gradient(odds, x).numpy()


def test_first_step_is_the_sign_of_the_summed_unit_gradients(ensemble, digits):
    x, y = digits[0][:N], digits[1][:N]
    attack = GradientEnsembleAttack(ensemble, eps=0.1, eps_step=0.05, max_iter=1)
    ours = attack.perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0])).numpy()
    total = np.zeros_like(x)
    for model in ensemble:
        g = gradients(model, x, y)
        total += g / np.sqrt((g**2).sum(axis=(1, 2, 3), keepdims=True))
    expected = np.clip(x + 0.05 * np.sign(total), 0, 1)
    plain = np.abs(total) > 1e-4
    assert plain.mean() > 0.95
    np.testing.assert_allclose(ours[plain], expected[plain], atol=1e-6)
    # A plain sum follows the most confident model: a different attack.
    other = sum(gradients(model, x, y) for model in ensemble)
    assert (np.sign(other) != np.sign(total))[plain].mean() > 0.01


def test_one_model_is_the_basic_iterative_method(digits_model, digits):
    x, y = digits[0][:N], digits[1][:N]
    settings = {"eps": 0.2, "eps_step": 0.02, "max_iter": 8}
    ours = attacks.get("gea", **settings).bind(digits_model).run(x, y)
    bim = attacks.get("bim", **settings).bind(digits_model).run(x, y)
    np.testing.assert_array_equal(ours.success, bim.success)
    np.testing.assert_array_equal(ours.gradients, bim.gradients)
    np.testing.assert_allclose(ours.x_adv, bim.x_adv, atol=1e-6)


@pytest.mark.parametrize(("pixels", "steps"), [(4, 5), (8, 10), (16, 20), (32, 36)])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0)])
def test_the_papers_number_of_steps(pixels, steps, bounds, digits_model, digits):
    from kerasrobust.engine.classifier import Classifier

    classifier = Classifier(digits_model, bounds)
    x = digits[0][:2] * bounds[1]
    unit = bounds[1] / 255
    attack = GradientEnsembleAttack(classifier, eps=pixels * unit, eps_step=unit, max_iter=None)
    assert attack.max_steps() == steps
    result = attack.run(x)
    assert (result.gradients == steps).all()


@pytest.mark.parametrize("combine", ["gradients", "logits"])
def test_an_ensemble_is_fooled_as_a_whole(combine, ensemble, digits):
    x, y = digits[0][:N], digits[1][:N]
    attack = GradientEnsembleAttack(ensemble, eps=0.3, eps_step=0.03, max_iter=15, combine=combine)
    result = attack.run(x, y)
    assert (result.gradients == 3 * 15).all()
    assert result.success.mean() > 0.8
    logits = [np.log(m.predict(result.x_adv, verbose=0) + 1e-30) for m in ensemble]
    labels = np.stack([scores.argmax(axis=1) for scores in logits])
    np.testing.assert_array_equal(attack.fools_all(result.x_adv, y), (labels != y).all(axis=0))
    assert attack.fools_all(result.x_adv, y).mean() > 0.8
    assert attack.fools_all(x, y).mean() < 0.2


def test_bad_ensembles(digits_model):
    with pytest.raises(ValueError, match=r"at least one model. Received: model=\[\]"):
        GradientEnsembleAttack([])
    with pytest.raises(TypeError, match="needs gradients"):
        GradientEnsembleAttack([digits_model, lambda x: x])
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    other.add(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="same nb_classes. Received: 10 and 3"):
        GradientEnsembleAttack([digits_model, other])
    with pytest.raises(ValueError, match="`combine` must be one of"):
        GradientEnsembleAttack(combine="votes")
