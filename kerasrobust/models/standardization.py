"""Images less their own mean, divided by their own standard deviation, as part of a model."""

from __future__ import annotations

import keras

from kerasrobust import _keras
from kerasrobust.checks import check_float
from kerasrobust.engine.pixel_range import pixel_range

_ALL = [1, 2, 3]


def standardize(model: keras.Model, epsilon: float = 1e-6) -> keras.Model:
    """A model that standardises each image by itself before `model` sees it.

    `(x - mean(x)) / sqrt(var(x) + epsilon)`, over all pixels and channels of an image: Keras's
    `LayerNormalization`, in float32, so that the model opens without this package. It is part of
    the model: attacks and defenses work on pixels in front of it, budgets are in their unit, and
    gradients go through mean and deviation too. The range of the pixels makes no difference to
    what is behind it, so none can be read from such a model: say `clip_values` where it is not
    0..1.

    Put it in front of a model before `kerasrobust.wrap`, which puts preprocessing before it.

    Args:
        model: A functional or sequential model of images [batch, height, width, channels]. It is
            shared, not copied.
        epsilon: Added to the variance, above 0; in the unit of the pixels, squared. An image of one
            colour becomes zero, but for the rounding of its mean, which in 0..255 may be a third of
            a deviation: 1e-2 hides it there. Default 1e-6.

    Returns:
        A functional `keras.Model`; `model` itself where it standardises already.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it takes no such images, scales pixels from a range of its own, or is
            wrapped.

    Example:
        >>> model = kerasrobust.models.standardize(kerasrobust.models.e2sad_cnn_svhn())
        >>> history = kerasrobust.models.fit(model, train, recipe="e2sad_svhn")
    """
    epsilon = check_float("epsilon", epsilon, above=True)
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if is_standardized(model):
        return model
    if hasattr(model, "clip_values"):
        raise ValueError(
            "Defenses and layers in front of a model work on pixels: standardise the model before "
            f"it is wrapped. Received: model={model.name!r}"
        )
    found = pixel_range(model)
    if found is not None:
        raise ValueError(
            "Standardised images are in no range of pixels, but the first layers of the model "
            f"scale from one: {found.source}. Received: model={model.name!r}"
        )
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or isinstance(shape[0], tuple):
        raise ValueError(
            "Expected a functional or sequential model with one input [batch, height, width, "
            f"channels]. Received: model={model.name!r} with input_shape={shape}"
        )
    inputs = keras.Input(shape[1:], dtype="float32", name="image")
    front = keras.layers.LayerNormalization(
        axis=_ALL, epsilon=epsilon, center=False, scale=False, dtype="float32", name="standardize"
    )
    return keras.Model(inputs, model(front(inputs)), name=f"standardized_{model.name}")


def is_standardized(model: keras.Model) -> bool:
    """Whether the model, or the one that is wrapped in it, standardises each image by itself."""
    return any(
        isinstance(layer, keras.layers.LayerNormalization)
        and not (layer.center or layer.scale)
        and sorted(axis % 4 for axis in layer.axis) == _ALL
        for layer in _keras.flat_layers(model)
        if layer.built
    )
