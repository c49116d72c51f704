"""Sweeps, combinations and the choice: by hand, then on a small model."""

import json
import math
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import kerasrobust
from kerasrobust.datasets import Dataset
from kerasrobust.engine import store
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import pieces, tuning
from kerasrobust.evaluation.provenance import spans
from kerasrobust.evaluation.tuning import Row, chance, choose

# The package has a function of this name.
SWEEP = ["feature_squeezing:bit_depth=2,1", "spatial_smoothing:window_size=3"]
FGSM = "fgsm:eps=0.2"
TRAIN = Dataset("two", "train", np.zeros((2, 8, 8, 1)), np.arange(2), ("0", "1"), (0.0, 1.0))


def row(name, clean, worst, n=100, shift=0):
    """So many samples right, and so many of them under attack, counted from `shift`."""
    places = np.arange(n)
    stands = (places - shift) % n < worst
    return Row(name, "exact", places < clean, {"fgsm": stands}, stands, [])


def test_the_highest_worst_case_that_keeps_the_clean_accuracy():
    undefended = row("undefended", 90, 10)
    rows = [row("a", 89, 40), row("b", 88, 50), row("c", 87, 60)]
    assert choose(rows, undefended).name == "b"  # c loses three points
    assert choose(rows, undefended, max_loss=0.03).name == "c"
    assert choose(rows, undefended, max_loss=0.01).name == "a"
    assert choose(rows, undefended, max_loss=0.0) is undefended


def test_equal_ones_go_to_the_higher_clean_accuracy_then_to_the_first():
    undefended = row("undefended", 90, 10)
    rows = [row("a", 89, 50), row("b", 91, 50), row("c", 91, 50)]
    assert choose(rows, undefended).name == "b"


def test_a_gain_that_chance_explains_is_none():
    """McNemar: the samples that differ count, by a binomial of one half."""
    undefended = row("undefended", 90, 10)
    assert chance(row("a", 90, 15), undefended) == pytest.approx(0.5**5)
    assert chance(row("a", 90, 10, shift=3), undefended) == 1.0
    assert chance(row("a", 90, 9), undefended) == 1.0
    # Four fell, seven came: at least seven of eleven.
    expected = sum(math.comb(11, k) for k in range(7, 12)) / 2**11
    assert chance(row("a", 90, 13, shift=4), undefended) == pytest.approx(expected)
    assert choose([row("a", 90, 15)], undefended).name == "a"
    # 1/32 is below 5 %, but not below a half of it.
    assert choose([row("a", 90, 15), row("b", 90, 12)], undefended) is undefended


@pytest.fixture(scope="module")
def model():
    """The nearest class mean of the digits, as one linear layer."""
    train = kerasrobust.datasets.load("digits", "train")
    means = np.stack([train.x[train.y == label].mean(axis=0).ravel() for label in range(10)])
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    network.set_weights([means.T, -0.5 * np.sum(means**2, axis=1)])
    return network


