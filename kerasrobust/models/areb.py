"""The networks of the AREB benchmark."""

from __future__ import annotations

import keras
from keras import layers

from kerasrobust.checks import check_int
from kerasrobust.models._blocks import check_arguments, conv_bn, dense_relu, head, layer_seeds
from kerasrobust.models.resnet import thin_resnet


def areb_cnn(
    input_shape=(28, 28, 1), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The AREB CNN for images of this shape.

    `areb_cnn_cifar10` for colour images of at least 32x32 pixels, `areb_cnn_mnist` for all others.
    Arguments as theirs.
    """
    return _cnn("areb_cnn", input_shape, nb_classes, logits, seed)


def areb_cnn_robust(
    input_shape=(28, 28, 1), nb_classes: int = 10, *, logits: bool = False, seed: int | None = None
) -> keras.Model:
    """The AREB CNN that adversarial training is given: one more Dense 1024 before the output.

    700,000 parameters for MNIST, 890,000 for CIFAR-10. Which of the two networks it extends, and
    arguments, as `areb_cnn`.

    Example:
        >>> kerasrobust.models.areb_cnn_robust().count_params()
        702474
    """
    return _cnn("areb_cnn_robust", input_shape, nb_classes, logits, seed, extra_units=1024)


def _cnn(name: str, input_shape, nb_classes, logits, seed, extra_units: int = 0) -> keras.Model:
    shape = check_arguments(name, input_shape, nb_classes, smallest=10)
    colour = shape[2] == 3 and min(shape[:2]) >= 32
    builder = areb_cnn_cifar10 if colour else areb_cnn_mnist
    return builder(shape, nb_classes, extra_units=extra_units, logits=logits, seed=seed)


def areb_cnn_mnist(
    input_shape=(28, 28, 1),
    nb_classes: int = 10,
    *,
    extra_units: int = 0,
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The CNN that AREB attacks on MNIST, 430,000 parameters.

    2 x [Conv - BatchNorm - MaxPool 2x2] with 32 and 64 filters and no padding, Dense 256, Dense
    `nb_classes`. The paper names neither kernel size nor activation: here 3x3 and ReLU. It lists
    no layer between convolution and batch normalization, so the ReLU belongs to the convolution
    and comes before the normalization.

    Args:
        input_shape: (height, width, channels), at least 10x10 pixels. Default (28, 28, 1).
        nb_classes: Number of classes. Default 10.
        extra_units: Width of one more dense layer before the output, 1024 for adversarial training
            in the paper; 0 for none. Default 0.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: the paper that defines AREB, Machine Vision and Applications (2024),
    doi:10.1007/s00138-024-01519-1, Appendix A.

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
    if check_int("extra_units", extra_units, 0):
        x = dense_relu(x, extra_units, seeds)
    return head(inputs, x, nb_classes, logits, "areb_cnn_mnist", seeds)


def areb_cnn_cifar10(
    input_shape=(32, 32, 3),
    nb_classes: int = 10,
    *,
    extra_units: int = 0,
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The CNN that AREB attacks on CIFAR-10, 360,000 parameters.

    2 x [Conv - BatchNorm - Conv - BatchNorm - MaxPool 2x2 - Dropout 20 %] with 32 and 64 filters,
    padded, then the same block with 128 filters, AveragePool 8x8 and Dropout 30 %, Dense 512,
    Dense `nb_classes`. Kernel size and activation as in `areb_cnn_mnist`.

    Args:
        input_shape: (height, width, channels), at least 32x32 pixels (the average pool needs an
            8x8 map after two halvings). Default (32, 32, 3).
        nb_classes: Number of classes. Default 10.
        extra_units: Width of one more dense layer before the output, 1024 for adversarial training
            in the paper; 0 for none. Default 0.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights and of dropout; None draws them anew. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape or class count that does not fit.

    Reference: the paper that defines AREB, Machine Vision and Applications (2024),
    doi:10.1007/s00138-024-01519-1, Appendix A.

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
    if check_int("extra_units", extra_units, 0):
        x = dense_relu(x, extra_units, seeds)
    return head(inputs, x, nb_classes, logits, "areb_cnn_cifar10", seeds)


def areb_resnet(
    input_shape=(28, 28, 1),
    nb_classes: int = 10,
    *,
    depth: int = 20,
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The ResNet that AREB attacks, 270,000 parameters; one for MNIST and CIFAR-10.

    The paper calls it "based on ResNet", deeper than its CNN of some 200,000 parameters, and says
    no more. Here it is the network of `resnet32` with 20 layers, the smallest that its authors
    trained on CIFAR-10, where they report 91.25 %; AREB has 89.42 %.

    Args:
        input_shape: (height, width, channels), at least 4x4 pixels. Default (28, 28, 1).
        nb_classes: Number of classes. Default 10.
        depth: Number of layers, 8, 14, 20, 26, ... Default 20.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape, class count or depth that does not fit.

    Reference: the paper that defines AREB, Machine Vision and Applications (2024),
    doi:10.1007/s00138-024-01519-1, Appendix A; He, Zhang, Ren & Sun, "Deep Residual Learning for
    Image Recognition", 2015, arXiv:1512.03385, section 4.2.

    Example:
        >>> kerasrobust.models.areb_resnet((32, 32, 3)).layers[-1].name
        'probabilities'
    """
    if check_int("depth", depth, 8) % 6 != 2:
        raise ValueError(
            f"areb_resnet expects a depth of 6 n + 2: 8, 14, 20, ... Received: depth={depth}"
        )
    return thin_resnet("areb_resnet", depth, input_shape, nb_classes, logits, seed)
