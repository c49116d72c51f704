"""What every registered training defense must keep, whatever it computes."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import keras
import numpy as np
import pytest

from kerasrobust import defenses
from kerasrobust.defenses import RobustModel, TrainingDefense, unwrap, wrap

N = 22  # in batches of 6 the last one is smaller, and there are two executions of two steps
PGD = {"name": "pgd", "config": {"eps": 0.1, "eps_step": 0.05, "max_iter": 2}}
HSJA = {"name": "hsja", "config": {"max_iter": 1, "init_eval": 4, "max_eval": 8, "init_size": 4}}
ASCENT = {"eps": 0.1, "eps_step": 0.05, "max_iter": 2}


@dataclasses.dataclass(frozen=True)
class Row:
    """A training defense with settings that make a step of a tiny model cheap.

    Attributes:
        settings: Arguments of the defense.
        measured: What the compiled metrics are measured on, if not on clean samples:
            ``"adversarial"`` or ``"noisy"``, say; it is the beginning of their names.
        random: Whether another seed makes other steps, from the second one on say.
        coupled: Whether a sample's own loss depends on the other samples of the batch.
        teacher: Whether it is given a teacher.
    """

    settings: dict[str, Any]
    measured: str = ""
    random: bool = False
    coupled: bool = False
    teacher: bool = False


# One row for each registered training defense.
TABLE: dict[str, Row] = {
    "adversarial_training": Row({"attack": PGD, "alpha": 0.3}),
    "awp": Row({"gamma": 0.05}),
    "distillation": Row({"temperature": 2.0}, teacher=True),
    "e2sad": Row({"eps1": 0.1, "eps2": 0.05}),
    "ensemble_adversarial_training": Row(
        {"attacks": [PGD, HSJA]}, measured="adversarial", random=True, coupled=True
    ),
    "fast": Row({"eps": 0.1, "guard_every": 3}, measured="adversarial", random=True),
    "gda": Row({"sigma": 0.1, "N": 2}, measured="noisy", random=True),
    "jacobian": Row({"weight": 0.1}),
    "label_smoothing": Row({"k": 0.8}),
    "mart": Row(ASCENT, random=True),
    "minimax": Row({"eps": 0.1}),
    "nsloss": Row({"eps": 0.5, "N": 2}, random=True),
    "superimpose": Row({"p": 2, "q": 4}, random=True, coupled=True),
    "trades": Row(ASCENT, random=True),
    "vat": Row({"eps": 0.5, "max_iter": 1}, random=True),
}

CLASSES = defenses.DEFENSES.classes()
TRAINING = {name for name in CLASSES if issubclass(CLASSES[name], TrainingDefense)}
BUILTIN = TRAINING & set(defenses.DEFENSES.builtin)
# What a package that is installed beside this one brings, with its defaults.
ROWS = {**{name: Row({}) for name in sorted(TRAINING - BUILTIN)}, **TABLE}

every_row = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(scope="module")
def samples():
    """Images, labels, and weights that are all different."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0.1, 0.9, size=(N, 6, 6, 1)).astype("float32")
    return x, rng.integers(0, 3, N), rng.uniform(0.5, 2.0, N).astype("float32")


def make(full: bool = False, policy: str | None = None, seed: int = 0) -> keras.Model:
    """6 x 6 inputs, three classes, the same weights for a seed; with batch norm if `full`.

    Without it no sample has a part in another one's prediction. No dropout: Keras does not save
    the state of its seed.
    """
    start = keras.initializers.GlorotUniform
    inputs = keras.Input((6, 6, 1), dtype="float32")
    x = keras.layers.Conv2D(4, 3, kernel_initializer=start(seed), dtype=policy)(inputs)
    if full:
        x = keras.layers.BatchNormalization(momentum=0.5, dtype=policy)(x)
    x = keras.layers.Activation("relu", dtype=policy)(x)
    x = keras.layers.Flatten(dtype=policy)(x)
    dense = keras.layers.Dense(
        3, activation="softmax", kernel_initializer=start(seed + 1), dtype=policy
    )
    return keras.Model(inputs, dense(x))


def settings(name: str) -> dict[str, Any]:
    teacher = {"teacher": make(seed=8)} if ROWS[name].teacher else {}
    return {**ROWS[name].settings, **teacher}


def defended(name: str, base: keras.Model | None = None, seed: int = 3, **options: Any):
    """A wrapped and compiled model."""
    model = wrap(make() if base is None else base, name, seed=seed, **settings(name))
    options = {"optimizer": keras.optimizers.SGD(0.1), **options}
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def step(model: RobustModel, x: Any, y: Any, **weights: Any) -> list[np.ndarray]:
    """What one step in eager mode, which is not traced, adds to the trainable weights."""
    model.run_eagerly = True
    before = [np.asarray(value) for value in model.trainable_weights]
    model.train_on_batch(x, y, **weights)
    after = [np.asarray(value) for value in model.trainable_weights]
    return [new - old for new, old in zip(after, before, strict=True)]


def largest(step: list[np.ndarray]) -> float:
    return max(float(np.abs(part).max()) for part in step)


def assert_close(first: Any, second: Any, atol: float) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=0)


def test_the_table_names_every_registered_training_defense():
    assert set(TABLE) == BUILTIN
    exported = {getattr(defenses, name) for name in defenses.__all__}
    assert {CLASSES[name] for name in TABLE} <= exported


