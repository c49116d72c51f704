"""Empirical robustness: the shortest perturbation beside the size of the sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome, Points
from kerasrobust.norms import check_norm

# Keeps the ratio of a sample without any size finite.
_TINY = 1e-12


class EmpiricalRobustness(Metric):
    """Mean of `||x_adv - x||_p / ||x||_p` over the attacked samples, of a minimal-norm attack.

    Moosavi-Dezfooli et al. define it by the smallest perturbation of each sample. One that was
    never fooled has none that is known: it counts as infinite, never as 0, so the mean is infinite
    as soon as there is one. Beside it stand `<key>_median`, which half of the samples may fail,
    and `<key>_fooled`, the mean over those that were fooled (BRELU-GDA, ART) with
    `<key>_fooled_share`: a reading only, since a model may score lower there for withstanding more.
    `None` for an attack that works to a budget.

    `||x||` is about the zero of the samples' unit: 0 for black in 0..1.

    Reference: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool
    deep neural networks", 2016, arXiv:1511.04599.

    Args:
        norm: 1, 2 or inf; by default the attack's own. BRELU-GDA's is 2.

    Raises:
        ValueError: If it is another one.
    """

    key = "empirical_robustness"
    header = "emp. robustness"
    narrow = "emp.rob."
    legend = (
        "Emp. robustness: mean length of the shortest perturbation over that of the sample; "
        "infinite where a sample was never fooled."
    )

    def __init__(self, norm: float | str | None = None):
        self.norm = None if norm is None else check_norm(norm)

    def get_config(self) -> dict[str, Any]:
        return {"norm": self.norm}

    def measure(self, points: Points) -> np.ndarray | None:
        order = points.norm if self.norm is None else self.norm
        if order == 0:
            return None  # the number of pixels that are not black is no size
        flat = points.x.reshape(len(points.x), -1).astype(np.float64)
        return np.linalg.norm(flat, order, axis=1) + _TINY

    def compute(self, outcome: Outcome) -> float | None:
        return self.figures(outcome)[self.key]

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        size = outcome.result.columns.get(self.key)
        names = [self.key, *(f"{self.key}_{name}" for name in ("median", "fooled", "fooled_share"))]
        own = outcome.kind == "minimal" and outcome.alone
        if size is None or not own or not outcome.attacked.any():
            return dict.fromkeys(names)
        order = outcome.norm if self.norm is None else self.norm
        distance = np.where(outcome.found, outcome.result.distance(order), np.inf)
        each = (distance / size)[outcome.attacked]
        fooled = each[np.isfinite(each)]
        values = (
            float(each.mean()),
            float(np.median(each)),
            float(fooled.mean()) if len(fooled) else None,
            len(fooled) / len(each),
        )
        return dict(zip(names, values, strict=True))
