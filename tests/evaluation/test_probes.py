"""Findings that cost passes: there where an attack fails what it must not, and only there."""

import math

import jsonschema
import keras
import numpy as np
import pytest

from kerasrobust import Classifier, evaluate
from kerasrobust.attacks import ProjectedGradientDescent
from kerasrobust.engine.source import Source
from kerasrobust.evaluation.conclusion import conclude
from kerasrobust.evaluation.diagnosis import Subject, planted, probes
from kerasrobust.evaluation.pieces import Evaluation
from kerasrobust.evaluation.report import schema
from kerasrobust.evaluation.summary import summarise

SHAPE, CLASSES, NAN = (4, 4, 1), 3, math.nan
GRAVE = ("invalid", "doubtful")


def linear(*front, end=()):
    """A linear model around the middle of the box, behind some layers."""
    model = keras.Sequential(
        [keras.Input(SHAPE), *front, keras.layers.Flatten(), keras.layers.Dense(CLASSES), *end]
    )
    kernel = np.random.default_rng(2).normal(size=(16, CLASSES)).astype(np.float32)
    dense = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    dense.set_weights([kernel, -kernel.sum(axis=0) / 2])
    return model


def layer(function):
    return keras.layers.Lambda(function)


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(5).uniform(0.3, 0.7, (40, *SHAPE)).astype(np.float32)
    return x, linear().predict(x, verbose=0).argmax(axis=1)


def grave(report):
    return {finding.code for finding in report.findings if finding.severity in GRAVE}


def rounded(v):
    return keras.ops.round(1000 * v) / 1000 + 0 * v  # a gradient of zero, and not none


def shattered(v):
    # Slopes of up to 200 whose sign changes within a thousandth of the box.
    return v + 0.02 * keras.ops.sin(v * 1e4)


def rooted(v):
    return v + keras.ops.sqrt(keras.ops.relu(v - 0.6)) / 100


PGD = "pgd:eps=0.05,max_iter=10"
TABLE = {
    "plain": (linear, PGD, set()),
    "logits times 1,000": (lambda: linear(end=[layer(lambda z: 1000.0 * z)]), PGD, set()),
    "dropout": (lambda: linear(keras.layers.Dropout(0.5)), PGD, set()),
    "rounded input": (
        lambda: linear(layer(rounded)),
        PGD,
        {
            *("zero_gradients", "unbounded_attack_fails", "attack_misses_planted"),
            "noise_as_good",
        },
    ),
    "steps of 1e-6": (
        linear,
        "pgd:eps=0.05,max_iter=10,eps_step=1e-6",
        {
            *("short_steps", "unbounded_attack_fails", "attack_misses_planted"),
            "noise_as_good",
        },
    ),
    "steps that do not reach the edge": (
        linear,
        "pgd:eps=0.05,max_iter=5,eps_step=0.004",
        {"short_steps", "still_gains"},
    ),
    "shattered": (lambda: linear(layer(shattered)), PGD, {"unstable_gradients"}),
    "gradients without end": (lambda: linear(layer(rooted)), PGD, {"non_finite_gradients"}),
}


FAST = ("plain", "rounded input")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in TABLE]
)
def test_the_table_on_tiny_models(name, data, probes):
    model, attack, wanted = TABLE[name]
    model = model()
    y = model.predict(data[0], verbose=0).argmax(axis=1)
    report = evaluate(model, data[0], y, attacks=attack)
    found = grave(report)
    assert wanted <= found if wanted else not found
    jsonschema.validate(report.to_dict(), schema())
    measured = report.settings["probes"]
    assert measured["samples"] <= 40 and measured["gradients"] > 0
    for finding in report.findings:
        row = measured["measured"].get(finding.code)
        assert row is None or (row["value"], row["threshold"]) == (finding.value, finding.threshold)


@pytest.mark.slow
def test_a_run_that_goes_on_gives_the_same_report(data, probes, tmp_path, timeless, monkeypatch):
    attacks = [PGD, "ddn:max_iter=20"]
    model = linear()
    first = evaluate(model, *data, attacks=attacks, output=tmp_path)
    stored = sorted((tmp_path / "results").iterdir())
    again = [path for path in stored if "again" in path.name]
    # Full box, twice the steps where PGD left something, twice the steps of DDN.
    assert len(again) == 3
    again[0].unlink()
    runs = []
    run = ProjectedGradientDescent.run

    def counted(self, *given, **options):
        runs.append(self)
        return run(self, *given, **options)

    monkeypatch.setattr(ProjectedGradientDescent, "run", counted)
    second = evaluate(model, *data, attacks=attacks, output=tmp_path)
    assert timeless(second) == timeless(first)
    assert sorted((tmp_path / "results").iterdir()) == stored
    assert len([one for one in runs if one.bound.nb_classes == CLASSES]) <= 1


