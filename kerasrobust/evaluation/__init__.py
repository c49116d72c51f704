"""Evaluation: run attacks, judge them, report."""

from kerasrobust.evaluation import pictures, presets, surfaces
from kerasrobust.evaluation.compare import Comparison, compare
from kerasrobust.evaluation.diagnosis import Finding
from kerasrobust.evaluation.evaluate import EvaluationInterrupted, evaluate
from kerasrobust.evaluation.report import Report
from kerasrobust.evaluation.resolve import resolve
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust.evaluation.tuning import Tuning, TuningInterrupted, tune

__all__ = [
    "AttackSummary",
    "Comparison",
    "EvaluationInterrupted",
    "Finding",
    "Report",
    "Tuning",
    "TuningInterrupted",
    "compare",
    "evaluate",
    "pictures",
    "presets",
    "resolve",
    "surfaces",
    "tune",
]
