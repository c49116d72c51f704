"""What a request for attacks means: recipes with all their parameters, in the order they run."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kerasrobust import attacks as registry
from kerasrobust.attacks import Attack
from kerasrobust.checks import check_float, check_int
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.criterion import Criterion
from kerasrobust.evaluation import presets
from kerasrobust.evaluation.diagnosis import Finding
from kerasrobust.norms import check_norm
from kerasrobust.specs import parse_spec

_REFERENCE = "art:"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Recipes and what counts.

    Attributes:
        attacks: Recipes by their names in the report, in the order they run. What needs to run but
            once for several budgets is the same object under each name.
        criterion: The budget inside of which adversarial samples count for any attack; of several
            the largest.
        preset: The preset they come from, if any.
        budgets: Where there are several, the budget of each attack, by its name.
        given: By name in the report, the parameters that the request itself gives an attack.
    """

    attacks: dict[str, Attack]
    criterion: Criterion
    preset: presets.Preset | None
    budgets: dict[str, float] = dataclasses.field(default_factory=dict)
    given: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def cascade(self) -> bool:
        """Whether each attack gets only the samples that the ones before it left."""
        return self.preset is not None and self.preset.cascade

    def criterion_of(self, name: str) -> Criterion:
        """The budget inside of which adversarial samples of one attack count."""
        eps = self.budgets.get(name, self.criterion.eps)
        return dataclasses.replace(self.criterion, eps=eps)

    def groups(self) -> list[list[str]]:
        """Names of the attacks that run together: a cascade, or one that runs once for several."""
        if self.cascade:
            apart: dict[Any, list[str]] = {}
            for name in self.attacks:
                apart.setdefault(self.budgets.get(name), []).append(name)
            return list(apart.values())
        shared: dict[int, list[str]] = {}
        for name, attack in self.attacks.items():
            shared.setdefault(id(attack), []).append(name)
        return list(shared.values())


def resolve(
    requested: Any,
    *,
    eps: float | Sequence[float] | None = None,
    norm: float | str | None = None,
    dataset: str | None = None,
    channels: int | None = 1,
    value_range: float = 1.0,
    nb_classes: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    verbose: bool = False,
    targeted: bool = False,
    max_queries: int | None = None,
) -> Plan:
    """Reads a request for attacks; a command calls it before it reads data or a model.

    Args:
        requested: The name of a preset, an attack specification, an attack, or a list of these; see
            `kerasrobust.evaluate`.
        eps: Budget of the evaluation, or several, rising: then each attack is there at each of
            them, named after it (`pgd@0.1`). The budget is no part of the compiled program; an
            attack that does not depend on it, a minimal-norm one, runs once.
        norm: Its norm.
        dataset: Name of the data set.
        channels: Of its images; None where their shape does not tell.
        value_range: Upper minus lower bound of the pixel values.
        nb_classes: Number of classes, where it is known.
        batch_size: Of the attacks that are made here.
        seed: Likewise.
        verbose: Likewise.
        targeted: Whether all of them aim at a class, those that are given as well.
        max_queries: Most queries of the attacks that count them, where they have no lower limit.

    Raises:
        ValueError: If a name is unknown, a parameter out of range, or things do not go together.
        TypeError: If an argument is of the wrong kind.
    """
    budgets: list[Any] = [eps]
    if isinstance(eps, (list, tuple, np.ndarray)):
        budgets = check_budgets(eps)
    if max_queries is not None:
        check_int("max_queries", max_queries, 1)
    plans = [
        _resolve(
            requested,
            eps=budget,
            norm=norm,
            dataset=dataset,
            channels=channels,
            value_range=value_range,
            nb_classes=nb_classes,
            common={"batch_size": batch_size, "seed": seed, "verbose": verbose},
            targeted=targeted,
        )
        for budget in budgets
    ]
    plan = plans[0] if len(plans) == 1 else _together(plans, requested)
    return plan if max_queries is None else _capped(plan, max_queries, requested)


