"""What every registered decision defense must keep, whatever it answers."""

from __future__ import annotations

import inspect
import json
from typing import Any

import keras
import numpy as np
import pytest

import kerasrobust
from kerasrobust import Classifier, defenses, evaluate, unwrap, wrap
from kerasrobust.defenses import DecisionDefense

# One row for each registered decision defense: settings that are cheap.
TABLE: dict[str, dict[str, Any]] = {
    "magnet": {"false_positive_rate": 0.1},
    "randomized_smoothing": {"sigma": 0.1, "n": 200, "votes": 10, "draws": 2},
}
CLASSES = {
    name: kind
    for name, kind in defenses.DEFENSES.classes().items()
    if issubclass(kind, DecisionDefense)
}
every_row = pytest.mark.parametrize("name", TABLE)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(1)
    return rng.uniform(0.1, 0.9, (20, 6, 6, 1)).astype("float32"), rng.integers(0, 3, 20)


def make(policy: str | None = None) -> keras.Model:
    start = keras.initializers.GlorotUniform
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1), dtype="float32"),
            layers.Conv2D(4, 3, activation="relu", kernel_initializer=start(0), dtype=policy),
            layers.Flatten(dtype=policy),
            layers.Dense(3, activation="softmax", kernel_initializer=start(1), dtype=policy),
        ]
    )


def ready(name: str, base: keras.Model, x: np.ndarray) -> DecisionDefense:
    """A wrapped model that answers."""
    model = wrap(base, name, **TABLE[name])
    if name == "magnet":
        model.calibrate(x)
    return model


def test_the_table_names_every_registered_decision_defense():
    assert set(TABLE) == set(CLASSES) & set(defenses.DEFENSES.builtin)
    exported = {getattr(defenses, name) for name in defenses.__all__}
    assert {CLASSES[name] for name in TABLE} <= exported
    places = {entry.name: entry.place for entry in defenses.taxonomy()}
    assert {places[name] for name in TABLE} == {"decision"}


@every_row
def test_wrapping_changes_nothing_and_can_be_undone(name, samples):
    base = make()
    config, weights = base.get_config(), base.get_weights()
    model = ready(name, base, samples[0])
    assert isinstance(model, CLASSES[name]) and unwrap(model) is base and model.base is base
    assert model.predict(samples[0], verbose=0).shape == (20, 3)
    assert base.get_config() == config
    for one, other in zip(weights, base.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="the last one around a model"):
        wrap(model, name)
    with pytest.raises(ValueError, match="fit that one"):
        model.fit(*samples)
    with pytest.raises(TypeError, match="`base` must be a keras.Model"):
        CLASSES[name]("model")


@every_row
def test_config_round_trip(name):
    recipe = defenses.get(name, **TABLE[name])
    text = json.dumps(keras.saving.serialize_keras_object(recipe))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(recipe) and again.get_config() == recipe.get_config()
    assert set(recipe.get_config()) == set(inspect.signature(type(recipe)).parameters)
    changed = defenses.get(recipe, seed=9)
    assert changed.seed == 9 and recipe.seed == 0
    with pytest.raises(ValueError, match="has no model yet"):
        recipe.decide(np.zeros((1, 6, 6, 1)))


@every_row
@pytest.mark.parametrize("policy", [None, pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_saved_and_loaded_it_decides_the_same(name, policy, samples, tmp_path):
    x, _ = samples
    model = ready(name, make(policy), x)
    labels, accepted = model.decide(x)
    assert (
        labels.dtype == np.int64 and accepted.dtype == bool and len(labels) == len(accepted) == 20
    )
    model.save(tmp_path / "model.keras")
    loaded = kerasrobust.models.load(tmp_path / "model.keras")
    for one, other in zip((labels, accepted), loaded.decide(x), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    with pytest.raises(ValueError, match="saved as `.keras`"):
        model.save(tmp_path / "model.h5")


@every_row
def test_attacked_and_judged(name, samples):
    """A white-box and a black-box attack; what is not answered counts as defended."""
    x, y = samples
    model = ready(name, make(), x)
    specs = ["pgd:eps=0.2,max_iter=3", "hsja:max_iter=1,max_eval=10,init_eval=10,init_size=10"]
    report = evaluate(model, x, y, attacks=specs)
    labels, accepted = (np.asarray(part) for part in Classifier.of(model).judge(x)[::2])
    assert report.clean["false_positive_rate"] is not None
    for result in report.samples.results.values():
        assert not (result.success & ~result.accepted).any()
    assert report.robust_accuracy <= report.clean_accuracy <= np.mean(accepted)
    assert len(labels) == 20
