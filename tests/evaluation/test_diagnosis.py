"""Warnings appear when there is a reason, and only then."""

import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust import attacks
from kerasrobust.evaluation import summary
from kerasrobust.evaluation.diagnosis import (
    SEVERITY,
    Finding,
    by_weight,
    check_confidence,
    check_detector,
    check_detector_seen,
    check_gradients,
    check_predictions,
    check_scores,
    diagnose,
)
from kerasrobust.evaluation.renderers.table import verdict

NAN = math.nan


MANY = 2000  # enough that the sample size is no finding
SMALL_STEPS = {"eps": 0.5, "eps_step": 0.05, "max_iter": 40}
LONG_STEPS = {"eps": 0.5, "eps_step": 0.25, "max_iter": 40}


@pytest.fixture
def findings(make_result, make_attack):
    """Codes and messages for a table of `name: (shifts, kind, norm, knowledge, checks)`."""

    def find(table, repeat=None, in_a_row=False, available=None, **changes):
        rows, results = {}, {}
        for name, (shifts, kind, norm, knowledge, checks) in table.items():
            changed = {"name": name, "x": None, "x_adv": None, **changes.get(name, {})}
            result = make_result(shifts, **changed)
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
        found = diagnose(rows, results, repeat, in_a_row, available=available)
        assert len({finding.code for finding in found}) == len(found)
        return {finding.code: told(finding) for finding in found}

    return find


def told(finding):
    """Message and command, a line each."""
    return f"{finding.message}\n{finding.command}"


def budget(shifts):
    return shifts, "budget", math.inf, "white", None


def minimal(shifts, knowledge="white"):
    return shifts, "minimal", 2, knowledge, None


def broken(count, shift=0.4, first=0):
    """The first so many samples broken, or so many after some others."""
    return [NAN] * first + [shift] * count + [NAN] * (MANY - count - first)


def test_black_box_inside_the_budget_of_small_steps_is_gradient_masking(findings):
    table = {"pgd": budget([NAN] * MANY), "hsja": minimal(broken(100), "black")}
    for in_a_row in (False, True):
        found = findings(table, in_a_row=in_a_row, pgd={"config": SMALL_STEPS})
        assert list(found) == ["gradient_masking"]
        assert "100 samples inside the budget of pgd" in found["gradient_masking"]


@pytest.mark.parametrize(
    "name, config, command",
    [
        ("pgd", LONG_STEPS, "pgd:eps=0.5,eps_step=0.05,max_iter=40"),
        ("pgd", {**SMALL_STEPS, "max_iter": 5}, "pgd:eps=0.5,eps_step=0.0125,max_iter=160"),
        ("pgd", {**SMALL_STEPS, "eps_step": 1e-6}, "pgd:eps=0.5,eps_step=0.05,max_iter=40"),
        ("fgsm", {"eps": 0.5, "eps_step": 0.1}, "pgd:eps=0.5,eps_step=0.05,max_iter=40"),
    ],
)
def test_long_or_few_steps_are_no_proof_of_masking(findings, name, config, command):
    table = {name: budget([NAN] * MANY), "hsja": minimal(broken(100), "black")}
    found = findings(table, **{name: {"config": config}})
    assert list(found) == ["black_box_stronger"]
    assert command in found["black_box_stronger"]
    assert attacks.get(command).get_config()["eps"] == 0.5


def test_what_another_white_box_attack_broke_is_not_masked(findings):
    """FGSM misses what PGD breaks: the false alarm of comparing attack with attack."""
    table = {
        "fgsm": budget([NAN] * MANY),
        "pgd": budget(broken(200)),
        "square": (broken(100), "budget", math.inf, "black", None),
    }
    assert not findings(table, pgd={"config": SMALL_STEPS})
    # A minimal-norm attack that got there counts as well, one that went too far does not.
    near = {
        "pgd": budget([NAN] * MANY),
        "fab": ([0.4] * 100 + [NAN] * (MANY - 100), "minimal", math.inf, "white", None),
        "square": table["square"],
    }
    assert not findings(near)
    far = {**near, "fab": (broken(100, 0.6), "minimal", math.inf, "white", None)}
    found = findings(far, pgd={"config": SMALL_STEPS})
    assert list(found) == ["gradient_masking", "black_box_stronger"]  # the budget's, and fab's norm
    # Two samples of two hundred are bad luck.
    two = {"pgd": budget([NAN] * 200), "square": minimal([0.4] * 2 + [NAN] * 198, "black")}
    assert list(findings(two, pgd={"config": SMALL_STEPS})) == ["few_samples"]
    for available, advice in ((None, "--samples 1068"), (360, "--samples 360"), (200, "None")):
        assert findings(two, available=available)["few_samples"].endswith(advice)
    # What only the black-box attack broke is still seen, once for the budget that both work to.
    more = {**table, "square": (broken(100, first=200), "budget", math.inf, "black", None)}
    found = findings(more, fgsm={"config": SMALL_STEPS}, pgd={"config": SMALL_STEPS})
    assert list(found) == ["gradient_masking"]
    assert "the budget of fgsm and pgd" in found["gradient_masking"]


