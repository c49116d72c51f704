"""Budgets and steps in the wrong unit, channels, and labels that are no labels."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kerasrobust
from kerasrobust import attacks
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import presets

RNG = np.random.default_rng(0)


def model_of(shape, classes=3):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(classes, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def grey_levels():
    """A classifier of 0..255 with images that it labels itself."""
    classifier = Classifier(model_of((6, 6, 1)), (0, 255))
    x = RNG.integers(0, 256, (24, 6, 6, 1)).astype(np.float32)
    return classifier, x, classifier.predict(x).argmax(axis=1)


ERRORS = {
    "L2 of 0..1": ("pgd", {"norm": 2, "eps": 0.4}),
    "L2 of Square": ("square", {"norm": 2, "eps": 0.3}),
    "L1 of 0..1": ("apgd", {"norm": 1, "eps": 0.2}),
    "L2 beyond the diagonal": ("pgd", {"norm": 2, "eps": 1600.0}),
    "Linf beyond the box": ("apgd", {"eps": 300.0}),
    "noise of 0..1": ("rand_fgsm", {"eps": 8, "alpha": 0.04}),
    "pixel step of 0..1": ("jsma", {"theta": 0.3}),
    "negative one": ("jsma", {"theta": -0.3}),
    "step of SimBA": ("simba", {"epsilon": 0.2}),
    "step of ZOO": ("zoo", {"variable_h": 1e-5}),
    "radius": ("cwl2", {"restarts": 1, "restart_radius": 0.3}),
    "radius of gradients": ("cwl2", {"gradient_samples": 1, "gradient_radius": 0.01}),
    "difference": ("vat", {"eps": 20, "finite_diff": 0.1}),
    "universal": ("uap", {"eps": 0.06}),
    "limit of FAB": ("fab", {"eps": 0.1}),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_length_that_cannot_be_in_the_unit_is_an_error(case, grey_levels):
    name, settings = ERRORS[case]
    length = list(settings)[-1]
    with pytest.raises(ValueError, match=rf"`{length}` does not fit inputs in \(0.0, 255.0\)"):
        attacks.get(name, **settings).bind(grey_levels[0])


@pytest.mark.parametrize(
    ("spec", "length"),
    [
        ("gda:sigma=0.25", "sigma"),
        ("e2sad:eps2=0.15", "eps2"),
        ("fast:eps=0.3", "eps"),
        ("trades:eps=0.03", "eps"),
        ("mart:eps=0.05,norm=2", "eps"),
        ("minimax:eps=0.25", "eps"),
        ("nsloss:eps=0.4", "eps"),
        ("vat:xi=0.1", "xi"),
        ("vat:eps=0.4", "eps"),
        ("vat:eps=1600", "eps"),
    ],
)
def test_a_length_of_a_defense_likewise_when_it_wraps(spec, length):
    with pytest.raises(ValueError, match=rf"`{length}` does not fit inputs in \(0.0, 255.0\)"):
        kerasrobust.wrap(model_of((6, 6, 1)), spec, clip_values=(0, 255))


def codes(report):
    return {finding.code: finding.message for finding in report.findings}


def test_a_budget_that_is_likely_of_another_unit_is_a_finding(grey_levels):
    classifier, x, y = grey_levels
    report = kerasrobust.evaluate(classifier, x, y, attacks="pgd:eps=3,norm=2,max_iter=3")
    assert "pgd (eps=3, L2)" in codes(report)["small_budget"]
    report = kerasrobust.evaluate(classifier, x, y, attacks="pgd:eps=300,norm=2,max_iter=3")
    assert "small_budget" not in codes(report)


def test_steps_that_do_not_reach_the_edge_are_a_finding(grey_levels):
    classifier, x, y = grey_levels
    report = kerasrobust.evaluate(classifier, x, y, attacks="pgd:eps=12,eps_step=0.1,max_iter=30")
    assert "pgd (30 x 0.1 of 12)" in codes(report)["short_steps"]
    for spec in ("pgd:eps=12,eps_step=0.5,max_iter=30", "pgd:eps=12,max_iter=3", "fgsm:eps=12"):
        assert "short_steps" not in codes(kerasrobust.evaluate(classifier, x, y, attacks=spec))


def test_grey_levels_with_the_step_left_out(grey_levels):
    """Steps come from the budget: as strong as the same attack in 0..1."""
    classifier, x, y = grey_levels
    plain = Classifier(keras.Sequential([keras.Input((6, 6, 1)), *classifier.model.layers[1:]]))
    for norm, eps in ((np.inf, 20.0), (2, 90.0)):
        large = attacks.get("pgd", eps=eps, norm=norm).bind(classifier).run(x, y)
        small = attacks.get("pgd", eps=eps / 255, norm=norm).bind(plain).run(x / 255, y)
        np.testing.assert_array_equal(large.success, small.success)
        assert large.success.any()


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((28, 28, 1), 1),
        ((1, 28, 28), 1),
        ((32, 32, 3), 3),
        ((3, 32, 32), 3),
        ((3, 24, 40), 3),
        ((24, 40, 1), 1),
        ((1, 24, 40), 1),
        ((4, 4, 1), 1),
        ((20, 20, 11), 11),
        ((None, None, 3), 3),
        ((36,), 1),
        ((8, 8), 1),
        ((3, 40, 1), None),
        ((12, 20, 30), None),
    ],
)
def test_channels(shape, channels):
    assert presets.channels(shape) == channels


@pytest.mark.slow
def test_areb_on_images_whose_channel_comes_first(grey_levels):
    _, x, _ = grey_levels
    images = x[:4].reshape(4, 1, 6, 6)
    model = Classifier(model_of((1, 6, 6)), (0, 255))
    report = kerasrobust.evaluate(model, images, model.predict(images).argmax(axis=1))
    assert report.settings["preset_variant"] == "grey"
    assert report.attacks["pgd"].config["eps"] == pytest.approx(0.3 * 255)


def test_areb_asks_where_the_shape_does_not_tell():
    model = Classifier(model_of((3, 10, 1)), (0, 255))
    x = RNG.integers(0, 256, (4, 3, 10, 1)).astype(np.float32)
    with pytest.raises(ValueError, match="give dataset='mnist' or dataset='cifar10'"):
        kerasrobust.evaluate(model, x, np.zeros(4, int))


@pytest.mark.parametrize("name", ["jsma", "boundary:max_iter=2", "signopt:max_iter=1,k=4", "pgd"])
@pytest.mark.slow
def test_targets_where_labels_are_meant_are_told(name, grey_levels):
    """ART takes `y` for targets in JSMA, Boundary and Sign-OPT."""
    classifier, x, y = grey_levels
    attack = attacks.get(name).bind(classifier)
    with pytest.warns(UserWarning, match=r"6 of 6 samples were adversarial.*give targeted=True"):
        result = attack.run(x[:6], (y[:6] + 1) % 3)
    assert result.initially_adversarial.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack.run(x[:6], y[:6])
        attack.run(x[:6])


def test_targets_that_are_labels_are_told(grey_levels):
    classifier, x, y = grey_levels
    with pytest.warns(UserWarning, match="5 of 5 samples.*give targeted=False"):
        attacks.get("pgd", targeted=True).bind(classifier).run(x[:5], y[:5])


def test_evaluation_finds_it_too(grey_levels):
    classifier, x, y = grey_levels
    wrong = np.where(np.arange(24) % 8 == 0, y, (y + 1) % 3)
    report = kerasrobust.evaluate(classifier, x, wrong, attacks=["fgsm", "jsma"])
    message = codes(report)["adversarial_from_the_start"]
    assert "fgsm (21 of 24 samples) and jsma (21 of 24 samples)" in message
    assert "adversarial_from_the_start" not in codes(
        kerasrobust.evaluate(classifier, x, y, attacks="fgsm")
    )
