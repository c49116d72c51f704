"""Several budgets, targets, draws, chosen samples, runs that end early: linear models, by hand."""

import json
import math

import jsonschema
import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import EvaluationInterrupted, conclusion, evaluate, pieces, resolve
from kerasrobust.evaluation import report as report_module
from kerasrobust.evaluation.draws import draw
from kerasrobust.evaluation.renderers import files

SHAPE, N = (4, 4, 1), 60
WEIGHTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
LINF = np.abs(WEIGHTS[:, None] - WEIGHTS[:, :, None]).sum(axis=0)
BUDGETS = [0.004, 0.008, 0.016]


@pytest.fixture(scope="module")
def model():
    """Three classes; the pixels' middle is the middle of all."""
    inputs = keras.Input(SHAPE)
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs, name="linear")
    model.set_weights([WEIGHTS, -0.5 * WEIGHTS.sum(axis=0)])
    return Classifier(model, (0, 1))


@pytest.fixture(scope="module")
def data():
    """Samples far from the box, one in ten with the wrong label."""
    x = np.random.default_rng(1).uniform(0.45, 0.55, (N, *SHAPE)).astype(np.float32)
    y = logits(x).argmax(axis=1)
    y[::10] = (y[::10] + 1) % 3
    return x, y


def logits(x):
    return (x.reshape(len(x), -1) - 0.5) @ WEIGHTS


def distances(x, y, norm):
    """To each wrong class's half-space in closed form, `[n, classes]`; infinite to the own one."""
    z = logits(x)
    gaps = z[np.arange(len(y)), y][:, None] - z
    difference = WEIGHTS.T[y][:, None] - WEIGHTS.T[None]
    lengths = np.abs(difference).sum(axis=2) if norm == math.inf else None
    lengths = np.linalg.norm(difference, axis=2) if lengths is None else lengths
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, np.maximum(gaps, 0) / lengths, np.inf)


def right(x, y):
    return logits(x).argmax(axis=1) == y


def counted(monkeypatch, stop=None):
    """Names of the attacks, batch by batch; Ctrl-C in the place of one of them."""
    ran, run = [], pieces.run_batch

    def counting(attack, *arguments):
        ran.append(attack.name)
        if len(ran) - 1 == stop:
            raise KeyboardInterrupt
        return run(attack, *arguments)

    monkeypatch.setattr(pieces, "run_batch", counting)
    return ran


def valid(report):
    jsonschema.Draft202012Validator(report_module.schema()).validate(report.to_dict())
    return report


def test_several_budgets_are_one_run(model, data, monkeypatch):
    """Each row as the attack gives it; one program; an attack without a budget runs once."""
    x, y = data
    ran = counted(monkeypatch)
    before = dict(model.traces)
    report = valid(evaluate(model, x, y, attacks=["fgsm", "deepfool"], eps=BUDGETS))
    assert ran == ["fgsm"] * 3 + ["deepfool"]
    new = {key: n - before.get(key, 0) for key, n in model.traces.items() if "fgsm:" in key}
    assert new and set(new.values()) == {1}
    names = [f"{name}@{eps:g}" for name in ("fgsm", "deepfool") for eps in BUDGETS]
    assert list(report.attacks) == names
    found, stands = report.robust["budgets"], right(x, y)
    assert found["eps"] == [0.0, *BUDGETS] and found["norm"] == math.inf
    point = kerasrobust.attacks.get("deepfool").bind(model).generate(x, y)
    length = np.abs(point - x).reshape(N, -1).max(axis=1)
    nearest = distances(x, y, math.inf).min(axis=1)
    for eps, left in zip(BUDGETS, found["accuracy"][1:], strict=True):
        row = report.attacks[f"fgsm@{eps:g}"]
        assert row.config["eps"] == eps
        towards = kerasrobust.attacks.get("fgsm", eps=eps).bind(model).generate(x, y)
        holds = right(x, y) & (logits(towards).argmax(axis=1) == y)
        np.testing.assert_array_equal([mark == "1" for mark in row.outcomes], holds)
        far = right(x, y) & (length > eps * (1 + 1e-4))
        assert report.attacks[f"deepfool@{eps:g}"].accuracy == far.mean()
        stands = stands & holds & far
        assert left == stands.mean() >= (right(x, y) & (nearest > eps)).mean()
    assert 0.9 > found["accuracy"][1] > found["accuracy"][2] > found["accuracy"][3] > 0
    assert found["accuracy"][0] == report.clean_accuracy
    assert report.robust_accuracy == found["accuracy"][-1]
    assert (report.settings["eps"], report.settings["budgets"]) == (BUDGETS[-1], BUDGETS)
    # One run, however many read it.
    free = [report.attacks[f"deepfool@{eps:g}"] for eps in BUDGETS[1:]]
    assert {(row.seconds, row.executed_gradients) for row in free} == {(0.0, 0)}
    told = str(report)
    assert "within Linf 0.004, 0.008, 0.016" in told and "Accuracy by budget" in told
    verdict = "withstand every attack within Linf 0.016 (95 % interval"
    assert verdict in report.to_markdown() and verdict in report.to_html()
    assert "## Accuracy by budget" in report.to_markdown()
    # The nearest points are those within the largest budget, of one attack.
    (row,) = report.robust["nearest"]
    assert row["attacks"] == ["deepfool@0.016"] and "Nearest adversaries" not in told
    assert row["accuracy"][0] == report.clean_accuracy


