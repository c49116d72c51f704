"""Transfer attack: crafted elsewhere, judged here."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks

N = 40


@pytest.fixture(scope="module")
def sources(digits):
    """Two dense networks, trained briefly on what the test does not attack."""
    models = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        model.fit(digits[0][100:], digits[1][100:], epochs=30, verbose=0)
        models.append(model)
    return models


def test_one_source_is_the_attack_on_it_judged_on_the_model(digits_model, sources, digits):
    x, y = digits[0][:N], digits[1][:N]
    recipe = attacks.get("fgsm", eps=0.2)
    result = attacks.get("transfer", attack=recipe, sources=sources[0]).bind(digits_model).run(x, y)
    # FGSM in NumPy on the source.
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        logits = sources[0](variable)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
    expected = np.clip(x + 0.2 * np.sign(tape.gradient(loss, variable).numpy()), 0, 1)
    labels = digits_model.predict(expected, verbose=0).argmax(axis=1)
    np.testing.assert_array_equal(result.success, (labels != y) | result.initially_adversarial)
    fooled = result.success & (labels != y)
    np.testing.assert_allclose(result.x_adv[fooled], expected[fooled], atol=1e-6)
    # The model was asked about the clean sample and about the result, and nothing else.
    assert (result.queries == 2).all() and (result.gradients == 1).all()


def test_several_sources_are_no_weaker_than_one(digits_model, sources, digits):
    x, y = digits[0][:N], digits[1][:N]
    spec = "pgd:eps=0.25,eps_step=0.05,max_iter=10"
    one = [
        attacks.get("transfer", attack=spec, sources=[s]).bind(digits_model).run(x, y)
        for s in sources
    ]
    both = attacks.get("transfer", attack=spec, sources=sources).bind(digits_model).run(x, y)
    np.testing.assert_array_equal(both.success, one[0].success | one[1].success)
    assert both.success.mean() > 0.3


def test_a_callable_is_attacked_without_a_gradient(digits_model, sources, digits):
    x, y = digits[0][:N], digits[1][:N]
    sent = []

    def service(batch):
        sent.append(len(batch))
        return digits_model(batch, training=False).numpy()

    attack = attacks.TransferAttack(service, attack="fgsm:eps=0.2", sources=sources)
    result = attack.run(x, y)
    assert result.queries.sum() == sum(sent)
    keras_result = attack.bind(digits_model).run(x, y)
    np.testing.assert_array_equal(result.success, keras_result.success)


def test_mask_targets_and_graph(digits_model, sources, digits):
    x, y = digits[0][:N], digits[1][:N]
    mask = np.zeros((8, 8, 1))
    mask[:, 4:] = 1
    attack = attacks.get("transfer", attack="pgd:eps=0.3,max_iter=5", sources=sources)
    masked = attack.bind(digits_model).run(x, y, mask=mask)
    np.testing.assert_array_equal(masked.x_adv[:, mask == 0], x[:, mask == 0])
    aimed = attacks.get("transfer", attack="pgd:eps=0.5,max_iter=10,targeted=true", sources=sources)
    result = aimed.bind(digits_model).run(x, (y + 1) % 10)
    reached = digits_model.predict(result.x_adv, verbose=0).argmax(axis=1) == (y + 1) % 10
    np.testing.assert_array_equal(reached, result.success)
    graph = tf.function(attack.bind(digits_model).perturb)
    points = graph(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0])).numpy()
    assert np.abs(points - x).max() <= 0.3 + 1e-6
    assert (digits_model.predict(points, verbose=0).argmax(axis=1) != y).mean() > 0.3


def test_configuration_and_paths(digits_model, sources, digits, tmp_path):
    path = tmp_path / "source.keras"
    sources[0].save(path)
    attack = attacks.get("transfer", attack="fgsm:eps=0.2", sources=[str(path)])
    again = attacks.get({"name": "transfer", "config": attack.get_config()})
    x, y = digits[0][:8], digits[1][:8]
    np.testing.assert_array_equal(
        attack.bind(digits_model).generate(x, y), again.bind(digits_model).generate(x, y)
    )


def test_bad_input(digits_model, sources):
    with pytest.raises(ValueError, match="at least one model to craft on"):
        attacks.get("transfer").bind(digits_model)
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    other = keras.Sequential(layers)
    with pytest.raises(ValueError, match="must take the same inputs"):
        attacks.get("transfer", sources=[other]).bind(digits_model)
    with pytest.raises(ValueError, match="cannot aim at a class"):
        attacks.get("transfer", attack="deepfool", sources=sources, targeted=True)
