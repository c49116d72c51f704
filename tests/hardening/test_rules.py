"""The rules of the process flow, on figures that are made up."""

import math

import numpy as np
import pytest

from kerasrobust import attacks, defenses
from kerasrobust.evaluation.tuning import Row
from kerasrobust.hardening import rules
from kerasrobust.hardening.rules import Candidate, Plan


def row(name, clean, n=100, **left):
    """So many of `n` samples right without attack, and under each attack."""
    places = np.arange(n)
    flags = {attack: places < count for attack, count in left.items()}
    worst = np.all(list(flags.values()), axis=0)
    return Row(name, "exact", places < clean, flags, worst, [])


def test_the_strongest_within_the_passes():
    weak, strong = Candidate("pgd", {"a": 1}, (9, 20, 30), 50), Candidate("pgd", {}, (5, 9, 9), 300)
    assert rules.strongest([weak, strong], 300) is strong
    assert rules.strongest([weak, strong], 299) is weak
    assert rules.strongest([weak, strong], 10) is weak  # the cheapest where none is within


def test_equal_at_the_budget_they_are_told_apart_below_it():
    at = [
        Candidate("pgd", {"a": 1}, (0, 0, 9), 20),
        Candidate("pgd", {"a": 2}, (0, 0, 4), 80),
        Candidate("pgd", {"a": 3}, (0, 0, 4), 40),
        Candidate("pgd", {"a": 4}, (0, 0, 4), 40),
        Candidate("pgd", {"a": 5}, (1, 0, 0), 10),
    ]
    assert rules.strongest(at, 100) is at[2]


@pytest.mark.parametrize("name", sorted(rules._GRIDS))
def test_all_that_is_tried_can_be_made_and_takes_its_passes(name):
    attack = attacks.get(name)
    assert {"pgd", "apgd", "cwl2", "ead", "hsja", "square", "pma"} >= {name}
    for changes in rules.grid(attack, {}, 250, 10):
        made = attacks.get(rules.configured(attack, changes))
        config = made.get_config()
        assert all(config[key] == value for key, value in changes.items() if key != "eps_step")
        if attack.access == "gradient":
            assert 2 * made.max_steps() <= 250
        else:
            assert made.max_steps() <= rules.QUERIES * 250


def test_what_the_user_gave_stays():
    attack = attacks.get("pgd:max_iter=3")
    tried = rules.grid(attack, {"max_iter": 3}, 250, 10)
    assert tried[0] == {} and len(tried) > 2
    assert not any("max_iter" in changes for changes in tried)
    assert rules.grid(attacks.get("fgsm"), {}, 250, 10) == [{}]
    given = {"max_iter": 3, "eps_step": 0.1, "num_random_init": 1}
    assert rules.grid(attack, given, 250, 10) == [{}]
    # The parameters of a preset are one more that is tried, and stay nothing.
    tried = rules.grid(attack, {}, 250, 10, as_given=True)
    assert tried[0] == {} and tried[1]["max_iter"] == 100


def test_few_classes_have_no_dlr_loss():
    losses = {
        classes: {one["loss_type"] for one in rules.grid(attacks.get("apgd"), {}, 250, classes)}
        for classes in (3, 4)
    }
    assert len(losses[3]) == 1 and len(losses[4]) == 2


def test_steps_are_shares_of_the_budget():
    attack = attacks.get("pgd:eps=0.2,max_iter=5")
    config = rules.configured(attack, {"eps_step": 0.25}, 0.5)["config"]
    assert config["eps"] == pytest.approx(0.1) and config["eps_step"] == pytest.approx(0.025)
    given = attacks.get("pgd:eps=0.2,eps_step=0.1")
    config = rules.configured(given, {"max_iter": 9}, 0.5)["config"]
    assert config["eps_step"] == pytest.approx(0.05) and config["max_iter"] == 9
    minimal = attacks.get("hsja")
    assert rules.configured(minimal, {}, 0.5)["config"].get("eps") is None


@pytest.mark.parametrize("name", [*sorted(rules._SHORT), "fgsm"])
def test_training_forms_can_be_trained_with(name):
    plan = Plan((rules.training_form(name, 0.1, 2.0 if name != "fgsm" else math.inf),), 0.5, 3)
    (defense,) = defenses.resolve(plan.spec)
    assert defense.name == "adversarial_training" and defense.alpha == 0.5
    config = defense.attack.get_config()
    for key, value in rules._SHORT.get(name, {}).items():
        assert config[key] == (value * 0.1 if key == "eps_step" else value)
    if defense.attack.kind == "budget":
        assert config["eps"] == 0.1


