import keras
import numpy as np
import pytest

from kerasrobust import models
from kerasrobust.datasets import Dataset


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("areb_cn",), ValueError, "Did you mean 'areb_cnn'.*name='areb_cn'"),
        ((None,), TypeError, "name=None"),
        (("digits_cnn", (8, 8)), ValueError, r"input_shape=\(8, 8\)"),
        (("digits_cnn", 8), TypeError, "input_shape=8"),
        (("digits_cnn", (8, 8, 0)), ValueError, r"input_shape=\(8, 8, 0\)"),
        (("areb_cnn", (8, 8, 1)), ValueError, r"10x10.*input_shape=\(8, 8, 1\)"),
        (("areb_cnn_cifar10", (28, 28, 1)), ValueError, "32x32"),
        (("digits_cnn", (8, 8, 1), 1), ValueError, "nb_classes=1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        models.get(*arguments)


def test_unknown_option():
    with pytest.raises(TypeError, match="Received: depth=3"):
        models.get("digits_cnn", depth=3)


def test_load_restores_what_was_saved(tmp_path):
    model = models.digits_cnn(seed=0)
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    restored = models.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.keras", "damaged or cut short"),
        ("model.h5", "cannot be read"),
        ("model.txt", "ending in .keras or .h5"),
    ],
)
def test_file_that_is_no_model(tmp_path, file, message):
    path = tmp_path / file
    with pytest.raises(FileNotFoundError, match="Expected a Keras model file.*Received: path="):
        models.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=f"Expected a Keras model file.*{message}.*Received: path="
    ):
        models.load(path)
    with pytest.raises(TypeError, match="path=3"):
        models.load(3)


def test_file_that_holds_a_layer(tmp_path):
    class Unregistered(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    keras.Sequential([keras.Input((2,)), Unregistered()]).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="cannot be read.*Unregistered"):
        models.load(tmp_path / "model.keras")


def linear_data(n=64):
    """Two classes that one pixel tells apart."""
    x = np.random.default_rng(0).random((n, 4, 4, 1)).astype(np.float32)
    return Dataset("pixel", "train", x, (x[:, 0, 0, 0] > 0.5).astype(np.int64), ("low", "high"))


def test_fit_first_loss_is_the_cross_entropy_in_numpy():
    """A step size too small to move the weights: the loss of the epoch is that of the start."""
    data = linear_data(20)
    for logits in (False, True):
        model = models.digits_cnn((4, 4, 1), 2, logits=logits, seed=0)
        # Batch statistics of the training pass differ from the moving ones used in inference.
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        scores = model.predict(data.x, verbose=0).astype(np.float64)
        if logits:
            scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        expected = -np.log(scores[np.arange(20), data.y]).mean()
        history = models.fit(
            model, data, epochs=1, batch_size=8, learning_rate=1e-12, from_logits=logits, verbose=0
        )
        # Keras weights the last, smaller batch by its number of samples.
        assert history.history["loss"][0] == pytest.approx(expected, rel=1e-5)


class OneUnit(keras.Model):
    """Its graph cannot be read."""

    def __init__(self, activation=None, kernel="zeros", bias=0.0):
        super().__init__()
        bias = keras.initializers.Constant(bias)
        self.unit = keras.layers.Dense(1, activation, True, kernel, bias)

    def call(self, x):
        return self.unit(keras.ops.reshape(x, (-1, 16)))


@pytest.mark.parametrize("logits", [False, True])
def test_fit_one_unit_that_no_graph_shows(logits):
    """The first loss is the cross-entropy of two classes, wherever the outputs happen to lie."""
    data = linear_data(20)
    small = keras.initializers.RandomNormal(stddev=0.01, seed=0)
    model = OneUnit(None if logits else "sigmoid", small, 0.3)
    scores = model(data.x).numpy()[:, 0].astype(np.float64)
    assert 0 < scores.min() and scores.max() < 1
    p = 1 / (1 + np.exp(-scores)) if logits else scores
    expected = -np.log(np.where(data.y == 1, p, 1 - p)).mean()
    history = models.fit(model, data, epochs=1, learning_rate=1e-12, verbose=0)
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_fit_one_unit_that_tells_nothing():
    data, model = linear_data(20), OneUnit()
    model(data.x)
    with pytest.raises(ValueError, match="give `from_logits`.*from_logits=None"):
        models.fit(model, data, epochs=1, verbose=0)
    history = models.fit(model, data, epochs=1, learning_rate=1e-12, from_logits=True, verbose=0)
    assert history.history["loss"][0] == pytest.approx(np.log(2), rel=1e-5)


@pytest.mark.parametrize("logits", [False, True])
def test_fit_from_logits_that_the_last_layer_contradicts(logits):
    model = models.digits_cnn((4, 4, 1), 2, logits=logits, seed=0)
    message = "returns logits" if logits else "ends in a softmax"
    with pytest.raises(ValueError, match=f"{message}.*Received: from_logits={not logits}"):
        models.fit(model, linear_data(20), epochs=1, from_logits=not logits, verbose=0)
    with pytest.raises(ValueError, match="from_logits=1"):
        models.fit(model, linear_data(20), epochs=1, from_logits=1, verbose=0)


@pytest.mark.slow
def test_fit_repeats_and_learns_and_leaves_the_global_seed_alone():
    data = linear_data()
    weights = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(len(weights))
        model = models.digits_cnn((4, 4, 1), 2, seed=0)
        history = models.fit(model, data, epochs=10, batch_size=16, seed=seed, verbose=0)
        weights.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert history.history["accuracy"][-1] > 0.95
    # Cosine decay ends at a step size of zero.
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_fit_makes_600_steps_on_few_samples():
    history = models.fit(
        models.digits_cnn((4, 4, 1), 2, seed=0), linear_data(40), batch_size=2, verbose=0
    )
    assert len(history.epoch) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
    ],
)
def test_fit_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        models.fit(models.digits_cnn((4, 4, 1), 2), linear_data(), **options)


def test_fit_data_that_do_not_fit_the_model():
    with pytest.raises(ValueError, match=r"shape \(8, 8, 1\).*'pixel'.*\(4, 4, 1\)"):
        models.fit(models.digits_cnn(), linear_data())
    flat = keras.Sequential([keras.Input((16,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"shape \(16,\).*'pixel'.*\(4, 4, 1\)"):
        models.fit(flat, linear_data())
    three = linear_data()
    three = Dataset("pixel", "train", three.x, three.y, ("low", "high", "none"))
    with pytest.raises(ValueError, match="2 outputs.*3 classes"):
        models.fit(models.digits_cnn((4, 4, 1), 2), three)


@pytest.mark.slow
def test_train_default_reaches_97_percent_on_digits():
    from kerasrobust import datasets

    test = datasets.load("digits")
    model = models.train_default(datasets.load("digits", "train"))
    labels = model.predict(test.x, verbose=0).argmax(axis=1)
    assert np.mean(labels == test.y) >= 0.97
