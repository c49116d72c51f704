"""Named sets of attacks with their parameters, as data.

Lengths (`eps`, `eps_step`) are given for pixels in `[0, 1]` and scaled to the model's value range;
all other parameters are for pixels in `[0, 1]` whatever the unit of the inputs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kerasrobust.checks import channel_axis
from kerasrobust.specs import near_match

# AREB, appendix B: what the paper publishes.
_AREB_PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "pgd": {"eps": 0.3, "eps_step": 0.01, "max_iter": 40},
        "cwl2": {"confidence": 0.05, "initial_const": 0.1, "binary_search_steps": 20},
        "ead": {"confidence": 0.5, "max_iter": 10, "binary_search_steps": 20},
        "hsja": {"max_iter": 10, "max_eval": 100},
    },
    "cifar10": {
        "pgd": {"eps": 0.03, "eps_step": 0.008, "max_iter": 7},
        "cwl2": {"confidence": 0.2, "initial_const": 0.01, "binary_search_steps": 20},
        "ead": {"confidence": 0.4, "max_iter": 10, "binary_search_steps": 20},
        "hsja": {"max_iter": 10, "max_eval": 100},
    },
}

# The attack as published, without what was added to it against particular defenses.
_PLAIN_CWL2 = {
    "restarts": 0,
    "restart_radius": None,
    "gradient_samples": 0,
    "gradient_radius": None,
}

# What it does not publish, and the value used here: ART's default of the time where that works.
# C&W: ten steps of 0.01 (ART's defaults) leave tanh space's flat ends on CIFAR-10 but not on the
# black and white of MNIST, where the median L2 falls to 1.1 with these. EAD: L1 is its own norm.
_AREB_UNPUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {
        "pgd": {
            "norm": math.inf,
            "num_random_init": 0,
            "early_stop": False,
            "attack_labels": "hard",
            "k": None,
        },
        "cwl2": {"max_iter": 50, "learning_rate": 0.2, "abort_early": True, **_PLAIN_CWL2},
        "ead": {"learning_rate": 0.01, "beta": 0.01, "initial_const": 0.001, "decision_rule": "L1"},
        "hsja": {"norm": 2, "init_eval": 100, "init_size": 100},
    },
}
_AREB_UNPUBLISHED["cifar10"] = {
    **_AREB_UNPUBLISHED["mnist"],
    "cwl2": {"max_iter": 10, "learning_rate": 0.01, "abort_early": True, **_PLAIN_CWL2},
}

# NSLOSS, Table II: Carlini & Wagner at three strengths, PGD in L2, HopSkipJump; the budget is the
# first one of Tables III and IV.
_NSLOSS_CW: dict[str, dict[str, Any]] = {
    "cw": {"max_iter": 1000, "confidence": 0.0},
    "cw-hc": {"max_iter": 1000, "confidence": 5.0},
    "cw-strong": {"max_iter": 10000, "confidence": 0.0},
}
_NSLOSS_OF: dict[str, dict[str, Any]] = {
    "mnist": {"eps": 1.0, "learning_rate": 0.1, "initial_const": 10.0},
    "cifar10": {"eps": 3.0, "learning_rate": 0.01, "initial_const": 1e-3},
}
# Not in the paper: defaults of the libraries that it used, Foolbox (C&W) and ART (HopSkipJump).
_NSLOSS_UNPUBLISHED: dict[str, dict[str, Any]] = {
    **{name: {"abort_early": True, **_PLAIN_CWL2} for name in _NSLOSS_CW},
    "pgd": {"early_stop": False, "attack_labels": "hard", "k": None},
    "hsja": {"max_eval": 10000},
}

# The threat models most results are published for: eps and norm.
_THREATS: dict[str, tuple[float, float]] = {
    "linf-8/255": (8 / 255, math.inf),
    "l2-0.5": (0.5, 2.0),
    "mnist-linf-0.3": (0.3, math.inf),
}


# The two strongest minimal-norm attacks in each norm, each by a name of its own.
_MINIMAL: dict[float, dict[str, tuple[str, dict[str, Any]]]] = {
    0.0: {"sigma_zero": ("sigma_zero", {}), "fmn-l0": ("fmn", {"norm": 0.0})},
    1.0: {"alma-l1": ("alma", {"norm": 1.0}), "fmn-l1": ("fmn", {"norm": 1.0})},
    2.0: {"alma-l2": ("alma", {"norm": 2.0}), "ddn": ("ddn", {})},
    math.inf: {"fmn-linf": ("fmn", {"norm": math.inf}), "fab-linf": ("fab", {"norm": math.inf})},
}

# AutoAttack and PMA+: which attacks in which order, and the steps and queries of their authors'
# programs.
_CASCADES = {
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "autoattack-rand": ("apgd-ce", "apgd-dlr"),
    "pma+": ("pma", "apgd-t"),
}
# The fewest classes for which their losses are defined: DLR needs three, the targeted DLR four.
_FEWEST = {"autoattack": 4, "autoattack-rand": 3, "pma+": 4}
# The same for fewer.
_FEW_CLASSES = {
    "autoattack": ("apgd-ce", "pma", "fab-t", "square"),
    "autoattack-rand": ("apgd-ce",),
    "pma+": ("pma", "apgd-ce"),
}
_AUTOATTACK_STEPS = 100
_AUTOATTACK_QUERIES = 5000
_AUTOATTACK_TARGETS = 9
_AUTOATTACK_DRAWS = 20  # gradients averaged against a randomised defense


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named set of attacks.

    Attributes:
        name: Name of the preset.
        variant: Which table of parameters was chosen, `"mnist"`, `"cifar10"` (the paper's own) or
            `"grey"`, `"colour"` (the same numbers on other data); empty for a threat preset.
        attacks: Registry names and hyperparameters, in the order of execution.
        unpublished: The hyperparameters, by attack, that the source does not state.
        eps: Budget within which adversarial samples count; `None`: at any distance.
        norm: Norm of that budget.
        cascade: Whether each attack gets only the samples that the ones before it left.
        labels: Names of the rows of the report, where they are not those of the attacks.
        note: What a reader of the report must know of it.
    """

    name: str
    variant: str
    attacks: tuple[tuple[str, dict[str, Any]], ...]
    unpublished: dict[str, dict[str, Any]]
    eps: float | None = None
    norm: float | None = None
    cascade: bool = False
    labels: tuple[str, ...] = ()
    note: str = ""


