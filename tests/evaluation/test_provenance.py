"""Where a report comes from, and what is left of it without."""

import datetime
import os
import platform

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import kerasrobust
from kerasrobust.evaluation import Report, provenance
from kerasrobust.evaluation.report import schema, timeless
from kerasrobust_cli import evaluate as command


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([7], "7"),
        (range(360), "0-359"),
        ([0, 1, 2, 5, 8, 9], "0-2,5,8-9"),
    ],
)
def test_places_as_text(numbers, text):
    assert provenance.spans(numbers) == text
    np.testing.assert_array_equal(provenance.from_spans(text), np.asarray(list(numbers), int))


def test_a_call_as_text():
    defaults = {"attacks": "areb", "eps": None, "norm": None, "seed": 0, "output": None}
    given = {
        "attacks": ["fgsm:eps=0.1", object()],
        "eps": 8 / 255,
        "norm": None,
        "seed": 0,
        "output": os.path.join("a", "b"),
    }
    text = provenance.call(["model", "x"], given, defaults)
    told = f"attacks=['fgsm:eps=0.1', ...], eps={8 / 255!r}, output={given['output']!r}"
    assert text == f"kerasrobust.evaluate(model, x, {told})"
    assert provenance.call(["model"], defaults, defaults) == "kerasrobust.evaluate(model)"


def test_the_machine():
    found = provenance.machine()
    assert found["python"] == platform.python_version() and found["os"] == platform.platform()
    assert found["cores"] >= 1 and found["cpu"] and found["accelerators"] == []
    assert found["memory_gib"] is None or found["memory_gib"] > 0


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a", "b"], ValueError, "each of the 3 classes. Received: class_names with 2"),
        ([1, 2, 3], TypeError, "names of classes"),
        ("abc", TypeError, "names of classes"),
    ],
)
def test_bad_class_names(names, error, message):
    with pytest.raises(error, match=message):
        provenance.class_names(names, 3)


@pytest.fixture(scope="module")
def data():
    return kerasrobust.datasets.load("digits", samples=12, seed=3)


@pytest.fixture(scope="module")
def report(data, digits_model):
    return kerasrobust.evaluate(digits_model, data, attacks="fgsm:eps=0.1")


def test_a_data_set_brings_all_that_it_knows(report, data, digits, digits_model):
    jsonschema.validate(report.to_dict(), schema())
    settings, run = report.settings, report.run
    assert (settings["dataset"], settings["split"]) == ("digits", "test")
    assert settings["class_names"] == list("0123456789") and settings["available"] == 360
    np.testing.assert_array_equal(digits[0][provenance.from_spans(settings["indices"])], data.x)
    assert run["command"] == "kerasrobust.evaluate(model, x, attacks='fgsm:eps=0.1')"
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(run["started"])
    assert 0 <= age.total_seconds() < 600 and 0 < run["seconds"] <= age.total_seconds() + 1
    row = report.attacks["fgsm"]
    passes = {"queries": row.executed_queries, "gradients": row.executed_gradients}
    assert report.cost == {**passes, "seconds": row.seconds}
    for options in ({"y": data.y}, {"clip_values": (0, 255)}):
        with pytest.raises(ValueError, match="Dataset"):
            kerasrobust.evaluate(digits_model, data, attacks="fgsm:eps=0.1", **options)


def test_without_times_a_report_is_what_it_was(report, data, digits_model):
    other = kerasrobust.evaluate(digits_model, data, attacks="fgsm:eps=0.1", command="other")
    assert other.to_dict() != report.to_dict() and other.run["command"] == "other"
    assert timeless(other.to_dict()) == timeless(report.to_dict())
    left, whole = timeless(report.to_dict()), report.to_dict()
    assert {*whole} - {*left} == {"run"}
    assert {*whole["attacks"]["fgsm"]} - {*left["attacks"]["fgsm"]} == {"seconds"}
    assert {*whole["cost"]} - {*left["cost"]} == {"seconds"}
    assert "seconds" in whole["cost"]  # what was given is left alone


def test_the_command_tells_how_it_was_called(digits_model, tmp_path):
    model, folder = tmp_path / "a model.keras", tmp_path / "report"
    digits_model.save(model)
    options = ["--samples", "10", "--attacks", "fgsm:eps=0.1", "--output", str(folder), "--quiet"]
    run = CliRunner().invoke(command.main, ["--model", str(model), *options])
    assert run.exit_code == 0, run.output
    report = Report.load(folder)
    assert report.settings["file"] == str(model) and report.settings["split"] == "test"
    told = report.run["command"]
    assert told.startswith(f"kr-eval --model '{model}' --samples 10 --attacks fgsm:eps=0.1")
    steps = [step.command for step in report.next_steps]
    more = f"kr-eval --model '{model}' --attacks fgsm:eps=0.1 --samples 360"
    assert more not in told and more in steps  # all that there are
    assert f"kr-eval --model '{model}' --samples 10 --attacks minimal" in steps
