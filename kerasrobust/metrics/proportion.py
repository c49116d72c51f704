"""A share of samples with the interval its sample size allows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm


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


def clustered(flags, level: float = 0.95) -> Proportion | None:
    """Share of true entries of samples that have several each, targets say.

    Entries of one sample are alike, so that they tell less than as many samples. The interval is
    Wilson's for the number of samples that would vary as much: `p (1 - p) / v`, `v` the variance of
    the mean of the samples' own shares, at least the number of samples and at most that of entries.
    Where all entries agree it is that of the samples.

    Reference: Korn and Graubard, "Confidence intervals for proportions with small expected number
    of positive counts estimated from survey data", Survey Methodology 24 (1998), 193-201, for the
    effective number.

    Args:
        flags: Booleans of shape `(n, k)`, `k` for each sample.
        level: Confidence level, in `(0, 1)`.

    Returns:
        A `Proportion` of entries, or `None` when there is none.

    Raises:
        ValueError: If `flags` is no matrix of booleans or `level` is outside `(0, 1)`.

    Example:

    >>> clustered(np.array([[True, True], [False, False]])).value
    0.5
    """
    flags = np.asarray(flags)
    if flags.ndim != 2:
        raise ValueError(f"Expected a matrix of booleans. Received: flags of shape {flags.shape}")
    naive = proportion(flags.ravel(), level)
    if naive is None:
        return None
    p, n, entries = naive.value, len(flags), flags.size
    worth, apart = float(n), p * (1 - p) / entries
    if n > 1 and apart > 0:
        spread = float(flags.mean(axis=1).var(ddof=1)) / n
        worth = max(worth, p * (1 - p) / max(spread, apart))
    z = float(norm.ppf((1 + level) / 2))
    middle = p + z**2 / (2 * worth)
    width = z * math.sqrt(p * (1 - p) / worth + z**2 / (4 * worth**2))
    low, high = ((middle + sign * width) / (1 + z**2 / worth) for sign in (-1, 1))
    return naive._replace(low=max(low, 0.0) if p else 0.0, high=min(high, 1.0) if p < 1 else 1.0)
