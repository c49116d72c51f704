"""The networks of the documents: layers, parameters, and what every one of them must do."""

from __future__ import annotations

import math
import warnings

import keras
import numpy as np
import pytest

import kerasrobust
from kerasrobust import models
from kerasrobust.defenses import BoundedReLU
from kerasrobust.engine.classifier import Classifier

# The smallest image of each network, and its ReLUs.
NETWORKS = {
    "areb_cnn": ((10, 10, 1), 3),
    "areb_cnn_cifar10": ((32, 32, 3), 7),
    "areb_cnn_mnist": ((10, 10, 1), 3),
    "areb_cnn_robust": ((10, 10, 1), 4),
    "areb_resnet": ((4, 4, 1), 19),
    "brelu_gda_cnn": ((27, 27, 1), 3),
    "brelu_gda_mlp": ((2,), 2),
    "brelu_gda_resnet": ((19, 19, 1), 5),
    "digits_cnn": ((4, 4, 1), 3),
    "e2sad_cnn_mnist": ((4, 4, 1), 3),
    "e2sad_cnn_svhn": ((16, 16, 3), 4),
    "nsloss_cnn": ((6, 6, 1), 3),
    "resnet18": ((8, 8, 3), 17),
    "resnet32": ((4, 4, 3), 31),
    "resnet50": ((32, 32, 3), 49),
    "vgg13": ((32, 32, 3), 10),
    "vgg19": ((32, 32, 3), 18),
}
DEEP = ("areb_resnet", "brelu_gda_resnet", "resnet18", "resnet32", "resnet50", "vgg13", "vgg19")
DEEP += ("areb_cnn_cifar10", "areb_cnn_robust", "e2sad_cnn_svhn")
each = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in NETWORKS]
)


def images(shape, n=3):
    return np.random.default_rng(0).random((n, *shape), np.float32)


def softmax(scores):
    scores = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return scores / scores.sum(axis=1, keepdims=True)


def layers_of(model, *kinds):
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def trainable(model):
    return sum(math.prod(w.shape) for w in model.trainable_weights)


def conv(size, inputs, outputs):
    """Weights and biases of a convolution."""
    return (size * size * inputs + 1) * outputs


# ---- every one ------------------------------------------------------------------------------


def test_names():
    assert models.names() == sorted(NETWORKS)
    assert all(getattr(models, name) is models.registry._BUILDERS[name] for name in NETWORKS)


@each
def test_softmax_of_the_logits_and_seeds_and_files(name, tmp_path):
    shape, _ = NETWORKS[name]
    model = models.get(name, shape, 7, seed=1)
    linear = models.get(name, shape, 7, logits=True, seed=1)
    other = models.get(name, shape, 7, seed=2).get_weights()
    weights = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(weights, linear.get_weights(), strict=True))
    # Biases begin at zero; no two kernels are alike, neither of two seeds nor of two layers.
    kernels = [w for w in weights if w.ndim > 1]
    for kernel, another in zip(kernels, (w for w in other if w.ndim > 1), strict=True):
        assert not np.array_equal(kernel, another)
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)

    x = images(shape)
    probabilities = model.predict(x, verbose=0)
    expected = softmax(linear.predict(x, verbose=0).astype(np.float64))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert probabilities.shape == (3, 7) and np.abs(probabilities - probabilities[0]).max() > 0

    model.save(tmp_path / "model.keras")
    restored = models.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored.predict(x, verbose=0), probabilities)
    restored.set_weights(linear.get_weights())


