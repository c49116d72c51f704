"""Finished batches on disk: damaged files, names of files."""

import functools
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.store import Store, file_name, fingerprint, held


def other_method(data):
    """An archive that says of its file that it is compressed in a way that nobody knows."""
    place = data.find(b"PK\x01\x02") + 10
    return data[:place] + b"\x63\x00" + data[place + 2 :]


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "other": lambda data: b"not a file of arrays",
    # Still an archive, whose compressed part cannot be read.
    "within": lambda data: data[:80] + b"\xff" * 400 + data[480:],
    "method": other_method,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_none(name, tmp_path):
    store, column = Store(tmp_path), np.random.default_rng(0).random(200)
    store.save_column("pgd", "key", column)
    np.testing.assert_array_equal(store.load_column("pgd", "key"), column)
    (path,) = tmp_path.glob("*.npz")
    data = path.read_bytes()
    damaged = DAMAGE[name](data)
    assert damaged != data
    path.write_bytes(damaged)
    assert store.load_column("pgd", "key") is None
    store.save_column("pgd", "key", column)
    np.testing.assert_array_equal(store.load_column("pgd", "key"), column)


@pytest.mark.parametrize("text", ["", ".", "..", "a/../b", "é" * 99, "x" * 300, "pgd:eps=0.1"])
def test_a_name_stays_in_its_folder_and_fits(text):
    name = file_name(text)
    assert name.strip(".") and os.sep not in name and len(os.fsencode(name)) <= 100
    assert file_name("pgd:eps=0.1") == "pgd-eps=0.1"


class Above:
    """A detector that rejects images brighter than a threshold."""

    def __init__(self, threshold):
        self.threshold = threshold

    def __call__(self, x):
        return tf.reduce_mean(x, axis=[1, 2, 3]) <= self.threshold


def closure(threshold):
    return lambda x: tf.reduce_mean(x, axis=[1, 2, 3]) <= threshold


def brightness(x, threshold):
    return tf.reduce_mean(x, axis=[1, 2, 3]) <= threshold


def dense(weight):
    layer = keras.layers.Dense(1, name="dense")
    layer.build((None, 1))
    layer.set_weights([np.full((1, 1), weight), np.zeros(1)])
    return layer


@pytest.mark.parametrize(
    "make",
    [
        Above,
        closure,
        lambda threshold: tf.function(closure(threshold)),
        lambda threshold: functools.partial(brightness, threshold=threshold),
        lambda threshold: Above(threshold).__call__,
        lambda threshold: Above({"a": [np.array([threshold])], "b": {1, 2}}),
        lambda threshold: Above(tf.constant(threshold)),
        dense,
        lambda threshold: closure(dense(threshold)),
    ],
)
def test_a_detector_is_told_from_another_by_what_it_holds(make):
    one, again, other = (json.dumps(held(make(threshold))) for threshold in (0.5, 0.5, 0.6))
    assert one == again != other


def test_what_holds_itself_comes_to_an_end():
    above = Above(0.5)
    above.above = [above]
    above.module = np
    assert "seen" in json.dumps(held(above)) and "numpy" in json.dumps(held(above))


def test_a_model_is_told_from_another_by_its_detector():
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
    guarded = [Classifier(model, detector=Above(threshold)) for threshold in (0.5, 0.5, 0.6)]
    judged = [Classifier(model, judge=one) for one in guarded]
    for one, again, other in (guarded, judged):
        assert fingerprint(one) == fingerprint(again) != fingerprint(other)
    assert fingerprint(Classifier(model)) not in map(fingerprint, [*guarded, *judged])
