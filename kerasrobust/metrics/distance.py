"""Median distances and the share of altered pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kerasrobust.checks import channels_last
from kerasrobust.metrics.base import Metric, Outcome, Points


def median_distance(distances) -> float:
    """Median with a failure counting as infinite.

    A median over the successful samples alone rewards an attack for giving up on the hard ones.
    With failures at infinity, breaking one sample more, or one sample closer, can never make the
    median larger.

    Args:
        distances: Shape `(n,)`, non-negative; `inf` where the attack failed.

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

    A pixel is a position: an RGB pixel with one changed channel is one changed pixel, whether
    channels come last or first (`checks.channel_axis`). For inputs that are no images (rank other
    than 4) every feature is a pixel. Differences up to `tolerance` of the value range are the
    rounding of a change of variables (C&W's tanh), no alteration.

    Args:
        x: Clean samples, shape `(n, height, width, channels)`, `(n, channels, height, width)` or
            `(n, ...)`.
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
        changed = channels_last(changed).any(axis=-1)
    return 100.0 * changed.reshape(len(x), -1).mean(axis=1)


class MedianDistance(Metric):
    """Median distance over the attacked samples, a failure as infinite.

    Samples that were adversarial before the attack are left out: every attack meets the same ones,
    and with half of them the median would be 0 whatever the attack did.
    """

    legend = (
        "L0 (altered pixels), L1, L2, Linf: medians over the attacked samples, a failure as "
        "infinite; samples that were wrong already are left out."
    )

    def compute(self, outcome: Outcome) -> float | None:
        values = self.values(outcome)
        if values is None or not outcome.attacked.any():
            return None
        return median_distance(outcome.distances(values)[outcome.attacked])

    def values(self, outcome: Outcome) -> np.ndarray | None:
        """Distances, shape `(n,)`; None where they are not known."""
        raise NotImplementedError(f"{type(self).__name__} must define `values`.")


class MedianL0(MedianDistance):
    """Median percentage of altered pixels."""

    key = "median_l0"
    header = "L0 %"
    digits = 1

    def measure(self, points: Points) -> np.ndarray:
        return altered_pixels(points.x, points.x_adv, points.value_range)

    def values(self, outcome: Outcome) -> np.ndarray | None:
        return outcome.result.columns.get(self.key)


class MedianLength(MedianDistance):
    """Median distance in one norm, in the unit of the pixels.

    Beside it stands `<key>_unit`, the same where pixels are 0 to 1; tables show it in parentheses
    where the two differ.
    """

    norm: float

    def values(self, outcome: Outcome) -> np.ndarray:
        return outcome.result.distance(self.norm)

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        median = self.compute(outcome)
        unit = None if median is None else median / outcome.value_range
        return {self.key: median, f"{self.key}_unit": unit}

    def cell(self, row: Mapping[str, Any], samples: int, narrow: bool = False) -> str:
        text = super().cell(row, samples, narrow)
        unit = row.get(f"{self.key}_unit")
        return text if narrow or unit in (None, row.get(self.key)) else f"{text} ({unit:.3g})"


class MedianL1(MedianLength):
    """Median L1 distance."""

    key = "median_l1"
    header = "L1"
    digits = 2
    norm = 1.0


class MedianL2(MedianLength):
    """Median L2 distance."""

    key = "median_l2"
    header = "L2"
    norm = 2.0


class MedianLinf(MedianLength):
    """Median Linf distance."""

    key = "median_linf"
    header = "Linf"
    norm = np.inf
