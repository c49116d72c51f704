"""Structural similarity, the measure of AREB's criterion "visual difference"."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from kerasrobust.checks import VALUES_PER_BATCH, channels_last, fitting
from kerasrobust.metrics.base import Metric, Outcome, Points

# Pairs that are compared at once: fewer of large ones, as `fitting` says.
_CHUNK = 512


def ssim(x, x_adv, value_range: float = 1.0) -> np.ndarray:
    """Structural similarity (SSIM) of each pair of images.

    AREB judges "visual difference" by eye; SSIM puts a number on it: 1 for equal images, towards 0
    as the structure is lost. Definition: Wang et al., "Image quality assessment: from error
    visibility to structural similarity", IEEE TIP 13 (2004), equation 13, `K1 = 0.01`,
    `K2 = 0.03`, a Gaussian window with standard deviation 1.5, averaged over the positions where
    the window fits and over the channels. The window is 11 x 11 as in the paper, or the largest odd
    size that fits into a smaller image (7 x 7 for 8 x 8 images): figures of images
    below 11 x 11 compare with each other only.

    Args:
        x: Clean images, shape `(n, height, width, channels)`.
        x_adv: Adversarial images, same shape.
        value_range: Upper minus lower bound of the pixel values, positive.

    Returns:
        Float array of shape `(n,)`, in `[-1, 1]`.

    Raises:
        ValueError: If the shapes differ, are no images, or an image is smaller than 3 x 3.
    """
    x, x_adv = np.asarray(x, np.float32), np.asarray(x_adv, np.float32)
    if x.ndim != 4 or x.shape != x_adv.shape or min(x.shape[1:3]) < 3:
        raise ValueError(
            "Expected two batches of images of the same shape (n, height, width, channels), at "
            f"least 3 x 3. Received: x of shape {x.shape}, x_adv of shape {x_adv.shape}"
        )
    if not value_range > 0.0:
        raise ValueError(f"Expected a positive value range. Received: value_range={value_range}")
    smallest = min(11, *x.shape[1:3])
    window = smallest if smallest % 2 else smallest - 1
    rows = fitting(_CHUNK, x.shape[1:], VALUES_PER_BATCH)
    parts = [
        tf.image.ssim(x[i : i + rows], x_adv[i : i + rows], value_range, filter_size=window).numpy()
        for i in range(0, len(x), rows)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class SSIM(Metric):
    """Mean structural similarity of the successes to their clean images, channels first or last.

    `None` without any, or for inputs that are no images. Read it beside the success rate.
    """

    key = "ssim"
    header = "SSIM"
    legend = "SSIM: mean over the successes."

    def measure(self, points: Points) -> np.ndarray | None:
        if points.x.ndim != 4:
            return None
        x, x_adv = channels_last(points.x), channels_last(points.x_adv)
        return None if min(x.shape[1:3]) < 3 else ssim(x, x_adv, points.value_range)

    def compute(self, outcome: Outcome) -> float | None:
        similarity = outcome.result.columns.get(self.key)
        if similarity is None or not outcome.found.any():
            return None
        return float(similarity[outcome.found].mean())
