"""The pictures that a report has on request."""

import base64
import json
import types

import keras
import numpy as np
import pytest

import kerasrobust
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import Report, illustrations, resolve
from kerasrobust.evaluation.renderers.curves import security_curves

NAMES = ("decision_space", "loss_against_eps", "security_curves")
ATTACKS = ["fgsm:eps=0.05", "fgsm:eps=0.1", "deepfool:max_iter=5"]


@pytest.fixture(scope="module")
def report(digits_model, digits):
    x, y = (part[:6] for part in digits)
    sizes = {"decision_space": (2, 5), "loss_surface": (2, 3), "loss_against_eps": (6, 5)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(illustrations, "SIZES", sizes)
        return kerasrobust.evaluate(digits_model, x, y, attacks=ATTACKS, pictures=NAMES)


def test_they_are_files_and_part_of_the_page(report, tmp_path):
    folder = report.save(tmp_path)
    page, text = ((folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    for name in NAMES:
        png = (folder / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG") and f"![{name}.png]({name}.png)" in text
        assert base64.b64encode(png).decode() in page
    assert json.loads((folder / "report.json").read_text())["settings"]["pictures"] == list(NAMES)
    # Of a report that was loaded the curves can be drawn, its samples are gone.
    again = Report.load(folder).save(tmp_path / "again")
    pictures = {file.name for file in again.glob("*.png")}
    assert pictures == {"security_curves.png"}  # which has all curves of budget.png
    curves = (again / "security_curves.png").read_bytes()
    assert curves == (folder / "security_curves.png").read_bytes()


def test_they_show_samples_that_are_right_at_the_budget_of_the_first_attack(
    report, digits_model, digits
):
    x, y = (part[:6] for part in digits)
    right = np.flatnonzero(digits_model.predict(x, verbose=0).argmax(axis=1) == y)
    space, line = report.surfaces["decision_space"], report.surfaces["loss_against_eps"]
    assert space.losses.shape == (2, 5, 5) and space.y.tolist() == y[right[:2]].tolist()
    assert line.losses.shape == (len(right), 5) and line.y.tolist() == y[right].tolist()
    assert space.eps == line.eps == 0.05 and line.axes[0][-1] == pytest.approx(0.2)
    # The middle of the plane and the begin of the line are the samples as they are.
    assert (space.labels[:, 2, 2] == space.y).all() and (line.labels[:, 0] == line.y).all()
    assert not space.sizes[:, 2, 2].any()


def test_security_curves_join_the_budgets_of_an_attack(report):
    curves = security_curves(report)
    assert set(curves) == {"fgsm", "deepfool"}
    accuracy = [report.attacks[name].accuracy for name in ("fgsm", "fgsm_2")]
    assert curves["fgsm"]["eps"] == [0.0, 0.05, 0.1]
    assert curves["fgsm"]["accuracy"] == [report.clean_accuracy, *accuracy]
    assert curves["deepfool"] == report.attacks["deepfool"].budget_curve


def row(name, attack, eps, norm=2, checks=None, accuracy=0.5, **config):
    return types.SimpleNamespace(
        name=name,
        attack=attack,
        kind="budget",
        norm=norm,
        checks=checks,
        accuracy=accuracy,
        figures={},
        config={"eps": eps, "norm": norm, **config},
    )


def test_other_parameters_are_another_curve_and_cross_checks_none():
    rows = [
        row("pgd", "pgd", 0.2, max_iter=5, eps_step=None),
        row("pgd_2", "pgd", 0.1, max_iter=5, eps_step=0.02, accuracy=0.75),
        row("pgd_3", "pgd", 0.1, max_iter=9),
        row("art:pgd", "art:pgd", 0.1, checks="pgd"),
        row("each", "fgsm", [0.1, 0.2]),
    ]
    report = types.SimpleNamespace(attacks={one.name: one for one in rows}, clean={"accuracy": 0.9})
    assert security_curves(report) == {
        "pgd": {"norm": 2, "eps": [0.0, 0.1, 0.2], "accuracy": [0.9, 0.75, 0.5]},
        "pgd_3": {"norm": 2, "eps": [0.1], "accuracy": [0.5]},
    }


def test_the_budget_that_pictures_are_scaled_by(digits_model):
    classifier = Classifier.of(digits_model)
    for attacks, options, expected in (
        (["pgd:eps=0.2", "fgsm:eps=0.1"], {}, (0.2, np.inf)),
        (["deepfool", "fgsm:eps=0.5,norm=2"], {}, (0.5, 2.0)),
        (["deepfool"], {"eps": 1.5, "norm": 2}, (1.5, 2.0)),
        (["deepfool"], {}, (0.3, np.inf)),
        (["fgsm"], {}, (kerasrobust.attacks.get("fgsm").bind(classifier).eps, np.inf)),
    ):
        assert illustrations.budget(resolve(attacks, **options), classifier) == expected


def test_bad_names_and_models(digits_model, digits):
    x, y = (part[:4] for part in digits)
    options = {"attacks": "fgsm:eps=0.1"}
    with pytest.raises(ValueError, match="Did you mean 'loss_surface'.*pictures='loss_surfaces'"):
        kerasrobust.evaluate(digits_model, x, y, pictures="loss_surfaces", **options)
    service = Classifier(lambda batch: digits_model(batch).numpy(), nb_classes=10)
    for name in illustrations.SIZES:
        with pytest.raises(TypeError, match=f"'{name}' needs gradients"):
            illustrations.check([name], service)
    assert illustrations.check(("security_curves",) * 2, service) == ("security_curves",)


def test_a_model_without_gradients_of_use_has_no_such_picture():
    class Step(keras.layers.Layer):
        def call(self, x):
            return keras.ops.round(x)

    x, y = np.full((3, 4), 0.3, np.float32), np.zeros(3, int)
    flat = keras.layers.Dense(2, kernel_initializer="zeros")
    for layer, reason in ((flat, "'fgsm' leaves all 3 samples"), (Step(), "no gradient path")):
        model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
        with pytest.warns(UserWarning, match=f"No picture 'loss_surface': .*{reason}"):
            found = illustrations.compute(["loss_surface"], Classifier(model), x, y, 0.1, np.inf)
        assert not found
