"""JUnit XML as the readers of pipelines want it: Jenkins' `junit-10.xsd`, by hand."""

from xml.etree import ElementTree

import pytest

import kerasrobust
from kerasrobust.evaluation import Finding
from kerasrobust.evaluation.renderers import junit

# Elements, their attributes and, in their order, their children.
SCHEMA = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname"},
        ["properties", "testcase", "system-out"],
    ),
    "testcase": (
        {"name", "classname", "time", "status"},
        ["skipped", "error", "failure", "system-out", "system-err"],
    ),
    "failure": ({"message", "type"}, []),
    "system-out": (set(), []),
}


def check(element):
    attributes, children = SCHEMA[element.tag]
    assert set(element.attrib) <= attributes
    places = [children.index(child.tag) for child in element]
    assert places == sorted(places)
    for child in element:
        check(child)


@pytest.fixture(scope="module")
def report():
    """A report of what a pipeline would look at, without a run."""
    accuracy = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}
    settings = {
        "model": "m",
        "dataset": "a <b> & \x00\x1b\"'",
        "samples": 100,
        "eps": None,
        "norm": None,
    }
    row = kerasrobust.evaluation.AttackSummary(
        "pgd", "pgd", {}, "budget", 2.0, "white", False, None, 100, {"seconds": 1.5, **accuracy}
    )
    findings = [
        Finding("chance_level", "No better than <chance>."),
        Finding("not_converged", "Far\x08 behind."),
        Finding("few_samples", "A note."),
    ]
    return kerasrobust.evaluation.Report(
        clean=accuracy,
        robust=accuracy,
        attacks={"pgd": row},
        findings=findings,
        settings=settings,
        versions={},
        run={},
    )


@pytest.mark.parametrize(
    "least, on, met", [(0.5, "figure", True), (0.51, "figure", False), (0.41, "interval", False)]
)
def test_a_case_for_each_claim(report, least, on, met):
    tree = ElementTree.fromstring(report.to_junit(least, on))
    check(tree)
    (suite,) = tree
    threshold, invalid, doubtful = suite
    assert (threshold.find("failure") is None) == met
    assert threshold.find("system-out").text.startswith("50.0 % of 100 samples withstand")
    assert invalid.find("failure").get("message") == "chance_level: No better than <chance>."
    assert doubtful.find("failure") is None
    assert doubtful.find("system-out").text == "not_converged: Far? behind."
    failures = str(1 + (not met))
    for element in (tree, suite):
        counts = {key: element.get(key) for key in ("tests", "failures", "errors", "time")}
        assert counts == {"tests": "3", "failures": failures, "errors": "0", "time": "1.500"}
    assert "a <b> & ??\"'" in suite.get("name")
    claims = report.claims(least, on)
    assert [bool(claim.failure) for claim in claims] == [not met, True, False]


@pytest.mark.parametrize("least, on", [(1.5, "figure"), (0.5, "figures")])
def test_what_is_no_claim(report, least, on):
    with pytest.raises(ValueError, match="share from 0 to 1"):
        junit.claims(report, least, on)
