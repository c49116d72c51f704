"""The tables of a report as text, made from the metrics' declarations; shared by the renderers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kerasrobust.evaluation.diagnosis import Finding, words
from kerasrobust.evaluation.pictures import Examples
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust.evaluation.surfaces import Surface
from kerasrobust.metrics.base import Metric
from kerasrobust.norms import norm_name
from kerasrobust.specs import jsonable

WORST = "worst case"
# Settings that `facts` tells.
_TOLD = (
    *("model", "file", "parameters", "weights"),
    *("dataset", "split", "indices", "available", "samples", "data", "class_names"),
    *("shape", "clip_values", "labels", "seed"),
)
# Characters of a list that a page shows.
_LONG = 400
# What a verdict says of findings, the gravest alone.
_DOUBT = {
    "invalid": "These figures say nothing about robustness",
    "doubtful": "Robustness may well be less",
}
# Of doubtful ones where no sample is left that an attack could still break.
_NONE_LEFT = "The nearest adversarial points may well be nearer"

# What the attacker wants who aims at a class.
_TARGETS = {
    "random": "a class of its choice",
    "next": "the class after the true one",
    "least_likely": "the least likely class",
    "all": "a class of its choice, which may be each of the wrong ones",
}


class ReportData(Protocol):
    """What a renderer reads of a `Report`."""

    @property
    def clean(self) -> dict[str, Any]: ...
    @property
    def robust(self) -> dict[str, Any]: ...
    @property
    def attacks(self) -> dict[str, AttackSummary]: ...
    @property
    def findings(self) -> list[Finding]: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def versions(self) -> dict[str, str]: ...
    @property
    def run(self) -> dict[str, Any]: ...
    @property
    def cost(self) -> dict[str, float]: ...
    @property
    def metrics(self) -> Sequence[Metric]: ...
    @property
    def examples(self) -> Examples | None: ...
    @property
    def surfaces(self) -> Mapping[str, Surface]: ...
    def to_dict(self) -> dict[str, Any]: ...


class Table(NamedTuple):
    """A table as text: its header, its rows, and the sentences that explain it."""

    header: list[str]
    rows: list[list[str]]
    legends: list[str]


def title(report: ReportData) -> str:
    """What was evaluated, in one line."""
    name = report.settings["dataset"] or "data"
    budget = ""
    if report.settings["eps"] is not None:
        norm = norm_name(float(report.settings["norm"]))
        budgets = report.settings["budgets"] or [report.settings["eps"]]
        within = ", ".join(_length(report, eps) for eps in budgets)
        budget = f", adversarial within {norm} {within}"
    return f"{name}, {words.samples(report.settings['samples'])}{budget}"


def verdict(report: ReportData) -> str:
    """What was found, and whether it can be trusted."""
    settings = report.settings
    clean, robust = (100 * figures["accuracy"] for figures in (report.clean, report.robust))
    partial, chosen = settings.get("partial"), settings.get("only_correct")
    begin = "Partial, the run was interrupted: " if partial else ""
    samples, of = words.samples(settings["samples"]), ""
    if chosen:
        clean = 100 * chosen["accuracy"]
        samples += f" that {'is' if settings['samples'] == 1 else 'are'} right without attack"
        of = f"of {chosen['of']:,} "
    within, less = "", ""
    budgets = report.robust.get("budgets")
    if budgets:
        within = f" within {norm_name(float(budgets['norm']))} {budgets['eps'][-1]:.4g}"
        pairs = list(zip(budgets["eps"], budgets["accuracy"], strict=True))[1:-1]
        less = "".join(f", {100 * share:.1f} % within {eps:.4g}" for eps, share in pairs)
    drawn = ""
    if report.robust.get("accuracy_deviation") is not None:
        drawn = (
            f", the mean of {settings['repeats']['draws']} draws with a deviation of "
            f"{100 * report.robust['accuracy_deviation']:.1f} points"
        )
    low, high = (100 * end for end in report.robust["accuracy_interval"])
    doubt = ""
    doubts = _DOUBT if robust else {**_DOUBT, "doubtful": _NONE_LEFT}
    for severity, told in doubts.items():
        codes = [finding.code for finding in report.findings if finding.severity == severity]
        if codes and not doubt:
            doubt = f" {told}: {', '.join(dict.fromkeys(codes))}."
    return (
        f"{begin}{robust:.1f} % of {samples} withstand every attack{within} (95 % interval "
        f"{low:.1f} to {high:.1f} %{drawn}){less}; {clean:.1f} % "
        f"{of}are right without one.{doubt}"
    )


def threat_model(report: ReportData) -> str:
    """What the attacker of this report knows, wants and may do, in one sentence."""
    rows = report.attacks.values()
    knows = sorted({row.knowledge for row in rows}, reverse=True)
    sees = " and ".join(
        {"white": "sees the model and its gradients", "black": "sees what the model answers"}[one]
        for one in knows
    )
    aims = sorted({row.targeted for row in rows})
    chosen = report.settings.get("targets") or "random"
    target = _TARGETS.get(chosen, f"the class {chosen} than the true one")
    wants = " or ".join(target if aim else "any wrong class" for aim in aims)
    low, high = report.settings["clip_values"]
    if report.settings["eps"] is not None:
        norm = norm_name(float(report.settings["norm"]))
        may = [f"by at most {_length(report, report.settings['eps'])} in {norm}"]
    else:
        budgets: dict[float, set[float]] = {}
        for row in rows:
            if row.kind == "budget" and isinstance(row.config.get("eps"), (int, float)):
                budgets.setdefault(row.norm, set()).add(float(row.config["eps"]))
        may = [
            f"by at most {', '.join(_length(report, eps) for eps in sorted(of))} in {norm_name(p)}"
            for p, of in sorted(budgets.items())
        ]
        if any(row.kind == "minimal" for row in rows):
            may.append("as far as it takes")
    return (
        f"The attacker {sees}, wants {wants}, and may change an image "
        f"{' or '.join(may) or 'as its attack does'}; pixels are {low:g} to {high:g}."
    )


def main_table(report: ReportData, narrow: bool = False) -> Table:
    """The clean samples, every attack, the worst case."""
    rows: list[tuple[list[str], Mapping[str, Any]]] = [(["clean", ""], report.clean)]
    for attack in report.attacks.values():
        name = attack.name + (" (check)" if attack.checks else "")
        rows.append(([name, norm_name(attack.norm)], attack.figures))
    rows.append(([WORST, ""], report.robust))
    content = _table(report, "main", ["attack", "norm"], rows, narrow)
    legends = [*content.legends, "Worst case: samples that no attack changed."]
    if _width(report) != 1 and not narrow:
        legends.append("In parentheses: lengths where pixels are 0 to 1.")
    if any(attack.checks for attack in report.attacks.values()):
        legends.append(
            'A row marked "check" is the reference implementation\'s run of the attack above it.'
        )
    if report.settings["cascade"]:
        legends.append(
            "The rows are cumulative: each attack met only the samples that those above it had "
            "left, so that accuracy, success and distances are what stood after it, passes and "
            "seconds its own."
        )
    return Table(content.header, content.rows, legends)


def counts_table(report: ReportData) -> Table:
    """Every attack's numbers of samples and passes."""
    rows = [([attack.name], attack.figures) for attack in report.attacks.values()]
    return _table(report, "counts", ["attack"], rows, narrow=False)