def test_what_runs_together():
    plan = resolve("pma+", eps=[0.1, 0.2], nb_classes=3)
    assert plan.groups() == [["pma@0.1", "apgd-ce@0.1"], ["pma@0.2", "apgd-ce@0.2"]]
    assert [plan.attacks[f"pma@{eps}"].eps for eps in (0.1, 0.2)] == [0.1, 0.2]
    plan = resolve(["ddn", "pgd"], eps=[0.1, 0.2], norm=2)
    assert plan.groups() == [["ddn@0.1", "ddn@0.2"], ["pgd@0.1"], ["pgd@0.2"]]
    assert plan.criterion_of("ddn@0.1").eps == 0.1 and plan.criterion.eps == 0.2
    assert resolve("pgd", eps=[0.1]).groups() == [["pgd"]]


def test_attacks_of_one_budget_are_held_against_each_other(model, data, monkeypatch):
    """One step at a large budget is no sign against many at a small one."""
    x, y = data
    seen = []
    seeing = lambda rows, *_, **__: seen.append(list(rows)) or []  # noqa: E731
    monkeypatch.setattr(conclusion, "diagnose", seeing)
    evaluate(model, x, y, attacks=["fgsm", "fgsm"], eps=BUDGETS[:2])
    assert seen == [["fgsm@0.004", "fgsm_2@0.004"], ["fgsm@0.008", "fgsm_2@0.008"]]


@pytest.mark.slow
def test_budgets_of_a_cascade_are_cascades(model, data):
    x, y = data
    report = evaluate(model, x[:20], y[:20], attacks="pma+", eps=BUDGETS[:2])
    assert list(report.attacks) == [f"{n}@{e:g}" for e in BUDGETS[:2] for n in ("pma", "apgd-ce")]
    alone = evaluate(model, x[:20], y[:20], attacks="pma+", eps=BUDGETS[1])
    assert report.robust_accuracy == alone.robust_accuracy
    assert report.attacks["apgd-ce@0.008"].outcomes == alone.attacks["apgd-ce"].outcomes


def test_what_is_found_within_a_budget_counts_within_a_larger_one(model, data):
    """A larger step may pass over what a smaller one meets: the worst case does not rise."""
    x, y = data
    report = evaluate(model, x, y, attacks="fgsm", eps=[0.01, 0.3])
    small, large = (report.attacks[f"fgsm@{eps}"].outcomes for eps in ("0.01", "0.3"))
    both = [a == b == "1" for a, b in zip(small, large, strict=True)]
    assert report.robust_accuracy == np.mean(both)


@pytest.mark.parametrize("targets", ["random", "next", "least_likely"])
def test_targets_of_a_choice(model, data, targets, monkeypatch):
    x, y = data
    evaluation = pieces.Evaluation(model, x, y, attacks="fgsm", targets=targets, seed=3)
    attack = evaluation.plan.attacks["fgsm"]
    assert attack.targeted and (evaluation.targets != y).all()
    scores = np.where(np.arange(3) == y[:, None], np.inf, logits(x))
    expected = {
        "random": (y + np.random.default_rng(3).integers(1, 3, N)) % 3,
        "next": (y + 1) % 3,
        "least_likely": scores.argmin(axis=1),
    }
    np.testing.assert_array_equal(evaluation.targets, expected[targets])


