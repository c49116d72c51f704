"""The figures of one attack against values computed by hand."""

import math

import numpy as np
import pytest

from kerasrobust.evaluation import summary

NAN = math.nan


def summarise(attack, result, clean_correct=None, **options):
    if clean_correct is None:
        clean_correct = ~result.initially_adversarial
    y = np.zeros(len(result.y), np.int64)
    return summary.summarise("name", attack, result, y, clean_correct, 3, 1.0, **options)


def test_every_figure_by_hand(make_result, make_attack):
    # One wrong already, two failures, three successes at L2 = 0.2, 0.4, 0.6.
    result = make_result([None, NAN, NAN, 0.1, 0.2, 0.3])
    row = summarise(make_attack(), result)
    assert (row.samples, row.attacked, row.successes, row.failures) == (6, 5, 3, 2)
    assert row.initially_adversarial == 1
    assert row.accuracy == pytest.approx(2 / 6)
    assert row.success_rate == pytest.approx(3 / 5)
    # Medians of [0, d1, d2, d3, inf, inf]: halfway between the second and the third success.
    assert row.median_l0 == pytest.approx(25.0)
    assert row.median_l1 == pytest.approx(1.0)
    assert row.median_l2 == pytest.approx(0.5)
    assert row.median_linf == pytest.approx(0.25)
    assert row.class_accuracy == [pytest.approx(2 / 6), None, None]
    assert row.average_confidence == pytest.approx(0.75)
    assert row.queries == pytest.approx((1 + 2 + 3 + 4 + 5) / 5)
    assert row.gradients == 3.0
    curve = row.budget_curve
    assert curve["norm"] == 2.0 and curve["eps"][-1] == pytest.approx(0.6)
    assert curve["accuracy"][0] == pytest.approx(5 / 6)
    assert curve["accuracy"][-1] == pytest.approx(2 / 6)


def test_half_of_the_samples_unbroken_is_an_infinite_median(make_result, make_attack):
    row = summarise(make_attack(), make_result([0.1, 0.2, NAN, NAN]))
    assert row.median_l2 == math.inf and row.failures == 2
    assert row.success_rate == 0.5


def test_nothing_attacked_and_nothing_broken(make_result, make_attack):
    row = summarise(make_attack(), make_result([None, None]))
    assert row.success_rate is None and row.success_interval is None
    assert row.accuracy == 0.0 and row.median_l2 == 0.0 and row.ssim is None
    row = summarise(make_attack(), make_result([NAN, NAN]))
    assert row.accuracy == 1.0 and row.success_rate == 0.0
    assert row.average_confidence is None and row.budget_curve is None


def test_distance_of_a_sample_wrong_already_is_zero_whatever_the_attack_says(
    make_result, make_attack
):
    result = make_result([None, 0.2, 0.2], l2=np.array([np.inf, 0.4, 0.4]))
    assert summarise(make_attack(), result).median_l2 == pytest.approx(0.4)
    result = make_result([None, None, 0.2], l2=np.array([np.inf, np.inf, 0.4]))
    assert summarise(make_attack(), result).median_l2 == 0.0


def test_an_attack_cannot_repair_a_wrong_sample(make_result):
    # The attack moved a misclassified sample to its true label.
    result = make_result([None, NAN], labels=np.array([0, 0]))
    kept = summary.survived(result, np.zeros(2, np.int64), np.array([False, True]))
    assert kept.tolist() == [False, True]


def test_budget_turns_far_samples_into_failures(make_result, make_attack):
    result = make_result([0.1, 0.2, 0.3, NAN])
    labels, confidence = np.zeros(4, np.int64), np.full(4, 0.9)
    near = summary.within(result, 0.4, 2, labels, confidence)
    assert near.success.tolist() == [True, True, False, False]
    assert near.labels.tolist() == [1, 1, 0, 0]
    np.testing.assert_array_equal(near.x_adv[2], result.x[2])
    np.testing.assert_allclose(near.linf, [0.1, 0.2, np.inf, np.inf], rtol=1e-6)
    np.testing.assert_allclose(near.confidence, [0.75, 0.75, 0.9, 0.9])
    assert summarise(make_attack(), near).accuracy == 0.5


def test_a_flat_input_has_no_ssim(make_result, make_attack):
    result = make_result([0.1, 0.2])
    flat = {key: getattr(result, key).reshape(2, -1) for key in ("x", "x_adv")}
    row = summarise(make_attack(), make_result([0.1, 0.2], **flat))
    assert row.ssim is None and row.median_l0 == pytest.approx(25.0)