def class_tables(report: ReportData) -> dict[str, Table]:
    """By its heading, a table per class for each figure that has one entry per class.

    Classes that the samples do not hold are left out.
    """
    tables = {}
    header = ["class", "clean", *report.attacks, WORST]
    rows = [report.clean, *(attack.figures for attack in report.attacks.values()), report.robust]
    for metric in _shown(report, "classes"):
        columns = [row.get(metric.key) for row in rows]
        entries = max((len(column) for column in columns if column is not None), default=0)
        body = []
        for i in range(entries):
            values = [None if column is None else column[i] for column in columns]
            if any(value is not None for value in values):
                cells = ["" if value is None else metric.format(value) for value in values]
                body.append([class_name(report, i), *cells])
        tables[str(metric.header)] = Table(header, body, [metric.legend] if metric.legend else [])
    return tables


def verdict_table(report: ReportData) -> Table | None:
    """Certified beside robust accuracy, radius by radius; None for a model without certificate."""
    verdict = report.robust.get("verdict")
    if not verdict:
        return None
    rows = [
        [f"{radius:.4g}", f"{100 * certified:.1f}", f"{100 * robust:.1f}"]
        for radius, certified, robust in zip(
            verdict["radius"], verdict["certified"], verdict["robust"], strict=True
        )
    ]
    legend = (
        "Against any attack within the radius the accuracy lies between the two, but for the few "
        "certificates that may fail and the chance in the choice of samples: the one is proven, "
        "the other is what no attack of this report has refuted, which an answer that is withheld "
        "does not."
    )
    norm = norm_name(float(verdict["norm"]))
    return Table([f"{norm} radius", "certified % (at least)", "robust % (at most)"], rows, [legend])


def nearest_table(report: ReportData) -> Table | None:
    """The shortest distances over the attacks of a norm; None where no norm has two."""
    found = report.robust.get("nearest") or []
    if all(len(row["attacks"]) < 2 for row in found):
        return None
    rows = [
        [
            norm_name(float(row["norm"])),
            ", ".join(row["attacks"]),
            _length(report, row["median"], float(row["norm"])),
            _length(report, row["mean"], float(row["norm"])),
            str(row["fooled"]),
        ]
        for row in found
    ]
    legend = (
        "Per sample the shortest of the attacks in a norm. Median over the attacked samples, a "
        "failure as infinite; mean over the fooled ones."
    )
    legends = [legend]
    if any(float(row["norm"]) == 0 for row in found):
        legends.append("In L0: changed values, of which a pixel of several channels has several.")
    return Table(["norm", "attacks", "median", "mean", "fooled"], rows, legends)


