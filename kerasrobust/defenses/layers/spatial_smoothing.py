"""Spatial smoothing: the median of a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasrobust.checks import check_int
from kerasrobust.defenses.layers.preprocessing import ImagePreprocessing


@keras.saving.register_keras_serializable("kerasrobust")
class SpatialSmoothing(ImagePreprocessing):
    """Each value becomes the median of a square window around it, in its own channel.

    Xu, Evans and Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks",
    2018, arXiv:1704.01155, section II-C2.

    As `scipy.ndimage.median_filter` and ART: the image is reflected at its edges, edge pixel
    included. A window of even size has no middle: it reaches one pixel further up and left than
    down and right, and of its two middle values the larger one counts.

    Gradients: ``"exact"`` leads to the pixel that was selected (the first one of equals), and does
    so for ``"surrogate"`` where another layer offers that; ``"straight_through"`` takes the layer
    for the identity.

    Args:
        window_size: Side of the window, at least 1, in pixels; at most that of the image.
        clip_values: Smallest and largest valid pixel. Default: what `wrap` is given, (0, 1) alone.
        apply_fit: Whether it acts in training.
        apply_predict: Whether it acts in inference.
        data_format: ``"channels_last"`` or ``"channels_first"``. Default: Keras's setting.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, or the window larger than the image.

    Example:
        >>> model = kerasrobust.wrap(model, defense="spatial_smoothing", window_size=3)
    """

    def __init__(
        self,
        window_size: int = 3,
        clip_values: tuple[float, float] | None = None,
        apply_fit: bool = False,
        apply_predict: bool = True,
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            data_format,
            clip_values=clip_values,
            apply_fit=apply_fit,
            apply_predict=apply_predict,
            **kwargs,
        )
        self.window_size = check_int("window_size", window_size, 1)

    def check_images(self, shape: Sequence[int | None]) -> None:
        super().check_images(shape)
        known = [side for side in self.sides(shape) if side is not None]
        if known and min(known) < self.window_size:
            raise ValueError(
                f"`window_size` must be at most the side of the images, {min(known)}. "
                f"Received: window_size={self.window_size}"
            )

    def transform_images(self, x: tf.Tensor) -> tf.Tensor:
        size = self.window_size
        height, width = tf.shape(x)[1], tf.shape(x)[2]
        if None in x.shape[1:3]:
            small = tf.debugging.assert_greater_equal(
                tf.minimum(height, width),
                size,
                f"`window_size` must be at most the side of the images. "
                f"Received: window_size={size}",
            )
            with tf.control_dependencies([] if small is None else [small]):
                x = tf.identity(x)
        around = (size // 2, size - 1 - size // 2)
        padded = tf.pad(x, ((0, 0), around, around, (0, 0)), "SYMMETRIC")
        window = tf.stack(
            [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)],
            axis=-1,
        )
        # The value of rank n // 2 of n, from below: the last of so many largest ones.
        largest = tf.math.top_k(window, size**2 - size**2 // 2).values
        return tf.ensure_shape(largest[..., -1], x.shape)

    def surrogate(self, x: tf.Tensor) -> tf.Tensor:
        return self.transform(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "window_size": self.window_size}
