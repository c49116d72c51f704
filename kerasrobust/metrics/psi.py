"""Psi: how little an attack can move the model's probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from kerasrobust.checks import check_float
from kerasrobust.engine.classifier import Classifier
from kerasrobust.metrics.base import Metric, Outcome, Points

CLIP = 1e-7


def kl_divergence(p, q, clip: float = CLIP) -> np.ndarray:
    """`KL(p || q) = sum_j p_j log(p_j / q_j)`, both clipped to `[clip, 1]` first, as Keras does.

    Args:
        p: Probabilities, shape `(n, classes)`.
        q: Probabilities, same shape.
        clip: Smallest probability: none of them is infinite, `-log(clip)` about the largest.

    Returns:
        Float64 of shape `(n,)`, in nats.

    Raises:
        ValueError: If the shapes differ.

    Example:

    >>> float(kl_divergence([[1.0, 0.0]], [[0.0, 1.0]])[0].round(2))
    16.12
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    if p.ndim != 2 or p.shape != q.shape:
        raise ValueError(
            "Expected two arrays of probabilities of the same shape (n, classes). "
            f"Received: p of shape {p.shape}, q of shape {q.shape}"
        )
    p, q = np.clip(p, clip, 1.0), np.clip(q, clip, 1.0)
    return (p * np.log(p / q)).sum(axis=1)


class Psi(Metric):
    """`psi(x) = 1 / max_d KL(P(x) || P(x + d))` (AREB, equation 8), the median over samples.

    In an attack's row `d` leads to the point that the attack returned; in the row of the worst case
    the maximum is over the points of all attacks. Samples that were adversarial already, which the
    attack had nothing to do on, do not count.

    The median stands beside `psi_mean`, infinite as soon as one sample was left where it was, and
    `psi_of_mean_kl`, 1 over the mean divergence, which is not. `psi_samples` is how many they are.
    Probabilities are clipped: with 1e-7, Keras's number, no figure is below 1 / 16.1 = 0.06.

    Reference: Yu et al., "Interpreting and Evaluating Neural Network Robustness", 2019,
    arXiv:1905.04270.

    Args:
        clip: Smallest probability.

    Raises:
        ValueError: If it is not positive.
    """

    key = "psi"
    header = "psi"
    rows = ("attack", "worst")
    needs = "scores"
    stored = True
    legend = "Psi: 1 over the KL divergence that the attack causes, median over attacked samples."

    def __init__(self, clip: float = CLIP):
        self.clip = check_float("clip", clip, above=True)

    def get_config(self) -> dict[str, Any]:
        return {"clip": self.clip}

    def measure(self, points: Points) -> np.ndarray | None:
        if points.classifier is None:
            return None
        judge = points.classifier.judging
        before, after = (
            _probabilities(judge, x, points.batch_size, points.seed)
            for x in (points.x, points.x_adv)
        )
        return kl_divergence(before, after, self.clip)

    def compute(self, outcome: Outcome) -> float | None:
        return self.figures(outcome)[self.key]

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        divergence = self._divergence(outcome)
        if not len(divergence):
            return {
                **dict.fromkeys((self.key, f"{self.key}_mean", f"{self.key}_of_mean_kl")),
                f"{self.key}_samples": 0,
            }
        with np.errstate(divide="ignore"):
            each = 1.0 / divergence
            return {
                self.key: float(np.median(each)),
                f"{self.key}_mean": float(each.mean()),
                f"{self.key}_of_mean_kl": float(1.0 / divergence.mean()),
                f"{self.key}_samples": len(divergence),
            }

    def _divergence(self, outcome: Outcome) -> np.ndarray:
        """Of the samples that count; rounding below zero is none."""
        if outcome.row == "worst":
            results = [r for r in outcome.results.values() if self.key in r.columns]
            if not results:
                return np.zeros(0)
            columns = np.stack([result.columns[self.key] for result in results])
            return np.maximum(columns.max(axis=0)[outcome.clean_correct], 0.0)
        column = outcome.result.columns.get(self.key)
        return np.zeros(0) if column is None else np.maximum(column[outcome.attacked], 0.0)


def _probabilities(judge: Classifier, x: np.ndarray, batch_size: int, seed: int) -> np.ndarray:
    """Mean over the votes; the same draws for the same seed, so that an unmoved sample agrees."""
    parts = [
        special.softmax(judge.predict(x, batch_size, (seed, vote)).astype(np.float64), axis=1)
        for vote in range(judge.votes)
    ]
    return np.mean(parts, axis=0)
