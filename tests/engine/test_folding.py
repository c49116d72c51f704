"""Batch normalization in the kernels of convolutions: Keras's own layers are the measure."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kerasrobust import Classifier, attacks
from kerasrobust.engine import folding
from kerasrobust.engine.loops import while_loop


def with_statistics(model: keras.Model, seed: int = 0) -> keras.Model:
    """The model with weights and batch statistics as training leaves them, or worse."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        low = 0.01 if variable.path.endswith("variance") else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


def chain(*given: layers.Layer, shape: tuple[int, ...] = (6, 6, 2)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *given])


def branches() -> keras.Model:
    """A shortcut, and a nested model of two inputs."""
    left, right = keras.Input((6, 6, 4)), keras.Input((6, 6, 4))
    joined = layers.Concatenate()([layers.BatchNormalization()(layers.Conv2D(3, 1)(left)), right])
    two = keras.Model([left, right], layers.Conv2D(4, 1)(joined))
    image = keras.Input((6, 6, 2))
    first = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(image))
    second = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(layers.ReLU()(first)))
    return keras.Model(image, two([layers.Add()([first, second]), first]))


FOLDED = {
    "strides and no bias": lambda: chain(
        layers.Conv2D(4, 3, strides=2, use_bias=False), layers.BatchNormalization()
    ),
    "dilation and groups": lambda: chain(
        layers.Conv2D(4, 3, dilation_rate=2, groups=2, padding="same"),
        layers.BatchNormalization(scale=False),
    ),
    "depthwise": lambda: chain(
        layers.DepthwiseConv2D(3, depth_multiplier=3, dilation_rate=2, padding="same"),
        layers.BatchNormalization(center=False),
    ),
    "one dimension": lambda: chain(
        layers.Conv1D(4, 3), layers.BatchNormalization(axis=2), shape=(7, 2)
    ),
    "depthwise in one dimension": lambda: chain(
        layers.DepthwiseConv1D(3, strides=2), layers.BatchNormalization(), shape=(9, 2)
    ),
    "three dimensions": lambda: chain(
        layers.Conv3D(3, 2), layers.BatchNormalization(epsilon=0.1), shape=(4, 4, 4, 2)
    ),
    "nested": lambda: chain(
        layers.Rescaling(2.0), chain(layers.Conv2D(4, 3), layers.BatchNormalization())
    ),
    "branches": branches,
}


def in_a_loop(model: keras.Model):
    """The last of several passes in a graph, folded."""
    view = folding.folded(model)

    @tf.function(autograph=False)
    def run(x):
        start = tf.zeros([tf.shape(x)[0], *model.output_shape[1:]])
        with folding.scope():
            return while_loop(
                lambda i, _: i < 3,
                lambda i, _: (i + 1, view(x, training=False)),
                (0, start),
                differentiates=False,
            )[1]

    return run


