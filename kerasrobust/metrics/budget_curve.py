"""Accuracy against budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome
from kerasrobust.metrics.proportion import proportion

_POINTS = 21


def accuracy_against_budget(distances, budgets) -> np.ndarray:
    """Accuracy left at each budget, from one run of a minimal-norm attack.

    `accuracy(eps) = |{i : d_i > eps}| / n`, where `d_i` is the distance at which sample `i` fell.
    A minimal-norm attack therefore gives the whole curve at the cost of one point. The distances
    of a budget attack say how far it *went*, not how far it had to go: below its eps
    the curve is only an upper bound.

    Args:
        distances: Shape `(n,)`, `inf` where the attack failed, 0 where the sample was
            misclassified from the start.
        budgets: Budgets in the norm of the distances, any shape, non-negative.

    Returns:
        Accuracies in `[0, 1]`, the shape of `budgets`; never rising with the budget.

    Raises:
        ValueError: If there is no sample, or a distance or budget is negative or NaN.

    Example:

    >>> accuracy_against_budget([0.0, 0.5, 2.0, np.inf], [0.0, 1.0]).tolist()
    [0.75, 0.5]
    """
    distances = np.sort(np.asarray(distances, dtype=np.float64))
    budgets = np.asarray(budgets, dtype=np.float64)
    if distances.ndim != 1 or distances.size == 0 or not np.all(distances >= 0.0):
        raise ValueError(
            "Expected a non-empty vector of non-negative distances (inf for a failure). "
            f"Received: distances={distances}"
        )
    if not np.all(budgets >= 0.0):
        raise ValueError(f"Expected non-negative budgets. Received: budgets={budgets}")
    return 1.0 - np.searchsorted(distances, budgets, side="right") / distances.size


class BudgetCurve(Metric):
    """Accuracy against budget in the norm of a minimal-norm attack.

    `{"norm", "eps", "accuracy"}`; `None` for an attack that works to a budget, broke nothing, or
    met only what others had left. A sample that is wrong without attack is so at any budget, also
    for an attack that aims at another class.
    """

    key = "budget_curve"

    def compute(self, outcome: Outcome) -> dict[str, Any] | None:
        if outcome.kind != "minimal" or not (outcome.alone and outcome.found.any()):
            return None
        distances = outcome.distances(outcome.result.distance(outcome.norm))
        distances = np.where(outcome.clean_correct, distances, 0.0)
        return {"norm": outcome.norm, **_curve(distances)}


class Nearest(Metric):
    """The shortest distance per sample over all minimal-norm attacks of a norm, norm by norm.

    A list of `{"norm", "attacks", "median", "mean", "fooled", "eps", "accuracy"}`, the last two the
    curve of accuracy against budget, over all samples. The median is over the samples that were
    right before, a failure as infinite; the mean is over the `fooled` ones of them.
    """

    key = "nearest"
    rows = ("worst",)

    def compute(self, outcome: Outcome) -> list[dict[str, Any]] | None:
        found = []
        for norm, (attacks, distances) in sorted(outcome.nearest.items()):
            attacked = distances > 0
            fooled = attacked & np.isfinite(distances)
            if fooled.any():
                figures = {
                    "norm": norm,
                    "attacks": attacks,
                    "median": float(np.median(distances[attacked])),
                    "mean": float(distances[fooled].mean()),
                    "fooled": int(fooled.sum()),
                }
                found.append({**figures, **_curve(distances)})
        return found or None


class Budgets(Metric):
    """Accuracy in the worst case at each of several budgets, that of the clean samples at 0 first.

    `{"norm", "eps", "accuracy", "accuracy_interval"}`, the last three by budget; `None` for one
    budget. What was found within a budget counts within every larger one: the accuracy never rises.
    """

    key = "budgets"
    rows = ("worst",)

    def compute(self, outcome: Outcome) -> dict[str, Any] | None:
        if not outcome.left:
            return None
        shares = [proportion(outcome.clean_correct), *map(proportion, outcome.left.values())]
        found = [share for share in shares if share is not None]
        return {
            "norm": outcome.norm,
            "eps": [0.0, *outcome.left],
            "accuracy": [share.value for share in found],
            "accuracy_interval": [[share.low, share.high] for share in found],
        }


def _curve(distances: np.ndarray) -> dict[str, list[float]]:
    budgets = np.linspace(0.0, distances[np.isfinite(distances)].max(), _POINTS)
    accuracy = accuracy_against_budget(distances, budgets)
    return {"eps": budgets.tolist(), "accuracy": accuracy.tolist()}
