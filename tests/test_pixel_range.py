"""The range of pixels, read from a model's first layers, and what follows from it."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import kerasrobust
from kerasrobust.engine.pixel_range import pixel_range
from kerasrobust_cli import evaluate

BYTES, UNIT, SIGNED = (0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype("float32")


def normalization(images, axis=-1):
    layer = layers.Normalization(axis=axis)
    layer.adapt(images)
    return layer


def nested(*inner):
    return keras.Sequential([keras.Input((8, 8, 3)), *inner])


STATISTICS = {"mean": [0.49, 0.48, 0.44], "variance": [0.06, 0.059, 0.068]}
CASES = {
    "none": ([], None),
    "bytes": ([layers.Rescaling(1 / 255)], BYTES),
    "bytes to -1..1": ([layers.Rescaling(1 / 127.5, offset=-1)], BYTES),
    "256": ([layers.Rescaling(1 / 256)], BYTES),
    "inverted": ([layers.Rescaling(-1 / 255, offset=1)], BYTES),
    "unit to -1..1": ([layers.Rescaling(2, offset=-1)], UNIT),
    "-1..1 to unit": ([layers.Rescaling(0.5, offset=0.5)], SIGNED),
    "unsettled": ([layers.Rescaling(1 / 40)], None),
    "normalised": ([layers.Normalization(**STATISTICS)], UNIT),
    "both": (
        [layers.Rescaling(1 / 255), layers.Normalization(**STATISTICS)],
        BYTES,
    ),
    "adapted": ([normalization(IMAGES)], BYTES),
    "adapted to all": ([normalization(IMAGES, axis=None)], BYTES),
    "adapted to each": ([normalization(IMAGES, axis=(1, 2, 3))], BYTES),
    "adapted to unit": ([normalization(IMAGES / 255)], UNIT),
    "adapted to -1..1": ([normalization(IMAGES / 127.5 - 1)], SIGNED),
    "augmented": ([layers.RandomFlip(), layers.RandomZoom(0.1), layers.Rescaling(1 / 255)], BYTES),
    "nested": ([nested(layers.RandomFlip()), nested(layers.Rescaling(1 / 255))], BYTES),
    "too late": ([layers.Conv2D(3, 3), layers.Rescaling(1 / 255)], None),
    "nested too late": ([nested(layers.Conv2D(3, 3)), layers.Rescaling(1 / 255)], None),
}


@pytest.mark.parametrize("case", CASES)
def test_range(case):
    first, expected = CASES[case]
    model = keras.Sequential([keras.Input((8, 8, 3)), *first, layers.Flatten(), layers.Dense(3)])
    found = pixel_range(model)
    assert (found and found.bounds) == expected


def test_arithmetic():
    inputs = keras.Input((8, 8, 3))
    for scaled, expected in (
        (inputs / 255.0, BYTES),
        ((inputs - 127.5) / 127.5, BYTES),
        (1.0 - inputs / 255.0, BYTES),
        (2.0 * inputs - 1.0, UNIT),
    ):
        model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(scaled)))
        assert pixel_range(model).bounds == expected


def test_input_that_goes_two_ways_settles_nothing():
    inputs = keras.Input((8, 8, 3))
    both = layers.Concatenate()([layers.Rescaling(1 / 255)(inputs), inputs])
    assert pixel_range(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(both)))) is None


def test_models_of_keras_applications():
    shape = {"weights": None, "input_shape": (32, 32, 3), "classes": 4}
    assert pixel_range(keras.applications.MobileNetV3Small(**shape)).bounds == BYTES
    assert pixel_range(keras.applications.MobileNetV2(**shape)) is None


def test_what_is_no_functional_model_settles_nothing():
    assert pixel_range(lambda x: x) is None
    assert pixel_range(None) is None


# ---- what follows from it -------------------------------------------------------------------


@pytest.fixture(scope="module")
def bright():
    """A right model of 0..255, and images: bright ones are of class 1, black corners of class 2."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(2, use_bias=True),
        ]
    )
    kernel = np.tile([[-1.0, 1.0]], (36, 1)).astype("float32")
    model.layers[-1].set_weights([kernel, np.array([18.0, -18.0], "float32")])
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 60)
    x = rng.integers(0, 100, (60, 6, 6, 1)) + 140 * y[:, None, None, None]
    return model, x.astype(np.uint8), y


