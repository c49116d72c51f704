"""Layers in front of a model: what they compute, their gradients, and how they get there."""

import io

import keras
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import tensorflow as tf
from PIL import Image

from kerasrobust import Classifier
from kerasrobust.defenses import (
    FeatureSqueezing,
    JPEGCompression,
    RobustModel,
    SpatialSmoothing,
    get,
    unwrap,
    wrap,
)
from kerasrobust.defenses.layers.jpeg_compression import LUMINANCE, TO_YCC
from kerasrobust.engine import backward
from kerasrobust.engine.pixel_range import pixel_range

# Each with settings under which it changes what it is given.
LAYERS = {
    "feature_squeezing": {"bit_depth": 3},
    "spatial_smoothing": {"window_size": 3},
    "jpeg": {"quality": 20},
    "tvm": {"lamb": 0.1, "max_iter": 20},
    "gaussian_augmentation": {"apply_predict": True},
}
RANDOM = ("tvm", "gaussian_augmentation")
every_layer = pytest.mark.parametrize("name", LAYERS)


def levels(channels, n=3, height=21, width=18, smooth=True, seed=0):
    """uint8 images: clouds, or noise."""
    rng = np.random.default_rng(seed)
    if not smooth:
        return rng.integers(0, 256, (n, height, width, channels)).astype("uint8")
    coarse = rng.uniform(-0.1, 1.1, (n, 5, 5, channels))
    fine = tf.image.resize(coarse, (height, width), "bicubic").numpy()
    return np.clip(np.round(255 * fine), 0, 255).astype("uint8")


def images(channels=3, **options):
    return levels(channels, **options).astype("float32") / 255


def classifier_model(shape=(8, 8, 1), scale=1.0):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Rescaling(scale),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(0)),
        ]
    )


def gradient(layer, x, mode, weights=1.0):
    """Output, and gradient of its weighted sum."""
    x = tf.constant(x)
    with backward.mode(mode), tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        value = tf.reduce_sum(weights * y)
    return y.numpy(), tape.gradient(value, x).numpy()


# Feature squeezing


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_feature_squeezing_is_arts(bounds):
    from art.defences.preprocessor import FeatureSqueezing as Reference

    low, high = bounds
    x = (np.arange(256, dtype="float32").reshape(1, 16, 16, 1) / 255) * (high - low) + low
    for bits in range(1, 9):
        expected, _ = Reference(bounds, bits)(x.astype("float64"))
        squeezed = FeatureSqueezing(bits, bounds)(x).numpy()
        np.testing.assert_allclose(squeezed, expected, atol=1e-6 * (high - low), rtol=0)
        assert len(np.unique(squeezed)) == 2**bits


def test_gradients_of_feature_squeezing():
    x, layer = images(), FeatureSqueezing(2)
    y, exact = gradient(layer, x, "exact")
    assert np.abs(y - x).max() > 0.1 and not exact.any()
    for mode in ("straight_through", "surrogate"):
        again, through = gradient(layer, x, mode)
        np.testing.assert_array_equal(again, y)
        np.testing.assert_array_equal(through, np.ones_like(x))
    np.testing.assert_array_equal(gradient(layer, x, "ignore")[0], x)


# Spatial smoothing


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_spatial_smoothing_is_scipys_and_arts(size, channels):
    """Even windows too: a pixel further up and left, the larger of two middle values."""
    from art.defences.preprocessor import SpatialSmoothing as Reference

    x = images(channels, smooth=False)
    y = SpatialSmoothing(size)(x).numpy()
    np.testing.assert_array_equal(y, scipy.ndimage.median_filter(x, (1, size, size, 1)))
    np.testing.assert_array_equal(y, Reference(size)(x)[0])


def test_an_even_window_by_hand():
    x = np.array([[1, 2], [3, 4]], "float32").reshape(1, 2, 2, 1)
    # Windows 1111, 1122, 1133 and 1234.
    np.testing.assert_array_equal(SpatialSmoothing(2)(x)[0, ..., 0], [[1, 2], [3, 3]])


