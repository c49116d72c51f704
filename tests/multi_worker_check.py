"""Run by test_distribution.py, once for each worker: `multi_worker_check.py INDEX PORTS CASES`."""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

index, ports, cases = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
os.environ["TF_CONFIG"] = json.dumps(
    {
        "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
        "task": {"type": "worker", "index": index},
    }
)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from kerasrobust import distribution  # noqa: E402
from kerasrobust.defenses import unwrap, wrap  # noqa: E402

strategy = tf.distribute.MultiWorkerMirroredStrategy()


def build(scope, defense):
    """A regularised model without batch norm and dropout, wrapped and compiled."""
    keras.utils.set_random_seed(1)
    with scope:
        base = keras.Sequential(
            [
                keras.Input((6, 6, 1)),
                keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
                keras.layers.Flatten(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        model = wrap(base, defense, seed=3)
        optimizer = keras.optimizers.SGD(0.3, momentum=0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def batches():
    """Batches of 8, 8 and 3: the last one leaves a worker with fewer samples than the other."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(19, 6, 6, 1)).astype("float32")
    y, weight = rng.integers(0, 3, 19), rng.uniform(0.5, 2.0, 19).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(8)


def together(defense):
    """Weights, logs and step counter after two epochs on all workers."""
    model = build(strategy.scope(), defense)
    history = distribution.fit(model, batches(), epochs=2)
    return unwrap(model).get_weights(), history.history, int(model.step.numpy())


def alone(defense):
    """The same by Keras' `fit` in this process alone."""
    model = build(tf.distribute.get_strategy().scope(), defense)
    history = model.fit(batches(), epochs=2, verbose=0)
    return unwrap(model).get_weights(), history.history, int(model.step.numpy())


def fit_fails():
    """What Keras' own `fit` says."""
    try:
        build(strategy.scope(), cases[0]).fit(batches(), verbose=0)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return None


results = {"replicas": strategy.num_replicas_in_sync}
for case in cases:
    weights, logs, steps = together(case)
    other_weights, other_logs, other_steps = alone(case)
    assert set(logs) == set(other_logs), (logs, other_logs)
    pairs = zip(weights, other_weights, strict=True)
    results[str(case)] = {
        "weights": max(float(np.abs(a - b).max()) for a, b in pairs),
        "logs": max(float(np.abs(np.subtract(logs[k], other_logs[k])).max()) for k in logs),
        "steps": [steps, other_steps],
        "checksum": float(sum(np.abs(array).sum() for array in weights)),
    }
results["fit"] = fit_fails()
print("RESULT " + json.dumps(results), flush=True)
