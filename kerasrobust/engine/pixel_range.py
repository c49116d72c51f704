"""The range of pixels that a model was made for, read from its first layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from kerasrobust import _keras

# What images come in, and the mean of natural ones in it, black drawings and white ones included.
RANGES = {
    (0.0, 255.0): (5.0, 250.0),
    (0.0, 1.0): (0.05, 0.98),
    (-1.0, 1.0): (-0.96, 0.05),
}
# What the layers behind are given: a range that a scaling alone maps to one of these is certain.
TARGETS = ((0.0, 1.0), (-1.0, 1.0))
# Room for 1 / 256 and 1 / 128 in the place of 1 / 255 and 1 / 127.5.
TOLERANCE = 0.01
# Standard deviation of images, as a share of the range.
USUAL_DEVIATION = (0.03, 0.6)
# Layers that leave the unit of the pixels alone at inference.
_SAME_UNIT = (
    keras.layers.InputLayer,
    keras.layers.Resizing,
    keras.layers.CenterCrop,
    keras.layers.Cropping2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
)


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """A range of pixels, and why it is believed to be the model's.

    Attributes:
        low: Smallest pixel.
        high: Largest pixel.
        source: The layers that it was read from.
    """

    low: float
    high: float
    source: str

    @property
    def bounds(self) -> tuple[float, float]:
        """`(low, high)`."""
        return self.low, self.high

    def told(self) -> str:
        """What to do about it where no bounds were given."""
        return (
            f"The model's first layers, {self.source}, expect pixels in {self.low:g}..{self.high:g}"
            f": give clip_values=({self.low:g}, {self.high:g}) (--clip-min, --clip-max) and samples"
            " in this range, or clip_values=(0, 1) if that is meant."
        )


def pixel_range(model: Any) -> PixelRange | None:
    """The range that the first layers of a Keras model scale or normalise from.

    Rescaling, Normalization (with given or adapted statistics) and arithmetic with constants are
    followed from the input on, through nested models, and through augmentation, resizing and
    others that leave the unit alone. A scaling counts if it maps exactly one usual range (0..255,
    0..1, -1..1) to 0..1 or -1..1; a normalisation if its mean and deviation are those of images in
    exactly one of them.

    Args:
        model: Anything.

    Returns:
        The range, or None where the layers do not settle it.
    """
    scale, offset, read = _followed(model, np.ones(1), np.zeros(1))
    if not read or not np.all(np.isfinite(scale) & np.isfinite(offset) & (scale != 0)):
        return None
    fits = [bounds for bounds in RANGES if _exact(bounds, scale, offset)]
    fits = fits or [bounds for bounds in RANGES if _usual(bounds, scale, offset)]
    return PixelRange(*fits[0], ", ".join(read)) if len(fits) == 1 else None


def default_bounds(model: Any) -> tuple[float, float]:
    """Bounds for a model that nobody gave any: its own, else 0..1.

    Raises:
        ValueError: If it has none of its own and its first layers expect another range than 0..1.
    """
    own = getattr(model, "clip_values", None)
    if own is not None:
        return own
    found = pixel_range(model)
    if found is not None and found.bounds != (0.0, 1.0):
        raise ValueError(f"{found.told()} Received: clip_values=None")
    return 0.0, 1.0


def _exact(bounds: tuple[float, float], scale: np.ndarray, offset: np.ndarray) -> bool:
    """Whether the range becomes one that networks are usually given."""
    ends = np.sort([scale * end + offset for end in bounds], axis=0)
    return any(
        np.allclose(ends[0], low, atol=TOLERANCE) and np.allclose(ends[1], high, atol=TOLERANCE)
        for low, high in TARGETS
    )


def _usual(bounds: tuple[float, float], scale: np.ndarray, offset: np.ndarray) -> bool:
    """Whether what is subtracted and divided by are mean and deviation of images in the range."""
    low, high = bounds
    means, deviations = -offset / scale, 1 / np.abs(scale)
    # Of a normalisation pixel by pixel: that of all pixels together.
    deviation = np.sqrt((deviations**2).mean() + means.var()) / (high - low)
    least, most = RANGES[bounds]
    return bool(
        least < means.mean() < most
        and USUAL_DEVIATION[0] < deviation < USUAL_DEVIATION[1]
        and np.any(offset != 0)
    )


def _followed(
    model: Any, scale: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The affine map that a model begins with, after another one, and the layers it consists of."""
    read: list[str] = []
    graph = _keras.graph_of(model) if _keras.is_its_graph(model) and model.built else None
    if graph is None or len(graph.inputs) != 1:
        return scale, offset, read
    tensor, calls = model.inputs[0], _keras.calls(model)
    while True:
        taking = [call for call in calls if any(given is tensor for given in call.inputs)]
        # Where the input goes several ways, the unit of one of them says nothing of the others.
        if len(taking) != 1:
            return scale, offset, read
        operation, _, arguments, output = taking[0]
        if isinstance(operation, keras.Model):
            scale, offset, inner = _followed(operation, scale, offset)
            read += inner
            if not _keeps_unit(operation):
                return scale, offset, read
        elif (affine := _affine(operation, arguments)) is not None:
            scale, offset = affine[0] * scale, affine[0] * offset + affine[1]
            read.append(_told(operation, affine))
        elif not _is_same_unit(operation):
            return scale, offset, read
        tensor = output


def _keeps_unit(model: keras.Model) -> bool:
    """Whether a nested model holds nothing but what can be followed: augmentation, say."""
    return all(
        _is_same_unit(layer)
        or isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization))
        or (isinstance(layer, keras.Model) and _keeps_unit(layer))
        for layer in model.layers
    )


def _is_same_unit(operation: Any) -> bool:
    if isinstance(operation, _SAME_UNIT) or getattr(operation, "keeps_unit", False):
        return True
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    name = type(operation).__name__
    # All augmentation of Keras is called so, and does nothing at inference.
    return name.startswith("Random") or name in ("Cast", "Identity")


def _affine(operation: Any, arguments: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and offset of an operation, for each channel; None if it is of another kind."""
    if isinstance(operation, keras.layers.Rescaling):
        return _flat(operation.scale), _flat(operation.offset)
    if isinstance(operation, keras.layers.Normalization):
        mean, variance = operation.mean, operation.variance
        if mean is None or variance is None or operation.invert:
            return None
        deviation = np.maximum(np.sqrt(_flat(variance)), keras.backend.epsilon())
        return 1 / deviation, -_flat(mean) / deviation
    name = type(operation).__name__
    if name not in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide") or len(arguments) != 2:
        return None
    first, second = arguments
    if isinstance(first, keras.KerasTensor) == isinstance(second, keras.KerasTensor):
        return None
    reverse = isinstance(second, keras.KerasTensor)
    try:
        value = _flat(first if reverse else second)
    except (TypeError, ValueError):
        return None
    one, zero = np.ones(1), np.zeros(1)
    if name == "Add":
        return one, value
    if name == "Multiply":
        return value, zero
    if name == "Subtract":
        return (-one, value) if reverse else (one, -value)
    return None if reverse else (1 / value, zero)


def _flat(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value), np.float64).reshape(-1)


def _told(operation: Any, affine: tuple[np.ndarray, np.ndarray]) -> str:
    scale, offset = (", ".join(f"{number:.4g}" for number in part[:3]) for part in affine)
    return f"{type(operation).__name__} (times {scale}, plus {offset})"
