"""Names of attacks: `get("pgd", eps=0.1)`, `get("pgd:eps=0.1,max_iter=20")`."""

from __future__ import annotations

from typing import Any

from kerasrobust import specs
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
from kerasrobust.attacks.saliency_map import SaliencyMapMethod
from kerasrobust.attacks.sign_opt import SignOPTAttack
from kerasrobust.attacks.simba import SimBA
from kerasrobust.attacks.square import SquareAttack
from kerasrobust.attacks.transfer import TransferAttack
from kerasrobust.attacks.universal_perturbation import UniversalPerturbation
from kerasrobust.attacks.virtual_adversarial import VirtualAdversarialMethod
from kerasrobust.attacks.zoo import ZooAttack

ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        FastGradientMethod,
        ProjectedGradientDescent,
        RandomFastGradientMethod,
        BasicIterativeMethod,
        IterativeLeastLikelyClass,
        MomentumIterativeMethod,
        GradientEnsembleAttack,
        VirtualAdversarialMethod,
        AutoProjectedGradientDescent,
        SaliencyMapMethod,
        CarliniL2Method,
        ElasticNet,
        UniversalPerturbation,
        CarliniL0Method,
        CarliniLInfMethod,
        FastAdaptiveBoundary,
        DeepFool,
        HopSkipJump,
        ZooAttack,
        SquareAttack,
        SimBA,
        SignOPTAttack,
        BoundaryAttack,
        TransferAttack,
    )
}


def names() -> list[str]:
    """Registry names of the native attacks."""
    return sorted(ATTACKS)


def get(attack: Any, /, *, like: Any = None, **arguments: Any) -> Attack:
    """An attack from its name, a specification, a configuration or itself.

    Args:
        attack: ``"pgd"``, ``"pgd:eps=0.1,max_iter=20"``, `{"name": "pgd", "config": {...}}` or an
            instance. Names that begin with ``art:`` are ART's attacks behind the same contract.
        like: ``"art"`` for ART's defaults instead of this library's.
        **arguments: Hyperparameters, over those of the specification.

    Returns:
        A recipe; make it runnable with `bind(model)`.

    Raises:
        TypeError: If it is nothing of the kind, or an argument is not known to the attack.
        ValueError: If the name is unknown or a value is not valid.
    """
    if like not in (None, "art"):
        raise ValueError(f"`like` must be None or 'art'. Received: like={like!r}")
    if isinstance(attack, Attack):
        if arguments:
            return type(attack).from_config({**attack.get_config(), **arguments})
        return attack
    if specs.is_description(attack):
        name, given = attack["name"], dict(attack.get("config") or {})
    elif isinstance(attack, str):
        name, given = specs.parse_spec(attack)
    else:
        raise TypeError(
            "An attack must be given as a name, a dictionary with 'name' and 'config', or an "
            f"Attack. Received: {attack!r}"
        )
    known = ATTACKS
    if name.startswith("art:"):
        from kerasrobust import art

        known = art.ATTACKS
    if name not in known:
        raise ValueError(f"Unknown attack {name!r}. {specs.near_match(name, known)}")
    try:
        make = known[name].like_art if like else known[name]
        return make(**{**given, **arguments})
    except TypeError as error:
        accepted = ", ".join(known[name](None).get_config())
        raise TypeError(f"{name}: {error}. Its arguments are: {accepted}.") from None
