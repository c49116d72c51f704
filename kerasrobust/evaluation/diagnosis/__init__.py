"""Reasons to distrust a result: found in it, and by passes of their own."""

from kerasrobust.evaluation.diagnosis.attacks import (
    check_attack_labels,
    check_detector_seen,
    check_gradients,
    check_lengths,
    check_scores,
    check_starts,
)
from kerasrobust.evaluation.diagnosis.comparison import diagnose
from kerasrobust.evaluation.diagnosis.finding import SEVERITY, Finding, by_weight
from kerasrobust.evaluation.diagnosis.inputs import look_for_unit
from kerasrobust.evaluation.diagnosis.predictions import (
    check_batches,
    check_certificate,
    check_confidence,
    check_detector,
    check_draws,
    check_pixels,
    check_predictions,
)
from kerasrobust.evaluation.diagnosis.probes import Subject, probe

__all__ = [
    "SEVERITY",
    "Finding",
    "Subject",
    "by_weight",
    "check_attack_labels",
    "check_batches",
    "check_certificate",
    "check_confidence",
    "check_detector",
    "check_detector_seen",
    "check_draws",
    "check_gradients",
    "check_lengths",
    "check_pixels",
    "check_predictions",
    "check_scores",
    "check_starts",
    "diagnose",
    "look_for_unit",
    "probe",
]
