"""The networks of BRELU-GDA, on which bounded ReLUs and Gaussian augmentation were measured."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from kerasrobust.checks import check_int
from kerasrobust.models._blocks import check_arguments, conv_relu, dense_relu, head, layer_seeds


def brelu_gda_cnn(
    input_shape=(28, 28, 1),
    nb_classes: int = 10,
    *,
    strides: Sequence[int] = (2, 2, 1),
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The CNN of BRELU-GDA, 710,000 parameters.

    Conv 64 8x8 - Conv 128 6x6 - Conv 128 5x5 - Dense `nb_classes`, with ReLU; wrap it with
    `"brelu"` for the bounded ones. The paper gives neither strides nor padding. The default strides
    and the padding of the first convolution alone are those of the CleverHans model of its time,
    which has the same layers, and of the authors' own ResNet.

    Args:
        input_shape: (height, width, channels), with the default strides at least 27x27 pixels.
            Default (28, 28, 1).
        nb_classes: Number of classes. Default 10.
        strides: Of the three convolutions. Default (2, 2, 1).
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape, class count or stride that does not fit.

    Reference: Zantedeschi, Nicolae & Rawat, "Efficient Defenses Against Adversarial Attacks",
    2017, arXiv:1707.06728, section 4.1.

    Example:
        >>> model = kerasrobust.wrap(kerasrobust.models.brelu_gda_cnn(), defense=["brelu", "gda"])
    """
    strides = _check_strides(strides, 3)
    smallest = _smallest(strides, last=5)
    shape = check_arguments("brelu_gda_cnn", input_shape, nb_classes, smallest)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = conv_relu(inputs, 64, 8, seeds, strides=strides[0], padding="same")
    x = conv_relu(x, 128, 6, seeds, strides=strides[1])
    x = conv_relu(x, 128, 5, seeds, strides=strides[2])
    x = layers.Flatten()(x)
    return head(inputs, x, nb_classes, logits, "brelu_gda_cnn", seeds)


def brelu_gda_resnet(
    input_shape=(28, 28, 1),
    nb_classes: int = 10,
    *,
    strides: Sequence[int] = (2, 2),
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The ResNet of BRELU-GDA, 320,000 parameters.

    Conv 64 8x8 - Conv 128 6x6 - Conv 64 1x1 - Conv 64 1x1 - Conv 128 1x1 - MaxPool 3x3 - Dense
    `nb_classes`, with ReLU, and an identity shortcut from layer 2 to layer 6: the output of the
    second convolution is added to that of the fifth before the pooling. As in other residual
    networks the ReLU of the fifth convolution comes after the addition, so that what is pooled
    is bounded where ReLUs are. Strides and padding as in `brelu_gda_cnn`; the pooling regions do
    not overlap.

    Args:
        input_shape: (height, width, channels), with the default strides at least 19x19 pixels.
            Default (28, 28, 1).
        nb_classes: Number of classes. Default 10.
        strides: Of the first two convolutions. Default (2, 2).
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, height, width, channels] -> [batch, nb_classes].

    Raises:
        ValueError, TypeError: For a shape, class count or stride that does not fit.

    Reference: Zantedeschi, Nicolae & Rawat, "Efficient Defenses Against Adversarial Attacks",
    2017, arXiv:1707.06728, section 4.1.

    Example:
        >>> model = kerasrobust.wrap(kerasrobust.models.brelu_gda_resnet(), defense="brelu")
    """
    strides = _check_strides(strides, 2)
    smallest = _smallest(strides, last=3)
    shape = check_arguments("brelu_gda_resnet", input_shape, nb_classes, smallest)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="image")
    x = conv_relu(inputs, 64, 8, seeds, strides=strides[0], padding="same")
    shortcut = conv_relu(x, 128, 6, seeds, strides=strides[1])
    x = conv_relu(shortcut, 64, 1, seeds)
    x = conv_relu(x, 64, 1, seeds)
    x = layers.Conv2D(
        128, 1, kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds))
    )(x)
    x = layers.ReLU()(layers.Add()([x, shortcut]))
    x = layers.MaxPooling2D(3)(x)
    x = layers.Flatten()(x)
    return head(inputs, x, nb_classes, logits, "brelu_gda_resnet", seeds)


def brelu_gda_mlp(
    input_shape=(2,),
    nb_classes: int = 2,
    *,
    units: int = 64,
    logits: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """The network of BRELU-GDA's Figure 2: two dense hidden layers with ReLU, for points.

    The paper gives no widths.

    Args:
        input_shape: (inputs,). Default (2,), for `datasets.load("moons")` and `"circles"`.
        nb_classes: Number of classes. Default 2.
        units: Width of the hidden layers. Default 64.
        logits: Leave the softmax out. Default False.
        seed: Seed of the initial weights; None draws them anew each time. Default None.

    Returns:
        A functional `keras.Model`, [batch, inputs] -> [batch, nb_classes].

    Raises:
        ValueError: For a shape, class count or width that does not fit.

    Reference: Zantedeschi, Nicolae & Rawat, "Efficient Defenses Against Adversarial Attacks",
    2017, arXiv:1707.06728, section 3.2.

    Example:
        >>> model = kerasrobust.wrap(kerasrobust.models.brelu_gda_mlp(), defense="gda:sigma=0.075")
    """
    if not isinstance(input_shape, (list, tuple)) or len(input_shape) != 1:
        raise ValueError(
            f"brelu_gda_mlp expects input_shape=(inputs,). Received: input_shape={input_shape!r}"
        )
    shape = (check_int("input_shape", input_shape[0], 1),)
    check_int("nb_classes", nb_classes, 2)
    seeds = layer_seeds(seed)
    inputs = keras.Input(shape, name="point")
    x = dense_relu(inputs, check_int("units", units, 1), seeds)
    x = dense_relu(x, units, seeds)
    return head(inputs, x, nb_classes, logits, "brelu_gda_mlp", seeds)


def _check_strides(strides, count: int) -> tuple[int, ...]:
    if not isinstance(strides, (list, tuple)) or len(strides) != count:
        raise ValueError(f"Expected {count} strides in a list. Received: strides={strides!r}")
    return tuple(check_int("strides", stride, 1) for stride in strides)


def _smallest(strides: Sequence[int], last: int) -> int:
    """Side of the smallest image of which a window of `last` pixels is left for the last layer."""
    side = (last - 1) * strides[1] + 6
    return (side - 1) * strides[0] + 1