def check_budgets(eps: Any) -> list[float]:
    """Several budgets as a list.

    Raises:
        ValueError: If they are no positive, rising numbers.
    """
    if not isinstance(eps, (list, tuple, np.ndarray)) or not len(eps):
        raise ValueError(f"`eps` must be a list of budgets. Received: eps={eps!r}")
    budgets = [check_float("eps", one, above=True) for one in eps]
    if any(one >= other for one, other in zip(budgets, budgets[1:], strict=False)):
        raise ValueError(f"`eps` must rise. Received: eps={eps!r}")
    return budgets


def _together(plans: list[Plan], requested: Any) -> Plan:
    """One plan of several that differ in the budget."""
    names = list(plans[0].attacks)
    entries = [(plan, name) for name in names for plan in plans]
    if plans[0].cascade:
        entries = [(plan, name) for plan in plans for name in names]
    attacks: dict[str, Attack] = {}
    budgets: dict[str, float] = {}
    given: dict[str, dict[str, Any]] = {}
    for plan, name in entries:
        attack, eps = plan.attacks[name], plan.criterion.eps
        assert eps is not None
        own = attack.get_config().get("eps")
        if attack.kind == "budget" and own not in (None, eps):
            raise ValueError(
                "With several budgets an attack must leave its own to them. "
                f"Received: eps={own!r} of {name!r} in attacks={requested!r}"
            )
        first = plans[0].attacks[name]
        if attack.get_config() == first.get_config() and not plan.cascade:
            attack = first
        full = unique(f"{name}@{eps:.4g}", attacks)
        attacks[full], budgets[full], given[full] = attack, eps, plan.given[name]
    return dataclasses.replace(plans[-1], attacks=attacks, budgets=budgets, given=given)


def _capped(plan: Plan, most: int, requested: Any) -> Plan:
    """The plan with a limit of queries for each attack that counts them."""
    capped: dict[int, Attack] = {}
    for attack in plan.attacks.values():
        if hasattr(attack, "max_queries") and id(attack) not in capped:
            own = attack.max_queries
            capped[id(attack)] = limited = copy.copy(attack)
            limited.max_queries = most if own is None else min(own, most)
    if not capped:
        raise ValueError(
            "`max_queries` is for attacks that query a model, and none of these does. "
            f"Received: max_queries={most}, attacks={requested!r}"
        )
    attacks = {name: capped.get(id(attack), attack) for name, attack in plan.attacks.items()}
    return dataclasses.replace(plan, attacks=attacks)


