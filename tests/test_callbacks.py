"""RobustAccuracy, and the checkpoint that lets a run go on after an interruption."""

import csv
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.callbacks import RobustAccuracy
from kerasrobust.evaluation.provenance import spans

FGSM = "fgsm:eps=0.05"
PGD = "pgd:eps=0.05,eps_step=0.02,max_iter=4"


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits", "train", samples=192), datasets.load("digits", samples=64)


def network(dropout=0.0):
    """Always the same weights."""
    first, second = (keras.initializers.GlorotUniform(seed) for seed in (0, 1))
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, "relu", kernel_initializer=first),
            keras.layers.Dropout(dropout, seed=7),
            keras.layers.Dense(10, "softmax", kernel_initializer=second),
        ]
    )


class Watch(keras.callbacks.Callback):
    """Keeps a copy of the logs and of the weights of every epoch."""

    def __init__(self):
        super().__init__()
        self.logs, self.weights = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        self.weights.append(self.model.get_weights())


def train(model, data, *callbacks, epochs=3, **options):
    options = {"batch_size": 32, "learning_rate": 0.01, "verbose": 0, **options}
    return models.fit(model, data[0], epochs=epochs, callbacks=callbacks, **options).history


@pytest.mark.parametrize("defense", [None, "adversarial_training:attack=(fgsm:eps=0.05)"])
@pytest.mark.slow
def test_value_is_the_worst_case_over_the_attacks(data, defense):
    model = network()
    model = model if defense is None else kerasrobust.wrap(model, defense)
    test, watch = data[1], Watch()
    history = train(model, data, RobustAccuracy(test, attacks=[FGSM, PGD]), watch)
    other = network()
    for weights, value in zip(watch.weights, history["val_robust_accuracy"], strict=True):
        other.set_weights([array for array in weights if array.ndim])  # no step counter
        right = other.predict(test.x, verbose=0).argmax(axis=1) == test.y
        for spec in (FGSM, PGD):
            x = kerasrobust.attacks.get(spec).bind(other).generate(test.x, test.y)
            right &= other.predict(x, verbose=0).argmax(axis=1) == test.y
        assert value == pytest.approx(right.mean(), abs=1e-9)
    assert 0 < history["val_robust_accuracy"][-1] < 1


def test_later_callbacks_see_it(data, tmp_path):
    watch = Watch()
    callbacks = [
        RobustAccuracy(data[1], eps=0.05),
        watch,
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "val_robust_accuracy", mode="max", save_best_only=True
        ),
        keras.callbacks.EarlyStopping("val_robust_accuracy", mode="max", patience=0, baseline=2.0),
    ]
    model = network()
    history = train(model, data, *callbacks, epochs=9)
    assert len(history["val_robust_accuracy"]) < 9  # nothing is above the baseline
    logged = [logs["val_robust_accuracy"] for logs in watch.logs]
    assert logged == history["val_robust_accuracy"]
    with open(tmp_path / "log.csv") as file:
        rows = [float(row["val_robust_accuracy"]) for row in csv.DictReader(file)]
    assert rows == pytest.approx(logged)
    best = watch.weights[int(np.argmax(logged))]
    saved = keras.saving.load_model(tmp_path / "best.keras").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(best, saved, strict=True))


@pytest.mark.parametrize("defense", [None, "gda:sigma=0.1,N=2"])
def test_the_best_epoch_is_kept(data, defense, tmp_path):
    model = network() if defense is None else kerasrobust.wrap(network(), defense)
    watch = Watch()
    # So large a step size that the last epoch is not the best one.
    robust = RobustAccuracy(
        *(data[1].x, data[1].y, "fgsm:eps=0.02"),
        restore_best=True,
        save_best=tmp_path / "best.keras",
    )
    history = train(model, data, robust, watch, epochs=6, learning_rate=0.3)
    values = history["val_robust_accuracy"]
    best = int(np.argmax(values))
    assert best < 5 and values[best] > values[-1]
    assert (robust.best, robust.best_epoch) == (values[best], best)
    restored = kerasrobust.models.load(tmp_path / "best.keras").get_weights()
    for kept in (model.get_weights(), restored):
        assert all(np.array_equal(a, b) for a, b in zip(watch.weights[best], kept, strict=True))
    assert [file.name for file in tmp_path.iterdir()] == ["best.keras"]


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 4},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in ({}, {"jit_compile": True}, {"policy": "mixed_float16"})
        ),
    ],
)
def test_training_is_the_same_with_and_without_it(data, options):
    """Dropout and noise draw the same, under every way of running; nothing is traced again."""
    options = dict(options)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(options.pop("policy", "float32"))
    try:
        ends = []
        for watched in (False, True):
            model = kerasrobust.wrap(network(dropout=0.3), "gda:sigma=0.1,N=2")
            model.compile("adam", "sparse_categorical_crossentropy", **options)
            robust = RobustAccuracy(data[1], attacks=[FGSM, PGD])
            traces = Traces(robust)
            callbacks = [robust, traces] if watched else []
            x, y = data[0].x, data[0].y
            model.fit(x, y, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
            ends.append([v.numpy() for v in [*model.variables, *model.optimizer.variables]])
    finally:
        keras.config.set_dtype_policy(policy)
    metrics = len(model.metrics_variables)
    assert metrics < len(ends[0])
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))
    assert traces.seen[0] and traces.seen[0] == traces.seen[-1]


