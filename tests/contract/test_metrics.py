"""One table of checks over every registered metric, and over one that a plugin brings."""

import dataclasses
import functools
import importlib.util
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import special
from scipy.spatial import distance

from kerasrobust import metrics
from kerasrobust.attacks import AttackResult
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation.summary import read_figures
from kerasrobust.metrics.base import Outcome
from kerasrobust.specs import jsonable

# Six samples: wrong already, three broken, one that holds, one that the detector rejects.
SHIFTS = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.3], np.float32)
WRONG = np.array([True, False, False, False, False, False])
SUCCESS = np.array([True, True, True, False, True, False])
ACCEPTED = np.array([True, True, True, True, True, False])
Y = np.array([0, 0, 1, 1, 2, 2])
LABELS = np.array([1, 2, 0, 1, 0, 0])
CLASSES, RANGE = 4, 2.0
FOUND = SUCCESS & ~WRONG
DRAWS = np.array([0, 0, 0, 1, 1, 1])
# Certified L2 radii of the true labels, and the L2 distances at which they fell.
RADII = np.array([-1.0, 0.0, 0.3, 0.5, 0.7, -1.0])
FELL = np.where(SUCCESS, 2 * SHIFTS.astype(float), np.inf)


def plugin():
    """The metric of tests/plugin, as its entry point would give it."""
    path = Path(__file__).parents[1] / "plugin" / "kerasrobust_plugin" / "metric.py"
    spec = importlib.util.spec_from_file_location("kerasrobust_plugin_metric", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PluginMetric()


# A linear model of the six samples: its weights are all that the figures depend on.
WEIGHTS = np.random.default_rng(5).normal(0, 0.5, (16, CLASSES)).astype(np.float32)
REFERENCE = np.random.default_rng(6).uniform(0, 1, (9, 4, 4, 1)).astype(np.float32)
ARGUMENTS = {
    "training_distance": {"reference": REFERENCE},
    **{f"clever_{norm}": {"nb_batches": 2, "batch_size": 2} for norm in ("l1", "l2", "linf")},
}


@functools.cache
def model():
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    made = keras.Sequential(layers)
    made.set_weights([WEIGHTS, np.zeros(CLASSES, np.float32)])
    return Classifier(made, (0.0, RANGE))


METRICS = {
    **{name: metrics.get(name, **ARGUMENTS.get(name, {})) for name in metrics.names()},
    "plugin_metric": plugin(),
}
# By hand: each sample that moved did so by its shift in four of sixteen pixels.
EXPECTED = {
    "attacked": 5,
    "successes": 3,
    "failures": 2,
    "initially_adversarial": 1,
    "gave_up": 1,
    "rejected": 1,
    "accuracy": 2 / 6,
    "accuracy_deviation": (2 / 3) / math.sqrt(2),
    "success_rate": 3 / 5,
    "average_confidence": (0.6 + 0.7 + 0.9) / 3,
    "median_l0": 25.0,
    "median_l1": 1.6,
    "median_l2": 0.8,
    "median_linf": 0.4,
    "queries": 3.0,
    "gradients": 30.0,
    "executed_queries": 66,
    "executed_gradients": 33,
    "seconds": 4.5,
    "class_accuracy": [0.0, 0.5, 0.5, None],
    "outcomes": "000101",
    "plugin_metric": 0.2,
}


@functools.cache
def parts(size, row="attack"):
    """What an attack found, in batches of one size, each with the metrics' columns."""
    x = np.random.default_rng(4).uniform(0, 1, (6, 4, 4, 1)).astype(np.float32)
    x_adv = x.copy()
    x_adv[:, 1, :, 0] += SHIFTS[:, None]
    distances = {"l0": 4.0 * (SHIFTS > 0), "l1": 4 * SHIFTS, "l2": 2 * SHIFTS, "linf": SHIFTS}
    far = {key: np.where(SUCCESS, value, np.inf) for key, value in distances.items()}
    whole = AttackResult(
        name="fake",
        config={},
        targeted=False,
        x=x,
        x_adv=x_adv,
        y=Y,
        success=SUCCESS,
        initially_adversarial=WRONG,
        labels=LABELS,
        accepted=ACCEPTED,
        confidence=np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0], np.float32),
        queries=np.arange(6),
        gradients=10 * np.arange(6),
        zero_gradients=np.zeros(6, int),
        executed_queries=11 * size,
        executed_gradients=11 * size // 2,
        gave_up=np.arange(6) == 3,
        seconds=0.75 * size,
        **far,
    )
    found = []
    for first in range(0, 6, size):
        places = np.arange(first, min(first + size, 6))
        part = whole.take(places)
        points = metrics.Points(
            part.x,
            part.x if row == "clean" else part.x_adv,
            part.y,
            RANGE,
            row=row,
            classifier=model(),
            batch_size=4,
            places=places,
        )
        columns = metrics.registry.measure(METRICS.values(), points)
        found.append(AttackResult(**{**vars(part), "columns": columns, "x": None, "x_adv": None}))
    return found


