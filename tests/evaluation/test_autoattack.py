"""AutoAttack: attacks in a row, each on what the ones before it left."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kerasrobust import attacks
from kerasrobust.evaluation import evaluate, presets

EPS = 0.06


@pytest.fixture(scope="module")
def report(digits_model, digits):
    x, y = digits[0][:40], digits[1][:40]
    return evaluate(
        digits_model, x, y, attacks="autoattack", eps=EPS, norm="inf", keep_adversaries=True
    )


def test_each_step_gets_what_the_ones_before_it_left(report, digits_model, digits):
    x, y = digits[0][:40], digits[1][:40]
    steps = list(report.attacks)
    assert steps == ["apgd-ce", "apgd-t", "fab-t", "square"]
    accuracies = [row.accuracy for row in report.attacks.values()]
    assert 0 < report.robust_accuracy < report.clean_accuracy
    assert accuracies == sorted(accuracies, reverse=True)
    assert report.robust_accuracy == accuracies[-1]
    standing = digits_model.predict(x, verbose=0).argmax(axis=1) == y
    for step in steps:
        result = report.samples.results[step]
        asked = result.queries + result.gradients > 0
        np.testing.assert_array_equal(asked, standing)
        assert np.abs(result.x_adv - x).max() <= EPS * (1 + 1e-5)
        standing = digits_model.predict(result.x_adv, verbose=0).argmax(axis=1) == y
        assert report.attacks[step].accuracy == standing.mean()


def test_a_row_of_a_cascade_is_no_search_for_the_nearest_point(report):
    """Most of what stands in FAB's was broken by APGD, at the edge of the budget."""
    assert report.attacks["fab-t"].kind == "minimal"
    assert report.attacks["fab-t"].budget_curve is None and report.robust["nearest"] is None
    assert any(step.command.endswith("--attacks minimal") for step in report.next_steps)


def test_no_other_attack_here_breaks_more(report, digits_model, digits):
    x, y = digits[0][:40], digits[1][:40]
    pgd = attacks.get("pgd", eps=EPS, eps_step=EPS / 10, max_iter=100, num_random_init=5)
    assert report.robust_accuracy <= np.mean(~pgd.bind(digits_model).run(x, y).success)


@pytest.mark.slow
def test_against_a_randomised_model(digits_model, digits):
    x, y = digits[0][:20], digits[1][:20]
    noisy = keras.Sequential([keras.Input((8, 8, 1)), AlwaysNoisy(), *digits_model.layers])
    report = evaluate(noisy, x, y, attacks="autoattack-rand", eps=EPS)
    assert list(report.attacks) == ["apgd-ce", "apgd-dlr"]
    assert report.attacks["apgd-ce"].config["eot_iter"] == 20
    assert report.robust_accuracy <= report.clean_accuracy


class AlwaysNoisy(keras.layers.Layer):
    """Gaussian noise in inference too."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), stddev=0.05, seed=self.seeds)


def test_bad_input(digits_model, digits):
    x, y = digits[0][:4], digits[1][:4]
    with pytest.raises(ValueError, match="needs a budget `eps` in the norm 2 or inf"):
        evaluate(digits_model, x, y, attacks="autoattack")
    with pytest.raises(ValueError, match="needs a budget `eps` in the norm 2 or inf"):
        evaluate(digits_model, x, y, attacks="autoattack", eps=1.0, norm=1)
    with pytest.raises(ValueError, match="runs its attacks in a row"):
        evaluate(digits_model, x, y, attacks=["autoattack", "fgsm"], eps=0.1)


def test_the_parameters_of_the_authors_program():
    preset = presets.get("autoattack", eps=0.1, nb_classes=1000)
    configs = dict(zip(preset.labels, (config for _, config in preset.attacks), strict=True))
    assert [configs[step]["max_iter"] for step in preset.labels] == [100, 100, 100, 5000]
    assert configs["apgd-t"]["nb_target_classes"] == configs["fab-t"]["nb_target_classes"] == 9
    few = presets.get("autoattack", eps=0.1, nb_classes=5)
    assert few.attacks[1][1]["nb_target_classes"] == 4


@pytest.mark.parametrize("name", ["autoattack", "autoattack-rand", "pma+"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_what_is_left_out_is_what_the_attacks_refuse(name, classes):
    """A note where a loss is not defined; no attack that is defined is left out without need."""
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(classes))
    whole, own = (presets.get(name, eps=0.1, nb_classes=n) for n in (None, classes))

    def refused(preset):
        for attack, parameters in preset.attacks:
            targets = min(parameters.get("nb_target_classes") or 0, classes - 1) or None
            known = {"nb_target_classes": targets} if targets else {}
            try:
                attacks.get(attack, **{**parameters, **known}).bind(model)
            except ValueError:
                return True
        return False

    assert not refused(own)
    assert bool(own.note) == refused(whole) == (own.labels != whole.labels)
    assert not own.note or f"defined for {classes} classes" in own.note


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_fewer_than_four_classes(outputs):
    """What is defined there, said in the report, against the exact robust accuracy."""
    rng = np.random.default_rng(outputs)
    kernel = rng.normal(size=(6, outputs)).astype(np.float32)
    layer = keras.layers.Dense(outputs, activation="sigmoid" if outputs == 1 else "softmax")
    model = keras.Sequential([keras.Input((2, 3, 1)), keras.layers.Flatten(), layer])
    model.set_weights([kernel, -kernel.sum(axis=0) / 2])
    x = rng.uniform(0.3, 0.7, (40, 6)).astype(np.float32)
    scores = (x - 0.5) @ kernel
    if outputs == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        kernel = np.concatenate([np.zeros_like(kernel), kernel], axis=1)
    y = scores.argmax(axis=1)
    # No box in the way: the sample falls where its margin is below eps times the L1 norm.
    reach = 0.03 * np.abs(kernel[:, y].T[:, :, None] - kernel[None]).sum(axis=1)
    other = np.arange(len(kernel[0])) != y[:, None]
    margins = scores[np.arange(40), y][:, None] - scores
    withstands = np.where(other, margins > reach, True).all(axis=1)
    assert 0.2 < withstands.mean() < 0.9
    x = x.reshape(40, 2, 3, 1)
    report = evaluate(model, x, y, attacks="autoattack", eps=0.03)
    assert list(report.attacks) == ["apgd-ce", "pma", "fab-t", "square"]
    assert report.robust_accuracy == withstands.mean()
    (note,) = [f.message for f in report.findings if f.code == "few_classes"]
    assert f"{max(outputs, 2)} classes" in note
    first = evaluate(model, x, y, attacks="pma+", eps=0.03)
    assert list(first.attacks) == ["pma", "apgd-ce"]
    assert first.robust_accuracy == withstands.mean()
