"""The commands, run in this process as click runs them."""

import numpy as np
import pytest
from click.testing import CliRunner

import kerasrobust
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
    assert cells == expected and len(cells) == 24
    assert all(name in result.stdout for name in kerasrobust.evaluation.presets.names())


USAGE = [
    (evaluate, ["--eps", "-1"], "'-1' is not above zero"),
    (evaluate, ["--eps", "8/0"], "not a number such as 0.1 or 8/255"),
    (evaluate, ["--eps", "nan"], "not a number"),
    (evaluate, ["--norm", "3", "--eps", "1"], "'3' is not one of 1, 2, inf"),
    (evaluate, ["--norm", "2"], "--norm needs --eps"),
    (evaluate, ["--clip-min", "0"], "--clip-min and --clip-max go together"),
    (evaluate, ["--samples", "0"], "0 is not in the range x>=1"),
    (evaluate, ["--output", "{file}"], "is a file, not a folder"),
    (evaluate, ["--output", "{file}/report"], "cannot be written"),
    (evaluate, ["--atacks", "pgd"], "--attacks"),
    (train, [], "Missing option '--output'"),
    (train, ["--output", "{folder}/model.h5"], "does not end in .keras"),
    (train, ["--output", "{folder}/nowhere/model.keras"], "the folder of"),
    (train, ["--output", "{folder}/m.keras", "--learning-rate", "0"], "not above zero"),
]

ERRORS = [
    (evaluate, ["--attacks", "pgdd"], "Did you mean 'pgd'"),
    (evaluate, ["--attacks", "pgd:eps=-1"], "eps=-1"),
    (evaluate, ["--attacks", "pgd:epss=1"], "epss"),
    (evaluate, ["--dataset", "digit"], "Did you mean 'digits'"),
    (evaluate, ["--samples", "361"], "360 samples"),
    (evaluate, ["--model", "{file}"], "Expected a Keras model file"),
    (evaluate, ["--model", "{folder}/none.keras"], "Expected a Keras model file"),
    (evaluate, ["--clip-min", "1", "--clip-max", "0"], "clip_values=(1.0, 0.0)"),
    (evaluate, ["--dataset", "{folder}/none.npz"], "Expected a .npz file"),
    (train, ["--output", "{folder}/m.keras", "--model", "areb_cn"], "Did you mean 'areb_cnn'"),
    (train, ["--output", "{folder}/m.keras", "--model", "areb_cnn"], "at least 10x10"),
    (train, ["--output", "{folder}/m.keras", "--defense", "gdaa"], "Did you mean 'gda'"),
    (train, ["--output", "{folder}/m.keras", "--defense", "gda:sigma=-1"], "sigma=-1"),
]


def check_failure(command, arguments, message, tmp_path, code):
    (tmp_path / "file.txt").write_text("text")
    arguments = [a.format(file=tmp_path / "file.txt", folder=tmp_path) for a in arguments]
    result = run(command, *arguments)
    assert result.exit_code == code, result.output
    # The error alone is the last line; a traceback would have come as an exception.
    assert isinstance(result.exception, SystemExit)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and message in last


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the error must come before any training")

    monkeypatch.setattr(kerasrobust.models, "train_default", fail)
    monkeypatch.setattr(kerasrobust.models, "fit", fail)


@pytest.mark.parametrize(("command", "arguments", "message"), USAGE)
def test_usage_errors_come_before_the_library(command, arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(kerasrobust.datasets, "load", None)
    check_failure(command, arguments, message, tmp_path, 2)


@pytest.mark.parametrize(("command", "arguments", "message"), ERRORS)
def test_library_errors_are_one_line(command, arguments, message, tmp_path, no_training):
    check_failure(command, arguments, message, tmp_path, 1)
