"""The convolutional networks of the AREB benchmark."""

from __future__ import annotations

import keras
from keras import layers

from kerasrobust.models._blocks import check_arguments, conv_bn, dense_relu, head, layer_seeds


def areb_cnn(
    input_shape=(28, 28, 1), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The AREB CNN for images of this shape.

    `areb_cnn_cifar10` for colour images of at least 32x32 pixels, `areb_cnn_mnist` for all others.
    Arguments as theirs.
    """
    shape = check_arguments("areb_cnn", input_shape, nb_classes, smallest=10)
    colour = shape[2] == 3 and min(shape[:2]) >= 32
    builder = areb_cnn_cifar10 if colour else areb_cnn_mnist
    return builder(shape, nb_classes, logits=logits, seed=seed)


def areb_cnn_mnist(
    input_shape=(28, 28, 1), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The CNN that AREB attacks on MNIST, 430,000 parameters.

    2 x [Conv - BatchNorm - MaxPool 2x2] with 32 and 64 filters and no padding, Dense 256, Dense
    `nb_classes`. The paper names neither kernel size nor activation: here 3x3 and ReLU. It lists
    no layer between convolution and batch normalization, so the ReLU belongs to the convolution
    and comes before the normalization.

    Args:
        input_shape: (height, width, channels), at least 10x10 pixels. Default (28, 28, 1).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: the paper that defines AREB, Machine Vision and Applications (2024),
    doi:10.1007/s00138-024-01519-1, Appendix B.

    Example:
        >>> kerasrobust.models.areb_cnn_mnist().count_params()
        431626
    """
    shape = check_arguments("areb_cnn_mnist", input_shape, nb_classes, smallest=10)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = inputs
    for filters in (32, 64):
        x = conv_bn(x, filters, "valid", seeds)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = dense_relu(x, 256, seeds)
    return head(inputs, x, nb_classes, logits, "areb_cnn_mnist", seeds)


def areb_cnn_cifar10(
    input_shape=(32, 32, 3), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The CNN that AREB attacks on CIFAR-10, 360,000 parameters.

    2 x [Conv - BatchNorm - Conv - BatchNorm - MaxPool 2x2 - Dropout 20 %] with 32 and 64 filters,
    padded, then the same block with 128 filters, AveragePool 8x8 and Dropout 30 %, Dense 512,
    Dense `nb_classes`. Kernel size and activation as in `areb_cnn_mnist`.

    Args:
        input_shape: (height, width, channels), at least 32x32 pixels (the average pool needs an
            8x8 map after two halvings). Default (32, 32, 3).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights and of dropout; None draws them anew. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: the paper that defines AREB, Machine Vision and Applications (2024),
    doi:10.1007/s00138-024-01519-1, Appendix B.

    Example:
        >>> kerasrobust.models.areb_cnn_cifar10().count_params()
        359978
    """
    shape = check_arguments("areb_cnn_cifar10", input_shape, nb_classes, smallest=32)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = inputs
    blocks = (
        (32, layers.MaxPooling2D(2), 0.2),
        (64, layers.MaxPooling2D(2), 0.2),
        (128, layers.AveragePooling2D(8), 0.3),
    )
    for filters, pool, rate in blocks:
        for _ in range(2):
            x = conv_bn(x, filters, "same", seeds)
        x = pool(x)
        x = layers.Dropout(rate, seed=next(seeds))(x)
    x = layers.Flatten()(x)
    x = dense_relu(x, 512, seeds)
    return head(inputs, x, nb_classes, logits, "areb_cnn_cifar10", seeds)