@pytest.mark.parametrize("kind", FOLDED)
def test_a_folded_pass_is_the_models(kind):
    model = with_statistics(FOLDED[kind]())
    x = np.random.default_rng(1).uniform(-1, 1, (3, *model.input_shape[1:])).astype("float32")
    view = folding.folded(model)
    run = in_a_loop(model)
    expected = model(x, training=False).numpy()
    np.testing.assert_allclose(run(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    with folding.scope() as kernels:
        np.testing.assert_allclose(view(x), run(x), rtol=0, atol=1e-5 * np.abs(expected).max())
    assert kernels.used
    # Never stale: the graph reads the variables of its time.
    with_statistics(model, seed=2)
    changed = model(x, training=False).numpy()
    assert np.abs(changed - expected).max() > 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(run(x), changed, rtol=0, atol=1e-5 * np.abs(changed).max())


def test_kernels_are_folded_outside_of_loops_and_no_normalization_is_left():
    run = in_a_loop(with_statistics(branches()))
    definition = run.get_concrete_function(tf.TensorSpec([None, 6, 6, 2])).graph.as_graph_def()
    inside = [node.op for one in definition.library.function for node in one.node_def]
    assert [node.op for node in definition.node].count("Rsqrt") == 3
    assert "Conv2D" in inside and not {"Rsqrt", "Mul"} & set(inside)


def test_outside_of_the_scope_and_in_training_mode_the_model_is_called():
    model = with_statistics(branches())
    x = np.random.default_rng(1).random((3, 6, 6, 2), np.float32)
    view = folding.folded(model)
    np.testing.assert_array_equal(view(x, training=False), model(x, training=False))
    before = model.get_weights()
    with folding.scope() as kernels:
        trained = view(x, training=True)
    assert not kernels.used
    moved = [(old != new).any() for old, new in zip(before, model.get_weights(), strict=True)]
    assert any(moved)  # the statistics, as Keras does
    model.set_weights(before)
    np.testing.assert_array_equal(trained, model(x, training=True))


class Convolution(layers.Conv2D):
    """One that may do more."""


class Normalization(layers.BatchNormalization):
    """One that may do more."""


class Doubled(keras.Model):
    """A functional model with a `call` of its own."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


def shared() -> keras.Model:
    convolution, image = layers.Conv2D(2, 1), keras.Input((6, 6, 2))
    one = layers.BatchNormalization()(convolution(image))
    return keras.Model(image, layers.BatchNormalization()(convolution(one)))


def seen(also_an_output: bool) -> keras.Model:
    image = keras.Input((6, 6, 2))
    between = layers.Conv2D(2, 1)(image)
    end = layers.BatchNormalization()(between)
    if also_an_output:
        return keras.Model(image, [between, end])
    return keras.Model(image, layers.Add()([between, end]))


def own_call() -> keras.Model:
    image = keras.Input((6, 6, 2))
    return Doubled(image, layers.BatchNormalization()(layers.Conv2D(2, 1)(image)))


NOT_FOLDED = {
    "none": lambda: chain(layers.Conv2D(2, 1)),
    "activation": lambda: chain(layers.Conv2D(2, 1, activation="relu"), normalization()),
    "pooling": lambda: chain(layers.Conv2D(2, 1), layers.MaxPooling2D(), normalization()),
    "another axis": lambda: chain(layers.Conv2D(2, 1), normalization(axis=1)),
    "half precision": lambda: chain(
        layers.Conv2D(2, 1, dtype="mixed_float16"), normalization(dtype="mixed_float16")
    ),
    "a subclass": lambda: chain(Convolution(2, 1), normalization()),
    "another subclass": lambda: chain(layers.Conv2D(2, 1), Normalization()),
    "causal": lambda: chain(layers.Conv1D(2, 2, padding="causal"), normalization(), shape=(6, 2)),
    "transposed": lambda: chain(layers.Conv2DTranspose(2, 1), normalization()),
    "shared": shared,
    "seen by another layer": lambda: seen(also_an_output=False),
    "seen from outside": lambda: seen(also_an_output=True),
    "a call of its own": own_call,
}


def normalization(**given) -> layers.Layer:
    return layers.BatchNormalization(**given)


@pytest.mark.parametrize("kind", NOT_FOLDED)
def test_what_is_not_known_for_sure_is_left_alone(kind):
    model = NOT_FOLDED[kind]()
    assert folding.folded(model) is model


def classifier_of(layer=None, **given) -> Classifier:
    """Of a small network with normalizations; `layer` takes the place of its first convolution."""
    layer = layers.Conv2D(4, 3, use_bias=False) if layer is None else layer
    later = [layers.BatchNormalization(), layers.ReLU(), layers.DepthwiseConv2D(3)]
    end = [layers.BatchNormalization(), layers.Flatten(), layers.Dense(3, activation="softmax")]
    return Classifier(with_statistics(chain(layer, *later, *end)), **given)


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(3).random((12, 6, 6, 2), np.float32)


def asked(classifier, x, name="square", **given):
    y = classifier.predict(x).argmax(axis=1)
    given = {"eps": 0.2, "max_iter": 20, **given}
    return attacks.get(name, batch_size=8, seed=1, **given).bind(classifier).run(x, y)


def same(one, other):
    np.testing.assert_array_equal(one.success, other.success)
    np.testing.assert_array_equal(one.queries, other.queries)
    np.testing.assert_array_equal(one.x_adv, other.x_adv)


def test_an_attack_finds_the_same_and_follows_weights(samples, monkeypatch):
    folds = classifier_of()
    assert folds._folds
    with monkeypatch.context() as patch:
        patch.setattr(folding, "folded", lambda model: model)
        plain = classifier_of()
    assert plain._folds is None
    first = asked(folds, samples)
    same(first, asked(plain, samples))
    assert (first.x_adv != samples).any() and (first.queries > 10).any()
    traces = dict(folds.traces)
    for one in (folds, plain):
        with_statistics(one.model, seed=5)
    second = asked(folds, samples)
    same(second, asked(plain, samples))
    assert (first.x_adv != second.x_adv).any()
    assert folds.traces == traces


def test_scores_and_judgement_are_the_models_own(samples, monkeypatch):
    classifier = classifier_of()

    def refuse():
        raise AssertionError("folded")

    monkeypatch.setattr(folding, "scope", refuse)
    classifier.predict(samples)
    classifier.judge(samples)
    with pytest.raises(AssertionError, match="folded"):
        asked(classifier, samples)


def patched(change) -> layers.Layer:
    """A layer of Keras's own kind that somebody has changed."""
    layer = layers.Conv2D(4, 3, use_bias=False)
    own = layer.call
    layer.call = lambda inputs: change(inputs, own(inputs))
    return layer


def test_where_scores_would_change_nothing_is_folded(samples, caplog):
    with caplog.at_level(logging.INFO, logger="kerasrobust"):
        classifier = classifier_of(patched(lambda inputs, outputs: outputs + 0.1))
    assert classifier._folds is False
    assert [one for one in caplog.messages if "not folded" in one]
    with classifier.folding():
        np.testing.assert_allclose(
            tf.nn.softmax(classifier.logits(tf.constant(samples))),
            classifier.model(samples),
            atol=1e-6,
        )


def test_samples_may_tell_what_noise_does_not(samples, caplog):
    def change(inputs, outputs):
        bright = tf.reduce_mean(inputs, axis=[1, 2, 3], keepdims=True) > 0.9
        return tf.where(bright, outputs + 1.0, outputs)

    classifier = classifier_of(patched(change))
    assert classifier._folds
    classifier.look_for_draws(samples)
    assert classifier._folds
    classifier.functions["an attack's"] = lambda: None
    with caplog.at_level(logging.INFO, logger="kerasrobust"):
        for _ in range(2):
            classifier.look_for_draws(np.ones((2, 6, 6, 2), np.float32))
    assert classifier._folds is False and "an attack's" not in classifier.functions
    assert len([one for one in caplog.messages if "not folded" in one]) == 1


class Jitter(layers.Layer):
    """Noise at inference."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(5)

    def call(self, inputs):
        return inputs + keras.random.normal(tf.shape(inputs), 0.0, 0.1, seed=self.generator)


def test_a_model_that_draws_folds_too(samples):
    model = chain(Jitter(), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten())
    classifier = Classifier(with_statistics(model))
    assert classifier.randomised and classifier._folds
    classifier.look_for_draws(samples)
    assert classifier.repeatable and classifier._folds
