"""Training defenses: one link of the chain, one file; their contract in `base.py`."""

from kerasrobust.defenses.training.adversarial_training import AdversarialTraining
from kerasrobust.defenses.training.adversarial_weight_perturbation import (
    AdversarialWeightPerturbation,
)
from kerasrobust.defenses.training.base import Batch, Context, Inner, TrainingDefense
from kerasrobust.defenses.training.distillation import Distillation
from kerasrobust.defenses.training.e2sad import E2sad
from kerasrobust.defenses.training.ensemble_adversarial_training import EnsembleAdversarialTraining
from kerasrobust.defenses.training.fast import Fast
from kerasrobust.defenses.training.gaussian_data_augmentation import GaussianDataAugmentation
from kerasrobust.defenses.training.jacobian import Jacobian
from kerasrobust.defenses.training.label_smoothing import LabelSmoothing
from kerasrobust.defenses.training.mart import Mart
from kerasrobust.defenses.training.minimax import Minimax
from kerasrobust.defenses.training.nsloss import NsLoss
from kerasrobust.defenses.training.penalty import Penalty
from kerasrobust.defenses.training.superimpose import Superimpose
from kerasrobust.defenses.training.trades import Trades
from kerasrobust.defenses.training.vat import VirtualAdversarialTraining

__all__ = [
    "AdversarialTraining",
    "AdversarialWeightPerturbation",
    "Batch",
    "Context",
    "Distillation",
    "E2sad",
    "EnsembleAdversarialTraining",
    "Fast",
    "GaussianDataAugmentation",
    "Inner",
    "Jacobian",
    "LabelSmoothing",
    "Mart",
    "Minimax",
    "NsLoss",
    "Penalty",
    "Superimpose",
    "Trades",
    "TrainingDefense",
    "VirtualAdversarialTraining",
]
