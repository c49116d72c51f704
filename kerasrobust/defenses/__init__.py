"""Defenses: links of one training chain, and layers that become part of the network."""

from kerasrobust.defenses.layers import BoundedReLU, LayerDefense
from kerasrobust.defenses.registry import get, names
from kerasrobust.defenses.robust_model import RobustModel
from kerasrobust.defenses.training import (
    AdversarialTraining,
    AdversarialWeightPerturbation,
    Batch,
    Context,
    Distillation,
    E2sad,
    GaussianDataAugmentation,
    Inner,
    LabelSmoothing,
    Mart,
    Minimax,
    Superimpose,
    Trades,
    TrainingDefense,
    VirtualAdversarialTraining,
)
from kerasrobust.defenses.wrap import unwrap, wrap

__all__ = [
    "AdversarialTraining",
    "AdversarialWeightPerturbation",
    "Batch",
    "BoundedReLU",
    "Context",
    "Distillation",
    "E2sad",
    "GaussianDataAugmentation",
    "Inner",
    "LabelSmoothing",
    "LayerDefense",
    "Mart",
    "Minimax",
    "RobustModel",
    "Superimpose",
    "Trades",
    "TrainingDefense",
    "VirtualAdversarialTraining",
    "get",
    "names",
    "unwrap",
    "wrap",
]
