"""The commands, run in this process as click runs them."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import kerasrobust
from kerasrobust.engine.backward import substitute
from kerasrobust_cli import evaluate, train


def run(command, *arguments):
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of 6x6 images that the brightness of the upper half tells apart."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 256), ("test", 64)):
        y = rng.integers(0, 2, count)
        x = rng.random((count, 6, 6)) * 0.5
        x[:, :3] += 0.5 * y[:, None, None]
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    result = run(train, "--dataset", data, "--output", path, "--epochs", 20, "--quiet")
    assert result.exit_code == 0, result.output
    predicted = kerasrobust.models.load(path).predict(kerasrobust.datasets.load(data).x, verbose=0)
    accuracy = np.mean(predicted.argmax(axis=1) == kerasrobust.datasets.load(data).y)
    assert result.stdout == f"Test accuracy {100 * accuracy:.2f} %\n"
    assert accuracy > 0.9
    return path


def test_further_pictures_lie_in_the_folder(data, model, tmp_path):
    arguments = ("--model", model, "--dataset", data, "--samples", 8, "--attacks", "fgsm:eps=0.1")
    names = ("loss_against_eps", "security_curves")
    pictures = [part for name in names for part in ("--picture", name)]
    result = run(evaluate, *arguments, *pictures, "--output", tmp_path / "report")
    assert result.exit_code == 0, result.output
    for name in names:
        assert (tmp_path / "report" / f"{name}.png").is_file()
    result = run(evaluate, *arguments, *pictures)
    assert result.exit_code == 2 and "--picture needs --output" in result.output
    result = run(evaluate, *arguments, "--picture", "portrait", "--output", tmp_path / "other")
    assert result.exit_code == 2 and "security_curves" in result.output


def test_a_robustness_that_is_too_low_fails_the_command(data, model):
    arguments = ("--model", model, "--dataset", data, "--samples", 40, "--attacks", "fgsm:eps=0.1")
    # All 40 samples withstand; the lower end of Wilson's interval is 40 / (40 + 1.96^2) = 0.912.
    for share, looked_at, code in (
        (1.0, "figure", 0),
        (1.0, "interval", 1),
        (0.913, "interval", 1),
        (0.912, "interval", 0),
        (40, "figure", 2),
    ):
        options = ("--fail-under", share, "--fail-on", looked_at)
        result = run(evaluate, *arguments, *options)
        assert result.exit_code == code, result.output
        assert ("is a share from 0 to 1" in result.stderr) == (code == 2)
        assert ("Robust accuracy" in result.stderr) == (code == 1)


def test_report_agrees_with_the_saved_model(data, model, tmp_path):
    result = run(
        evaluate,
        *("--model", model, "--dataset", data, "--samples", 40, "--seed", 3),
        *("--attacks", "fgsm:eps=0.2", "--attacks", "fgsm:eps=1,norm=2"),
        *("--output", tmp_path / "report"),
    )
    assert result.exit_code == 0, result.output
    assert f"Report written to {tmp_path / 'report'}" in result.stderr
    report = kerasrobust.evaluation.Report.load(tmp_path / "report")
    assert list(report.attacks) == ["fgsm", "fgsm_2"]

    network = kerasrobust.models.load(model)
    drawn = kerasrobust.datasets.load(data, samples=40, seed=3)
    clean = network.predict(drawn.x, verbose=0).argmax(axis=1) == drawn.y
    assert report.clean_accuracy == pytest.approx(clean.mean())
    worst = clean
    for spec in ("fgsm:eps=0.2", "fgsm:eps=1,norm=2"):
        x = kerasrobust.attacks.get(spec).bind(network).generate(drawn.x, drawn.y)
        worst = worst & (network.predict(x, verbose=0).argmax(axis=1) == drawn.y)
    assert report.robust_accuracy == pytest.approx(worst.mean())
    assert worst.sum() < clean.sum()


def test_quiet_prints_the_table_alone(data, model):
    arguments = ("--model", model, "--dataset", data, "--samples", 8, "--attacks", "fgsm")
    result = run(evaluate, *arguments, "--quiet", "--eps", "8/255")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("halves, 8 samples") and "fgsm" in result.stdout


@pytest.mark.slow
def test_without_a_model_one_is_trained_and_said_so(data):
    result = run(evaluate, "--dataset", data, "--samples", 64, "--attacks", "fgsm:eps=0.01")
    assert result.exit_code == 0, result.output
    assert "No --model given: training a small network" in result.stderr
    assert "training split of halves" in result.stderr


def test_defended_model_is_saved_as_such_and_evaluated(data, tmp_path):
    path = tmp_path / "defended.keras"
    defense = "gda:sigma=0.2"
    result = run(train, "--dataset", data, "--defense", defense, "--output", path, "--epochs", 2)
    assert result.exit_code == 0, result.output
    assert f"Model written to {path}" in result.stderr
    restored = kerasrobust.models.load(path)
    assert [d.sigma for d in restored.defenses] == [0.2]
    result = run(evaluate, "--model", path, "--dataset", data, "--samples", 8, "--attacks", "fgsm")
    assert result.exit_code == 0, result.output


def test_bounds_of_the_command_line_scale_the_data(tmp_path, model):
    """Integer images and a model of 0..1: right as they are, wrong when scaled to 0..255."""
    images = np.zeros((4, 6, 6), np.uint8)
    images[2:, :3] = 200
    path = tmp_path / "bytes.npz"
    np.savez(path, x=images, y=[0, 0, 1, 1])
    arguments = ("--model", model, "--dataset", path, "--samples", 4, "--attacks", "fgsm")
    for extra, bounds in ([], [0, 1]), (["--clip-min", 0, "--clip-max", 255], [0, 255]):
        output = tmp_path / f"report{bounds[1]}"
        eps = bounds[1] / 100
        result = run(evaluate, *arguments, *extra, "--eps", eps, "--output", output)
        assert result.exit_code == 0, result.output
        settings = kerasrobust.evaluation.Report.load(output).settings
        assert list(settings["clip_values"]) == bounds


def test_list_attacks():
    result = run(evaluate, "--list-attacks")
    rows = [line.split("│")[1:-1] for line in result.stdout.splitlines() if "│" in line]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    expected = [tuple(vars(entry).values()) for entry in kerasrobust.attacks.taxonomy()]
    assert cells == expected and len(cells) == 29
    assert all(name in result.stdout for name in kerasrobust.evaluation.presets.names())


def test_scripts_run_before_names_are_looked_up(tmp_path, monkeypatch):
    """In the order given, a module among them, and with what lies beside a script."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "kr_module.py").write_text(
        "import kerasrobust\n"
        "@kerasrobust.register\n"
        "class Mine(kerasrobust.attacks.Attack):\n"
        "    name = 'from-a-module'\n"
    )
    (tmp_path / "kr_beside.py").write_text("name = 'from-a-script'\n")
    (tmp_path / "keras.py").write_text(
        "import keras, kerasrobust, kr_beside, kr_module\n"
        "@kerasrobust.register\n"
        "class Mine(kr_module.Mine):\n"
        "    name = kr_beside.name\n"
        "    source = keras.__name__\n"
    )
    imports = ("--import", "kr_module", "--import", tmp_path / "keras.py")
    result = run(evaluate, "--list-attacks", *imports)
    assert result.exit_code == 0, result.output
    rows = {row[0]: row for row in rows_of(result.stdout)}
    assert rows["from-a-script"][1] == rows["from-a-module"][1] == "Mine"
    assert rows["from-a-script"][-1] == "keras"


