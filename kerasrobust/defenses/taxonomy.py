"""The defenses as a table: their place, what they do, and where they come from."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from kerasrobust.defenses import registry
from kerasrobust.defenses.layers import LayerDefense
from kerasrobust.defenses.training.base import CRAFTS

# The documents that a defense is taken from; for the others the docstring gives the paper's number.
_DOCUMENTS = {
    "adversarial_training": "all",
    "brelu": "BRELU-GDA",
    "distillation": "E2SAD, BRELU-GDA",
    "e2sad": "E2SAD",
    "ensemble_adversarial_training": "AREB",
    "gda": "BRELU-GDA",
    "jacobian": "NSLOSS",
    "label_smoothing": "all",
    # The paper is on no preprint server.
    "mart": "Wang et al., ICLR 2020",
    "minimax": "E2SAD",
    "nsloss": "NSLOSS",
    "superimpose": "GEA",
    "vat": "GEA, BRELU-GDA",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the taxonomy.

    Attributes:
        name: Registry name.
        defense: Name of the class.
        place: ``"layer"`` for what becomes part of the network; for a link of the training chain
            what it works on, from the loss outwards: ``"loss"``, ``"inputs"``, ``"adversaries"``,
            ``"weights"``.
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
    return [_entry(name) for name in registry.names()]


def _entry(name: str) -> Entry:
    defense = registry.DEFENSES[name]
    text = inspect.getdoc(defense) or ""
    paper = re.search(r"(arXiv:|doi:)[^\s,;)]+", text)
    return Entry(
        name=name,
        defense=defense.__name__,
        place=_place(defense),
        what=text.partition("\n")[0].replace("`", "").rstrip("."),
        source=_DOCUMENTS.get(name) or (paper.group().rstrip(".") if paper else ""),
    )


def _place(defense: type[Any]) -> str:
    if issubclass(defense, LayerDefense):
        return "layer"
    if defense.rank < 10:
        return "loss"
    if defense.rank < CRAFTS:
        return "inputs"
    return "adversaries" if defense.rank == CRAFTS else "weights"
