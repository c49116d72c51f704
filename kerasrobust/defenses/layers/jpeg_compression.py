"""JPEG compression and decompression, without its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust.checks import check_int
from kerasrobust.defenses.layers.preprocessing import ImagePreprocessing, rounded

# Quantisation of brightness and of colour, ITU-T T.81, tables K.1 and K.2.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# From RGB to brightness and the two differences of colour, JFIF.
TO_YCC = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)


def _cosines() -> np.ndarray:
    """Rows: frequencies of libjpeg's cosine transform of 8 values, the first one of ones.

    Loeffler, Ligtenberg and Moschytz, 1989, with constants of 13 bits: they decide what becomes of
    halves, of which images that were JPEG before are full.
    """

    def bits(constant: float) -> float:
        return round(constant * 2**13) / 2**13

    x = np.eye(8)
    plus, minus = x[:4] + x[:3:-1], x[:4] - x[:3:-1]
    outer, inner = plus[0] - plus[3], plus[1] - plus[2]
    turned = (outer + inner) * bits(0.541196100)
    ends = (minus[3] + minus[0]) * bits(0.899976223)
    middle = (minus[2] + minus[1]) * bits(2.562915447)
    first, second = minus[3] + minus[1], minus[2] + minus[0]
    shared = (first + second) * bits(1.175875602)
    first = shared - first * bits(1.961570560)
    second = shared - second * bits(0.390180644)
    return np.stack(
        [
            plus[0] + plus[3] + plus[1] + plus[2],
            minus[0] * bits(1.501321110) - ends + second,
            turned + outer * bits(0.765366865),
            minus[1] * bits(3.072711026) - middle + first,
            plus[0] + plus[3] - plus[1] - plus[2],
            minus[2] * bits(2.053119869) - middle + second,
            turned - inner * bits(1.847759065),
            minus[3] * bits(0.298631336) - ends + first,
        ]
    )


COSINES = _cosines()
# Results that are halves in whole numbers are not always so in float32.
TINY = 2.0**-12

Rounding = Callable[[tf.Tensor], tf.Tensor]
Quantising = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable("kerasrobust")
class JPEGCompression(ImagePreprocessing):
    """What is left of images that were stored as JPEG at some quality.

    Dziugaite, Ghahramani and Roy, "A study of the effect of JPG compression on adversarial
    images", 2016, arXiv:1608.00853. The surrogate is that of Shin and Song, "JPEG-resistant
    Adversarial Images", 2017: quantisation rounds to `[c] + (c - [c])^3`, all else not at all.

    Computed as by libjpeg in its default settings, which Pillow uses: grey levels, the colours of
    JFIF, half the resolution for the differences of colour, 8 x 8 cosine transforms, the standard
    tables scaled by the quality, and triangular interpolation on the way back. Images with another
    number of channels than three are compressed channel by channel in grey. Values between two grey
    levels go to the nearest, where ART cuts them off.

    Gradients: ``"exact"`` is zero; ``"straight_through"`` takes the layer for the identity;
    ``"surrogate"`` leads through the transform and the smooth rounding.

    Args:
        quality: 1 to 100, libjpeg's.
        clip_values: Smallest and largest valid pixel. Default: what `wrap` is given, (0, 1) alone.
        apply_fit: Whether it acts in training.
        apply_predict: Whether it acts in inference.
        data_format: ``"channels_last"`` or ``"channels_first"``. Default: Keras's setting.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, or the number of channels is not known.

    Example:
        >>> model = kerasrobust.wrap(model, defense="jpeg", quality=50)
    """

    gradients = ("exact", "straight_through", "surrogate", "ignore")

    def __init__(
        self,
        quality: int = 50,
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
        self.quality = check_int("quality", quality, 1, 100)

    def check_images(self, shape: Sequence[int | None]) -> None:
        super().check_images(shape)
        if shape[-1 if self.data_format == "channels_last" else 1] is None:
            raise ValueError(
                "JPEGCompression needs to know the number of channels. "
                f"Received: inputs of shape {tuple(shape)}"
            )

    def transform_images(self, x: tf.Tensor) -> tf.Tensor:
        return self._compressed(x, _nearest, _quantised)

    def surrogate(self, x: tf.Tensor) -> tf.Tensor:
        return self._on_channels_last(
            x, lambda images: self._compressed(images, tf.identity, _smoothly_quantised)
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quality": self.quality}

    def _compressed(self, x: tf.Tensor, whole: Rounding, quantised: Quantising) -> tf.Tensor:
        """There and back; `whole` rounds levels, `quantised` the frequencies."""
        shape = x.shape
        low, high = self.bounds
        x = _clipped(whole((x - low) * (255 / (high - low))), whole)
        if x.shape[-1] == 3:
            x = self._colour(x, whole, quantised)
        else:
            x = self._plane(x, LUMINANCE, whole, quantised)
        return tf.ensure_shape(_clipped(x, whole) * ((high - low) / 255) + low, shape)

    def _colour(self, x: tf.Tensor, whole: Rounding, quantised: Quantising) -> tf.Tensor:
        red, green, blue = (x[..., k : k + 1] for k in range(3))
        height, width = tf.shape(x)[1], tf.shape(x)[2]
        colourless = 128.0 - 2 * TINY  # halves go down, libjpeg's choice
        # One coefficient for each plane; no matrix product, which accelerators may round.
        y, *colours = (
            whole(a * red + b * green + c * blue + middle)
            for (a, b, c), middle in zip(
                TO_YCC.tolist(), (0.0, colourless, colourless), strict=True
            )
        )
        y = self._plane(y, LUMINANCE, whole, quantised)
        colours = tf.concat(colours, axis=-1)
        small = self._plane(_halved(colours, whole), CHROMINANCE, whole, quantised)
        small = _clipped(small, whole)[:, : (height + 1) // 2, : (width + 1) // 2]
        colours = _doubled(small, whole)[:, :height, :width] - 128
        y = _clipped(y, whole)
        blueness, redness = colours[..., :1], colours[..., 1:]
        return tf.concat(
            [
                y + whole(1.402 * redness),
                y + whole(-0.344136286 * blueness - 0.714136286 * redness),
                y + whole(1.772 * blueness),
            ],
            axis=-1,
        )

    def _plane(
        self, x: tf.Tensor, table: np.ndarray, whole: Rounding, quantised: Quantising
    ) -> tf.Tensor:
        """Planes of levels, `[batch, height, width, planes]`, through the cosine transform."""
        height, width, planes = tf.shape(x)[1], tf.shape(x)[2], x.shape[-1]
        x = _extended(_extended(x, 1, 8), 2, 8)
        shape = tf.shape(x)
        blocks = tf.reshape(x - 128, (-1, shape[1] // 8, 8, shape[2] // 8, 8, planes))
        steps = self._steps(table)
        # As libjpeg has them: rows first, in quarters, then columns, in eighths.
        rows = whole(4 * _product(blocks, COSINES, 4))
        eighths = whole(_product(rows, COSINES, 2) / 4)
        steps = tf.constant(steps.reshape(8, 1, 8, 1), tf.float32)
        frequencies = quantised(eighths, 8 * steps) * steps
        columns = whole(4 * _product(frequencies, COSINES.T, 2))
        blocks = _product(columns, COSINES.T, 4) / 32
        return whole(tf.reshape(blocks, shape) + 128)[:, :height, :width]

    def _steps(self, table: np.ndarray) -> np.ndarray:
        """The table at this quality, as libjpeg scales it."""
        percent = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        return np.clip((table * percent + 50) // 100, 1, 255)


def _nearest(x: tf.Tensor) -> tf.Tensor:
    """To the nearest whole number, halves up, with a gradient of zero."""
    return rounded(x + TINY)


def _quantised(x: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """Whole numbers in steps, the nearest number of them, halves away from zero."""
    # A quarter keeps clear of halves, whichever way a compiler divides.
    number = tf.sign(x) * tf.floor((tf.abs(x) + steps / 2 + 0.25) / steps)
    return tf.stop_gradient(number) + 0.0 * x


def _smoothly_quantised(x: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    number = x / steps
    nearest = tf.stop_gradient(tf.round(number))
    return nearest + (number - nearest) ** 3


def _clipped(x: tf.Tensor, whole: Rounding) -> tf.Tensor:
    """Within the grey levels. Not for the surrogate: its gradient would end at black and white."""
    return tf.clip_by_value(x, 0.0, 255.0) if whole is _nearest else x


def _product(x: tf.Tensor, matrix: np.ndarray, axis: int) -> tf.Tensor:
    """`matrix` times an axis of 8 in full float32: a matrix product may be less on accelerators."""
    shape = [1] * x.shape.rank
    shape[axis] = 8
    columns = [tf.constant(matrix[:, k].reshape(shape), tf.float32) for k in range(8)]
    parts = tf.split(x, 8, axis=axis)
    return tf.add_n([part * column for part, column in zip(parts, columns, strict=True)])


def _extended(x: tf.Tensor, axis: int, multiple: int) -> tf.Tensor:
    """The last row or column repeated until there are a multiple of them."""
    size = tf.shape(x)[axis]
    index = tf.range(-(-size // multiple) * multiple)
    return tf.gather(x, tf.minimum(index, size - 1), axis=axis)


def _halved(x: tf.Tensor, whole: Rounding) -> tf.Tensor:
    """Means of 2 x 2, libjpeg's: halves go down and up in turn."""
    x = _extended(_extended(x, 1, 2), 2, 16)
    rows = x[:, ::2] + x[:, 1::2]
    sums = rows[:, :, ::2] + rows[:, :, 1::2]
    # floor((s + 1) / 4) and floor((s + 2) / 4) of whole numbers, as rounding to the nearest.
    return whole(sums / 4 + _alternating(sums, -0.125, 0.125))