@pytest.mark.parametrize("size", [2, 3])
def test_gradient_of_the_median_leads_to_its_pixel(size):
    rng = np.random.default_rng(0)
    x = rng.permutation(30).reshape(1, 6, 5, 1).astype("float32") / 30
    weights = rng.normal(size=x.shape).astype("float32")
    layer = SpatialSmoothing(size)
    y, exact = gradient(layer, x, "exact", weights)
    expected = [weights[y == value].sum() for value in x.reshape(-1)]
    np.testing.assert_allclose(exact.reshape(-1), expected, atol=1e-6)
    np.testing.assert_array_equal(gradient(layer, x, "surrogate", weights)[1], exact)
    again, through = gradient(layer, x, "straight_through", weights)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(through, weights)


# JPEG


def pillow(x, quality):
    compressed = []
    for image in x:
        file = io.BytesIO()
        Image.fromarray(np.squeeze(image, -1) if image.shape[-1] == 1 else image).save(
            file, "jpeg", quality=quality
        )
        compressed.append(np.asarray(Image.open(file)).reshape(image.shape))
    return np.array(compressed, "float32")


@pytest.mark.parametrize("quality", [6, 50, 85])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_libjpegs(quality, channels):
    for smooth, most in ((True, 0.02), (False, 0.1)):
        for height, width in ((32, 32), (21, 18), (15, 27)):
            x = levels(channels, 6, height, width, smooth)
            y = JPEGCompression(quality, (0, 255))(x).numpy()
            expected = pillow(x, quality)
            assert np.abs(y - expected).mean() < most < np.abs(x - expected).mean()
            np.testing.assert_array_equal(y, np.round(y))
            assert y.min() >= 0 and y.max() <= 255


def test_other_numbers_of_channels_are_compressed_one_by_one():
    x = levels(4)
    y = JPEGCompression(30, (0, 255))(x).numpy()
    for k in range(4):
        alone = JPEGCompression(30, (0, 255))(x[..., k : k + 1])
        np.testing.assert_array_equal(y[..., k : k + 1], alone)


def test_values_between_grey_levels_go_to_the_nearest():
    x = levels(3).astype("float32")
    layer = JPEGCompression(40, (0, 255))
    np.testing.assert_array_equal(layer(x + 0.3), layer(x))
    np.testing.assert_array_equal(layer(x - 0.3), layer(x))


def test_gradients_of_jpeg():
    x, layer = images(), JPEGCompression(20)
    y, exact = gradient(layer, x, "exact")
    assert not exact.any()
    again, through = gradient(layer, x, "straight_through")
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(through, np.ones_like(x))
    near = layer.surrogate(tf.constant(x)).numpy()
    assert np.abs(near - y).mean() < 0.5 * np.abs(x - y).mean()
    again, slope = gradient(layer, x, "surrogate")
    np.testing.assert_array_equal(again, y)
    assert np.isfinite(slope).all() and (slope != 0).mean() > 0.9


def test_surrogate_of_grey_images():
    """Against SciPy's transform: the slope at a frequency of `c` steps is 3 (c - [c])^2.

    Up to libjpeg's constants of 13 bits.
    """
    rng = np.random.default_rng(0)
    x, weights = rng.uniform(size=(2, 1, 8, 8, 1)).astype("float32")
    layer = JPEGCompression(50)
    steps = layer._steps(LUMINANCE)
    c = scipy.fft.dctn(255.0 * x[0, ..., 0] - 128, norm="ortho") / steps
    inside = 3 * (c - np.round(c)) ** 2 * scipy.fft.dctn(weights[0, ..., 0], norm="ortho")
    _, slope = gradient(layer, x, "surrogate", weights)
    np.testing.assert_allclose(slope[0, ..., 0], scipy.fft.idctn(inside, norm="ortho"), atol=1e-3)
    rest = np.round(c) + (c - np.round(c)) ** 3
    near = layer.surrogate(tf.constant(x))[0, ..., 0]
    expected = (scipy.fft.idctn(rest * steps, norm="ortho") + 128) / 255
    np.testing.assert_allclose(near, expected, atol=5e-4)


