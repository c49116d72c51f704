"""What is made of a report's rows: entries of a leaderboard, curves, next steps."""

import json
import math
import types

import pytest
from click.testing import CliRunner

from kerasrobust.evaluation import Finding
from kerasrobust.evaluation.renderers import curves, leaderboard, steps
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust_cli import compare as command

SETTINGS = {
    "dataset": "cifar10",
    "model": "resnet",
    "file": "models/mine.keras",
    "weights": "0" * 64,
    "clip_values": [0.0, 255.0],
    "samples": 1000,
    "available": 10000,
    "eps": 8.0,
    "norm": "inf",
    "preset": "autoattack",
    "cascade": True,
    "only_correct": None,
    "partial": None,
    "classifier": {"votes": 1, "judge": {"votes": 7}},
}
# The fields of the files in RobustBench's model_info, of which it leaves out the last two at times.
ROBUSTBENCH = {
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue"),
    *("architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable"),
}


def row(name, accuracy, attack="pgd", kind="budget", norm=math.inf, checks=None, **config):
    figures = {"accuracy": accuracy, "budget_curve": None}
    return AttackSummary(
        name, attack, config, kind, norm, "white", False, checks, 1000, figures=figures
    )


def report(rows=(), findings=(), clean=0.9, robust=0.47, command=None, **settings):
    rows = rows or [row("pgd", robust, eps=8.0)]
    return types.SimpleNamespace(
        clean={"accuracy": clean},
        robust={"accuracy": robust, "accuracy_interval": [robust - 0.03, robust + 0.03]},
        attacks={one.name: one for one in rows},
        findings=list(findings),
        settings={**SETTINGS, **settings},
        run={"command": command},
    )


def test_an_entry_has_robustbench_s_fields():
    found = leaderboard.entry(report(), authors="A and B", additional_data=False)
    assert set(found) > ROBUSTBENCH
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["autoattack_acc"] == 47.0
    # Of what is defined for two classes nothing is AutoAttack's.
    few = leaderboard.entry(report(findings=[Finding("few_classes", "why", 2, 4)]))
    assert few["autoattack_acc"] is None and few["reported"] == 47.0
    told = {key: found[key] for key in ("name", "architecture", "authors", "eps", "threat_model")}
    assert told == {
        "name": "mine",
        "architecture": "resnet",
        "authors": "A and B",
        "eps": "8/255",  # pixels are 0 to 255
        "threat_model": "Linf",
    }
    assert (found["clean_acc"], found["reported"], found["autoattack_acc"]) == (90.0, 47.0, 47.0)
    assert found["number_forward_passes"] == 7 and found["interval"] == [44.0, 50.0]
    assert found["additional_data"] is False and found["unreliable"] is False


def test_an_entry_is_about_the_wrong_samples_too():
    right = report(clean=1.0, robust=0.5, samples=800, only_correct={"of": 1000, "accuracy": 0.8})
    found = leaderboard.entry(right)
    assert (found["clean_acc"], found["reported"], found["n_examples"]) == (80.0, 40.0, 1000)
    assert found["autoattack_acc"] == 40.0 and found["interval"] == [37.6, 42.4]


def test_an_entry_does_not_claim_what_was_not_measured():
    doubtful = report(findings=[Finding("zero_gradients", "why")], preset=None)
    found = leaderboard.entry(doubtful)
    assert found["autoattack_acc"] is None and found["reported"] == 47.0 and found["unreliable"]
    assert found["attacks"] == "pgd" and found["additional_data"] is None
    partial = leaderboard.entry(report(partial={"missing": ["square"]}))
    assert partial["autoattack_acc"] is None and partial["reported"] == 47.0
    with pytest.raises(ValueError, match="needs a threat model"):
        leaderboard.entry(report(eps=None))
    with pytest.raises(TypeError, match="Received: 'author'"):
        leaderboard.entry(report(), author="A")


@pytest.mark.parametrize(
    ("eps", "width", "text"),
    [(8 / 255, 1, "8/255"), (0.5, 1, "0.5"), (0.3, 1, "0.3"), (4, 255, "4/255"), (0.03, 1, "0.03")],
)
def test_budgets_as_robustbench_writes_them(eps, width, text):
    assert leaderboard.entry(report(eps=eps, clip_values=[0, width]))["eps"] == text


def test_the_most_robust_comes_first():
    entries = [
        leaderboard.entry(report(robust=robust, dataset=dataset))
        for robust, dataset in ((0.2, "cifar10"), (0.6, "cifar10"), (0.9, "mnist"))
    ]
    found = leaderboard.ranked(entries)
    order = [("cifar10", 60.0), ("cifar10", 20.0), ("mnist", 90.0)]
    assert [(one["dataset"], one["reported"]) for one in found] == order


