"""`evaluate` on a linear model, where the robust accuracy is known in closed form."""

import dataclasses
import json
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.attacks import ATTACKS, FastGradientMethod, ProjectedGradientDescent, get
from kerasrobust.engine import batches
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import Report, evaluate, pieces, presets

# The package's attribute of this name is the function.

SHAPE = (4, 4, 1)
WEIGHTS = np.random.default_rng(0).normal(size=16).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """Two classes; class 1 where `w (x - 1/2) > 0`."""
    inputs = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(inputs)
    outputs = keras.layers.Dense(2, activation="softmax")(flat)
    model = keras.Model(inputs, outputs, name="linear")
    kernel = np.stack([-WEIGHTS / 2, WEIGHTS / 2], axis=1)
    model.layers[-1].set_weights([kernel, np.array([1, -1], np.float32) * WEIGHTS.sum() / 4])
    return model


@pytest.fixture(scope="module")
def data():
    """Samples far from the box, one in ten with the wrong label."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0.45, 0.55, (60, *SHAPE)).astype(np.float32)
    margin = (x - 0.5).reshape(60, -1) @ WEIGHTS
    y = (margin > 0).astype(np.int64)
    y[::10] = 1 - y[::10]
    return x, y, np.abs(margin)


def right(data):
    return np.arange(len(data[1])) % 10 != 0


def test_linf_accuracy_is_the_closed_form(model, data):
    x, y, margin = data
    report = evaluate(model, x, y, attacks=["fgsm:eps=0.01", "pgd:eps=0.02,eps_step=0.005"])
    assert report.clean_accuracy == pytest.approx(0.9)
    for name, eps in (("fgsm", 0.01), ("pgd", 0.02)):
        holds = right(data) & (margin > eps * np.abs(WEIGHTS).sum())
        assert report.attacks[name].accuracy == pytest.approx(holds.mean())
        assert report.attacks[name].success_rate == pytest.approx(1 - holds.sum() / 54)
        assert report.attacks[name].initially_adversarial == 6
    assert report.robust_accuracy == report.attacks["pgd"].accuracy
    assert 0 < report.robust_accuracy < report.attacks["fgsm"].accuracy < 0.9


def test_worst_case_is_per_sample_and_not_the_lowest_accuracy(model, data):
    x, y, _ = data
    half = np.arange(len(x)) % 2
    strong, none = np.full(len(x), 0.05), np.zeros(len(x))
    first = FastGradientMethod(eps=np.where(half, strong, none))
    second = FastGradientMethod(eps=np.where(half, none, strong))
    report = evaluate(model, x, y, attacks=[first, second])
    assert list(report.attacks) == ["fgsm", "fgsm_2"]
    assert report.attacks["fgsm"].accuracy > 0.3 and report.attacks["fgsm_2"].accuracy > 0.3
    assert report.robust_accuracy == 0.0
    assert report.samples.survived.sum() == 0


def test_eps_and_norm_bind_every_attack(model, data):
    x, y, margin = data
    eps = 0.05
    report = evaluate(
        model, x, y, attacks=["fgsm", "pgd", "fgsm:eps=0.3,norm=inf"], eps=eps, norm=2
    )
    holds = right(data) & (margin > eps * np.linalg.norm(WEIGHTS))
    assert 0 < holds.mean() < 0.9
    assert report.attacks["fgsm"].accuracy == pytest.approx(holds.mean())
    assert report.attacks["pgd"].accuracy == pytest.approx(holds.mean())
    config = report.attacks["pgd"].config
    assert (config["eps"], config["norm"]) == (eps, 2.0)
    assert config["eps_step"] is None  # made from the budget, whatever it is
    # What an attack was given stays, but what it finds beyond the budget does not count.
    assert report.attacks["fgsm_2"].config["eps"] == 0.3
    assert report.attacks["fgsm_2"].successes == 0
    assert report.attacks["fgsm_2"].accuracy == pytest.approx(0.9)


def test_threat_preset_sets_the_budget(model, data):
    x, y, margin = data
    report = evaluate(model, x, y, attacks="linf-8/255")
    holds = right(data) & (margin > 8 / 255 * np.abs(WEIGHTS).sum())
    assert list(report.attacks) == ["fgsm", "pgd", "hsja"]
    assert (report.settings["eps"], report.settings["norm"]) == (8 / 255, math.inf)
    assert report.attacks["fgsm"].accuracy == report.robust_accuracy == holds.mean()
    assert report.attacks["hsja"].config["norm"] == "inf"
    assert report.attacks["hsja"].median_linf <= 8 / 255 * (1 + 1e-5)
    weak = evaluate(model, x, y, attacks="l2-0.5")
    assert weak.attacks["pgd"].config["eps_step"] == pytest.approx(2.5 * 0.5 / 40)


def test_targeted_attack_gets_another_class(model, data):
    x, y, margin = data
    report = evaluate(model, x, y, attacks="fgsm:eps=0.01,targeted=true")
    holds = right(data) & (margin > 0.01 * np.abs(WEIGHTS).sum())
    # A sample with a wrong label is at its target already: there are two classes only.
    assert report.attacks["fgsm"].initially_adversarial == 6
    assert report.attacks["fgsm"].accuracy == pytest.approx(holds.mean())


def test_labels_in_every_form(model, data, timeless):
    x, y, _ = data
    spec = "fgsm:eps=0.01"
    expected = timeless(evaluate(model, x, y, attacks=spec))
    batched = tf.data.Dataset.from_tensor_slices((x, y))
    for samples, labels in (
        (x, np.eye(2)[y]),
        (tf.constant(x), tf.constant(y)),
        (batched, None),
        (batched.batch(7), None),
        (batched.map(lambda a, b: (a, tf.one_hot(b, 2))).batch(60), None),
    ):
        assert timeless(evaluate(model, samples, labels, attacks=spec)) == expected


def test_without_labels_the_report_says_so(model, data):
    report = evaluate(model, data[0], attacks="fgsm:eps=0.01")
    assert report.clean_accuracy == 1.0 and report.settings["labels"] == "predicted"
    assert "no_labels" in [finding.code for finding in report.findings]


def test_classifier_and_callable(model, data):
    x, y, _ = data
    spec = "fgsm:eps=0.01"
    expected = evaluate(model, x, y, attacks=spec).robust_accuracy
    assert evaluate(Classifier(model), x, y, attacks=spec).robust_accuracy == expected
    report = evaluate(lambda batch: model(batch).numpy(), x, y, attacks="hsja:max_iter=2")
    assert report.clean_accuracy == pytest.approx(0.9) and report.robust_accuracy == 0.0
    assert report.attacks["hsja"].gradients == 0 and report.attacks["hsja"].queries > 100
    with pytest.raises(TypeError, match="black-box"):
        evaluate(lambda batch: model(batch).numpy(), x, y, attacks=spec)
    with pytest.raises(ValueError, match="Received: clip_values"):
        evaluate(Classifier(model), x, y, attacks=spec, clip_values=(0, 255))


def test_report_survives_json(model, data, tmp_path):
    x, y, _ = data
    report = evaluate(model, x, y, attacks=["fgsm:eps=0.001", "pgd:eps=0.02"], dataset="toy")
    assert report.attacks["fgsm"].median_l2 == math.inf
    folder = report.save(tmp_path / "a" / "report")
    assert {f.name for f in folder.iterdir()} == {
        "report.json",
        "report.md",
        "report.html",
        "examples.png",
    }
    text = (folder / "report.json").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    stored = json.loads(text, parse_constant=refuse)
    assert stored["attacks"]["fgsm"]["median_l2"] == "inf"
    assert stored["attacks"]["fgsm"]["failures"] > 0
    assert stored["attacks"]["pgd"]["config"]["norm"] == "inf"
    assert stored["versions"]["keras"] == keras.__version__
    loaded = Report.load(folder)
    assert loaded == Report.from_dict(report.to_dict())
    assert loaded.to_dict() == report.to_dict() == stored
    assert loaded.attacks["pgd"] == report.attacks["pgd"]
    assert str(loaded) == str(report)
    restored = get({"name": "pgd", "config": loaded.attacks["pgd"].config})
    usual = ProjectedGradientDescent(eps=0.02, batch_size=128)  # of small samples
    assert restored.get_config() == usual.get_config()
    (folder / "report.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match="Received: schema=99"):
        Report.load(folder)
    (folder / "report.json").write_text("no report")
    with pytest.raises(ValueError, match="report in JSON"):
        Report.load(folder)


def test_table_and_markdown_show_the_figures(model, data):
    x, y, _ = data
    report = evaluate(model, x, y, attacks=["fgsm:eps=0.01", "pgd:eps=0.02"], dataset="toy")
    share = f"{100 * report.robust_accuracy:.1f}"
    for text in (str(report), report.to_markdown(["examples.png"])):
        assert "toy, 60 samples" in text and "few_samples" in text
        for name, row in report.attacks.items():
            line = next(line for line in text.splitlines() if f" {name} " in line)
            assert f"{100 * row.accuracy:.1f}" in line and "Linf" in line
        assert share in next(line for line in text.splitlines() if "worst case" in line)
    assert "![examples.png](examples.png)" in report.to_markdown(["examples.png"])
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("| fgsm")]
    assert all(line.count("|") == 12 for line in rows[:1])
    # The figures of the report and the tables come from the same declarations.
    for metric in report.metrics:
        if metric.header is not None and metric.table == "main":
            values = [row.get(metric.key) for row in (report.clean, *figures_of(report))]
            shown = any(value is not None for value in values)
            assert (f"| {metric.header} |" in report.to_markdown()) == shown
            assert (metric.legend in report.to_markdown()) == (shown or not metric.legend)


def figures_of(report):
    return [row.figures for row in report.attacks.values()]


def test_false_positives_have_a_column_where_there_is_a_detector(model, data, capsys):
    from rich.console import Console

    report = evaluate(model, *data[:2], attacks=["pgd:eps=0.02"])
    assert "false pos." not in str(report) + report.to_markdown()
    clean = {"false_positive_rate": 0.05, "false_positive_rate_interval": [0.02, 0.14]}
    guarded = dataclasses.replace(report, clean={**report.clean, **clean})
    assert "5.0 [2, 14]" in str(guarded) and "| false pos. % |" in guarded.to_markdown()
    assert "they count as wrong" in str(guarded).replace("\n", " ")
    guarded.render(Console(width=80, no_color=True))
    table = capsys.readouterr().out.splitlines()
    assert "f.p.%" in next(line for line in table if "attack" in line)
    assert " 5.0 " in next(line for line in table if "clean" in line)
    assert Report.from_dict(json.loads(json.dumps(guarded.to_dict()))) == guarded


def test_a_metric_that_is_not_installed_is_kept_and_not_shown(model, data):
    stored = evaluate(model, *data[:2], attacks=["pgd:eps=0.02"]).to_dict()
    stored["metrics"].append("elsewhere")
    stored["attacks"]["pgd"]["elsewhere"] = "inf"
    report = Report.from_dict(stored)
    assert report.attacks["pgd"].elsewhere == math.inf
    assert "elsewhere" not in str(report) + report.to_markdown()
    assert report.to_dict()["attacks"] == stored["attacks"]


def test_narrow_terminal_keeps_every_column(model, data, capsys):
    from rich.console import Console

    report = evaluate(model, *data[:2], attacks=["pgd:eps=0.02"] * 2)
    report.render(Console(width=80, no_color=True))
    table = capsys.readouterr().out.splitlines()
    header = next(line for line in table if "attack" in line)
    assert header.split()[-3:] == ["Linf", "SSIM", "sec"] and "…" not in "".join(table)


@pytest.mark.slow
def test_an_interrupted_run_resumes(model, data, tmp_path, monkeypatch):
    x, y, _ = data
    specs = ["fgsm:eps=0.01", "pgd:eps=0.02,num_random_init=1"]
    whole = evaluate(model, x, y, attacks=specs, keep_adversaries=True)
    ran = []
    run = batches.run_batch

    def counted(attack, *args):
        ran.append(attack.name)
        if attack.name == "pgd" and interrupt:
            raise KeyboardInterrupt
        return run(attack, *args)

    monkeypatch.setattr(pieces, "run_batch", counted)
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, x, y, attacks=specs, output=tmp_path)
    interrupt = False
    resumed = evaluate(model, x, y, attacks=specs, output=tmp_path, keep_adversaries=True)
    assert ran == ["fgsm", "pgd", "pgd"]
    for name, result in whole.samples.results.items():
        np.testing.assert_array_equal(resumed.samples.results[name].x_adv, result.x_adv)
        np.testing.assert_array_equal(resumed.samples.results[name].l2, result.l2)
    assert Report.load(tmp_path).robust_accuracy == whole.robust_accuracy
    assert not list(tmp_path.rglob("*.part"))

    evaluate(model, x, y, attacks=specs, output=tmp_path, dataset="renamed")
    assert len(ran) == 3  # nothing that matters has changed
    evaluate(model, x, y, attacks=specs, output=tmp_path, seed=1)
    evaluate(model, x[::-1], y[::-1], attacks=specs, output=tmp_path)
    assert len(ran) == 7
    weights = model.get_weights()
    try:
        model.set_weights([w * 1.01 for w in weights])
        evaluate(model, x, y, attacks=specs, output=tmp_path)
    finally:
        model.set_weights(weights)
    assert len(ran) == 9
    for path in (tmp_path / "results").glob("fgsm-*.npz"):
        path.write_bytes(path.read_bytes()[:50])  # torn by a full disk, say
    evaluate(model, x, y, attacks=specs, output=tmp_path)
    assert ran[9:] == ["fgsm"]


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"attacks": "pdg"}, ValueError, "Did you mean 'pgd'"),
        ({"attacks": []}, ValueError, r"at least one attack.*Received: attacks=\[\]"),
        ({"attacks": 3}, TypeError, "Received: attacks=3"),
        ({"attacks": "fgsm:eps=-1"}, ValueError, "Received: eps=-1"),
        ({"attacks": "fgsm:step=1"}, TypeError, "fgsm.*step"),
        ({"eps": -0.1}, ValueError, "positive and finite.*Received: eps=-0.1"),
        ({"eps": "big"}, TypeError, "Received: eps='big'"),
        ({"norm": 2}, ValueError, "`norm` is that of `eps`"),
        ({"eps": 0.1, "norm": 3}, ValueError, "Received: norm=3"),
        ({"attacks": "l2-0.5", "eps": 0.1}, ValueError, "budget of its own"),
        ({"dataset": 5}, TypeError, "Received: dataset=5"),
        ({"batch_size": 0}, ValueError, "Received: batch_size=0"),
        ({"seed": -1}, ValueError, "Received: seed=-1"),
        ({"x": np.zeros((3, 5, 5, 1))}, ValueError, "Received: x of shape"),
        ({"x": np.full((60, *SHAPE), 128.0)}, ValueError, "bounds.*Received: values from 128"),
        ({"x": np.full((60, *SHAPE), np.nan)}, ValueError, "finite"),
        ({"x": np.zeros((0, *SHAPE))}, ValueError, "n >= 1"),
        ({"y": np.full(60, 2)}, ValueError, "Received: labels from 2 to 2"),
        ({"y": np.zeros(59, int)}, ValueError, "60 integer labels"),
        ({"y": np.full(60, 0.5)}, ValueError, "integer labels"),
    ],
)
def test_bad_input_is_refused_before_any_work(model, data, monkeypatch, changes, error, message):
    def work(*args, **kwargs):
        raise AssertionError("work was done before the input was checked")

    monkeypatch.setattr(Classifier, "predict", work)
    monkeypatch.setattr(pieces, "run_batch", work)
    call = {"x": data[0], "y": data[1], "attacks": "fgsm", **changes}
    with pytest.raises(error, match=message):
        evaluate(model, call.pop("x"), call.pop("y"), **call)


def test_bad_data_set_and_bad_folder(model, data, tmp_path):
    x, y, _ = data
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    with pytest.raises(ValueError, match="Labels must come with the data"):
        evaluate(model, dataset, y, attacks="fgsm")
    with pytest.raises(ValueError, match="must end"):
        evaluate(model, dataset.repeat(), attacks="fgsm")
    with pytest.raises(ValueError, match=r"`\(x, y\)`.*Received: a tf.data.Dataset"):
        evaluate(model, dataset.map(lambda a, b: {"x": a}), attacks="fgsm")
    with pytest.raises(ValueError, match="an empty one"):
        evaluate(model, dataset.take(0), attacks="fgsm")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        evaluate(model, x, y, attacks="fgsm", output=tmp_path / "file")


def test_areb_parameters_are_the_papers():
    mnist = dict(presets.get("areb", "mnist").attacks)
    assert list(mnist) == ["pgd", "cwl2", "ead", "hsja"]
    published = {
        "pgd": {"eps": 0.3, "eps_step": 0.01, "max_iter": 40},
        "cwl2": {"confidence": 0.05, "initial_const": 0.1, "binary_search_steps": 20},
        "ead": {"confidence": 0.5, "max_iter": 10, "binary_search_steps": 20},
        "hsja": {"max_iter": 10, "max_eval": 100},
    }
    for name, parameters in published.items():
        assert parameters.items() <= mnist[name].items()
    cifar = dict(presets.get("areb", "cifar10", channels=3).attacks)
    assert cifar["pgd"]["eps"] == 0.03 and cifar["ead"]["confidence"] == 0.4
    assert presets.get("areb", "digits", channels=1).variant == "grey"
    other = presets.get("areb", None, channels=3, value_range=255.0)
    assert other.variant == "colour"
    assert dict(other.attacks)["pgd"]["eps"] == pytest.approx(0.03 * 255)
    assert dict(presets.get("areb", "cifar10").attacks)["pgd"]["eps"] == 0.03  # table unchanged
    with pytest.raises(ValueError, match="Did you mean 'areb'"):
        presets.get("arbe")


def test_nsloss_parameters_are_the_papers():
    strengths = {"cw": (1000, 0), "cw-hc": (1000, 5), "cw-strong": (10000, 0)}
    for dataset, rate, const, budget in (("mnist", 0.1, 10, 1), ("cifar10", 0.01, 1e-3, 3)):
        preset = presets.get("nsloss", dataset)
        assert (preset.eps, preset.norm) == (budget, 2)
        rows = {k: v[1] for k, v in zip(preset.labels, preset.attacks, strict=True)}
        assert list(rows) == [*strengths, "pgd", "hsja"]
        for name, (steps, confidence) in strengths.items():
            expected = {"max_iter": steps, "confidence": confidence, "binary_search_steps": 9}
            assert expected.items() <= rows[name].items()
            assert {"learning_rate": rate, "initial_const": const}.items() <= rows[name].items()
        expected = {"norm": 2, "num_random_init": 1, "eps_step": 0.01, "max_iter": 1000}
        assert expected.items() <= rows["pgd"].items()
        expected = {"norm": 2, "init_eval": 100, "init_size": 1000, "max_iter": 50}
        assert expected.items() <= rows["hsja"].items()
    other = presets.get("nsloss", None, 3, 255.0, eps=510.0, norm=2.0)
    assert other.variant == "colour" and other.eps is None
    pgd = dict(other.attacks)["pgd"]
    assert pgd["eps"] == 510 and pgd["eps_step"] == pytest.approx(2.55)
    with pytest.raises(ValueError, match="give norm=2"):
        presets.get("nsloss", "mnist", eps=1.0)


@pytest.mark.parametrize("preset", ["areb", "nsloss"])
@pytest.mark.parametrize("dataset, channels", [("mnist", 1), ("cifar10", 3), (None, 1)])
def test_a_paper_lists_every_parameter_of_its_attacks(preset, dataset, channels):
    run_settings = {"targeted", "batch_size", "seed", "verbose", "jit_compile", "max_queries"}
    run_settings.add("curr_iter")  # of a search that goes on
    for name, parameters in presets.get(preset, dataset, channels).attacks:
        unlisted = get(name, **parameters).get_config().keys() - parameters.keys() - run_settings
        assert not unlisted, f"{name} leaves {unlisted} to its defaults"


def test_a_model_that_answers_one_class_is_found_out_first(model, data):
    x, y, _ = data
    constant = keras.models.clone_model(model)
    constant.set_weights([np.zeros((16, 2), np.float32), np.array([0.0, 3.0], np.float32)])
    report = evaluate(constant, x, y, attacks="fgsm:eps=0.01")
    assert report.findings[0].code == "constant_predictions"
    assert "--clip-max" in report.findings[0].message
    honest = evaluate(model, x, y, attacks="fgsm:eps=0.01")
    assert [finding.code for finding in honest.findings] == ["few_samples"]


def test_masked_gradient_is_found_out(model, data):
    x, y, margin = data
    # Nearly the same decisions, on inputs in steps that no gradient leads through.
    inputs = keras.Input(SHAPE)
    steps = keras.layers.Lambda(lambda v: 0.0 * v + keras.ops.round(1000 * v) / 1000)(inputs)
    masked = keras.Model(inputs, model.layers[-1](model.layers[-2](steps)))
    attacks = ["pgd:eps=0.05,eps_step=0.01,max_iter=10", "hsja:norm=inf,max_iter=5,max_eval=200"]
    report = evaluate(masked, x, y, attacks=attacks)
    assert report.attacks["pgd"].accuracy > 0.8
    assert report.attacks["hsja"].knowledge == "black"
    assert [finding.code for finding in report.findings[:2]] == [
        "gradient_masking",
        "zero_gradients",
    ]
    assert "54 samples blindly (100 %" in report.findings[1].message
    assert report.robust_accuracy < 0.1
    # Large logits alone mask nothing.
    sure = keras.models.clone_model(model)
    sure.set_weights([1e5 * weight for weight in model.get_weights()])
    for honest in (model, sure):
        report = evaluate(honest, x, y, attacks=attacks)
        assert "gradient_masking" not in [finding.code for finding in report.findings]
        assert report.attacks["pgd"].accuracy < 0.1


def test_the_word_masking_waits_for_a_repetition(model, data):
    """ART's step, as long as the budget: PGD jumps to and fro, and small steps get there."""
    x, y, margin = data
    inputs = keras.Input(SHAPE)
    # A ridge in the middle of the ball: the sign of the gradient there and back, for ever.
    bent = keras.layers.Lambda(lambda v: v + 0.06 * keras.ops.sin((v - 0.5) * 2 * np.pi / 0.02))
    ridged = keras.Model(inputs, model.layers[-1](model.layers[-2](bent(inputs))))
    labels = ridged.predict(x, verbose=0).argmax(axis=1)
    attacks = ["pgd:eps=0.02,eps_step=0.04,max_iter=7", "square:eps=0.02,max_iter=300"]
    report = evaluate(ridged, x, labels, attacks=attacks)
    codes = [finding.code for finding in report.findings]
    assert "step_too_long" in codes and "gradient_masking" not in codes
    (message,) = [one.message for one in report.findings if one.code == "step_too_long"]
    assert "pgd:eps=0.02,eps_step=0.002,max_iter=40 broke" in message


