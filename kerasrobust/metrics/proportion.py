"""A share of samples with the interval its sample size allows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest


class Proportion(NamedTuple):
    """`hits` out of `total`, with a confidence interval.

    Attributes:
        value: `hits / total`, in `[0, 1]`.
        low: Lower end of the interval.
        high: Upper end of the interval.
        hits: Number of samples that have the property.
        total: Number of samples.
    """

    value: float
    low: float
    high: float
    hits: int
    total: int


def proportion(flags, level: float = 0.95) -> Proportion | None:
    """Share of true entries with its Wilson score interval.

    The Wilson interval stays inside `[0, 1]` and keeps a width at 0 and at 1, where the textbook
    `p +- 1.96 s` collapses to a point: 0 of 100 samples broken is still compatible with 3.7 %.

    Reference: Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927), 209-212.

    Args:
        flags: Booleans, one per sample.
        level: Confidence level, in `(0, 1)`.

    Returns:
        A `Proportion`, or `None` when there is no sample: a share of nothing has no value.

    Raises:
        ValueError: If `flags` is not a vector of booleans or `level` is outside `(0, 1)`.

    Example:

    >>> proportion(np.array([True, False, False, False])).value
    0.25
    """
    flags = np.asarray(flags)
    if flags.ndim != 1 or (flags.size and flags.dtype != bool):
        raise ValueError(
            "Expected a vector of booleans, one per sample. "
            f"Received: flags of shape {flags.shape} and dtype {flags.dtype}"
        )
    if not 0.0 < level < 1.0:
        raise ValueError(f"Expected a confidence level in (0, 1). Received: level={level}")
    if flags.size == 0:
        return None
    hits, total = int(flags.sum()), int(flags.size)
    interval = binomtest(hits, total).proportion_ci(confidence_level=level, method="wilson")
    return Proportion(hits / total, float(interval.low), float(interval.high), hits, total)
