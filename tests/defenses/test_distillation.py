"""Defensive distillation against NumPy, and the life of its teacher."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import (
    AdversarialTraining,
    Context,
    Distillation,
    GaussianDataAugmentation,
    RobustModel,
    unwrap,
    wrap,
)

SGD = keras.optimizers.SGD
CE = "sparse_categorical_crossentropy"
OTHER = [
    np.array([[1.0, -2, 0], [0.5, 0.5, -1], [-2, 1, 1], [3, 0, -3]], np.float32),
    np.array([0.2, 0.0, -0.3], np.float32),
]


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def predictions(x, weights, temperature):
    return softmax((np.float64(x) @ np.float64(weights[0]) + weights[1]) / temperature)


def step(x, target, weights, temperature, rate):
    """Mean loss, and the weights after one step of softmax regression on these targets."""
    p = predictions(x, weights, temperature)
    residual = (p - target) / temperature / len(x)
    new = [weights[0] - rate * np.float64(x).T @ residual, weights[1] - rate * residual.sum(0)]
    return -(target * np.log(p)).sum(axis=1).mean(), new


def regression(weights=None, activation="softmax", **options):
    layer = keras.layers.Dense(3, activation=activation, **options)
    model = keras.Sequential([keras.Input((4,)), layer])
    if weights is not None:
        model.set_weights(weights)
    return model


def assert_weights(got, wanted, atol=1e-6):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


def one_batch(model, x, y, **options):
    return model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0, **options).history


# ---- the loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("one_hot", [False, True])
def test_with_a_given_teacher_it_equals_the_formula(
    linear, points, weights, mode, activation, one_hot
):
    x, y = points
    base = linear(activation)
    model = RobustModel(base, [Distillation(5.0, regression(OTHER))])
    kind = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
    loss = getattr(keras.losses, kind)(from_logits=activation is None)
    model.compile(SGD(3.0), loss, metrics=["accuracy"], **mode)
    history = one_batch(model, x, np.eye(3)[y] if one_hot else y)

    value, expected = step(x, predictions(x, OTHER, 5.0), weights, 5.0, 3.0)
    np.testing.assert_allclose(history["loss"], [value], rtol=1e-5)
    assert_weights(base.get_weights(), expected)
    hits = (x @ weights[0] + weights[1]).argmax(1) == y
    np.testing.assert_allclose(history["accuracy"], [hits.mean()], rtol=1e-6)
    assert_weights(model.teacher.network.get_weights(), OTHER, atol=0)


@pytest.mark.parametrize("one_hot", [False, True])
def test_teacher_and_student_equal_the_formulas(linear, points, weights, one_hot):
    """Two epochs each: the teacher's on the labels, then the student's on the teacher."""
    x, y = points
    base = linear()
    model = wrap(base, "distillation", temperature=4.0)
    teacher = model.teacher.network.get_weights()
    assert np.abs(teacher[0] - weights[0]).max() > 0.1
    model.compile(SGD(2.0), "categorical_crossentropy" if one_hot else CE)
    history = one_batch(model, x, np.eye(3)[y] if one_hot else y, epochs=2)

    for _ in range(2):
        _, teacher = step(x, np.eye(3)[y], teacher, 4.0, 2.0)
    assert_weights(model.teacher.network.get_weights(), teacher)
    student, values = weights, []
    for _ in range(2):
        value, student = step(x, predictions(x, teacher, 4.0), student, 4.0, 2.0)
        values.append(value)
    np.testing.assert_allclose(history["loss"], values, rtol=1e-5)
    assert_weights(base.get_weights(), student)


def test_a_single_output_unit_counts_as_two_classes(points):
    x, y = points[0], (points[1] > 0).astype("float32")
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    base.set_weights([np.array([[0.4], [-0.3], [0.1], [0.8]]), np.array([0.1])])
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    teacher.set_weights([np.array([[1.0], [2.0], [-1.0], [0.5]]), np.array([-0.5])])
    z = [one(x).numpy() if one is base else np.log((q := one(x).numpy()) / (1 - q))
         for one in (base, teacher)]  # fmt: skip
    p, target = (softmax(np.concatenate([0 * u, u], axis=1) / 3.0) for u in z)
    model = wrap(base, "distillation", temperature=3.0, teacher=teacher)
    model.compile(SGD(0.0), keras.losses.BinaryCrossentropy(from_logits=True))
    value = -(target * np.log(p)).sum(axis=1).mean()
    np.testing.assert_allclose(one_batch(model, x, y)["loss"], [value], rtol=1e-5)


def test_outer_links_train_on_the_clean_target(linear, points, weights, shift):
    x, y = points
    target = predictions(x, OTHER, 5.0)
    links = [Distillation(5.0, regression(OTHER)), AdversarialTraining(shift(0.3), alpha=0.25)]
    model = RobustModel(linear(), links)
    model.compile(SGD(0.0), CE)
    x_adv = np.clip(x + 0.3 * np.cos(np.arange(4)), 0, 1)
    values = [step(at, target, weights, 5.0, 0.0)[0] for at in (x, x_adv)]
    expected = 0.25 * values[0] + 0.75 * values[1]
    np.testing.assert_allclose(one_batch(model, x, y)["loss"], [expected], rtol=1e-5)


def test_noisy_copies_have_the_clean_target(linear, points, weights):
    x, y = points
    gda = GaussianDataAugmentation(sigma=0.5, N=3)
    model = RobustModel(linear(), [gda, Distillation(5.0, regression(OTHER))], seed=2)
    model.compile(SGD(0.0), CE)
    seed = Context(model, tf.constant(0), tf.constant(x)).seed("gda")
    noise = tf.random.stateless_normal([9, 3, 4], seed, stddev=0.5).numpy()
    noisy = np.clip(x[:, None] + noise, 0, 1).reshape(-1, 4)
    target = np.repeat(predictions(x, OTHER, 5.0), 3, axis=0)
    expected = step(noisy, target, weights, 5.0, 0.0)[0]
    np.testing.assert_allclose(one_batch(model, x, y)["loss"], [expected], rtol=1e-5)


# ---- what the teacher's training takes over --------------------------------------------------


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append((self.model, epoch))


def test_callbacks_and_validation_are_the_students(linear, points):
    x, y = points
    model = wrap(linear(), "distillation", temperature=2.0)
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 6)
    model.compile(SGD(schedule, momentum=0.9), CE, metrics=["accuracy"])
    watch, seen = Watch(), []
    trainee = model.defenses[0]._trainee

    def spy(student):
        seen.append(trainee(student))
        return seen[-1]

    model.defenses[0]._trainee = spy
    fit = {"batch_size": 3, "shuffle": False, "epochs": 2, "verbose": 0, "callbacks": watch}
    history = model.fit(x, y, validation_data=(x, y), **fit).history
    assert watch.epochs == [(model, 0), (model, 1)]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    (teacher,) = seen
    assert teacher.history.epoch == [0, 1] and set(teacher.history.history) == {"loss"}
    assert teacher.optimizer is not model.optimizer
    assert teacher.optimizer.get_config() == model.optimizer.get_config()
    assert int(teacher.optimizer.iterations) == int(model.optimizer.iterations) == 6
    model.fit(x, y, **{**fit, "epochs": 1, "callbacks": None})
    assert len(seen) == 1


def test_samples_held_out_are_the_teachers_too(linear, points):
    x, y = points
    model = wrap(linear(), "distillation", temperature=2.0)
    teacher = model.teacher.network.get_weights()
    model.compile(SGD(1.0), CE)
    weight = np.linspace(0.5, 2, 9).astype("float32")
    one_batch(model, x, y, validation_split=1 / 3, sample_weight=weight)
    p = predictions(x[:6], teacher, 2.0)
    residual = (p - np.eye(3)[y[:6]]) / 2.0 / 6 * weight[:6, None]
    wanted = [teacher[0] - x[:6].T @ residual, teacher[1] - residual.sum(0)]
    assert_weights(model.teacher.network.get_weights(), wanted)


def test_tf_data_and_steps(linear, points, capsys):
    data = tf.data.Dataset.from_tensor_slices(points).batch(3).repeat()
    model = wrap(linear(kernel_regularizer="l2"), "distillation", temperature=2.0)
    model.compile("adam", CE, steps_per_execution=2)
    model.fit(data, epochs=2, steps_per_epoch=4, verbose=2, validation_data=data.take(2))
    printed = capsys.readouterr().out
    assert printed.startswith("Training the teacher at temperature 2\nEpoch 1/2")
    assert printed.count("Epoch 1/2") == 2 and printed.count("val_loss") == 2
    assert int(model.optimizer.iterations) == 8


def test_the_teachers_weights_come_from_the_seed():
    def drawn(seed):
        inputs = keras.Input((4,))
        base = keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs))
        return wrap(base, "distillation", seed=seed).teacher.network.get_weights()[0]

    keras.utils.set_random_seed(5)
    first = drawn(1)
    keras.utils.set_random_seed(6)
    np.testing.assert_array_equal(drawn(1), first)
    assert np.abs(drawn(2) - first).max() > 0.1
    base = regression(OTHER)
    before = random.getstate()
    wrap(base, "distillation")
    assert random.getstate() == before


def test_what_is_not_trained_is_taken_over(points):
    x, y = points
    scale = keras.layers.Normalization(mean=None)
    scale.adapt(x)
    frozen = keras.layers.Dense(4, trainable=False)
    layers = [keras.Input((4,)), scale, frozen, keras.layers.Dense(3, "softmax")]
    base = keras.Sequential(layers)
    model = wrap(base, "distillation")
    model.compile("sgd", CE)
    model.fit(x, y, verbose=0)
    ours, theirs = base.get_weights(), model.teacher.network.get_weights()
    assert_weights(theirs[:-2], ours[:-2], atol=0)
    assert np.abs(theirs[-2] - ours[-2]).max() > 0.1


def test_mixed_float16(points):
    base = regression(activation=None, dtype="mixed_float16")
    base = keras.Sequential([base, keras.layers.Softmax(dtype="float32")])
    model = wrap(base, "distillation", temperature=2.0)
    model.compile("sgd", CE)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = model.teacher.network.get_weights()
    assert np.isfinite(model.fit(*points, verbose=0).history["loss"]).all()
    after = model.teacher.network.get_weights()
    assert 0 < np.abs(before[0] - after[0]).max() < 1


# ---- where the teacher is, and is not ----------------------------------------------------------


def test_the_teacher_is_held_apart(cnn, images):
    x, y = images
    base = cnn(batch_norm=True)
    count = base.count_params()
    model = wrap(base, "distillation")
    model.compile("sgd", CE)
    model.fit(x, y, verbose=0)
    assert model.count_params() == count + 1  # the step counter
    assert [id(v) for v in model.trainable_weights] == [id(v) for v in base.trainable_weights]
    assert model.layers == [base] and unwrap(model) is base
    network = model.teacher.network
    assert network.count_params() == count and not network.trainable_weights
    before = [value.copy() for value in network.get_weights()]
    model.fit(x, y, verbose=0)
    assert_weights(network.get_weights(), before, atol=0)


def test_a_given_teacher_is_copied(linear, points):
    given = regression(OTHER)
    given.compile("sgd", CE)
    model = wrap(linear(), "distillation", teacher=given)
    model.compile("sgd", CE)
    model.fit(*points, verbose=0)
    assert given.trainable and len(given.trainable_weights) == 2
    given.set_weights([0 * value for value in OTHER])
    assert_weights(model.teacher.network.get_weights(), OTHER, atol=0)
    itself = wrap(linear(), "distillation")
    own = wrap(itself.base, "distillation", teacher=itself)  # of a wrapped model its base
    assert_weights(own.teacher.network.get_weights(), itself.base.get_weights(), atol=0)


@pytest.mark.parametrize("given", [False, True])
def test_saved_loaded_and_not_trained_again(linear, points, given, tmp_path, monkeypatch):
    x, y = points
    fit = {"batch_size": 3, "shuffle": False, "verbose": 0}
    teacher = regression(OTHER) if given else None
    model = wrap(linear(), "distillation", temperature=3.0, teacher=teacher)
    model.compile("adam", CE)
    model.fit(x, y, **fit)
    kept = model.teacher.network.get_weights()
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")

    monkeypatch.setattr(Distillation, "_trainee", None)  # which would be called to train one
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    other = wrap(linear(), "distillation", temperature=3.0, seed=9, teacher=teacher)
    other.load_weights(tmp_path / "m.weights.h5")
    bare = wrap(linear(), "gda")
    bare.load_weights(tmp_path / "m.weights.h5")  # what it has no use for is left
    assert loaded.get_config()["defenses"] == model.get_config()["defenses"]
    for one in (loaded, other):
        assert_weights(one.teacher.network.get_weights(), kept, atol=0)
    results = []
    for one in (model, loaded):
        results.append((one.fit(x, y, **fit).history, one.get_weights()))
    assert results[0][0] == results[1][0]
    assert_weights(results[0][1], results[1][1], atol=0)
    again = wrap(loaded, "gda:N=2")  # on the same base: it keeps the teacher
    assert_weights(again.teacher.network.get_weights(), kept, atol=0)
    assert again.teacher.trained and RobustModel(loaded).teacher.trained


def test_saved_before_training_it_is_trained_after_loading(linear, points, tmp_path):
    model = wrap(linear(), "distillation")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert not loaded.teacher.trained
    loaded.compile("sgd", CE)
    loaded.fit(*points, verbose=0)
    assert loaded.teacher.trained


def test_a_restored_run_keeps_its_teacher(linear, points, tmp_path):
    """A new process: the backup is restored before a teacher would be trained."""
    x, y = points
    models = []
    for seed, epochs in ((1, 1), (2, 3)):
        model = wrap(linear(), "distillation", seed=seed)
        model.compile("sgd", CE)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        model.fit(x, y, epochs=epochs, callbacks=[backup], verbose=0)
        models.append(model)
    assert models[1].history.epoch == [1, 2]
    teachers = [model.teacher.network.get_weights() for model in models]
    assert_weights(*teachers, atol=0)


def test_a_rebuilt_network_gets_a_teacher_of_its_own(cnn, images):
    model = wrap(cnn(), "distillation")
    model.compile("sgd", CE)
    model.fit(*images, verbose=0)
    assert not wrap(model, "brelu").teacher.trained


def test_teacher_from_a_file(linear, points, weights, tmp_path):
    x, y = points
    path = tmp_path / "teacher.keras"
    wrapped = wrap(regression(OTHER), "gda")
    wrapped.save(path)
    model = wrap(linear(), f"distillation:temperature=5,teacher={path}")
    path.unlink()  # it is part of the model now
    model.compile(SGD(0.0), CE)
    value = step(x, predictions(x, OTHER, 5.0), weights, 5.0, 0.0)[0]
    np.testing.assert_allclose(one_batch(model, x, y)["loss"], [value], rtol=1e-5)
    assert "teacher='sequential" in repr(model.defenses[0])


# ---- refusals ------------------------------------------------------------------------------


def test_one_batch_trains_no_teacher(linear, points):
    model = wrap(linear(), "distillation")
    model.compile("sgd", CE)
    with pytest.raises(ValueError, match="There is no teacher yet.*Received: teacher=None"):
        model.train_on_batch(*points)


def test_an_iterator_gives_its_data_once(linear, points):
    model = wrap(linear(), "distillation")
    model.compile("sgd", CE)
    batches = (points for _ in range(5))
    with pytest.raises(ValueError, match="which an iterator gives once.*Received: x=generator"):
        model.fit(batches, verbose=0)


def test_a_configuration_has_no_weights(linear, points):
    config = Distillation(teacher=regression(OTHER)).get_config()
    model = wrap(linear(), {"name": "distillation", "config": config})
    model.compile("sgd", CE)
    with pytest.raises(ValueError, match="configuration, which has no weights.*Received: teacher="):
        model.fit(*points, verbose=0)


def test_what_it_is_not_combined_with(linear, affine):
    class Labels(affine):
        name = "labels"

    with pytest.raises(ValueError, match="has a loss of its own and would never call 'labels'"):
        RobustModel(linear(), [Distillation(), Labels(rank=0)])
    with pytest.raises(ValueError, match="the chain already holds"):
        wrap(wrap(linear(), "distillation"), "distillation")


def test_refusals(linear, tmp_path):
    wide = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    many = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "softmax")])
    raw = keras.Sequential([keras.layers.Dense(3)], name="raw")
    missing = str(tmp_path / "none.keras")
    cases = [
        ({"temperature": 0.0}, ValueError, "Received: temperature=0.0"),
        ({"temperature": "hot"}, ValueError, "Received: temperature='hot'"),
        ({"teacher": 3}, TypeError, "path of a saved one. Received: teacher=3"),
        ({"teacher": missing}, FileNotFoundError, "none.keras"),
        ({"teacher": raw}, ValueError, "must be built. Received: teacher='raw', not built"),
        ({"teacher": wide}, ValueError, r"inputs, \(4,\). Received: a teacher of \(5,\)"),
        ({"teacher": many}, ValueError, "3 classes. Received: a teacher of 4"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            wrap(linear(), "distillation", **arguments)


def test_a_model_that_cannot_be_made_twice(linear, points):
    class Opaque(keras.Model):
        def __init__(self, inner):
            super().__init__(name="opaque")
            self.inner = inner

        def call(self, inputs):
            return self.inner(inputs)

    base = Opaque(linear())
    base(points[0])
    with pytest.raises(ValueError, match="second network of the same kind.*model='opaque'"):
        wrap(base, "distillation")
