"""The figures of one attack against values computed by hand."""

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from kerasrobust import metrics
from kerasrobust.engine.criterion import Criterion
from kerasrobust.evaluation import summary

NAN = math.nan


def summarise(attack, result, clean_correct=None, **options):
    if clean_correct is None:
        clean_correct = ~result.initially_adversarial
    y = np.zeros(len(result.y), np.int64)
    return summary.summarise("name", attack, result, y, clean_correct, 3, 1.0, **options)


def survived(result, clean_correct):
    y = np.zeros(len(result.y), np.int64)
    return metrics.survived(result.labels, result.accepted, y, np.asarray(clean_correct))


def test_every_figure_by_hand(make_result, make_attack):
    # One wrong already, two failures, three successes at L2 = 0.2, 0.4, 0.6.
    result = make_result([None, NAN, NAN, 0.1, 0.2, 0.3])
    row = summarise(make_attack(), result)
    assert (row.samples, row.attacked, row.successes, row.failures) == (6, 5, 3, 2)
    assert row.initially_adversarial == 1
    assert row.accuracy == pytest.approx(2 / 6)
    assert row.success_rate == pytest.approx(3 / 5)
    # Medians of [d1, d2, d3, inf, inf]: the third success.
    assert row.median_l0 == pytest.approx(25.0)
    assert row.median_l1 == row.median_l1_unit == pytest.approx(1.2)
    assert row.median_l2 == row.median_l2_unit == pytest.approx(0.6)
    assert row.median_linf == row.median_linf_unit == pytest.approx(0.3)
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
    assert row.success_rate is None and row.success_rate_interval is None
    assert row.accuracy == 0.0 and row.ssim is None
    assert row.median_l0 is None and row.median_l2 is None and row.median_l2_unit is None
    row = summarise(make_attack(), make_result([NAN, NAN]))
    assert row.accuracy == 1.0 and row.success_rate == 0.0
    assert row.average_confidence is None and row.budget_curve is None


def test_medians_leave_out_what_is_wrong_already_whatever_the_attack_says(make_result, make_attack):
    far = np.array([np.inf, np.inf, np.inf, 0.4, 0.6])
    result = make_result([None, None, None, 0.2, 0.3], l2=far)
    assert summarise(make_attack(), result).median_l2 == pytest.approx(0.5)
    assert summarise(make_attack(), result).budget_curve["accuracy"][0] == pytest.approx(0.4)


def test_lengths_where_pixels_are_0_to_1_stand_beside_those_of_the_data(make_result, make_attack):
    result, y = make_result([0.1, 0.2, 0.3]), np.zeros(3, np.int64)
    row = summary.summarise("wide", make_attack(), result, y, np.ones(3, bool), 3, 255.0)
    assert row.median_l2 == pytest.approx(0.4) and row.median_l2_unit == pytest.approx(0.4 / 255)
    metric = metrics.get("median_l2")
    assert metric.cell(row.figures, 3) == "0.400 (0.00157)"
    assert metric.cell(row.figures, 3, narrow=True) == "0.400"


def test_an_attack_cannot_repair_a_wrong_sample(make_result):
    # The attack moved a misclassified sample to its true label.
    result = make_result([None, NAN], labels=np.array([0, 0]))
    assert survived(result, [False, True]).tolist() == [False, True]


def test_a_rejected_sample_is_defended_and_a_rejected_clean_one_is_wrong(make_result, make_attack):
    # Fooled and let pass, fooled and rejected, right and rejected, right and let pass.
    accepted = np.array([True, False, False, True])
    result = make_result(
        [0.1, 0.1, NAN, NAN], accepted=accepted, success=np.array([True, False, False, False])
    )
    assert survived(result, [True] * 4).tolist() == [False, True, True, True]
    assert survived(result, [True, False, False, True]).tolist() == [False, False, False, True]
    row = summarise(make_attack(), result, np.ones(4, bool))
    assert row.accuracy == 0.75 and row.successes == 1 and row.rejected == 2
    assert row.median_l2 == math.inf

    labels, y = np.array([0, 0, 1]), np.zeros(3, np.int64)
    right = metrics.clean_correct(labels, np.array([True, False, False]), y)
    assert right.tolist() == [True, False, False]
    assert metrics.clean_correct(labels, None, y).tolist() == [True, True, False]


