"""Run by test_layer_harness.py in a process of its own: logical devices come before all else."""

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

from kerasrobust.defenses import get  # noqa: E402

X = np.random.default_rng(0).uniform(size=(8, 6, 6, 3)).astype("float32")


def outputs(strategy, name, settings):
    """Predictions, by how much the layer changes images, and weights after two steps."""
    with strategy.scope():
        layer = get(name, **{**settings, **({} if name == "brelu" else {"apply_fit": True})})
        model = keras.Sequential([keras.Input((6, 6, 3)), layer, keras.layers.Flatten()])
        model.add(keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(0.01)))
        model.compile(keras.optimizers.SGD(1e-3), "mse")
    front = keras.Sequential([keras.Input((6, 6, 3)), layer])
    predicted = model.predict(X, batch_size=4, verbose=0)
    changed = float(np.abs(front(X, training=True) - X).max())
    model.fit(X, np.ones((8, 2)), batch_size=4, verbose=0, shuffle=False)
    return predicted, changed, model.get_weights()[0]


if __name__ == "__main__":
    # One for all, see distribution_check.py.
    both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {}
    for name, settings in json.loads(sys.argv[1]).items():
        alone, changed, weights = outputs(tf.distribute.get_strategy(), name, settings)
        spread, _, others = outputs(both, name, settings)
        results[name] = {
            "changed": changed,
            "predictions": float(np.abs(alone - spread).max()),
            "trained": float(np.abs(weights - others).max()),
        }
    print("RESULT " + json.dumps(results))
