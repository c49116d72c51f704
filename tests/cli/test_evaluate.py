"""What `kr-eval` is asked for reaches `evaluate`, and what it finds reaches files and status."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import kerasrobust
from kerasrobust.evaluation.renderers import files
from kerasrobust_cli import evaluate


def run(*arguments):
    return CliRunner().invoke(evaluate.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A linear model of three classes, and 80 samples that it gets right but for one in eight."""
    folder = tmp_path_factory.mktemp("linear")
    weights = np.random.default_rng(0).normal(size=(16, 3))
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)], name="linear"
    )
    model.set_weights([weights, -0.5 * weights.sum(axis=0)])
    model.save(folder / "model.keras")
    x = np.random.default_rng(1).uniform(0.3, 0.7, (80, 4, 4, 1)).astype(np.float32)
    y = ((x.reshape(80, 16) - 0.5) @ weights).argmax(axis=1)
    y[::8] = (y[::8] + 1) % 3
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


def arguments(folder):
    return ("--model", folder / "model.keras", "--dataset", folder / "data.npz")


def test_budgets_chosen_samples_and_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "draw", lambda report: {})
    junit = tmp_path / "claims.xml"
    result = run(
        *(*arguments(folder), "--samples", 80, "--attacks", "fgsm", "--eps", "1/255,8/255"),
        *("--targeted", "--only-correct", "--format", "json", "--save-adversarial"),
        *("--output", tmp_path / "out", "--fail-under", 0.9, "--junit", junit, "--seed", 5),
    )
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    report = kerasrobust.evaluation.Report.load(tmp_path / "out")
    assert found == report.to_dict()
    assert list(report.attacks) == ["fgsm@0.003922", "fgsm@0.03137"]
    settings = report.settings
    assert settings["budgets"] == [1 / 255, 8 / 255] and settings["targets"] == "random"
    assert settings["only_correct"] == {"of": 80, "accuracy": 7 / 8}
    assert f"Robust accuracy is {100 * report.robust_accuracy:.1f} %, below 90 %" in result.stderr
    suites = ElementTree.parse(junit).getroot()
    assert suites.get("failures") == "1" and suites.find(".//failure") is not None
    path = tmp_path / "out" / "adversarial" / "fgsm-0.03137.npz"
    saved, places = kerasrobust.datasets.load(path), np.load(path)["indices"]
    given = kerasrobust.datasets.load(folder / "data.npz")
    np.testing.assert_array_equal(places, np.flatnonzero(np.arange(80) % 8))
    assert 0 < np.abs(saved.x - given.x[places]).max() <= 8 / 255 + 1e-6
    np.testing.assert_array_equal(saved.y, given.y[places])
    network = kerasrobust.models.load(folder / "model.keras")
    right = network.predict(saved.x, verbose=0).argmax(axis=1) == saved.y
    assert right.mean() < 1
    assert right.mean() == pytest.approx(report.attacks["fgsm@0.03137"].accuracy)


def test_draws_targets_and_queries_in_other_formats(folder):
    options = ("--samples", 10, "--attacks", "square:eps=0.05", "--targets", "all", "--quiet")
    options += ("--max-queries", 6, "--repeats", 3)
    result = run(*arguments(folder), *options, "--format", "markdown")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("# Robustness report") and result.stderr == ""
    for told in ("the mean of 3 draws", "targets: all", "max_queries: 6", '"max_queries": 6'):
        assert told in result.stdout
    (queries,) = re.findall(r"^\| square \|.*?([\d.]+) \| 0.0 \|", result.stdout, re.MULTILINE)[:1]
    assert float(queries) <= 2 * 6  # towards two classes
    page = run(*arguments(folder), "--samples", 4, "--attacks", "fgsm:eps=0.1", "--format", "html")
    assert page.stdout.lower().startswith("<!doctype html>")


def test_an_interrupted_command_says_how_to_go_on(folder, tmp_path, monkeypatch):
    report = kerasrobust.evaluate(
        kerasrobust.models.load(folder / "model.keras"),
        *(kerasrobust.datasets.load(folder / "data.npz").x[:8],),
        attacks="fgsm:eps=0.1",
    )

    def stopped(*arguments, **options):
        raise kerasrobust.evaluation.EvaluationInterrupted(found)

    monkeypatch.setattr(kerasrobust, "evaluate", stopped)
    for found, more, told in (
        (report, (), "the report is of what was finished. Nothing is kept without --output"),
        (None, ("--output", tmp_path / "out"), "no batch was finished. The same command goes on"),
    ):
        result = run(*arguments(folder), *more, "--samples", 8, "--fail-under", 0.5)
        assert result.exit_code == 130 and told in result.stderr
        assert ("fgsm" in result.stdout) == (found is not None)


