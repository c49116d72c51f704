"""The report of an evaluation: figures, JSON, Markdown, terminal table."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import pathlib
from typing import Any

import jinja2
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kerasrobust.attacks import AttackResult
from kerasrobust.evaluation import pictures
from kerasrobust.evaluation.diagnosis import Finding
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust.specs import jsonable

SCHEMA = 1
_MEDIANS = ("median_l0", "median_l1", "median_l2", "median_linf")


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples behind a report; kept in memory, not part of its JSON.

    Attributes:
        x: Clean samples, shape `(n, ...)`.
        y: True labels, int64 of shape `(n,)`.
        labels: Labels the model gives the clean samples.
        survived: Booleans, right without attack and under every attack.
        results: Outcome of each attack, by its name in the report.
    """

    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray
    survived: np.ndarray
    results: dict[str, AttackResult]


@dataclasses.dataclass(frozen=True)
class Report:
    """What `kerasrobust.evaluate` found.

    Attributes:
        clean_accuracy: Share of samples the model gets right without attack.
        clean_interval: Its 95 % Wilson interval.
        clean_confidence: Mean probability of the predicted label on the clean samples.
        clean_class_accuracy: Clean accuracy per class, `None` for classes without samples.
        robust_accuracy: Worst case per sample: share of samples that are right without attack and
            that *no* attack changed, the cross-check's attacks included.
        robust_interval: Its 95 % Wilson interval.
        robust_class_accuracy: Worst case per class.
        attacks: The rows of the table, by name, in the order they were run.
        findings: Reasons to distrust the figures.
        settings: What was evaluated how: data set, samples, shape, bounds, seed, preset ...
        versions: Versions of the libraries that matter.
        samples: The arrays behind the figures; `None` in a report that was loaded.
    """

    clean_accuracy: float
    clean_interval: tuple[float, float]
    clean_confidence: float
    clean_class_accuracy: list[float | None]
    robust_accuracy: float
    robust_interval: tuple[float, float]
    robust_class_accuracy: list[float | None]
    attacks: dict[str, AttackSummary]
    findings: list[Finding]
    settings: dict[str, Any]
    versions: dict[str, str]
    samples: Samples | None = dataclasses.field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The report in strict JSON types.

        Numbers are numbers. An infinite median (at least half of the samples were not broken) is
        `null`, with the count of failures beside it; an infinite norm or parameter is the string
        `"inf"`, as the attacks' constructors accept it.
        """
        attacks = {}
        for name, summary in self.attacks.items():
            fields = dataclasses.asdict(summary)
            for median in _MEDIANS:
                fields[median] = fields[median] if math.isfinite(fields[median]) else None
            attacks[name] = jsonable(fields)
        return {
            "schema": SCHEMA,
            "versions": dict(self.versions),
            "settings": jsonable(self.settings),
            "clean": {
                "accuracy": self.clean_accuracy,
                "interval": list(self.clean_interval),
                "average_confidence": self.clean_confidence,
                "class_accuracy": list(self.clean_class_accuracy),
            },
            "robust": {
                "accuracy": self.robust_accuracy,
                "interval": list(self.robust_interval),
                "class_accuracy": list(self.robust_class_accuracy),
            },
            "attacks": attacks,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The inverse of `to_dict`; the arrays behind the figures are not part of it.

        Raises:
            ValueError: If `data` is no report, or one of another schema.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"Expected a report of schema {SCHEMA}. Received: schema={found!r}")
        attacks = {}
        for name, stored in data["attacks"].items():
            fields = dict(stored)
            for median in _MEDIANS:
                fields[median] = math.inf if fields[median] is None else fields[median]
            for interval in ("accuracy_interval", "success_interval"):
                fields[interval] = fields[interval] and tuple(fields[interval])
            fields["norm"] = float(fields["norm"])
            if fields["budget_curve"]:
                curve = fields["budget_curve"]
                fields["budget_curve"] = {**curve, "norm": float(curve["norm"])}
            attacks[name] = AttackSummary(**fields)
        clean, robust = data["clean"], data["robust"]
        return cls(
            clean_accuracy=clean["accuracy"],
            clean_interval=tuple(clean["interval"]),
            clean_confidence=clean["average_confidence"],
            clean_class_accuracy=clean["class_accuracy"],
            robust_accuracy=robust["accuracy"],
            robust_interval=tuple(robust["interval"]),
            robust_class_accuracy=robust["class_accuracy"],
            attacks=attacks,
            findings=[Finding(**finding) for finding in data["findings"]],
            settings=data["settings"],
            versions=data["versions"],
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
        """Writes `report.json`, `report.md` and, of images, `examples.png` and `budget.png`.

        Args:
            folder: Created if absent; files of these names in it are replaced.

        Returns:
            The folder.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        drawn = []
        if self.samples is not None and _are_images(self.samples.x):
            pictures.adversarial_grid(
                folder / "examples.png",
                self.samples.x,
                self.samples.y,
                self.samples.labels,
                self.samples.results,
                tuple(self.settings["clip_values"]),
            )
            drawn.append("examples.png")
        curves = {n: a.budget_curve for n, a in self.attacks.items() if a.budget_curve}
        if curves:
            pictures.budget_curves(folder / "budget.png", curves)
            drawn.append("budget.png")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        (folder / "report.md").write_text(self.to_markdown(drawn), encoding="utf-8")
        return folder

    def to_markdown(self, images: list[str] | None = None) -> str:
        """The report as Markdown.

        Args:
            images: File names of pictures to show at its end.
        """
        environment = jinja2.Environment(
            trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
        )
        return environment.from_string(_MARKDOWN).render(
            report=self,
            header=_HEADER,
            rows=self._rows(),
            images=images or [],
            config=lambda a: json.dumps(jsonable(a.config), sort_keys=True),
            unpublished=json.dumps(
                jsonable(self.settings.get("unpublished_parameters")), sort_keys=True
            ),
            classes=self._class_rows(),
        )

    def render(self, console: Console | None = None) -> None:
        """Prints the table and the findings to a terminal.

        Args:
            console: A `rich` console; standard output by default.
        """
        console = console or Console()
        table = self._table(narrow=False)
        if (
            console.measure(table, options=console.options.update(width=1000)).maximum
            > console.width
        ):
            table = self._table(narrow=True)
        console.print(table)
        console.print(
            "Success: share of the samples the model got right that the attack changed. Medians: "
            "over all samples, a failure as infinite, a sample that was wrong already as 0.\n"
            "Intervals: 95 %, Wilson. L0: altered pixels. SSIM and confidence: successes only.",
            style="dim",
            highlight=False,
        )
        for finding in self.findings:
            console.print(Text.assemble((finding.code, "bold"), ": ", finding.message))

    def _table(self, narrow: bool) -> Table:
        table = Table(
            title=self._title(),
            title_justify="left",
            box=box.SIMPLE if narrow else box.HEAVY_HEAD,
            padding=(0, 1 - narrow),
        )
        for i, column in enumerate(_NARROW_HEADER if narrow else _HEADER):
            table.add_column(column, justify="left" if i < 2 else "right", no_wrap=True)
        # A narrow terminal gets the figures without their intervals, not a table cut off.
        rows = [[cell.split(" [")[0] if narrow else cell for cell in row] for row in self._rows()]
        for i, row in enumerate(rows):
            last = i in (0, len(rows) - 2)
            table.add_row(*row, end_section=last, style="bold" if i == len(rows) - 1 else None)
        return table

    def __str__(self) -> str:
        buffer = io.StringIO()
        self.render(Console(file=buffer, width=130, no_color=True, force_terminal=False))
        return buffer.getvalue()

    def _title(self) -> str:
        name = self.settings.get("dataset") or "data"
        budget = ""
        if self.settings.get("eps") is not None:
            norm = _norm(float(self.settings["norm"]))
            budget = f", adversarial within {norm} {self.settings['eps']:.4g}"
        return f"{name}, {self.settings['samples']:,} samples{budget}"

    def _rows(self) -> list[list[str]]:
        # A decimal of an interval's end says something from about a thousand samples on.
        digits = int(self.settings["samples"] >= 1000)
        blank = [""] * (len(_HEADER) - 4)
        rows = [
            [
                "clean",
                "",
                _share(self.clean_accuracy, self.clean_interval, digits),
                "",
                f"{self.clean_confidence:.2f}",
                *blank[1:],
            ]
        ]
        for a in self.attacks.values():
            rows.append(
                [
                    a.name + (" (check)" if a.checks else ""),
                    _norm(a.norm),
                    _share(a.accuracy, a.accuracy_interval, digits),
                    _share(a.success_rate, a.success_interval, digits),
                    _figure(a.average_confidence, 2),
                    _figure(a.median_l0, 1),
                    _figure(a.median_l1, 2),
                    _figure(a.median_l2, 3),
                    _figure(a.median_linf, 3),
                    _figure(a.ssim, 3),
                    f"{a.seconds:.1f}",
                ]
            )
        rows.append(
            [
                "worst case",
                "",
                _share(self.robust_accuracy, self.robust_interval, digits),
                "",
                *blank,
            ]
        )
        return rows

    def _class_rows(self) -> list[list[str]]:
        columns = [self.clean_class_accuracy]
        columns += [a.class_accuracy for a in self.attacks.values()]
        columns.append(self.robust_class_accuracy)
        return [
            [str(i), *("" if c is None else f"{100 * c:.0f}" for c in row)]
            for i, row in enumerate(zip(*columns, strict=True))
            if row[0] is not None
        ]


