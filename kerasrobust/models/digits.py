"""A small network for scikit-learn's 8x8 digits, the embedded default of the commands."""

from __future__ import annotations

import keras
from keras import layers

from kerasrobust.models._blocks import check_arguments, conv_bn, dense_relu, head, layer_seeds


def digits_cnn(
    input_shape=(8, 8, 1), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """A small CNN for images from 4x4 pixels up, made for the 8x8 `digits` data set.

    Conv 32 - BatchNorm - Conv 32 - BatchNorm - MaxPool 2x2, Dense 64, Dense `nb_classes`; padded
    3x3 kernels, ReLU.

    Args:
        input_shape: (height, width, channels), at least 4x4 pixels. Default (8, 8, 1).
        nb_classes: Number of classes. Default 10.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Example:
        >>> kerasrobust.models.digits_cnn().output_shape
        (None, 10)
    """
    shape = check_arguments("digits_cnn", input_shape, nb_classes, smallest=4)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = inputs
    for _ in range(2):
        # An epoch has some 45 batches: at Keras' momentum of 0.99 the statistics would lag behind
        # the weights for the whole of a short training.
        x = conv_bn(x, 32, "same", seeds, momentum=0.9)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = dense_relu(x, 64, seeds)
    return head(inputs, x, nb_classes, logits, "digits_cnn", seeds)
