"""The report of an evaluation: data. How it looks is the renderers' part."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.diagnosis import Finding
from kerasrobust.evaluation.pictures import Examples
from kerasrobust.evaluation.renderers import (
    files,
    html,
    junit,
    leaderboard,
    markdown,
    steps,
    terminal,
)
from kerasrobust.evaluation.renderers.steps import Step
from kerasrobust.evaluation.summary import AttackSummary, read_figures
from kerasrobust.evaluation.surfaces import Surface
from kerasrobust.metrics import registry
from kerasrobust.metrics.base import Metric
from kerasrobust.specs import jsonable

SCHEMA = 4


def schema() -> dict[str, Any]:
    """The JSON Schema of `Report.to_dict` and `report.json`, draft 2020-12."""
    place = importlib.resources.files(__package__) / "report.schema.json"
    return json.loads(place.read_text(encoding="utf-8"))


def timeless(data: dict[str, Any]) -> dict[str, Any]:
    """A report's data without what differs between two runs of the same evaluation.

    That is `run` (date, machine, command) and all `seconds`. What is left is equal where a run was
    interrupted and resumed, or shared out to several processes.

    Args:
        data: See `Report.to_dict`.
    """
    kept = {key: value for key, value in data.items() if key != "run"}
    timed = {"cost": data["cost"], **data["attacks"]}
    for row in timed:
        timed[row] = {key: value for key, value in timed[row].items() if key != "seconds"}
    return {**kept, "cost": timed.pop("cost"), "attacks": timed}


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples behind a report; kept in memory, not part of its JSON.

    Attributes:
        x: Clean samples, shape `(n, ...)`; None where they were not kept.
        y: True labels, int64 of shape `(n,)`.
        labels: Labels the model gives the clean samples.
        survived: Booleans, right without attack and under every attack.
        results: Outcome of each attack, by its name in the report.
        certificate: Of a certified model the classes (`labels`, -1 where it abstains) and L2
            `radii` that it proves, `(n,)` each.
    """

    x: np.ndarray | None
    y: np.ndarray
    labels: np.ndarray
    survived: np.ndarray
    results: dict[str, AttackResult]
    certificate: dict[str, np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What `kerasrobust.evaluate` found.

    Attributes:
        clean: Figures of the samples without attack, by name: `accuracy` with its 95 % Wilson
            interval, `average_confidence`, `class_accuracy` (`None` for classes without samples),
            `false_positive_rate` of a detector (`None` without one).
        robust: Figures of the worst case per sample, a sample counting that is right without attack
            and that *no* attack changed, the cross-check's attacks included: `accuracy` with its
            interval, `class_accuracy`; of a certified model its `verdict`, certified beside robust
            accuracy at each L2 radius.
        attacks: The rows of the table, by name, in the order they were run.
        findings: Reasons to distrust the figures.
        settings: What was evaluated how: model, data set, samples, bounds, seed, preset ...
        versions: Versions of the libraries that matter.
        run: When (`started`, UTC in ISO 8601), how long (`seconds`, what was stored before not
            counted), by which `command` and on what `machine` it was made.
        metrics: The declarations of the figures.
        examples: A few samples and what the attacks made of them; `None` in a report that was
            loaded.
        surfaces: What the pictures on request show beside the figures, by their names; empty in a
            report that was loaded.
        samples: The arrays behind the figures; `None` in a report that was loaded.
    """

    clean: dict[str, Any]
    robust: dict[str, Any]
    attacks: dict[str, AttackSummary]
    findings: list[Finding]
    settings: dict[str, Any]
    versions: dict[str, str]
    run: dict[str, Any]
    metrics: Sequence[Metric] = dataclasses.field(
        default_factory=registry.resolve, repr=False, compare=False
    )
    examples: Examples | None = dataclasses.field(default=None, repr=False, compare=False)
    surfaces: Mapping[str, Surface] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )
    samples: Samples | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def clean_accuracy(self) -> float:
        """Share of samples the model gets right without attack."""
        return self.clean["accuracy"]

    @property
    def robust_accuracy(self) -> float:
        """Share of samples that are right without attack and that no attack changed."""
        return self.robust["accuracy"]

    @property
    def cost(self) -> dict[str, float]:
        """What all attacks took: `queries` (forward passes), `gradients` (forward and backward
        passes), padding included, and `seconds`."""
        rows = self.attacks.values()
        passes = {
            key: sum(row.figures[f"executed_{key}"] for row in rows)
            for key in ("queries", "gradients")
        }
        return {**passes, "seconds": sum(row.figures["seconds"] for row in rows)}

    @property
    def next_steps(self) -> list[Step]:
        """What to do about it: the findings' commands, then what the figures call for."""
        return steps.next_steps(self)

    def leaderboard(self, **about: Any) -> dict[str, Any]:
        """The report as an entry of a leaderboard, with RobustBench's fields.

        Args:
            **about: What a report does not know: `name`, `link`, `authors`, `venue`,
                `additional_data`, `architecture`, `footnote`.

        Returns:
            See `kerasrobust.evaluation.renderers.leaderboard.entry`.

        Raises:
            ValueError: If the evaluation had no budget, which a threat model needs.
            TypeError: If `about` holds anything else.
        """
        return leaderboard.entry(self, **about)

    def to_dict(self) -> dict[str, Any]:
        """The report in strict JSON types.

        Numbers are numbers, but for the infinite ones: an infinite median (at least half of the
        samples were not broken), norm or parameter is the string `"inf"`, as the attacks'
        constructors accept it.
        """
        return {
            "schema": SCHEMA,
            "versions": dict(self.versions),
            "run": jsonable(self.run),
            "cost": jsonable(self.cost),
            "settings": jsonable(self.settings),
            "metrics": [metric.key for metric in self.metrics],
            "clean": jsonable(self.clean),
            "robust": jsonable(self.robust),
            "attacks": {name: row.to_dict() for name, row in self.attacks.items()},
            "findings": [finding.to_dict() for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The inverse of `to_dict`; the arrays behind the figures are not part of it.

        Figures of a metric that is not installed here are kept, but shown in no table.

        Raises:
            ValueError: If `data` is no report, or one of another schema.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"Expected a report of schema {SCHEMA}. Received: schema={found!r}")
        return cls(
            clean=read_figures(data["clean"]),
            robust=read_figures(data["robust"]),
            attacks={name: AttackSummary.from_dict(row) for name, row in data["attacks"].items()},
            findings=[Finding.from_dict(one) for one in data["findings"]],
            settings=data["settings"],
            versions=data["versions"],
            run=data["run"],
            metrics=registry.known(data["metrics"]),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Reads a `report.json`, or the folder it is in.

        Raises:
            ValueError: If the file is no report.
            OSError: If it cannot be read.
        """
        path = pathlib.Path(path)
        path = path / "report.json" if path.is_dir() else path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"Expected a report in JSON. Received: path={str(path)!r}") from error
        return cls.from_dict(data)

    def save(self, folder: str | os.PathLike[str]) -> pathlib.Path:
        """Writes `report.json`, `report.md`, `report.html`, and the pictures.

        These are `examples.png` of images, `budget.png` of minimal-norm attacks and of budget
        attacks at several budgets, `certified.png` of a certified model, and those that `evaluate`
        was asked for. The page holds them and needs no other file.

        Args:
            folder: Created if absent; files of these names in it are replaced.

        Returns:
            The folder.
        """
        return files.save(self, folder)

    def to_markdown(self, images: Sequence[str] = ()) -> str:
        """The report as Markdown.

        Args:
            images: File names of pictures to show at its end.
        """
        return markdown.render(self, images)

    def to_html(self) -> str:
        """The report as one page of HTML that needs no other file."""
        return html.page(self, files.draw(self))

    def claims(self, least: float, on: str = "figure") -> list[junit.Claim]:
        """What a pipeline relies on, and whether it holds; see `renderers.junit.claims`."""
        return junit.claims(self, least, on)

    def to_junit(self, least: float, on: str = "figure") -> str:
        """The same as JUnit XML."""
        return junit.render(self, self.claims(least, on))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html.fragment(self)

    def render(self, console: Console | None = None) -> None:
        """Prints the table and the findings to a terminal.

        Args:
            console: A `rich` console; standard output by default.
        """
        terminal.render(self, console)

    def __str__(self) -> str:
        return terminal.text(self)