def test_surrogate_of_one_colour():
    """Only the means of the three planes count: steps 16 / 8 and 17 / 8 levels at quality 50."""
    colour = np.array([200.3, 90.8, 40.1])
    x = np.broadcast_to(colour.astype("float32"), (1, 32, 32, 3))
    c = (TO_YCC @ colour - [128, 0, 0]) * 8 / [16, 17, 17]
    back = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
    jacobian = back @ np.diag(3 * (c - np.round(c)) ** 2) @ TO_YCC
    for k in range(3):
        _, slope = gradient(JPEGCompression(50, (0, 255)), x, "surrogate", np.eye(3)[k])
        np.testing.assert_allclose(slope, np.broadcast_to(jacobian[k], x.shape), atol=2e-3)


# All of them


def make(name, **options):
    """A new layer: where it draws, it draws what the last new one did."""
    return get(name, **{**LAYERS[name], **options})


@every_layer
@pytest.mark.parametrize("bounds", [(0, 255), (-1, 1)])
def test_bounds(name, bounds):
    low, high = bounds
    x = images()
    y = make(name, clip_values=bounds)(x * (high - low) + low)
    atol = 1e-4 if name == "tvm" else 1e-6  # rounding, iterated
    np.testing.assert_allclose((y - low) / (high - low), make(name)(x), atol=atol)


@every_layer
def test_when_it_acts(name):
    x = images()
    changed = make(name)(x).numpy()
    assert np.abs(changed - x).max() > 0.01
    for fit in (False, True):
        for predict in (False, True):
            act = {"apply_fit": fit, "apply_predict": predict}
            y = make(name, **act)(x, training=True)
            np.testing.assert_array_equal(y, changed if fit else x)
            y = make(name, **act)(x, training=False)
            np.testing.assert_array_equal(y, changed if predict else x)


@pytest.mark.parametrize("name", ["spatial_smoothing", "jpeg", "tvm"])
def test_channels_first(name):
    x = images()
    turned = np.moveaxis(x, -1, 1)
    expected = np.moveaxis(make(name)(x), -1, 1)
    np.testing.assert_array_equal(make(name, data_format="channels_first")(turned), expected)
    for mode in make(name).gradients:
        first = gradient(make(name, data_format="channels_first"), turned, mode)[1]
        last = gradient(make(name), x, mode)[1]
        np.testing.assert_allclose(first, np.moveaxis(last, -1, 1), atol=1e-5)


@every_layer
def test_in_graphs(name):
    """In `tf.data`, with unknown sizes, one image: the same as eagerly."""
    x = images()
    expected = make(name)(x).numpy()
    atol = 1e-5 if name == "tvm" else 1e-6
    data = tf.data.Dataset.from_tensor_slices(x).batch(len(x)).map(make(name))
    np.testing.assert_allclose(next(iter(data)), expected, atol=atol)
    for size, n in ((x.shape[1], 3), (9, 1)):
        unknown = keras.Sequential([keras.Input((None, None, 3)), make(name)])
        part = x[:n, :size]
        found = unknown.predict(part, verbose=0)
        np.testing.assert_allclose(found, make(name)(part), atol=atol)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in ("tvm", "jpeg") else n for n in LAYERS],
)
def test_under_xla(name):
    x = images()
    expected = make(name)(x).numpy()
    compiled = tf.function(make(name), jit_compile=True)(x)
    if name in RANDOM:  # XLA draws other numbers
        assert 0.5 < np.std(compiled - x) / np.std(expected - x) < 2
    else:
        # Sums in another order may decide otherwise where a result is half a step.
        assert np.abs(compiled - expected).mean() < 1e-3


@every_layer
def test_precision(name):
    x = images()
    expected = make(name)(x).numpy()
    half = make(name, dtype="mixed_float16")(x)
    assert half.dtype == "float16"
    np.testing.assert_array_equal(half, expected.astype("float16"))
    whole = make(name, clip_values=(0, 255))(levels(3))
    np.testing.assert_allclose(whole / 255, expected, atol=1e-4 if name == "tvm" else 1e-6)