def test_areb_on_a_linear_model(model, data, tmp_path):
    x, y, margin = data
    report = evaluate(model, x, y, attacks="areb", output=tmp_path)
    assert list(report.attacks) == ["pgd", "cwl2", "ead", "hsja"]
    assert report.settings["preset_variant"] == "grey"
    assert report.settings["unpublished_parameters"]["cwl2"]["max_iter"] == 50
    nearest = (margin / np.linalg.norm(WEIGHTS))[right(data)]
    for name in ("cwl2", "hsja"):  # never nearer than the hyperplane
        row = report.attacks[name]
        assert row.median_l2 >= np.median(nearest) * 0.999
        assert row.accuracy == 0.0 and row.budget_curve["accuracy"][0] == pytest.approx(0.9)
    assert report.attacks["ead"].median_l1 > 0 and report.robust_accuracy == 0.0
    assert (tmp_path / "budget.png").exists()
    assert Report.load(tmp_path).to_dict() == report.to_dict()


def test_cross_check_runs_the_reference_beside_each_attack(model, data, monkeypatch, tmp_path):
    # The bridge has tests of its own; here a second name of the same attack stands for it.
    class Reference(ProjectedGradientDescent):
        name = "art:pgd"

    bridge = {"name": "art", "value": "bridge:ATTACKS", "dist": None}
    point = types.SimpleNamespace(**bridge, group=ATTACKS.group, load=lambda: {"pgd": Reference})
    monkeypatch.setitem(ATTACKS._plugins, "art", point)
    x, y, _ = data
    attacks = ["pgd:eps=0.01", "fgsm:eps=0.02", "pgd:eps=0.005,seed=3"]
    report = evaluate(model, x, y, attacks=attacks, cross_check=True, output=tmp_path)
    assert list(report.attacks) == ["pgd", "art:pgd", "fgsm", "pgd_2", "art:pgd_2"]
    for name in ("pgd", "pgd_2"):
        native, check = report.attacks[name], report.attacks[f"art:{name}"]
        assert (native.checks, check.checks) == (None, name)
        assert check.config == native.config
        assert (check.accuracy, check.median_linf) == (native.accuracy, native.median_linf)
    assert [f.message for f in report.findings if f.code == "no_counterpart"] == [
        "ART has no attack to check fgsm with."
    ]
    lines = str(report).splitlines()
    position = next(i for i, line in enumerate(lines) if " pgd " in line)
    assert "art:pgd (check)" in lines[position + 1]
    assert Report.load(tmp_path).attacks["art:pgd"].checks == "pgd"
    assert "adversarial-robustness-toolbox" in report.versions
