"""What hardening a model came to: data. How it looks is the renderers' part."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
import pathlib
from typing import Any

from rich.console import Console

from kerasrobust._version import __version__
from kerasrobust.evaluation.renderers import tables
from kerasrobust.hardening import renderers
from kerasrobust.specs import jsonable

SCHEMA = 1
_FIELDS = ("settings", "candidates", "preprocessing", "rounds", "choices", "checks", "seconds")


def schema() -> dict[str, Any]:
    """The JSON Schema of `Hardening.to_dict` and its `report.json`, draft 2020-12."""
    place = importlib.resources.files(__package__) / "hardening.schema.json"
    return json.loads(place.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Hardening:
    """What `kerasrobust.harden` did and found; all of it in strict JSON types.

    Attributes:
        settings: What was asked for: data, threat model, goal, limits.
        candidates: Step 1: the parameters tried for each attack, whether `chosen`, how many
            validation samples they `left` right at each share of the budget, and their `passes`.
        preprocessing: Step 2: what `Tuning.to_dict` gives; None where it was left out.
        rounds: Steps 3 to 5: of each round the `plan`, the training `defense`, the `row` of figures
            on the validation samples, and `because`, why it came to this plan.
        choices: All that was decided, in order: `step`, `choice`, `rule`, `because`.
        checks: Step 4 on the test samples: `"threat"`, all attacks within the budget, and
            `"benchmark"` with all metrics where there is one. Each has `samples`, `metrics` (keys),
            the rows of figures `before` and `after` (None where the model was kept as it is), their
            `differences` and `findings`.
        seconds: By piece.
        kept: Name of the model that was kept: `"undefended"`, a setting of step 2, or a round.
        ended: Why there was no further round.
    """

    settings: dict[str, Any]
    candidates: list[dict[str, Any]]
    preprocessing: dict[str, Any] | None
    rounds: list[dict[str, Any]]
    choices: list[dict[str, Any]]
    checks: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    kept: str
    ended: str

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, jsonable(getattr(self, name)))

    @property
    def hardened(self) -> bool:
        """Whether the model that was kept is another one than the one that was given."""
        return self.checks["threat"]["after"] is not None

    @property
    def goal_met(self) -> bool | None:
        """Whether as many test samples withstand as were to; None without a goal."""
        goal = self.settings["goal"]
        check = self.checks["threat"]
        rows = check["after"] or check["before"]
        return None if goal is None else rows[renderers.WORST]["accuracy"] >= goal

    @property
    def verdict(self) -> str:
        """What was found, and whether it can be trusted."""
        return renderers.verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """The result in strict JSON types."""
        head = {"schema": SCHEMA, "version": __version__, "verdict": self.verdict}
        return {**head, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Hardening:
        """The inverse of `to_dict`.

        Raises:
            ValueError: If `data` is none, or one of another schema.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        good = isinstance(data, dict) and data.get("schema") == SCHEMA and {*fields} <= {*data}
        if not good:
            raise ValueError(
                f"Expected a report of hardening, of schema {SCHEMA}. Received: {str(data)[:80]}"
            )
        return cls(**{name: data[name] for name in fields})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Hardening:
        """Reads a `report.json`, or the folder it is in.

        Raises:
            ValueError: If the file is no such report.
            OSError: If it cannot be read.
        """
        path = pathlib.Path(path)
        path = path / "report.json" if path.is_dir() else path
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def save(self, folder: str | os.PathLike[str]) -> pathlib.Path:
        """Writes `report.json`, `report.md` and `report.html`.

        The pictures of the steps are shown where they lie in the folder; the page holds them.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        shown = {
            name: told for name, told in renderers.PICTURES.items() if (folder / name).exists()
        }
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        title, found = renderers.title(self), self.tables()
        text = tables.markdown(title, found, self.notes(), list(shown), self.verdict)
        (folder / "report.md").write_text(text, encoding="utf-8")
        pictures = {told: (folder / name).read_bytes() for name, told in shown.items()}
        text = tables.page(title, self.verdict, found, self.notes(), pictures)
        (folder / "report.html").write_text(text, encoding="utf-8")
        return folder

    def tables(self) -> dict[str, Any]:
        """Tables as text, by heading."""
        return renderers.tables(self)

    def notes(self) -> list[str]:
        """Sentences below the tables: the choices with their rules, reasons to distrust figures."""
        return renderers.notes(self)

    def render(self, console: Console | None = None) -> None:
        """Prints tables and verdict; `console` is a `rich` console, standard output by default."""
        tables.render(self.tables(), [*self.notes(), self.verdict], console)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return tables.fragment(renderers.title(self), self.verdict, self.tables(), self.notes())

    def __str__(self) -> str:
        return tables.text(self.tables(), [*self.notes(), self.verdict])
