"""The convolutional networks of E2SAD."""

from __future__ import annotations

import keras
from keras import layers

from kerasrobust.models._blocks import check_arguments, conv_relu, dense_relu, head, layer_seeds


def e2sad_cnn_mnist(
    input_shape=(28, 28, 1), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The CNN that E2SAD trains on MNIST, 3.3 million parameters.

    Conv 32 5x5 - MaxPool 2x2 - Conv 64 5x5 - MaxPool 2x2 - Dense 1024 - Dense `nb_classes`; ReLU,
    convolutions padded by 2. It is also the network of the paper's substitutes.

    Args:
        input_shape: (height, width, channels), at least 4x4 pixels. The first dense layer grows
            with the number of pixels: at 224x224 it has 205 million weights. Default (28, 28, 1).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: the thesis that defines e2SAD, the efficient two-step adversarial defense, table A.1.

    Example:
        >>> kerasrobust.models.e2sad_cnn_mnist().count_params()
        3274634
    """
    shape = check_arguments("e2sad_cnn_mnist", input_shape, nb_classes, smallest=4)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = inputs
    for filters in (32, 64):
        x = conv_relu(x, filters, 5, seeds, padding="same")
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = dense_relu(x, 1024, seeds)
    return head(inputs, x, nb_classes, logits, "e2sad_cnn_mnist", seeds)


def e2sad_cnn_svhn(
    input_shape=(32, 32, 3), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The CNN that E2SAD trains on SVHN, 1.8 million parameters.

    Conv 32 5x5 - Conv 64 5x5 - MaxPool 2x2 - Conv 128 3x3 - MaxPool 2x2 - Dense 512 - Dense
    `nb_classes`; ReLU, no padding.

    Args:
        input_shape: (height, width, channels), at least 16x16 pixels. The first dense layer grows
            with the number of pixels: at 224x224 it has 184 million weights. Default (32, 32, 3).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: the thesis that defines e2SAD, the efficient two-step adversarial defense, table A.2.

    Example:
        >>> kerasrobust.models.e2sad_cnn_svhn().count_params()
        1771594
    """
    shape = check_arguments("e2sad_cnn_svhn", input_shape, nb_classes, smallest=16)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = conv_relu(inputs, 32, 5, seeds)
    x = conv_relu(x, 64, 5, seeds)
    x = layers.MaxPooling2D(2)(x)
    x = conv_relu(x, 128, 3, seeds)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = dense_relu(x, 512, seeds)
    return head(inputs, x, nb_classes, logits, "e2sad_cnn_svhn", seeds)