def budgets_table(report: ReportData) -> Table | None:
    """What is left in the worst case at each of several budgets; None for one."""
    found = report.robust.get("budgets")
    if not found:
        return None
    rows = [
        [f"{eps:.4g}", f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
        for eps, share, (low, high) in zip(
            found["eps"], found["accuracy"], found["accuracy_interval"], strict=True
        )
    ]
    legend = (
        "A sample is left that no attack changed within this budget or a smaller one. In "
        "brackets: 95 % Wilson intervals."
    )
    return Table([f"{norm_name(float(found['norm']))} eps", "left %"], rows, [legend])


def facts(report: ReportData) -> dict[str, str]:
    """What was evaluated, on what, when and at what cost: what a newcomer looks for."""
    settings, run, cost = report.settings, report.run, report.cost
    parameters, weights = settings["parameters"], settings["weights"]
    model = [settings["model"]]
    model += [f"file {settings['file']}"] if settings["file"] else []
    model += [f"{parameters:,} parameters"] if parameters is not None else []
    model += [f"weights SHA-256 {weights}"] if weights else []
    data = [settings["dataset"] or "without a name"]
    data += [f"split {settings['split']}"] if settings["split"] else []
    of = f" of {settings['available']:,}" if settings["available"] else ""
    data += [f"{settings['samples']:,}{of} samples, SHA-256 {settings['data']}"]
    low, high = settings["clip_values"]
    shape = " x ".join(map(str, settings["shape"]))
    told = {
        "model": ", ".join(model),
        "data": ", ".join(data),
        "samples": f"{shape}, pixels {low:g} to {high:g}, labels {settings['labels']}",
    }
    if settings["indices"]:
        told["places in the split"] = _short(settings["indices"])
    if settings["class_names"]:
        told["classes"] = _short(", ".join(settings["class_names"]))
    told["passes"] = (
        f"{cost['queries']:,} forward, {cost['gradients']:,} forward and backward, by all attacks, "
        "padding included"
    )
    told["time"] = (
        f"{cost['seconds']:.1f} s for all attacks; begun {run['started']}, finished after "
        f"{run['seconds']:.1f} s"
    )
    machine = run["machine"]
    memory = machine["memory_gib"]
    hardware = [f"{machine['cores']} core{'s' * (machine['cores'] != 1)} of {machine['cpu']}"]
    hardware += [f"{memory:g} GiB"] if memory else []
    hardware += machine["accelerators"] or ["no accelerator"]
    told["machine"] = ", ".join([*hardware, machine["os"], f"Python {machine['python']}"])
    told["versions"] = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    told["seed"] = str(settings["seed"])
    if run["command"]:
        told["command"] = run["command"]
    return told


def further_settings(report: ReportData) -> dict[str, str]:
    """The settings that `facts` has not told, as text; without those that say nothing."""
    told = {}
    for key, value in jsonable(report.settings).items():
        if key not in _TOLD and value not in (None, []):
            told[key] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return told


def class_name(report: ReportData, label: int) -> str:
    """The name of a class, its number where it has none."""
    names = report.settings["class_names"]
    return str(label) if names is None or label >= len(names) else names[label]


def _width(report: ReportData) -> float:
    low, high = report.settings["clip_values"]
    return high - low


def _length(report: ReportData, length: float, norm: float = 1.0) -> str:
    """A length in the unit of the pixels, with that of 0..1 where they differ; L0 has none."""
    width = _width(report)
    text = f"{length:.4g}"
    if width == 1 or norm == 0 or not math.isfinite(length):
        return text
    return f"{text} ({length / width:.3g} where pixels are 0 to 1)"


def _short(text: str) -> str:
    if len(text) <= _LONG:
        return text
    return f"{text[:_LONG].rpartition(',')[0] or text[:_LONG]} ... (report.json has all)"


def _shown(report: ReportData, table: str) -> list[Metric]:
    return [m for m in report.metrics if m.header is not None and m.table == table]


def _table(
    report: ReportData,
    table: str,
    first: list[str],
    rows: Sequence[tuple[list[str], Mapping[str, Any]]],
    narrow: bool,
) -> Table:
    """Columns of one table; a column that no row has a value for is left out."""
    shown = [m for m in _shown(report, table) if any(r.get(m.key) is not None for _, r in rows)]
    header = [*first, *((m.narrow if narrow else "") or str(m.header) for m in shown)]
    samples = int(report.settings["samples"])
    body = [[*start, *(m.cell(row, samples, narrow) for m in shown)] for start, row in rows]
    legends = list(dict.fromkeys(metric.legend for metric in shown if metric.legend))
    return Table(header, body, legends)
