"""The attacks as a table: norms, targets, knowledge, strategy and source."""

from __future__ import annotations

import dataclasses
import math

from kerasrobust.attacks.base import Attack
from kerasrobust.attacks.registry import ATTACKS
from kerasrobust.specs import near_match

# AREB's Table 1 as printed: name, whether targeted and untargeted, knowledge, strategy, norm.
_AREB = (
    ("fgsm", "T/U", "white", "sensitivity", "inf"),
    ("bim", "T/U", "white", "sensitivity", "inf"),
    ("ilc", "T", "white", "sensitivity", "inf"),
    ("pgd", "T/U", "white", "sensitivity", "inf"),
    ("apgd", "T/U", "white", "sensitivity", "inf"),
    ("ead", "T/U", "white", "sensitivity", "1"),
    ("jsma", "T/U", "white", "sensitivity", "-"),
    ("uap", "U", "white", "optimization", "-"),
    ("deepfool", "U", "white", "optimization", "2"),
    ("cwl2", "T/U", "white", "optimization", "2"),
    ("zoo", "T/U", "black", "optimization", "2"),
    ("boundary", "T/U", "black", "optimization", "2"),
    ("hsja", "T/U", "black", "optimization", "2"),
    ("signopt", "T/U", "black", "optimization", "2"),
    ("square", "T/U", "black", "optimization", "2"),
    ("simba", "T/U", "black", "optimization", "2"),
)
_KNOWLEDGE = {
    "gradient": "white",
    "scores": "black (scores)",
    "labels": "black (decision)",
    "none": "black (none)",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the taxonomy.

    Attributes:
        name: Registry name.
        attack: Name of the class.
        norms: The norms it knows, as ``"inf, 1, 2"``.
        targets: ``"T"`` targeted, ``"U"`` untargeted, ``"T/U"`` both.
        knowledge: ``"white"``, or ``"black"`` and what it sees of the model.
        strategy: ``"sensitivity"`` (follows the gradient) or ``"optimization"``.
        source: The documents that name it.
    """

    name: str
    attack: str
    norms: str
    targets: str
    knowledge: str
    strategy: str
    source: str


def taxonomy(source: str | None = None) -> list[Entry]:
    """All attacks as data.

    Args:
        source: ``"areb"`` for the sixteen rows of AREB's Table 1, with its own norms, knowledge and
            strategies as printed. None for every attack with a name of its own and what it offers;
            of a plugin that brings several under its own name, ``art:`` say, `names` tells.

    Raises:
        ValueError: If there is no table of that name.
    """
    if source is None:
        return [_entry(name, attack) for name, attack in ATTACKS.classes().items()]
    if source != "areb":
        raise ValueError(
            f"There is no such table. {near_match(source, ['areb'])} Received: source={source!r}"
        )
    return [
        Entry(name, ATTACKS.find(name).__name__, norm, targets, knowledge, strategy, "AREB")
        for name, targets, knowledge, strategy, norm in _AREB
    ]


def _entry(name: str, attack: type[Attack]) -> Entry:
    norms = ", ".join("inf" if p == math.inf else f"{p:g}" for p in sorted(attack.norms)[::-1])
    return Entry(
        name=name,
        attack=attack.__name__,
        norms=norms,
        targets="T" if attack.always_aims else "T/U" if attack.can_target else "U",
        knowledge=_KNOWLEDGE[attack.access],
        strategy=attack.strategy,
        source=attack.source,
    )
