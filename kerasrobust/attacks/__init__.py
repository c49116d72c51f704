"""Attacks: one file each, their contract in `base.py`, their names in `registry.py`."""

from kerasrobust.attacks.base import Attack
from kerasrobust.attacks.fast_gradient import FastGradientMethod
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.attacks.registry import get, names
from kerasrobust.attacks.result import AttackInterrupted, AttackResult

__all__ = [
    "Attack",
    "AttackInterrupted",
    "AttackResult",
    "FastGradientMethod",
    "ProjectedGradientDescent",
    "get",
    "names",
]
