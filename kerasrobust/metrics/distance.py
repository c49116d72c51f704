"""Median distances and the share of altered pixels."""

from __future__ import annotations

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome, Points


def median_distance(distances) -> float:
    """Median over *all* samples, a failure counting as infinite.

    A median over the successful samples alone rewards an attack for giving up on the hard ones.
    With failures at infinity and initially misclassified samples at zero, breaking one sample more,
    or one sample closer, can never make the median larger.

    Args:
        distances: Shape `(n,)`, non-negative; `inf` where the attack failed, 0 where the sample
            was misclassified from the start.

    Returns:
        The median; `inf` when at least half of the samples were not broken.

    Raises:
        ValueError: If there is no sample, or a distance is negative or NaN.
    """
    distances = np.asarray(distances, dtype=np.float64)
    if distances.ndim != 1 or distances.size == 0 or not np.all(distances >= 0.0):
        raise ValueError(
            "Expected a non-empty vector of non-negative distances (inf for a failure). "
            f"Received: distances={distances}"
        )
    return float(np.median(distances))


def altered_pixels(x, x_adv, value_range: float = 1.0, tolerance: float = 1e-6) -> np.ndarray:
    """Percentage of pixels that differ, AREB's reading of L0.

    A pixel is a position: an RGB pixel with one changed channel is one changed pixel. For inputs
    that are no images (rank other than 4) every feature is a pixel. Differences up to `tolerance`
    of the value range are the rounding of a change of variables (C&W's tanh), no alteration.

    Args:
        x: Clean samples, shape `(n, height, width, channels)` or `(n, ...)`.
        x_adv: Adversarial samples, same shape.
        value_range: Upper minus lower bound of the pixel values.
        tolerance: Largest difference that counts as none, as a share of `value_range`.

    Returns:
        Percentages of shape `(n,)`, in `[0, 100]`.

    Raises:
        ValueError: If the shapes differ.
    """
    x, x_adv = np.asarray(x), np.asarray(x_adv)
    if x.shape != x_adv.shape or x.ndim < 2:
        raise ValueError(
            "Expected two batches of the same shape. "
            f"Received: x of shape {x.shape}, x_adv of shape {x_adv.shape}"
        )
    changed = np.abs(x_adv - x) > tolerance * value_range
    if x.ndim == 4:
        changed = changed.any(axis=-1)
    return 100.0 * changed.reshape(len(x), -1).mean(axis=1)


class MedianDistance(Metric):
    """Median distance in one norm, over all samples."""

    norm: float
    legend = (
        "L0 (altered pixels), L1, L2, Linf: medians over all samples, a failure as infinite, a "
        "sample that was wrong already as 0."
    )

    def compute(self, outcome: Outcome) -> float | None:
        return median_distance(outcome.distances(outcome.result.distance(self.norm)))


class MedianL0(MedianDistance):
    """Median percentage of altered pixels."""

    key = "median_l0"
    header = "L0 %"
    digits = 1
    norm = 0.0

    def measure(self, points: Points) -> np.ndarray:
        return altered_pixels(points.x, points.x_adv, points.value_range)

    def compute(self, outcome: Outcome) -> float | None:
        pixels = outcome.result.columns.get(self.key)
        return None if pixels is None else median_distance(outcome.distances(pixels))


class MedianL1(MedianDistance):
    """Median L1 distance."""

    key = "median_l1"
    header = "L1"
    digits = 2
    norm = 1.0


class MedianL2(MedianDistance):
    """Median L2 distance."""

    key = "median_l2"
    header = "L2"
    norm = 2.0


class MedianLinf(MedianDistance):
    """Median Linf distance."""

    key = "median_linf"
    header = "Linf"
    norm = np.inf