def outcome(size=6, row="attack", kind="minimal", rows=slice(None)):
    measured = parts(size, "clean" if row == "clean" else "attack")
    result = AttackResult.concatenate(measured).take(np.arange(6)[rows])
    y = Y[rows]
    unbroken = ~SUCCESS[rows] if row == "worst" else None
    own = Outcome(result, y, ~WRONG[rows], CLASSES, RANGE, kind, math.inf, row, unbroken)
    found = {"fake": result} if row == "worst" else {}
    return dataclasses.replace(
        own,
        radii=RADII[rows],
        fell=FELL[rows],
        budgets=(0.45,),
        results=found,
        draws=DRAWS[rows],
    )


def test_every_metric_has_a_row_here():
    others = {"false_positive_rate", "ssim", "budget_curve", "certified_accuracy", "verdict"}
    others |= {"nearest", "budgets", *metrics.registry.FURTHER}
    assert set(EXPECTED) | others == set(METRICS)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_figure_is_the_one_by_hand(name):
    figure, expected = METRICS[name].figures(outcome())[name], EXPECTED[name]
    if isinstance(expected, (list, str)):
        assert figure == expected
    else:
        assert figure == pytest.approx(expected, rel=1e-6)


def test_the_figures_that_are_more_than_a_number():
    share = METRICS["false_positive_rate"].figures(outcome(row="clean"))
    assert share["false_positive_rate"] == pytest.approx(1 / 6)
    low, high = share["false_positive_rate_interval"]
    assert 0 < low < 1 / 6 < high < 1
    curve = METRICS["budget_curve"].figures(outcome())["budget_curve"]
    assert curve["norm"] == math.inf and curve["eps"][-1] == pytest.approx(0.4)
    for eps, accuracy in zip(curve["eps"], curve["accuracy"], strict=True):
        broken = WRONG | (FOUND & (SHIFTS <= np.float32(eps)))
        assert accuracy == pytest.approx(1 - broken.mean(), abs=1e-6)
    assert METRICS["budget_curve"].figures(outcome(kind="budget"))["budget_curve"] is None
    # Wrong is wrong at any budget, whether or not the attack had something to do there.
    held = ~WRONG & ACCEPTED
    withheld = dataclasses.replace(outcome(), clean_correct=held)
    curve = METRICS["budget_curve"].figures(withheld)["budget_curve"]
    assert curve["accuracy"][0] == pytest.approx(held.mean())
    assert curve["accuracy"][-1] == pytest.approx(np.mean(held & ~SUCCESS))
    # In a cascade distances are those of other attacks as well.
    shared = dataclasses.replace(outcome(), alone=False)
    for name in ("budget_curve", "empirical_robustness"):
        assert METRICS[name].figures(shared)[name] is None
    x = np.concatenate([part.columns["ssim"] for part in parts(2)])
    assert METRICS["ssim"].figures(outcome())["ssim"] == pytest.approx(x[FOUND].mean())