@every_row
def test_wrapping_changes_nothing_and_can_be_undone(name, samples):
    base = make(full=True)
    base.compile("sgd", "ce")
    config, weights, optimizer = base.get_config(), base.get_weights(), base.optimizer
    predictions = base.predict(samples[0], verbose=0)
    model = wrap(base, name, **settings(name))
    assert [link.name for link in model.defenses] == [name]
    assert unwrap(model) is base
    assert base.get_config() == config and base.optimizer is optimizer
    for before, after in zip(weights, base.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model.predict(samples[0], verbose=0), predictions)
    with pytest.raises(ValueError, match="cannot be combined: the chain already holds"):
        wrap(model, name, **settings(name))


@every_row
def test_config_round_trip(name):
    defense = defenses.get(name, **settings(name))
    text = json.dumps(keras.saving.serialize_keras_object(defense))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(defense) and again.get_config() == defense.get_config()
    assert set(defense.get_config()) == set(inspect.signature(type(defense)).parameters)
    by_name = defenses.get({"name": name, "config": defense.get_config()})
    assert by_name.get_config() == defense.get_config() and by_name.name == name


# Two fits of a network with everything: by default a link of each kind.
@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("distillation", "superimpose", "adversarial_training", "awp")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in ROWS
    ],
)
def test_fit_save_load_and_go_on(name, samples, tmp_path):
    """Two epochs, saved after the first: the loaded model's second epoch is the same one.

    With batch norm, momentum, sample weights, validation, a callback, a last batch that
    is smaller and several steps per execution.
    """
    x, y, weight = samples
    row = ROWS[name]
    sgd = keras.optimizers.SGD(0.05, momentum=0.9)
    model = defended(name, make(full=True), optimizer=sgd, steps_per_execution=2)
    fit = {"batch_size": 6, "shuffle": False, "verbose": 0, "epochs": 2}
    fit |= {"sample_weight": weight, "validation_data": (x, y)}
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    history = model.fit(x, y, callbacks=[keep], **fit).history

    accuracy = f"{row.measured}_accuracy" if row.measured else "accuracy"
    assert set(history) == {"loss", accuracy, "val_loss", "val_accuracy"}
    assert all(np.isfinite(values).all() for values in history.values())
    assert int(model.step.numpy()) == int(model.optimizer.iterations.numpy()) == 8
    evaluated = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(history["val_loss"][-1], evaluated["loss"], rtol=1e-5)

    loaded = keras.saving.load_model(tmp_path / "1.keras")
    assert int(loaded.step.numpy()) == 4
    (link,) = loaded.defenses
    assert link.get_config() == model.defenses[0].get_config()
    again = loaded.fit(x, y, initial_epoch=1, **fit).history
    for key, values in again.items():
        np.testing.assert_allclose(values, history[key][1:], rtol=1e-6, err_msg=key)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@every_row
def test_same_seed_same_steps(name, samples):
    x, y, _ = samples
    steps = []
    for seed in (3, 3, 4):
        model = defended(name, make(full=True), seed=seed)
        steps.append([part for _ in range(2) for part in step(model, x, y)])
    for one, other in zip(steps[0], steps[1], strict=True):
        np.testing.assert_array_equal(one, other)
    differs = any((one != other).any() for one, other in zip(steps[0], steps[2], strict=True))
    assert differs == ROWS[name].random


@every_row
def test_sample_weights(name, samples):
    """They weight the loss per sample, once: a sample of weight 0 might as well be another one."""
    x, y, weight = samples
    without = weight * (np.arange(N) != 5)
    changed = x.copy()
    changed[5] = 1 - changed[5]
    once = step(defended(name), x, y, sample_weight=without)
    assert largest(once) > 1e-3
    if not ROWS[name].coupled:
        assert_close(step(defended(name), changed, y, sample_weight=without), once, 1e-6)
    twice = step(defended(name), x, y, sample_weight=2 * without)
    assert_close(twice, [2 * part for part in once], 1e-5)


@every_row
def test_class_weights_are_sample_weights(name, samples):
    x, y, _ = samples
    classes = {0: 1.0, 1: 2.0, 2: 0.25}
    by_sample = np.array([classes[label] for label in y], "float32")
    expected = step(defended(name), x, y, sample_weight=by_sample)
    assert_close(step(defended(name), x, y, class_weight=classes), expected, 1e-7)


@every_row
def test_loss_scale_does_not_change_the_step(name, samples):
    """In float16, where gradients below 6e-8 vanish. Crafting sees the same model both times."""
    x, y, weight = samples
    steps = []
    for scale in (1.0, 2.0**15):
        sgd = keras.optimizers.SGD(0.1)
        scaled = keras.optimizers.LossScaleOptimizer(sgd, initial_scale=scale)
        model = defended(name, make(policy="mixed_float16"), optimizer=scaled)
        steps.append(step(model, x, y, sample_weight=weight))
        assert model.dtype_policy.name == "mixed_float16"
        assert float(scaled.dynamic_scale) == scale  # nothing overflowed
    assert largest(steps[0]) > 1e-3
    assert_close(*steps, 5e-5)


@pytest.mark.slow
@every_row
def test_xla_takes_the_same_steps(name, samples):
    x, y, weight = samples
    fit = {"batch_size": 11, "shuffle": False, "verbose": 0, "sample_weight": weight}
    results = []
    for jit in (False, True):
        model = defended(name, jit_compile=jit)
        assert np.isfinite(model.fit(x, y, **fit).history["loss"]).all()
        results.append(model.get_weights())
    # XLA draws other numbers than a plain graph.
    if not ROWS[name].random:
        assert_close(*results, 1e-5)
