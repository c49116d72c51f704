"""Samples in every form that they come in."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks, evaluate
from kerasrobust.engine import source


class Batches(keras.utils.PyDataset):
    """A data set as Keras' own loaders make them."""

    def __init__(self, x, y, size):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return self.x[rows], self.y[rows]


def test_unpack():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    for pair in ((x, y), (x.tolist(), y.tolist()), (tf.constant(x), tf.constant(y)), (data, None)):
        got_x, got_y = source.unpack(*pair)
        np.testing.assert_array_equal(got_x, x)
        np.testing.assert_array_equal(got_y, y)
    for alone in (data.map(lambda a, b: a), data.map(lambda a, b: (a,))):
        got_x, got_y = source.unpack(alone, None)
        np.testing.assert_array_equal(got_x, x)
        assert got_y is None
    weighted = data.map(lambda a, b: (a, b, tf.ones_like(b)))
    np.testing.assert_array_equal(source.unpack(weighted, None)[1], y)


def test_unpack_refuses():
    x, y = np.zeros((6, 2)), np.zeros(6, int)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    cases = {
        "come with the data, as .x, y.": (data.batch(2), y),
        "must give batches of `x`.*Received: a tf.data.Dataset with elem": (data, None),
        "must give batches": (data.batch(2).map(lambda a, b: {"x": a}), None),
        "must end: leave out": (data.batch(2).repeat(), None),
        "must hold samples. Received: an empty": (data.batch(2).take(0), None),
        "`x` must be an array or a tensor. Received: list": ([[1.0, 2.0], [3.0]], None),
        "`y` must be an array or a tensor. Received: list": (x, [[1.0, 2.0], [3.0]]),
    }
    for message, pair in cases.items():
        with pytest.raises(ValueError, match=message):
            source.unpack(*pair)


def test_a_pydataset_is_the_array(digits_model, digits):
    x, y = digits[0][:20], digits[1][:20]
    data = Batches(x, y, 7)
    np.testing.assert_array_equal(source.unpack(data)[0], x)
    own = attacks.get("fgsm", eps=0.1).bind(digits_model)
    np.testing.assert_array_equal(own.generate(data), own.generate(x, y))
    of_data = evaluate(digits_model, data, attacks="fgsm:eps=0.1", batch_size=8)
    of_array = evaluate(digits_model, x, y, attacks="fgsm:eps=0.1", batch_size=8)
    assert of_data.robust_accuracy == of_array.robust_accuracy
    with pytest.raises(ValueError, match="A PyDataset and y"):
        source.unpack(data, y)


def test_data_of_unknown_size_that_do_not_end(digits_model, digits, monkeypatch):
    """Their cardinality does not tell: they are read up to a bound."""
    monkeypatch.setattr(source, "MOST_SAMPLES", 100)
    endless = tf.data.Dataset.from_tensors((digits[0][:8], digits[1][:8])).repeat()
    endless = endless.filter(lambda x, y: True)
    assert endless.cardinality() == tf.data.UNKNOWN_CARDINALITY
    for use in (source.unpack, lambda data: evaluate(digits_model, data, attacks="fgsm")):
        with pytest.raises(ValueError, match="must end.*unknown size that has given 104 samples"):
            use(endless)
