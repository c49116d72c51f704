"""The figures of one attack, computed from its result."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kerasrobust import metrics
from kerasrobust.attacks import AttackResult
from kerasrobust.metrics import Proportion

_NORMS = ("l0", "l1", "l2", "linf")
_CURVE_POINTS = 21


@dataclasses.dataclass(frozen=True)
class AttackSummary:
    """One attack's row of the report: AREB's five criteria and what is needed to judge them.

    With `attacked` the samples that were not adversarial before the attack:

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
        attacked: Number of samples that were not adversarial from the start.
        successes: Number of attacked samples that became adversarial.
        failures: `attacked - successes`; they count as infinite distances.
        initially_adversarial: `samples - attacked`; they count as zero distances.
        gave_up: Number of samples a decision attack found no starting point for.
        accuracy: Share of *all* samples that keep their true label under this attack.
        accuracy_interval: Its 95 % Wilson interval.
        success_rate: `successes / attacked`, `None` when nothing was attacked. Success is a change
            of the model's own label (or reaching the target).
        success_interval: Its 95 % Wilson interval.
        class_accuracy: Accuracy per class, `None` for classes without samples.
        average_confidence: Mean probability of the predicted label over the successes; `None`
            without any.
        median_l0: Median percentage of altered pixels. All medians: over all samples.
        median_l1: Median L1 distance.
        median_l2: Median L2 distance.
        median_linf: Median Linf distance.
        ssim: Mean structural similarity of the successes to their clean images; `None` without
            any, or for inputs that are no images. Read it beside the success rate.
        queries: Forward passes per attacked sample, mean.
        gradients: Forward and backward passes per attacked sample, mean.
        executed_queries: Forward passes executed, padding included.
        executed_gradients: Forward and backward passes executed, padding included.
        seconds: Wall-clock time for all samples, compilation included.
        budget_curve: For minimal-norm attacks, `{"norm", "eps", "accuracy"}`: accuracy against
            budget in the attack's norm; else `None`.
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
    attacked: int
    successes: int
    failures: int
    initially_adversarial: int
    gave_up: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    success_rate: float | None
    success_interval: tuple[float, float] | None
    class_accuracy: list[float | None]
    average_confidence: float | None
    median_l0: float
    median_l1: float
    median_l2: float
    median_linf: float
    ssim: float | None
    queries: float
    gradients: float
    executed_queries: int
    executed_gradients: int
    seconds: float
    budget_curve: dict[str, Any] | None


def within(
    result: AttackResult, eps: float, norm: float, labels: np.ndarray, confidence: np.ndarray
) -> AttackResult:
    """The same result with every sample that left a budget turned into a failure.

    Args:
        result: Outcome of an attack.
        eps: Radius of the budget.
        norm: Its norm, 1, 2 or inf.
        labels: Labels of the clean samples, int64 of shape `(n,)`.
        confidence: Their probabilities, shape `(n,)`.
    """
    # Room for the rounding of a float32 projection. A failure is at infinity already.
    outside = ~(result.distance(norm) <= eps * (1.0 + 1e-5))
    tail = outside.reshape(-1, *[1] * (result.x.ndim - 1))
    distances: dict[str, Any] = {
        key: np.where(outside, np.inf, getattr(result, key)) for key in _NORMS
    }
    return dataclasses.replace(
        result,
        success=result.success & ~outside,
        x_adv=np.where(tail, result.x, result.x_adv),
        labels=np.where(outside, labels, result.labels),
        confidence=np.where(outside, confidence, result.confidence),
        **distances,
    )


def survived(result: AttackResult, y: np.ndarray, clean_correct: np.ndarray) -> np.ndarray:
    """Samples that were right before the attack and are right after it.

    Args:
        result: Outcome of the attack.
        y: True labels, int64 of shape `(n,)`.
        clean_correct: Booleans of shape `(n,)`, right without attack.

    Returns:
        Booleans of shape `(n,)`.
    """
    return clean_correct & (result.labels == y)


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
) -> AttackSummary:
    """Computes an attack's row of the report from what it found.

    Args:
        name: Name in the report.
        attack: The attack, for its `kind` and `norm`.
        result: Its outcome.
        y: True labels, int64 of shape `(n,)`.
        clean_correct: Booleans of shape `(n,)`, right without attack.
        nb_classes: Number of classes.
        value_range: Upper minus lower bound of the pixel values.
        knowledge: `"white"` or `"black"`.
        checks: Name of the attack this one cross-checks.
    """
    initial = result.initially_adversarial
    found = result.success & ~initial
    attacked = ~initial

    keeps = survived(result, y, clean_correct)
    # Any other label than y would do: the metric only asks whether the two agree.
    labels = np.where(keeps, y, -1)
    accuracy = metrics.accuracy(labels, y)
    assert accuracy is not None  # evaluate() refuses to work on no samples
    success = metrics.success_rate(found, initial)

    distances = {key: _distances(getattr(result, key), found, initial) for key in _NORMS}
    pixels = metrics.altered_pixels(result.x, result.x_adv, value_range)
    distances["l0"] = _distances(pixels, found, initial)
    medians = {f"median_{key}": metrics.median_distance(d) for key, d in distances.items()}

    return AttackSummary(
        name=name,
        attack=result.name,
        config=result.config,
        kind=attack.kind,
        norm=float(attack.norm),
        knowledge=knowledge,
        targeted=bool(result.targeted),
        checks=checks,
        samples=len(y),
        attacked=int(attacked.sum()),
        successes=int(found.sum()),
        failures=int((attacked & ~found).sum()),
        initially_adversarial=int(initial.sum()),
        gave_up=int(result.gave_up.sum()),
        accuracy=accuracy.value,
        accuracy_interval=(accuracy.low, accuracy.high),
        success_rate=None if success is None else success.value,
        success_interval=_interval(success),
        class_accuracy=listed(metrics.class_accuracy(labels, y, nb_classes)),
        average_confidence=_number(metrics.average_confidence(result.confidence, found)),
        **medians,
        ssim=_ssim(result.x[found], result.x_adv[found], value_range),
        queries=_mean(result.queries[attacked]),
        gradients=_mean(result.gradients[attacked]),
        executed_queries=int(result.executed_queries),
        executed_gradients=int(result.executed_gradients),
        seconds=float(result.seconds),
        budget_curve=_curve(attack, result, found, initial),
    )


def listed(values: np.ndarray) -> list[float | None]:
    """An array as a list of numbers with `None` for NaN."""
    return [_number(value) for value in values]


def _distances(values: np.ndarray, found: np.ndarray, initial: np.ndarray) -> np.ndarray:
    return np.where(initial, 0.0, np.where(found, values, np.inf))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _interval(value: Proportion | None) -> tuple[float, float] | None:
    return None if value is None else (value.low, value.high)


def _ssim(x: np.ndarray, x_adv: np.ndarray, value_range: float) -> float | None:
    if x.ndim != 4 or len(x) == 0 or min(x.shape[1:3]) < 3:
        return None
    return float(metrics.ssim(x, x_adv, value_range).mean())


def _curve(
    attack: Any, result: AttackResult, found: np.ndarray, initial: np.ndarray
) -> dict[str, Any] | None:
    if attack.kind != "minimal" or not found.any():
        return None
    distances = _distances(result.distance(attack.norm), found, initial)
    budgets = np.linspace(0.0, distances[found].max(), _CURVE_POINTS)
    accuracy = metrics.accuracy_against_budget(distances, budgets)
    return {"norm": float(attack.norm), "eps": budgets.tolist(), "accuracy": accuracy.tolist()}
