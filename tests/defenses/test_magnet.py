"""MagNet: thresholds, rejection, reformers, and attacks that see it or do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

import kerasrobust
from kerasrobust import Classifier, datasets, evaluate, unwrap, wrap
from kerasrobust.defenses import Magnet
from kerasrobust.defenses.decision.magnet import autoencoder, divergence
from kerasrobust.engine.criterion import Criterion

DETECTORS = ["l2:autoencoder=0", "l1:autoencoder=1", "jsd:autoencoder=0,temperature=10"]


def principal(x, components):
    """The linear auto-encoder that loses least: principal components, no training."""
    flat = x.reshape(len(x), -1)
    mean = flat.mean(axis=0)
    basis = np.linalg.svd(flat - mean, full_matrices=False)[2][:components]
    layers = [keras.layers.Dense(size) for size in basis.shape]
    shape = x.shape[1:]
    model = keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), *layers, keras.layers.Reshape(shape)]
    )
    model.set_weights([basis.T, -mean @ basis.T, basis, mean])
    return model


@pytest.fixture(scope="module")
def held_out():
    return datasets.load("digits", "train").x[:300]


@pytest.fixture(scope="module")
def autoencoders():
    learned = datasets.load("digits", "train").x[300:]
    return [principal(learned, 20), principal(learned, 40)]


@pytest.fixture(scope="module")
def guarded(digits_model, autoencoders, held_out):
    magnet = Magnet(
        digits_model,
        autoencoders=autoencoders,
        detectors=DETECTORS,
        reformers=[0],
        false_positive_rate=0.02,
    )
    magnet.calibrate(held_out)
    return magnet


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:40], digits[1][:40]


def test_scores_by_hand(guarded, digits_model, autoencoders, samples):
    x, _ = samples
    after = [np.clip(one.predict(x, verbose=0), 0, 1) for one in autoencoders]
    errors = [(after[i] - x).reshape(len(x), -1) for i in range(2)]
    classifier = Classifier.of(digits_model)
    p, q = (softmax(classifier.predict(part) / 10, axis=1) for part in (x, after[0]))
    expected = [(errors[0] ** 2).mean(axis=1), np.abs(errors[1]).mean(axis=1)]
    expected.append(jensenshannon(p, q, axis=1) ** 2)
    np.testing.assert_allclose(guarded.scores(x), np.stack(expected, axis=1), rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(guarded.reform(x), after[0], atol=1e-5)
    np.testing.assert_allclose(
        guarded.predict(x, verbose=0), digits_model.predict(after[0], verbose=0), atol=1e-5
    )
    far = divergence(tf.constant([[90.0, 0.0]]), tf.constant([[0.0, 90.0]]), 1.0)
    assert float(far[0]) == pytest.approx(np.log(2))


def test_each_detector_rejects_the_share_that_was_asked_for(guarded, held_out):
    rejected = guarded.scores(held_out) >= np.asarray(guarded.thresholds)
    assert rejected.mean(axis=0) == pytest.approx([0.02] * 3)
    labels, accepted = guarded.decide(held_out)
    np.testing.assert_array_equal(~accepted, rejected.any(axis=1))
    assert labels.dtype == np.int64


def test_saved_and_loaded_it_decides_the_same(guarded, digits_model, samples, tmp_path):
    guarded.save(tmp_path / "magnet.keras")
    loaded = kerasrobust.models.load(tmp_path / "magnet.keras")
    assert isinstance(loaded, Magnet) and loaded.detectors == tuple(DETECTORS)
    noisy = np.clip(samples[0] + 0.3 * (np.arange(40)[:, None, None, None] % 2), 0, 1)
    for one, other in zip(guarded.decide(noisy), loaded.decide(noisy), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(loaded.scores(noisy), guarded.scores(noisy))
    assert unwrap(guarded) is digits_model


ATTACKS = ["pgd:eps=0.3,max_iter=20", "cwl2:max_iter=30,binary_search_steps=3"]


@pytest.fixture(scope="module")
def grey(guarded, samples):
    return evaluate(Classifier(guarded, gradient="ignore"), *samples, attacks=ATTACKS)


def test_the_grey_box_is_crafted_on_the_bare_model(grey, guarded, digits_model, samples):
    bare = evaluate(Classifier(digits_model, judge=guarded), *samples, attacks=ATTACKS[0])
    row, other = grey.attacks["pgd"], bare.attacks["pgd"]
    assert row.accuracy == other.accuracy and row.rejected == other.rejected
    # What breaks the bare model altogether is rejected here, and counts as defended.
    alone = evaluate(digits_model, *samples, attacks=ATTACKS[0])
    assert alone.robust_accuracy == 0
    assert row.rejected >= 38 and row.accuracy == grey.clean_accuracy


@pytest.mark.slow
def test_the_white_box_goes_through_the_detectors(grey, guarded, samples):
    white = evaluate(guarded, *samples, attacks=ATTACKS)
    for name in ("pgd", "cwl2"):
        assert white.attacks[name].accuracy <= 0.1 < 0.6 < grey.attacks[name].accuracy
        assert white.attacks[name].rejected <= 2
    # Without their gradient a detector still looks like a defense.
    blind = Classifier(guarded, detector=lambda x: guarded.accepts(x))
    assert evaluate(blind, *samples, attacks=ATTACKS[0]).robust_accuracy >= 0.3


def test_false_positives_stand_beside_the_accuracy(grey, guarded, samples):
    x, y = samples
    labels, accepted = guarded.decide(x)
    assert grey.clean["false_positive_rate"] == np.mean(~accepted)
    assert grey.clean_accuracy == np.mean((labels == y) & accepted)
    assert "false pos. %" in str(grey) and "rejected" in grey.to_markdown()


def test_a_detector_of_other_bounds(guarded, digits_model, autoencoders, held_out, samples):
    inputs = keras.Input((8, 8, 1))
    grey_levels = keras.Model(inputs, digits_model(keras.layers.Rescaling(1 / 255)(inputs)))
    bytes_ = Magnet(
        grey_levels,
        autoencoders=autoencoders,
        detectors=DETECTORS,
        false_positive_rate=0.02,
        clip_values=(0, 255),
    )
    bytes_.calibrate(255 * held_out)
    np.testing.assert_allclose(bytes_.thresholds, guarded.thresholds, rtol=1e-3)
    np.testing.assert_allclose(
        bytes_.reform(255 * samples[0]), 255 * guarded.reform(samples[0]), atol=0.01
    )


def test_a_reformer_is_drawn_for_each_batch(digits_model, autoencoders, held_out, samples):
    x, _ = samples
    magnet = Magnet(
        digits_model, autoencoders=autoencoders, detectors=["l1"], reformers=[0, 1],
        false_positive_rate=0.02,
    )  # fmt: skip
    magnet.calibrate(held_out)
    choices = [np.clip(one.predict(x, verbose=0), 0, 1) for one in autoencoders]
    drawn = set()
    for _ in range(12):
        reformed = magnet.reform(x)
        drawn.add(tuple(np.allclose(reformed, choice, atol=1e-5) for choice in choices))
    assert drawn == {(True, False), (False, True)}
    classifier = Classifier(magnet)
    assert classifier.draws == 2
    classifier.look_for_draws(x)
    assert classifier.randomised and classifier.repeatable
    answers = [classifier.predict(x, key=(0, i)) for i in (0, 0, 1, 2, 3, 4)]
    np.testing.assert_array_equal(*answers[:2])
    assert any((answers[0] != other).any() for other in answers[2:])


def test_without_a_reformer_samples_stay_as_they_are(digits_model, autoencoders, samples):
    magnet = Magnet(digits_model, autoencoders=autoencoders, reformers=[])
    assert magnet.detectors == ("l1:autoencoder=0", "l1:autoencoder=1")
    np.testing.assert_array_equal(magnet.reform(samples[0]), samples[0])


@pytest.mark.slow
def test_the_default_networks_learn(digits_model, held_out):
    magnet = wrap(digits_model, "magnet:false_positive_rate=0.02", seed=3)
    assert [one.count_params() for one in magnet.autoencoders] == [310, 142]
    weights = digits_model.get_weights()

    def errors():
        unseen = [one(held_out) - held_out for one in magnet.autoencoders]
        return np.array([np.mean(np.square(error)) for error in unseen])

    before = errors()
    learned = datasets.load("digits", "train").x[300:620]
    magnet.learn(learned, held_out, epochs=10, batch_size=32, learning_rate=0.05)
    assert (errors() < 0.75 * before).all()
    rejected = magnet.scores(held_out) >= np.asarray(magnet.thresholds)
    assert rejected.mean(axis=0) == pytest.approx([0.02] * 2)
    for one, other in zip(weights, digits_model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_collection_of_reformers(digits_model):
    magnet = wrap(digits_model, "magnet:collection=3", seed=3)
    assert magnet.reformers == (0, 2, 3) and len(magnet.autoencoders) == 4
    starts = [magnet.autoencoders[number].get_weights()[0] for number in magnet.reformers]
    assert (starts[0] != starts[1]).any() and (starts[1] != starts[2]).any()


@pytest.mark.parametrize("shape", [(28, 28, 1), (7, 9, 3)])
def test_autoencoders_give_images_of_their_size(shape):
    assert autoencoder(shape, (3, "pool", 3)).output_shape == (None, *shape)
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(2)])
    magnet = Magnet(model)
    grey = shape[-1] == 1
    assert len(magnet.autoencoders) == (2 if grey else 1) and len(magnet.detectors) == (
        2 if grey else 3
    )


def test_logits_beside_a_detector():
    logits = tf.constant([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [4.0, 3.0, 2.0]])
    y, excess = tf.constant([0, 0, 0]), tf.constant([-0.1, 0.5, 0.5])
    seen = Criterion().beside_detector(y)(logits, excess).numpy()
    np.testing.assert_allclose(seen, [[1, 3, 2], [4, 3, 2], [5, 3, 2]])
    seen = Criterion(targeted=True).beside_detector(y)(logits, excess).numpy()
    np.testing.assert_allclose(seen, [[1, 3, 2], [0, 3, 2], [2, 3, 2]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"false_positive_rate": 0}, "must be a number > 0. Received: false_positive_rate=0"),
        ({"false_positive_rate": 1.5}, "between 0 and 1. Received: false_positive_rate=1.5"),
        ({"detectors": ["l3"]}, "must be 'l1', 'l2' or 'jsd'"),
        ({"detectors": ["l1:eps=2"]}, "Received: 'l1:eps=2'"),
        ({"detectors": ["l1:autoencoder=7"]}, "must be an integer <= 1. Received: autoencoder=7"),
        ({"reformers": [5]}, "must be an integer <= 1. Received: autoencoder=5"),
        ({"collection": 0}, "`collection` must be an integer >= 1"),
    ],
)
def test_bad_arguments(arguments, message, digits_model):
    with pytest.raises(ValueError, match=message):
        Magnet(digits_model, **arguments)


def test_detectors_without_calibration_are_an_error_before_any_work(digits_model, samples):
    magnet = wrap(digits_model, "magnet")
    with pytest.raises(ValueError, match="The detectors have no thresholds"):
        evaluate(magnet, *samples, attacks="fgsm:eps=0.1")
    with pytest.raises(ValueError, match="at least 1000 .* Received: 0 samples"):
        magnet.learn(samples[0])
    with pytest.raises(ValueError, match="at least 1000 .* Received: 40 samples"):
        magnet.calibrate(samples[0])
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="give `autoencoders`. Received: input shape"):
        Magnet(flat)
