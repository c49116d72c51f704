"""Small fixed-weight models and trivial defenses and attacks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.attacks import Attack
from kerasrobust.defenses import TrainingDefense


class Shift(Attack):
    """The same perturbation for every sample, whatever the model: a fixed adversary."""

    name = "pgd"  # of the registry, so that a config can be written; never read back
    kind = "budget"
    norm = np.inf
    by = 0.0

    def max_steps(self):
        return 1

    def perturb(self, x, y, *, seed):
        columns = tf.cast(tf.range(tf.shape(x)[-1]), tf.float32)
        return x + self.by * tf.cos(columns)


@keras.saving.register_keras_serializable("kerasrobust_tests")
class Affine(TrainingDefense):
    """`a * inner + b`: the most trivial defense."""

    name = "affine"

    def __init__(self, a: float = 2.0, b: float = 0.5, rank: int = 5):
        self.a, self.b, self.rank = a, b, rank

    def objective(self, batch, inner):
        return self.a * inner(batch) + self.b

    def conflict(self, other):
        return None

    def get_config(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "rank": self.rank}


@keras.saving.register_keras_serializable("kerasrobust_tests")
class Stale(TrainingDefense):
    """Takes the gradient at weights moved by `delta`, and puts the weights back."""

    name = "stale"
    rank = 30

    def __init__(self, delta: float = 0.1):
        self.delta = delta

    def prepare(self, batch, context):
        for variable in context.model.trainable_variables:
            variable.assign_add(tf.fill(variable.shape, self.delta))

        def back():
            for variable in context.model.trainable_variables:
                variable.assign_sub(tf.fill(variable.shape, self.delta))

        context.defer(back)
        return batch

    def objective(self, batch, inner):
        return inner(batch)

    def get_config(self) -> dict[str, Any]:
        return {"delta": self.delta}


@pytest.fixture(
    params=[
        {"run_eagerly": True},
        {"jit_compile": False},
        # Compiling takes seconds.
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
    ],
    ids=["eager", "graph", "xla"],
)
def mode(request):
    """How a model is compiled: claims about a step hold in each."""
    return request.param


@pytest.fixture
def shift():
    def make(by: float) -> Shift:
        attack = Shift()
        attack.by = by
        return attack

    return make


@pytest.fixture
def affine():
    return Affine


@pytest.fixture
def stale():
    return Stale


W = np.array([[0.4, -0.3, 0.1], [-0.2, 0.5, 0.3], [0.6, 0.1, -0.4], [0.0, -0.5, 0.2]], np.float32)
B = np.array([0.1, -0.1, 0.05], np.float32)


@pytest.fixture
def weights():
    return W, B


@pytest.fixture
def linear():
    """A softmax (or logit) regression from 4 inputs to 3 classes, with weights W and B."""

    def make(activation: str | None = "softmax", dtype: str | None = None, **options: Any):
        layer = keras.layers.Dense(3, activation=activation, dtype=dtype, **options)
        model = keras.Sequential([keras.Input((4,)), layer])
        model.set_weights([W, B])
        return model

    return make


@pytest.fixture
def cnn():
    """6 x 6 inputs, three classes, ReLU as an activation and as a layer."""

    def make(batch_norm: bool = False, dropout: float = 0.0, seed: int = 0) -> keras.Model:
        start = keras.initializers.GlorotUniform
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(
            4, 3, activation="relu", kernel_initializer=start(seed), name="conv"
        )(inputs)
        if batch_norm:
            x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.Flatten()(x)
        if dropout:
            x = keras.layers.Dropout(dropout, seed=1, name="drop")(x)
        outputs = keras.layers.Dense(3, activation="softmax", kernel_initializer=start(seed + 1))(x)
        return keras.Model(inputs, outputs)

    return make


@pytest.fixture
def points():
    """Nine samples of four inputs within 0.2 .. 0.8, and their labels."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.2, 0.8, (9, 4)).astype("float32"), rng.integers(0, 3, 9)


@pytest.fixture
def images():
    rng = np.random.default_rng(1)
    return rng.uniform(size=(20, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 20)


@pytest.fixture
def softmax_step():
    """NumPy: loss per row and SGD step of softmax regression with row weights that sum as given."""

    def step(x, y, row_weight, rate, weights=(W, B)):
        x, kernel, bias = np.float64(x), np.float64(weights[0]), np.float64(weights[1])
        z = x @ kernel + bias
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(len(x)), y])
        residual = (p - np.eye(3)[y]) * np.reshape(row_weight, (-1, 1))
        return loss, [kernel - rate * x.T @ residual, bias - rate * residual.sum(axis=0)]

    return step