def names() -> list[str]:
    """Names that `get` knows."""
    return ["areb", "nsloss", "minimal", *_CASCADES, *_THREATS]


def get(
    name: str,
    dataset: str | None = None,
    channels: int | None = 1,
    value_range: float = 1.0,
    eps: float | None = None,
    norm: float = math.inf,
    nb_classes: int | None = None,
) -> Preset:
    """Looks a preset up.

    `"areb"` is the benchmark of the AREB paper (PGD, C&W L2, EAD, HopSkipJump) with its parameters
    for `"mnist"` and `"cifar10"`, and those of MNIST (one channel) or CIFAR-10 (more) for
    any other data. `"nsloss"` holds the L2 attacks of Table II of the paper on NsLoss likewise:
    C&W with 1,000 steps, with a confidence of 5 (`cw-hc`) and with 10,000 steps (`cw-strong`),
    PGD and HopSkipJump; adversarial within `eps`, by default 1, or 3 with CIFAR-10's parameters.
    `"autoattack"` (Croce & Hein, 2020, arXiv:2003.01690) needs `eps` and `norm`:
    APGD on the cross-entropy, APGD on the targeted DLR loss and FAB towards the nine likeliest
    wrong classes, Square with 5,000 queries, each on what the ones before it left;
    `"autoattack-rand"`, for randomised models, APGD on the cross-entropy and on the DLR loss with
    gradients averaged over 20 draws. `"pma+"` (Xie et al., 2024, arXiv:2411.15210) is a first look
    before it: the probability margin attack, then APGD on the targeted DLR loss on what that left.
    `"minimal"` looks for the nearest adversarial points: in each norm by the two strongest
    minimal-norm attacks, of which the report takes the shorter one per sample; with `eps`, in its
    norm only.
    Threat presets (`"linf-8/255"`, `"l2-0.5"`, `"mnist-linf-0.3"`) attack by FGSM, PGD and
    HopSkipJump in their norm and count only what stays inside the budget.

    Args:
        name: Name of the preset.
        dataset: Name of the data set, `None` for data without a name.
        channels: Number of channels of an image; None where that is not known.
        value_range: Upper minus lower bound of the pixel values.
        eps: Budget in the unit of the pixels, for AutoAttack and PMA+; also for `"minimal"` and
            `"nsloss"`.
        norm: Norm of that budget, inf or 2; of `"minimal"` also 1, of `"nsloss"` 2.
        nb_classes: Number of classes, where it is known: AutoAttack aims at all wrong ones if they
            are fewer than nine. With fewer than four, where the targeted DLR loss is not defined,
            the probability margin attack stands in the place of the targeted APGD (in `"pma+"`,
            which has it, APGD on the cross-entropy); `"autoattack-rand"` is without its DLR loss
            with fewer than three. The note says so.

    Raises:
        ValueError: If there is no such preset.
    """
    if name == "areb":
        return _areb(dataset, channels, value_range)
    if name == "nsloss":
        return _nsloss(dataset, channels, value_range, eps, norm)
    if name == "minimal":
        if eps is not None and norm not in _MINIMAL:
            raise ValueError(
                "Expected norm=0, 1, 2 or inf beside the budget of the preset 'minimal'. "
                f"Received: norm={norm!r}"
            )
        pairs = _MINIMAL.values() if eps is None else [_MINIMAL[norm]]
        chosen = {label: attack for pair in pairs for label, attack in pair.items()}
        return Preset(name, "", tuple(chosen.values()), {}, labels=tuple(chosen))
    if name in _CASCADES:
        return _cascade(name, eps, norm, nb_classes)
    if name in _THREATS:
        eps, norm = _THREATS[name]
        return _threat(name, eps * value_range, norm)
    raise ValueError(
        f"Expected the name of a preset. {near_match(name, names())} Received: name={name!r}"
    )


