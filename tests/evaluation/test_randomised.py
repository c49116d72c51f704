"""Models that draw at inference: found out, repeated by the seed, and not called masked."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import evaluate
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation.conclusion import conclude
from kerasrobust.evaluation.diagnosis import diagnose
from kerasrobust.evaluation.pieces import Evaluation

# The package's attribute of this name is the function.
SHAPE, CLASSES = (3, 4, 1), 5
PGD = "pgd:eps=0.07,eps_step=0.02,max_iter=6"


@keras.saving.register_keras_serializable("test")
class Noise(keras.layers.Layer):
    """Noise at inference, by a seed generator of Keras or by a stateful operation."""

    def __init__(self, stddev, stateful=False, **kwargs):
        super().__init__(**kwargs)
        self.stddev, self.stateful = stddev, stateful
        self.generator = keras.random.SeedGenerator(11)

    def call(self, x):
        if self.stateful:
            return x + tf.random.normal(tf.shape(x), stddev=self.stddev)
        return x + keras.random.normal(tf.shape(x), stddev=self.stddev, seed=self.generator)


def build(*front):
    """A linear classifier behind some layers."""
    end = [keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input(SHAPE), *front, *end])
    weights = np.random.default_rng(8).normal(size=(12, CLASSES)).astype(np.float32)
    model.layers[-1].set_weights([weights, -weights.mean(axis=0)])
    return model


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(1).uniform(0.25, 0.75, (45, *SHAPE)).astype(np.float32)
    return x, build().predict(x, verbose=0).argmax(axis=1)


def of(report, code):
    """Messages and commands, a line each."""
    return [f"{one.message}\n{one.command}" for one in report.findings if one.code == code]


def test_the_same_seed_gives_the_same_answer(data, timeless):
    model = build(Noise(0.2))
    model.predict(data[0], verbose=0)
    reports = [evaluate(model, *data, attacks=[PGD, "square:eps=0.07,max_iter=20"])]
    model.predict(data[0], verbose=0)  # its own seeds have moved on
    reports += [
        evaluate(model, *data, attacks=[PGD, "square:eps=0.07,max_iter=20"], seed=seed)
        for seed in (0, 3)
    ]
    first, second, third = map(timeless, reports)
    assert first == second
    assert first["attacks"]["pgd"]["accuracy"] != third["attacks"]["pgd"]["accuracy"]
    assert all(report.settings["randomised"] for report in reports)


def test_graphs_that_were_compiled_before_it_was_known_are_made_anew(data):
    classifier = Classifier(build(Noise(0.3)))
    classifier.randomised = False
    x = data[0]
    assert (classifier.predict(x) != classifier.predict(x)).any()
    classifier.look_for_draws(x)
    assert classifier.randomised and classifier.repeatable
    np.testing.assert_array_equal(
        classifier.predict(x, key=(4, 1)), classifier.predict(x, key=(4, 1))
    )
    assert (classifier.predict(x, key=(4, 1)) != classifier.predict(x, key=(4, 2))).any()


def test_the_finding_says_what_holds_and_what_to_do(data):
    evaluation = Evaluation(build(Noise(0.3)), *data, attacks=PGD, eps=0.07, batch_size=20)
    for unit in evaluation.units():
        evaluation.compute(unit)
    report = conclude(evaluation)
    (message,) = of(report, "randomised")
    result = report.samples.results["pgd"]
    found = result.success & ~result.initially_adversarial
    gone = int((found & ~result.columns["holds"]).sum())
    assert 0 < gone < found.sum()
    assert f"Of {found.sum()} successes {gone} (" in message
    assert "draws=20, votes=10" in message and "seed" not in message
    assert message.endswith("\nkr-eval ... --attacks autoattack-rand --eps 0.07 --votes 10")
    # The share is that of another judgement: noise beyond the margins flips about as many.
    again = Evaluation(build(Noise(0.3)), *data, attacks=PGD, eps=0.07, batch_size=20)
    for unit in reversed(list(again.units())):
        again.compute(unit)
    np.testing.assert_array_equal(again.result("pgd").columns["holds"], result.columns["holds"])


@pytest.mark.slow
def test_no_finding_where_draws_are_averaged_and_labels_voted(data):
    averaged = Classifier(build(Noise(0.3)), draws=4, votes=3)
    report = evaluate(averaged, *data, attacks=PGD)
    assert report.settings["randomised"] and not of(report, "randomised")
    for options in ({"draws": 4}, {"votes": 3}):
        half = Classifier(build(Noise(0.3)), **options)
        assert of(evaluate(half, *data, attacks=PGD), "randomised")
    report = evaluate(build(Noise(0.3)), *data, attacks="autoattack-rand", eps=0.03)
    assert report.settings["randomised"] and not of(report, "randomised")


def test_what_draws_by_no_seed_cannot_be_repeated(data):
    for options in ({}, {"draws": 2, "votes": 3}):
        stateful = Classifier(build(Noise(0.3, stateful=True)), **options)
        (message,) = of(evaluate(stateful, *data, attacks=PGD), "randomised")
        assert "the same seed gives other figures" in message
        assert ("--eot" in message) == (not options)


def test_a_model_that_does_not_draw_is_left_alone(data):
    for model in (build(), build(keras.layers.Dropout(0.5))):
        report = evaluate(model, *data, attacks=PGD)
        assert report.settings["randomised"] is False and not of(report, "randomised")
        assert "holds" not in report.samples.results["pgd"].columns


def test_noise_is_not_called_a_masked_gradient(data):
    """What queries find in the noise no gradient has to find."""
    x = np.repeat(data[0], 16, axis=0)
    y = np.repeat(data[1], 16)
    attacks = ["pgd:eps=0.002,eps_step=0.0004,max_iter=10", "square:eps=0.002,max_iter=50,seed=1"]
    report = evaluate(build(Noise(0.25)), x, y, attacks=attacks)
    square, pgd = (report.samples.results[name] for name in ("square", "pgd"))
    attacked = ~square.initially_adversarial & ~pgd.initially_adversarial
    assert (attacked & square.success & ~pgd.success).sum() > 10
    assert not of(report, "gradient_masking")
    # Judged once, and without the knowledge that the model draws, the word would fall.
    once = {key: dataclasses.replace(r, columns={}) for key, r in report.samples.results.items()}
    assert "gradient_masking" in [one.code for one in diagnose(report.attacks, once)]
    assert "may be noise" in diagnose(report.attacks, once, randomised=True)[0].message


def test_a_callable_that_draws(data):
    draw = np.random.default_rng(5)
    model = build()
    asked = []

    def service(x):
        asked.append(len(x))
        return model(x).numpy() + draw.normal(size=(len(x), CLASSES))

    report = evaluate(
        service, *data, attacks="hsja:max_iter=2,max_eval=20,init_eval=10,max_queries=60"
    )
    (message,) = of(report, "randomised")
    assert "the same seed gives other figures" in message and "successes" not in message
    result = report.samples.results["hsja"]
    assert result.queries.max() <= 60
    # Two passes under two keys and two under one, over 32 samples; the clean pass.
    assert sum(asked) == 4 * 32 + len(data[0]) + result.queries.sum()
