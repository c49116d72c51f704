"""Measures of accuracy, attack success and perturbation size.

All take and return NumPy arrays; distances follow one rule: `inf` for a sample the attack
failed on, 0 for one that was misclassified before it started. A figure of the report is a `Metric`:
one declaration of its name, its column and its computation, found by name in `registry`.
"""

from kerasrobust.engine.criterion import clean_correct, survived
from kerasrobust.metrics.accuracy import accuracy, class_accuracy
from kerasrobust.metrics.base import Metric, Outcome, Points, Share
from kerasrobust.metrics.budget_curve import accuracy_against_budget
from kerasrobust.metrics.clever import clever
from kerasrobust.metrics.confidence import average_confidence
from kerasrobust.metrics.distance import altered_pixels, median_distance
from kerasrobust.metrics.extreme_value import right_endpoint
from kerasrobust.metrics.loss_sensitivity import loss_sensitivity
from kerasrobust.metrics.proportion import Proportion, proportion
from kerasrobust.metrics.psi import kl_divergence
from kerasrobust.metrics.registry import get, names
from kerasrobust.metrics.ssim import ssim
from kerasrobust.metrics.success_rate import success_rate
from kerasrobust.metrics.training_distance import TrainingDistance, nearest_distance

__all__ = [
    "Metric",
    "Outcome",
    "Points",
    "Proportion",
    "Share",
    "TrainingDistance",
    "accuracy",
    "accuracy_against_budget",
    "altered_pixels",
    "average_confidence",
    "class_accuracy",
    "clean_correct",
    "clever",
    "get",
    "kl_divergence",
    "loss_sensitivity",
    "median_distance",
    "names",
    "nearest_distance",
    "proportion",
    "right_endpoint",
    "ssim",
    "success_rate",
    "survived",
]
