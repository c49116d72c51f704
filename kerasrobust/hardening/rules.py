"""What the process flow decides by: pure functions, each with the sentence that states its rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kerasrobust import attacks as registry
from kerasrobust.attacks import Attack
from kerasrobust.evaluation.tuning import UNDEFENDED, Row
from kerasrobust.specs import parse_spec

# The shares of the budget at which the parameters of an attack are compared.
SHARES = (1.0, 0.5, 0.25)
# A query attack may take so many times the passes of one that has gradients.
QUERIES = 10
# An attack looks at points besides those that it climbs from: what is left of its passes for steps.
_FOR_STEPS = 0.8
# Clean weights of adversarial training, one after the other.
ALPHAS = (0.0, 0.25, 0.5, 0.75)

STRONGEST = (
    "of the parameters that take at most the given passes a sample, those that leave the fewest "
    "validation samples of the undefended model right at the budget; of equal ones those that "
    "leave fewer at half of it, then at a quarter, then those that take fewer passes"
)
ENSEMBLE = (
    "the attacks of the threat model that have gradients, and EAD (L1) where all of them work in "
    "the budget's norm: an ensemble combines norms (AREB, section 5)"
)
KEPT = (
    "of the models whose clean accuracy is at most the allowed loss below the undefended one and "
    "whose worst case is above it by more than chance (McNemar's exact test, one-sided, 5 % "
    "divided by the number of models), the one with the highest worst case on the validation "
    "samples; the undefended one where nothing is gained"
)
NEXT = (
    "where the last round lost more clean accuracy than allowed, the clean samples get a quarter "
    "more weight; else, where the attack that leaves least was not trained with, it joins the "
    "ensemble; else training takes twice the epochs. Training goes on from the model that is kept"
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Parameters of an attack, and how strong they make it.

    Attributes:
        attack: Name of the attack in the threat model.
        parameters: What differs from the attack as it was given.
        left: Samples that stay right at each of `SHARES` of the budget.
        passes: Forward passes a sample, a gradient counted as two; mean over the attacked samples.
    """

    attack: str
    parameters: dict[str, Any]
    left: tuple[int, ...]
    passes: float


def strongest(candidates: Sequence[Candidate], passes: float) -> Candidate:
    """The parameters to attack with, by the rule `STRONGEST`.

    Args:
        candidates: Of one attack, at least one.
        passes: At most so many; where all take more, the one that takes the fewest is chosen.
    """
    within = [one for one in candidates if one.passes <= passes]
    if not within:
        return min(candidates, key=lambda one: one.passes)
    return min(within, key=lambda one: (one.left, one.passes))