def test_every_wrong_class_in_turn(model, data, monkeypatch):
    """DDN finds the nearest class of all; FGSM towards each class is exact on a linear model."""
    x, y = data
    ran = counted(monkeypatch)
    report = valid(
        evaluate(
            model,
            x,
            y,
            attacks=["ddn:max_iter=250", "fgsm:eps=0.008"],
            targets="all",
            keep_adversaries=True,
        )
    )
    assert ran == ["ddn", "ddn", "fgsm", "fgsm"]
    held, nearest = right(x, y), distances(x, y, 2.0).min(axis=1)
    found = report.samples.results["ddn"]
    assert found.success.all() and found.targeted
    ours = found.l2[held]
    assert np.median(ours / nearest[held]) < 1.2 and (ours > nearest[held] * 0.999).all()
    wanted = distances(x, y, 2.0).argmin(axis=1)
    assert np.mean(found.y[held] == wanted[held]) > 0.8
    # Its target is the class it ends in, and the passes are those of both runs.
    np.testing.assert_array_equal(logits(found.x_adv).argmax(axis=1), found.y)
    assert (found.gradients[held] == 2 * 250).all()
    # Who is wrong already has fallen, whatever class the attack aims at.
    curve = report.attacks["ddn"].budget_curve["accuracy"]
    assert curve[0] == report.clean_accuracy == held.mean() and curve[-1] == 0
    stands = held.copy()
    for shift in (1, 2):
        recipe = kerasrobust.attacks.get("fgsm:eps=0.008", targeted=True)
        towards = recipe.bind(model).generate(x, (y + shift) % 3)
        stands &= logits(towards).argmax(axis=1) == y
        assert (
            report.attacks["fgsm"].accuracy < (held & (logits(towards).argmax(axis=1) == y)).mean()
        )
    outcomes = [mark == "1" for mark in report.attacks["fgsm"].outcomes]
    np.testing.assert_array_equal(outcomes, stands)
    assert report.settings["targets"] == "all"
    assert "which may be each of the wrong ones" in report.to_markdown()


def test_only_what_is_right(model, data):
    x, y = data
    held = right(x, y)
    assert 0 < held.sum() < N
    every = evaluate(model, x, y, attacks="fgsm", eps=0.01).robust["outcomes"]
    expected = "".join(mark for mark, one in zip(every, held, strict=True) if one)
    assert 0 < expected.count("1") < held.sum()
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    reports = [
        valid(evaluate(model, *given, attacks="fgsm", eps=0.01, only_correct=True, batch_size=16))
        for given in ((x, y), (stream,))
    ]
    for report in reports:
        assert report.clean_accuracy == 1.0 and report.settings["samples"] == held.sum()
        assert report.robust["outcomes"] == expected
        assert report.settings["only_correct"] == {"of": N, "accuracy": held.mean()}
        assert "only_correct" in [finding.code for finding in report.findings]
        assert f"% of {held.sum()} samples that are right without" in report.to_markdown()
    assert reports[0].settings["data"] == reports[1].settings["data"]


def test_draws_have_a_mean_and_a_deviation(model, data):
    x, y = data
    report = valid(evaluate(model, x, y, attacks="fgsm", eps=0.01, repeats=4, samples=15))
    rows = [np.sort(np.random.default_rng((0, number)).permutation(N)[:15]) for number in range(4)]
    np.testing.assert_array_equal(draw(x, y, 4, 15, 0), rows)
    clean = [right(x, y)[one].mean() for one in rows]
    assert report.clean["accuracy_draws"] == pytest.approx(clean)
    assert report.clean["accuracy_deviation"] == pytest.approx(np.std(clean, ddof=1))
    flags = np.array([mark == "1" for mark in report.robust["outcomes"]]).reshape(4, 15)
    values = flags.mean(axis=1)
    assert report.robust["accuracy_deviation"] == pytest.approx(np.std(values, ddof=1))
    assert report.robust_accuracy == pytest.approx(values.mean())
    assert report.settings["repeats"] == {"draws": 4, "samples": 15, "of": N}
    assert "dev. %" in str(report) and "the mean of 4 draws" in report.to_markdown()
    assert "dev. %" not in str(evaluate(model, x[:9], y[:9], attacks="fgsm", eps=0.01))


def test_a_limit_of_queries():
    plan = resolve(["square:max_queries=7", "simba", "fgsm"], max_queries=11)
    own = {name: attack.get_config().get("max_queries") for name, attack in plan.attacks.items()}
    assert own == {"square": 7, "simba": 11, "fgsm": None}
    given = kerasrobust.attacks.get("square")
    assert resolve([given], max_queries=5).attacks["square"].max_queries == 5
    assert given.max_queries is None


def test_an_interrupted_run_tells_of_no_budget_that_no_attack_had(model, data, monkeypatch):
    x, y = (part[:16] for part in data)
    options = {"attacks": "fgsm", "batch_size": 16, "probes": False}
    with monkeypatch.context() as patch:
        counted(patch, stop=2)
        with pytest.raises(EvaluationInterrupted) as stopped:
            evaluate(model, x, y, eps=[0.01, 0.02, 0.03], **options)
    report = valid(stopped.value.report)
    whole = evaluate(model, x, y, eps=[0.01, 0.02], **options)
    assert report.settings["partial"]["missing"] == ["fgsm@0.03"]
    assert report.settings["eps"] == 0.02 and report.settings["budgets"] == [0.01, 0.02]
    assert report.robust == whole.robust and "0.03" not in report.to_markdown().partition("- **")[0]


