"""Measures of accuracy, attack success and perturbation size.

All take and return NumPy arrays; distances follow one rule: `inf` for a sample the attack
failed on, 0 for one that was misclassified before it started.
"""

from kerasrobust.metrics.accuracy import accuracy, class_accuracy
from kerasrobust.metrics.budget_curve import accuracy_against_budget
from kerasrobust.metrics.confidence import average_confidence
from kerasrobust.metrics.distance import altered_pixels, median_distance
from kerasrobust.metrics.proportion import Proportion, proportion
from kerasrobust.metrics.ssim import ssim
from kerasrobust.metrics.success_rate import success_rate

__all__ = [
    "Proportion",
    "accuracy",
    "accuracy_against_budget",
    "altered_pixels",
    "average_confidence",
    "class_accuracy",
    "median_distance",
    "proportion",
    "ssim",
    "success_rate",
]