def test_false_positives_stand_beside_the_clean_accuracy(make_result):
    def clean_row(accepted):
        result = make_result([NAN] * 4, accepted=accepted)
        y = np.zeros(4, np.int64)
        right = metrics.clean_correct(result.labels, accepted, y)
        outcome = metrics.Outcome(result, y, right, 2, 1.0, row="clean")
        return summary.figures(outcome, metrics.registry.resolve())

    row = clean_row(np.array([True, True, False, True]))
    assert row["accuracy"] == 0.75 and row["false_positive_rate"] == 0.25
    low, high = row["false_positive_rate_interval"]
    assert 0 < low < 0.25 < high < 1
    assert clean_row(None)["false_positive_rate"] is None
    assert clean_row(np.ones(4, bool))["false_positive_rate"] == 0.0
    assert "success_rate" not in row and row["class_accuracy"] == [0.75, None]
    assert row["average_confidence"] == pytest.approx(0.75)


def test_figures_survive_json(make_result, make_attack):
    row = summarise(make_attack(), make_result([None, NAN, NAN, 0.1], config={"eps": math.inf}))
    stored = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    assert stored["median_l2"] == "inf" and stored["accuracy"] == row.accuracy
    assert stored["norm"] == 2.0 and "figures" not in stored
    loaded = summary.AttackSummary.from_dict(stored)
    assert loaded.figures == row.figures and loaded.median_l2 == math.inf
    assert loaded.to_dict() == row.to_dict()
    assert copy.deepcopy(row) == row == pickle.loads(pickle.dumps(row))
    with pytest.raises(AttributeError, match="no attribute 'median_l3'"):
        row.median_l3  # noqa: B018


class Reach(metrics.Metric):
    """The farthest any pixel of a success went: read off the samples, batch by batch."""

    key = "reach"
    header = "reach"

    def measure(self, points):
        return np.abs(points.x_adv - points.x).reshape(len(points.x), -1).max(axis=1)

    def compute(self, outcome):
        column = outcome.result.columns.get("reach")
        return None if column is None else float(column[outcome.found].max())


def test_a_further_metric_measures_batches_whose_samples_are_not_kept(make_result, make_attack):
    chosen = metrics.registry.resolve([Reach()])
    result = make_result([0.1, 0.3, None, NAN])
    whole = summarise(make_attack(), result, metrics=chosen)
    assert whole.reach == pytest.approx(0.3)
    parts = []
    for rows in (np.array([0, 1, 2]), np.array([3])):
        part = result.take(rows)
        parts.append(summary.measured(part, chosen, summary.points_of(part, part.y)).columns)
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    assert set(columns) == {"median_l0", "ssim", "reach"}
    flat = dataclasses.replace(result, x=None, x_adv=None, columns=columns)
    assert summarise(make_attack(), flat, metrics=chosen) == whole
    lost = dataclasses.replace(result, x=None, x_adv=None)
    row = summarise(make_attack(), lost, metrics=chosen)
    assert row.ssim is row.median_l0 is row.reach is None and row.median_l2 == whole.median_l2

    class Name(Reach):
        key = "samples"

    with pytest.raises(ValueError, match="name of its own. Received: key='samples'"):
        summarise(make_attack(), result, metrics=[Name()])


def test_budget_turns_far_samples_into_failures(make_result, make_attack):
    result = make_result([0.1, 0.2, 0.3, NAN])
    labels, confidence, clean = np.zeros(4, np.int64), np.full(4, 0.9), np.ones(4, bool)
    budget = Criterion(eps=0.4, norm=2.0)
    near = summary.within(result, budget, labels, confidence, clean)
    assert near.success.tolist() == [True, True, False, False]
    assert near.labels.tolist() == [1, 1, 0, 0]
    np.testing.assert_array_equal(near.x_adv[2], result.x[2])
    np.testing.assert_allclose(near.linf, [0.1, 0.2, np.inf, np.inf], rtol=1e-6)
    np.testing.assert_allclose(near.confidence, [0.75, 0.75, 0.9, 0.75])
    assert summarise(make_attack(), near).accuracy == 0.5
    rejected = make_result([0.1, 0.3, NAN], accepted=np.array([False, False, True]))
    near = summary.within(rejected, budget, labels[:3], confidence[:3], clean[:3])
    assert near.accepted.tolist() == [False, True, True]


def test_a_flat_input_has_no_ssim(make_result, make_attack):
    result = make_result([0.1, 0.2])
    flat = {key: getattr(result, key).reshape(2, -1) for key in ("x", "x_adv")}
    row = summarise(make_attack(), make_result([0.1, 0.2], **flat))
    assert row.ssim is None and row.median_l0 == pytest.approx(25.0)