@pytest.mark.parametrize("scale", [1, 255])
def test_default_bounds_that_the_layers_contradict_are_an_error(bright, scale):
    model, x, y = bright
    for samples in (x / np.float32(scale), x):
        with pytest.raises(ValueError, match=r"Rescaling .*0\.\.255: give clip_values=\(0, 255\)"):
            kerasrobust.evaluate(model, samples, y, attacks="fgsm")
        with pytest.raises(ValueError, match=r"give clip_values=\(0, 255\).*Received"):
            kerasrobust.attacks.get("fgsm").bind(model).generate(samples, y)


def test_training_with_default_bounds_that_the_layers_contradict_is_an_error(bright):
    with pytest.raises(ValueError, match=r"give clip_values=\(0, 255\).*clip_values=None"):
        kerasrobust.wrap(bright[0], "label_smoothing")
    assert (
        kerasrobust.wrap(bright[0], "label_smoothing", clip_values=(0, 255)).clip_values[1] == 255
    )


def test_bounds_that_were_given_count_and_the_finding_comes_after_the_first(bright):
    model, x, y = bright
    options = {"attacks": "fgsm:eps=0.05", "clip_values": (0, 1)}
    report = kerasrobust.evaluate(model, x / np.float32(255), y, **options)
    assert [finding.code for finding in report.findings][:2] == [
        "constant_predictions",
        "pixel_range",
    ]
    right = kerasrobust.evaluate(model, x, y, attacks="fgsm:eps=9", clip_values=(0, 255))
    assert right.clean_accuracy == 1.0
    assert "pixel_range" not in [finding.code for finding in right.findings]


@pytest.mark.parametrize("stored", ["bytes", "floats", "unit"])
def test_command_takes_the_range_and_says_so(bright, stored, tmp_path):
    model, x, y = bright
    model.save(tmp_path / "own.keras")
    x = {"bytes": x, "floats": x.astype("float32"), "unit": x / np.float32(255)}[stored]
    np.savez(tmp_path / "own.npz", x=x, y=y)
    command = ["--model", tmp_path / "own.keras", "--dataset", tmp_path / "own.npz", "--samples"]
    command += [60, "--attacks", "fgsm", "--eps", 13, "--output", tmp_path / "report"]
    result = CliRunner().invoke(evaluate.main, [str(argument) for argument in command])
    if stored == "unit":
        assert result.exit_code == 2 and "--clip-min, --clip-max" in result.stderr
        return
    assert result.exit_code == 0, result.output
    assert "Pixels in 0..255, read from the model's first layers: Rescaling" in result.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["settings"]["clip_values"] == [0, 255]
    assert report["settings"]["pixel_range"]["high"] == 255
    assert kerasrobust.evaluation.Report.load(tmp_path / "report").clean_accuracy == 1.0


@pytest.mark.parametrize(
    ("flags", "bounds"),
    [
        (["--clip-max", 200], [0, 200]),
        (["--clip-min", -5], [-5, 255]),
        (["--clip-min", 0, "--clip-max", 255], [0, 255]),
    ],
)
def test_flags_replace_one_bound_each(bright, flags, bounds, tmp_path):
    model, x, y = bright
    model.save(tmp_path / "own.keras")
    np.savez(tmp_path / "own.npz", x=x, y=y)
    command = ["--model", tmp_path / "own.keras", "--dataset", tmp_path / "own.npz", *flags]
    command += ["--samples", 8, "--attacks", "fgsm", "--eps", 7, "--output", tmp_path / "report"]
    result = CliRunner().invoke(evaluate.main, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    assert "Pixels in" not in result.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["settings"]["clip_values"] == bounds