def test_a_repetition_decides_between_masking_and_a_long_step(findings, make_result):
    table = {
        "pgd": budget([NAN] * MANY),
        "hsja": minimal(broken(100), "black"),
        "square": (broken(100), "budget", math.inf, "black", None),
    }
    for shifts, code in ((broken(100), "step_too_long"), ([NAN] * MANY, "gradient_masking")):
        asked = []

        def repeat(description, rows, shifts=shifts, asked=asked):
            asked.append(description)
            # Of the hundred that only the black box broke, a few from all over.
            assert rows.tolist() == list(range(0, 100, 4))
            return make_result([shifts[row] for row in rows])

        for config in (LONG_STEPS, SMALL_STEPS):
            only = {key: table[key] for key in ("pgd", "hsja")}
            found = findings(only, repeat, pgd={"config": {**config, "seed": 3}})
            assert list(found) == [code] and "pgd:eps=0.5,eps_step=" in found[code]
        assert asked[0]["config"] == {**SMALL_STEPS, "seed": 3} and asked[0]["name"] == "pgd"
        assert asked[1]["config"]["eps_step"] < 0.05
    hardly = {"config": {**SMALL_STEPS, "eps_step": 1e-6}}
    found = findings(only, lambda _, rows: make_result([0.4] * len(rows)), pgd=hardly)
    assert "repeated in longer steps, pgd:eps=0.5,eps_step=0.05" in found["short_steps"]
    found = findings(only, lambda *_: None, pgd={"config": LONG_STEPS})
    assert list(found) == ["black_box_stronger"]
    # Three of those 25 are not broken again: 12 of the hundred, more than one in a hundred of all.
    fewer = findings(
        {"pgd": budget([NAN] * 300), "hsja": minimal([0.4] * 100 + [NAN] * 200, "black")},
        lambda _, rows: make_result([NAN] * 3 + [0.4] * (len(rows) - 3)),
        pgd={"config": LONG_STEPS},
    )
    assert "gradient_masking" in fewer
    assert "broke 22 of 25 of them" in fewer["gradient_masking"]


def test_a_repetition_keeps_a_budget_of_its_own_for_each_sample(findings, make_result):
    """What is broken beyond the budget of its sample is not broken."""
    eps = [0.5] * 1000 + [0.3] * 1000
    table = {"pgd": budget([NAN] * MANY), "hsja": minimal(broken(60, 0.2, first=970), "black")}
    for shift, code in ((0.25, "step_too_long"), (0.45, "gradient_masking")):

        def repeat(description, rows, shift=shift):
            assert rows.tolist() == list(range(970, 1030, 2))
            return make_result([shift] * len(rows))

        config = {**LONG_STEPS, "eps": eps}
        assert list(findings(table, repeat, pgd={"config": config})) == [code]


def test_a_repetition_is_asked_for_once(make_result, make_attack):
    rows, results, asked = {}, {}, []
    for name, shifts, knowledge in (
        ("pgd", [NAN] * MANY, "white"),
        ("hsja", broken(100), "black"),
        ("square", broken(100), "black"),
    ):
        results[name] = make_result(shifts, name=name, config=LONG_STEPS)
        y, attack = np.zeros(MANY, np.int64), make_attack("budget", math.inf)
        rows[name] = summary.summarise(
            name, attack, results[name], y, np.ones(MANY, bool), 2, 1.0, knowledge
        )

    def repeat(description, rows):
        asked.append(description)
        return make_result([NAN] * len(rows))

    codes = [finding.code for finding in diagnose(rows, results, repeat)]
    assert codes == ["gradient_masking"] * 2 and len(asked) == 1


def test_a_black_box_that_goes_beyond_the_budget_proves_nothing(findings):
    table = {"pgd": budget(broken(100, 0.5)), "hsja": minimal([0.7] * MANY, "black")}
    assert not findings(table)