@pytest.fixture(scope="module")
def samples(digits):
    return tuple(part[:40] for part in digits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def tuned(model, samples, folder):
    return kerasrobust.tune(
        model, *samples, attacks=FGSM, sweep=SWEEP, combinations=True, output=folder
    )


def test_rows_are_what_evaluate_finds(model, samples, tuned):
    assert tuned.complete and list(tuned.rows)[0] == "undefended"
    layers = ["feature_squeezing:bit_depth=1", "spatial_smoothing:window_size=3"]
    for defense in ([], layers[:1]):
        network = kerasrobust.wrap(model, defense) if defense else model
        gradient = "straight_through" if defense else "exact"
        seen = Classifier(network, (0, 1), gradient=gradient)
        report = kerasrobust.evaluate(seen, *samples, attacks=FGSM)
        found = tuned.rows[" + ".join(defense) or "undefended"]
        assert found.gradient == gradient
        assert found.clean_accuracy == report.clean_accuracy
        assert found.robust_accuracy == report.robust_accuracy
        np.testing.assert_array_equal(found.worst, report.samples.survived)
        np.testing.assert_array_equal(found.attacks["fgsm"], found.worst)


def test_combinations_take_the_best_value_of_each_in_the_order_given(tuned):
    best = [tuned.best(sweep).name for sweep in tuned.sweeps]
    assert best[0].startswith("feature") and best[1] == SWEEP[1]
    assert tuned.combinations == [" + ".join(best)]
    values = [tuned.rows[spec] for spec in tuned.sweeps[0].specs]
    kept = [v for v in values if v.clean_accuracy >= tuned.undefended.clean_accuracy - 0.02]
    if kept:
        assert tuned.rows[best[0]].robust_accuracy == max(v.robust_accuracy for v in kept)
    else:
        assert tuned.rows[best[0]].clean_accuracy == max(v.clean_accuracy for v in values)


def test_what_is_written(tuned, folder):
    data = json.loads((folder / "tuning.json").read_text())
    assert [entry["name"] for entry in data["rows"]] == list(tuned.rows)
    assert data["chosen"] == tuned.chosen.name and data["rule"] == tuned.rule
    assert data["rows"][0]["robust"]["accuracy"] == tuned.undefended.robust_accuracy
    assert (folder / "tuning.png").stat().st_size > 1000
    assert (folder / "settings" / "undefended" / "report.md").exists()
    written, shown = (folder / "tuning.md").read_text(), str(tuned)
    for part in ("feature_squeezing, bit_depth", "combinations", "fgsm %", "straight_through"):
        assert part in written and part in shown
    assert written.rstrip().endswith(tuned.verdict)
    table = next(iter(tuned.tables().values()))
    assert table.rows[0][0] == "undefended" and table.rows[0][-1] == ""


def test_a_dataset_tells_where_its_samples_are_from(model):
    data = kerasrobust.datasets.load("digits", samples=5, seed=1)
    found = kerasrobust.tune(model, data, attacks=FGSM, sweep=SWEEP[:1])
    told = [found.settings[key] for key in ("dataset", "split", "indices", "samples")]
    assert told == ["digits", "test", spans(data.indices), 5]


def no_batch(*arguments, **options):
    raise AssertionError("a batch was computed")


def test_a_second_run_computes_nothing(model, samples, tuned, folder, monkeypatch):
    """Though layers of the same process have other names by then."""
    before = (folder / "tuning.json").read_text()
    monkeypatch.setattr(pieces, "run_batch", no_batch)
    monkeypatch.setattr(tuning, "conclude", no_batch)
    again = kerasrobust.tune(
        model, *samples, attacks=FGSM, sweep=SWEEP, combinations=True, output=folder
    )
    assert str(again) == str(tuned)
    assert (folder / "tuning.json").read_text() == before
    # Of other samples nothing is taken.
    with pytest.raises(AssertionError, match="a batch was computed"):
        kerasrobust.tune(
            model, *(part[1:] for part in samples), attacks=FGSM, sweep=SWEEP, output=folder
        )


def test_keys_know_layers_and_their_arguments_but_not_the_process(model):
    def key(*defense):
        wrapped = kerasrobust.wrap(model, list(defense))
        return store.fingerprint(Classifier(wrapped, gradient="straight_through"))

    one, other = "feature_squeezing:bit_depth=2", "spatial_smoothing:window_size=3"
    keys = [key(one), key(one.replace("2", "3")), key(one, other), key(other, one)]
    assert len(set(keys)) == 4
    assert key(one) == keys[0] and key(one, other) == keys[2]
    twice = kerasrobust.wrap(model, [one, one]).base
    assert [layer.name for layer in twice.layers[1:3]] == [
        "feature_squeezing",
        "feature_squeezing_1",
    ]


@pytest.mark.slow
def test_interrupted_by_hand(model, samples, tmp_path, monkeypatch):
    """What is finished is shown and stored; what was not is computed by the next run."""
    run, calls = pieces.run_batch, []

    def stopping(attack, *rest):
        calls.append(attack)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(attack, *rest)

    monkeypatch.setattr(pieces, "run_batch", stopping)
    arguments = {"attacks": FGSM, "sweep": SWEEP[1:], "output": tmp_path}
    with pytest.raises(kerasrobust.evaluation.TuningInterrupted) as stopped:
        kerasrobust.tune(model, *samples, **arguments)
    partial = stopped.value.tuning
    assert list(partial.rows) == ["undefended"] and not partial.complete
    assert str(partial).strip().endswith("Interrupted after 1 of 2 settings.")
    assert json.loads((tmp_path / "tuning.json").read_text())["chosen"] is None
    whole = kerasrobust.tune(model, *samples, **arguments)
    assert whole.complete and len(calls) == 3


@pytest.mark.slow
def test_training_defenses_train_a_copy_once(model, samples, tmp_path, monkeypatch):
    fits, fit = [], kerasrobust.models.fit

    def counted(model, *rest, **options):
        fits.append(model)
        return fit(model, *rest, **options)

    monkeypatch.setattr(tuning.models, "fit", counted)
    train = Dataset("few", "train", *samples, tuple("0123456789"), (0.0, 1.0))
    before = model.get_weights()
    arguments = {
        "attacks": FGSM,
        "sweep": ["label_smoothing:k=0.5", "feature_squeezing:bit_depth=3"],
        "combinations": True,
        "train": train,
        "epochs": 1,
        "output": tmp_path,
    }
    found = kerasrobust.tune(model, *samples, **arguments)
    (combined,) = found.combinations
    assert combined == "label_smoothing:k=0.5 + feature_squeezing:bit_depth=3"
    assert len(fits) == 1 and [d.k for d in fits[0].defenses] == [0.5]
    for weight, same in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)
    (path,) = (tmp_path / "models").iterdir()
    trained = kerasrobust.models.load(path)
    x, y = samples
    right = trained.predict(x, verbose=0).argmax(axis=1) == y
    np.testing.assert_array_equal(found.rows["label_smoothing:k=0.5"].clean, right)
    assert found.rows["label_smoothing:k=0.5"].gradient == "exact"
    again = kerasrobust.tune(model, *samples, **arguments)
    assert len(fits) == 1 and str(again) == str(found)