def _resolve(
    requested: Any,
    *,
    eps: Any,
    norm: Any,
    dataset: Any,
    channels: int | None,
    value_range: float,
    nb_classes: int | None,
    common: dict[str, Any],
    targeted: bool,
) -> Plan:
    """See `resolve`; for one budget or none."""
    if dataset is not None and not isinstance(dataset, str):
        raise TypeError(f"`dataset` must be the name of a data set. Received: dataset={dataset!r}")
    items = list(requested) if isinstance(requested, (list, tuple)) else [requested]
    if not items:
        raise ValueError(f"There must be at least one attack. Received: attacks={requested!r}")
    named = [i for i, item in enumerate(items) if isinstance(item, str) and item in presets.names()]
    found: dict[int, presets.Preset] = {}
    # A budget that a preset brings is that of the evaluation, which "minimal" is made for.
    for i in sorted(named, key=lambda i: items[i] == "minimal"):
        order = math.inf if norm is None else check_norm(norm)
        preset = presets.get(items[i], dataset, channels, value_range, eps, order, nb_classes)
        if preset.cascade and len(items) > 1:
            raise ValueError(
                f"The preset {items[i]!r} runs its attacks in a row and takes no others beside it. "
                f"Received: attacks={requested!r}"
            )
        if preset.eps is not None and not preset.cascade:
            if eps is not None:
                raise ValueError(
                    f"The preset {items[i]!r} has a budget of its own; give no other one. "
                    f"Received: eps={eps!r}"
                )
            eps, norm = preset.eps, preset.norm
        found[i] = preset
    chosen = found[named[0]] if named else None
    # What to make, with which parameters, which of these nothing may change, and its own name.
    wanted: list[tuple[Any, dict[str, Any], dict[str, Any], str | None]] = []
    for i, item in enumerate(items):
        if i in found:
            labels = found[i].labels or (None,) * len(found[i].attacks)
            for (name, parameters), label in zip(found[i].attacks, labels, strict=True):
                wanted.append((name, parameters, {}, label))
        elif isinstance(item, str):
            name, parameters = parse_spec(item)
            wanted.append((name, parameters, parameters, None))
        elif isinstance(item, (Attack, dict)):
            given = item.get_config() if isinstance(item, Attack) else item.get("config") or {}
            wanted.append((item, {}, given, None))
        else:
            raise TypeError(
                "`attacks` must be the name of a preset, a specification such as 'fgsm:eps=0.1', "
                f"an attack, or a list of these. Received: attacks={item!r}"
            )
    criterion = _budget(eps, norm)
    if targeted:
        if chosen is not None and chosen.cascade:
            raise ValueError(
                f"The preset {chosen.name!r} leaves the true class, and aims at none that is given."
                f" Received: targets beside attacks={requested!r}"
            )
        common = {**common, "targeted": True}
    plan: dict[str, Attack] = {}
    told: dict[str, dict[str, Any]] = {}
    for item, parameters, explicit, label in wanted:
        if isinstance(item, str):
            attack = registry.get(item, **{**common, **parameters})
            if criterion.eps is not None:
                changes = _fitted(attack, explicit, criterion.eps, criterion.norm)
                attack = registry.get(item, **{**common, **parameters, **changes})
        else:
            attack = registry.get(item)
        if targeted and not attack.targeted:
            raise ValueError(
                f"Each attack must aim at a class: targeted=True. Received: attacks={requested!r}"
            )
        name = unique(label or attack.name, plan)
        plan[name], told[name] = attack, explicit
    return Plan(plan, criterion, chosen, given=told)


def _budget(eps: Any, norm: Any) -> Criterion:
    if eps is None:
        if norm is not None:
            raise ValueError(f"`norm` is that of `eps`. Received: norm={norm!r}, eps=None")
        return Criterion()
    if isinstance(eps, bool) or not isinstance(eps, (int, float, np.number)):
        raise TypeError(f"`eps` must be a number. Received: eps={eps!r}")
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"`eps` must be positive and finite. Received: eps={eps!r}")
    return Criterion(eps=float(eps), norm=check_norm(math.inf if norm is None else norm))


def _fitted(attack: Attack, explicit: dict[str, Any], eps: float, norm: float) -> dict[str, Any]:
    """The changes that bring an attack's own budget to the one of the evaluation."""
    config = attack.get_config()
    changes: dict[str, Any] = {}
    if "norm" in config and "norm" not in explicit and norm in attack.norms:
        changes["norm"] = norm
    if attack.kind == "budget" and "eps" in config and "eps" not in explicit:
        changes["eps"] = eps
        if None not in (config.get("eps_step"), config["eps"]) and "eps_step" not in explicit:
            changes["eps_step"] = config["eps_step"] * eps / config["eps"]
    return changes


def unique(name: str, taken: dict[str, Any]) -> str:
    """The name, or with a number the first one that is free."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def references(
    plan: dict[str, Attack], classifier: Classifier
) -> tuple[dict[str, Attack], list[Finding]]:
    """ART's run of each attack, bound, by the name of the attack it checks."""
    checks, missing = {}, []
    for name, attack in plan.items():
        if attack.name.startswith(_REFERENCE):
            continue
        reference = _REFERENCE + attack.name
        if reference not in registry.names():
            missing.append(Finding("no_counterpart", f"ART has no attack to check {name} with."))
            continue
        recipe = registry.get({"name": reference, "config": attack.get_config()})
        try:
            checks[name] = recipe.bind(classifier)
        except ValueError as error:
            missing.append(Finding("no_counterpart", f"{name} is not checked: {error}"))
    return checks, missing
