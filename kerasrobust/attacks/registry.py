"""Names of attacks: `get("pgd", eps=0.1)`, `get("pgd:eps=0.1,max_iter=20")`."""

from __future__ import annotations

import inspect
from typing import Any

from kerasrobust import specs
from kerasrobust.attacks.base import Attack
from kerasrobust.registry import Registry

_HERE = "kerasrobust.attacks."


def _signature(attack: type) -> inspect.Signature:
    """Without the model, and with the arguments that it shares with others spelled out."""
    # Of the constructor: the class itself is called through its metaclass, which takes anything.
    own = dict(inspect.signature(attack.__init__).parameters)  # type: ignore[misc]
    for name in ("self", "model"):
        own.pop(name, None)
    if own.pop("common", None) is not None:
        for name in attack.common.__annotations__:  # type: ignore[attr-defined]
            own.setdefault(name, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=0))
    return inspect.Signature(list(own.values()))


# One row for each attack, in the order of `taxonomy`.
ATTACKS: Registry[Attack] = Registry(
    "kerasrobust.attacks",
    (Attack,),
    {
        "fgsm": _HERE + "fast_gradient:FastGradientMethod",
        "pgd": _HERE + "projected_gradient_descent:ProjectedGradientDescent",
        "rand_fgsm": _HERE + "random_fast_gradient:RandomFastGradientMethod",
        "bim": _HERE + "basic_iterative:BasicIterativeMethod",
        "ilc": _HERE + "iterative_least_likely_class:IterativeLeastLikelyClass",
        "mifgsm": _HERE + "momentum_iterative:MomentumIterativeMethod",
        "gea": _HERE + "gradient_ensemble:GradientEnsembleAttack",
        "vat": _HERE + "virtual_adversarial:VirtualAdversarialMethod",
        "apgd": _HERE + "auto_projected_gradient_descent:AutoProjectedGradientDescent",
        "pma": _HERE + "probability_margin:ProbabilityMarginAttack",
        "jsma": _HERE + "saliency_map:SaliencyMapMethod",
        "cwl2": _HERE + "carlini_l2:CarliniL2Method",
        "ead": _HERE + "elastic_net:ElasticNet",
        "uap": _HERE + "universal_perturbation:UniversalPerturbation",
        "cwl0": _HERE + "carlini_l0:CarliniL0Method",
        "cwlinf": _HERE + "carlini_linf:CarliniLInfMethod",
        "fab": _HERE + "fast_adaptive_boundary:FastAdaptiveBoundary",
        "ddn": _HERE + "decoupled_direction_norm:DecoupledDirectionNorm",
        "fmn": _HERE + "fast_minimum_norm:FastMinimumNorm",
        "alma": _HERE + "augmented_lagrangian:AugmentedLagrangian",
        "sigma_zero": _HERE + "sigma_zero:SigmaZero",
        "deepfool": _HERE + "deepfool:DeepFool",
        "hsja": _HERE + "hop_skip_jump:HopSkipJump",
        "zoo": _HERE + "zoo:ZooAttack",
        "square": _HERE + "square:SquareAttack",
        "simba": _HERE + "simba:SimBA",
        "signopt": _HERE + "sign_opt:SignOPTAttack",
        "boundary": _HERE + "boundary:BoundaryAttack",
        "transfer": _HERE + "transfer:TransferAttack",
    },
    _signature,
)


def names() -> list[str]:
    """Names of all attacks, sorted; those with a colon are of a plugin that brings several."""
    return ATTACKS.names()


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
        ImportError: If it is a plugin's that cannot be imported.
    """
    if like not in (None, "art"):
        raise ValueError(f"`like` must be None or 'art'. Received: like={like!r}")
    if like is None:
        return ATTACKS.get(attack, **arguments)
    plain = ATTACKS.get(attack, **arguments)
    given = arguments
    if isinstance(attack, str):
        given = {**specs.parse_spec(attack)[1], **arguments}
    elif specs.is_description(attack):
        given = {**(attack.get("config") or {}), **arguments}
    return type(plain).like_art(**given)