def test_a_nearer_black_box_beats_a_minimal_white_box(findings, make_result):
    table = {"cwl2": minimal([0.4] * MANY), "hsja": minimal([0.3] * MANY, "black")}
    few = {"config": {"max_iter": 10}}
    found = findings(table, cwl2=few)
    assert list(found) == ["black_box_stronger"]
    assert "max_iter=50" in found["black_box_stronger"]
    assert list(findings(table)) == ["black_box_stronger"]  # an attack that counts no steps
    asked = []

    def repeat(description, rows, shift):
        asked.append(description)
        return make_result([shift] * len(rows))

    found = findings(table, lambda *one: repeat(*one, 0.4), cwl2=few)
    assert list(found) == ["gradient_masking"] and asked[0]["config"] == {"max_iter": 50}
    assert list(findings(table, lambda *one: repeat(*one, 0.2), cwl2=few)) == ["not_converged"]
    # Another white-box attack that is as near: nothing misleads.
    assert not findings({**table, "ead": ([0.3] * MANY, "minimal", 1, "white", None)})
    # In a row each outcome holds what the ones before it broke.
    assert not findings(table, in_a_row=True)


def test_an_attack_far_behind_another_in_its_own_norm_has_not_converged(findings):
    settings = {"config": {"max_iter": 50, "learning_rate": 0.01}}
    table = {
        "cwl2": minimal([0.9] * MANY),
        "ead": ([0.05] * MANY, "minimal", 1, "white", None),
        "pgd": budget([0.3] * MANY),
    }
    found = findings(table, cwl2=settings, ead=settings)
    assert list(found) == ["not_converged"]
    assert "(L2) is 1.8 where the points of ead lie at 0.1:" in found["not_converged"]
    assert "max_iter=50, learning_rate=0.01" in found["not_converged"]
    failed = {**table, "cwl2": minimal([0.1] * 500 + [NAN] * (MANY - 500))}
    assert "is inf where" in findings(failed, cwl2=settings)["not_converged"]
    # Less than twice as far; another norm; an attack that has nothing to converge; a row of them.
    assert not findings({**table, "cwl2": minimal([0.09] * MANY)}, cwl2=settings, ead=settings)
    assert not findings({"pgd": table["ead"][:1] + ("budget", 1, "white", None)}, pgd=settings)
    assert not findings(table)
    assert not findings(table, in_a_row=True, cwl2=settings, ead=settings)
    # Who sees less may be behind; three samples prove nothing.
    assert not findings({**table, "cwl2": minimal([0.9] * MANY, "black")}, cwl2=settings)
    three = {"cwl2": minimal([0.9] * 3), "ead": ([0.05] * 3, "minimal", 1, "white", None)}
    assert list(findings(three, cwl2=settings)) == ["few_samples"]


def test_no_warning_where_the_white_box_is_stronger(findings):
    assert not findings(
        {
            "pgd": budget([0.5] * MANY),
            "cwl2": minimal([0.2] * MANY),
            "hsja": minimal([0.3] * (MANY - 5) + [NAN] * 5, "black"),
        }
    )
    # Nearer by less than the margin is a tie.
    assert not findings({"cwl2": minimal([0.300] * MANY), "hsja": minimal([0.298] * MANY, "black")})
    # And so is nearer on one sample in a hundred: bad luck.
    lucky = minimal([0.2] * 20 + [0.3] * (MANY - 20), "black")
    assert not findings({"cwl2": minimal([0.3] * MANY), "hsja": lucky})


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


def codes(labels, y, nb_classes):
    found = check_predictions(np.asarray(labels), None if y is None else np.asarray(y), nb_classes)
    unit = [finding for finding in found if finding.code != "other_order"]
    assert all("--clip-min, --clip-max" in finding.message for finding in unit)
    return [finding.code for finding in found]


def test_constant_predictions_and_chance_level():
    ten = np.arange(100) % 10
    assert codes(np.full(100, 3), ten, 10) == ["constant_predictions"]
    assert codes(np.full(100, 3), None, 10) == ["constant_predictions"]
    nearly = np.where(np.arange(100) < 96, 3, ten)
    assert codes(nearly, ten, 10) == ["constant_predictions"]
    assert codes(np.random.default_rng(0).permutation(ten), ten, 10) == ["chance_level"]
    # Two classes: 60 of 100 is above chance (p = 0.028), 58 is not (p = 0.067).
    two = np.arange(100) % 2
    for right, expected in ((60, []), (58, ["chance_level"])):
        assert codes(np.where(np.arange(100) < right, two, 1 - two), two, 2) == expected


