"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import keras

from kerasrobust.models.areb import (
    areb_cnn,
    areb_cnn_cifar10,
    areb_cnn_mnist,
    areb_cnn_robust,
    areb_resnet,
)
from kerasrobust.models.brelu_gda import brelu_gda_cnn, brelu_gda_mlp, brelu_gda_resnet
from kerasrobust.models.digits import digits_cnn
from kerasrobust.models.e2sad import e2sad_cnn_mnist, e2sad_cnn_svhn
from kerasrobust.models.nsloss import nsloss_cnn
from kerasrobust.models.resnet import resnet18, resnet32, resnet50
from kerasrobust.models.vgg import vgg13, vgg19
from kerasrobust.specs import near_match

_BUILDERS: dict[str, Callable[..., keras.Model]] = {
    builder.__name__: builder
    for builder in (
        areb_cnn,
        areb_cnn_cifar10,
        areb_cnn_mnist,
        areb_cnn_robust,
        areb_resnet,
        brelu_gda_cnn,
        brelu_gda_mlp,
        brelu_gda_resnet,
        digits_cnn,
        e2sad_cnn_mnist,
        e2sad_cnn_svhn,
        nsloss_cnn,
        resnet18,
        resnet32,
        resnet50,
        vgg13,
        vgg19,
    )
}


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted(_BUILDERS)


def find(name: str) -> Callable[..., keras.Model]:
    """The builder of a network.

    Raises:
        TypeError: If the name is no string.
        ValueError: If it is unknown.
    """
    if not isinstance(name, str):
        raise TypeError(f"Expected the name of a network as a string. Received: name={name!r}")
    if name not in _BUILDERS:
        raise ValueError(f"Unknown network. {near_match(name, _BUILDERS)} Received: name={name!r}")
    return _BUILDERS[name]


def get(name: str, input_shape=None, nb_classes: int = 10, **options) -> keras.Model:
    """Build a network by name.

    Args:
        name: One of `names()`.
        input_shape: (height, width, channels). Default: the shape the network was made for.
        nb_classes: Number of classes. Default 10.
        **options: What the builder takes besides: `logits`, `seed`, and `depth` say.

    Returns:
        A new, uncompiled `keras.Model` with freshly drawn weights.

    Raises:
        ValueError: For an unknown name or an image too small for the network.
        TypeError: For an option that the builder does not take.

    Example:
        >>> model = kerasrobust.models.get("areb_cnn", (28, 28, 1), 10)
    """
    builder = find(name)
    known = inspect.signature(builder).parameters
    for option in options:
        if option not in known:
            raise TypeError(
                f"Expected options of {name!r} among {sorted(known)}. Received: {option}="
                f"{options[option]!r}"
            )
    if input_shape is not None:
        options["input_shape"] = input_shape
    return builder(nb_classes=nb_classes, **options)
