"""Defenses: links of one training chain, and layers that become part of the network."""

from kerasrobust.defenses.layers import BoundedReLU, LayerDefense
from kerasrobust.defenses.registry import get, names
from kerasrobust.defenses.robust_model import RobustModel
from kerasrobust.defenses.search_lambda import LambdaSearch, LambdaTrial, search_lambda
from kerasrobust.defenses.taxonomy import taxonomy
from kerasrobust.defenses.training import (
    AdversarialTraining,
    AdversarialWeightPerturbation,
    Batch,
    Context,
    Distillation,
    E2sad,
    EnsembleAdversarialTraining,
    Fast,
    GaussianDataAugmentation,
    Inner,
    Jacobian,
    LabelSmoothing,
    Mart,
    Minimax,
    NsLoss,
    Penalty,
    Superimpose,
    Trades,
    TrainingDefense,
    VirtualAdversarialTraining,
)
from kerasrobust.defenses.wrap import resolve, unwrap, wrap

__all__ = [
    "AdversarialTraining",
    "AdversarialWeightPerturbation",
    "Batch",
    "BoundedReLU",
    "Context",
    "Distillation",
    "E2sad",
    "EnsembleAdversarialTraining",
    "Fast",
    "GaussianDataAugmentation",
    "Inner",
    "Jacobian",
    "LabelSmoothing",
    "LambdaSearch",
    "LambdaTrial",
    "LayerDefense",
    "Mart",
    "Minimax",
    "NsLoss",
    "Penalty",
    "RobustModel",
    "Superimpose",
    "Trades",
    "TrainingDefense",
    "VirtualAdversarialTraining",
    "get",
    "names",
    "resolve",
    "search_lambda",
    "taxonomy",
    "unwrap",
    "wrap",
]