def test_predictions_that_are_worth_something():
    ten = np.arange(100) % 10
    assert not codes(ten, ten, 10)
    others = (ten + 1 + np.arange(100) // 20) % 10
    assert not codes(np.where(np.arange(100) < 20, ten, others), ten, 10)  # 20 %
    # Data of one class, or nearly so; nobody knows the classes; too few samples to tell.
    assert not codes(np.full(100, 3), np.full(100, 3), 10)
    assert not codes(np.full(100, 3), np.where(np.arange(100) < 8, 4, 3), 10)
    assert not codes(np.where(np.arange(100) < 4, 4, 3), None, 10)
    assert not codes(np.full(19, 3), np.arange(19) % 10, 10)


def test_labels_that_count_in_another_order():
    ten = np.arange(100) % 10
    one_up, swapped = (ten + 1) % 10, np.where(ten == 3, 8, np.where(ten == 8, 3, ten))
    noisy = np.where(np.arange(100) % 7 == 0, 0, swapped)
    for labels, y in ((one_up, ten), (swapped, ten), (noisy, ten), (ten[ten < 9], one_up[ten < 9])):
        assert codes(labels, y, 10) == ["other_order"]
    (finding,) = check_predictions(swapped, ten, 10)
    assert "the model says 8 for 3 and 3 for 8." in finding.message
    assert (finding.value, finding.threshold) == (0.2, 0.05)
    two = np.arange(40) % 2
    assert codes(1 - two, two, 2) == ["other_order"]


def test_classes_that_are_confused_are_in_no_other_order():
    ten = np.arange(100) % 10
    # Two for one another's: the model knows no 3, or neither 3 nor 5.
    assert not codes(np.where(ten == 3, 8, ten), ten, 10)
    assert not codes(np.where((ten == 3) | (ten == 5), 8, ten), ten, 10)
    # Seven in ten, and four samples of each class.
    assert not codes(np.where((np.arange(100) < 30) | (ten > 1), ten, 1 - ten), ten, 10)
    few = np.arange(40) % 10
    assert not codes(np.where(few > 1, few, 1 - few), few, 10)
    # A pair that is named the other way round among 100.
    many = np.arange(1000) % 100
    assert not codes(np.where(many > 1, many, 1 - many), many, 100)


def blindly(make_result, make_attack, zeros, shifts=(NAN,) * 40, norm=2.0, offered=(), **config):
    """The finding on an attack with so many of ten gradients per sample zero."""
    n = len(shifts)
    counts = {"gradients": np.full(n, 10), "zero_gradients": np.resize(zeros, n)}
    result = make_result(list(shifts), name="pgd", config={"eps": 0.25, **config}, **counts)
    y, attack = np.zeros(n, np.int64), make_attack("budget", norm)
    right = ~result.initially_adversarial
    row = summary.summarise("pgd", attack, result, y, right, 2, 1.0)
    found = check_gradients({"pgd": row}, {"pgd": result}, offered)
    assert all(finding.code == "zero_gradients" for finding in found)
    return [told(finding) for finding in found]


def test_gradients_that_are_zero_leave_an_attack_blind(make_result, make_attack):
    def find(*args, **options):
        return blindly(make_result, make_attack, *args, **options)

    (message,) = find([6, 0, 0, 0])
    assert "pgd attacked 10 samples blindly (25 % of those it did not break)" in message
    assert message.endswith('\nkr-eval ... --attacks "square:eps=0.25,norm=2"')
    attacks.get("square:eps=0.25,norm=2"), attacks.get("hsja:norm=inf")
    (message,) = find([6, 0], norm=math.inf, offered=("ignore", "straight_through"))
    assert message.endswith("\nkr-eval ... --gradient straight_through")
    (message,) = find([10], norm=1.0)
    assert message.endswith("\nkr-eval ... --attacks hsja:norm=2")
    # Half of the gradients; two of forty samples, three of forty; none.
    assert not find([5])
    assert not find([9] * 2 + [0] * 38)
    assert find([9] * 3 + [0] * 37)
    assert not find([0])
    # What was broken, or wrong from the start, was not attacked in vain.
    assert not find([10] * 20 + [0] * 20, shifts=[0.2] * 19 + [None] + [NAN] * 20)
    (message,) = find([10] * 22 + [0] * 18, shifts=[0.2] * 19 + [None] + [NAN] * 20)
    assert "2 samples blindly (10 %" in message


def test_one_step_that_beats_many(findings):
    table = {"fgsm": budget(broken(100)), "pgd": budget(broken(20, first=90))}
    one, many = {"config": {"eps": 0.5}}, {"config": {"eps": 0.5, "max_iter": 40}}
    found = findings(table, fgsm=one, pgd=many)
    assert list(found) == ["one_step_stronger"]
    assert "fgsm broke 90 samples in a single step that pgd" in found.popitem()[1]
    # A number of steps that follows from the budget.
    own_number = {"config": {"eps": 0.5, "max_iter": None}}
    assert list(findings(table, fgsm=one, pgd=own_number)) == ["one_step_stronger"]
    assert not findings(table, in_a_row=True, fgsm=one, pgd=many)
    assert not findings(table, fgsm=one, pgd={"config": {"eps": 0.4, "max_iter": 40}})
    # As many on either side are chance.
    table["pgd"] = budget(broken(100, first=90))
    assert not findings(table, fgsm=one, pgd=many)


def test_success_that_falls_with_the_budget(findings):
    table = {"pgd": budget(broken(100)), "pgd_2": budget(broken(20))}
    small = {"config": {"eps": 0.4, "eps_step": 0.1, "max_iter": 40}, "name": "pgd"}
    large = {"config": {"eps": 0.5, "eps_step": 0.2, "max_iter": 40}, "name": "pgd"}
    found = findings(table, pgd=small, pgd_2=large)
    assert list(found) == ["success_falls"]
    told = "pgd (eps 0.4) broke 80 samples that pgd_2 (eps 0.5) did not, and pgd_2 0 that it did"
    assert told in found["success_falls"]
    assert not findings(table, pgd=large, pgd_2=small)
    assert not findings(table, in_a_row=True, pgd=small, pgd_2=large)
    # Another attack, or another number of steps, is another question.
    assert not findings(table, pgd=small, pgd_2={**large, "name": "bim"})
    fewer = {**large["config"], "max_iter": 4}
    assert not findings(table, pgd=small, pgd_2={**large, "config": fewer})


def test_a_saturated_softmax():
    sure = np.ones(40, np.float32)
    (finding,) = check_confidence(sure)
    assert finding.code == "saturated" and "On 100 % of the clean samples" in finding.message
    assert [finding.severity for finding in check_confidence(sure)] == ["note"]
    assert not check_confidence(sure[:19]) and not check_confidence(sure[:0])
    # The largest float32 below 1 is not 1.
    assert not check_confidence(np.nextafter(sure, np.float32(0)))
    half = np.where(np.arange(40) < 20, sure, 0.9)
    assert check_confidence(half) and not check_confidence(half[1:])


def test_a_softmax_whose_logits_are_hidden():
    """There the attacks are stopped by it."""
    sure = np.ones(40, np.float32)
    (finding,) = check_confidence(sure, hidden=True)
    assert (finding.code, finding.severity) == ("flat_scores", "doubtful")
    assert "hsja" in finding.command
    # Decision attacks climb nothing.
    assert not check_confidence(sure, hidden=True, climbed=False)
    assert not check_confidence(np.full(40, 0.99, np.float32), hidden=True)


def test_a_detector_that_rejects_what_is_clean():
    (finding,) = check_detector(np.arange(40) == 7)
    assert (finding.code, finding.severity) == ("rejects_clean", "invalid")
    assert "97.5 % of the 40 samples are rejected" in finding.message
    assert not check_detector(np.arange(40) < 3) and not check_detector(np.zeros(19, bool))


def test_a_detector_that_attacks_cannot_follow(make_result, make_attack):
    """Half of the samples of another class, and rejected: the detector alone stands there."""

    def found(accepted, shifts=(NAN,) * 40, labels=1, knowledge="white"):
        accepted = np.resize(accepted, 40)
        y = np.zeros(40, np.int64)
        result = make_result(list(shifts), accepted=accepted, labels=np.full(40, labels), y=y)
        attack, right = make_attack("budget", math.inf), ~result.initially_adversarial
        row = summary.summarise("pgd", attack, result, y, right, 2, 1.0, knowledge)
        return check_detector_seen({"pgd": row}, {"pgd": result})

    (finding,) = found([True, False])
    assert (finding.code, finding.severity) == ("blind_to_detector", "doubtful")
    assert "On 20 samples of the 40 that no attack broke" in finding.message
    assert finding.value == 0.5 and "square" in finding.command
    assert not found([True])  # lets all pass
    assert not found([False], labels=0)  # rejects what is still of its class
    assert not found([False], shifts=(0.1,) * 40)  # broken all the same
    assert not found([False], knowledge="black")


def test_scores_that_are_no_numbers(make_result):
    confidence = np.where(np.arange(40) < 10, NAN, 0.9).astype(np.float32)
    result = make_result([0.1] * 40, confidence=confidence)
    (finding,) = check_scores({"pgd": result, "fgsm": make_result([0.1] * 40)})
    assert (finding.code, finding.value) == ("non_finite_scores", 0.25)
    assert "pgd (10 samples)" in finding.message and "fgsm" not in finding.message
    assert not check_scores({"fgsm": make_result([0.1] * 40)})


def test_reports_tell_of_detectors_hidden_logits_and_scores_that_are_no_numbers():
    draw = np.random.default_rng(3)
    x = np.round(draw.uniform(0, 1, (40, 2, 3, 1)), 1).astype(np.float32)
    kernel = draw.normal(size=(6, 3)).astype(np.float32)
    model = keras.Sequential(
        [keras.Input((2, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.set_weights([kernel, -kernel.sum(axis=0) / 2])
    y = model.predict(x, verbose=0).argmax(axis=1)

    def told(model, attack="fgsm:eps=0.33"):
        report = kerasrobust.evaluate(model, x, y, attacks=attack)
        return report, verdict(report)

    def on_the_grid(v):
        return tf.reduce_all(tf.abs(10 * v - tf.round(10 * v)) < 1e-3, axis=[1, 2, 3])

    report, sentence = told(kerasrobust.Classifier(model, detector=on_the_grid))
    assert report.robust_accuracy == 1 and "Robustness may well be less: blind_to" in sentence
    follows = type("Detector", (), {"__call__": lambda self, v: on_the_grid(v)})()
    follows.excess = lambda v: tf.reduce_max(tf.abs(v - tf.round(v)), axis=[1, 2, 3])
    assert "blind_to_detector" not in told(kerasrobust.Classifier(model, detector=follows))[1]
    none = kerasrobust.Classifier(model, detector=lambda v: v[:, 0, 0, 0] > 2)
    assert "say nothing about robustness: rejects_clean." in told(none)[1]

    def sure(v):
        return tf.nn.softmax(1e4 * model(v)).numpy()

    assert "flat_scores" in told(sure, "simba:max_iter=2")[1]
    labels = kerasrobust.Classifier(lambda v: model(v).numpy().argmax(axis=1), nb_classes=3)
    assert not [f for f in told(labels, "hsja:max_iter=1")[0].findings if f.code == "saturated"]
    # A root of which an attack makes one of a negative number.
    inputs = keras.Input((2, 3, 1))
    root = keras.ops.sqrt(0.2 - keras.ops.var(inputs, axis=(1, 2)))
    rooted = keras.Model(inputs, model(inputs) + 0.1 * keras.ops.concatenate([root] * 3, axis=1))
    assert np.isfinite(rooted.predict(x, verbose=0)).all()
    assert "non_finite_scores" in told(rooted, "fgsm:eps=1")[1]


def test_every_finding_has_its_severity():
    package = Path(kerasrobust.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in package.glob("evaluation/**/*.py"))
    codes = re.findall(r'Finding\(\s*"(\w+)"', text)
    codes += re.findall(r'Finding\(\s*"\w+" if \w+ else "(\w+)"', text)
    codes += re.findall(r'^    code, .* = "(\w+)"', text, re.MULTILINE)
    assert set(codes) == set(SEVERITY)
    ranks = ["invalid", "doubtful", "note"]
    assert sorted(SEVERITY.values(), key=ranks.index) == list(SEVERITY.values())
    guide = (package.parent / "docs" / "evaluating.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (\w+) \|", guide, re.MULTILINE) == [*SEVERITY.items()]
    findings = by_weight(Finding(code, "") for code in reversed(SEVERITY))
    assert [finding.code for finding in findings] == list(SEVERITY)
    assert findings[0].to_dict() == {
        "code": "constant_predictions",
        "severity": "invalid",
        "message": "",
        "value": None,
        "threshold": None,
        "command": None,
    }
    full = Finding("not_converged", "far", math.inf, 2.0, "kr-eval ...")
    assert Finding.from_dict(full.to_dict()) == full and full.to_dict()["value"] == "inf"
    assert full.measured == "measured inf, threshold 2" and not findings[0].measured