class Traces(keras.callbacks.Callback):
    """How often the attacks' functions had been traced by the end of each epoch."""

    def __init__(self, robust):
        super().__init__()
        self.robust, self.seen = robust, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(dict(self.robust._classifier.traces))


def test_every_few_epochs_and_the_last(data):
    watch = Watch()
    train(network(), data, RobustAccuracy(data[1], attacks=FGSM, freq=2), watch, epochs=5)
    assert ["val_robust_accuracy" in logs for logs in watch.logs] == [
        False,
        True,
        False,
        True,
        True,
    ]


@pytest.mark.slow
def test_kinds_of_samples_and_bounds(data):
    test = data[1]
    one_hot = keras.utils.to_categorical(test.y, 10)
    batches = tf.data.Dataset.from_tensor_slices((test.x, test.y)).batch(10)
    values = []
    for samples in ((test,), (test.x, test.y), (tf.constant(test.x), one_hot), (batches,)):
        history = train(network(), data, RobustAccuracy(*samples, attacks=FGSM), epochs=1)
        values += history["val_robust_accuracy"]
    assert len(set(values)) == 1

    wide = [
        datasets.Dataset("wide", d.split, d.x * 255, d.y, d.class_names, (0, 255)) for d in data
    ]
    for wrapped in (False, True):
        model = network()
        if wrapped:
            model = kerasrobust.wrap(model, "gda:sigma=1", clip_values=(0, 255))
        robust = RobustAccuracy(wide[1], eps=8)
        train(model, wide, robust, epochs=1)
        assert robust.report.settings["clip_values"] == [0, 255]


def test_budget_and_norm_are_those_of_evaluate(data):
    """A minimal-norm attack has no budget of its own: what is farther than `eps` does not count."""
    model, test = network(), data[1]
    robust = RobustAccuracy(test, attacks=["deepfool:max_iter=20"], eps=0.2, norm=2)
    value = train(model, data, robust, epochs=8)["val_robust_accuracy"][-1]
    report = kerasrobust.evaluate(
        model, test.x, test.y, attacks="deepfool:max_iter=20", eps=0.2, norm=2
    )
    assert 0 < value < report.clean_accuracy and value == report.robust_accuracy
    told = [robust.report.settings[key] for key in ("dataset", "split", "indices")]
    assert told == [test.name, test.split, spans(test.indices)]


def test_verbose_line(data, capsys):
    train(network(), data, RobustAccuracy(data[1], attacks=[FGSM, PGD], verbose=1), epochs=1)
    line = capsys.readouterr().out.strip()
    assert (
        line.startswith("Epoch 1: val_robust_accuracy 0.") and "fgsm 0." in line and "pgd" in line
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "eps=None, attacks=None"),
        ({"eps": 0}, ValueError, "eps=0"),
        ({"eps": 0.1, "norm": 3}, ValueError, "norm=3"),
        ({"norm": 2, "attacks": "fgsm"}, ValueError, "norm=2, eps=None"),
        ({"attacks": []}, ValueError, r"attacks=\[\]"),
        ({"attacks": "pgdd"}, ValueError, "Did you mean 'pgd'"),
        ({"attacks": 3}, TypeError, "Received: attacks=3"),
        ({"eps": 0.1, "freq": 0}, ValueError, "freq=0"),
        ({"eps": 0.1, "y": None}, ValueError, "y=None"),
        ({"eps": 0.1, "save_best": "model.h5"}, ValueError, "save_best='model.h5'"),
        ({"eps": 0.1, "save_best": "no/where.keras"}, ValueError, "save_best="),
        ({"eps": 0.1, "restore_best": 1}, ValueError, "restore_best=1"),
    ],
)
def test_bad_arguments(options, error, message):
    arguments = {"x": np.zeros((2, 8, 8, 1)), "y": np.zeros(2, int), **options}
    with pytest.raises(error, match=message):
        RobustAccuracy(**arguments)


