"""Where samples of maxima end: the location of a reverse Weibull distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special
from scipy.stats import kstwo

# Shapes that the search begins at, those of the authors' program; the rest follows from moments.
STARTS = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0)
# Of the square of the scale, in spreads: what the authors take off the likelihood of all maxima.
PENALTY = 0.01
# A fit that is less likely is none.
LEAST_P = 0.001
# Maxima that differ by less of their size are constant to float32.
CONSTANT = 1e-5
_BOUNDS = np.log([[0.01, 1e-6], [1000.0, 1000.0]])  # of shape and gap
# Numbers that are worked on at once.
_HELD = 2**19
# Newton's method: the most steps, the slope at which it ends, the longest step, and how the
# damping changes after a step that went down and one that did not.
_STEPS, _SLOPE, _LONGEST, _EASE, _STIFFEN = 200, 1e-7, 2.0, 0.1, 10.0


def right_endpoint(maxima: Any) -> Any:
    """The largest value that maxima tend to, by a reverse Weibull fit.

    `P(max <= t) = exp(-((a - t) / s)^c)` for `t < a`. The likelihood has several maxima in `c`, so
    the search (damped Newton steps over `c` and `a`; the best `s` of these has a closed form)
    begins at several shapes, and the fit with the best Kolmogorov-Smirnov test is taken. A small
    penalty keeps the scale, and with it the endpoint, from running to infinity. Where no fit passes
    the test (p at least 0.001), and for maxima that are all the same and have no distribution, the
    answer is the largest of them. All this is as in the authors' program, but for the optimiser.

    Reference: Weng et al., "Evaluating the Robustness of Neural Networks: An Extreme Value Theory
    Approach", 2018, arXiv:1801.10578, section 4.

    Args:
        maxima: Shape `(n,)`, or `(k, n)` for `k` samples of them, finite.

    Returns:
        `a`, at least the largest of `maxima`: a float, or float64 of shape `(k,)`.

    Raises:
        ValueError: If there is none, or one is not finite.

    Example:

    >>> right_endpoint([2.0, 2.0, 2.0])
    2.0
    """
    maxima = np.asarray(maxima, np.float64)
    if maxima.ndim not in (1, 2) or not maxima.size or not np.isfinite(maxima).all():
        raise ValueError(
            "Expected one or more vectors of finite maxima, at least one each. "
            f"Received: maxima={maxima!r}"
        )
    rows = np.atleast_2d(maxima)
    largest = rows.max(axis=1)
    spread = largest - rows.min(axis=1)
    found = largest.copy()
    varied = np.flatnonzero(spread > CONSTANT * np.abs(largest))
    at_once = max(1, _HELD // (len(STARTS) * rows.shape[1]))
    for start in range(0, len(varied), at_once):
        part = varied[start : start + at_once]
        # Distances from the largest, as shares of the spread.
        below = np.sort((largest[part, None] - rows[part]) / spread[part, None])
        found[part] += _gaps(below) * spread[part]
    return found if maxima.ndim == 2 else float(found[0])


def _gaps(below: np.ndarray) -> np.ndarray:
    """Between largest and endpoint, `[k]`; 0 where no fit passes. `below` is sorted, `[k, n]`."""
    k, n = below.shape
    shapes = np.array(STARTS)
    # Standard deviation over mean of a Weibull distribution of these shapes.
    first, second = special.gamma(1 + 1 / shapes), special.gamma(1 + 2 / shapes)
    variation = np.sqrt(np.maximum(second / first**2 - 1, 1e-12))
    gaps = below.std(axis=1)[:, None] / variation - below.mean(axis=1)[:, None]
    gaps = np.clip(gaps, 1e-3, 100.0)
    below = np.repeat(below, len(shapes), axis=0)
    logs = np.log(np.stack([np.tile(shapes, k), gaps.ravel()], axis=1))
    logs = _descend(logs, below)
    shapes, gaps = np.exp(logs).T
    powers = shapes[:, None] * np.log(below + gaps[:, None])
    powers -= special.logsumexp(powers, axis=1, keepdims=True)
    statistics = _statistic(n * np.exp(powers)).reshape(k, -1)
    statistics = np.where(np.isfinite(statistics), statistics, np.inf)
    best = statistics.argmin(axis=1)[:, None]
    statistic = np.take_along_axis(statistics, best, axis=1)[:, 0]
    gap = np.take_along_axis(gaps.reshape(k, -1), best, axis=1)[:, 0]
    fitting = np.isfinite(statistic) & (kstwo.sf(np.minimum(statistic, 1.0), n) >= LEAST_P)
    return np.where(fitting, gap, 0.0)


def _descend(logs: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A minimum of the loss near each start, `[m, 2]`: logarithms of shape and gap."""
    logs = logs.copy()
    damping = np.full(len(logs), 1e-3)
    rows = np.arange(len(logs))  # those that go on
    points = logs.copy()
    values, slopes, bends = _loss(points, below)
    for _ in range(_STEPS):
        # A coordinate that would leave its bounds stays where it is.
        low, high = points <= _BOUNDS[0], points >= _BOUNDS[1]
        held = (low & (slopes > 0)) | (high & (slopes < 0))
        slopes = np.where(held, 0.0, slopes)
        going = np.abs(slopes).max(axis=1) > _SLOPE
        going &= damping < 1e12
        if not going.all():
            logs[rows] = points
            rows, points, below, damping = rows[going], points[going], below[going], damping[going]
            values, slopes, bends, held = values[going], slopes[going], bends[going], held[going]
            if not len(rows):
                return logs
        tried = np.clip(points + _newton(slopes, bends, held, damping), *_BOUNDS)
        news = _loss(tried, below)
        down = news[0] <= values  # False for one that is not a number
        damping *= np.where(down, _EASE, _STIFFEN)
        damping = np.maximum(damping, 1e-12)
        points = np.where(down[:, None], tried, points)
        values = np.where(down, news[0], values)
        slopes = np.where(down[:, None], news[1], slopes)
        bends = np.where(down[:, None], news[2], bends)
    logs[rows] = points
    return logs


