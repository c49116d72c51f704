"""Names of metrics: the figures of every report, and further ones by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kerasrobust.metrics.base import Metric, Points
from kerasrobust.registry import Registry

_HERE = "kerasrobust.metrics."

# One row for each metric, in the order of their columns: those of every report ...
STANDARD = {
    "attacked": _HERE + "counts:Attacked",
    "successes": _HERE + "counts:Successes",
    "failures": _HERE + "counts:Failures",
    "initially_adversarial": _HERE + "counts:InitiallyAdversarial",
    "gave_up": _HERE + "counts:GaveUp",
    "rejected": _HERE + "rejection:Rejected",
    "accuracy": _HERE + "accuracy:Accuracy",
    "accuracy_deviation": _HERE + "accuracy:Deviation",
    "certified_accuracy": _HERE + "certified:CertifiedAccuracy",
    "false_positive_rate": _HERE + "rejection:FalsePositiveRate",
    "success_rate": _HERE + "success_rate:SuccessRate",
    "average_confidence": _HERE + "confidence:AverageConfidence",
    "median_l0": _HERE + "distance:MedianL0",
    "median_l1": _HERE + "distance:MedianL1",
    "median_l2": _HERE + "distance:MedianL2",
    "median_linf": _HERE + "distance:MedianLinf",
    "ssim": _HERE + "ssim:SSIM",
    "queries": _HERE + "cost:Queries",
    "gradients": _HERE + "cost:Gradients",
    "executed_queries": _HERE + "cost:ExecutedQueries",
    "executed_gradients": _HERE + "cost:ExecutedGradients",
    "seconds": _HERE + "cost:Seconds",
    "class_accuracy": _HERE + "accuracy:ClassAccuracy",
    "outcomes": _HERE + "outcomes:Outcomes",
    "budget_curve": _HERE + "budget_curve:BudgetCurve",
    "nearest": _HERE + "budget_curve:Nearest",
    "budgets": _HERE + "budget_curve:Budgets",
    "verdict": _HERE + "certified:Verdict",
}
# ... and those that ask more of the model, or of the caller, and are there by name only.
FURTHER = {
    "clever_l1": _HERE + "clever:CleverL1",
    "clever_l2": _HERE + "clever:CleverL2",
    "clever_linf": _HERE + "clever:CleverLinf",
    "empirical_robustness": _HERE + "empirical_robustness:EmpiricalRobustness",
    "psi": _HERE + "psi:Psi",
    "loss_sensitivity_l1": _HERE + "loss_sensitivity:LossSensitivityL1",
    "loss_sensitivity_l2": _HERE + "loss_sensitivity:LossSensitivityL2",
    "training_distance": _HERE + "training_distance:TrainingDistance",
}
METRICS: Registry[Metric] = Registry(
    "kerasrobust.metrics", (Metric,), {**STANDARD, **FURTHER}, naming="key"
)


def names() -> list[str]:
    """Names of the metrics: those of every report, in their columns' order, then further ones."""
    return [*METRICS.builtin, *(name for name in METRICS.names() if name not in METRICS.builtin)]


def get(name: Any, /, **arguments: Any) -> Metric:
    """A metric by its name; see `Registry.get`.

    Raises:
        TypeError: If it is nothing of the kind, or takes no such argument.
        ValueError: If the name is unknown.
        ImportError: If it is a plugin's that cannot be imported.
    """
    return METRICS.get(name, **arguments)


def resolve(further: str | Metric | Iterable[str | Metric] | None = None) -> tuple[Metric, ...]:
    """The metrics of a report: those of every report, then further ones.

    Args:
        further: Names of metrics, or metrics. One that every report has anyway stays in its place.

    Raises:
        ValueError: If a name is unknown, or two metrics have the same key.
        TypeError: If one is neither a name nor a metric.
    """
    if isinstance(further, (str, Metric)):
        further = [further]
    chosen = {name: get(name) for name in STANDARD}
    for item in further or ():
        if isinstance(item, str) and item in chosen:
            continue
        metric = get(item) if isinstance(item, str) else item
        if not isinstance(metric, Metric):
            raise TypeError(f"Expected names of metrics, or metrics. Received: metrics={item!r}")
        if metric.key in chosen:
            raise ValueError(
                f"Expected metrics with keys of their own. Received: two with key={metric.key!r}"
            )
        chosen[metric.key] = metric
    return tuple(chosen.values())


def known(keys: Iterable[str]) -> tuple[Metric, ...]:
    """Those of these metrics that can be found here: a report may come from elsewhere."""
    return tuple(get(key) for key in keys if key in names())


def measured_clean(metrics: Iterable[Metric]) -> list[Metric]:
    """Those of the metrics that measure the clean samples."""
    return [
        metric
        for metric in metrics
        if "clean" in metric.rows and type(metric).measure is not Metric.measure
    ]


def measure(metrics: Iterable[Metric], points: Points) -> dict[str, np.ndarray]:
    """The columns that the metrics read off a batch of samples, by metric key.

    Args:
        metrics: See `resolve`; those that have nothing to say about the points' row are left out.
        points: The samples.

    Raises:
        ValueError: If a metric returns anything but one value per sample.
    """
    columns: dict[str, Any] = {}
    n = len(points.x)
    for metric in metrics:
        column = metric.measure(points) if points.row in metric.rows else None
        if column is None:
            continue
        if np.shape(column) != (n,):
            raise ValueError(
                f"Metric {metric.key!r} must measure one value per sample, shape ({n},). "
                f"Received: values of shape {np.shape(column)}"
            )
        columns[metric.key] = np.asarray(column)
    return columns
