"""A batch gives the same result alone, in any order, on a resumed run and in another process."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks, evaluate
from kerasrobust.engine import source
from kerasrobust.engine.batches import run_batch
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.conclusion import conclude
from kerasrobust.evaluation.pieces import Evaluation

# Everything of a result but the time it took.
TIMES = ("seconds",)
REQUEST = {
    "areb": {
        "attacks": [
            "pgd:eps=0.2,eps_step=0.05,max_iter=5,num_random_init=2",
            "hsja:max_iter=2,max_eval=30,init_eval=30",
        ]
    },
    "cascade": {"attacks": "autoattack", "eps": 0.1, "norm": "inf"},
}


def same(one: AttackResult, other: AttackResult) -> None:
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
        elif name not in (*TIMES, "columns", "x"):
            assert value == getattr(other, name), name


def make(model, x, y, request, **options):
    return Evaluation(model, x, y, **REQUEST[request], batch_size=16, **options)


@pytest.mark.parametrize("request_name", ["areb", pytest.param("cascade", marks=pytest.mark.slow)])
def test_any_order(digits_model, digits, timeless, request_name):
    x, y = digits[0][:40], digits[1][:40]
    forwards = make(digits_model, x, y, request_name, keep_adversaries=True)
    backwards = make(digits_model, x, y, request_name, keep_adversaries=True)
    units = list(forwards.units())
    assert len(units) == (3 if request_name == "cascade" else 6)
    for unit in units:
        forwards.compute(unit)
    for unit in reversed(units):
        backwards.compute(unit)
    report = conclude(forwards)
    for name in report.attacks:
        same(forwards.result(name), backwards.result(name))
    assert timeless(report) == timeless(conclude(backwards))


def test_a_batch_alone(digits_model, digits):
    x, y = digits[0][:40], digits[1][:40]
    attack = attacks.get("hsja", max_iter=2, max_eval=30, init_eval=30, batch_size=16)
    attack = attack.bind(digits_model)
    whole = attack.run(x, y)
    prologue = attack.prologue(source.Source(x, y, attack.bound))
    rows = np.arange(16, 32)
    alone = run_batch(attack, attack.batch(1, rows, 40, {"x": x[rows]}, y[rows]), prologue)
    np.testing.assert_array_equal(alone.x_adv, whole.x_adv[rows])
    np.testing.assert_array_equal(alone.queries, whole.queries[rows])


WORKER = """
    import sys, numpy as np, keras, kerasrobust
    from kerasrobust.evaluation.pieces import Evaluation
    folder, share = sys.argv[1], int(sys.argv[2])
    model = keras.saving.load_model(folder + "/model.keras")
    data = np.load(folder + "/data.npz")
    run = Evaluation(
        model, data["x"], data["y"], attacks=["pgd:eps=0.2,num_random_init=1,max_iter=5"],
        batch_size=16, output=folder + "/out",
    )
    for unit in list(run.units())[share::2]:
        run.compute(unit)
"""


@pytest.mark.slow
def test_two_processes_share_a_run(digits_model, digits, timeless, tmp_path):
    x, y = digits[0][:64], digits[1][:64]
    digits_model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    workers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path), str(share)])
        for share in range(2)
    ]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    request = {"attacks": ["pgd:eps=0.2,num_random_init=1,max_iter=5"], "batch_size": 16}
    stored = sorted(path.name for path in (tmp_path / "out" / "results").iterdir())
    assert len(stored) == 4
    together = evaluate(
        digits_model, x, y, **request, output=tmp_path / "out", keep_adversaries=True
    )
    # Found, every one of them: nothing was computed anew.
    assert sorted(path.name for path in (tmp_path / "out" / "results").iterdir()) == stored
    alone = evaluate(digits_model, x, y, **request, keep_adversaries=True)
    same(alone.samples.results["pgd"], together.samples.results["pgd"])
    assert timeless(alone)["attacks"] == timeless(together)["attacks"]


@pytest.mark.slow
def test_the_store_tells_a_cascade_from_an_attack(digits_model, digits, timeless, tmp_path):
    """The rows of AutoAttack are cumulative: Square's alone must not be taken for its last one."""
    x, y = digits[0][:24], digits[1][:24]
    budget = {"eps": 0.15, "norm": "inf"}
    square = "square:max_iter=5000"
    alone = evaluate(digits_model, x, y, attacks=square, **budget)
    cascade = evaluate(digits_model, x, y, attacks="autoattack", **budget)
    for folder, order in (("a", ("autoattack", square)), ("b", (square, "autoattack"))):
        for request in order:
            report = evaluate(
                digits_model, x, y, attacks=request, **budget, output=tmp_path / folder
            )
            expected = cascade if request == "autoattack" else alone
            assert timeless(report)["attacks"] == timeless(expected)["attacks"]


def stream(x, y, size):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


@pytest.mark.parametrize("size", [7, 16, 64])
def test_a_stream_is_the_array(digits_model, digits, timeless, size):
    x, y = digits[0][:40], digits[1][:40]
    request = {**REQUEST["areb"], "batch_size": 16}
    of_array = evaluate(digits_model, x, y, **request)
    of_stream = evaluate(digits_model, stream(x, y, size), **request)
    assert timeless(of_stream) == timeless(of_array)


def test_a_stream_is_never_whole_in_memory(digits_model, digits, monkeypatch):
    x, y = digits[0][:64], digits[1][:64]
    held = []
    monkeypatch.setattr(source.Source, "whole", lambda self: held.append(1))
    report = evaluate(digits_model, stream(x, y, 8), attacks="fgsm:eps=0.1", batch_size=16)
    assert not held and report.samples.x is None
    assert report.samples.results["fgsm"].x_adv is None


def test_a_stream_that_shuffles_anew_is_an_error(digits_model, digits):
    x, y = digits[0][:40], digits[1][:40]
    shuffled = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(40).batch(8)
    with pytest.raises(ValueError, match="same samples in the same order"):
        evaluate(digits_model, shuffled, attacks="fgsm:eps=0.1")


def test_blocks_in_any_order(digits_model, digits):
    x, y = digits[0][:40], digits[1][:40]
    classifier = Classifier.of(digits_model)
    array, data = source.Source(x, y, classifier), source.Source(stream(x, y, 9), None, classifier)
    assert len(data) == 40 and data.fingerprint == array.fingerprint
    for index in (2, 0, 1, 2):
        for name in ("x", "y"):
            np.testing.assert_array_equal(
                getattr(data.block(index, 16), name), getattr(array.block(index, 16), name)
            )
    rows = np.array([39, 0, 17, 17])
    np.testing.assert_array_equal(data.take(rows), x[rows])