@every_layer
def test_config_and_seed(name):
    layer = make(name, clip_values=(0, 255), apply_fit=True)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    x = 255 * images(height=6, width=6)
    first = layer(x).numpy()
    np.testing.assert_array_equal(again(x), first)
    if name in RANDOM:
        assert np.abs(layer(x) - first).max() > 1
        other = make(name, clip_values=(0, 255), apply_fit=True, seed=1)
        assert np.abs(other(x) - first).max() > 1
    else:
        assert not layer.variables


# In front of a model

CHAIN = ["feature_squeezing:bit_depth=2", "spatial_smoothing", "jpeg:quality=30"]


def test_wrap_puts_them_in_front_in_order(tmp_path):
    base = classifier_model((8, 8, 3), 1 / 255)
    x = images(height=8, width=8) * 255
    model = wrap(base, CHAIN, clip_values=(0, 255))
    layers = [FeatureSqueezing(2, (0, 255)), SpatialSmoothing(), JPEGCompression(30, (0, 255))]

    def through(chain):
        y = x
        for layer in chain:
            y = layer(y)
        return base(y).numpy()

    expected = through(layers)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    assert np.abs(through(layers[::-1]) - expected).max() > 1e-3  # the order matters
    other = wrap(base, CHAIN[::-1], clip_values=(0, 255)).predict(x, verbose=0)
    np.testing.assert_allclose(other, through(layers[::-1]), atol=1e-5)
    # Another one on a wrapped model comes first.
    later = wrap(wrap(base, CHAIN[1:], clip_values=(0, 255)), CHAIN[0])
    np.testing.assert_allclose(later.predict(x, verbose=0), expected, atol=1e-5)
    assert later.clip_values == (0, 255)
    assert unwrap(model) is base and unwrap(later) is base
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(unwrap(loaded)(x), base(x), atol=1e-5)
    # What serves has them, and is seen in its own bounds.
    assert loaded.base.clip_values == Classifier(loaded.base).clip_values == (0, 255)
    assert pixel_range(loaded.base).bounds == (0, 255)


def test_with_other_defenses(cnn, images):
    x, y = images
    base = cnn()
    front = ["feature_squeezing:bit_depth=1,apply_fit=True", "feature_squeezing:bit_depth=2"]
    model = wrap(base, [*front, "brelu:t=0.5", "adversarial_training:attack=fgsm"])
    expected = wrap(base, "brelu:t=0.5").base(np.round(x))
    np.testing.assert_allclose(model.base(x), expected, atol=1e-6)
    again = wrap(wrap(base, front), "brelu:t=0.5")
    np.testing.assert_allclose(again.base(x), expected, atol=1e-6)
    assert len(again.base.layers) == 4 and isinstance(again, RobustModel)
    # Crafting goes straight through, whatever the layers' gradient.
    assert model.classifier().gradient_mode == "straight_through"
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = unwrap(model).get_weights()
    assert np.isfinite(model.fit(x, y, epochs=1, verbose=0).history["loss"]).all()
    after = unwrap(model).get_weights()
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


