"""Names of defenses: `get("gda", sigma=0.1)`, `get("gda:N=5,sigma=0.1")`."""

from __future__ import annotations

from typing import Any

from kerasrobust.defenses.decision.base import DecisionDefense
from kerasrobust.defenses.layers.base import LayerDefense
from kerasrobust.defenses.training.base import TrainingDefense
from kerasrobust.registry import Registry

Defense = TrainingDefense | LayerDefense | DecisionDefense
_DECISION = "kerasrobust.defenses.decision."
_LAYERS, _TRAINING = "kerasrobust.defenses.layers.", "kerasrobust.defenses.training."

# One row for each defense, in the order of `taxonomy`.
DEFENSES: Registry[Defense] = Registry(
    "kerasrobust.defenses",
    (TrainingDefense, LayerDefense, DecisionDefense),
    {
        "adversarial_training": _TRAINING + "adversarial_training:AdversarialTraining",
        "awp": _TRAINING + "adversarial_weight_perturbation:AdversarialWeightPerturbation",
        "brelu": _LAYERS + "bounded_relu:BoundedReLU",
        "distillation": _TRAINING + "distillation:Distillation",
        "e2sad": _TRAINING + "e2sad:E2sad",
        "ensemble_adversarial_training": _TRAINING
        + "ensemble_adversarial_training:EnsembleAdversarialTraining",
        "fast": _TRAINING + "fast:Fast",
        "feature_squeezing": _LAYERS + "feature_squeezing:FeatureSqueezing",
        "gaussian_augmentation": _LAYERS + "gaussian_augmentation:GaussianAugmentation",
        "gda": _TRAINING + "gaussian_data_augmentation:GaussianDataAugmentation",
        "jacobian": _TRAINING + "jacobian:Jacobian",
        "jpeg": _LAYERS + "jpeg_compression:JPEGCompression",
        "label_smoothing": _TRAINING + "label_smoothing:LabelSmoothing",
        "magnet": _DECISION + "magnet:Magnet",
        "mart": _TRAINING + "mart:Mart",
        "minimax": _TRAINING + "minimax:Minimax",
        "nsloss": _TRAINING + "nsloss:NsLoss",
        "randomized_smoothing": _DECISION + "randomized_smoothing:RandomizedSmoothing",
        "spatial_smoothing": _LAYERS + "spatial_smoothing:SpatialSmoothing",
        "superimpose": _TRAINING + "superimpose:Superimpose",
        "trades": _TRAINING + "trades:Trades",
        "tvm": _LAYERS + "total_variance_minimization:TotalVarianceMinimization",
        "vat": _TRAINING + "vat:VirtualAdversarialTraining",
    },
)


def names() -> list[str]:
    """Names of all defenses, sorted."""
    return DEFENSES.names()


def get(defense: Any, /, **config: Any) -> Defense:
    """A defense from its name, its description or itself.

    Args:
        defense: A name (``"gda"``), a name with arguments (``"gda:N=5,sigma=0.1"``), a dictionary
            ``{"name": ..., "config": {...}}`` or an instance.
        **config: Arguments of the defense, beside or instead of those in `defense`.

    Returns:
        The defense.

    Raises:
        TypeError: If `defense` is of another type, or takes no such argument.
        ValueError: If the name is unknown or an argument is out of range.
        ImportError: If it is a plugin's that cannot be imported.

    Example:
        >>> get("gda", N=5)
        GaussianDataAugmentation(sigma=0.3, N=5, keep_original=False, batch_norm='training',
            clip=True)
    """
    return DEFENSES.get(defense, **config)