def test_the_figures_that_ask_the_model():
    """By NumPy from the weights, the samples and where they went."""
    x = np.random.default_rng(4).uniform(0, 1, (6, 4, 4, 1)).astype(np.float32)
    moved = x.copy()
    moved[:, 1, :, 0] += SHIFTS[:, None]
    before, after = (part.reshape(6, -1).astype(float) for part in (x, moved))

    def figures(name, row="attack", **changes):
        return METRICS[name].figures(dataclasses.replace(outcome(row=row), **changes))

    p, q = (special.softmax(part @ WEIGHTS, axis=1) for part in (before, after))
    divergence = special.rel_entr(p, q).sum(axis=1)
    for row, counts in (("attack", ~WRONG), ("worst", ~WRONG)):
        psi = figures("psi", row)
        assert psi["psi"] == pytest.approx(np.median(1 / divergence[counts]), rel=1e-3)
        assert psi["psi_mean"] == pytest.approx(np.mean(1 / divergence[counts]), rel=1e-3)
        assert psi["psi_of_mean_kl"] == pytest.approx(1 / divergence[counts].mean(), rel=1e-3)
        assert psi["psi_samples"] == 5
    for points, row in ((before, "clean"), (after, "attack")):
        slope = (special.softmax(points @ WEIGHTS, axis=1) - np.eye(CLASSES)[Y]) @ WEIGHTS.T
        for order in (1, 2):
            expected = np.linalg.norm(slope, order, axis=1).mean()
            name = f"loss_sensitivity_l{order}"
            assert figures(name, row)[name] == pytest.approx(expected, rel=1e-5)
        near = distance.cdist(points, REFERENCE.reshape(9, -1)).min(axis=1)
        expected = near.mean() if row == "clean" else near[FOUND].mean()
        assert figures("training_distance", row)["training_distance"] == pytest.approx(expected)
    ratio = np.where(FOUND, SHIFTS / np.abs(before).max(axis=1), np.inf)[~WRONG]
    robust = figures("empirical_robustness")
    assert robust["empirical_robustness"] == math.inf
    assert robust["empirical_robustness_median"] == pytest.approx(np.median(ratio))
    fooled = ratio[np.isfinite(ratio)]
    assert robust["empirical_robustness_fooled"] == pytest.approx(fooled.mean())
    assert robust["empirical_robustness_fooled_share"] == 3 / 5
    assert set(figures("empirical_robustness", kind="budget").values()) == {None}
    logits = before @ WEIGHTS
    right = logits.argmax(axis=1) == Y
    assert 0 < right.sum() < 6
    for norm, dual in (("l1", np.inf), ("l2", 2), ("linf", 1)):
        scores = []
        for z, y in zip(logits[right], Y[right], strict=True):
            others = [j for j in range(CLASSES) if j != y]
            slopes = np.linalg.norm(WEIGHTS[:, [y]] - WEIGHTS[:, others], dual, axis=0)
            scores.append(min(((z[y] - z[others]) / slopes).min(), 5.0))
        clever = figures(f"clever_{norm}", "clean")
        assert clever[f"clever_{norm}"] == pytest.approx(np.mean(scores), rel=1e-5)
        assert clever[f"clever_{norm}_median"] == pytest.approx(np.median(scores), rel=1e-5)
        assert clever[f"clever_{norm}_samples"] == right.sum()
        assert clever[f"clever_{norm}_gradients"] == right.sum() * 4 * (CLASSES - 1)


def test_the_nearest_of_several_attacks():
    far = np.array([0.0, 0.1, 0.4, np.inf, 0.2, np.inf])
    nearest = {2.0: (["a", "b"], far), 1.0: (["c"], np.full(6, np.inf))}
    worst = dataclasses.replace(outcome(row="worst"), nearest=nearest)
    (row,) = METRICS["nearest"].figures(worst)["nearest"]  # L1: nothing was found
    assert (row["norm"], row["attacks"], row["fooled"]) == (2.0, ["a", "b"], 3)
    assert row["median"] == pytest.approx(0.4) and row["mean"] == pytest.approx(0.7 / 3)
    for eps, accuracy in zip(row["eps"], row["accuracy"], strict=True):
        assert accuracy == pytest.approx(np.mean(far > eps))
    assert METRICS["nearest"].figures(outcome(row="worst"))["nearest"] is None


