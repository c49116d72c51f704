"""The pictures that a report has on request, and what they show beside its figures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from kerasrobust import attacks as registry
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import surfaces
from kerasrobust.evaluation.resolve import Plan
from kerasrobust.evaluation.surfaces import Surface
from kerasrobust.specs import near_match

# Of the pictures along an attack's direction the most samples, and points along an axis: some 4,000
# passes for each.
SIZES = {"decision_space": (4, 31), "loss_surface": (32, 11), "loss_against_eps": (128, 33)}
PICTURES = (*SIZES, "security_curves")


def check(names: str | Sequence[str], classifier: Classifier) -> tuple[str, ...]:
    """The pictures by name, each once.

    Raises:
        TypeError: If a name is no string, or one needs gradients that the model does not have.
        ValueError: If a name is unknown.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"Expected names of pictures. Received: pictures={names!r}")
        if name not in PICTURES:
            raise ValueError(
                f"Unknown picture. {near_match(name, PICTURES)} Received: pictures={name!r}"
            )
        if name in SIZES and not classifier.has_gradient:
            raise TypeError(
                f"The picture {name!r} needs gradients, which this model does not have: give a "
                "Keras model, or call `evaluation.surfaces` with a black-box attack. "
                f"Received: model={classifier.model!r}"
            )
    return tuple(dict.fromkeys(names))


def budget(plan: Plan, classifier: Classifier) -> tuple[float, float]:
    """The budget that pictures are scaled by, and its norm.

    That of the evaluation; else of the first attack that has one; else PGD's default.
    """
    if plan.criterion.eps is not None:
        return plan.criterion.eps, plan.criterion.norm
    for attack in plan.attacks.values():
        if attack.kind == "budget" and attack.norm in (1, 2, math.inf):
            eps = attack.bind(classifier).get_config().get("eps")
            if isinstance(eps, float) and eps > 0:
                return eps, attack.norm
    return registry.get("pgd").bind(classifier).get_config()["eps"], math.inf


def compute(
    names: Sequence[str],
    classifier: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    eps: float,
    norm: float,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, Surface]:
    """What the pictures of a report show, by their names; of those that its figures do not tell.

    - `decision_space`: the plane of PGD's direction and a random one, through the first samples;
    - `loss_surface`: that of FGSM's direction, up to 4/3 of the budget, as in E2SAD's Figure 3.3;
    - `loss_against_eps`: along FGSM, up to four times the budget, as in GEA's Figure 6.

    A picture is left out, with a warning, where no gradient leads to the inputs or the attack moves
    no sample.

    Args:
        names: What `check` returned.
        classifier: The model.
        x: Samples that it gets right, `[n, ...]`; as many as a picture takes are used.
        y: Their labels, `[n]`.
        eps: The budget.
        norm: Its norm.
        batch_size: Points per pass.
        seed: Of the directions and the model's draws.
    """
    found: dict[str, Surface] = {}
    reach = (0.0, 4 / 3 * eps)
    for name in names:
        if name not in SIZES:
            continue
        samples, points = SIZES[name]
        of, labels = x[:samples], y[:samples]
        common: dict = {"eps": eps, "norm": norm, "points": points}
        common |= {"batch_size": batch_size, "seed": seed}
        try:
            if name == "decision_space":
                drawn = surfaces.planes(classifier, of, labels, attack="pgd", **common)
            elif name == "loss_surface":
                drawn = surfaces.planes(classifier, of, labels, across=reach, up=reach, **common)
            else:
                drawn = surfaces.lines(classifier, of, labels, **common)
        except ValueError as error:  # a picture is not worth the report
            warnings.warn(f"No picture {name!r}: {error}", stacklevel=2)
            continue
        (found[name],) = drawn.values()
    return found