@each
def test_attacks_see_the_logits_and_brelu_every_relu(name):
    shape, relus = NETWORKS[name]
    model = models.get(name, shape, 7, seed=0)
    x = images(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = Classifier.of(model)
        logits = shared.predict(x)
    assert shared.known_classes == 7 and shared.has_gradient
    np.testing.assert_allclose(
        softmax(logits.astype(np.float64)), model.predict(x, verbose=0), atol=1e-6
    )
    bounded = kerasrobust.wrap(model, "brelu", t=1e6)
    found = sum(
        isinstance(part, BoundedReLU)
        for layer in bounded.base.layers
        for part in (layer, getattr(layer, "activation", None))
    )
    assert found == relus
    np.testing.assert_allclose(
        bounded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


@each
def test_training_lowers_the_loss_and_reaches_every_weight(name):
    shape, _ = NETWORKS[name]
    model = models.get(name, shape, 3, logits=True, seed=0)
    y = np.arange(6) % 3
    x = (
        images(shape, 6) + y.reshape(-1, *[1] * len(shape))
    ) / 3  # the brighter, the higher the class
    before = [w.numpy() for w in model.trainable_weights]
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # a few small steps take less than the tracing of one
    )
    history = []
    for _ in range(4 if name in DEEP else 8):
        model.reset_metrics()
        history.append(float(model.train_on_batch(x, y)))  # before the step
    assert history[-1] < history[0] - 0.02
    after = [w.numpy() for w in model.trainable_weights]
    still = [
        w.path
        for w, a, b in zip(model.trainable_weights, before, after, strict=True)
        if np.array_equal(a, b)
    ]
    assert not still and all(np.isfinite(w).all() for w in after)


@each
def test_half_precision_but_for_the_head(name):
    shape, _ = NETWORKS[name]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = models.get(name, shape, 7, seed=0)
    finally:
        keras.config.set_dtype_policy(policy)
    head = ("logits", "probabilities")
    computed = {layer.compute_dtype for layer in model.layers if layer.name not in head}
    assert computed == {"float16"}
    assert {model.get_layer(one).compute_dtype for one in head} == {"float32"}
    x = images(shape)
    full = models.get(name, shape, 7, seed=0)
    expected, half = full.predict(x, verbose=0), model.predict(x, verbose=0)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, expected, atol=0.02)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "brelu_gda_mlp"])
def test_smallest_image(name):
    """Built in the tests above; a pixel less on either side is refused, on both is too."""
    (side, _, channels), _ = NETWORKS[name]
    for height, width in ((side - 1, side), (side, side - 1), (1, 1)):
        received = rf"Received: input_shape=\({height}, {width}, {channels}\)"
        with pytest.raises(ValueError, match=f"{name}.* at least {side}x{side} pixels.*{received}"):
            models.get(name, (height, width, channels))


