"""Each private name of Keras that we lean on: these tests fail when Keras changes one."""

from __future__ import annotations

import random
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kerasrobust
from kerasrobust import _keras

PACKAGE = Path(kerasrobust.__file__).parent
PRIVATE = re.compile(
    r"keras\.src|\b_(keras_history|(in|out)bound_nodes|functional|run_through_graph"
    r"|standardize_inputs|call_has_training_arg|flatten_layers|compile_config|loss_tracker"
    r"|symbolic_build|get_metrics_result_or_logs|seed_generators)\b"
)


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3, activation="relu")(inputs * 2))


def sequential():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dropout(0.5)])


class Reversed(keras.Model):
    def call(self, x):
        return super().call(1 - x)


class Intercepted(keras.Sequential):
    def __call__(self, x, **kwargs):
        return super().__call__(1 - x, **kwargs)


class Free(keras.Model):
    def call(self, x):
        return x


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def x():
    return np.random.default_rng(0).random((5, 4)).astype(np.float32)


def test_no_other_module_uses_a_private_name():
    found = {
        f"{path.relative_to(PACKAGE)}: {name.group()}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "_keras.py"
        for name in PRIVATE.finditer(path.read_text())
    }
    assert found == set()
    assert PRIVATE.search((PACKAGE / "_keras.py").read_text())


def test_has_graph():
    inputs = keras.Input((4,))
    own = Reversed(inputs, layers.Dense(2)(inputs))
    assert all(_keras.has_graph(model) for model in (functional(), sequential(), own))
    assert not any(_keras.has_graph(one) for one in (Free(), layers.Dense(2), 3))


def test_is_its_graph():
    inputs = keras.Input((4,))
    assert _keras.is_its_graph(functional()) and _keras.is_its_graph(sequential())
    assert not _keras.is_its_graph(Reversed(inputs, layers.Dense(2)(inputs)))
    assert not _keras.is_its_graph(Intercepted([inputs, layers.Dense(2)]))
    assert not _keras.is_its_graph(Free())
    patched = functional()
    patched.call = lambda x: x
    assert not _keras.is_its_graph(patched)


def test_graph_of(x):
    model, chain = functional(), sequential()
    assert _keras.graph_of(model) is model
    assert [one.name for one in _keras.graph_of(chain).layers[1:]] == [
        one.name for one in chain.layers
    ]
    np.testing.assert_array_equal(_keras.graph_of(chain)(x), chain(x))
    assert _keras.graph_of(keras.Sequential([layers.Dense(2)])) is None


def test_run_graph(x):
    model = functional()
    seen = []

    def noted(operation):
        def run(*args, **kwargs):
            seen.append(operation)
            return operation(*args, **kwargs)

        return run

    got = _keras.run_graph(model, x, noted)
    np.testing.assert_array_equal(got, model(x))
    assert [type(one).__name__ for one in seen] == ["Multiply", "Dense"]
    inputs = keras.Input((4,))
    mode = keras.Model(inputs, layers.Dropout(0.9, seed=0)(inputs, training=True))
    itself = lambda operation: operation  # noqa: E731
    assert (np.asarray(_keras.run_graph(mode, x, itself)) != x).any()
    np.testing.assert_array_equal(_keras.run_graph(mode, x, itself, training=False), x)


def test_producer():
    model = functional()
    operation, sources = _keras.producer(model.outputs[0])
    assert operation is model.layers[-1] and len(sources) == 1
    operation, (source,) = _keras.producer(sources[0])
    assert type(operation).__name__ == "Multiply" and source is model.inputs[0]
    operation, sources = _keras.producer(source)
    assert isinstance(operation, layers.InputLayer) and sources == []


def test_out_of_graphs(x):
    model = functional()
    twin = _keras.look_alike(model.layers[-1])
    _keras.out_of_graphs(twin)
    inputs = keras.Input((4,))
    output = twin(inputs)
    operation, sources = _keras.producer(output)
    assert operation is twin and sources == [inputs]
    # Its first place in a graph is the one just taken, and the original keeps its own.
    assert output._keras_history.node_index == 0
    assert _keras.producer(model.outputs[0])[0] is model.layers[-1]


def test_takes_training():
    assert _keras.takes_training(layers.Dropout(0.5))
    assert not _keras.takes_training(layers.ReLU())
    assert not _keras.takes_training(_keras.producer(keras.Input((2,)) * 2)[0])


def test_flat_layers():
    inner = sequential()
    outer = keras.Sequential([keras.Input((4,)), inner, layers.ReLU()])
    assert {one.name for one in _keras.flat_layers(outer)} >= {
        outer.name,
        inner.name,
        outer.layers[-1].name,
        *(one.name for one in inner.layers),
    }
    assert _keras.flat_layers(outer)[0] is outer
    assert len({id(one) for one in _keras.flat_layers(outer)}) == len(_keras.flat_layers(outer))


def test_look_alike(x):
    layer = layers.Dense(3, activation="relu")
    layer(x)
    twin = _keras.look_alike(layer, activation=keras.activations.linear)
    np.testing.assert_allclose(twin(x), x @ layer.kernel.numpy(), rtol=1e-6)
    layer.kernel.assign(2 * layer.kernel)
    np.testing.assert_allclose(twin(x), x @ layer.kernel.numpy(), rtol=1e-6)
    assert layer.activation is keras.activations.relu
    model = keras.Sequential([keras.Input((4,)), layer])
    assert len(model.weights) == 2


