"""A report as JUnit XML, as pipelines read it: a test case for each claim.

The fields are those that Jenkins' xUnit plugin and GitLab read (`junit-10.xsd` of the former); the
standard library writes them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from kerasrobust.evaluation.renderers import table
from kerasrobust.evaluation.renderers.table import ReportData

# Characters that XML 1.0 has not.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something that a pipeline relies on.

    Attributes:
        name: What is claimed.
        failure: Why it does not hold; empty where it does.
        remark: What a reader should know though it holds.
    """

    name: str
    failure: str = ""
    remark: str = ""


def claims(report: ReportData, least: float, on: str = "figure") -> list[Claim]:
    """The claim that enough accuracy is left, and that no finding says otherwise.

    A finding that is `invalid` is a claim that fails, for no figure means anything then; one that
    is `doubtful` is a remark, and a note is none.

    Args:
        report: The report.
        least: Share of samples, 0 to 1, that must withstand; of several budgets at the largest.
        on: `"figure"`, or `"interval"` for the lower end of its 95 % interval.

    Raises:
        ValueError: If `least` is no share or `on` neither of the two.
    """
    if not 0 <= least <= 1 or on not in ("figure", "interval"):
        raise ValueError(
            "Expected a share from 0 to 1, of the figure or of its interval. "
            f"Received: least={least!r}, on={on!r}"
        )
    reached = report.robust["accuracy"]
    if on == "interval":
        reached, _ = report.robust["accuracy_interval"]
    end = " (lower end)" if on == "interval" else ""
    missed = f"Robust accuracy{end} is {100 * reached:.1f} %, below {100 * least:g} %."
    found = [
        Claim(
            f"robust accuracy{end} of at least {100 * least:g} %",
            missed if reached < least else "",
            table.verdict(report),
        )
    ]
    for finding in report.findings:
        told = f"{finding.code}: {finding.message}"
        if finding.severity == "invalid":
            found.append(Claim(f"no finding {finding.code}", told))
        elif finding.severity == "doubtful":
            found.append(Claim(f"no grave finding {finding.code}", remark=told))
    return found


def render(report: ReportData, found: Sequence[Claim]) -> str:
    """Claims as JUnit XML.

    Args:
        report: The report that they are about.
        found: See `claims`.
    """
    seconds = sum(row.figures["seconds"] for row in report.attacks.values())
    counts: dict[str, Any] = {
        "tests": str(len(found)),
        "failures": str(sum(bool(claim.failure) for claim in found)),
        "errors": "0",
        "time": f"{seconds:.3f}",
    }
    name = _text(f"kerasrobust {report.settings['model']} on {table.title(report)}")
    suites = ElementTree.Element("testsuites", name="kerasrobust", **counts)
    suite = ElementTree.SubElement(suites, "testsuite", name=name, skipped="0", **counts)
    for number, claim in enumerate(found):
        took = counts["time"] if not number else "0.000"
        case = ElementTree.SubElement(
            suite, "testcase", classname="kerasrobust", name=_text(claim.name), time=took
        )
        if claim.failure:
            failure = ElementTree.SubElement(
                case, "failure", message=_text(claim.failure), type="claim"
            )
            failure.text = _text(claim.failure)
        if claim.remark:
            ElementTree.SubElement(case, "system-out").text = _text(claim.remark)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _text(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
