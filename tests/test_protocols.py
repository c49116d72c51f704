"""Protocols: their figures by NumPy and by `evaluate`, resumption, bad input, the command."""

import json
import os
import signal
import subprocess
import sys

import jsonschema
import keras
import matplotlib.image
import numpy as np
import pytest
from click.testing import CliRunner

import kerasrobust
from kerasrobust import metrics, protocols
from kerasrobust.datasets import Dataset
from kerasrobust.defenses.layers.feature_squeezing import FeatureSqueezing
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import pieces
from kerasrobust.evaluation.report import schema
from kerasrobust.protocols import ProtocolResult, renderers
from kerasrobust_cli import protocol

PGD = "pgd:max_iter=3"


def linear(seed, classes=3, shape=(4, 4, 1)):
    rng = np.random.default_rng(seed)
    network = keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)], name=f"m{seed}"
    )
    common = np.random.default_rng(99).normal(size=(16, 3))
    weights = common + 0.7 * rng.normal(size=(16, 3))
    if (classes, shape) == (3, (4, 4, 1)):
        network.set_weights([weights, -0.5 * weights.sum(axis=0)])
    return network


@pytest.fixture(scope="module")
def six():
    return [linear(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def samples():
    """Labels by the directions that all models have in common."""
    x = np.random.default_rng(7).random((40, 4, 4, 1)).astype(np.float32)
    weights = np.random.default_rng(99).normal(size=(16, 3))
    return x, ((x.reshape(40, 16) - 0.5) @ weights).argmax(axis=1)


def label(model, x):
    weights, bias = model.get_weights()
    return (x.reshape(len(x), -1) @ weights + bias).argmax(axis=1)


def check_saved(found, folder):
    found.save(folder)
    assert ProtocolResult.load(folder) == found
    names = {path.name for path in folder.iterdir()}
    assert names == {"protocol.json", "protocol.md", "protocol.png"}


def test_transfer_matrix(six, samples, tmp_path):
    """The diagonal is `evaluate`'s, the rest what NumPy says of the same samples."""
    x, y = samples
    # What leads away from a class on one leads towards it on the other, which is wrong at first.
    opposed = linear(1)
    opposed.set_weights([-weight for weight in opposed.get_weights()])
    two = {"a": six[0], "b": opposed}
    found = protocols.transfer_matrix(two, x, y, attacks=PGD, eps=0.1, batch_size=16)
    cells = {(row["crafted_on"], row["judged_by"]): row for row in found.rows}
    assert len(cells) == 4
    for name, model in two.items():
        report = kerasrobust.evaluate(
            model, x, y, attacks=PGD, eps=0.1, batch_size=16, keep_adversaries=True
        )
        assert cells[name, name]["accuracy"]["value"] == report.attacks["pgd"].accuracy
        x_adv = report.samples.results["pgd"].x_adv
        for other, judge in two.items():
            clean = label(judge, x) == y
            stands = clean & (label(judge, x_adv) == y)
            assert cells[name, other]["accuracy"]["hits"] == stands.sum()
            plain = label(judge, x_adv) == y
            assert cells[name, other]["adversarial"]["hits"] == plain.sum() >= stands.sum()
            assert cells[name, other]["clean"]["hits"] == clean.sum()
    assert cells["a", "b"] != cells["b", "a"]
    repaired = cells["a", "b"]["adversarial"]["hits"] - cells["a", "b"]["accuracy"]["hits"]
    assert repaired > 0
    # Transfer against the budget: crafted on one, judged by the other.
    judged = {"b": Classifier(six[0], judge=opposed)}
    sweep = protocols.budget_sweep(judged, x, y, attacks=PGD, eps=[0.1], batch_size=16)
    shares = [row["accuracy"] for row in sweep.rows]
    assert shares == [cells["a", "b"]["clean"], cells["a", "b"]["accuracy"]]
    table = found.tables()["pgd"]
    assert table.header == ["crafted on", "a", "b"] and table.rows[1][0] == "a"
    check_saved(found, tmp_path)
    assert table.rows[1][1] in (tmp_path / "protocol.md").read_text()


def test_substitutes(six, samples):
    found = protocols.transfer_matrix(
        six[:1], *samples, substitutes={"s": six[2]}, attacks="fgsm", eps=0.1
    )
    (row,) = found.rows
    assert (row["crafted_on"], row["judged_by"]) == ("s", "m0")


def test_a_grey_box_is_judged_with_its_layers(six, samples):
    """As in `evaluate`: attacks see the network without what stands before it."""
    x, y = samples
    body = [FeatureSqueezing(bit_depth=1), keras.layers.Flatten(), keras.layers.Dense(3)]
    squeezed = keras.Sequential([keras.Input((4, 4, 1)), *body])
    squeezed.set_weights(six[0].get_weights())
    models = {"plain": six[0], "grey": Classifier(squeezed, gradient="ignore")}
    found = protocols.transfer_matrix(models, x, y, attacks="fgsm", eps=0.1)
    cells = {(row["crafted_on"], row["judged_by"]): row for row in found.rows}
    clean = label(six[0], np.round(x)) == y
    assert cells["grey", "grey"]["clean"]["hits"] == clean.sum() != (label(six[0], x) == y).sum()
    report = kerasrobust.evaluate(models["grey"], x, y, attacks="fgsm", eps=0.1)
    assert cells["grey", "grey"]["accuracy"]["value"] == report.attacks["fgsm"].accuracy
    # Both are crafted on the same network.
    for name in models:
        assert cells["grey", name] == {**cells["plain", name], "crafted_on": "grey"}


def gea(models, x, y, eps, steps):
    """Eq. 3 on linear models, in NumPy: float64, with the softmax's gradient."""
    point = x.reshape(len(x), -1).astype(np.float64)
    low, high = np.clip(point - eps, 0, 1), np.clip(point + eps, 0, 1)
    for _ in range(steps):
        total = 0
        for model in models:
            weights, bias = model.get_weights()
            logits = point @ weights + bias
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            gradient = (p - np.eye(3)[y]) @ weights.T
            total = total + gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
        point = np.clip(point + np.sign(total) / 255, low, high)
    return point


def test_n_of_six(six, samples, tmp_path):
    x, y = samples
    eps, other = 40 / 255, linear(8)
    found = protocols.n_of_six(six, x, y, sizes=[2], others={"other": other}, eps=eps)
    # min(e + 4, 1.25 e) steps of one grey level.
    adversaries = gea(six[:2], x, y, eps, 44)
    kept = np.all(
        [(label(m, x) == y) & (label(m, adversaries) != y) for m in six[:2]],
        axis=0,
    )
    assert 3 < kept.sum() < 40
    assert [row["model"] for row in found.rows] == ["m2", "m3", "m4", "m5", "other"]
    for row, model in zip(found.rows, [*six[2:], other], strict=True):
        assert row["kept"] == kept.sum() and row["members"] == ["m0", "m1"]
        assert row["true"]["hits"] == (label(model, x) == y)[kept].sum()
        assert row["adversarial"]["hits"] == (label(model, adversaries) == y)[kept].sum()
    check_saved(found, tmp_path)
    (table,) = found.tables().values()
    assert table.rows[0] == ["kept", "40", str(kept.sum()), ""]


def test_kinds_and_combined(six, samples, monkeypatch):
    """Table 3: whose samples are crafted on whom."""
    again = [linear(seed) for seed in range(10, 16)]
    monkeypatch.setattr(pieces, "run_batch", no_batch)
    made = []
    make = protocols.pieces.Pieces.make
    monkeypatch.setattr(
        protocols.pieces.Pieces,
        "make",
        lambda self, name, model, *rest: made.append(name) or make(self, name, model, *rest),
    )
    with pytest.raises(AssertionError, match="no attack"):
        protocols.n_of_six({"a": six, "b": again}, *samples, sizes=[5], combined=3)
    assert made == ["a 5", "b 5", "combined"]


def test_an_ensemble_is_told_apart_by_its_members(six):
    from kerasrobust.attacks.gradient_ensemble import ensemble
    from kerasrobust.engine import store

    found = [Classifier(model, (0, 1)) for model in six[:3]]
    keys = {store.fingerprint(ensemble(found[i : i + 2])) for i in range(2)}
    assert len(keys) == 2


def test_all_targets(six, samples, tmp_path):
    """Against runs of the attack by hand."""
    x, y = samples
    found = protocols.all_targets(six[0], x, y, attacks=PGD, eps=0.15)
    attack = kerasrobust.attacks.get(PGD, eps=0.15, targeted=True).bind(six[0])
    success = np.stack([attack.run(x, (y + shift) % 3).success for shift in (1, 2)])
    (row,) = found.rows
    assert row["best"]["hits"] == success.any(axis=0).sum()
    assert row["average"]["hits"] == success.sum() and row["average"]["total"] == 80
    assert row["worst"]["hits"] == success.all(axis=0).sum()
    assert row["worst"]["hits"] < row["average"]["hits"] / 2 < row["best"]["hits"]
    # A failure leaves the sample as it was, and some were wrong.
    right = label(six[0], x) == y
    assert row["accuracy"]["hits"] == (right & ~success).sum() < (~success).sum()
    (table,) = found.tables().values()
    # Two instances of a sample are not two samples.
    naive = metrics.proportion((right & ~success).ravel())
    assert row["accuracy"]["high"] - row["accuracy"]["low"] > 1.1 * (naive.high - naive.low)
    assert table.rows[0][2].startswith(f"{100 * (right & ~success).mean():.1f} (")
    for true in range(3):
        assert row["classes"][true][true] is None
        expected = success[0][y == true].mean()
        assert row["classes"][true][(true + 1) % 3] == pytest.approx(expected)
    check_saved(found, tmp_path)


def test_repeated(six, samples, tmp_path):
    found = protocols.repeated(six[0], *samples, attacks=PGD, eps=0.1, draws=3, samples=20)
    for row in found.rows:
        assert len(row["values"]) == 3
        assert row["mean"] == pytest.approx(np.mean(row["values"]))
        assert row["deviation"] == pytest.approx(np.std(row["values"], ddof=1))
    assert [row["attack"] for row in found.rows] == ["clean", "pgd", "worst case"]
    assert max(row["deviation"] for row in found.rows) > 0
    x, y = samples
    rows = np.sort(np.random.default_rng((0, 1)).permutation(40)[:20])
    assert found.rows[0]["values"][1] == (label(six[0], x[rows]) == y[rows]).mean()
    check_saved(found, tmp_path)
    assert "3 draws of 20 samples out of 40" in str(found)


def test_budget_sweep_is_one_program(six, samples):
    x, y = samples
    held = Classifier.of(six[3], (0, 1))
    found = protocols.budget_sweep(held, x, y, eps=[0.02, 0.1, 0.3], attacks=["fgsm", PGD])
    attacks = {k: n for k, n in held.traces.items() if k.split(":")[0] in ("fgsm", "pgd")}
    assert {"pgd:init", "pgd:advance", "pgd:finish"} <= attacks.keys()
    assert set(attacks.values()) == {1}
    curve = [row for row in found.rows if row["attack"] == "pgd"]
    assert [row["eps"] for row in curve] == [0.0, 0.02, 0.1, 0.3]
    values = [row["accuracy"]["value"] for row in curve]
    assert values[0] == (label(six[3], x) == y).mean() and values[0] > values[1] > values[2]
    # FGSM on a linear model, by hand.
    point = gea([six[3]], x, y, 0.02, 6)
    row = next(r for r in found.rows if r["attack"] == "fgsm" and r["eps"] == 0.02)
    stands = (label(six[3], x) == y) & (label(six[3], point) == y)
    assert abs(row["accuracy"]["hits"] - stands.sum()) <= 1


def test_every_protocol_has_its_table_and_picture():
    assert renderers.TABLES.keys() == renderers.PICTURES.keys() == {*protocols.__all__[1:]}
    with pytest.raises(ValueError, match="result of a protocol"):
        ProtocolResult.from_dict({"schema": 1, "protocol": "other"})


def no_batch(*arguments):
    raise AssertionError("no attack may run")


@pytest.mark.parametrize(
    "name, changes, error, message",
    [
        ("transfer_matrix", {"models": 1}, ValueError, "2 models or more"),
        ("transfer_matrix", {"models": ["gone.keras"] * 2}, (OSError, ValueError), "gone.keras"),
        ("transfer_matrix", {"other": {"classes": 2}}, ValueError, "the same known_classes"),
        ("transfer_matrix", {"other": {"shape": (5, 5, 1)}}, ValueError, "the same input_shape"),
        ("transfer_matrix", {"other": {"bounds": (0, 2)}}, ValueError, "the same clip_values"),
        ("transfer_matrix", {"attacks": "pdg"}, ValueError, "Did you mean 'pgd'"),
        ("transfer_matrix", {"y": None}, ValueError, "true labels"),
        ("transfer_matrix", {"output": "file"}, OSError, "must be a folder"),
        ("transfer_matrix", {"output": "memory://x"}, ValueError, "a folder of this machine"),
        ("n_of_six", {"sizes": [6]}, ValueError, "integer <= 5"),
        ("n_of_six", {"sizes": [0]}, ValueError, "integer >= 1"),
        ("n_of_six", {"models": 5}, ValueError, "six of a kind"),
        ("n_of_six", {"combined": 3}, ValueError, "several kinds"),
        ("all_targets", {"attacks": "simba:targeted=false"}, ValueError, "must aim|targeted"),
        ("repeated", {"samples": 41}, ValueError, "at most the 40"),
        ("repeated", {"draws": 1}, ValueError, "integer >= 2"),
        ("budget_sweep", {"eps": [0.2, 0.1]}, ValueError, "must rise"),
        ("budget_sweep", {"attacks": "deepfool"}, ValueError, "keeps to a budget"),
        ("budget_sweep", {"attacks": "pgd:eps=0.3"}, ValueError, "keeps to a budget"),
        ("budget_sweep", {"attacks": "pgd:norm=2"}, ValueError, "pgd in L2, budgets in Linf"),
    ],
)
def test_bad_input_is_told_before_any_attack(
    name, changes, error, message, six, samples, tmp_path, monkeypatch
):
    monkeypatch.setattr(pieces, "run_batch", no_batch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    changes = dict(changes)
    wanted = changes.pop("models", 6 if name == "n_of_six" else 2)
    models = six[:wanted] if isinstance(wanted, int) else wanted
    other = changes.pop("other", None)
    if other is not None:
        bounds = other.pop("bounds", (0, 1)) if "bounds" in other else (0, 1)
        models = [six[0], Classifier(linear(50, **other), bounds)]
    first = six[0] if name in ("all_targets", "repeated") else models
    x, y = samples
    arguments = {"y": y, "eps": [0.1] if name == "budget_sweep" else 0.1, **changes}
    with pytest.raises(error, match=message):
        getattr(protocols, name)(first, x, **arguments)


def test_names_and_judges_are_checked_before_any_attack(six, samples, monkeypatch):
    monkeypatch.setattr(pieces, "run_batch", no_batch)
    for named in ({1: six[0], "1": six[1], 2: six[2]}, {"a": six[0], " ": six[1]}):
        with pytest.raises(ValueError, match="different names"):
            protocols.transfer_matrix(named, *samples, attacks="fgsm", eps=0.1)
    rest = {str(number): model for number, model in enumerate(six[1:])}
    kinds = {"a": {"b c": six[0], **rest}, "a b": {"c": six[0], **rest}}
    with pytest.raises(ValueError, match="several kinds must have different names"):
        protocols.n_of_six(kinds, *samples)
    # Of NaN the largest is the first: its accuracy would be that of a model that answers 0.
    broken = linear(20)
    broken.set_weights([np.full((16, 3), np.nan), np.zeros(3)])
    with pytest.raises(ValueError, match="'m20' must return finite scores"):
        protocols.n_of_six([*six[:5], broken], *samples, sizes=[2])
    with pytest.raises(ValueError, match="'m20' must return finite scores"):
        protocols.transfer_matrix(broken, *samples, substitutes=six[0], attacks="fgsm", eps=0.1)


def test_a_judge_that_breaks_under_attack_is_told(six, samples):
    """Whatever is darker than all clean samples gives NaN, whose label would be 0."""
    odd = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Lambda(lambda x: keras.ops.sqrt(x - 0.05)),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ],
        name="odd",
    )
    x = 0.1 + 0.8 * samples[0]
    with pytest.raises(ValueError, match=r"'odd' must return finite .* of 40 samples of fgsm"):
        protocols.transfer_matrix(odd, x, samples[1], substitutes=six[0], attacks="fgsm", eps=0.1)


def test_each_evaluation_has_a_folder_of_its_own(tmp_path):
    shared = protocols.pieces.Pieces("repeated", tmp_path, {})
    names = ["a b", "ab", "AB", "a/b", "a:b", "..", ".", "x" * 300, "x" * 301, "é" * 99]
    places = [shared._place(name) for name in names]
    assert places == [shared._place(name) for name in names]
    assert len({str(place).lower() for place in places}) == len(names)
    for place in places:
        assert place.parent == tmp_path / "pieces" and len(os.fsencode(place.name)) < 200


def test_a_note_names_a_few_evaluations_and_figures_outlive_the_picture(tmp_path, monkeypatch):
    findings = [{"code": "few", "piece": f"{number} further"} for number in range(1, 1000)]
    rows = [{"attack": "pgd", "values": [0.1, 0.2], "mean": 0.15, "deviation": 0.07}]
    settings = {"dataset": None, "samples": 2, "draws": 2, "of": 9}
    found = ProtocolResult("repeated", settings, rows, findings)
    assert found.notes()[1].endswith("7 further, 8 further and 991 more.")

    def fails(*arguments):
        raise OSError("no room")

    monkeypatch.setitem(renderers.PICTURES, "repeated", fails)
    with pytest.raises(OSError, match="no room"):
        found.save(tmp_path)
    assert ProtocolResult.load(tmp_path) == found
    (tmp_path / "protocol.json").write_text('{"schema": 3, "rows"')  # killed while it was written
    with pytest.raises(ValueError, match="in JSON. Received: path=.*protocol.json"):
        ProtocolResult.load(tmp_path)


def test_names_of_models_leave_the_curves_in_sight(tmp_path):
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "hits": 5, "total": 10}
    widths = []
    for name in ("m{}", "a name of a model that is long, {}"):
        models = [name.format(number) for number in range(8)]
        rows = [
            {"model": model, "attack": "pgd", "eps": eps, "accuracy": share}
            for model in models
            for eps in (0.0, 0.1)
        ]
        settings = {"dataset": None, "samples": 10, "models": models, "norm": "inf"}
        ProtocolResult("budget_sweep", settings, rows, []).save(tmp_path)
        widths.append(matplotlib.image.imread(tmp_path / "protocol.png").shape[1])
    assert widths[1] > 1.3 * widths[0]


