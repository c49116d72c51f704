"""Attacks: one file each, their contract in `base.py`, their names in `registry.py`."""

from kerasrobust.attacks.base import Attack
from kerasrobust.attacks.carlini_l2 import CarliniL2Method
from kerasrobust.attacks.elastic_net import ElasticNet
from kerasrobust.attacks.fast_gradient import FastGradientMethod
from kerasrobust.attacks.hop_skip_jump import HopSkipJump
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.attacks.registry import get, names
from kerasrobust.attacks.result import AttackInterrupted, AttackResult

__all__ = [
    "Attack",
    "AttackInterrupted",
    "AttackResult",
    "CarliniL2Method",
    "ElasticNet",
    "FastGradientMethod",
    "HopSkipJump",
    "ProjectedGradientDescent",
    "get",
    "names",
]
