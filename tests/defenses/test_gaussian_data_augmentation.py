"""Gaussian data augmentation against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import (
    Batch,
    Context,
    GaussianDataAugmentation,
    RobustModel,
    TrainingDefense,
)


def noise_of(model, x, step=0, jit=False):
    """What the defense of `model` draws for `x` at a step, `[batch, N, ...]`."""

    @tf.function(jit_compile=jit)
    def draw(x, step):
        context = Context(model, step, x)
        batch = Batch(x, x, x, model.clip_values)
        return model.defenses[0].prepare(batch, context).extras["gda"]

    return draw(tf.constant(x), tf.constant(step)).numpy()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_loss_and_update_equal_numpy(linear, points, softmax_step, keep, jit):
    x, y = points
    base = linear()
    gda = GaussianDataAugmentation(sigma=0.4, N=3, keep_original=keep)
    model = RobustModel(base, [gda], seed=5)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=jit)
    weight = np.linspace(0.5, 2.0, 9)
    logged = model.fit(x, y, sample_weight=weight, batch_size=9, shuffle=False, verbose=0)

    noisy = np.clip(x[:, None] + noise_of(model, x, jit=jit), 0, 1)
    assert (noisy == 0).any() and (noisy == 1).any()  # the bounds are met
    terms = np.concatenate([x[:, None], noisy], axis=1) if keep else noisy
    copies = terms.shape[1]
    share = np.repeat(weight / (9 * copies), copies)
    loss, expected = softmax_step(terms.reshape(-1, 4), np.repeat(y, copies), share, 0.1)
    np.testing.assert_allclose(logged.history["loss"], [(loss * share).sum()], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_noise_is_gaussian_and_independent(linear):
    x = np.full((200, 4), 0.5, "float32")
    model = RobustModel(linear(), [GaussianDataAugmentation(sigma=0.3, N=50)])
    first, second = noise_of(model, x, 0), noise_of(model, x, 1)
    assert first.shape == (200, 50, 4)
    for noise in (first, second):
        assert abs(noise.mean()) < 0.006  # four standard errors of 40,000 draws
        assert abs(noise.std() - 0.3) < 0.005
        kurtosis = np.mean(noise**4) / np.mean(noise**2) ** 2
        assert abs(kurtosis - 3.0) < 0.15
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(first[:, 0].ravel(), first[:, 1].ravel())[0, 1]) < 0.15
    np.testing.assert_array_equal(first, noise_of(model, x, 0))


def test_inner_defenses_see_each_copy(linear, points):
    """Labels, weights and extras are repeated along with the inputs."""
    seen = {}

    class Looks(TrainingDefense):
        name = "looks"

        def prepare(self, batch, context):
            return batch.with_extra("index", tf.range(9))

        def objective(self, batch, inner):
            seen["index"] = batch.extras["index"].numpy()
            seen["weight"] = batch.sample_weight.numpy()
            seen["y"], seen["origin"] = batch.y.numpy(), batch.origin
            assert set(batch.extras) == {"index"}
            return inner(batch)

        def get_config(self):
            return {}

    x, y = points
    model = RobustModel(linear(), [Looks(), GaussianDataAugmentation(0.1, N=2)])
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(x, y, sample_weight=np.arange(9.0))
    np.testing.assert_array_equal(seen["index"], np.repeat(np.arange(9), 2))
    np.testing.assert_array_equal(seen["weight"], np.repeat(np.arange(9.0), 2))
    np.testing.assert_array_equal(seen["y"].reshape(-1), np.repeat(y, 2))
    assert seen["origin"] == "noisy"


@pytest.mark.parametrize("mode", ["training", "inference", "stateless"])
def test_batch_norm_of_the_noisy_pass(cnn, images, mode):
    x, y = images
    base = cnn(batch_norm=True)
    gda = GaussianDataAugmentation(0.2, N=2, keep_original=True, batch_norm=mode)
    model = RobustModel(base, [gda])
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    noisy = np.clip(x[:, None] + noise_of(model, x), 0, 1).reshape(-1, 6, 6, 1)
    means = [features.predict(part, verbose=0).mean(axis=(0, 1, 2)) for part in (x, noisy)]
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
    expected = 0.5 * means[0]
    if mode == "training":
        expected = 0.5 * expected + 0.5 * means[1]
    np.testing.assert_allclose(base.get_layer("norm").moving_mean.numpy(), expected, atol=1e-5)


def test_mixed_precision_noise_is_float32(points):
    """In float16 steps of 2^-11 at 0.5..1 the noise of sigma 1e-4 would be lost."""
    model = RobustModel(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype="mixed_float16")]),
        [GaussianDataAugmentation(1e-4, N=2)],
    )
    noise = noise_of(model, points[0])
    assert noise.dtype == np.float32
    assert len(np.unique(points[0][:, None] + noise)) > 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, r"`sigma` must be a number > 0. Received: sigma=0.0"),
        ({"sigma": -1}, r"`sigma` must be a number > 0. Received: sigma=-1"),
        ({"sigma": np.inf}, "Received: sigma=inf"),
        ({"sigma": "a"}, "Received: sigma='a'"),
        ({"N": 0}, "integer >= 1. Received: N=0"),
        ({"N": 1.5}, "integer >= 1. Received: N=1.5"),
        ({"keep_original": 1}, "True or False. Received: keep_original=1"),
        ({"batch_norm": "off"}, "must be one of.*Received: batch_norm='off'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianDataAugmentation(**arguments)