@pytest.mark.parametrize("name", ["areb_cnn", "brelu_gda_cnn", "brelu_gda_resnet", "areb_resnet"])
def test_large_and_oblong_images(name):
    for shape in ((224, 224, 3), (33, 50, 2)):
        model = models.get(name, shape, 5, seed=0)
        assert model.predict(images(shape, 1), verbose=0).shape == (1, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet32", "resnet50", "vgg13", "vgg19", "areb_cnn_cifar10"])
def test_large_and_oblong_images_in_deep_networks(name):
    test_large_and_oblong_images(name)


# ---- layers and parameters, by hand from the documents ----------------------------------------


def test_areb_cnn():
    """With 3x3 kernels."""
    mnist = conv(3, 1, 32) + 4 * 32 + conv(3, 32, 64) + 4 * 64 + (5 * 5 * 64 + 1) * 256 + 257 * 10
    assert models.areb_cnn_mnist().count_params() == mnist
    cifar, channels = 0, 3
    for filters in (32, 32, 64, 64, 128, 128):
        cifar += conv(3, channels, filters) + 4 * filters
        channels = filters
    cifar += 129 * 512 + 513 * 10
    assert models.areb_cnn_cifar10().count_params() == cifar
    # With 257 inputs of the new layer instead of the last one, and its 1025 of the last one.
    assert models.areb_cnn_robust().count_params() == mnist + 257 * 1024 + (1025 - 257) * 10
    wide = models.areb_cnn_robust((32, 32, 3)).count_params()
    assert wide == cifar + 513 * 1024 + (1025 - 513) * 10


def test_areb_cnn_picks_by_shape():
    assert models.areb_cnn((32, 32, 3), 10).name == "areb_cnn_cifar10"
    assert models.areb_cnn((28, 28, 1), 10).name == "areb_cnn_mnist"
    assert models.areb_cnn((16, 20, 3), 5).name == "areb_cnn_mnist"


def test_e2sad():
    mnist = conv(5, 1, 32) + conv(5, 32, 64) + (7 * 7 * 64 + 1) * 1024 + 1025 * 10
    assert models.e2sad_cnn_mnist().count_params() == mnist
    svhn = conv(5, 3, 32) + conv(5, 32, 64) + conv(3, 64, 128)
    svhn += (5 * 5 * 128 + 1) * 512 + 513 * 10
    model = models.e2sad_cnn_svhn()
    assert model.count_params() == svhn
    sides = [layer.output.shape[1] for layer in model.layers if len(layer.output.shape) == 4]
    assert sides == [32, 28, 24, 12, 10, 5]


def test_brelu_gda_mlp():
    model = models.brelu_gda_mlp(units=5)
    assert model.count_params() == 3 * 5 + 6 * 5 + 6 * 2
    for shape in ((28, 28, 1), 2):
        with pytest.raises(ValueError, match="Received: input_shape="):
            models.brelu_gda_mlp(shape)


def test_nsloss_cnn():
    """Keras's example had 1,199,882 parameters."""
    count = conv(3, 1, 32) + conv(3, 32, 64) + (12 * 12 * 64 + 1) * 128 + 129 * 10
    model = models.nsloss_cnn()
    assert model.count_params() == count == 1_199_882
    kinds = [type(layer).__name__ for layer in model.layers]
    assert (
        kinds
        == "InputLayer Conv2D Conv2D MaxPooling2D Dropout Flatten Dense Dropout Dense".split()
        + ["Softmax"]
    )
    assert [layer.rate for layer in layers_of(model, keras.layers.Dropout)] == [0.25, 0.5]


def test_brelu_gda_cnn():
    model = models.brelu_gda_cnn()
    sides = [layer.output.shape[1] for layer in layers_of(model, keras.layers.Conv2D)]
    assert sides == [14, 5, 1]
    count = conv(8, 1, 64) + conv(6, 64, 128) + conv(5, 128, 128)
    assert model.count_params() == count + 129 * 10
    unit = models.brelu_gda_cnn((12, 12, 1), strides=(1, 1, 1))
    assert unit.count_params() == count + (3 * 3 * 128 + 1) * 10


def test_brelu_gda_resnet_adds_the_second_layer_before_the_pooling():
    model = models.brelu_gda_resnet((32, 32, 3), logits=True, seed=0)
    count = conv(8, 3, 64) + conv(6, 64, 128) + conv(1, 128, 64) + conv(1, 64, 64)
    count += conv(1, 64, 128) + (2 * 2 * 128 + 1) * 10
    assert model.count_params() == count
    # In NumPy, from the output of the second convolution on.
    x = images((32, 32, 3))
    _, second, *ones = layers_of(model, keras.layers.Conv2D)
    maps = keras.Model(model.inputs, second.output).predict(x, verbose=0).astype(np.float64)
    assert maps.shape == (3, 6, 6, 128) and maps.min() == 0
    branch = maps
    for i, layer in enumerate(ones):
        kernel, bias = (w.numpy() for w in layer.weights)
        branch = branch @ kernel[0, 0] + bias
        branch = np.maximum(branch, 0) if i < 2 else branch
    total = np.maximum(maps + branch, 0)
    pooled = total.reshape(3, 2, 3, 2, 3, 128).max(axis=(2, 4)).reshape(3, -1)
    kernel, bias = (w.numpy() for w in model.get_layer("logits").weights)
    np.testing.assert_allclose(model.predict(x, verbose=0), pooled @ kernel + bias, atol=1e-4)


@pytest.mark.parametrize(("strides", "received"), [((2, 2), r"\(2, 2\)"), (2, "2")])
def test_brelu_gda_bad_strides(strides, received):
    with pytest.raises(ValueError, match=f"Expected 3 strides.*Received: strides={received}"):
        models.brelu_gda_cnn(strides=strides)
    with pytest.raises(ValueError, match="Received: strides=0"):
        models.brelu_gda_resnet(strides=(2, 0))


def thin(depth, channels=3):
    """Parameters of the thin residual network, batch statistics left out."""
    count = 9 * channels * 16 + 2 * 16
    for inputs, filters in ((16, 16), (16, 32), (32, 64)):
        blocks = (depth - 2) // 6
        count += 9 * filters * (inputs + (2 * blocks - 1) * filters) + 2 * blocks * 2 * filters
    return count + 65 * 10


def test_thin_residual_networks():
    """Their paper gives 0.27 and 0.46 million for 20 and 32 layers on CIFAR-10."""
    assert round(thin(20), -4) == 270_000 and round(thin(32), -4) == 460_000
    cifar = models.areb_resnet((32, 32, 3))
    assert trainable(cifar) == thin(20)
    assert trainable(models.areb_resnet()) == thin(20, channels=1)
    assert trainable(models.areb_resnet(depth=8)) == thin(8, channels=1)
    deep = models.resnet32()
    assert trainable(deep) == thin(32)
    for model, depth in ((cifar, 20), (deep, 32)):
        assert len(layers_of(model, keras.layers.Conv2D, keras.layers.Dense)) == depth
    for depth in (9, 2):
        with pytest.raises(ValueError, match=f"Received: depth={depth}"):
            models.areb_resnet(depth=depth)


@pytest.mark.parametrize("side", [8, 9])
def test_shortcuts_take_every_other_pixel(side):
    """With no weights in the blocks the network passes the first map on to the pooling."""
    model = models.areb_resnet((side, side, 1), logits=True, seed=0)
    first, *rest = layers_of(model, keras.layers.Conv2D)
    for layer in rest:
        layer.kernel.assign(0 * layer.kernel)
    x = images((side, side, 1))
    maps = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), axis=(1, 2))
    maps = np.einsum("nhwcij,ijcf->nhwf", windows, first.kernel.numpy())
    maps = np.maximum(maps / np.sqrt(1 + 1e-3), 0)  # batch normalization as it begins
    means = maps[:, ::4, ::4].mean(axis=(1, 2))
    features = np.zeros((3, 64))
    features[:, 24:40] = means  # 16 channels in the middle of 32, these in the middle of 64
    kernel, bias = (w.numpy() for w in model.get_layer("logits").weights)
    np.testing.assert_allclose(model.predict(x, verbose=0), features @ kernel + bias, atol=1e-5)