def _doubled(x: tf.Tensor, whole: Rounding) -> tf.Tensor:
    """Twice the size, each value 9/16, 3/16, 3/16 and 1/16 of its neighbours."""
    # Between two of the four values, floor((s + 8) / 16) and floor((s + 7) / 16) in turn.
    sums = _spread(_spread(x, 1), 2)
    return whole(sums / 16 + _alternating(sums, 1 / 32, -1 / 32))


def _spread(x: tf.Tensor, axis: int) -> tf.Tensor:
    """3 parts of the nearer and 1 of the farther neighbour, twice as many of them."""
    size = tf.shape(x)[axis]
    index = tf.range(size)
    before = tf.gather(x, tf.maximum(index - 1, 0), axis=axis)
    after = tf.gather(x, tf.minimum(index + 1, size - 1), axis=axis)
    both = tf.stack([3 * x + before, 3 * x + after], axis=axis + 1)
    shape = tf.shape(x)
    return tf.reshape(both, tf.concat([shape[:axis], [2 * size], shape[axis + 1 :]], 0))


def _alternating(x: tf.Tensor, even: float, odd: float) -> tf.Tensor:
    """One number for even columns, another one for odd ones."""
    columns = tf.range(tf.shape(x)[2]) % 2
    return tf.where(columns == 0, even, odd)[None, None, :, None]
