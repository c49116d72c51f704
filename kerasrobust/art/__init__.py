"""The bridge to ART: our models in ART, ART's attacks and metrics behind our contracts.

The other way, our attacks behind ART's contract, is `kerasrobust.art.compat`.

ART (`adversarial-robustness-toolbox`) is the referee that native results are checked against. It
is a plugin: nothing in the package imports it, the entry point `art` makes its attacks known by
name. Importing ART takes seconds, so that it waits until something in here is asked for.
"""

import pkgutil
from typing import Any

# The native name of each attack that ART has too; found as ``"art:fgsm"``.
ATTACKS: dict[str, str] = {
    name: f"kerasrobust.art.attacks:Art{attack}"
    for name, attack in {
        "fgsm": "FastGradientMethod",
        "pgd": "ProjectedGradientDescent",
        "bim": "BasicIterativeMethod",
        "mifgsm": "MomentumIterativeMethod",
        "apgd": "AutoProjectedGradientDescent",
        "vat": "VirtualAdversarialMethod",
        "jsma": "SaliencyMapMethod",
        "cwl2": "CarliniL2Method",
        "ead": "ElasticNet",
        "deepfool": "DeepFool",
        "uap": "UniversalPerturbation",
        "cwl0": "CarliniL0Method",
        "cwlinf": "CarliniLInfMethod",
        "hsja": "HopSkipJump",
        "zoo": "ZooAttack",
        "boundary": "BoundaryAttack",
        "signopt": "SignOPTAttack",
        "square": "SquareAttack",
        "simba": "SimBA",
    }.items()
}
_LAZY = {
    entry.rpartition(":")[2]: entry
    for entry in (
        *ATTACKS.values(),
        "kerasrobust.art.attacks:ArtAttack",
        "kerasrobust.art.estimators:GradientsEstimator",
        "kerasrobust.art.estimators:ProbabilitiesEstimator",
        "kerasrobust.art.estimators:ScoresEstimator",
        "kerasrobust.art.estimators:classifier",
        "kerasrobust.art.metrics:clever",
        "kerasrobust.art.metrics:empirical_robustness",
        "kerasrobust.art.metrics:loss_sensitivity",
    )
}

__all__ = ["ATTACKS"]
__all__ += _LAZY


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(_LAZY[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