def test_a_training_form_keeps_what_is_given():
    form = rules.training_form("pgd:eps=0.05,max_iter=3", 0.1, math.inf)
    attack = attacks.get(form)
    assert attack.eps == 0.05 and attack.max_iter == 3 and attack.eps_step == 0.0125
    with pytest.raises(ValueError, match="can run in a training step"):
        rules.training_form("uap", 0.1, math.inf)


def test_an_ensemble_has_another_norm():
    pgd, hsja, cw = (attacks.get(name) for name in ("pgd", "hsja", "cwl2"))
    assert rules.first_ensemble([pgd, hsja], math.inf) == ["pgd", "ead"]
    assert rules.first_ensemble([pgd, cw, pgd], math.inf) == ["pgd", "cwl2"]
    assert rules.first_ensemble([hsja], math.inf) == ["ead"]


def test_a_plan_as_a_defense():
    plan = Plan(("pgd:eps=0.1,max_iter=2", "ead:max_iter=1"), 0.25, 3)
    (defense,) = defenses.resolve(plan.spec)
    assert [one.name for one in defense.attacks] == ["pgd", "ead"] and defense.alpha == 0.25
    assert Plan((), 0.0, 3, defense="trades:eps=0.1").spec == "trades:eps=0.1"


LIMITS = {"goal": 0.4, "rounds": 1, "most_rounds": 3, "minutes": 5, "last": 2, "most_minutes": 8}


@pytest.mark.parametrize(
    "changes, why",
    [
        ({}, None),
        ({"goal": 0.3}, "goal: 30.0 %"),
        ({"goal": None, "most_rounds": 1}, "rounds: 1 allowed"),
        ({"rounds": 3}, "rounds: 3 allowed, 3 made"),
        ({"most_minutes": 7}, None),
        ({"most_minutes": 6.9}, "time: 6.9 minutes"),
    ],
)
def test_when_it_ends(changes, why):
    ended = rules.stop(row("round 1", 90, pgd=30), **{**LIMITS, **changes})
    assert ended is None if why is None else ended.startswith(why)


def after(last, figures, **changes):
    threats = {"pgd": attacks.get("pgd"), "hsja": attacks.get("hsja")}
    options = {"max_loss": 0.05, "threats": threats, "eps": 0.1, "norm": math.inf, **changes}
    return rules.next_plan(last, figures, row("undefended", 95, pgd=0, hsja=0), "kept", **options)


def test_lost_accuracy_comes_first():
    last = Plan(("pgd:max_iter=7",), 0.0, 10)
    plan, because = after(last, row("round 1", 89, pgd=30, hsja=20))
    assert plan == Plan(("pgd:max_iter=7",), 0.25, 10, "kept") and "6.0 points" in because
    plan, _ = after(last, row("round 1", 90, pgd=30, hsja=20))  # five points are allowed
    assert plan.alpha == 0.0
    plan, _ = after(last, row("round 1", 89, pgd=30, hsja=20), max_loss=0.06)
    assert plan.alpha == 0.0
    plan, _ = after(Plan(("pgd:max_iter=7",), 0.75, 10), row("round 1", 50, pgd=20, hsja=30))
    assert plan.alpha == 0.75 and plan.epochs == 20


def test_then_the_attack_that_leaves_least_joins():
    last = Plan(("pgd:max_iter=7",), 0.0, 10)
    plan, because = after(last, row("round 1", 95, pgd=30, hsja=20))
    assert [one.partition(":")[0] for one in plan.attacks] == ["pgd", "hsja"]
    assert plan.epochs == 10 and because.startswith("hsja leaves least, 20.0 %")


def test_then_it_trains_for_longer():
    last = Plan(("pgd:max_iter=7",), 0.0, 10)
    plan, because = after(last, row("round 1", 95, pgd=10, hsja=20))
    assert plan == Plan(("pgd:max_iter=7",), 0.0, 20, "kept") and "20 epochs" in because
    # A defense that was named stays what it is.
    named = Plan((), 0.0, 10, defense="trades:eps=0.1")
    plan, _ = after(named, row("round 1", 50, pgd=30, hsja=20))
    assert plan == Plan((), 0.0, 20, "kept", "trades:eps=0.1")