def channels(shape: tuple[int | None, ...]) -> int | None:
    """Channels of images of a shape, which come first or last.

    Returns:
        Their number; 1 for what is not three-dimensional; None if both places would do.
    """
    if len(shape) != 3:
        return 1
    axis = channel_axis(shape)
    return None if axis is None else shape[axis]


def _variant(preset: str, dataset: str | None, channels: int | None) -> tuple[str, str]:
    """Which table of parameters is chosen, and the data set that it is from."""
    variant = str(dataset).lower()
    if variant in ("mnist", "cifar10"):
        return variant, variant
    if channels is None:
        raise ValueError(
            f"The preset {preset!r} has parameters for grey and for colour images, and the shape "
            "of these does not tell which they are: give dataset='mnist' or dataset='cifar10'. "
            f"Received: dataset={dataset!r}"
        )
    return ("grey", "mnist") if channels == 1 else ("colour", "cifar10")


def _areb(dataset: str | None, channels: int | None, value_range: float) -> Preset:
    variant, source = _variant("areb", dataset, channels)
    unpublished = _AREB_UNPUBLISHED[source]
    attacks = []
    for attack, parameters in _AREB_PUBLISHED[source].items():
        parameters = {**parameters, **unpublished[attack]}
        for length in {"eps", "eps_step"} & parameters.keys():
            parameters[length] *= value_range
        attacks.append((attack, parameters))
    return Preset("areb", variant, tuple(attacks), unpublished)


