"""Pictures: of reports, and of what models say around samples."""

from kerasrobust.evaluation.pictures.reports import (
    Examples,
    File,
    adaptive_curves,
    adversarial_grid,
    are_images,
    budget_curves,
    certified_curves,
    choose,
    heat_maps,
    magnification,
    security_curves,
    spread,
    tuning_curves,
)
from kerasrobust.evaluation.pictures.surfaces import (
    decision_boundary,
    decision_space,
    loss_against_eps,
    loss_surface,
)

__all__ = [
    "Examples",
    "File",
    "adaptive_curves",
    "adversarial_grid",
    "are_images",
    "budget_curves",
    "certified_curves",
    "choose",
    "decision_boundary",
    "decision_space",
    "heat_maps",
    "loss_against_eps",
    "loss_surface",
    "magnification",
    "security_curves",
    "spread",
    "tuning_curves",
]
