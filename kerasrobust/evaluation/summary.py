"""The rows of a report, computed from what an attack found by the metrics' declarations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasrobust.engine.batches import measure
from kerasrobust.engine.criterion import Criterion
from kerasrobust.engine.result import AttackResult
from kerasrobust.metrics import registry
from kerasrobust.metrics.base import Metric, Outcome, Points
from kerasrobust.specs import jsonable

_DISTANCES = ("l0", "l1", "l2", "linf")
# What `jsonable` writes for numbers that JSON has not.
_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclasses.dataclass(frozen=True)
class AttackSummary:
    """One attack's row of the report.

    Its figures are attributes too: `row.accuracy`, `row.median_l2`. Which there are, and what they
    mean, the metrics declare: `kerasrobust.metrics.names()`. With `attacked` the samples that were
    not adversarial before the attack, accuracy is a share of *all* samples and success one of
    the attacked ones.

    Attributes:
        name: Name in this report, unique.
        attack: Registry name of the attack.
        config: All of its hyperparameters.
        kind: `"budget"` (strongest point in a ball) or `"minimal"` (nearest adversarial point).
        norm: Norm the attack works in.
        knowledge: `"white"` (gradients) or `"black"` (outputs only).
        targeted: Whether it was after a certain class.
        checks: Name of the attack whose cross-check this is, else `None`.
        samples: Number of samples.
        figures: The figures by name.
    """

    name: str
    attack: str
    config: dict[str, Any]
    kind: str
    norm: float
    knowledge: str
    targeted: bool
    checks: str | None
    samples: int
    figures: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        # Through __dict__: a copy asks for attributes before it has any.
        figures = self.__dict__.get("figures", {})
        if name not in figures:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return figures[name]

    def to_dict(self) -> dict[str, Any]:
        """The row in strict JSON types, the figures beside the other fields."""
        fields = {key: getattr(self, key) for key in _IDENTITY}
        return jsonable({**fields, **self.figures})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AttackSummary:
        """The inverse of `to_dict`."""
        fields = {key: data[key] for key in _IDENTITY}
        fields["norm"] = float(fields["norm"])
        return cls(**fields, figures=read_figures(data, leave=_IDENTITY))


_IDENTITY = tuple(
    field.name for field in dataclasses.fields(AttackSummary) if field.name != "figures"
)


def read_figures(data: dict[str, Any], leave: Sequence[str] = ()) -> dict[str, Any]:
    """Figures as they were before `jsonable`: infinities are numbers again.

    Args:
        data: Figures by name.
        leave: Names in it that are no figures.
    """
    return {key: _numbers(value) for key, value in data.items() if key not in leave}


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def within(
    result: AttackResult,
    criterion: Criterion,
    labels: np.ndarray,
    confidence: np.ndarray,
    accepted: np.ndarray,
) -> AttackResult:
    """The same result with every sample that left a budget turned into a failure.

    Args:
        result: Outcome of an attack.
        criterion: The budget.
        labels: Labels of the clean samples, int64 of shape `(n,)`.
        confidence: Their probabilities, shape `(n,)`.
        accepted: Whether the model accepts the clean samples.
    """
    if criterion.eps is None:
        return result
    distance = result.distance(criterion.norm)
    if result.x is not None and result.x_adv is not None:
        # A failure, too, may have another label than the true one: it is looked at as it lies.
        lengths = measure(result.x, result.x_adv, (0.0, 1.0))
        distance = lengths[f"l{criterion.norm:g}"]
    outside = ~criterion.inside(distance)
    changes: dict[str, Any] = {
        key: np.where(outside, np.inf, getattr(result, key)) for key in _DISTANCES
    }
    if result.x is not None and result.x_adv is not None:
        tail = outside.reshape(-1, *[1] * (result.x.ndim - 1))
        changes["x_adv"] = np.where(tail, result.x, result.x_adv)
    if result.accepted is not None:
        changes["accepted"] = np.where(outside, accepted, result.accepted)
    return dataclasses.replace(
        result,
        success=result.success & ~outside,
        labels=np.where(outside, labels, result.labels),
        confidence=np.where(outside, confidence, result.confidence),
        **changes,
    )


def measured(
    result: AttackResult, metrics: Sequence[Metric], points: Points | None
) -> AttackResult:
    """The result with the columns that metrics read off its samples, those it lacks.

    Args:
        result: Outcome of an attack.
        metrics: The metrics of the report.
        points: See `points_of`; without samples the result stays as it is.
    """
    if points is None:
        return result
    lacking = [metric for metric in metrics if metric.key not in result.columns]
    columns = registry.measure(lacking, points)
    return dataclasses.replace(result, columns={**result.columns, **columns})


def points_of(result: AttackResult, y: np.ndarray, **context: Any) -> Points | None:
    """The samples of a result as metrics see them, or None where they were not kept.

    Args:
        result: Outcome of an attack.
        y: True labels, int64 of shape `(n,)`.
        **context: The further fields of `Points`.
    """
    if result.x is None or result.x_adv is None:
        return None
    return Points(result.x, result.x_adv, y, **context)


def figures(outcome: Outcome, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The figures of one row: of an attack, of the clean samples, of the worst case.

    Args:
        outcome: What the row is about.
        metrics: The metrics of the report; those that have nothing to say about this kind of row
            are left out.
    """
    row: dict[str, Any] = {}
    for metric in metrics:
        if outcome.row in metric.rows:
            row.update(metric.figures(outcome))
    return row


def summarise(
    name: str,
    attack: Any,
    result: AttackResult,
    y: np.ndarray,
    clean_correct: np.ndarray,
    nb_classes: int,
    value_range: float,
    knowledge: str = "white",
    checks: str | None = None,
    metrics: Sequence[Metric] | None = None,
    radii: np.ndarray | None = None,
    draws: np.ndarray | None = None,
    alone: bool = True,
) -> AttackSummary:
    """Computes an attack's row of the report from what it found.

    Args:
        name: Name in the report.
        attack: The attack, for its `kind` and `norm`.
        result: Its outcome. Columns that the metrics need and that it lacks are measured on its
            samples, if they were kept.
        y: True labels, int64 of shape `(n,)`.
        clean_correct: Booleans of shape `(n,)`, right without attack.
        nb_classes: Number of classes.
        value_range: Upper minus lower bound of the pixel values.
        knowledge: `"white"` or `"black"`.
        checks: Name of the attack this one cross-checks.
        metrics: The metrics of the report, those of every report by default.
        radii: See `Outcome`.
        draws: Likewise.
        alone: Likewise.
    """
    metrics = registry.resolve() if metrics is None else metrics
    kind, norm = attack.kind, float(attack.norm)
    points = points_of(result, y, value_range=value_range, norm=norm)
    result = measured(result, metrics, points)
    outcome = Outcome(
        result,
        y,
        clean_correct,
        nb_classes,
        value_range,
        kind,
        norm,
        radii=radii,
        draws=draws,
        alone=alone,
    )
    row = figures(outcome, metrics)
    taken = sorted(set(row) & set(_IDENTITY))
    if taken:
        raise ValueError(f"A figure must have a name of its own. Received: key={taken[0]!r}")
    return AttackSummary(
        name=name,
        attack=result.name,
        config=result.config,
        kind=kind,
        norm=norm,
        knowledge=knowledge,
        targeted=bool(result.targeted),
        checks=checks,
        samples=len(y),
        figures=row,
    )
