"""The defenses as a table: their place, what they do, and where they come from."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from kerasrobust.defenses.decision.base import DecisionDefense
from kerasrobust.defenses.layers.base import LayerDefense
from kerasrobust.defenses.registry import DEFENSES
from kerasrobust.defenses.training.base import CRAFTS


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the taxonomy.

    Attributes:
        name: Registry name.
        defense: Name of the class.
        place: ``"layer"`` for what becomes part of the network, ``"decision"`` for what answers in
            its place; for a link of the training chain what it works on, from the loss outwards:
            ``"loss"``, ``"inputs"``, ``"adversaries"``, ``"weights"``.
        what: What it does, in a line.
        source: The documents that name it, or the paper.
    """

    name: str
    defense: str
    place: str
    what: str
    source: str


def taxonomy() -> list[Entry]:
    """All defenses as data.

    Example:
        >>> {entry.name: entry.place for entry in taxonomy()}["gda"]
        'inputs'
    """
    return [_entry(name, defense) for name, defense in DEFENSES.classes().items()]


def _entry(name: str, defense: type[Any]) -> Entry:
    text = inspect.getdoc(defense) or ""
    paper = re.search(r"(arXiv:|doi:)[^\s,;)]+", text)
    return Entry(
        name=name,
        defense=defense.__name__,
        place=_place(defense),
        what=text.partition("\n")[0].replace("`", "").rstrip("."),
        source=defense.source or (paper.group().rstrip(".") if paper else ""),
    )


def _place(defense: type[Any]) -> str:
    if issubclass(defense, LayerDefense):
        return "layer"
    if issubclass(defense, DecisionDefense):
        return "decision"
    if defense.rank < 10:
        return "loss"
    if defense.rank < CRAFTS:
        return "inputs"
    return "adversaries" if defense.rank == CRAFTS else "weights"