def test_an_attack_has_the_choice():
    base = classifier_model()
    model = wrap(base, ["feature_squeezing:bit_depth=4", "jpeg:quality=50"])
    x = images(1, height=8, width=8)
    found = {}
    for mode in ("exact", "straight_through", "surrogate", "ignore"):
        seen = Classifier(model, gradient=mode)
        with tf.GradientTape() as tape:
            given = tf.constant(x)
            tape.watch(given)
            first = seen.logits(given)[:, 0]
        found[mode] = tape.gradient(first, given).numpy()
        served = base if mode == "ignore" else model
        np.testing.assert_allclose(first, served(x)[:, 0], atol=1e-5)
    plain = np.broadcast_to(base.layers[-1].kernel.numpy()[:, 0].reshape(1, 8, 8, 1), x.shape)
    assert not found["exact"].any()
    np.testing.assert_allclose(found["straight_through"], plain, atol=1e-6)
    np.testing.assert_allclose(found["ignore"], plain, atol=1e-6)
    assert found["surrogate"].any() and np.abs(found["surrogate"] - plain).max() > 0.01


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("jpeg", {"quality": 0}, "`quality` must be an integer >= 1. Received: quality=0"),
        ("jpeg", {"quality": 101}, "`quality` must be an integer <= 100. Received: quality=101"),
        ("feature_squeezing", {"bit_depth": 0}, "from 1 to 8.*Received: bit_depth=0"),
        ("feature_squeezing", {"bit_depth": 9}, "more change nothing. Received: bit_depth=9"),
        ("spatial_smoothing", {"window_size": 0}, "`window_size` must be an integer >= 1"),
        ("spatial_smoothing", {"data_format": "nchw"}, "`data_format`.*Received: data_format='n"),
        ("jpeg", {"clip_values": (1, 0)}, "`clip_values` must be two finite numbers"),
        ("tvm", {"prob": 0.0}, "`prob` must be a number > 0. Received: prob=0.0"),
        ("tvm", {"prob": 1.1}, "`prob` must be a number between 0 and 1.*Received: prob=1.1"),
        ("tvm", {"norm": 3}, "`norm` must be one of 1, 2, inf. Received: norm=3"),
        ("tvm", {"lamb": 0.0}, "`lamb` must be a number > 0. Received: lamb=0.0"),
        ("tvm", {"max_iter": 0}, "`max_iter` must be an integer >= 1"),
        ("gaussian_augmentation", {"sigma": -0.1}, "`sigma` must be a number > 0. Received: sig"),
        (
            "gaussian_augmentation",
            {"sigma": 0.1, "clip_values": (0, 255)},
            "`sigma` does not fit inputs in .*Received: sigma=0.1",
        ),
        ("gaussian_augmentation", {"distribution": "cauchy"}, "must be 'gaussian' or 'uniform'"),
        ("jpeg", {"apply_fit": 1}, "`apply_fit` must be True or False. Received: apply_fit=1"),
    ],
)
def test_bad_arguments(name, config, message):
    with pytest.raises(ValueError, match=message):
        get(name, **config)


@pytest.mark.parametrize(
    ("defense", "shape", "message"),
    [
        ("spatial_smoothing:window_size=9", (8, 10, 1), "at most the side of the images, 8. Rec"),
        (SpatialSmoothing(3), (16,), "needs images .* Received: inputs of shape"),
        (JPEGCompression(), (8, 8, None), "the number of channels"),
        (JPEGCompression(clip_values=(0, 255)), (8, 8, 1), r"must be those of the model, \(0.0, 1"),
    ],
)
def test_bad_models(defense, shape, message):
    base = keras.Sequential([keras.Input(shape), keras.layers.Identity()])
    with pytest.raises(ValueError, match=message):
        wrap(base, defense)


def test_a_layer_of_other_bounds_than_the_layers_there():
    model = wrap(classifier_model(scale=1 / 255), "jpeg", clip_values=(0, 255))
    with pytest.raises(ValueError, match=r"of FeatureSqueezing must be .*\(0.0, 255.0\)"):
        wrap(model, FeatureSqueezing(2, clip_values=(0, 1)))
    with pytest.raises(ValueError, match="expect pixels in 0..255.*Received: clip_values=None"):
        wrap(classifier_model(scale=1 / 255), "jpeg")


def test_models_without_one_known_input():
    two = [keras.Input((8, 8, 1)) for _ in range(2)]
    for base in (keras.Model(two, keras.layers.Flatten()(two[0] + two[1])), Subclassed()):
        image = tf.zeros((1, 8, 8, 1))
        base(image if isinstance(base, Subclassed) else [image, image])
        with pytest.raises(ValueError, match="a functional or sequential model with one input"):
            wrap(base, "jpeg")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(keras.ops.reshape(x, (-1, 64)))


def test_small_images_of_unknown_size():
    layer = SpatialSmoothing(5)
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 1))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="`window_size` must be at most"):
        graph(tf.zeros((1, 4, 6, 1)))