def rows_of(table):
    rows = [line.split("│")[1:-1] for line in table.splitlines() if "│" in line]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    return [row for row in cells if row[0]]  # no continued lines


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("--list-models", kerasrobust.models.names()),
        ("--list-defenses", kerasrobust.defenses.names()),
    ],
)
def test_list_models_and_defenses(option, names):
    result = run(train, option)
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert [row[0] for row in rows] == names
    # Of a network without a paper of its own the description says whose it is.
    assert all(all(row[:3]) and (row[3] or "cnn" in row[0]) for row in rows), rows


@pytest.mark.slow
def test_the_best_robust_epoch_is_kept(data, tmp_path):
    """Chosen on training samples that were held out; the test accuracy is the kept model's."""
    path, logs = tmp_path / "model.keras", tmp_path / "logs"
    attacks = ("fgsm:eps=0.1", "pgd:eps=0.1,max_iter=3")
    arguments = ("--dataset", data, "--output", path, "--epochs", 4, "--learning-rate", 0.05)
    arguments += ("--validation-samples", 40, "--keep-best", "--log-dir", logs)
    arguments += tuple(part for spec in attacks for part in ("--robust-attack", spec))
    result = run(train, *arguments)
    assert result.exit_code == 0, result.output
    epochs = re.findall(r"val_robust_accuracy: ([\d.]+)", result.stdout)
    assert len(epochs) == 4
    best = int(np.argmax([float(value) for value in epochs]))
    kept = re.search(r"Epoch (\d) of 4 kept: ([\d.]+) %", result.stderr)
    assert int(kept[1]) == best + 1
    assert float(kept[2]) == pytest.approx(100 * float(epochs[best]), abs=0.006)

    network, test = kerasrobust.models.load(path), kerasrobust.datasets.load(data)
    accuracy = np.mean(network.predict(test.x, verbose=0).argmax(axis=1) == test.y)
    assert f"Test accuracy {100 * accuracy:.2f} %" in result.stdout
    rest, held = kerasrobust.datasets.hold_out(kerasrobust.datasets.load(data, "train"), 40)
    report = kerasrobust.evaluate(network, held.x, held.y, attacks=list(attacks))
    assert report.robust_accuracy == pytest.approx(float(kept[2]) / 100, abs=1e-4)
    assert f"{-(-len(rest) // 64)}/4" in result.stdout  # 216 samples make four steps

    import tensorflow as tf

    written = []
    for file in logs.glob("validation/events*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == "epoch_robust_accuracy":
                    written.append(float(tf.make_ndarray(value.tensor)))
    assert written == pytest.approx([float(value) for value in epochs], abs=1e-4)


@pytest.mark.slow
def test_interrupted_training_goes_on(data, tmp_path, monkeypatch):
    """Ctrl-C in the second epoch, the same command again: the file of a run in one go."""
    arguments = ("--dataset", data, "--epochs", 3, "--defense", "gda:N=2,sigma=0.2")
    arguments += ("--robust-attack", "fgsm:eps=0.1", "--keep-best", "--quiet")
    assert run(train, *arguments, "--output", tmp_path / "whole.keras").exit_code == 0

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations.numpy() == 6:  # four steps make an epoch
                raise KeyboardInterrupt

    def interrupted(*args, callbacks, **options):
        return fit(*args, callbacks=[*callbacks, Interrupt()], **options)

    fit = kerasrobust.models.fit
    arguments += ("--checkpoint", tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(kerasrobust.models, "fit", interrupted)
        result = run(train, *arguments, "--output", tmp_path / "parts.keras")
    assert result.exit_code == 1 and "Aborted" in result.stderr
    assert not (tmp_path / "parts.keras").exists()
    for changed in (("--seed", 1), ("--defense", "brelu"), ("--robust-attack", "pgd:eps=0.1")):
        result = run(train, *arguments, *changed, "--output", tmp_path / "parts.keras")
        assert result.exit_code == 2
        assert "run with other settings" in result.stderr.strip().splitlines()[-1]
    result = run(train, *arguments, "--output", tmp_path / "parts.keras")
    assert result.exit_code == 0, result.output
    whole, parts = (
        keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("whole", "parts")
    )
    for a, b in (
        *zip(whole.weights, parts.weights, strict=True),
        *zip(whole.optimizer.variables, parts.optimizer.variables, strict=True),
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """The same images, as a folder for each class."""
    from PIL import Image

    top = tmp_path_factory.mktemp("folder") / "halves"
    for split in ("train", "test"):
        part = kerasrobust.datasets.load(data, split)
        for number, (image, label) in enumerate(zip(part.x, part.y, strict=True)):
            path = top / split / ("dark", "bright")[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image[..., 0] * 255).round().astype(np.uint8)).save(path)
    return top


@pytest.mark.slow
def test_a_recipe_on_a_folder_of_images(folder, tmp_path):
    """Standardised inside, augmented outside, decayed and stopped by samples held out."""
    recipe = "areb:epochs=6,standardize=true,learning_rate=0.01"
    path = tmp_path / "model.keras"
    arguments = ("--dataset", folder, "--recipe", recipe, "--balanced", "--samples", 200)
    result = run(train, *arguments, "--output", path)
    assert result.exit_code == 0, result.output
    # 20 of the 200 are held out: six steps of 32.
    assert "6/6" in result.output and "val_loss" in result.output
    assert "needs kerasrobust" not in result.output
    kinds = [type(layer).__name__ for layer in kerasrobust.models.load(path).layers]
    assert kinds[1] == "LayerNormalization" and not any("Random" in kind for kind in kinds)
    assert float(re.search(r"Test accuracy ([\d.]+) %", result.stdout)[1]) > 85
    report = tmp_path / "report"
    arguments = ("--model", path, "--dataset", folder, "--balanced", "--samples", 20)
    result = run(evaluate, *arguments, "--attacks", "fgsm:eps=0.2", "--output", report)
    assert result.exit_code == 0, result.output
    report = kerasrobust.evaluation.Report.load(report)
    assert report.attacks["fgsm"].accuracy < report.clean_accuracy


def test_recipes_are_listed():
    result = run(train, "--list-recipes")
    assert result.exit_code == 0
    for name in ("areb_cifar10", "batch_size=32", "RandomShear", "steps=30000"):
        assert name in result.stdout


def test_bounds_of_the_data_are_saved_with_a_defended_model(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.integers(0, 256, (32, 6, 6), dtype=np.uint8) for s in ("train", "test")}
    np.savez(tmp_path / "bytes.npz", **arrays, y_train=np.arange(32) % 2, y_test=np.arange(32) % 2)
    path = tmp_path / "model.keras"
    arguments = ("--dataset", tmp_path / "bytes.npz", "--output", path, "--epochs", 1)
    arguments += ("--clip-min", 0, "--clip-max", 255, "--robust-attack", "fgsm:eps=8")
    result = run(train, *arguments, "--defense", "gda:sigma=5,N=2")
    assert result.exit_code == 0, result.output
    assert tuple(kerasrobust.models.load(path).clip_values) == (0, 255)


def test_layers_by_name(data, model, tmp_path):
    """In front of the model, at its bounds, in the order given, with a way through."""
    arguments = ("--model", model, "--dataset", data, "--samples", 30, "--attacks", "fgsm:eps=0.3")
    arguments += ("--quiet", "--defense", "feature_squeezing:bit_depth=1", "--defense", "jpeg")
    accuracy = {}
    for gradient in ("exact", "straight_through"):
        output = tmp_path / gradient
        result = run(evaluate, *arguments, "--gradient", gradient, "--output", output)
        assert result.exit_code == 0, result.output
        report = kerasrobust.evaluation.Report.load(output)
        accuracy[gradient] = report.robust_accuracy
    assert accuracy["straight_through"] < accuracy["exact"]
    for more, message in (
        (("--defense", "gda"), "--defense gda is no layer"),
        (("--mean", 0.5), "cannot come after --mean"),
        (("--defense", "jpeg:quality=101"), "`quality` must be an integer <= 100"),
    ):
        result = run(evaluate, *arguments, *more)
        assert result.exit_code and message in result.output, result.output


@keras.saving.register_keras_serializable("test")
class Coarse(keras.layers.Layer):
    """Five levels, without a gradient, and with noise; offers a way through."""

    gradients = ("straight_through",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(2)

    def call(self, x):
        noise = keras.random.uniform(keras.ops.shape(x), -0.1, 0.1, seed=self.generator)
        return substitute(x, lambda x: 0.0 * x + keras.ops.round(4 * (x + noise)) / 4)


def test_gradient_eot_votes_and_metrics_reach_the_evaluation(data, model, tmp_path):
    network = kerasrobust.models.load(model)
    inputs = keras.Input(network.input_shape[1:])
    coarse = keras.Model(inputs, network(Coarse()(inputs)))
    coarse.save(tmp_path / "coarse.keras")
    arguments = ("--model", tmp_path / "coarse.keras", "--dataset", data, "--samples", 30)
    arguments += ("--attacks", "pgd:eps=0.3,max_iter=5", "--quiet")
    blind = run(evaluate, *arguments, "--output", tmp_path / "blind")
    assert blind.exit_code == 0, blind.output
    assert "--gradient straight_through" in blind.stdout.replace("\n", " ")
    options = (
        "--gradient",
        "straight_through",
        "--eot",
        3,
        "--votes",
        5,
        "--metrics",
        "own_figure",
    )
    script = tmp_path / "figure.py"
    script.write_text(
        "import kerasrobust\n"
        "@kerasrobust.register\n"
        "class Own(kerasrobust.metrics.Metric):\n"
        "    key = header = 'own_figure'\n"
        "    def compute(self, outcome):\n"
        "        return 1.25\n"
    )
    through = run(
        evaluate, *arguments, *options, "--import", script, "--output", tmp_path / "through"
    )
    assert through.exit_code == 0, through.output
    assert "own_figure" in through.stdout and "1.250" in through.stdout
    reports = [kerasrobust.evaluation.Report.load(tmp_path / name) for name in ("blind", "through")]
    settings = reports[1].settings["classifier"]
    assert (settings["gradient"], settings["draws"], settings["votes"]) == (
        "straight_through",
        3,
        5,
    )
    assert reports[1].attacks["pgd"].gradients == 3 * reports[0].attacks["pgd"].gradients
    assert reports[1].robust_accuracy < reports[0].robust_accuracy
    codes = [[finding.code for finding in report.findings] for report in reports]
    assert {"zero_gradients", "randomised"} <= set(codes[0])
    assert not {"zero_gradients", "randomised"} & set(codes[1])


USAGE = [
    (evaluate, ["--gradient", "ignore"], "--gradient needs --model"),
    (evaluate, ["--gradient", "bpda"], "'bpda' is not one of"),
    (evaluate, ["--eot", "0"], "0 is not in the range x>=1"),
    (evaluate, ["--votes", "no"], "'no' is not a valid integer"),
    (evaluate, ["--eps", "-1"], "'-1' is not above zero"),
    (evaluate, ["--eps", "8/0"], "not a number such as 0.1 or 8/255"),
    (evaluate, ["--eps", "nan"], "not a number"),
    (evaluate, ["--norm", "3", "--eps", "1"], "'3' is not one of 1, 2, inf"),
    (evaluate, ["--norm", "2"], "--norm needs --eps"),
    (evaluate, ["--samples", "0"], "0 is not in the range x>=1"),
    (evaluate, ["--output", "{file}"], "is a file, not a folder"),
    (evaluate, ["--output", "{file}/report"], "cannot be written"),
    (evaluate, ["--atacks", "pgd"], "--attacks"),
    (evaluate, ["--import", "{folder}/none.py"], "Invalid value for '--import': there is no file"),
    (train, ["--list-defenses", "--import", "no/mine.py"], "there is no file 'no/mine.py'"),
    (train, [], "Missing option '--output'"),
    (train, ["--output", "{folder}/model.h5"], "does not end in .keras"),
    (train, ["--output", "{folder}/nowhere/model.keras"], "the folder of"),
    (train, ["--output", "{folder}/m.keras", "--learning-rate", "0"], "not above zero"),
    (train, ["--output", "{folder}/m.keras", "--keep-best"], "--keep-best needs --robust-attack"),
    (train, ["--output", "{folder}/m.keras", "--checkpoint", "{file}"], "is a file, not a folder"),
    (train, ["--output", "{folder}/m.keras", "--log-dir", "{file}/logs"], "cannot be written"),
]

ERRORS = [
    (evaluate, ["--metrics", "ssmi"], "Did you mean 'ssim'"),
    (evaluate, ["--attacks", "pgdd"], "Did you mean 'pgd'"),
    (evaluate, ["--attacks", "pgd:eps=-1"], "eps=-1"),
    (evaluate, ["--attacks", "pgd:epss=1"], "epss"),
    (evaluate, ["--dataset", "digit"], "Did you mean 'digits'"),
    (evaluate, ["--samples", "361"], "360 samples"),
    (evaluate, ["--model", "{file}"], "Expected a Keras model file"),
    (evaluate, ["--model", "{folder}/none.keras"], "Expected a Keras model file"),
    (evaluate, ["--clip-min", "1", "--clip-max", "0"], "clip_values=(1.0, 0.0)"),
    (evaluate, ["--dataset", "{folder}/none.npz"], "Expected a .npz file"),
    (evaluate, ["--dataset", "{folder}/none"], "Expected a folder of images"),
    (evaluate, ["--dataset", "{folder}"], "at least two classes"),
    (evaluate, ["--balanced", "--samples", "33"], "30 or 40 say"),
    (train, ["--output", "{folder}/m.keras", "--dataset", "{folder}"], "Expected a folder 'train'"),
    (train, ["--output", "{folder}/m.keras", "--balanced", "--samples", "9"], "10 say"),
    (train, ["--output", "{folder}/m.keras", "--recipe", "arebb"], "Did you mean 'areb'"),
    (train, ["--output", "{folder}/m.keras", "--recipe", "areb:epoch=3"], "epoch=3"),
    (evaluate, ["--import", "{file}"], "ImportError: a script must be a file that ends in .py"),
    (evaluate, ["--import", "kerasrobust_none"], "--import kerasrobust_none: ModuleNotFoundError"),
    (
        evaluate,
        ["--import", "{script}"],
        "script.py, line 3: ZeroDivisionError: float division by zero",
    ),
    (train, ["--list-defenses", "--import", "{script}"], "script.py, line 3: ZeroDivisionError"),
    (train, ["--output", "{folder}/m.keras", "--model", "areb_cn"], "Did you mean 'areb_cnn'"),
    (train, ["--output", "{folder}/m.keras", "--model", "areb_cnn"], "at least 10x10"),
    (train, ["--output", "{folder}/m.keras", "--defense", "gdaa"], "Did you mean 'gda'"),
    (train, ["--output", "{folder}/m.keras", "--defense", "gda:sigma=-1"], "sigma=-1"),
    (train, ["--output", "{folder}/m.keras", "--robust-attack", "pgdd"], "Did you mean 'pgd'"),
    (train, ["--output", "{folder}/m.keras", "--validation-samples", "1437"], "samples=1437"),
]


def check_failure(command, arguments, message, tmp_path):
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "script.py").write_text("import math\n\nmath.pi / 0\n")
    files = {"file": tmp_path / "file.txt", "script": tmp_path / "script.py"}
    arguments = [a.format(**files, folder=tmp_path) for a in arguments]
    result = run(command, *arguments)
    assert result.exit_code == 2, result.output
    # The error alone is the last line; a traceback would have come as an exception.
    assert isinstance(result.exception, SystemExit)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and message in last


def test_typing_errors_come_before_large_data(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise AssertionError("the error must come before the data are read")

    monkeypatch.setattr(kerasrobust.datasets, "load", fail)
    for arguments, message in (
        (["--defense", "gdaa"], "Did you mean"),
        (["--robust-attack", "pgdd"], "Did you mean"),
        (["--recipe", "augment=[RandomFlop]"], "Did you mean"),
        (["--defense", "trades", "--defense", "mart"], "cannot be combined"),
    ):
        arguments = ["--output", "{folder}/m.keras", *arguments]
        check_failure(train, arguments, message, tmp_path)


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the error must come before any training")

    monkeypatch.setattr(kerasrobust.models, "train_default", fail)
    monkeypatch.setattr(kerasrobust.models, "fit", fail)


@pytest.mark.parametrize(("command", "arguments", "message"), USAGE)
def test_usage_errors_come_before_the_library(command, arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(kerasrobust.datasets, "load", None)
    check_failure(command, arguments, message, tmp_path)


def test_a_recipe_that_looks_at_an_attack_needs_one(tmp_path):
    arguments = ["--output", "{folder}/m.keras", "--recipe", "monitor=val_robust_accuracy"]
    check_failure(train, arguments, "needs --robust-attack", tmp_path)


@pytest.mark.parametrize(("command", "arguments", "message"), ERRORS)
def test_library_errors_are_one_line(command, arguments, message, tmp_path, no_training):
    check_failure(command, arguments, message, tmp_path)


def test_only_the_result_is_printed(data, model):
    """In a process of its own, where TensorFlow is imported: none of its chatter."""
    command = [sys.executable, "-c", "from kerasrobust_cli.evaluate import main; main()"]
    arguments = ["--model", model, "--dataset", data, "--samples", 8, "--attacks", "fgsm"]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [str(part) for part in [*command, *arguments, "--eps", "0.1"]],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert "halves, 8 samples" in result.stdout
    told = result.stderr.splitlines()
    assert not [line for line in told if re.match("[IWEF]0000|WARNING: All log", line)]


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    path = tmp_path / "diverged.keras"
    arguments = ("--dataset", data, "--output", path, "--epochs", 1, "--quiet")
    result = run(train, *arguments, "--learning-rate", "3e38")
    assert result.exit_code == 2
    assert "Training has diverged" in result.stderr and "--learning-rate" in result.stderr
    assert not path.exists()


@pytest.mark.parametrize("command, ending", [(evaluate, ""), (train, ".keras")])
def test_a_name_that_is_too_long(command, ending, tmp_path):
    result = run(command, "--output", tmp_path / ("n" * 320 + ending))
    assert result.exit_code == 2
    assert "File name too long" in result.stderr


def test_a_model_that_was_cut_short(data, model, tmp_path):
    path = tmp_path / "cut.keras"
    path.write_bytes(model.read_bytes()[:900])
    result = run(evaluate, "--model", path, "--dataset", data)
    assert result.exit_code == 2
    assert "damaged or cut short" in result.stderr and "cut.keras" in result.stderr


def test_a_smoothed_model_has_a_verdict_from_both_sides(data, model, tmp_path):
    smoothed = "randomized_smoothing:sigma=0.1,n=200,votes=10,draws=2"
    kerasrobust.wrap(kerasrobust.models.load(model), smoothed).save(tmp_path / "smoothed.keras")
    options = ("--model", tmp_path / "smoothed.keras", "--dataset", data, "--samples", 10)
    result = run(evaluate, *options, "--attacks", "pgd:norm=2,eps=0.5,max_iter=2")
    assert result.exit_code == 0, result.output
    for part in ("cert.%", "Two-sided verdict", "robust % (at most)"):
        assert part in result.output
    result = run(train, "--dataset", data, "--defense", smoothed, "--output", tmp_path / "m.keras")
    assert result.exit_code == 2
    assert "--defense randomized_smoothing answers in the place of a finished" in result.stderr
