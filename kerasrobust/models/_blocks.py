"""What the network builders share: argument checks, seeded layers, the classification head."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import keras
from keras import layers

from kerasrobust.checks import check_int


def check_arguments(name: str, input_shape, nb_classes, smallest: int) -> tuple[int, int, int]:
    """Validate what every builder takes; returns `input_shape` as a tuple of ints."""
    try:
        shape = tuple(operator.index(n) for n in input_shape)
    except TypeError as error:
        raise TypeError(
            f"{name} expects input_shape as three integers (height, width, channels). "
            f"Received: input_shape={input_shape!r}"
        ) from error
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"{name} expects input_shape=(height, width, channels), all positive. "
            f"Received: input_shape={input_shape!r}"
        )
    if min(shape[:2]) < smallest:
        raise ValueError(
            f"{name} needs images of at least {smallest}x{smallest} pixels. "
            f"Received: input_shape={input_shape!r}"
        )
    check_int("nb_classes", nb_classes, 2)
    return shape[0], shape[1], shape[2]


def layer_seeds(seed: int | None) -> Iterator[int | None]:
    """One seed per layer: layers sharing a seed and a shape would start with equal weights."""
    layer = 0
    while True:
        yield None if seed is None else seed * 1000 + layer
        layer += 1


def conv_relu(
    x,
    filters: int,
    kernel_size: int,
    seeds: Iterator[int | None],
    *,
    strides: int = 1,
    padding: str = "valid",
):
    """A convolution with ReLU."""
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        activation="relu",
        kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
    )(x)


def conv_bn(x, filters: int, padding: str, seeds: Iterator[int | None], momentum: float = 0.99):
    """A 3x3 convolution with ReLU, then batch normalization."""
    x = conv_relu(x, filters, 3, seeds, padding=padding)
    return layers.BatchNormalization(momentum=momentum)(x)


def conv_bn_relu(
    x,
    filters: int,
    kernel_size: int,
    seeds: Iterator[int | None],
    *,
    strides: int = 1,
    relu: bool = True,
):
    """A padded convolution, batch normalization, then ReLU: the order of deep networks.

    Ioffe & Szegedy, 2015, arXiv:1502.03167, section 3.2. The convolution has no bias, which the
    normalization would take out again. Initial weights of He et al., 2015, arXiv:1502.01852.
    """
    padding = "same"
    if strides > 1 and kernel_size > 1:
        # "same" would pad an even side on the right alone and shift the map by half a stride
        # against the shortcut beside it.
        x, padding = layers.ZeroPadding2D(kernel_size // 2)(x), "valid"
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=keras.initializers.HeNormal(seed=next(seeds)),
    )(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def dense_relu(x, units: int, seeds: Iterator[int | None]):
    """A dense layer with ReLU."""
    return layers.Dense(
        units,
        activation="relu",
        kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
    )(x)


def head(inputs, x, nb_classes: int, logits: bool, name: str, seeds: Iterator[int | None]):
    """The dense output layer, in float32 under every dtype policy, and the softmax."""
    x = layers.Dense(
        nb_classes,
        kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
        dtype="float32",
        name="logits",
    )(x)
    if not logits:
        x = layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, x, name=name)
