"""Classification accuracy, overall and per class."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome, Share
from kerasrobust.metrics.proportion import Proportion, proportion


def _correct(labels, y) -> np.ndarray:
    labels, y = np.asarray(labels), np.asarray(y)
    if labels.ndim != 1 or labels.shape != y.shape:
        raise ValueError(
            "Expected two vectors of the same length, one label per sample. "
            f"Received: labels of shape {labels.shape} and y of shape {y.shape}"
        )
    return labels == y


def accuracy(labels, y, level: float = 0.95) -> Proportion | None:
    """Share of samples whose predicted label is the true one.

    AREB, section 2.3.1: `|{x : f(x) = l_x}| / |X|`. It is measured against the *true* label;
    the success of an attack is measured against the label the model gave the clean sample.

    Args:
        labels: Predicted labels, integers of shape `(n,)`.
        y: True labels, integers of shape `(n,)`.
        level: Confidence level of the Wilson interval.

    Returns:
        A `Proportion`, or `None` without samples.

    Raises:
        ValueError: If the shapes differ or are not vectors.
    """
    return proportion(_correct(labels, y), level)


def class_accuracy(labels, y, nb_classes: int) -> np.ndarray:
    """Accuracy of each class apart: an average can hide a class that is lost altogether.

    Args:
        labels: Predicted labels, integers of shape `(n,)`.
        y: True labels, integers of shape `(n,)`, in `[0, nb_classes)`.
        nb_classes: Number of classes.

    Returns:
        Float array of shape `(nb_classes,)`, NaN for a class without samples.

    Raises:
        ValueError: If the shapes differ or a true label is out of range.
    """
    correct, y = _correct(labels, y), np.asarray(y)
    if y.size and (y.min() < 0 or y.max() >= nb_classes):
        raise ValueError(
            f"Expected true labels in [0, {nb_classes}). "
            f"Received: y between {y.min()} and {y.max()}"
        )
    samples = np.bincount(y, minlength=nb_classes)
    hits = np.bincount(y, weights=correct, minlength=nb_classes)
    with np.errstate(invalid="ignore"):
        return hits / samples


class Accuracy(Share):
    """Share of *all* samples that keep their true label, or are rejected, under the attack."""

    key = "accuracy"
    header = "accuracy %"
    narrow = "acc.%"
    legend = (
        "Accuracy: share of all samples that keep their true label. In brackets: 95 % Wilson "
        "intervals."
    )
    rows = ("clean", "attack", "worst")

    def compute(self, outcome: Outcome) -> Proportion | None:
        return proportion(outcome.survived)


def deviation(values) -> float:
    """Standard deviation of one draw, from several of them.

    Args:
        values: A figure of each draw, shape `(draws,)`, 2 or more.

    Returns:
        That of a sample, divided by `draws - 1`.
    """
    return float(np.std(np.asarray(values, np.float64), ddof=1))


class Deviation(Metric):
    """Standard deviation of the accuracy over draws of the samples, and that of each draw.

    AREB measures ten draws of 100 samples. `None` in a report without draws.
    """

    key = "accuracy_deviation"
    header = "dev. %"
    digits = 1
    legend = "Dev.: standard deviation of the accuracy over the draws of the samples, in points."
    rows = ("clean", "attack", "worst")

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        numbers = np.unique([] if outcome.draws is None else outcome.draws)
        if len(numbers) < 2:
            return {self.key: None}
        values = [float(outcome.survived[outcome.draws == number].mean()) for number in numbers]
        return {self.key: deviation(values), "accuracy_draws": values}

    def format(self, value: Any) -> str:
        return super().format(None if value is None else 100.0 * value)


class ClassAccuracy(Metric):
    """Accuracy per class, `None` for classes without samples."""

    key = "class_accuracy"
    header = "Accuracy per class, %"
    table = "classes"
    digits = 0
    rows = ("clean", "attack", "worst")

    def compute(self, outcome: Outcome) -> list[float | None]:
        # Any other label than y would do: the metric only asks whether the two agree.
        labels = np.where(outcome.survived, outcome.y, -1)
        shares = class_accuracy(labels, outcome.y, outcome.nb_classes)
        return [None if np.isnan(share) else float(share) for share in shares]

    def format(self, value: Any) -> str:
        return "" if value is None else super().format(100.0 * value)
