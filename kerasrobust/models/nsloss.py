"""The convolutional network of NSLOSS; its VGG19 is in `vgg.py`."""

from __future__ import annotations

import keras
from keras import layers

from kerasrobust.models._blocks import check_arguments, conv_relu, dense_relu, head, layer_seeds


def nsloss_cnn(
    input_shape=(28, 28, 1), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The CNN of Keras's old MNIST example, which NSLOSS uses, 1.2 million parameters.

    Conv 32 3x3 - Conv 64 3x3 - MaxPool 2x2 - Dropout 25 % - Dense 128 - Dropout 50 % - Dense
    `nb_classes`; ReLU, no padding. The example of today has another network; the paper's accuracy
    of 99.25 % is the one that the old one promised.

    Args:
        input_shape: (height, width, channels), at least 6x6 pixels. The first dense layer grows
            with the number of pixels: at 224x224 it has 99 million weights. Default (28, 28, 1).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights and of dropout; None draws them anew. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: the paper that defines NsLoss, section IV-B; keras-team/keras, version 2,
    examples/mnist_cnn.py.

    Example:
        >>> kerasrobust.models.nsloss_cnn().count_params()
        1199882
    """
    shape = check_arguments("nsloss_cnn", input_shape, nb_classes, smallest=6)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = conv_relu(inputs, 32, 3, seeds)
    x = conv_relu(x, 64, 3, seeds)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.25, seed=next(seeds))(x)
    x = layers.Flatten()(x)
    x = dense_relu(x, 128, seeds)
    x = layers.Dropout(0.5, seed=next(seeds))(x)
    return head(inputs, x, nb_classes, logits, "nsloss_cnn", seeds)