def test_every_option_has_a_place_in_the_help():
    names = {param.name for param in evaluate.main.params}
    listed = [name for section in evaluate.main.sections.values() for name in section]
    assert len(listed) == len(set(listed)) and set(listed) <= names
    shown = run("--help").stdout
    for param in evaluate.main.params:
        assert len(re.findall(rf"^  {param.opts[0]}\b", shown, re.MULTILINE)) == 1, param.name
    assert max(map(len, shown.splitlines())) <= 80
    code = (
        "import sys\nfrom kerasrobust_cli.evaluate import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--eps", "0.1,-1"], "'-1' is not above zero"),
        (["--eps", "0.2,0.1"], "`eps` must rise"),
        (["--norm", "2"], "--norm needs --eps"),
        (["--targets", "worst"], "'worst' is not one of"),
        (["--targeted", "--attacks", "autoattack", "--eps", "0.1"], "leaves the true class"),
        (["--max-queries", "9", "--attacks", "pgd"], "attacks that query a model"),
        (["--repeats", "1"], "1 is not in the range x>=2"),
        (["--repeats", "2", "--balanced"], "cannot be --balanced"),
        (["--repeats", "2", "--samples", "361"], "has 360 of them to draw from"),
        (["--save-adversarial"], "--save-adversarial needs --output"),
        (["--junit", "claims.xml"], "--junit needs --fail-under"),
        (["--junit", "no/claims.xml", "--fail-under", "0.5"], "the folder of"),
        (["--format", "pdf"], "'pdf' is not one of"),
    ],
)
def test_bad_combinations_are_one_line(options, message, monkeypatch):
    def fail(*arguments, **named):
        raise AssertionError("the error must come before any training")

    monkeypatch.setattr(kerasrobust.models, "train_default", fail)
    result = run(*options)
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and message in last


def slow_search(folder, output, workers):
    """A command that takes ten batches some seconds each."""
    # As in a terminal, whatever has started the tests: a shell ignores it for what is in the back.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from kerasrobust_cli.evaluate import main; main()"
    options = [*arguments(folder), "--samples", 80, "--batch-size", 8, "--attacks", "fgsm:eps=0.05"]
    options += ["--attacks", "cwl2:max_iter=600,abort_early=false"]
    options += ["--workers", workers, "--output", output]
    return [sys.executable, "-c", code, *map(str, options)]


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    subprocess.run(slow_search(folder, output, 1), check=True, capture_output=True)
    return kerasrobust.evaluation.Report.load(output)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_a_report_and_the_same_command_goes_on(
    folder, tmp_path, undisturbed, workers
):
    """SIGINT, as a terminal sends it, with a batch under way, whatever is being done then."""
    if workers > 1:
        pytest.importorskip("ray")
    command = slow_search(folder, tmp_path, workers)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + 200
    while len(list((tmp_path / "results").glob("cwl2-*.npz"))) < 2:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # all processes in the foreground
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Interrupted: the report is of what was finished. The same command goes on" in error
    assert "Traceback" not in error and "cwl2" in out
    partial = kerasrobust.evaluation.Report.load(tmp_path)
    n = partial.settings["samples"]
    assert partial.settings["partial"] == {"samples": n, "of": 80, "missing": []}
    # A batch is stored before it is judged once more and measured.
    assert 8 <= n < 80 and n % 8 == 0
    stored = {path.name for path in (tmp_path / "results").glob("cwl2-*.npz")}
    subprocess.run(command, check=True, capture_output=True)
    again = kerasrobust.evaluation.Report.load(tmp_path)
    assert again.settings == undisturbed.settings and again.settings["partial"] is None
    for name, row in undisturbed.attacks.items():
        assert row.figures.keys() == again.attacks[name].figures.keys()
        for key, value in row.figures.items():
            assert key == "seconds" or again.attacks[name].figures[key] == value, key
        assert partial.attacks[name].outcomes == row.outcomes[:n]
    assert stored < {path.name for path in (tmp_path / "results").glob("cwl2-*.npz")}