def test_a_run_that_is_interrupted_leaves_a_report(model, data, tmp_path, monkeypatch):
    """Ctrl-C in the third of four batches of the second attack of three."""
    x, y = data
    specs = ["fgsm:eps=0.01", "fgsm:eps=0.02", "fgsm:eps=0.03"]
    options = {"batch_size": 16, "output": tmp_path, "save_adversaries": True}
    whole = evaluate(model, x, y, attacks=specs, batch_size=16, keep_adversaries=True)
    monkeypatch.setattr(files, "draw", lambda report: {})
    with monkeypatch.context() as patch:
        counted(patch, stop=6)
        with pytest.raises(EvaluationInterrupted) as stopped:
            evaluate(model, x, y, attacks=specs, **options)
    report = valid(stopped.value.report)
    first = evaluate(model, x[:32], y[:32], attacks=specs[:2], batch_size=16)
    assert list(report.attacks) == ["fgsm", "fgsm_2"]
    assert report.settings["partial"] == {"samples": 32, "of": N, "missing": ["fgsm_3"]}
    assert report.settings["samples"] == 32
    assert report.settings["data"] not in (whole.settings["data"], first.settings["data"])
    for name, row in first.attacks.items():
        assert report.attacks[name].outcomes == row.outcomes
        assert report.attacks[name].median_linf == row.median_linf
    assert report.robust == first.robust and report.clean == first.clean
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["settings"]["partial"]["of"] == N
    for name in ("report.md", "report.html"):
        told = (tmp_path / name).read_text()
        assert "Partial, the run was interrupted" in told and "without fgsm_3" in told
    assert len(kerasrobust.datasets.load(tmp_path / "adversarial" / "fgsm_2.npz")) == 32

    ran = counted(monkeypatch)
    again = evaluate(model, x, y, attacks=specs, **options)
    assert len(ran) == 2 + 4
    assert again.settings["partial"] is None
    assert {name: row.outcomes for name, row in again.attacks.items()} == {
        name: row.outcomes for name, row in whole.attacks.items()
    }
    for name, result in whole.samples.results.items():
        path = tmp_path / "adversarial" / f"{name}.npz"
        loaded = kerasrobust.datasets.load(path)
        np.testing.assert_array_equal(loaded.x, result.x_adv)
        np.testing.assert_array_equal(loaded.y, y)
        with np.load(path) as arrays:
            np.testing.assert_array_equal(arrays["indices"], np.arange(N))
            np.testing.assert_array_equal(arrays["success"], result.success)
            np.testing.assert_array_equal(arrays["labels"], result.labels)


def test_nothing_finished_is_no_report(model, data, monkeypatch):
    counted(monkeypatch, stop=0)
    with pytest.raises(EvaluationInterrupted) as stopped:
        evaluate(model, *data, attacks="fgsm")
    assert stopped.value.report is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": [0.2, 0.1]}, "must rise"),
        ({"eps": []}, "a list of budgets"),
        ({"eps": [0.1, -1]}, "number > 0"),
        ({"eps": [0.1, 0.2], "attacks": "pgd:eps=0.3"}, "leave its own to them"),
        ({"eps": [0.1, 0.2], "attacks": "linf-8/255"}, "budget of its own"),
        ({"targets": "worst"}, "`targets` must be one of"),
        ({"targets": "all", "attacks": "autoattack", "eps": 0.1}, "leaves the true class"),
        ({"max_queries": 0}, "integer >= 1"),
        ({"max_queries": 9}, "attacks that query a model"),
        ({"only_correct": True, "y": None}, "only labels tell"),
        ({"only_correct": True, "y": "wrong"}, "0 of 60 samples right"),
        ({"repeats": 0}, "integer >= 1"),
        ({"samples": 5}, "give `repeats`"),
        ({"repeats": 2, "samples": 61}, "at most the 60"),
        ({"save_adversaries": True}, "written to `output`"),
    ],
)
def test_what_does_not_fit_is_told_before_any_attack(model, data, options, message, monkeypatch):
    ran = counted(monkeypatch)
    x, y = data
    options = {"attacks": "fgsm", "y": y, **options}
    if isinstance(options["y"], str):
        options["y"] = (logits(x).argmax(axis=1) + 1) % 3
    with pytest.raises(ValueError, match=message):
        evaluate(model, x, **options)
    assert not ran
