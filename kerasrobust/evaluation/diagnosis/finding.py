"""What a reader of a report should know: the record, and how grave each kind is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from kerasrobust.specs import jsonable

# How grave each finding is, the gravest first. "invalid": the figures say nothing about robustness;
# "doubtful": it is probably overestimated; "note": what a reader should know. What each measures,
# by which threshold, and where that comes from: the table in docs/evaluating.md.
SEVERITY = {
    "constant_predictions": "invalid",
    "other_order": "invalid",
    "chance_level": "invalid",
    "rejects_clean": "invalid",
    "mixes_samples": "invalid",
    "certificate_violated": "invalid",
    "randomised": "doubtful",
    "pixel_range": "doubtful",
    "another_unit": "doubtful",
    "small_budget": "doubtful",
    "short_steps": "doubtful",
    "smoothed_labels": "doubtful",
    "adversarial_from_the_start": "doubtful",
    "gradient_masking": "doubtful",
    "blind_to_detector": "doubtful",
    "flat_scores": "doubtful",
    "zero_gradients": "doubtful",
    "non_finite_gradients": "doubtful",
    "non_finite_scores": "doubtful",
    "unbounded_attack_fails": "doubtful",
    "attack_misses_planted": "doubtful",
    "noise_as_good": "doubtful",
    "unstable_gradients": "doubtful",
    "black_box_stronger": "doubtful",
    "one_step_stronger": "doubtful",
    "success_falls": "doubtful",
    "step_too_long": "doubtful",
    "not_converged": "doubtful",
    "still_gains": "doubtful",
    "cross_check": "doubtful",
    "partial": "doubtful",
    "saturated": "note",
    "few_samples": "note",
    "gave_up": "note",
    "no_counterpart": "note",
    "few_classes": "note",
    "no_labels": "note",
    "only_correct": "note",
    "repeated_draws": "note",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something a reader of the report should know.

    Attributes:
        code: One of the keys of `SEVERITY`.
        message: What it means, in one or two sentences with the figures.
        value: What was measured, where it is a number; docs/evaluating.md says of what.
        threshold: What it was compared with.
        command: What to run next: a command line, in which `...` stands for the model and the data
            of this run, or a call; None where there is nothing to run.
    """

    code: str
    message: str
    value: float | None = None
    threshold: float | None = None
    command: str | None = None

    @property
    def severity(self) -> str:
        """`"invalid"`, `"doubtful"` or `"note"`: see `SEVERITY`."""
        return SEVERITY[self.code]

    @property
    def measured(self) -> str:
        """The value beside its threshold; empty where there is none."""
        if self.value is None:
            return ""
        limit = "" if self.threshold is None else f", threshold {self.threshold:.3g}"
        return f"measured {self.value:.3g}{limit}"

    def to_dict(self) -> dict[str, Any]:
        """The finding in strict JSON types."""
        return jsonable({**dataclasses.asdict(self), "severity": self.severity})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Finding:
        """The inverse of `to_dict`; further keys are left out."""
        fields: dict[str, Any] = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        for number in ("value", "threshold"):
            if fields[number] is not None:
                fields[number] = float(fields[number])
        return cls(**fields)


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one evaluation, the most serious first."""
    order = list(SEVERITY)
    return sorted(findings, key=lambda finding: order.index(finding.code))
