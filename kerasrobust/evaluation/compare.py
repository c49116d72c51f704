"""Reports side by side, and whether what sets them apart is more than chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import binomtest, fisher_exact

from kerasrobust.evaluation.renderers import table, tables
from kerasrobust.evaluation.report import Report
from kerasrobust.metrics.outcomes import flags
from kerasrobust.metrics.proportion import proportion
from kerasrobust.specs import jsonable

# Settings without which two accuracies are not accuracies of the same thing.
_THREAT = (
    *("dataset", "shape", "classes", "clip_values", "preset"),
    *("eps", "norm", "budgets", "targets", "max_queries", "only_correct", "repeats", "partial"),
)


@dataclasses.dataclass(frozen=True)
class Difference:
    """By how much a report's accuracy lies above the first one's.

    Attributes:
        row: `"clean"`, the name of an attack, or `"worst case"`.
        report: Name of the report.
        value: Difference of the accuracies, in -1..1.
        low: Lower end of its 95 % interval.
        high: Upper end of it.
        p_value: Probability of a difference as large where there is none, two-sided; not adjusted
            for the number of comparisons.
        paired: Whether both judged the same samples.
        detectable: The smallest difference that so many samples show with a probability of 80 %,
            see `detectable`.
    """

    row: str
    report: str
    value: float
    low: float
    high: float
    p_value: float
    paired: bool
    detectable: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        accuracies: By row (`"clean"`, attacks, `"worst case"`), by report, the accuracy;
            `None` where the report has no such row.
        differences: Of every report from the first one, row by row.
        notes: What keeps the reports from being compared like with like.
    """

    accuracies: dict[str, dict[str, float | None]]
    differences: list[Difference]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The comparison in strict JSON types."""
        return jsonable(dataclasses.asdict(self))

    def tables(self) -> dict[str, table.Table]:
        """By heading, the accuracies and their differences as text."""
        names = list(next(iter(self.accuracies.values())))
        body = [
            [row, *("" if value is None else f"{100 * value:.1f}" for value in values.values())]
            for row, values in self.accuracies.items()
        ]
        differences = [
            [
                d.row,
                d.report,
                f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]",
                "< 0.001" if d.p_value < 0.001 else f"{d.p_value:.3f}",
                f"{100 * d.detectable:.1f}",
                "the same" if d.paired else "others",
            ]
            for d in self.differences
        ]
        legend = (
            "Points above the first report with a 95 % interval. On the same samples McNemar's "
            "exact test, on others Fisher's; p is not adjusted for the number of rows. Detectable: "
            "the difference that so many samples show in 80 of 100 cases."
        )
        header = ["accuracy", "report", "difference", "p", "detectable", "samples"]
        return {
            "Accuracy %": table.Table(["attack", *names], body, []),
            f"Beside {names[0]}": table.Table(header, differences, [legend]),
        }

    def render(self, console: Console | None = None) -> None:
        """Prints the tables and notes.

        Args:
            console: A `rich` console; standard output by default.
        """
        tables.render(self.tables(), self.notes, console)

    def __str__(self) -> str:
        return tables.text(self.tables(), self.notes)


def compare(reports: Mapping[str, Report]) -> Comparison:
    """Lays reports side by side and tests what sets them apart from the first.

    Where two reports judged the same samples in the same order, which a hash of the data says, the
    pairs count: McNemar's exact test on the samples that only one of them got right, and for the
    interval of the difference its Wald form with half a pair added to each of the four kinds, so
    that it keeps a width where nothing differs. Other samples: Fisher's exact test, and
    the interval that Newcombe makes of the two Wilson intervals.

    References: McNemar, Psychometrika 12 (1947); Agresti and Min, Statistics in Medicine 24
    (2005), section 3; Newcombe, Statistics in Medicine 17 (1998), method 10.

    Args:
        reports: At least two reports, by name.

    Raises:
        ValueError: If there are fewer than two.
        TypeError: If one is no report.

    Example:
        >>> compare({"before": Report.load("a"), "after": Report.load("b")}).render()
    """
    if len(reports) < 2:
        raise ValueError(f"Expected at least two reports. Received: reports={list(reports)!r}")
    for name, report in reports.items():
        if not isinstance(report, Report):
            raise TypeError(f"Expected reports by name. Received: reports[{name!r}]={report!r}")
    figures = {name: _rows(report) for name, report in reports.items()}
    rows = list(dict.fromkeys(row for found in figures.values() for row in found))
    rows = [row for row in rows if row != table.WORST] + [table.WORST]
    accuracies = {
        row: {
            name: found[row]["accuracy"] if row in found else None
            for name, found in figures.items()
        }
        for row in rows
    }
    (first, before), *others = reports.items()
    differences = []
    for row in rows:
        for name, report in others:
            if row not in figures[first] or row not in figures[name]:
                continue
            paired = before.settings["data"] == report.settings["data"]
            one, other = (flags(figures[which][row]["outcomes"]) for which in (first, name))
            differences.append(
                Difference(
                    *(row, name, *difference(one, other, paired), paired),
                    detectable(one, other, paired),
                )
            )
    return Comparison(accuracies, differences, _notes(reports))


def difference(
    before: np.ndarray, after: np.ndarray, paired: bool
) -> tuple[float, float, float, float]:
    """The share of true entries in `after` less that in `before`.

    Args:
        before: Booleans, shape `(n,)`.
        after: Booleans, shape `(m,)`; `m` is `n` where they are paired.
        paired: Whether both are of the same samples, in order.

    Returns:
        The difference, the ends of its 95 % interval, and the p value; see `compare`.
    """
    value = float(after.mean() - before.mean())
    if paired:
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        discordant = gained + lost
        p_value = float(binomtest(gained, discordant).pvalue) if discordant else 1.0
        n = len(before) + 2
        middle = (gained - lost) / n
        spread = 1.959964 * math.sqrt((discordant + 1) / n - middle**2) / math.sqrt(n)
        return value, max(middle - spread, -1.0), min(middle + spread, 1.0), p_value
    one, other = proportion(before), proportion(after)
    assert one is not None and other is not None  # a report has samples
    down = math.hypot(other.value - other.low, one.high - one.value)
    up = math.hypot(other.high - other.value, one.value - one.low)
    counts = [[p.hits, p.total - p.hits] for p in (one, other)]
    return value, value - down, value + up, float(fisher_exact(counts).pvalue)


def detectable(before: np.ndarray, after: np.ndarray, paired: bool) -> float:
    """The smallest true difference that so many samples show at the 5 % level in 80 of 100 cases.

    A difference that was not found says little where it is smaller than this. The variance is taken
    from the samples at hand: for pairs from the share `d` that only one of both got right, at least
    the difference itself, and then the difference `c` solves (Connor, Biometrics 43 (1987))

        c sqrt(n) = z_0.975 sqrt(d) + z_0.8 sqrt(d - c^2);

    for others it is `(z_0.975 + z_0.8)` standard errors of the difference, each share with two
    successes and two failures added (Agresti and Coull 1998). The exact tests of `compare` are a
    little more conservative than these normal approximations.

    Args:
        before: As of `difference`.
        after: Likewise.
        paired: Likewise.

    Returns:
        The difference, above 0 and at most 1.

    Example:
        >>> detectable(np.arange(500) < 400, np.arange(500) < 390, paired=True)  # doctest: +SKIP
        0.0184
    """
    level, power = 1.959964, 0.841621
    if not paired:
        shares = [(one.sum() + 2, len(one) + 4) for one in (before, after)]
        variance = sum(hits / n * (1 - hits / n) / n for hits, n in shares)
        return min((level + power) * math.sqrt(variance), 1.0)
    n = len(before)
    discordant = float((before != after).mean())
    least = (level + power) ** 2 / n
    # All that differ, differ in one direction: then d is c, which goes to this in a few steps.
    for _ in range(20):
        least = (level + power * math.sqrt(max(1 - least, 0.0))) ** 2 / n
    if discordant <= least:
        return min(least, 1.0)
    root = math.sqrt(level**2 * n - (n + power**2) * (level**2 - power**2))
    return min((level * math.sqrt(n) + root) * math.sqrt(discordant) / (n + power**2), 1.0)


def _rows(report: Report) -> dict[str, dict[str, Any]]:
    attacks = {name: row.figures for name, row in report.attacks.items()}
    return {"clean": report.clean, **attacks, table.WORST: report.robust}


def _notes(reports: Mapping[str, Report]) -> list[str]:
    """What was not asked of all of them alike."""
    notes = []
    for key in _THREAT:
        values = {name: report.settings.get(key) for name, report in reports.items()}
        if len({str(jsonable(value)) for value in values.values()}) > 1:
            told = ", ".join(f"{name} {value}" for name, value in values.items())
            notes.append(f"They differ in {key}: {told}.")
    cascades = [name for name, report in reports.items() if report.settings["cascade"]]
    if cascades:
        notes.append(
            f"The rows of {', '.join(cascades)} are cumulative: accuracy after an attack and those "
            "before it."
        )
    own = [name for name, report in reports.items() if report.settings["labels"] == "predicted"]
    if own:
        notes.append(
            f"No labels were given for {', '.join(own)}: the accuracy is agreement with the "
            "model's own predictions, 100 % without attack whatever the model."
        )
    drawn = [name for name, report in reports.items() if report.settings.get("repeats")]
    if drawn:
        notes.append(
            f"The samples of {', '.join(drawn)} are several draws. Those that are in more than one "
            "count each time: the intervals are too narrow and p is too small by that."
        )
    attacks = {name: set(report.attacks) for name, report in reports.items()}
    shared = set.intersection(*attacks.values())
    if any(found != shared for found in attacks.values()):
        told = "; ".join(
            f"{name} alone has {', '.join(sorted(found - shared))}"
            for name, found in attacks.items()
            if found - shared
        )
        notes.append(f"Their worst cases are over other attacks: {told}.")
    for attack in sorted(shared):
        configs = {str(jsonable(report.attacks[attack].config)) for report in reports.values()}
        if len(configs) > 1:
            notes.append(f"They differ in the parameters of {attack}.")
    for name, report in reports.items():
        grave = [finding.code for finding in report.findings if finding.severity != "note"]
        if grave:
            notes.append(f"The figures of {name} are in doubt: {', '.join(dict.fromkeys(grave))}.")
    return notes
