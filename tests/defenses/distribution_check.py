"""Run by test_distribution.py in a process of its own: logical devices come before all else."""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from kerasrobust.defenses import unwrap, wrap  # noqa: E402


def train(strategy, defense, **options):
    """Weights and logged loss after two epochs of batches 8, 8, 3: the last one splits 3 + 0."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(19, 6, 6, 1)).astype("float32")
    y = rng.integers(0, 3, 19)
    weight = rng.uniform(0.5, 2.0, 19).astype("float32")
    keras.utils.set_random_seed(1)
    with strategy.scope():
        base = keras.Sequential(
            [
                keras.Input((6, 6, 1)),
                keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
                keras.layers.Flatten(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
    model = wrap(base, defense, seed=3)  # which enters the scope by itself
    with strategy.scope():
        optimizer = keras.optimizers.SGD(0.3, momentum=0.9)
        loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
        model.compile(optimizer, loss, metrics=metrics, **options)
    data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(8)
    history = model.fit(data, epochs=2, verbose=0).history
    return unwrap(model).get_weights(), history


def compare(defense, mirrored):
    """Largest difference of weights and of logged figures, one device against two.

    The one steps eagerly: six steps are done before a graph of them has been traced.
    """
    alone, alone_log = train(tf.distribute.get_strategy(), defense, run_eagerly=True)
    spread, spread_log = train(mirrored, defense)
    weights = max(float(np.abs(a - b).max()) for a, b in zip(alone, spread, strict=True))
    assert set(alone_log) == set(spread_log)
    logs = max(float(np.abs(np.subtract(alone_log[k], spread_log[k])).max()) for k in alone_log)
    return {"weights": weights, "logs": logs}


def mismatch():
    """The message for a model that was built outside of the scope it is wrapped in."""
    base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        try:
            wrap(base, "gda")
        except ValueError as error:
            return str(error)


if __name__ == "__main__":
    # One for all: TensorFlow numbers the collective operations of each strategy anew, and takes
    # those of a second one for those of the first.
    both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {str(case): compare(case, both) for case in json.loads(sys.argv[1])}
    print("RESULT " + json.dumps({**results, "mismatch": mismatch()}))