@pytest.mark.parametrize(
    ("x", "y", "attack", "message"),
    [
        (np.zeros((2, 6, 6, 1)), [0, 1], FGSM, "shape"),
        (np.full((2, 8, 8, 1), 2.0), [0, 1], FGSM, "bounds"),
        (np.zeros((2, 8, 8, 1)), [0, 10], FGSM, "Labels"),
        (np.zeros((2, 8, 8, 1)), [0, 1], "fgsm:eps=8", "eps"),
    ],
)
def test_what_does_not_fit_is_an_error_before_training(data, x, y, attack, message):
    model, watch = network(), Watch()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        train(model, data, RobustAccuracy(x, y, attack), watch)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


# ---- checkpoints ------------------------------------------------------------------------------

RUN = """
import os, signal, sys
import keras
import numpy as np
from kerasrobust import callbacks, datasets, models, wrap

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == 9:  # six steps make an epoch
            os.kill(os.getpid(), signal.SIGKILL)

folder, output, kill, defense, policy = sys.argv[1:6]
keras.config.set_dtype_policy(policy)
start = keras.initializers.GlorotUniform
train, test = datasets.load("digits", "train", samples=192), datasets.load("digits", samples=64)
model = keras.Sequential([
    keras.Input((8, 8, 1)),
    keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=start(0)),
    keras.layers.BatchNormalization(),
    keras.layers.Flatten(),
    keras.layers.Dropout(0.3, seed=5),
    keras.layers.Dense(10, "softmax", kernel_initializer=start(1), dtype="float32"),
])
if defense:
    model = wrap(model, defense)
robust = callbacks.RobustAccuracy(test, attacks="fgsm:eps=0.03", restore_best=True)
more = [Kill()] if kill == "kill" else []
history = models.fit(
    model, train, epochs=3, batch_size=32, learning_rate=0.01, validation=test, verbose=2,
    callbacks=[robust, *more], checkpoint=folder or None,
)
own = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
np.savez(output, *own, best=robust.best_epoch,
         robust=history.history["val_robust_accuracy"], loss=history.history["loss"],
         epochs=history.epoch)
"""


def launch(tmp_path, folder, output, kill, defense, policy):
    arguments = [str(folder), str(tmp_path / output), kill, defense, policy]
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize(
    ("defense", "policy"),
    [
        ("adversarial_training:attack=(pgd:eps=0.05,max_iter=2,num_random_init=1)", "float32"),
        ("", "mixed_float16"),
        ("gda:sigma=0.1,N=2", "float32"),
    ],
)
@pytest.mark.slow
def test_killed_run_ends_as_if_it_had_not_been(tmp_path, defense, policy):
    """Killed in the middle of the second epoch, in a process of its own: SIGKILL asks nobody."""
    whole = launch(tmp_path, "", "whole.npz", "", defense, policy)
    assert whole.returncode == 0, whole.stderr[-2000:]
    folder = tmp_path / "checkpoint"
    killed = launch(tmp_path, folder, "none.npz", "kill", defense, policy)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "none.npz").exists()
    assert [path.name for path in folder.iterdir()] == ["epoch_000001"]
    resumed = launch(tmp_path, folder, "resumed.npz", "", defense, policy)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "Resuming after epoch 1 of 3" in resumed.stdout
    expected, actual = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "resumed.npz")
    assert sorted(expected.files) == sorted(actual.files) and len(actual.files) > 10
    for name in expected.files:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    assert list(actual["epochs"]) == [0, 1, 2]


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture
def interrupted(data, tmp_path):
    """The folder of a run of three epochs that was interrupted after the first."""
    with pytest.raises(KeyboardInterrupt):
        train(kerasrobust.wrap(network(0.2), "gda:N=2"), data, Interrupt(), checkpoint=tmp_path)
    return tmp_path


def test_resuming_in_one_process(data, interrupted):
    whole, *again = (kerasrobust.wrap(network(0.2), "gda:N=2") for _ in range(3))
    expected = train(whole, data)
    for model in again:  # the second one finds a finished run
        assert train(model, data, checkpoint=interrupted) == expected
        pairs = zip(whole.weights, model.weights, strict=True)
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)


@pytest.mark.slow
def test_what_a_defense_keeps_beside_its_variables(data, tmp_path, capsys):
    """The teacher of distillation is trained once, and is there again after an interruption."""
    whole, stopped, again = (kerasrobust.wrap(network(), "distillation") for _ in range(3))
    expected = train(whole, data)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, data, Interrupt(), checkpoint=tmp_path)
    capsys.readouterr()
    assert train(again, data, checkpoint=tmp_path, verbose=2) == expected
    assert "Training the teacher" not in capsys.readouterr().out