def test_a_second_run_computes_nothing(six, samples, tmp_path, monkeypatch):
    arguments = {"eps": [0.05, 0.1], "attacks": "fgsm", "output": tmp_path}
    found = protocols.budget_sweep(six[0], *samples, **arguments)
    monkeypatch.setattr(pieces, "run_batch", no_batch)
    again = protocols.budget_sweep(six[0], *samples, **arguments)
    assert again == found == ProtocolResult.load(tmp_path) and str(again) == str(found)
    assert (tmp_path / "pieces" / "m0" / "report.json").exists()


@pytest.mark.parametrize("name", ["all_targets", "repeated", "transfer_matrix", "budget_sweep"])
def test_a_dataset_tells_where_its_samples_are_from(name, six, samples, tmp_path):
    x, y = samples
    data = Dataset("two", "test", x, y, ("0", "1", "2"), (0.0, 1.0), np.arange(100, 140), 500)
    own = {"eps": [0.1] if name == "budget_sweep" else 0.1, "attacks": "fgsm"}
    if name == "repeated":
        own |= {"draws": 2, "samples": 10}
    models = six[0] if name in ("all_targets", "repeated") else six[:2]
    found = getattr(protocols, name)(models, data, output=tmp_path, **own)
    given = getattr(protocols, name)(models, x, y, clip_values=(0.0, 1.0), dataset="two", **own)
    assert found.rows == given.rows and given.settings["split"] is None
    assert (found.settings["dataset"], found.settings["split"]) == ("two", "test")
    reports = (tmp_path / "pieces").glob("*/report.json")
    told = [json.loads(path.read_text()) for path in reports]
    spans = {report["settings"]["indices"] for report in told}
    for report in told:
        jsonschema.validate(report, schema())
    if name == "all_targets":
        assert {r["settings"]["targets"] for r in told} == {"next", "2 further"}
        page = (tmp_path / "pieces" / "2further" / "report.md").read_text()
        assert "wants the class 2 further than the true one" in page
    if name == "repeated":
        assert len(spans) == 2 and found.settings["indices"] is None
    else:
        assert spans == {"100-139"} == {found.settings["indices"]}
    with pytest.raises(ValueError, match="brings its labels"):
        getattr(protocols, name)(models, data, y, **own)


