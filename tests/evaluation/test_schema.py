"""The schema that is shipped describes the reports that are written."""

import json

import jsonschema
import keras
import pytest

import kerasrobust
from kerasrobust.evaluation import report as module


@pytest.fixture(scope="module")
def validator():
    schema = module.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == module.SCHEMA
    return jsonschema.Draft202012Validator(schema)


def untrained():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"attacks": ["fgsm:eps=0.1", "deepfool:max_iter=2"]},
        {"attacks": ["square:max_iter=3"], "eps": 0.2, "norm": 2, "dataset": "digits"},
        {"attacks": ["pgd:eps=0.001,max_iter=2"], "cross_check": True},
    ],
)
def test_reports_follow_it(validator, digits, digits_model, options, tmp_path):
    x, y = (part[:10] for part in digits)
    folder = kerasrobust.evaluate(digits_model, x, y, **options).save(tmp_path)
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    validator.validate(found)
    assert found["settings"]["parameters"] == digits_model.count_params()


def test_a_report_without_labels_and_with_findings_follows_it(validator, digits):
    x = digits[0][:24]
    model, other = untrained(), untrained()
    found, again = (kerasrobust.evaluate(m, x, attacks=["fgsm:eps=0.1"]) for m in (model, other))
    assert found.findings
    validator.validate(found.to_dict())
    assert found.settings["weights"] == again.settings["weights"]  # the same seed
    other.layers[-1].bias.assign_add([1e-6] * 10)
    changed = kerasrobust.evaluate(other, x, attacks=["fgsm:eps=0.1"])
    assert changed.settings["weights"] != found.settings["weights"]


@pytest.mark.parametrize("path", [("robust", "accuracy"), ("findings",), ("settings", "data")])
def test_what_is_missing_is_seen(validator, digits, digits_model, path):
    x, y = (part[:4] for part in digits)
    found = kerasrobust.evaluate(digits_model, x, y, attacks=["fgsm:eps=0.1"]).to_dict()
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(jsonschema.ValidationError, match=f"'{path[-1]}' is a required"):
        validator.validate(found)
