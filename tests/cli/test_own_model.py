"""`kr-train --model PATH`: going on from a saved model of the user's."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import kerasrobust
from kerasrobust_cli import train

# Opens a model and says what it predicts, where kerasrobust cannot be imported.
OPEN = """
import sys
sys.modules["kerasrobust"] = None
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""


def run(command, *arguments):
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])


def halves(rng, count, classes=2):
    """Grey levels, 6x6; the brightness of the upper half tells the classes apart."""
    y = np.arange(count) % classes
    x = rng.integers(0, 130, (count, 6, 6))
    x[:, :3] += (120 * y / (classes - 1)).astype(int)[:, None, None]
    return x.astype(np.uint8), y


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images as bytes, and a model of 0..255 that plain Keras has trained a little."""
    path = tmp_path_factory.mktemp("own")
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    parts = {split: halves(rng, count) for split, count in (("train", 192), ("test", 64))}
    arrays = {f"{k}_{s}": part[i] for s, part in parts.items() for i, k in enumerate("xy")}
    np.savez(path / "bytes.npz", **arrays)
    units = {f"x_{s}": parts[s][0] / np.float32(255) for s in parts}
    np.savez(path / "units.npz", **arrays | units)
    x, y = halves(rng, 30, classes=3)
    np.savez(path / "three.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    own(layers.Dense(2, "softmax")).save(path / "own.keras")
    return path


def own(*end):
    body = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(8, "relu")]
    return keras.Sequential([keras.Input((6, 6, 1)), *body, *end])


def harden(folder, output, *arguments, model=None, data="bytes.npz"):
    arguments = ("--dataset", folder / data, "--output", output, "--epochs", 4, *arguments)
    return run(train, "--model", model or folder / "own.keras", *arguments)


@pytest.mark.slow
def test_goes_on_and_opens_without_this_package(folder, tmp_path):
    """With defense and best epoch; twice; what comes out is the plain model that was put in."""
    defense = "adversarial_training:attack=(fgsm:eps=20),alpha=0.5"
    options = ("--defense", defense, "--robust-attack", "fgsm:eps=10", "--keep-best")
    options += ("--epochs", 8, "--learning-rate", 0.05)
    result = harden(folder, tmp_path / "hard.keras", *options)
    assert result.exit_code == 0, result.output
    assert "Pixels in 0..255, read from the model's first layers: Rescaling" in result.stderr
    assert "withstand the attacks" in result.stderr
    before = float(re.search(r"Test accuracy before training ([0-9.]+) %", result.stderr)[1])
    after = float(re.search(r"Test accuracy ([0-9.]+) %", result.stdout)[1])
    assert after > 90 and after >= before
    assert result.stderr.strip().endswith("hard.keras")  # and nothing of what it needs

    hard = kerasrobust.models.load(tmp_path / "hard.keras")
    assert type(hard) is keras.Sequential
    first = kerasrobust.models.load(folder / "own.keras")
    assert any((a != b).any() for a, b in zip(first.get_weights(), hard.get_weights(), strict=True))
    again = harden(folder, tmp_path / "again.keras", model=tmp_path / "hard.keras")
    assert f"Test accuracy before training {after:.2f} %" in again.stderr

    x = kerasrobust.datasets.load(folder / "bytes.npz", clip_values=(0, 255)).x
    np.save(tmp_path / "x.npy", x)
    files = [tmp_path / name for name in ("hard.keras", "x.npy", "scores.npy")]
    subprocess.run([sys.executable, "-c", OPEN, *files], check=True, env=os.environ)
    scores = np.load(tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, hard.predict(x, verbose=0), rtol=1e-5)


@keras.saving.register_keras_serializable("own_model")
class Opaque(keras.Model):
    """A model whose graph cannot be read."""

    def __init__(self, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self.inner = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2, activation)]

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


def opaque(activation):
    model = Opaque(activation)
    model(np.zeros((1, 6, 6, 1), "float32"))
    return model


MODELS = {
    "softmax": lambda: own(layers.Dense(2, "softmax")),
    "logits": lambda: own(layers.Dense(2)),
    "sigmoid": lambda: own(layers.Dense(1, "sigmoid")),
    "one logit": lambda: own(layers.Dense(1)),
    "softmax behind a cast": lambda: own(
        layers.Dense(2), layers.Softmax(), layers.Activation("linear", dtype="float32")
    ),
    "dictionary": lambda: keras.Model(
        (inputs := keras.Input((6, 6, 1))), {"scores": own(layers.Dense(2))(inputs)}
    ),
    "opaque probabilities": lambda: opaque("softmax"),
    "opaque logits": lambda: opaque(None),
}


@pytest.mark.filterwarnings("ignore:The model .* returns probabilities")
@pytest.mark.parametrize(
    "kind",
    [
        kind if i % 2 == 0 else pytest.param(kind, marks=pytest.mark.slow)
        for i, kind in enumerate(MODELS)
    ],
)
def test_any_end(kind, folder, tmp_path):
    keras.utils.set_random_seed(1)
    model = MODELS[kind]()
    if kind in ("logits", "sigmoid"):
        model.compile("sgd", "mse")  # what it was compiled with is of no account
    model.save(tmp_path / "own.keras")
    flags = ("--clip-max", 255) if "opaque" in kind else ()
    options = ("--learning-rate", 0.05, "--epochs", 8, "--quiet", *flags)
    result = harden(folder, tmp_path / "out.keras", *options, model=tmp_path / "own.keras")
    assert result.exit_code == 0, result.output
    assert float(result.stdout.split()[-2]) > 90


def test_a_wrapped_model_goes_on_as_one(folder, tmp_path):
    arguments = ("--defense", "label_smoothing:k=0.9", "--epochs", 1)
    model = kerasrobust.wrap(
        kerasrobust.models.load(folder / "own.keras"), "gda:sigma=9", clip_values=(0, 255)
    )
    model.save(tmp_path / "wrapped.keras")
    result = harden(folder, tmp_path / "more.keras", *arguments, model=tmp_path / "wrapped.keras")
    assert result.exit_code == 0, result.output
    more = kerasrobust.models.load(tmp_path / "more.keras")
    assert [type(defense).name for defense in more.defenses] == ["gda", "label_smoothing"]
    assert more.clip_values == (0, 255)
    assert "which needs kerasrobust to open: RobustModel" in result.stderr


def test_a_layer_defense_stays_and_is_named(folder, tmp_path):
    defenses = ("--defense", "brelu", "--defense", "jpeg:quality=60", "--epochs", 1)
    result = harden(folder, tmp_path / "layer.keras", *defenses)
    assert result.exit_code == 0, result.output
    assert "to open: BoundedReLU, JPEGCompression, Preprocessed" in result.stderr.replace("\n", " ")
    assert kerasrobust.models.load(tmp_path / "layer.keras").clip_values == (0, 255)


def test_data_in_another_unit(folder, tmp_path):
    """0..1 for a model of 0..255: an error that names the flags, and with the flags a warning."""
    result = harden(folder, tmp_path / "out.keras", data="units.npz")
    assert result.exit_code == 2
    assert "--clip-min, --clip-max" in result.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out.keras").exists()
    right = kerasrobust.models.load(folder / "own.keras")
    right.layers[-1].bias.assign([40.0, -40.0])
    right.save(tmp_path / "one_class.keras")
    arguments = ("--clip-max", 1, "--epochs", 1)
    result = harden(
        folder,
        tmp_path / "out.keras",
        *arguments,
        model=tmp_path / "one_class.keras",
        data="units.npz",
    )
    assert "are taken for class 0" in result.stderr and "--clip-max" in result.stderr


@pytest.fixture
def nothing_read(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the error must come before the data are read")

    monkeypatch.setattr(kerasrobust.datasets, "load", fail)


def last(result):
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    return line


def test_a_bad_file_is_told_before_the_data_are_read(folder, tmp_path, nothing_read):
    (tmp_path / "cut.keras").write_bytes((folder / "own.keras").read_bytes()[:900])
    (tmp_path / "text.txt").write_text("text")
    named = {
        "none.keras": "Expected a Keras model file",
        "cut.keras": "damaged or cut short",
        "text.txt": "Expected a Keras model file",
        "no/areb_cnn": "Expected a Keras model file",
    }
    for name, message in named.items():
        line = last(harden(folder, tmp_path / "out.keras", model=tmp_path / name))
        assert message in line and name in line
    assert "Did you mean 'areb_cnn'" in last(harden(folder, tmp_path / "o.keras", model="areb_cn"))
    two = own(layers.Dense(2))
    two = keras.Model(two.inputs, [two.outputs[0], two.outputs[0]])
    two.save(tmp_path / "two.keras")
    assert "one output" in last(
        harden(folder, tmp_path / "out.keras", model=tmp_path / "two.keras")
    )


def test_what_does_not_fit_is_told_before_training(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    output = tmp_path / "out.keras"
    assert "2 outputs. Received: 'three' with 3 classes" in last(
        harden(folder, output, data="three.npz")
    )
    line = last(run(train, "--model", folder / "own.keras", "--output", output))
    assert "input shape (n, 6, 6, 1)" in line
    frozen = kerasrobust.models.load(folder / "own.keras")
    frozen.trainable = False
    frozen.save(tmp_path / "frozen.keras")
    line = last(harden(folder, output, model=tmp_path / "frozen.keras"))
    assert "weights to train" in line