def _nsloss(
    dataset: str | None,
    channels: int | None,
    value_range: float,
    eps: float | None,
    norm: float,
) -> Preset:
    variant, source = _variant("nsloss", dataset, channels)
    if eps is not None and norm != 2:
        raise ValueError(f"The preset 'nsloss' is about L2: give norm=2. Received: norm={norm!r}")
    own = dict(_NSLOSS_OF[source])
    budget = own.pop("eps") * value_range
    attacks: list[tuple[str, dict[str, Any]]] = [
        ("cwl2", {**strength, **own, "binary_search_steps": 9, **_NSLOSS_UNPUBLISHED[label]})
        for label, strength in _NSLOSS_CW.items()
    ]
    pgd = {
        "norm": 2,
        "eps": budget if eps is None else eps,
        "eps_step": 0.01 * value_range,
        "max_iter": 1000,
        "num_random_init": 1,
    }
    hsja = {"norm": 2, "init_eval": 100, "init_size": 1000, "max_iter": 50}
    for name, parameters in (("pgd", pgd), ("hsja", hsja)):
        attacks.append((name, {**parameters, **_NSLOSS_UNPUBLISHED[name]}))
    labels = (*_NSLOSS_CW, "pgd", "hsja")
    # A budget that is given is the evaluation's.
    found = Preset("nsloss", variant, tuple(attacks), _NSLOSS_UNPUBLISHED, labels=labels)
    return found if eps is not None else dataclasses.replace(found, eps=budget, norm=2.0)


def _threat(name: str, eps: float, norm: float) -> Preset:
    # Steps of 2.5 eps / max_iter, after Madry et al. (arXiv:1706.06083): enough to cross the ball.
    steps = 40
    attacks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("fgsm", {"eps": eps, "norm": norm}),
        ("pgd", {"eps": eps, "eps_step": 2.5 * eps / steps, "max_iter": steps, "norm": norm}),
        ("hsja", {"norm": norm, "max_iter": 10, "max_eval": 100}),
    )
    return Preset(name, "", attacks, {}, eps, norm)


def _cascade(name: str, eps: float | None, norm: float, nb_classes: int | None) -> Preset:
    if eps is None or norm not in (2.0, math.inf):
        raise ValueError(
            f"The preset {name!r} needs a budget `eps` in the norm 2 or inf. "
            f"Received: eps={eps!r}, norm={norm!r}"
        )
    few = nb_classes is not None and nb_classes < _FEWEST[name]
    targets = min(_AUTOATTACK_TARGETS, (nb_classes or math.inf) - 1)
    apgd = {
        "eps": eps,
        "norm": norm,
        "max_iter": _AUTOATTACK_STEPS,
        "nb_random_init": 1,
        "early_stop": True,  # a sample that is broken needs no more confidence
    }
    if name == "autoattack-rand":
        apgd["eot_iter"] = _AUTOATTACK_DRAWS
    dlr = {**apgd, "loss_type": "difference_logits_ratio"}
    known: dict[str, tuple[str, dict[str, Any]]] = {
        "apgd-ce": ("apgd", {**apgd, "loss_type": "cross_entropy"}),
        "apgd-dlr": ("apgd", dlr),
        "apgd-t": ("apgd", {**dlr, "nb_target_classes": targets}),
        "fab-t": (
            "fab",
            {
                "norm": norm,
                "eps": eps,
                "max_iter": _AUTOATTACK_STEPS,
                "restarts": 1,
                "nb_target_classes": targets,
                "early_stop": True,
            },
        ),
        "square": ("square", {"eps": eps, "norm": norm, "max_iter": _AUTOATTACK_QUERIES}),
        "pma": ("pma", {"eps": eps, "norm": norm, "max_iter": _AUTOATTACK_STEPS}),
    }
    steps = (_FEW_CLASSES if few else _CASCADES)[name]
    note = (
        f"{name} is made of what is defined for {nb_classes} classes, {', '.join(steps)}: its loss "
        f"on differences of logits needs {_FEWEST[name]}. Its figure is not that of its authors' "
        "program."
    )
    attacks = tuple(known[step] for step in steps)
    return Preset(name, "", attacks, {}, eps, norm, True, steps, note if few else "")