def test_compile_settings():
    model = functional()
    model.compile("sgd", "mse", loss_weights=[0.5], jit_compile=False)
    settings = _keras.compile_settings(model)
    assert (settings["loss"], settings["loss_weights"]) == ("mse", [0.5])
    assert settings["jit_compile"] is False


def test_loss_tracker(x):
    model = functional()
    model.compile("sgd", "mse")
    _keras.loss_tracker(model).update_state(3.0, sample_weight=2)
    _keras.loss_tracker(model).update_state(6.0, sample_weight=1)
    assert float(model.get_metrics_result()["loss"]) == 4.0


def test_build_for_training(x):
    model = functional()
    model.compile("adam", "mse", metrics=["mae"])
    before = model.get_weights()
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :3])).batch(5)
    _keras.build_for_training(model, data.element_spec)
    assert model.optimizer.built and len(model.optimizer.variables) > len(before)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class Named(_keras.NamedLogs):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)

    def name_logs(self, logs):
        return {f"our_{key}": value for key, value in logs.items()}

    def train_step(self, data):
        logs = self.name_logs(super().train_step(data))
        # What one step says of itself, not the metric over all of them.
        return {key: -1.0 + 0 * value for key, value in logs.items()}


def test_named_logs(x):
    model = Named()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    y = x[:, :3]
    history = model.fit(x, y, batch_size=2, verbose=0).history
    assert set(history) == {"our_loss"}
    np.testing.assert_allclose(history["our_loss"], [np.mean((model(x) - y) ** 2)], rtol=1e-5)


def test_global_seed_state():
    keras.backend.clear_session()
    before = random.getstate()
    state = _keras.global_seed_state()
    assert random.getstate() == before
    assert state is _keras.global_seed_state()
    first = state.numpy()
    keras.random.normal((2,))
    assert (state.numpy() != first).any()


class Draws(layers.Layer):
    """Draws with and without a generator of its own."""

    def __init__(self):
        super().__init__()
        self.held = {"deep": [keras.random.SeedGenerator(3)]}

    def call(self, x):
        shape = keras.ops.shape(x)
        own = keras.random.normal(shape, seed=self.held["deep"][0])
        return x + own + keras.random.normal(shape)


def test_seed_states(x):
    """Mapped, they settle every draw of nested models, preprocessing and unseeded operations."""
    inner = keras.Sequential([keras.Input((4, 4, 1)), Draws(), layers.Dropout(0.5)])
    flip = layers.RandomFlip()
    shared = layers.RandomBrightness(0.1, value_range=(0, 255))
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, shared(inner(shared(flip(inputs)))))
    states = _keras.seed_states(model)
    assert len(states) == 5 and len({id(state) for state in states}) == 5
    assert states[-1] is _keras.global_seed_state()
    images = np.random.default_rng(1).uniform(90, 160, (3, 4, 4, 1)).astype(np.float32)

    def draw(number):
        mapping = [(state, tf.constant([number, 0], state.dtype)) for state in states]
        with keras.StatelessScope(state_mapping=mapping):
            return model(images, training=True).numpy()

    before = [state.numpy() for state in states]
    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()
    for old, state in zip(before, states, strict=True):
        np.testing.assert_array_equal(old, state.numpy())
    # Each one counts.
    for left_out in range(5):
        model(images, training=True)
        mapping = [
            (state, tf.constant([7, 0], state.dtype))
            for i, state in enumerate(states)
            if i != left_out
        ]
        with keras.StatelessScope(state_mapping=mapping):
            one = model(images, training=True).numpy()
        states[left_out].assign([left_out + 100, 5])
        with keras.StatelessScope(state_mapping=mapping):
            other = model(images, training=True).numpy()
        assert (one != other).any(), left_out


def test_is_saving_hdf5(tmp_path):
    seen = []

    class Asked(keras.Sequential):
        def get_config(self):
            seen.append(_keras.is_saving_hdf5())
            return super().get_config()

    model = Asked([keras.Input((4,)), layers.Dense(3)])
    for name in ("model.h5", "model.hdf5", "model.keras"):
        keras.saving.save_model(model, tmp_path / name)
    assert seen == [True, True, False] and not _keras.is_saving_hdf5()


def test_calls():
    inputs = keras.Input((4,))
    dense = layers.Dense(3)
    doubled = inputs * 2
    model = keras.Model(inputs, layers.Add()([dense(doubled), layers.Dense(3)(inputs)]))
    dense(inputs)  # a place in no graph of the model
    calls = _keras.calls(model)
    assert calls[0].operation is model.layers[-1] and calls[0].output is model.outputs[0]
    kinds = [type(call.operation).__name__ for call in calls]
    assert sorted(kinds) == ["Add", "Dense", "Dense", "InputLayer", "Multiply"]
    taken = [call for call in calls if any(given is inputs for given in call.inputs)]
    assert {type(call.operation).__name__ for call in taken} == {"Multiply", "Dense"}
    (multiply,) = [call for call in taken if call.output is doubled]
    assert multiply.arguments[0] is inputs and multiply.arguments[1] == 2
    (only,) = [call for call in calls if call.operation is dense]
    assert only.inputs == [doubled]
