"""VGG networks: GEA's with 13 layers and NSLOSS's with 19."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from kerasrobust.checks import check_bool, check_int
from kerasrobust.models._blocks import check_arguments, conv_bn_relu, head, layer_seeds

FILTERS = (64, 128, 256, 512, 512)


def vgg13(
    input_shape=(32, 32, 3),
    nb_classes: int = 10,
    *,
    dense_units: Sequence[int] = (),
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """GEA's VGGNet13 with batch normalization and global average pooling, 9.4 million parameters.

    Five stages of two 3x3 convolutions, each with batch normalization and ReLU, and a MaxPool 2x2,
    with 64, 128, 256, 512 and 512 filters; global average pooling, Dense `nb_classes`. Whether the
    two hidden dense layers of the original VGG stay is not said. Here they are left out, as by
    the network that global average pooling comes from; with `dense_units=(4096, 4096)` they stay.
    The paper's images have 128x128 pixels and 100 classes.

    Args:
        input_shape: (height, width, channels), at least 32x32 pixels (five halvings). Default
            (32, 32, 3).
        nb_classes: Number of classes. Default 10.
        dense_units: Widths of hidden dense layers, each with dropout of 50 %. Default: none.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights and of dropout; None draws them anew. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape, class count or width that does not fit.

    Reference: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2014, arXiv:1409.1556, configuration B; Lin, Chen & Yan, "Network In Network",
    2013, arXiv:1312.4400, section 3.2.

    Example:
        >>> kerasrobust.models.vgg13().count_params()
        9418954
    """
    return _vgg(
        "vgg13",
        (2, 2, 2, 2, 2),
        input_shape,
        nb_classes,
        batch_norm=True,
        pool=layers.GlobalAveragePooling2D(),
        dense_units=dense_units,
        logits=logits,
        seed=seed,
    )


def vgg19(
    input_shape=(32, 32, 3),
    nb_classes: int = 10,
    *,
    batch_norm: bool = True,
    dense_units: Sequence[int] = (512, 512),
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The VGG19 that NSLOSS retrains on CIFAR-10, 20.6 million parameters.

    Five stages of 2, 2, 4, 4 and 4 3x3 convolutions with ReLU and a MaxPool 2x2, with 64, 128, 256,
    512 and 512 filters; two dense layers with dropout, Dense `nb_classes`. The paper took a trained
    network and says no more than its name and its accuracy of 92.43 %. Two readings are arguments:
    batch normalization, without which the network's authors began with the weights of a trained
    shallower one, and the width of the dense layers: 4096 in the original, whose last maps have 7x7
    pixels where those of CIFAR-10 have one.

    Args:
        input_shape: (height, width, channels), at least 32x32 pixels (five halvings). The first
            dense layer grows with the number of pixels. Default (32, 32, 3).
        nb_classes: Number of classes. Default 10.
        batch_norm: Normalize between each convolution and its ReLU. Default True.
        dense_units: Widths of the hidden dense layers, each with dropout of 50 %. Default
            (512, 512).
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights and of dropout; None draws them anew. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape, class count or width that does not fit.

    Reference: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", 2014, arXiv:1409.1556, configuration E.

    Example:
        >>> kerasrobust.models.vgg19(batch_norm=False).count_params()
        20554826
    """
    return _vgg(
        "vgg19",
        (2, 2, 4, 4, 4),
        input_shape,
        nb_classes,
        batch_norm=check_bool("batch_norm", batch_norm),
        pool=layers.Flatten(),
        dense_units=dense_units,
        logits=logits,
        seed=seed,
    )


def _vgg(
    name: str,
    depths: Sequence[int],
    input_shape,
    nb_classes: int,
    *,
    batch_norm: bool,
    pool: keras.layers.Layer,
    dense_units: Sequence[int],
    logits: bool,
    seed: int | None,
) -> keras.Model:
    shape = check_arguments(name, input_shape, nb_classes, smallest=2 ** len(depths))
    if not isinstance(dense_units, (list, tuple)):
        raise TypeError(
            f"{name} expects the widths of its dense layers in a list. "
            f"Received: dense_units={dense_units!r}"
        )
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = inputs
    for filters, depth in zip(FILTERS, depths, strict=True):
        for _ in range(depth):
            if batch_norm:
                x = conv_bn_relu(x, filters, 3, seeds)
            else:
                x = _he_relu(layers.Conv2D, seeds, filters, 3, padding="same")(x)
        x = layers.MaxPooling2D(2)(x)
    x = pool(x)
    for units in dense_units:
        x = _he_relu(layers.Dense, seeds, check_int("dense_units", units, 1))(x)
        x = layers.Dropout(0.5, seed=next(seeds))(x)
    return head(inputs, x, nb_classes, logits, name, seeds)


def _he_relu(layer, seeds, *arguments, **options) -> keras.layers.Layer:
    # Glorot's weights would halve the variance at each of the many ReLUs.
    initializer = keras.initializers.HeNormal(seed=next(seeds))
    return layer(*arguments, activation="relu", kernel_initializer=initializer, **options)