def run(*arguments):
    return CliRunner().invoke(protocol.main, [str(argument) for argument in arguments])


def test_a_path_may_hold_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eps=1").mkdir()
    (tmp_path / "eps=1" / "m.keras").touch()
    convert = protocol.Named().convert
    assert convert("eps=1/m.keras", None, None) == ("m", "eps=1/m.keras")
    assert convert("one=eps=1/m.keras", None, None) == ("one", "eps=1/m.keras")


def test_the_command(six, samples, tmp_path):
    six[0].save(tmp_path / "a.keras")
    np.savez(tmp_path / "data.npz", x=samples[0], y=samples[1])
    given = ("--model", f"one={tmp_path / 'a.keras'}", "--dataset", tmp_path / "data.npz")
    result = run(
        *("budget-sweep", *given, "--eps", "0.05,0.1", "--attacks", "fgsm", "--samples", 30),
        *("--output", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "protocol.json").read_text())
    assert found["settings"]["models"] == ["one"] and found["settings"]["samples"] == 30
    assert "accuracy by Linf budget" in result.stdout
    data = kerasrobust.datasets.load(tmp_path / "data.npz", samples=30)
    again = protocols.budget_sweep(
        {"one": six[0]}, data.x, data.y, eps=[0.05, 0.1], attacks=["fgsm"], dataset="data"
    )
    assert again.rows == found["rows"]
    for arguments, message in [
        (("repeated", *given, "--samples", 41, "--eps", 0.1), "at most the 40"),
        (("n-of-six", *given, "--samples", 9), "six of a kind"),
        (("n-of-six", *given, "--size", 6), "1<=x<=5"),
        (("transfer-matrix", *given, *given[:2]), "each name may be given once"),
        (("all-targets", "--model", "gone.keras"), "gone.keras"),
        (("all-targets", *given, "--norm", 2), "--norm needs --eps"),
        (("budget-sweep", *given, "--eps", "0.1,x"), "is not a number"),
        (("sweep", *given), "No such command"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr and "Traceback" not in result.output


ATTACKS = ["pgd:eps=0.1,max_iter=20", "hsja:max_iter=3"]
KILLED = """
import sys
import keras, kerasrobust
from kerasrobust.evaluation import pieces
run = pieces.run_batch
def told(*arguments):
    found = run(*arguments)
    print("batch", flush=True)
    return found
pieces.run_batch = told
models = [kerasrobust.models.load(path) for path in sys.argv[2:4]]
data = kerasrobust.datasets.load(sys.argv[4], samples=32)
kerasrobust.protocols.transfer_matrix(
    models, data.x, data.y, attacks=["pgd:eps=0.1,max_iter=20", "hsja:max_iter=3"],
    batch_size=8, output=sys.argv[1],
)
"""


@pytest.mark.slow
def test_killed_and_run_again(six, samples, tmp_path, monkeypatch):
    """The same table, and no batch that was finished is computed twice."""
    paths = [tmp_path / f"m{number}.keras" for number in range(2)]
    for model, path in zip(six, paths, strict=False):
        model.save(path)
    np.savez(tmp_path / "data.npz", x=samples[0], y=samples[1])

    batches, run = [], pieces.run_batch
    monkeypatch.setattr(pieces, "run_batch", lambda *of: batches.append(0) or run(*of))

    def matrix(folder):
        batches.clear()
        data = kerasrobust.datasets.load(tmp_path / "data.npz", samples=32)
        arguments = {"attacks": ATTACKS, "batch_size": 8, "output": tmp_path / folder}
        return protocols.transfer_matrix(paths, data.x, data.y, **arguments)

    whole = matrix("whole")
    every = len(batches)
    assert every == 2 * 2 * 4
    command = [sys.executable, "-c", KILLED, tmp_path / "killed", *paths, tmp_path / "data.npz"]
    killed, before = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), 0
    while before < 6:
        assert killed.stdout.readline() == "batch\n"
        before += 1
    os.kill(killed.pid, signal.SIGKILL)
    before += killed.communicate()[0].count("batch")
    assert killed.returncode == -signal.SIGKILL and before < every
    resumed = matrix("killed")
    # The last one may have been told of but not stored.
    assert every - before <= len(batches) <= every - before + 1
    assert resumed == whole and str(resumed) == str(whole)
    assert ProtocolResult.load(tmp_path / "killed") == whole