@pytest.mark.parametrize(
    "options, eps, unbounded",
    [
        ({}, 0.3, False),
        ({"eps": 0.1}, 0.1, False),
        ({"attacks": "deepfool:max_iter=1"}, None, True),
        ({"attacks": "deepfool:max_iter=1", "eps": 0.1, "norm": 2}, 0.1, False),
    ],
)
def test_budgets(options, eps, unbounded, model, samples, monkeypatch):
    """Without one no defense has a worst case against an attack on the nearest point."""
    monkeypatch.setattr(tuning, "ATTACKS", ("fgsm",))
    (x, y), row = samples, tuning.Row("", "exact", np.ones(1, bool), {}, np.ones(1, bool), [])
    monkeypatch.setattr(tuning.Runner, "row", lambda self, name, model, bar: row)
    found = kerasrobust.tune(model, x[:4], y[:4], sweep="jpeg:quality=50", **options)
    assert found.settings["eps"] == eps
    assert any("however far" in note for note in found.notes()) == unbounded


@pytest.mark.slow
def test_without_a_sweep_what_suits_the_images(model):
    trainer = tuning.Trainer(model, (0.0, 1.0), None, None, 0, None)
    sweeps = tuning.read_sweeps(None, trainer)
    names = [sweep.defense for sweep in sweeps]
    assert names[:3] == ["feature_squeezing", "spatial_smoothing", "jpeg"]
    assert "label_smoothing" not in names
    assert sweeps[0].values == [7, 6, 5, 4, 3, 2, 1]
    (alone,) = tuning.read_sweeps("jpeg", trainer)
    assert alone == sweeps[2]
    small = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten()])
    trainer = tuning.Trainer(small, (0.0, 1.0), None, None, 0, None)
    (window,) = (s for s in tuning.read_sweeps(None, trainer) if s.defense == "spatial_smoothing")
    assert window.values == [2, 3]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sweep": "jpeg:quality=50,500"}, "quality.*Received"),
        ({"sweep": "spatial_smoothing:window_size=9"}, "side of the images"),
        ({"sweep": "jpg:quality=50"}, "Did you mean 'jpeg'"),
        ({"sweep": "label_smoothing:k=0.5,0.9"}, "say how long by `epochs`"),
        ({"sweep": "magnet"}, "takes layers and training defenses"),
        ({"sweep": ["jpeg:quality=5", "jpeg:quality=6"]}, "swept once"),
        ({"sweep": []}, "`sweep` must be"),
        ({"sweep": "jpeg:quality=5", "combinations": True}, "two defenses or more"),
        ({"epochs": 3}, "`epochs` needs `train`"),
        ({"epochs": 3, "train": TRAIN}, "there is none in `sweep`"),
        ({"max_loss": 2}, "share from 0 to 1"),
        ({"gradient": "surogate"}, "`gradient` must be one of"),
        ({"attacks": "pdg"}, "Did you mean 'pgd'"),
        ({"y": None}, "true labels"),
    ],
)
def test_bad_input_is_told_before_any_attack(changes, message, model, samples, monkeypatch):
    monkeypatch.setattr(pieces, "run_batch", no_batch)
    arguments = {"sweep": "jpeg:quality=50", "attacks": FGSM, "y": samples[1], **changes}
    with pytest.raises(ValueError, match=message):
        kerasrobust.tune(model, samples[0], **arguments)


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
model = keras.saving.load_model(sys.argv[1])
data = kerasrobust.datasets.load("digits", "test", samples=32)
found = kerasrobust.tune(
    model, data.x, data.y, attacks=["fgsm:eps=0.2", "hsja:max_iter=3"],
    sweep=["feature_squeezing:bit_depth=2,1", "jpeg:quality=50"], combinations=True,
    batch_size=16, output=sys.argv[2],
)
"""


@pytest.mark.slow
def test_killed_and_run_again(model, tmp_path):
    """The same table, and no batch of a finished setting is computed twice."""
    model.save(tmp_path / "model.keras")

    def start(folder):
        command = [sys.executable, "-c", KILLED, tmp_path / "model.keras", tmp_path / folder]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    whole = start("whole")
    every = whole.communicate(timeout=300)[0].count("batch")
    assert whole.returncode == 0 and every == 5 * 2 * 2
    killed, before = start("killed"), 0
    while before < 7:  # in the middle of the second setting
        assert killed.stdout.readline() == "batch\n"
        before += 1
    os.kill(killed.pid, signal.SIGKILL)
    # Another one may have been finished in the meantime.
    before += killed.communicate()[0].count("batch")
    assert killed.returncode == -signal.SIGKILL and before < every
    again = start("killed")
    after = again.communicate(timeout=300)[0].count("batch")
    # One may have been computed, but not stored.
    assert again.returncode == 0 and every <= before + after <= every + 1
    for name in ("tuning.json", "tuning.md"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
