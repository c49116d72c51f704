"""The names of the defenses."""

from __future__ import annotations

from typing import Any

from kerasrobust.defenses.layers import BoundedReLU, LayerDefense
from kerasrobust.defenses.training import (
    AdversarialTraining,
    AdversarialWeightPerturbation,
    Distillation,
    E2sad,
    EnsembleAdversarialTraining,
    Fast,
    GaussianDataAugmentation,
    Jacobian,
    LabelSmoothing,
    Mart,
    Minimax,
    NsLoss,
    Superimpose,
    Trades,
    TrainingDefense,
    VirtualAdversarialTraining,
)
from kerasrobust.specs import is_description, near_match, parse_spec

Defense = TrainingDefense | LayerDefense

DEFENSES: dict[str, type[Any]] = {
    "adversarial_training": AdversarialTraining,
    "awp": AdversarialWeightPerturbation,
    "brelu": BoundedReLU,
    "distillation": Distillation,
    "e2sad": E2sad,
    "ensemble_adversarial_training": EnsembleAdversarialTraining,
    "fast": Fast,
    "gda": GaussianDataAugmentation,
    "jacobian": Jacobian,
    "label_smoothing": LabelSmoothing,
    "mart": Mart,
    "minimax": Minimax,
    "nsloss": NsLoss,
    "superimpose": Superimpose,
    "trades": Trades,
    "vat": VirtualAdversarialTraining,
}


def names() -> list[str]:
    """Names of all defenses, sorted."""
    return sorted(DEFENSES)


def get(defense: Any, **config: Any) -> Defense:
    """A defense from its name, its description or itself.

    Args:
        defense: A name (``"gda"``), a name with arguments (``"gda:N=5,sigma=0.1"``), a dictionary
            ``{"name": ..., "config": {...}}`` or an instance.
        **config: Arguments of the defense, beside or instead of those in `defense`.

    Returns:
        The defense.

    Raises:
        TypeError: If `defense` is of another type, or takes no such argument.
        ValueError: If the name is unknown or an argument is out of range.

    Example:
        >>> get("gda", N=5)
        GaussianDataAugmentation(sigma=0.3, N=5, keep_original=False, batch_norm='training')
    """
    if isinstance(defense, (TrainingDefense, LayerDefense)):
        if config:
            raise TypeError(
                "A defense that is an instance has its arguments already. "
                f"Received: defense={defense!r}, {_listed(config)}"
            )
        return defense
    if isinstance(defense, str):
        name, arguments = parse_spec(defense)
    elif is_description(defense):
        name, arguments = defense["name"], dict(defense.get("config") or {})
    else:
        raise TypeError(
            "A defense is a name, 'name:key=value', {'name': ..., 'config': {...}} or an instance. "
            f"Received: defense={defense!r}"
        )
    if name not in DEFENSES:
        raise ValueError(
            f"There is no defense of that name. {near_match(name, DEFENSES)} "
            f"Received: defense={name!r}"
        )
    arguments |= config
    try:
        return DEFENSES[name](**arguments)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise TypeError(
            f"{name!r} takes no such argument: {error}. Received: {_listed(arguments)}"
        ) from None


def _listed(config: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in config.items())