def test_a_budget_attack_at_several_budgets_gives_a_curve():
    rows = [
        row("pgd_2", 0.2, eps=0.2, eps_step=0.02, max_iter=7),
        row("pgd", 0.5, eps=0.1, eps_step=0.01, max_iter=7),
        row("pgd_3", 0.4, eps=0.1, eps_step=0.01, max_iter=50),
        row("fgsm", 0.7, attack="fgsm", eps=0.1),
        row("art:pgd", 0.5, checks="pgd", eps=0.3, max_iter=7),
        row("per sample", 0.5, attack="bim", eps=[0.1, 0.2]),
    ]
    found = curves.budget_curves(report(rows, cascade=False))
    expected = {"norm": math.inf, "eps": [0.0, 0.1, 0.2], "accuracy": [0.9, 0.5, 0.2]}
    assert found == {"pgd_2": expected}
    assert curves.budget_curves(report(rows, cascade=True)) == {}


def test_a_curve_is_named_after_the_attack_and_not_one_of_its_budgets():
    rows = [row(f"pgd@{eps:g}", 0.5 - eps, eps=eps) for eps in (0.1, 0.2)]
    assert set(curves.budget_curves(report(rows, cascade=False))) == {"pgd"}
    assert set(curves.security_curves(report(rows))) == {"pgd"}
    assert set(curves.security_curves(report(rows[:1]))) == {"pgd@0.1"}


def told(*arguments, **options):
    return [step.command for step in steps.next_steps(report(*arguments, **options))]


def test_next_steps_follow_their_rules():
    assert told() == ["kr-eval ... --attacks minimal"]
    searched = {"rows": [row("ddn", 0.0, kind="minimal", norm=2.0)], "robust": 0.46}
    assert told(**searched, eps=None, norm=None, cascade=False) == []
    # FAB in AutoAttack meets what the others have left.
    assert told(**searched) == told()
    one = {"cascade": False, "preset": None, "clip_values": [0, 1], "eps": 8 / 255}
    weak = told(robust=0.1, **one)
    assert weak == [
        "kr-eval ... --attacks autoattack --eps 0.03137 --norm inf",
        "kr-eval ... --attacks minimal",
        "kr-harden ... --eps 0.03137 --norm inf --output hardened",
    ]
    # Where the figures say nothing, only what the findings say.
    invalid = [
        Finding("chance_level", "why"),
        Finding("saturated", "why", command="kr-eval ... -x"),
    ]
    assert told(findings=invalid, robust=0.1, **one) == ["kr-eval ... -x"]


def test_what_findings_ask_for_comes_first():
    own = [Finding("few_samples", "why", command="kr-eval ... --samples 1068")]
    assert told(findings=own, samples=100) == ["kr-eval ... --samples 1068", *told()]
    assert told(findings=[Finding("few_samples", "all there are")]) == told()


def test_dots_become_what_was_evaluated():
    ran = (
        "kr-eval --model 'a model.keras' --dataset=mnist --samples 100 --balanced --attacks pgd "
        "--attacks fgsm --eps 0.3 --defense jpeg --output out --fail-under 0.4"
    )
    few = [Finding("few_samples", "why", command="kr-eval ... --samples 1000")]
    found = told(findings=few, samples=100, robust=0.1, command=ran, clip_values=[0, 1], eps=0.3)
    common = "--model 'a model.keras' --dataset=mnist"
    assert found == [
        f"kr-eval {common} --balanced --attacks pgd --attacks fgsm --eps 0.3 --defense jpeg "
        "--samples 1000",
        f"kr-eval {common} --samples 100 --balanced --defense jpeg --attacks minimal",
        f"kr-harden {common} --eps 0.3 --norm inf --output hardened",
    ]


def test_the_command_s_leaderboard(tmp_path, monkeypatch):
    found = {"a": report(robust=0.2), "b": report(robust=0.5)}
    for one in found.values():
        one.leaderboard = lambda one=one: leaderboard.entry(one)
    monkeypatch.setattr("kerasrobust.evaluation.Report.load", lambda path: found[path])
    monkeypatch.setattr("kerasrobust.evaluation.compare", lambda reports: "side by side")
    file = tmp_path / "board.json"
    for names, output in ((["a", "b"], "side by side"), (["a"], "Leaderboard written")):
        run = CliRunner().invoke(command.main, [*names, "--leaderboard", str(file)])
        assert run.exit_code == 0 and output in run.output
        board = json.loads(file.read_text(encoding="utf-8"))
        assert [one["reported"] for one in board] == [50.0, 20.0][-len(names) :]
    found["a"].settings["eps"] = None
    run = CliRunner().invoke(command.main, ["a", "--leaderboard", str(file)])
    assert run.exit_code == 2 and "needs a threat model" in run.output
