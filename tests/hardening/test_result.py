"""What hardening tells, on figures that are made up."""

import copy
import json

import jsonschema
import numpy as np
import pytest

from kerasrobust.hardening import Hardening, result, rules
from kerasrobust.metrics import registry

SHARE = {"accuracy": 0.5, "interval": [0.4, 0.6]}


def validation_row(name, robust):
    share = {"accuracy": robust, "interval": [robust, robust]}
    return {
        **{"name": name, "gradient": "exact", "clean": SHARE, "attacks": {"pgd": share}},
        **{"robust": share, "findings": []},
    }


def figures(clean, robust):
    ends = {"accuracy_interval": [0.0, 1.0]}
    pgd = {"accuracy": robust, "median_l2": np.inf, **ends}
    return {
        "clean": {"accuracy": clean, **ends},
        "pgd": pgd,
        "worst case": {"accuracy": robust, **ends},
    }


def difference(value, p_value):
    return {
        **{"row": "worst case", "report": "after", "value": value, "low": value - 0.1},
        **{"high": value + 0.1, "p_value": p_value, "paired": True},
    }


def found(**changes):
    plan = {"attacks": ["pgd", "ead"], "alpha": 0.0, "epochs": 3, "start": "undefended"}
    settings = {
        **{"dataset": "<b>digits</b>", "model": "cnn", "eps": 0.15, "norm": np.inf, "goal": 0.4},
        **{"max_loss": 0.05, "rounds": 3, "max_minutes": np.inf, "attacks": ["pgd"]},
        **{"passes": 250, "epochs": 3, "check": [], "benchmark": "areb", "metrics": ["psi"]},
        **{"gradient": "straight_through", "clip_values": [0, 1], "train_samples": 9},
        **{"validation_samples": 200, "test_samples": 100, "seed": 0},
    }
    check = {
        "samples": 100,
        "metrics": ["accuracy", "median_l2"],
        "before": figures(0.98, 0.02),
        "after": figures(0.95, 0.45),
        "differences": [difference(0.43, 1e-9)],
        "findings": {"before": [], "after": [finding("few_samples", "note")]},
    }
    fields = {
        "settings": settings,
        "candidates": [
            {
                **{"attack": "pgd", "parameters": {"max_iter": 100}, "left": [3, 9, 40]},
                **{"passes": 201.0, "chosen": True},
            }
        ],
        "preprocessing": {
            "settings": {},
            "rows": [validation_row("undefended", 0.02), validation_row("jpeg:quality=50", 0.2)],
            **{"chosen": "jpeg:quality=50", "rule": "", "verdict": ""},
        },
        "rounds": [
            {
                **{"plan": {**plan, "defense": None}, "defense": "ensemble", "because": "first"},
                "row": validation_row("round 1", 0.5),
            }
        ],
        "choices": [
            {"step": "4", "choice": "kept: round 1", "rule": rules.KEPT, "because": "50.0 %"}
        ],
        "checks": {"threat": check, "benchmark": copy.deepcopy(check)},
        "seconds": {"1-attacks": 60.0},
        "kept": "round 1",
        "ended": "goal: 50.0 % of the validation samples withstand",
    }
    return Hardening(**{**fields, **changes})


def finding(code, severity):
    return {"code": code, "severity": severity, "message": "told"}


def changed(**changes):
    made = found()
    checks = copy.deepcopy(made.checks)
    checks["threat"] |= changes
    return found(checks=checks)


def test_it_is_told_what_was_gained():
    told = found().verdict
    for part in (
        "Of 100 test samples that chose nothing, 45.0 % withstand every attack within Linf 0.15 "
        "instead of 2.0 % (+43.0 points, 95 % interval +33.0 to +53.0)",
        "95.0 % are right without attack instead of 98.0 %",
        "The goal of 40 % is met on them.",
    ):
        assert part in told
    assert "distrust" not in told and "not confirmed" not in told
    assert found().goal_met and found().hardened


@pytest.mark.parametrize("value, p_value", [(0.02, 0.4), (-0.3, 1e-6)])
def test_a_gain_that_the_test_samples_do_not_show(value, p_value):
    told = changed(differences=[difference(value, p_value)]).verdict
    assert "not confirmed on the test samples: use the model as it was" in told


def test_a_model_that_is_kept_as_it_was():
    made = changed(after=None, differences=[], findings={"before": []})
    assert made.verdict.startswith("Hardening did not help")
    assert "goal of 40 % is not met" in made.verdict
    assert made.goal_met is False and not made.hardened
    assert all(row[1] == "before" for row in next(iter(made.tables().values())).rows)


def test_grave_findings_are_told():
    graves = {"before": [], "after": [finding("gradient_masking", "doubtful")]}
    assert "distrust the figure: gradient_masking" in changed(findings=graves).verdict
    assert any("few_samples" in note and "threat-after" in note for note in found().notes())


def test_schema_and_files(tmp_path):
    validator = jsonschema.Draft202012Validator(result.schema())
    jsonschema.Draft202012Validator.check_schema(result.schema())
    made = found()
    made.save(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    validator.validate(data)
    assert Hardening.load(tmp_path) == made
    for part in ("kept", ("checks", "threat", "after"), ("rounds", 0, "row", "robust")):
        broken, path = copy.deepcopy(data), (part,) if isinstance(part, str) else part
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        assert not validator.is_valid(broken), part
    with pytest.raises(ValueError, match="Expected a report of hardening"):
        Hardening.from_dict({"schema": 1})
    page, text = ((tmp_path / f"report.{end}").read_text() for end in ("html", "md"))
    assert made.verdict in text and "&lt;b&gt;digits" in page and "<b>digits" not in page
    assert text.index(made.verdict) < text.index("| attack |")
    for heading, table in made.tables().items():
        assert heading in text and heading in page
        assert table.rows and all(len(line) == len(table.header) for line in table.rows)
    assert "://" not in page


def test_the_rows_before_and_after_stand_together():
    table = next(iter(found().tables().values()))
    assert [line[:2] for line in table.rows[:4]] == [
        *(["clean", side] for side in ("before", "after")),
        *(["pgd", side] for side in ("before", "after")),
    ]
    column = table.header.index(str(registry.get("accuracy").header))
    assert table.rows[3][column].startswith("45.0")
    kept = {name: table.rows[-1][-1] for name, table in found().tables().items()}
    assert kept["Steps 3 to 5: training"] == "kept" and kept["Step 2: preprocessing"] == ""
