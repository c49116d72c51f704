"""Warnings appear when there is a reason, and only then."""

import math

import numpy as np
import pytest

from kerasrobust.evaluation import summary
from kerasrobust.evaluation.diagnosis import diagnose

NAN = math.nan


@pytest.fixture
def findings(make_result, make_attack):
    """Codes and messages for a table of `name: (shifts, kind, norm, knowledge, checks)`."""

    def find(table, **changes):
        rows, results = {}, {}
        for name, (shifts, kind, norm, knowledge, checks) in table.items():
            result = make_result(shifts, name=name, **changes.get(name, {}))
            results[name] = result
            y = np.zeros(len(shifts), np.int64)
            rows[name] = summary.summarise(
                name,
                make_attack(kind, norm),
                result,
                y,
                ~result.initially_adversarial,
                2,
                1.0,
                knowledge=knowledge,
                checks=checks,
            )
        return {finding.code: finding.message for finding in diagnose(rows, results)}

    return find


MANY = 2000  # enough that the sample size is no finding


def test_black_box_inside_the_white_box_budget_is_gradient_masking(findings):
    found = findings(
        {
            "pgd": ([NAN] * MANY, "budget", math.inf, "white", None),
            "hsja": ([0.4] * 100 + [NAN] * (MANY - 100), "minimal", 2, "black", None),
        }
    )
    assert list(found) == ["gradient_masking"]
    assert "100 samples inside the budget of pgd" in found["gradient_masking"]


def test_black_box_beyond_the_budget_is_told_apart(findings):
    found = findings(
        {
            "pgd": ([0.5] * 100 + [NAN] * (MANY - 100), "budget", math.inf, "white", None),
            "hsja": ([0.7] * MANY, "minimal", 2, "black", None),
        }
    )
    assert list(found) == ["black_box_stronger"]
    assert "hsja" in found["black_box_stronger"] and "95 %" in found["black_box_stronger"]


def test_a_nearer_black_box_beats_a_minimal_white_box(findings):
    table = {
        "cwl2": ([0.4] * MANY, "minimal", 2, "white", None),
        "hsja": ([0.3] * MANY, "minimal", 2, "black", None),
    }
    assert list(findings(table)) == ["gradient_masking"]


def test_no_warning_where_the_white_box_is_stronger(findings):
    assert not findings(
        {
            "pgd": ([0.5] * MANY, "budget", math.inf, "white", None),
            "cwl2": ([0.2] * MANY, "minimal", 2, "white", None),
            "hsja": ([0.3] * (MANY - 5) + [NAN] * 5, "minimal", 2, "black", None),
        }
    )
    # Nearer by less than the margin is a tie.
    assert not findings(
        {
            "cwl2": ([0.300] * MANY, "minimal", 2, "white", None),
            "hsja": ([0.298] * MANY, "minimal", 2, "black", None),
        }
    )


def test_samples_wrong_already_are_no_evidence(findings):
    assert not findings(
        {
            "cwl2": ([None] * (MANY - 10) + [0.2] * 10, "minimal", 2, "white", None),
            "hsja": ([None] * (MANY - 10) + [0.3] * 10, "minimal", 2, "black", None),
        }
    )


def test_a_stronger_reference_is_reported_once(findings):
    found = findings(
        {
            "hsja": ([0.4] * MANY, "minimal", 2, "black", None),
            "art:hsja": ([0.3] * MANY, "minimal", 2, "black", "hsja"),
            "cwl2": ([0.2] * MANY, "minimal", 2, "white", None),
            "art:cwl2": ([0.2] * MANY, "minimal", 2, "white", "cwl2"),
        }
    )
    assert list(found) == ["cross_check"]
    assert found["cross_check"].startswith("art:hsja did better than hsja on 2,000 samples")


def test_few_samples_and_samples_given_up(findings):
    gave_up = np.arange(100) < 3
    found = findings(
        {"hsja": ([NAN] * 3 + [0.1] * 97, "minimal", 2, "black", None)},
        hsja={"gave_up": gave_up},
    )
    assert list(found) == ["few_samples", "gave_up"]
    assert "100 samples" in found["few_samples"] and "10 points" in found["few_samples"]
    assert "3 of 100 samples" in found["gave_up"]