def test_what_is_left_at_several_budgets():
    left = {0.1: ~SUCCESS, 0.2: np.zeros(6, bool)}
    worst = dataclasses.replace(outcome(row="worst"), left=left)
    found = METRICS["budgets"].figures(worst)["budgets"]
    assert (found["norm"], found["eps"]) == (math.inf, [0.0, 0.1, 0.2])
    assert found["accuracy"] == [5 / 6, 2 / 6, 0.0]
    assert found["accuracy_interval"][2] == pytest.approx([0, 0.3903], abs=1e-4)  # z^2 / (n + z^2)
    assert METRICS["budgets"].figures(outcome(row="worst"))["budgets"] is None


def test_draws_have_the_deviation_of_one():
    assert METRICS["accuracy_deviation"].figures(outcome())["accuracy_draws"] == [0.0, 2 / 3]
    alone = dataclasses.replace(outcome(), draws=None)
    assert METRICS["accuracy_deviation"].figures(alone) == {"accuracy_deviation": None}


def test_the_figures_of_a_certified_model():
    metric = METRICS["certified_accuracy"]
    assert metric.figures(outcome(row="clean"))["certified_accuracy"] == 4 / 6
    assert metric.figures(outcome())["certified_accuracy"] is None  # a minimal-norm attack
    budget = dataclasses.replace(outcome(kind="budget"), norm=2.0)
    for eps, share in ((0.3, 3 / 6), (0.6, 1 / 6), ([0, 0, 0.4, 0.4, 0.4, 0], 3 / 6), (None, None)):
        result = dataclasses.replace(budget.result, config={"eps": eps})
        row = metric.figures(dataclasses.replace(budget, result=result))
        assert row["certified_accuracy"] == share
    assert metric.compute(dataclasses.replace(outcome(row="clean"), radii=None)) is None
    verdict = METRICS["verdict"].compute(outcome(row="worst"))
    assert verdict["norm"] == 2 and 0.45 in verdict["radius"]
    for radius, lower, upper in zip(*list(verdict.values())[1:], strict=True):
        assert lower == (RADII >= radius).mean()
        assert upper == (FELL > radius).mean()


def rows_of(metric):
    return [row for row in ("clean", "attack", "worst") if row in metric.rows]


@pytest.mark.parametrize("name", METRICS)
def test_batch_by_batch_equals_whole(name):
    metric = METRICS[name]
    for row in rows_of(metric):
        whole = metric.figures(outcome(row=row))
        for size in (1, 2, 3):
            if name in ("executed_queries", "executed_gradients", "seconds"):
                continue  # of the batches as they were run
            found = metric.figures(outcome(size, row))
            if metric.needs == "samples":
                assert jsonable(found) == jsonable(whole)
            else:  # the model rounds with the size of a batch
                assert list(found) == list(whole)
                for key, value in whole.items():
                    assert found[key] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("name", ["executed_queries", "executed_gradients", "seconds"])
def test_costs_of_batches_add_up(name):
    total = sum(vars(part)[name] for part in parts(2))
    assert METRICS[name].figures(outcome(2))[name] == pytest.approx(total)


@pytest.mark.parametrize("name", METRICS)
def test_figures_come_back_from_json(name):
    metric = METRICS[name]
    # All samples, and those that held alone: medians are infinite, means have nothing to go by.
    for rows in (slice(None), slice(3, None, 2)):
        for row in rows_of(metric):
            figures = metric.figures(outcome(row=row, rows=rows))
            assert name in figures
            text = json.dumps(jsonable(figures), allow_nan=False)
            back = read_figures(json.loads(text))
            assert jsonable(back) == jsonable(figures)
            if metric.table != "classes":  # those are one row for each class
                assert metric.cell(back, 6) == metric.cell(figures, 6)


@pytest.mark.parametrize("name", METRICS)
def test_nothing_and_infinity_as_text(name):
    metric = METRICS[name]
    nothing = "" if metric.table == "classes" else "-"
    assert metric.format(None) == nothing
    assert "inf" in metric.format(math.inf)
    if metric.header is not None and metric.table != "classes":
        assert metric.cell({name: None}, 6) == "-" and metric.cell({}, 6) == ""
