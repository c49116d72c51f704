"""What is proven of a model beside what attacks found: certified accuracy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome, Share
from kerasrobust.metrics.proportion import Proportion, proportion

# Radii of a verdict, budgets of attacks apart.
_RADII = 10


def verdict_radii(largest: float, budgets: Any = ()) -> np.ndarray:
    """Radii to look at: even ones up to the largest, in steps of 1, 2.5 or 5 times a power of ten.

    Args:
        largest: The largest of interest.
        budgets: L2 budgets of attacks, which are looked at as well.
    """
    steps: list[float] = [0.0]
    if largest > 0:
        power = 10.0 ** math.floor(math.log10(largest / _RADII))
        step = next(s * power for s in (1, 2.5, 5, 10) if largest <= s * power * _RADII)
        steps = [step * i for i in range(math.floor(largest / step) + 2)]
    return np.unique(np.round([*steps, *budgets], 12))


class CertifiedAccuracy(Share):
    """Share of all samples whose true label is certified: at any radius, or at an L2 budget.

    `None` for a model that is not certified, and for an attack without an L2 budget.
    """

    key = "certified_accuracy"
    header = "certified %"
    narrow = "cert.%"
    legend = (
        "Certified: share of all samples whose right label is proven within the L2 budget (of the "
        "clean ones: at all), a lower bound of what the attacks' accuracy bounds from above."
    )
    rows = ("clean", "attack")

    def compute(self, outcome: Outcome) -> Proportion | None:
        radii, budget = outcome.radii, np.zeros(1)
        if outcome.row == "attack":
            eps = outcome.result.config.get("eps")
            if outcome.kind != "budget" or outcome.norm != 2 or eps is None:
                return None
            budget = np.reshape(eps, -1)
        return None if radii is None else proportion(radii >= budget)


class Verdict(Metric):
    """What is proven and what is not yet refuted, radius by radius.

    `{"norm": 2, "radius", "certified", "robust"}`: shares of all samples. *Certified* are those
    whose true label the certificate holds within the radius: the accuracy against any attack is at
    least that. *Robust* are those for which nothing wrong was found within the radius, by any
    attack of the report, an answer that was withheld counting as nothing wrong: the accuracy is at
    most that. `None` for a model that is not certified.
    """

    key = "verdict"
    rows = ("worst",)

    def compute(self, outcome: Outcome) -> dict[str, Any] | None:
        radii, fell = outcome.radii, outcome.fell
        if radii is None or fell is None:
            return None
        largest = float(radii.max(initial=0.0))
        wanted = verdict_radii(largest, [b for b in outcome.budgets if np.isfinite(b)])
        return {
            "norm": 2.0,
            "radius": wanted.tolist(),
            "certified": (radii >= wanted[:, None]).mean(axis=1).tolist(),
            "robust": (fell > wanted[:, None]).mean(axis=1).tolist(),
        }