def test_both_branches_of_a_block_see_the_same_pixels():
    """A kernel with nothing but a centre makes of the strided convolution what the shortcut is."""
    model = models.areb_resnet((8, 8, 1), depth=8, logits=True, seed=0)
    strided = next(layer for layer in layers_of(model, keras.layers.Conv2D) if layer.strides[0] > 1)
    kernel = np.zeros((3, 3, 16, 32), np.float32)
    kernel[1, 1] = np.eye(16, 32, k=8)
    strided.kernel.assign(kernel)
    pool = layers_of(model, keras.layers.AveragePooling2D)[0]
    both = keras.Model(model.inputs, [strided.output, pool.output])
    branch, shortcut = both.predict(images((8, 8, 1)), verbose=0)
    np.testing.assert_array_equal(branch[..., 8:24], shortcut)
    assert shortcut.max() > 0


def test_resnet18():
    """11,173,962 is the figure of PyTorch's networks for CIFAR-10; then the pass, in NumPy."""
    model = models.resnet18((16, 16, 3), logits=True, seed=0)
    assert trainable(model) == 11_173_962
    assert len(layers_of(model, keras.layers.Conv2D, keras.layers.Dense)) == 18 + 3  # shortcuts
    rng = np.random.default_rng(0)
    kernels = [layer.kernel.numpy() for layer in layers_of(model, keras.layers.Conv2D)]
    pairs = list(zip(kernels, layers_of(model, keras.layers.BatchNormalization), strict=True))
    parts = {size: iter([pair for pair in pairs if len(pair[0]) == size]) for size in (1, 3)}

    def convolved(x, size, strides=1):
        kernel, norm = next(parts[size])
        norm.set_weights([rng.uniform(0.5, 1, w.shape) for w in norm.get_weights()])
        scale, offset, mean, variance = (w.astype(np.float64) for w in norm.get_weights())
        x = np.pad(x, ((0, 0), *[(size // 2,) * 2] * 2, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        maps = np.tensordot(windows[:, ::strides, ::strides], kernel, ((4, 5, 3), (0, 1, 2)))
        return (maps - mean) / np.sqrt(variance + norm.epsilon) * scale + offset

    x = images((16, 16, 3))
    maps = np.maximum(convolved(x.astype(np.float64), 3), 0)
    for stage in range(4):
        for block in range(2):
            strides = 2 if stage and not block else 1
            shortcut = convolved(maps, 1, strides) if strides > 1 else maps
            branch = np.maximum(convolved(maps, 3, strides), 0)
            maps = np.maximum(convolved(branch, 3) + shortcut, 0)
    kernel, bias = (w.numpy() for w in model.get_layer("logits").weights)
    expected = maps.mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_resnet50_is_the_one_of_keras_with_the_same_weights():
    """Theirs has biases in the convolutions, set to zero here, and a smaller epsilon."""
    model = models.resnet50((64, 64, 3), 1000, seed=0)
    theirs = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=1000)
    biases = sum(layer.filters for layer in layers_of(theirs, keras.layers.Conv2D))
    assert model.count_params() == theirs.count_params() - biases
    assert trainable(model) == 25_557_032  # the figure of torchvision, without biases as well
    assert (
        len(layers_of(model, keras.layers.Conv2D, keras.layers.Dense)) == 50 + 4
    )  # four of them in shortcuts

    rng = np.random.default_rng(0)
    kinds = (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Dense)
    for ours, other in zip(layers_of(model, *kinds), layers_of(theirs, *kinds), strict=True):
        assert type(ours) is type(other)
        weights = ours.get_weights()
        if isinstance(ours, keras.layers.BatchNormalization):
            weights = [rng.uniform(0.5, 1.0, w.shape).astype(np.float32) for w in weights]
            ours.set_weights(weights)
            weights[3] += ours.epsilon - other.epsilon
        elif isinstance(ours, keras.layers.Conv2D):
            weights.append(np.zeros(ours.filters, np.float32))
        other.set_weights(weights)
    x = images((64, 64, 3))
    np.testing.assert_allclose(
        model.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=1e-3, atol=1e-6
    )


def test_vgg13():
    count, channels = 0, 3
    for filters in (64, 64, 128, 128, 256, 256, 512, 512, 512, 512):
        count += 9 * channels * filters + 2 * filters
        channels = filters
    model = models.vgg13((64, 64, 3))
    assert trainable(model) == count + 513 * 10
    pool = layers_of(model, keras.layers.GlobalAveragePooling2D)[0]
    assert pool.input.shape == (None, 2, 2, 512)
    kinds = [type(layer).__name__ for layer in model.layers[1:8]]
    assert kinds == ["Conv2D", "BatchNormalization", "ReLU"] * 2 + ["MaxPooling2D"]


@pytest.mark.slow
def test_vgg13_with_its_dense_layers():
    model = models.vgg13(dense_units=(64, 32), seed=0)
    assert trainable(model) == trainable(models.vgg13()) - 513 * 10 + 513 * 64 + 65 * 32 + 33 * 10
    assert len(layers_of(model, keras.layers.Conv2D, keras.layers.Dense)) == 13


@pytest.mark.slow
def test_vgg19_is_the_one_of_keras_with_the_same_weights():
    model = models.vgg19((64, 64, 3), batch_norm=False, seed=0)
    theirs = keras.applications.VGG19(weights=None, include_top=False, input_shape=(64, 64, 3))
    convolutions = layers_of(model, keras.layers.Conv2D)
    assert sum(layer.count_params() for layer in convolutions) == theirs.count_params()
    assert len(convolutions) + len(layers_of(model, keras.layers.Dense)) == 19
    theirs.set_weights([w for layer in convolutions for w in layer.get_weights()])
    maps = layers_of(model, keras.layers.MaxPooling2D)[-1].output
    x = images((64, 64, 3))
    np.testing.assert_allclose(
        keras.Model(model.inputs, maps).predict(x, verbose=0),
        theirs.predict(x, verbose=0),
        rtol=1e-4,
    )
    dense = (4 * 512 + 1) * 512 + 513 * 512 + 513 * 10
    assert model.count_params() == theirs.count_params() + dense
    normalized = models.vgg19((64, 64, 3))
    filters = sum(layer.filters for layer in convolutions)
    assert trainable(normalized) == model.count_params() + filters  # two for each bias


@pytest.mark.parametrize("name", ["vgg13", "vgg19"])
def test_vgg_bad_options(name):
    with pytest.raises(ValueError, match="Received: dense_units=0"):
        models.get(name, dense_units=[0])
    with pytest.raises(TypeError, match="Received: dense_units=512"):
        models.get(name, dense_units=512)
    with pytest.raises((TypeError, ValueError), match="batch_norm='yes'"):
        models.vgg19(batch_norm="yes")