def test_none_unless_asked_for(data, probes):
    report = evaluate(linear(), *data, attacks=PGD, probes=False)
    assert report.settings["probes"] is None


def test_what_cannot_be_probed_says_why(data, probes):
    model = linear()
    found = evaluate(lambda x: model(x).numpy(), *data, attacks="square:eps=0.05,max_iter=3")
    assert found.settings["probes"] == {
        **dict(samples=0, queries=0, gradients=0, measured={}),
        "skipped": {"all": "the model has no gradient"},
    }
    aimed = evaluate(model, *data, attacks=dict(name="pgd", config=dict(targeted=True)))
    assert aimed.settings["probes"]["skipped"]["all"] == "no untargeted white-box attack"
    noisy = evaluate(linear(Drawn()), *data, attacks=PGD).settings["probes"]
    assert noisy["skipped"]["others"] == "the model draws at inference"
    assert list(noisy["measured"]) == ["unbounded_attack_fails"]
    other = Classifier(model, judge=linear(layer(rounded)))
    crafted = evaluate(other, *data, attacks=PGD).settings["probes"]
    assert "another model" in crafted["skipped"]["all"]


class Drawn(keras.layers.Layer):
    """Noise at inference."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), stddev=0.3, seed=self.generator)


# ---- each by itself ---------------------------------------------------------------------------


def stub(make_result, make_attack, shifts, again, kind="minimal", norm=2, config=None, **options):
    """What `probes` are given for one attack: subject, row, result."""
    config = config or {"max_iter": 10}
    result = make_result(shifts, name="fmn", config=config, x=None, x_adv=None)
    right = ~result.initially_adversarial
    y = np.zeros(len(shifts), np.int64)
    row = summarise("fmn", make_attack(kind, norm), result, y, right, 2, 1.0)
    asked = []

    def repeat(description, rows):
        asked.append(description)
        return None if again is None else make_result([again[i] for i in rows])

    subject = Subject(None, lambda rows: None, y, repeat, repeat, **options)
    return subject, row, {"fmn": result}, right, asked


def test_a_minimal_norm_attack_that_comes_nearer(make_result, make_attack):
    def gains(before, after, **options):
        subject, row, results, right, asked = stub(
            make_result, make_attack, before, after, **options
        )
        found = list(probes._gains(subject, None, [row], results, right))
        return found, subject, asked

    ((finding,), subject, asked) = gains([0.4] * 20, [0.3] * 20)
    assert asked == [{"name": "fmn", "config": {"max_iter": 20}}]
    # Four of sixteen pixels: L2 is twice the shift.
    assert finding.code == "still_gains" and "falls from 0.8 to 0.6" in finding.message
    assert finding.value == pytest.approx(0.25) and finding.threshold == 0.1
    assert finding.command == 'kr-eval ... --attacks "fmn:max_iter=20"'
    assert subject.measured["still_gains: fmn"]["samples"] == 20
    assert (subject.queries, subject.gradients) == (190, 60)  # as make_result has it
    # Less than a tenth; on too few samples to tell; farther, which the shorter run makes good.
    assert not gains([0.4] * 20, [0.37] * 20)[0]
    assert not gains([0.4] * 4, [0.3] * 4)[0]
    assert not gains([0.4] * 20, [0.5] * 20)[0]
    # Failures count as infinite: found now, or as little as before.
    ((finding,), _, _) = gains([NAN] * 20, [0.3] * 20)
    assert finding.value == 1
    assert not gains([NAN] * 20, [NAN] * 20)[0]
    assert gains([0.4] * 20, None)[1].skipped == {"still_gains: fmn": "cannot be repeated"}
    # In a row of attacks the outcome holds what those before it did.
    assert gains([0.4] * 20, [0.3] * 20, in_a_row=True)[2] == []


def test_an_attack_that_breaks_more_with_twice_its_budget(make_result, make_attack):
    config = {"eps": 0.4, "max_iter": 10, "num_random_init": 3}

    def gains(more):
        before, after = [0.3] * 10 + [NAN] * 64, [NAN] * 10 + [0.3] * 2 * more + [NAN] * 64
        subject, row, results, right, asked = stub(
            make_result, make_attack, before, after, "budget", math.inf, config
        )
        found = list(probes._gains(subject, row, [row], results, right))
        return found, asked[0]["config"]

    # Every second of 64: the exact test of 5 % asks for five of 32.
    assert not gains(4)[0]
    (finding,), asked = gains(5)
    assert asked == {"eps": 0.4, "max_iter": 20, "num_random_init": 6}
    assert "breaks 5" in finding.message and finding.value == 5 / 32
    assert finding.command.endswith('"fmn:eps=0.4,max_iter=20,num_random_init=6"')


def test_random_points_lie_where_they_should():
    radius = np.array([0.1, 0.5], np.float32)
    for norm in (1.0, 2.0, math.inf):
        for surface in (False, True):
            points = probes._random((2, 30), radius, norm, (2**32 - 1, 1), surface)
            lengths = np.linalg.norm(points, ord=norm, axis=1)
            assert (lengths <= radius * 1.00001).all()
            assert surface == np.allclose(lengths, radius, rtol=1e-5)
    assert (np.abs(points) == radius[:, None]).all()  # corners


def test_cosines_of_gradients_of_any_size():
    one = np.array([[3.0, 4.0], [1e-30, 0.0], [0.0, 0.0], [1e30, 1e30]], np.float32)
    other = np.array([[4.0, 3.0], [0.0, 1e30], [1.0, 0.0], [1.0, 1.0]], np.float32)
    found = probes._cosine(one, other)
    np.testing.assert_allclose(found, [0.96, 0, NAN, 1], rtol=1e-6)


def test_a_readout_tells_the_planted_point_from_the_others():
    draw = np.random.default_rng(1)
    inner, outer = draw.normal(size=(99, 6)), np.stack([np.zeros(6), np.full(6, 2.0)])
    kernel, bias = planted._readout(inner, outer)
    scores = inner @ kernel + bias
    assert scores.max() == pytest.approx(-0.999)
    assert outer[1] @ kernel + bias == pytest.approx(0.001)
    # Among the others, without spread, not finite: none.
    for rest, points in ((inner, outer[:1]), (inner * 0, outer), (inner, outer * np.nan)):
        assert planted._readout(rest, points)[0] is None


def test_a_planted_point_is_adversarial_and_found():
    """The score of the readout at the planted point is 0.001, whatever the unit of the pixels."""
    x = np.random.default_rng(0).uniform(60, 190, (3, *SHAPE)).astype(np.float32)
    seen = Classifier(linear(keras.layers.Rescaling(1 / 255)), (0, 255))
    description = {"name": "pgd", "config": {"eps": 9.0, "max_iter": 10, "norm": 2}}
    found = planted.plant(seen, description, x, eps=9.0, norm=2.0)
    assert found.planted.all() and found.found.all()
    assert found.gradients == 30 and found.queries >= 3 * 200
    none = {"name": "pgd", "config": {"eps": 9.0, "max_iter": 2, "eps_step": 1e-3}}
    assert not planted.plant(seen, none, x, eps=9.0, norm=2.0).found.any()
    dlr = {"name": "apgd", "config": {"eps": 9.0, "loss_type": "difference_logits_ratio"}}
    assert "cannot attack two classes" in planted.plant(seen, dlr, x, eps=9.0, norm=math.inf)


def test_probes_take_no_more_than_their_share(data, probes, monkeypatch):
    """Of many samples some, and those are read once for all probes."""
    taken, take = [], Source.take
    monkeypatch.setattr(Source, "take", lambda self, rows: taken.append(rows) or take(self, rows))
    x, y = (np.repeat(part, 5, axis=0) for part in data)
    evaluation = Evaluation(linear(), x, y, attacks=PGD, probes=True)
    evaluation.run()
    settings = conclude(evaluation).settings["probes"]
    assert 32 <= settings["samples"] <= 3 * 32
    rows = [row["samples"] for row in settings["measured"].values()]
    assert max(rows) <= 32 and len(rows) >= 5
    assert len(taken) == 2  # and those that pictures show
