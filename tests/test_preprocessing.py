"""Mean and standard deviation in front of a model: a part of it to all who ask."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import kerasrobust
from kerasrobust import attacks
from kerasrobust.engine.classifier import Classifier
from kerasrobust_cli import evaluate

MEAN, STD = [0.48, 0.4, 0.55], [0.21, 0.3, 0.26]
RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def models():
    """A model of normalised inputs, and the same one with the normalisation inside."""
    keras.utils.set_random_seed(5)
    bare = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    inside = layers.Normalization(mean=MEAN, variance=np.square(STD))
    return bare, keras.Sequential([keras.Input((6, 6, 3)), inside, bare])


@pytest.fixture(scope="module")
def samples(models):
    x = RNG.random((20, 6, 6, 3)).astype(np.float32)
    return x, models[1].predict(x, verbose=0).argmax(axis=1)


@pytest.mark.parametrize(
    "name",
    [
        "pgd:eps=0.1,max_iter=5",
        "deepfool",
        pytest.param("cwl2:max_iter=10", marks=pytest.mark.slow),
        pytest.param("hsja:max_iter=1,max_eval=100", marks=pytest.mark.slow),
    ],
)
def test_attacks_are_those_on_the_model_with_the_layer_inside(name, models, samples):
    x, y = samples
    bare, whole = models
    one = attacks.get(name).bind(Classifier(bare, preprocessing=(MEAN, STD))).run(x, y)
    other = attacks.get(name).bind(Classifier(whole)).run(x, y)
    assert other.success.any()
    np.testing.assert_array_equal(one.success, other.success)
    np.testing.assert_allclose(np.median(one.l2), np.median(other.l2), rtol=1e-3)


def test_budgets_and_bounds_are_in_the_unit_before_it(models, samples):
    x, y = samples
    classifier = Classifier(
        models[0], (0, 255), preprocessing=(255 * np.array(MEAN), 255 * np.array(STD))
    )
    result = attacks.get("pgd", eps=20, max_iter=5).bind(classifier).run(255 * x, y)
    assert result.x_adv.min() >= 0 and result.x_adv.max() <= 255
    assert np.abs(result.x_adv - 255 * x).max() == pytest.approx(20, rel=1e-4)
    plain = attacks.get("pgd", eps=20 / 255, max_iter=5).bind(Classifier(models[1])).run(x, y)
    np.testing.assert_array_equal(result.success, plain.success)


def test_numbers_gradients_and_callables(models, samples):
    x, _ = samples
    bare = models[0]
    classifier = Classifier(bare, preprocessing=(0.5, 0.25))
    expected = bare.predict((x - 0.5) / 0.25, verbose=0)
    np.testing.assert_array_equal(classifier.predict(x).argmax(1), expected.argmax(1))
    gradient = classifier.gradient(keras.ops.convert_to_tensor(x), lambda z: z[:, 0])[2].numpy()
    inner = (
        Classifier(bare)
        .gradient(keras.ops.convert_to_tensor((x - 0.5) / 0.25), lambda z: z[:, 0])[2]
        .numpy()
    )
    np.testing.assert_allclose(gradient, 4 * inner, rtol=1e-3, atol=1e-5)
    asked = []

    def service(points):
        asked.append(points)
        return bare.predict(points, verbose=0)

    Classifier(service, preprocessing=(MEAN, STD), nb_classes=3).predict(x)
    np.testing.assert_allclose(asked[0], (x - np.float32(MEAN)) / np.float32(STD), rtol=1e-5)


def test_it_is_part_of_what_an_outcome_depends_on(models):
    bare = models[0]
    one, same, other, without = (
        Classifier.of(bare, (0, 1), preprocessing=(np.array(MEAN), STD)),
        Classifier.of(bare, (0, 1), preprocessing=(MEAN, tuple(STD))),
        Classifier.of(bare, (0, 1), preprocessing=(MEAN, 1.0)),
        Classifier.of(bare, (0, 1)),
    )
    assert one is same and one is not other and one is not without
    assert Classifier(one).preprocessing == one.preprocessing
    assert json.loads(json.dumps(one.settings()))["preprocessing"] == [MEAN, STD]


@pytest.mark.parametrize("value", [(0.5, 0), (0.5, -1), (0.5,), 3, ("a", 1), (np.nan, 1), [[1, 2]]])
def test_what_is_no_mean_and_deviation(value, models):
    with pytest.raises(ValueError, match=r"`preprocessing` must be mean and.*Received: prep"):
        Classifier(models[0], preprocessing=value)


def test_command(models, samples, tmp_path):
    x, y = samples
    models[0].save(tmp_path / "bare.keras")
    np.savez(tmp_path / "own.npz", x=np.round(255 * x).astype(np.uint8), y=y)
    command = ["--model", tmp_path / "bare.keras", "--dataset", tmp_path / "own.npz"]
    command += [
        "--samples",
        20,
        "--attacks",
        "fgsm",
        "--eps",
        "8/255",
        "--output",
        tmp_path / "out",
    ]
    command += ["--mean", "0.48,0.4,0.55", "--std", "0.21,0.3,0.26"]
    result = CliRunner().invoke(evaluate.main, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    report = kerasrobust.evaluation.Report.load(tmp_path / "out")
    images = np.round(255 * x).astype(np.float32) / 255
    right = models[1].predict(images, verbose=0).argmax(axis=1) == y
    assert report.clean_accuracy == pytest.approx(right.mean())
    assert report.settings["classifier"]["preprocessing"] == [MEAN, STD]
    result = CliRunner().invoke(evaluate.main, ["--mean", "0.5"])
    assert result.exit_code == 2 and "--mean and --std need --model" in result.stderr
