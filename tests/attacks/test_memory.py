"""What a pass through the model holds does not grow with queries, draws or classes."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust import attacks, checks
from kerasrobust.engine.classifier import Classifier
from kerasrobust.metrics import clever

BATCH, FEATURES, CLASSES = 3, 64, 30


@pytest.fixture(scope="module")
def watched():
    """A classifier of 8x8 images, and what was seen of its passes: the largest, and the traces."""
    seen = types.SimpleNamespace(largest=0, traced=0)

    def note(rows):
        seen.largest = max(seen.largest, int(rows))
        return np.int32(0)

    class Watch(keras.layers.Layer):
        def call(self, x):
            seen.traced += 1
            tf.numpy_function(note, [tf.shape(x)[0]], tf.int32)
            return x

    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1)), Watch(), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    return Classifier(keras.Sequential(layers), jit_compile=False), seen


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).random((5, 8, 8, 1), np.float32)


def run(watched, samples, name, **settings):
    """The result, the largest pass and how often the model stands in the graphs."""
    classifier, seen = watched
    classifier.functions.clear()
    attack = attacks.get(name, batch_size=BATCH, **settings).bind(classifier)
    seen.largest = seen.traced = 0
    return attack.run(samples), seen.largest, seen.traced


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("boundary", {"max_iter": 2, "sample_size": 7}),
        ("zoo", {"max_iter": 5, "nb_parallel": 21}),
    ],
)
def test_queries_in_parts_find_the_same(name, settings, watched, samples, monkeypatch):
    whole, largest, traced = run(watched, samples, name, **settings)
    assert largest > 6
    monkeypatch.setattr(checks, "VALUES_PER_PASS", 6 * FEATURES)
    parts, largest, again = run(watched, samples, name, **settings)
    assert BATCH < largest <= 6
    assert again == traced
    np.testing.assert_allclose(parts.x_adv, whole.x_adv, atol=1e-5)
    np.testing.assert_array_equal(parts.queries, whole.queries)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hsja", {"max_iter": 1, "init_eval": 20}),
        pytest.param("signopt", {"max_iter": 1, "k": 20, "num_trial": 2}, marks=pytest.mark.slow),
        ("boundary", {"max_iter": 1, "sample_size": 7, "num_trial": 2}),
        ("zoo", {"max_iter": 1, "nb_parallel": 21}),
        ("simba", {"max_iter": 2}),
        ("square", {"max_iter": 2}),
    ],
)
def test_queries_of_a_callable_are_bounded(name, settings, samples, monkeypatch):
    monkeypatch.setattr(checks, "VALUES_PER_PASS", 6 * FEATURES)
    weights, sizes = np.random.default_rng(0).normal(size=(FEATURES, 4)), []

    def model(x):
        sizes.append(len(x))
        return (x.reshape(len(x), -1) - 0.5) @ weights

    result = attacks.get(name, batch_size=BATCH, **settings).bind(model).run(samples)
    assert sum(sizes) >= result.queries.sum()
    several = name not in ("simba", "square")
    assert BATCH * several < max(sizes) <= (6 if several else BATCH)


@pytest.mark.parametrize(
    ("name", "settings", "draws"),
    [
        ("apgd", {"eps": 0.1, "max_iter": 2}, "eot_iter"),
        pytest.param("cwl2", {"max_iter": 2}, "gradient_samples", marks=pytest.mark.slow),
    ],
)
def test_draws_of_gradients_are_made_one_by_one(name, settings, draws, watched, samples):
    few, largest, traced = run(watched, samples, name, **settings, **{draws: 2})
    assert largest == BATCH
    many, largest, again = run(watched, samples, name, **settings, **{draws: 9})
    assert largest == BATCH
    assert again == traced  # side by side in a graph they would run, and hold, together
    assert many.gradients.sum() > few.gradients.sum()


def test_points_of_clever_are_bounded(watched, samples):
    classifier, seen = watched
    classifier.functions.clear()
    seen.largest = 0
    options = {"nb_batches": 10, "batch_size": 9, "nb_grads": 2, "chunk": 4}
    scores = clever(classifier, samples[:1], **options)
    assert seen.largest == 4 and scores.shape == (1,)


def test_large_samples_come_in_small_batches():
    assert checks.check_batch_size(None, (224, 224, 3)) == 27
    assert checks.check_batch_size(None, (32, 32, 3)) == 128
    assert checks.check_batch_size(None, (None, None, 3)) == 128
    assert checks.check_batch_size(None, (4000, 4000, 3)) == 1
    assert checks.check_batch_size(64, (224, 224, 3)) == 64
    with pytest.raises(ValueError, match="`chunk` must be an integer >= 1. Received: chunk=0"):
        checks.check_batch_size(0, (2,), "chunk")
    model = keras.Sequential(
        [keras.Input((224, 224, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    assert attacks.get("fgsm").batch_size is None
    assert attacks.get("fgsm").bind(model).batch_size == 27
    assert attacks.get("fgsm", batch_size=5).bind(model).batch_size == 5
    x = np.full((1, 224, 224, 3), 0.5, np.float32)
    y = np.asarray(model(x)).argmax(axis=1)
    report = kerasrobust.evaluate(model, x, y, attacks="fgsm:eps=0.1", probes=False)
    assert report.settings["batch_size"] == 27