def test_a_run_that_was_stopped_stays_stopped(data, tmp_path):
    def run():
        stop = keras.callbacks.EarlyStopping("loss", mode="min", min_delta=10, patience=1)
        options = {"batch_size": 32, "verbose": 0, "checkpoint": tmp_path}
        return models.fit(network(), data[0], epochs=9, callbacks=[stop], **options)

    first, again = run(), run()
    assert 1 < len(first.history["loss"]) < 9
    assert (again.history, again.epoch) == (first.history, first.epoch)


def test_interrupted_in_the_first_epoch(data, tmp_path):
    """The model has moved by then, dropout and the counter of the defense have gone on."""

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    whole, again = (kerasrobust.wrap(network(0.2), "gda:N=2") for _ in range(2))
    expected = train(whole, data, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(again, data, Stop(), epochs=2, checkpoint=tmp_path)
    assert train(again, data, epochs=2, checkpoint=tmp_path) == expected
    for a, b in zip(whole.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def goes_on(make, data, tmp_path, epoch, **options):
    """The history of a run in one go, after a check that one in two parts is the same."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            if number == epoch:
                raise KeyboardInterrupt

    whole, again = make(), make()
    expected = train(whole, data, **options)
    with pytest.raises(KeyboardInterrupt):
        train(make(), data, Stop(), checkpoint=tmp_path, **options)
    assert train(again, data, checkpoint=tmp_path, **options) == expected
    for a, b in zip(whole.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    return expected


def test_plateaus_and_patience_go_on(data, tmp_path):
    """Nothing is learnt, so a run that began to count anew would be a longer one."""
    recipe = models.Recipe(
        epochs=9, schedule="plateau:patience=2", early_stopping=4, monitor="accuracy"
    )
    options = {"recipe": recipe, "epochs": None, "learning_rate": 1e-12}
    history = goes_on(network, data, tmp_path, 2, **options)
    np.testing.assert_allclose(history["learning_rate"], [1e-12] * 3 + [1e-13] * 2, rtol=1e-5)


@pytest.mark.slow
def test_augmentation_goes_on(data, tmp_path):
    """With a defense, momentum and the weights of the best epoch."""
    recipe = "optimizer=(sgd:momentum=0.9),schedule=plateau,early_stopping=3,augment=[RandomFlip]"
    goes_on(
        lambda: kerasrobust.wrap(network(0.2), "gda:N=2"),
        data,
        tmp_path,
        1,
        recipe=recipe,
        validation=data[1],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "augment=[RandomFlip]"}, r"augment=\['RandomFlip'\] \(was \[\]\)"),
        ({"epochs": 4}, r"epochs=4 \(was 3\)"),
        ({"batch_size": 16}, r"batch_size=16 \(was 32\)"),
        ({"learning_rate": 0.02}, r"learning_rate=0.02 \(was 0.01\)"),
        ({"seed": 1}, r"seed=1 \(was 0\)"),
        ({"defense": "gda:N=3"}, "N=3"),
        ({"bounds": (-1, 1)}, r"defense_bounds=\[-1.0, 1.0\] \(was \[0.0, 1.0\]\)"),
        ({"defense": ["gda:N=2", "brelu:t=2"]}, "network="),
        ({"samples": 191}, "train='191 of digits"),
        ({"robust": True}, "RobustAccuracy="),
    ],
)
def test_other_settings_are_refused(data, interrupted, change, message):
    change = dict(change)
    defense, bounds = change.pop("defense", "gda:N=2"), change.pop("bounds", None)
    model = kerasrobust.wrap(network(0.2), defense, clip_values=bounds)
    samples = change.pop("samples", 192)
    callbacks = [RobustAccuracy(data[1], attacks=FGSM)] if change.pop("robust", False) else []
    data = (datasets.load("digits", "train", samples=samples), data[1])
    with pytest.raises(ValueError, match=message) as error:
        train(model, data, *callbacks, checkpoint=interrupted, **change)
    assert "other settings" in str(error.value) and str(interrupted) in str(error.value)


def test_damaged_checkpoint(data, interrupted):
    (arrays,) = interrupted.glob("epoch_*/arrays.npz")
    arrays.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        train(kerasrobust.wrap(network(0.2), "gda:N=2"), data, checkpoint=interrupted)


def test_interrupted_while_saving(data, interrupted):
    """What has not got its name yet does not count."""
    (interrupted / "part").mkdir()
    (interrupted / "part" / "arrays.npz").write_bytes(b"half")
    again = kerasrobust.wrap(network(0.2), "gda:N=2")
    assert len(train(again, data, checkpoint=interrupted)["loss"]) == 3
    assert [path.name for path in interrupted.iterdir()] == ["epoch_000003"]
