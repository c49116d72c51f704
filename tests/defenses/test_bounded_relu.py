"""Bounded ReLU, and the exchange of every ReLU of a model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import BoundedReLU, wrap
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.store import fingerprint


def numpy_brelu(x, t):
    return np.clip(x, 0, t)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_values_and_gradient(dtype):
    x = tf.constant([-2.0, -0.25, 0.0, 0.25, 1.5, 2.5, 60.0], dtype)
    layer = BoundedReLU(t=2.0, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, [0, 0, 0, 0.25, 1.5, 2, 2])
    np.testing.assert_array_equal(tape.gradient(y, x), [0, 0, 0, 1, 1, 0, 0])


def test_config_round_trip():
    layer = BoundedReLU(t=0.5, name="b")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (type(again), again.t, again.name) == (BoundedReLU, 0.5, "b")


@pytest.mark.parametrize("t", [0, -1.0, np.nan, np.inf, "1", True, None])
def test_bad_bound(t):
    with pytest.raises(ValueError, match=r"`t` must be a number > 0. Received: t="):
        BoundedReLU(t=t)


def predict(model, x):
    return np.asarray(model(x))


def test_every_relu_of_a_functional_model(cnn, images):
    """Activation and layer, against the same network computed in NumPy's terms."""
    x, _ = images
    x = 20 * x  # large enough to saturate
    model = cnn()
    before = predict(model, x)
    config = model.get_config()
    rebuilt = BoundedReLU(t=0.7).rebuild(model)
    conv, dense = model.get_layer("conv"), model.layers[-1]
    hidden = tf.nn.conv2d(x, conv.kernel.value, 1, "VALID").numpy() + conv.bias.numpy()
    hidden = numpy_brelu(numpy_brelu(hidden, 0.7), 0.7).reshape(len(x), -1)
    z = hidden @ dense.kernel.numpy() + dense.bias.numpy()
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict(rebuilt, x), expected, atol=1e-5)
    assert np.abs(expected - before).max() > 0.1
    # The given model is as it was, and shares nothing with the new one.
    np.testing.assert_array_equal(predict(model, x), before)
    assert model.get_config() == config
    assert not {id(v) for v in model.variables} & {id(v) for v in rebuilt.variables}


def sequential():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)]
    )


def nested():
    inputs = keras.Input((4,))
    shared = sequential()
    return keras.Model(inputs, shared(keras.layers.ReLU()(shared(inputs[:, ::-1][:, :4]) @ W_UP)))


W_UP = np.ones((2, 4), "float32")


def operations():
    inputs = keras.Input((4,))
    x = keras.ops.relu(keras.layers.Dense(5)(inputs))
    x = keras.activations.relu(keras.layers.Dense(5)(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def wrapped_layers():
    inputs = keras.Input((4,))
    x = keras.layers.Reshape((2, 2))(inputs)
    x = keras.layers.TimeDistributed(keras.layers.Dense(3, activation="relu"))(x)
    x = keras.layers.TimeDistributed(keras.Sequential([keras.layers.ReLU()]))(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def layer_as_activation():
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation=keras.layers.ReLU()),
            keras.layers.Activation("relu"),
            keras.layers.Dense(2),
        ]
    )


@pytest.mark.parametrize(
    "make", [sequential, nested, operations, wrapped_layers, layer_as_activation]
)
def test_all_places_a_relu_can_be(make, tmp_path):
    """No unit above the bound is left: outputs stay put however large the inputs grow."""
    keras.utils.set_random_seed(3)
    model = make()
    rebuilt = BoundedReLU(t=0.5).rebuild(model)
    x = np.random.default_rng(0).uniform(1, 2, (16, 4)).astype("float32")
    small, large = 1e-3 * x, 1e6 * x
    # Below the bound both models are the same function.
    np.testing.assert_allclose(predict(rebuilt, small), predict(model, small), atol=1e-5)
    assert np.abs(predict(model, large)).max() > 1e4
    limit = sum(np.abs(w).sum() for w in model.get_weights())
    assert np.abs(predict(rebuilt, large)).max() < limit
    rebuilt.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(predict(loaded, large), predict(rebuilt, large), rtol=1e-6)


def test_shared_layers_stay_shared():
    model = nested()
    rebuilt = BoundedReLU().rebuild(model)
    assert len(rebuilt.weights) == len(model.weights) == 4


def test_what_is_no_plain_relu_is_left():
    kept = [
        keras.layers.ReLU(max_value=6.0),
        keras.layers.ReLU(negative_slope=0.1),
        keras.layers.LeakyReLU(),
        keras.layers.Dense(3, activation="relu6"),
    ]
    model = keras.Sequential([keras.Input((3,)), *kept, keras.layers.ReLU()])
    rebuilt = BoundedReLU().rebuild(model)
    for old, new in zip(model.layers[:-1], rebuilt.layers[:-1], strict=True):
        assert type(old) is type(new) and old.get_config() == new.get_config()
    assert isinstance(rebuilt.layers[-1], BoundedReLU)


def test_unregistered_layers_survive():
    class Double(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = keras.Sequential([keras.Input((3,)), Double(), keras.layers.ReLU()])
    rebuilt = BoundedReLU(t=1.0).rebuild(model)
    np.testing.assert_array_equal(predict(rebuilt, np.array([[0.25, 3, -1]])), [[0.5, 1, 0]])


def test_precision_of_the_layer_is_kept():
    dense = keras.layers.Dense(3, activation="relu", dtype="mixed_float16")
    model = keras.Sequential([keras.Input((3,)), dense, keras.layers.ReLU(dtype="mixed_float16")])
    rebuilt = BoundedReLU().rebuild(model)
    assert rebuilt(np.ones((1, 3))).dtype == "float16"
    assert rebuilt.layers[0].activation.compute_dtype == "float16"


def test_refusals(linear):
    class Opaque(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def call(self, inputs):
            return self.inner(inputs)

    with pytest.raises(ValueError, match="needs functional or sequential models"):
        BoundedReLU().rebuild(Opaque())
    with pytest.raises(ValueError, match="found no ReLU to replace"):
        BoundedReLU().rebuild(linear())
    with pytest.raises(ValueError, match="found no ReLU to replace"):
        wrap(wrap(sequential(), "brelu"), "brelu")


def test_what_results_are_stored_by_is_the_same_again(cnn):
    """The names of the layers are part of it, and Keras counts on in a process."""
    base = cnn()
    one, other = (fingerprint(Classifier(wrap(base, "brelu"))) for _ in range(2))
    assert one == other
