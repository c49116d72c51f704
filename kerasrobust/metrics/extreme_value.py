"""Where a sample of maxima ends: the location of a reverse Weibull distribution."""

from __future__ import annotations

import numpy as np
from scipy import optimize, special
from scipy.stats import kstwo

# Shapes that the search begins at, those of the authors' program; the rest follows from moments.
STARTS = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0)
# Of the square of the scale, in spreads: what the authors take off the likelihood of all maxima.
PENALTY = 0.01
# A fit that is less likely is none.
LEAST_P = 0.001
# Maxima that differ by less of their size are constant to float32.
CONSTANT = 1e-5
_SHAPES, _GAPS = np.log([0.01, 1000.0]), np.log([1e-6, 1000.0])


def right_endpoint(maxima) -> float:
    """The largest value that maxima tend to, by a reverse Weibull fit.

    `P(max <= t) = exp(-((a - t) / s)^c)` for `t < a`. The likelihood has several maxima in `c`, so
    the search (L-BFGS-B over `c` and `a`; the best `s` of these has a closed form) begins at
    several shapes, and the fit with the best Kolmogorov-Smirnov test is taken. A small penalty
    keeps the scale, and with it the endpoint, from running to infinity. Where no fit passes the
    test (p at least 0.001), and for maxima that are all the same and have no distribution, the
    answer is the largest of them. All this is as in the authors' program, but for the optimiser.

    Reference: Weng et al., "Evaluating the Robustness of Neural Networks: An Extreme Value Theory
    Approach", 2018, arXiv:1801.10578, section 4.

    Args:
        maxima: Shape `(n,)`, finite.

    Returns:
        `a`, at least the largest of `maxima`.

    Raises:
        ValueError: If there is none, or one is not finite.

    Example:

    >>> right_endpoint([2.0, 2.0, 2.0])
    2.0
    """
    maxima = np.asarray(maxima, np.float64)
    if maxima.ndim != 1 or not maxima.size or not np.isfinite(maxima).all():
        raise ValueError(
            f"Expected a vector of finite maxima, at least one. Received: maxima={maxima!r}"
        )
    largest = float(maxima.max())
    spread = largest - float(maxima.min())
    if spread <= CONSTANT * abs(largest):
        return largest
    # Distances from the largest, as shares of the spread.
    below = np.sort((largest - maxima) / spread)
    fits = [_fit(below, shape) for shape in STARTS]
    statistic, gap = min(fits)
    fitting = np.isfinite(statistic) and kstwo.sf(statistic, len(below)) >= LEAST_P
    return float(largest + gap * spread) if fitting else largest


def _fit(below: np.ndarray, shape: float) -> tuple[float, float]:
    """Kolmogorov-Smirnov statistic and gap between largest and endpoint, from one start."""
    # Standard deviation over mean of a Weibull distribution of this shape.
    first, second = special.gamma(1 + 1 / shape), special.gamma(1 + 2 / shape)
    variation = np.sqrt(max(second / first**2 - 1, 1e-12))
    gap = np.clip(below.std() / variation - below.mean(), 1e-3, 100.0)
    found = optimize.minimize(
        _loss,
        np.log([shape, gap]),
        args=(below,),
        jac=True,
        method="L-BFGS-B",
        bounds=(_SHAPES, _GAPS),
    )
    shape, gap = np.exp(found.x)
    powers = shape * np.log(below + gap)
    scaled = np.exp(powers - special.logsumexp(powers) + np.log(len(below)))
    statistic = _statistic(scaled)
    return (statistic if np.isfinite(statistic) else np.inf), float(gap)


def _loss(logs: np.ndarray, below: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the mean log-likelihood at the best scale, and its gradient in the logarithms."""
    shape, gap = np.exp(logs)
    distances = below + gap
    log_d = np.log(distances)
    # SciPy's logsumexp takes longer than all the rest.
    powers = shape * log_d
    largest = powers.max()
    weights = np.exp(powers - largest)
    total = np.log(weights.sum()) + largest
    weights /= weights.sum()
    likelihood = logs[0] - total + np.log(len(below)) + (shape - 1) * log_d.mean() - 1
    by_shape = 1 / shape - weights @ log_d + log_d.mean()
    by_gap = -shape * (weights @ (1 / distances)) + (shape - 1) * (1 / distances).mean()
    log_scale = (total - np.log(len(below))) / shape
    penalty = PENALTY * np.exp(2 * log_scale) / len(below)
    by_shape -= 2 * penalty * (weights @ log_d - log_scale) / shape
    by_gap -= 2 * penalty * (weights @ (1 / distances))
    return penalty - likelihood, -np.array([by_shape * shape, by_gap * gap])


def _statistic(scaled: np.ndarray) -> float:
    """Of `((a - t) / s)^c`, sorted: the largest difference of the distribution functions."""
    expected, n = -np.expm1(-scaled), len(scaled)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))
