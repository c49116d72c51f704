"""Attacks: one file each, their contract in `base.py`, their names in `registry.py`."""

from kerasrobust.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from kerasrobust.attacks.base import Attack
from kerasrobust.attacks.basic_iterative import BasicIterativeMethod
from kerasrobust.attacks.boundary import BoundaryAttack
from kerasrobust.attacks.carlini_l0 import CarliniL0Method
from kerasrobust.attacks.carlini_l2 import CarliniL2Method
from kerasrobust.attacks.carlini_linf import CarliniLInfMethod
from kerasrobust.attacks.deepfool import DeepFool
from kerasrobust.attacks.elastic_net import ElasticNet
from kerasrobust.attacks.fast_adaptive_boundary import FastAdaptiveBoundary
from kerasrobust.attacks.fast_gradient import FastGradientMethod
from kerasrobust.attacks.gradient_ensemble import GradientEnsembleAttack
from kerasrobust.attacks.hop_skip_jump import HopSkipJump
from kerasrobust.attacks.iterative_least_likely_class import IterativeLeastLikelyClass
from kerasrobust.attacks.momentum_iterative import MomentumIterativeMethod
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.attacks.random_fast_gradient import RandomFastGradientMethod
from kerasrobust.attacks.registry import get, names
from kerasrobust.attacks.saliency_map import SaliencyMapMethod
from kerasrobust.attacks.sign_opt import SignOPTAttack
from kerasrobust.attacks.simba import SimBA
from kerasrobust.attacks.square import SquareAttack
from kerasrobust.attacks.taxonomy import taxonomy
from kerasrobust.attacks.transfer import TransferAttack
from kerasrobust.attacks.universal_perturbation import UniversalPerturbation
from kerasrobust.attacks.virtual_adversarial import VirtualAdversarialMethod
from kerasrobust.attacks.zoo import ZooAttack
from kerasrobust.engine.result import AttackInterrupted, AttackResult

__all__ = [
    "Attack",
    "AttackInterrupted",
    "AttackResult",
    "AutoProjectedGradientDescent",
    "BasicIterativeMethod",
    "BoundaryAttack",
    "CarliniL0Method",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DeepFool",
    "ElasticNet",
    "FastAdaptiveBoundary",
    "FastGradientMethod",
    "GradientEnsembleAttack",
    "HopSkipJump",
    "IterativeLeastLikelyClass",
    "MomentumIterativeMethod",
    "ProjectedGradientDescent",
    "RandomFastGradientMethod",
    "SaliencyMapMethod",
    "SignOPTAttack",
    "SimBA",
    "SquareAttack",
    "TransferAttack",
    "UniversalPerturbation",
    "VirtualAdversarialMethod",
    "ZooAttack",
    "get",
    "names",
    "taxonomy",
]