def _newton(
    slopes: np.ndarray, bends: np.ndarray, held: np.ndarray, damping: np.ndarray
) -> np.ndarray:
    """Steps that go down, `[m, 2]`, on second derivatives `[m, 3]`: `uu`, `uv`, `vv`."""
    a, b, c = bends.T
    b = np.where(held.any(axis=1), 0.0, b)
    a, c = np.where(held[:, 0], 1.0, a), np.where(held[:, 1], 1.0, c)
    # Both eigenvalues are made positive.
    least = (a + c) / 2 - np.hypot((a - c) / 2, b)
    more = np.maximum(-2 * least, 0.0) + damping * np.maximum(np.abs(a + c), 1e-12)
    a, c = a + more, c + more
    det = a * c - b * b
    u, v = slopes.T
    steps = -np.stack([c * u - b * v, a * v - b * u], axis=1) / det[:, None]
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    return steps * np.minimum(1.0, _LONGEST / np.maximum(length, 1e-300))


def _loss(logs: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minus the mean log-likelihood at the best scale, with the penalty.

    Args:
        logs: Logarithms of shape `c` and gap `g`, `[m, 2]`.
        below: Distances from the largest, `[m, n]`.

    Returns:
        Losses `[m]`, their first derivatives in the logarithms `[m, 2]` and their second ones
        `[m, 3]`: in the shape, in both, in the gap.
    """
    n = below.shape[1]
    (c, g), log_c = np.exp(logs).T, logs[:, 0]
    distances = below + g[:, None]
    l, r = np.log(distances), 1 / distances  # noqa: E741

    powers = c[:, None] * l
    largest = powers.max(axis=1)
    weights = np.exp(powers - largest[:, None])
    sums = weights.sum(axis=1)
    weights /= sums[:, None]
    total = np.log(sums) + largest

    # Means of `l` and `r`, of their squares and product: with the weights, and without.
    wl, wr = weights * l, weights * r
    m_l, m_r = wl.sum(axis=1), wr.sum(axis=1)
    m_ll, m_lr, m_rr = (np.einsum("ij,ij->i", *pair) for pair in ((wl, l), (wl, r), (wr, r)))
    var_l, cov, var_r = m_ll - m_l**2, m_lr - m_l * m_r, m_rr - m_r**2
    p_l, p_r, p_rr = l.mean(axis=1), r.mean(axis=1), np.einsum("ij,ij->i", r, r) / n

    # The log-likelihood in `c` and `g`.
    value = log_c - total + np.log(n) + (c - 1) * p_l - 1
    v_c, v_g = 1 / c - m_l + p_l, -c * m_r + (c - 1) * p_r
    v_cc, v_cg = -1 / c**2 - var_l, -m_r - c * cov + p_r
    v_gg = c * m_rr - c**2 * var_r - (c - 1) * p_rr

    # The logarithm of the scale, and the penalty.
    s = (total - np.log(n)) / c
    s_c, s_g = (m_l - s) / c, m_r
    s_cc, s_cg, s_gg = (var_l - 2 * s_c) / c, cov, c * var_r - m_rr
    penalty = PENALTY * np.exp(2 * s) / n
    by_c, by_g = 2 * penalty * s_c - v_c, 2 * penalty * s_g - v_g
    by_cc = penalty * (4 * s_c**2 + 2 * s_cc) - v_cc
    by_cg = penalty * (4 * s_c * s_g + 2 * s_cg) - v_cg
    by_gg = penalty * (4 * s_g**2 + 2 * s_gg) - v_gg

    slopes = np.stack([c * by_c, g * by_g], axis=1)
    bends = [c**2 * by_cc + c * by_c, c * g * by_cg, g**2 * by_gg + g * by_g]
    return penalty - value, slopes, np.stack(bends, axis=1)


def _statistic(scaled: np.ndarray) -> np.ndarray:
    """Of `((a - t) / s)^c`, sorted `[m, n]`: the largest difference of the distributions, `[m]`."""
    expected, n = -np.expm1(-scaled), scaled.shape[1]
    steps = np.arange(n + 1) / n
    over = (steps[1:] - expected).max(axis=1)
    return np.maximum(over, (expected - steps[:-1]).max(axis=1))