def _pgd(steps: int) -> list[dict[str, Any]]:
    return [
        {"max_iter": steps, "eps_step": None, "num_random_init": 0},
        {"max_iter": steps, "eps_step": 0.25, "num_random_init": 0},
        {"max_iter": steps, "eps_step": 0.05, "num_random_init": 0},
        {"max_iter": max(1, steps // 4), "eps_step": None, "num_random_init": 4},
    ]


def _apgd(steps: int) -> list[dict[str, Any]]:
    losses = ("cross_entropy", "difference_logits_ratio")
    return [
        {"max_iter": max(1, steps // starts), "nb_random_init": starts, "loss_type": loss}
        for loss in losses
        for starts in (1, 4)
    ]


def _pma(steps: int) -> list[dict[str, Any]]:
    return [
        {"max_iter": max(2, steps // starts), "num_random_init": starts, "early_stop": False}
        for starts in (1, 2, 4)
    ]


def _constant_search(steps: int, **grid: Sequence[Any]) -> list[dict[str, Any]]:
    ((key, values),) = grid.items()
    return [
        {"binary_search_steps": searches, "max_iter": max(2, steps // searches), key: value}
        for searches in (2, 5)
        for value in values
    ]


def _hsja(queries: int) -> list[dict[str, Any]]:
    found = []
    for iterations in (5, 10, 20):
        # Beside its directions an iteration takes some thirty queries to find the boundary again.
        most = max(10, queries // iterations - 30)
        found.append({"max_iter": iterations, "max_eval": most, "init_eval": min(100, most)})
    return found


def _square(queries: int) -> list[dict[str, Any]]:
    return [{"max_iter": queries, "p_init": share} for share in (0.8, 0.3, 0.05)]


# By attack, what is tried with so many gradient steps or queries; `eps_step` as a share of `eps`.
_GRIDS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "pgd": _pgd,
    "apgd": _apgd,
    "pma": _pma,
    "cwl2": lambda steps: _constant_search(steps, initial_const=(0.01, 1.0)),
    "ead": lambda steps: _constant_search(steps, learning_rate=(0.01, 0.1)),
    "hsja": _hsja,
    "square": _square,
}


def allowed_passes(attack: Attack, passes: int) -> int:
    """How many passes an attack may take a sample: ten times as many if it only asks."""
    return passes if attack.access == "gradient" else QUERIES * passes


def grid(
    attack: Attack, fixed: Mapping[str, Any], passes: int, classes: int, as_given: bool = False
) -> list[dict[str, Any]]:
    """The parameters of an attack that are tried.

    Args:
        attack: As it was given.
        fixed: The parameters that its user gave: they stay.
        passes: Forward passes a sample, a gradient counted as two.
        classes: Number of classes; the DLR loss needs four.
        as_given: Whether the attack as it is, with the parameters of a preset say, is one of them.

    Returns:
        Changes of its configuration, `eps_step` as a share of `eps`; an empty one, the attack as it
        is, also where its user gave parameters or nothing is known to try.
    """
    share = _FOR_STEPS * allowed_passes(attack, passes)
    steps = int(share / 2 if attack.access == "gradient" else share)
    found: list[dict[str, Any]] = []
    if as_given or fixed or attack.name not in _GRIDS:
        found.append({})
    for changes in _GRIDS.get(attack.name, lambda steps: [])(max(1, steps)):
        changes = {key: value for key, value in changes.items() if key not in fixed}
        dlr = changes.get("loss_type") == "difference_logits_ratio"
        if changes and changes not in found and not (dlr and classes < 4):
            found.append(changes)
    return found


def configured(attack: Attack, changes: Mapping[str, Any], share: float = 1.0) -> dict[str, Any]:
    """The attack with these changes and a share of its budget, as `attacks.get` takes it."""
    config = {key: value for key, value in attack.get_config().items() if key != "verbose"}
    config |= changes
    if attack.kind == "budget" and config.get("eps") is not None:
        if changes.get("eps_step") is not None:
            config["eps_step"] = config["eps_step"] * config["eps"]
        if config.get("eps_step") is not None:
            config["eps_step"] = config["eps_step"] * share
        config["eps"] = config["eps"] * share
    return {"name": attack.name, "config": config}


# What an attack is like in a training step: short. `eps_step` as a share of `eps`.
_SHORT: dict[str, dict[str, Any]] = {
    "pgd": {"max_iter": 7, "eps_step": 0.25, "num_random_init": 1},
    "apgd": {"max_iter": 7, "nb_random_init": 1},
    "pma": {"max_iter": 8, "num_random_init": 1},
    "ead": {"max_iter": 5, "binary_search_steps": 2, "decision_rule": "L1"},
    "cwl2": {"max_iter": 5, "binary_search_steps": 2, "initial_const": 1.0},
    "hsja": {"max_iter": 2, "max_eval": 40, "init_eval": 20, "init_size": 20},
    "square": {"max_iter": 50},
}


def training_form(spec: str, eps: float, norm: float) -> str:
    """An attack as a training step has it: within the budget, and short where not said otherwise.

    Args:
        spec: Name and parameters, as in ``"pgd:max_iter=10"``.
        eps: Budget, for attacks that have one.
        norm: Its norm, for attacks that know it.

    Returns:
        A specification with all that is not left to its defaults.

    Raises:
        ValueError: If it cannot be part of a training step, or is unknown.
    """
    name, given = parse_spec(spec)
    attack = registry.get(name, **given)
    if not attack.in_graph or attack.targeted:
        raise ValueError(
            f"Expected an untargeted attack that can run in a training step. Received: {spec!r}"
        )
    parameters = dict(given)
    if "norm" in attack.get_config() and norm in attack.norms:
        parameters.setdefault("norm", norm)
    if attack.kind == "budget" and "eps" in attack.get_config():
        parameters.setdefault("eps", eps)
    for key, value in _SHORT.get(name, {}).items():
        if key == "eps_step":
            value = value * parameters["eps"]
        parameters.setdefault(key, value)
    told = ",".join(f"{key}={value}" for key, value in parameters.items())
    return f"{name}:{told}" if told else name


def first_ensemble(threats: Sequence[Attack], norm: float) -> list[str]:
    """The attacks to train with in the first round, by the rule `ENSEMBLE`.

    Args:
        threats: The attacks of the threat model, bound or not.
        norm: Of the budget.
    """
    seen = [one for one in threats if one.access == "gradient" and one.in_graph]
    names = list(dict.fromkeys(one.name for one in seen))
    if all(one.norm == norm for one in seen):
        names.append("ead")
    return names


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a round of training does.

    Attributes:
        attacks: Specifications of the attacks to train with; empty where `defense` is given.
        alpha: Weight of the clean samples.
        epochs: Passes over the samples.
        start: Name of the model that training goes on from.
        defense: The training defense that the user named in place of an ensemble.
    """

    attacks: tuple[str, ...]
    alpha: float
    epochs: int
    start: str = UNDEFENDED
    defense: str | None = None

    @property
    def spec(self) -> str:
        """The training defense."""
        if self.defense is not None:
            return self.defense
        if len(self.attacks) == 1:
            return f"adversarial_training:attack=({self.attacks[0]}),alpha={self.alpha}"
        inner = ",".join(f"({attack})" for attack in self.attacks)
        return f"ensemble_adversarial_training:attacks=[{inner}],alpha={self.alpha}"


def stop(
    kept: Row,
    *,
    goal: float | None,
    rounds: int,
    most_rounds: int,
    minutes: float,
    last: float,
    most_minutes: float,
) -> str | None:
    """Why the flow ends here; None where another round is due.

    Args:
        kept: The model that would be kept now.
        goal: Share of the validation samples that are to withstand.
        rounds: Rounds made.
        most_rounds: Rounds allowed.
        minutes: Spent until now.
        last: Minutes of the last round, 0 before the first: the next one is taken to be as long.
        most_minutes: Allowed for all but the final check.
    """
    if goal is not None and kept.robust_accuracy >= goal:
        return f"goal: {100 * kept.robust_accuracy:.1f} % of the validation samples withstand"
    if rounds >= most_rounds:
        return f"rounds: {most_rounds} allowed, {rounds} made"
    if minutes + last > most_minutes:
        return f"time: {most_minutes:g} minutes allowed, another round would take longer"
    return None


def next_plan(
    last: Plan,
    row: Row,
    undefended: Row,
    kept: str,
    *,
    max_loss: float,
    threats: Mapping[str, Attack],
    eps: float,
    norm: float,
) -> tuple[Plan, str]:
    """What another round changes, by the rule `NEXT`, and why.

    Args:
        last: The round before.
        row: What it came to on the validation samples.
        undefended: The undefended model on the same samples.
        kept: Name of the model that is kept, from which training goes on.
        max_loss: Share of the clean accuracy that may be lost.
        threats: The attacks of the threat model, by their names in `row`.
        eps: Budget.
        norm: Its norm.
    """
    plan = dataclasses.replace(last, start=kept)
    lost = undefended.clean_accuracy - row.clean_accuracy
    heavier = [alpha for alpha in ALPHAS if alpha > last.alpha]
    if last.defense is None and lost > max_loss + 1e-9 and heavier:
        return dataclasses.replace(plan, alpha=heavier[0]), (
            f"{100 * lost:.1f} points of clean accuracy were lost, {100 * max_loss:g} are allowed: "
            f"clean samples weigh {heavier[0]:g} instead of {last.alpha:g}"
        )
    worst = min(row.attacks, key=lambda name: row.attacks[name].sum())
    trained = {parse_spec(attack)[0] for attack in last.attacks}
    attack = threats[worst]
    if last.defense is None and attack.name not in trained and attack.in_graph:
        form = training_form(attack.name, eps, norm)
        left = 100 * float(row.attacks[worst].mean())
        return dataclasses.replace(plan, attacks=(*last.attacks, form)), (
            f"{worst} leaves least, {left:.1f} %, and was not trained with: it joins the ensemble"
        )
    return dataclasses.replace(plan, epochs=2 * last.epochs), (
        f"{worst} leaves least and was trained with: {2 * last.epochs} epochs instead of "
        f"{last.epochs}"
    )
