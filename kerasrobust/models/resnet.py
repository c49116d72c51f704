"""Residual networks: the thin and the wide one for small images, and ResNet50."""

from __future__ import annotations

from collections.abc import Iterator

import keras
from keras import layers

from kerasrobust.models._blocks import check_arguments, conv_bn_relu, head, layer_seeds


def resnet32(
    input_shape=(32, 32, 3), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The 32-layer residual network for CIFAR-10, 460,000 parameters; one of GEA's three.

    Conv 16, three stages of five blocks with 16, 32 and 64 filters, the second and third at half
    the resolution of the one before, global average pooling, Dense `nb_classes`: 31 convolutions
    and a dense layer. A block adds [Conv 3x3 - BatchNorm - ReLU - Conv 3x3 - BatchNorm] to its
    input, then ReLU. Shortcuts have no parameters: between stages they take every other pixel and
    fill up with channels of zeros (option A of the reference). GEA gives no details but the name.

    Args:
        input_shape: (height, width, channels), at least 4x4 pixels. Default (32, 32, 3).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015,
    arXiv:1512.03385, section 4.2.

    Example:
        >>> kerasrobust.models.resnet32().count_params()  # 2,272 of them batch statistics
        466426
    """
    return thin_resnet("resnet32", 32, input_shape, nb_classes, logits, seed)


def thin_resnet(
    name: str, depth: int, input_shape, nb_classes: int, logits: bool, seed: int | None
) -> keras.Model:
    """The network of `resnet32` with `depth = 6 n + 2` layers, `n` blocks a stage."""
    shape = check_arguments(name, input_shape, nb_classes, smallest=4)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = conv_bn_relu(inputs, 16, 3, seeds)
    for filters in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            grows = filters > x.shape[-1]
            shortcut = _subsample(x) if grows else x
            x = _basic(x, shortcut, filters, 2 if grows else 1, seeds)
    x = layers.GlobalAveragePooling2D()(x)
    return head(inputs, x, nb_classes, logits, name, seeds)


def _subsample(x):
    """Every other pixel, in the middle of twice as many channels."""
    x = layers.AveragePooling2D(1, strides=2)(x)
    extra = x.shape[-1] // 2
    return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [extra, extra]])


def resnet18(
    input_shape=(32, 32, 3), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The 18-layer residual network as it is used on CIFAR-10, 11.2 million parameters.

    The network for ImageNet with another beginning: Conv 3x3 at full resolution and no pooling.
    Four stages of two blocks with 64, 128, 256 and 512 filters, all but the first at half the
    resolution of the one before, global average pooling, Dense `nb_classes`. A block is that of
    `resnet32`; where the number of channels grows, a 1x1 convolution with batch normalization is
    its shortcut (option B of the reference). Most work on robustness on CIFAR-10 measures it.

    Args:
        input_shape: (height, width, channels), at least 8x8 pixels (the total stride). Default
            (32, 32, 3).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015,
    arXiv:1512.03385, table 1 and section 4.2.

    Example:
        >>> kerasrobust.models.resnet18().count_params()  # 9,600 of them batch statistics
        11183562
    """
    shape = check_arguments("resnet18", input_shape, nb_classes, smallest=8)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = conv_bn_relu(inputs, 64, 3, seeds)
    for filters in (64, 128, 256, 512):
        for _ in range(2):
            shortcut, strides = x, 1
            if filters > x.shape[-1]:
                strides = 2
                shortcut = conv_bn_relu(x, filters, 1, seeds, strides=strides, relu=False)
            x = _basic(x, shortcut, filters, strides, seeds)
    x = layers.GlobalAveragePooling2D()(x)
    return head(inputs, x, nb_classes, logits, "resnet18", seeds)


def _basic(x, shortcut, filters: int, strides: int, seeds: Iterator[int | None]):
    x = conv_bn_relu(x, filters, 3, seeds, strides=strides)
    x = conv_bn_relu(x, filters, 3, seeds, relu=False)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def resnet50(
    input_shape=(224, 224, 3),
    nb_classes: int = 10,
    *,
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The 50-layer residual network for ImageNet, 25.6 million parameters; one of GEA's three.

    Conv 64 7x7 / 2, MaxPool 3x3 / 2, four stages of 3, 4, 6 and 3 blocks with 256, 512, 1024 and
    2048 channels, all but the first at half the resolution of the one before, global average
    pooling, Dense `nb_classes`. A block adds [Conv 1x1 - Conv 3x3 - Conv 1x1], each with batch
    normalization and the first two at a quarter of the channels, to its input, then ReLU; the
    first 1x1 convolution of a stage has the stride, and a 1x1 convolution is its shortcut. GEA
    gives no details but the name; its images have 128x128 pixels. On small images most of the
    network works on very few pixels: `resnet18` and `resnet32` are made for them.

    Args:
        input_shape: (height, width, channels), at least 32x32 pixels (the total stride). Default
            (224, 224, 3).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015,
    arXiv:1512.03385, table 1.

    Example:
        >>> kerasrobust.models.resnet50(nb_classes=1000).count_params()
        25610152
    """
    shape = check_arguments("resnet50", input_shape, nb_classes, smallest=32)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = conv_bn_relu(inputs, 64, 7, seeds, strides=2)
    # After a ReLU no maximum is changed by a border of zeros.
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    for channels, blocks in ((256, 3), (512, 4), (1024, 6), (2048, 3)):
        for block in range(blocks):
            strides = 2 if block == 0 and channels > 256 else 1
            x = _bottleneck(x, channels, strides, block == 0, seeds)
    x = layers.GlobalAveragePooling2D()(x)
    return head(inputs, x, nb_classes, logits, "resnet50", seeds)


def _bottleneck(x, channels: int, strides: int, project: bool, seeds: Iterator[int | None]):
    shortcut = x
    if project:
        shortcut = conv_bn_relu(x, channels, 1, seeds, strides=strides, relu=False)
    x = conv_bn_relu(x, channels // 4, 1, seeds, strides=strides)
    x = conv_bn_relu(x, channels // 4, 3, seeds)
    x = conv_bn_relu(x, channels, 1, seeds, relu=False)
    return layers.ReLU()(layers.Add()([shortcut, x]))
