"""Feature squeezing: fewer levels of colour."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust.checks import check_int
from kerasrobust.defenses.layers.preprocessing import Preprocessing, rounded


@keras.saving.register_keras_serializable("kerasrobust")
class FeatureSqueezing(Preprocessing):
    """Rounds each value to the nearest of `2^bit_depth` levels.

    Xu, Evans and Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks",
    2018, arXiv:1704.01155, section II-C1.

    Gradients: ``"exact"`` is zero, so that a gradient attack stands still and seems to fail;
    ``"straight_through"`` takes the layer for the identity, which it is but for half a level.

    Args:
        bit_depth: Bits per value, 1 to 8. Default 8, ART's, which are the levels of stored images.
        clip_values: Smallest and largest valid pixel. Default: what `wrap` is given, (0, 1) alone.
        apply_fit: Whether it acts in training.
        apply_predict: Whether it acts in inference.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(model, defense="feature_squeezing", bit_depth=4)
    """

    def __init__(
        self,
        bit_depth: int = 8,
        clip_values: tuple[float, float] | None = None,
        apply_fit: bool = False,
        apply_predict: bool = True,
        **kwargs: Any,
    ):
        super().__init__(clip_values, apply_fit, apply_predict, **kwargs)
        try:
            self.bit_depth = check_int("bit_depth", bit_depth, 1, 8)
        except ValueError as error:
            raise ValueError(
                "`bit_depth` must be an integer from 1 to 8: images have 8 bits, more change "
                f"nothing. Received: bit_depth={bit_depth!r}"
            ) from error

    def transform(self, x: tf.Tensor) -> tf.Tensor:
        low, high = self.bounds
        steps = 2.0**self.bit_depth - 1
        return rounded((x - low) / (high - low) * steps) / steps * (high - low) + low

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bit_depth": self.bit_depth}
