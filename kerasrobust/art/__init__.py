"""The bridge to ART: our models in ART, ART's attacks and metrics behind our contracts.

ART (`adversarial-robustness-toolbox`) is the referee that native results are checked against. It
is a plugin: nothing in the package imports it, and importing it takes seconds.
"""

from kerasrobust.art.attacks import (
    ATTACKS,
    ArtAttack,
    ArtAutoProjectedGradientDescent,
    ArtBasicIterativeMethod,
    ArtBoundaryAttack,
    ArtCarliniL0Method,
    ArtCarliniL2Method,
    ArtCarliniLInfMethod,
    ArtDeepFool,
    ArtElasticNet,
    ArtFastGradientMethod,
    ArtHopSkipJump,
    ArtMomentumIterativeMethod,
    ArtProjectedGradientDescent,
    ArtSaliencyMapMethod,
    ArtSignOPTAttack,
    ArtSimBA,
    ArtSquareAttack,
    ArtUniversalPerturbation,
    ArtVirtualAdversarialMethod,
    ArtZooAttack,
)
from kerasrobust.art.estimators import (
    GradientsEstimator,
    ProbabilitiesEstimator,
    ScoresEstimator,
    classifier,
)
from kerasrobust.art.metrics import clever, empirical_robustness, loss_sensitivity

__all__ = [
    "ATTACKS",
    "ArtAttack",
    "ArtAutoProjectedGradientDescent",
    "ArtBasicIterativeMethod",
    "ArtBoundaryAttack",
    "ArtCarliniL0Method",
    "ArtCarliniL2Method",
    "ArtCarliniLInfMethod",
    "ArtDeepFool",
    "ArtElasticNet",
    "ArtFastGradientMethod",
    "ArtHopSkipJump",
    "ArtMomentumIterativeMethod",
    "ArtProjectedGradientDescent",
    "ArtSaliencyMapMethod",
    "ArtSignOPTAttack",
    "ArtSimBA",
    "ArtSquareAttack",
    "ArtUniversalPerturbation",
    "ArtVirtualAdversarialMethod",
    "ArtZooAttack",
    "GradientsEstimator",
    "ProbabilitiesEstimator",
    "ScoresEstimator",
    "classifier",
    "clever",
    "empirical_robustness",
    "loss_sensitivity",
]
