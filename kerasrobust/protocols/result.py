"""What a protocol found: data. How it looks is the renderers' part."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from rich.console import Console

from kerasrobust._version import __version__
from kerasrobust.evaluation.renderers import tables
from kerasrobust.protocols import renderers
from kerasrobust.specs import jsonable

SCHEMA = 3
# Evaluations that a note names.
_NAMED = 8


@dataclasses.dataclass(frozen=True)
class ProtocolResult:
    """The figures of a protocol, one row for each; all of it in strict JSON types.

    A share of samples is a dictionary: `value`, the ends `low` and `high` of its 95 % Wilson
    interval, `hits` of `total`; None where there was no sample.

    Attributes:
        protocol: Its name.
        settings: What was measured how.
        rows: The figures, with what each belongs to.
        findings: Reasons to distrust figures, by evaluation (`piece`), of the reports in `output`.
    """

    protocol: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    findings: list[dict[str, Any]]

    def __post_init__(self) -> None:
        for name in ("settings", "rows", "findings"):
            object.__setattr__(self, name, jsonable(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The result in strict JSON types."""
        return {"schema": SCHEMA, "version": __version__, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProtocolResult:
        """The inverse of `to_dict`.

        Raises:
            ValueError: If `data` is none, or one of another schema.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        good = isinstance(data, dict) and data.get("schema") == SCHEMA and {*fields} <= {*data}
        if not good or data["protocol"] not in renderers.TABLES:
            raise ValueError(
                f"Expected the result of a protocol, of schema {SCHEMA}. Received: {str(data)[:80]}"
            )
        return cls(**{name: data[name] for name in fields})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProtocolResult:
        """Reads a `protocol.json`, or the folder it is in.

        Raises:
            ValueError: If the file is no such result.
            OSError: If it cannot be read.
        """
        path = pathlib.Path(path)
        path = path / "protocol.json" if path.is_dir() else path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"Expected the result of a protocol in JSON. Received: path={str(path)!r}"
            ) from error
        return cls.from_dict(data)

    def save(self, folder: str | os.PathLike[str]) -> pathlib.Path:
        """Writes `protocol.json`, `protocol.md` and `protocol.png`."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        (folder / "protocol.json").write_text(text + "\n", encoding="utf-8")
        name = self.settings["dataset"] or "data"
        title = f"{self.protocol}: {name}, {self.settings['samples']:,} samples"
        text = tables.markdown(title, self.tables(), self.notes(), ["protocol.png"])
        (folder / "protocol.md").write_text(text, encoding="utf-8")
        renderers.PICTURES[self.protocol](folder / "protocol.png", self)
        return folder

    def tables(self) -> dict[str, Any]:
        """Tables as text, by heading."""
        return renderers.TABLES[self.protocol](self)

    def notes(self) -> list[str]:
        """Sentences below the tables: which evaluations gave reasons to distrust their figures."""
        places: dict[str, list[str]] = {}
        for finding in self.findings:
            places.setdefault(finding["code"], []).append(finding["piece"])
        told = []
        for code, of in places.items():
            first = list(dict.fromkeys(of))
            more = len(first) - _NAMED
            others = f" and {more:,} more" if more > 0 else ""
            told.append(f"{code}: {', '.join(first[:_NAMED])}{others}.")
        head = "Reasons to distrust figures, told in the report of each evaluation:"
        return [head, *told] if told else []

    def render(self, console: Console | None = None) -> None:
        """Prints the tables; `console` is a `rich` console, standard output by default."""
        tables.render(self.tables(), self.notes(), console)

    def __str__(self) -> str:
        return tables.text(self.tables(), self.notes())
