"""Names of metrics: the figures of every report, and further ones by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from kerasrobust import specs
from kerasrobust.metrics.base import Metric

# In the order of their columns.
METRICS = {
    "attacked": "kerasrobust.metrics.counts:Attacked",
    "successes": "kerasrobust.metrics.counts:Successes",
    "failures": "kerasrobust.metrics.counts:Failures",
    "initially_adversarial": "kerasrobust.metrics.counts:InitiallyAdversarial",
    "gave_up": "kerasrobust.metrics.counts:GaveUp",
    "rejected": "kerasrobust.metrics.rejection:Rejected",
    "accuracy": "kerasrobust.metrics.accuracy:Accuracy",
    "false_positive_rate": "kerasrobust.metrics.rejection:FalsePositiveRate",
    "success_rate": "kerasrobust.metrics.success_rate:SuccessRate",
    "average_confidence": "kerasrobust.metrics.confidence:AverageConfidence",
    "median_l0": "kerasrobust.metrics.distance:MedianL0",
    "median_l1": "kerasrobust.metrics.distance:MedianL1",
    "median_l2": "kerasrobust.metrics.distance:MedianL2",
    "median_linf": "kerasrobust.metrics.distance:MedianLinf",
    "ssim": "kerasrobust.metrics.ssim:SSIM",
    "queries": "kerasrobust.metrics.cost:Queries",
    "gradients": "kerasrobust.metrics.cost:Gradients",
    "executed_queries": "kerasrobust.metrics.cost:ExecutedQueries",
    "executed_gradients": "kerasrobust.metrics.cost:ExecutedGradients",
    "seconds": "kerasrobust.metrics.cost:Seconds",
    "class_accuracy": "kerasrobust.metrics.accuracy:ClassAccuracy",
    "budget_curve": "kerasrobust.metrics.budget_curve:BudgetCurve",
}


def names() -> list[str]:
    """Registry names of the metrics."""
    return list(METRICS)


def get(name: str) -> Metric:
    """A metric by its name.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in METRICS:
        raise ValueError(
            f"Unknown metric. {specs.near_match(name, names())} Received: metric={name!r}"
        )
    module, _, kind = METRICS[name].partition(":")
    return getattr(importlib.import_module(module), kind)()


def resolve(further: Iterable[str | Metric] | None = None) -> tuple[Metric, ...]:
    """The metrics of a report: those of every report, then further ones.

    Args:
        further: Names of metrics, or metrics. One that every report has anyway stays in its place.

    Raises:
        ValueError: If a name is unknown, or two metrics have the same key.
        TypeError: If one is neither a name nor a metric.
    """
    if isinstance(further, (str, Metric)):
        further = [further]
    chosen = {name: get(name) for name in METRICS}
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


def measure(
    metrics: Iterable[Metric], x: np.ndarray, x_adv: np.ndarray, value_range: float
) -> dict[str, np.ndarray]:
    """The columns that the metrics read off a batch of samples, by metric key.

    Args:
        metrics: See `resolve`.
        x: Clean samples of the batch, shape `(n, ...)`.
        x_adv: What an attack made of them, same shape.
        value_range: Upper minus lower bound of the pixel values.

    Raises:
        ValueError: If a metric returns anything but one value per sample.
    """
    columns: dict[str, Any] = {}
    for metric in metrics:
        column = metric.measure(x, x_adv, value_range)
        if column is None:
            continue
        if np.shape(column) != (len(x),):
            raise ValueError(
                f"Metric {metric.key!r} must measure one value per sample, shape ({len(x)},). "
                f"Received: values of shape {np.shape(column)}"
            )
        columns[metric.key] = np.asarray(column)
    return columns