_HEADER = [
    "attack",
    "norm",
    "accuracy %",
    "success %",
    "confid.",
    "L0 %",
    "L1",
    "L2",
    "Linf",
    "SSIM",
    "seconds",
]
_NARROW_HEADER = ["attack", "norm", "acc.%", "succ.%", "conf.", *_HEADER[5:10], "sec"]

_MARKDOWN = """\
# Robustness report

{{ report._title() }}.

| {{ header | join(" | ") }} |
|{% for _ in header %} --- |{% endfor %}

{% for row in rows %}
| {{ row | join(" | ") }} |
{% endfor %}

Accuracy: share of all samples that keep their true label. Success: share of the samples the model
got right whose label the attack changed (a targeted attack: that reached the target). In brackets:
95 % Wilson intervals. L0 (percentage of altered pixels), L1, L2, Linf: medians over all samples, a
failure counting as infinite and a sample that was wrong already as 0. Confidence and SSIM: means
over the successes. Worst case: samples that no attack changed. A row marked "check" is the
reference implementation's run of the attack above it.
{% if report.findings %}

## Read this first

{% for finding in report.findings %}
- **{{ finding.code }}**: {{ finding.message }}
{% endfor %}
{% endif %}

## Counts

| attack | attacked | broken | failed | wrong already | gave up | queries | gradients |
| --- | --- | --- | --- | --- | --- | --- | --- |
{% for a in report.attacks.values() %}
| {{ a.name }} | {{ a.attacked }} | {{ a.successes }} | {{ a.failures }} | {{ a.initially_adversarial }} | {{ a.gave_up }} | {{ "%.1f" % a.queries }} | {{ "%.1f" % a.gradients }} |
{% endfor %}

Queries (forward passes) and gradients (forward and backward passes) are means per attacked sample.

## Accuracy per class, %

| class | clean | {{ report.attacks | join(" | ") }} | worst case |
| --- | --- |{% for _ in report.attacks %} --- |{% endfor %} --- |
{% for row in classes %}
| {{ row | join(" | ") }} |
{% endfor %}

## Parameters

{% for a in report.attacks.values() %}
- {{ a.name }}: `{{ config(a) }}`
{% endfor %}
{% if report.settings.unpublished_parameters %}

Not stated by the source of the preset, chosen here: `{{ unpublished }}`
{% endif %}

## Settings

{% for key, value in report.settings.items() if key != "unpublished_parameters" %}
- {{ key }}: {{ value }}
{% endfor %}
{% for key, value in report.versions.items() %}
- {{ key }} {{ value }}
{% endfor %}
{% for image in images %}

![{{ image }}]({{ image }})
{% endfor %}
"""  # noqa: E501 - a Markdown table row is one line


def _are_images(x: np.ndarray) -> bool:
    return x.ndim == 4 and x.shape[-1] in (1, 3, 4) and min(x.shape[1:3]) > 1


def _norm(norm: float) -> str:
    return "Linf" if norm == math.inf else f"L{norm:g}"


def _share(value: float | None, interval: tuple[float, float] | None, digits: int) -> str:
    if value is None or interval is None:
        return "-"
    low, high = (100 * end for end in interval)
    return f"{100 * value:.1f} [{low:.{digits}f}, {high:.{digits}f}]"


def _figure(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return "inf" if math.isinf(value) else f"{value:.{digits}f}"
