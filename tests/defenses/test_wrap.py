"""wrap and unwrap: the grammar, and the life of a wrapped model from compile to export."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust import attacks, defenses
from kerasrobust.defenses import (
    AdversarialTraining,
    BoundedReLU,
    GaussianDataAugmentation,
    RobustModel,
    unwrap,
    wrap,
)
from kerasrobust.engine.classifier import Classifier

FGSM = {"name": "adversarial_training", "config": {"attack": "fgsm:eps=0.1"}}
# Single training defenses are in tests/contract.
CASES = [
    "brelu",
    ["brelu", "gda:N=2,sigma=0.1"],
    [FGSM, "gda:N=2,sigma=0.1,keep_original=True", "brelu:t=2.0"],
]


def has_bounded_relu(model):
    return any(isinstance(layer, BoundedReLU) for layer in unwrap(model)._flatten_layers())


@pytest.mark.parametrize(
    "spec",
    [
        "gda:N=3,sigma=0.1",
        {"name": "gda", "config": {"N": 3, "sigma": 0.1}},
        GaussianDataAugmentation(N=3, sigma=0.1),
        ["gda:N=3,sigma=0.1"],
    ],
)
def test_forms_of_a_name(linear, spec):
    model = wrap(linear(), defense=spec)
    assert [type(link) for link in model.defenses] == [GaussianDataAugmentation]
    assert (model.defenses[0].N, model.defenses[0].sigma) == (3, 0.1)


def test_arguments_beside_a_name(linear):
    recipe = attacks.get("pgd", eps=0.2)
    link = wrap(linear(), "adversarial_training", attack=recipe, alpha=0.0).defenses[0]
    assert link.attack is recipe and link.alpha == 0.0
    assert wrap(linear(), "gda:N=3", sigma=0.2).defenses[0].get_config()["N"] == 3
    given = GaussianDataAugmentation(N=3, sigma=0.3)
    changed = wrap(linear(), given, sigma=0.2).defenses[0]
    assert (changed.N, changed.sigma, given.sigma) == (3, 0.2, 0.3)


def test_order_does_not_matter(cnn, images):
    results = []
    names = ["gda:N=2,sigma=0.1", FGSM, "brelu"]
    for order in (names, names[::-1]):
        model = wrap(cnn(), order)
        assert has_bounded_relu(model)
        model.compile(keras.optimizers.SGD(0.1), "ce")
        model.fit(*images, batch_size=10, shuffle=False, verbose=0)
        results.append(unwrap(model).get_weights())
    step_by_step = wrap(wrap(wrap(cnn(), names[0]), names[1]), names[2])
    step_by_step.compile(keras.optimizers.SGD(0.1), "ce")
    step_by_step.fit(*images, batch_size=10, shuffle=False, verbose=0)
    for a, b, c in zip(*results, unwrap(step_by_step).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_wrapping_a_wrapped_model_adds_a_link(linear):
    base = linear()
    inner = wrap(base, "gda", clip_values=(0, 2), seed=4)
    outer = wrap(inner, FGSM)
    assert outer.base is base and not isinstance(outer.base, RobustModel)
    assert [link.name for link in outer.defenses] == ["adversarial_training", "gda"]
    assert (outer.clip_values, outer.seed) == ((0.0, 2.0), 4)
    assert RobustModel(inner, []).defenses == inner.defenses


def test_wrapping_leaves_the_model_as_it_was(cnn, images):
    base = cnn(batch_norm=True)
    base.compile("sgd", "ce")
    config, before = base.get_config(), base.get_weights()
    optimizer = base.optimizer
    predictions = np.asarray(base(images[0]))
    for case in CASES:
        wrap(base, case)
    assert base.get_config() == config and base.optimizer is optimizer
    for a, b in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.asarray(base(images[0])), predictions)


def test_brelu_reaches_through_a_wrapped_model(cnn, images):
    base = cnn()
    model = wrap(wrap(base, "gda:N=2"), "brelu:t=0.5")
    assert [link.name for link in model.defenses] == ["gda"]
    assert has_bounded_relu(model) and unwrap(model) is not base
    for a, b in zip(base.get_weights(), unwrap(model).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unwrap(cnn, images):
    base = cnn()
    model = wrap(base, "gda")
    assert unwrap(model) is base and unwrap(base) is base
    np.testing.assert_array_equal(
        model.predict(images[0], verbose=0), unwrap(model).predict(images[0], verbose=0)
    )


@pytest.mark.parametrize(
    ("case", "policy"),
    [
        (CASES[0], "float32"),
        pytest.param(CASES[-1], "float32", marks=pytest.mark.slow),
        pytest.param(CASES[-1], "mixed_float16", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_life_of_a_wrapped_model(cnn, images, case, policy, tmp_path):
    """compile, fit, evaluate, save, load, go on, unwrap, export."""
    x, y = images
    keras.config.set_dtype_policy(policy)
    try:
        model = wrap(cnn(batch_norm=True), case, clip_values=(0.0, 1.0), seed=7)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    path = tmp_path / "best.keras"
    keep = keras.callbacks.ModelCheckpoint(path, save_best_only=False)
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, validation_data=(x, y), callbacks=[keep], epochs=2, **fit).history
    assert np.isfinite(history["loss"]).all() and len(history["val_accuracy"]) == 2
    evaluated = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(history["val_loss"][-1], evaluated["loss"], rtol=1e-5)

    loaded = keras.saving.load_model(path)
    assert type(loaded) is RobustModel
    ours = ("defenses", "clip_values", "seed", "name")
    assert all(loaded.get_config()[key] == model.get_config()[key] for key in ours)
    assert loaded.dtype_policy.name == policy
    assert int(loaded.step.numpy()) == 6
    # A float16 step that overflowed is a step, but not one of the optimizer's.
    assert 6 >= int(loaded.optimizer.iterations.numpy()) == int(model.optimizer.iterations.numpy())
    assert policy != "float32" or int(model.optimizer.iterations.numpy()) == 6
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    # With the optimizer's state and the noise of the seventh step the two go on as one.
    again = [one.fit(x, y, epochs=1, **fit).history for one in (model, loaded)]
    assert again[0] == again[1]
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    # The exported graph may round otherwise than the layers one by one: in float16 by one or two
    # units, of which a probability has a half of `eps`.
    atol = 1e-6 if policy == "float32" else np.finfo(np.float16).eps
    np.testing.assert_allclose(served.serve(x), unwrap(model)(x), atol=atol)


def test_weights_file_round_trip(cnn, images, tmp_path):
    model, other = (wrap(cnn(), "gda:N=2") for _ in range(2))
    model.compile("sgd", "ce")
    model.fit(*images, verbose=0)
    model.save_weights(tmp_path / "w.weights.h5")
    other.load_weights(tmp_path / "w.weights.h5")
    assert int(other.step.numpy()) == int(model.step.numpy()) > 0


@keras.saving.register_keras_serializable("kerasrobust_tests")
class Opaque(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.dense(inputs)


def test_subclassed_model_is_saved_and_loaded(points, tmp_path):
    x, y = points
    base = Opaque()
    base(x)
    model = wrap(base, ["gda:N=2", FGSM])
    model.compile("sgd", "ce")
    with pytest.warns(UserWarning, match="logits cannot be reached"):
        model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    model.export(tmp_path / "served", verbose=False)


def test_clip_values_are_saved_and_seen_by_attacks(linear, tmp_path):
    model = wrap(linear(), "gda", clip_values=(-1, 3))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert Classifier(loaded).clip_values == (-1.0, 3.0)


def test_attacks_see_the_logits_of_a_wrapped_model(linear, points, weights):
    classifier = Classifier(wrap(linear(), "gda"))
    expected = points[0] @ weights[0] + weights[1]
    np.testing.assert_allclose(classifier.logits(tf.constant(points[0])), expected, atol=1e-6)


def test_top_level_names(linear):
    assert isinstance(kerasrobust.wrap(linear(), defense="gda"), RobustModel)
    assert kerasrobust.unwrap is unwrap


def test_a_layer_defense_restores_from_its_config():
    defense = defenses.get("brelu", t=0.5)
    config = {k: v for k, v in defense.get_config().items() if k not in ("dtype", "trainable")}
    again = defenses.get({"name": "brelu", "config": config})
    assert type(again) is type(defense) and again.get_config() == defense.get_config()


@pytest.mark.parametrize("name", ["m.h5", "m.HDF5", "m.keras"])
def test_hdf5_is_refused_when_saving(linear, name, tmp_path):
    model = wrap(linear(), "gda")
    if name.endswith("keras"):
        model.save(tmp_path / name)
        return
    with pytest.raises(ValueError, match="saved as a `.keras` file.*Received: filepath="):
        model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="saved as a `.keras` file.*Received: an HDF5 file"):
        keras.saving.save_model(model, tmp_path / name.lower())
    model.save_weights(tmp_path / "m.weights.h5")
    unwrap(model).save(tmp_path / name.lower().replace("hdf5", "h5"))


@pytest.mark.parametrize("method", ["train_step", "compute_loss"])
def test_a_training_step_of_its_own_is_refused(method):
    def own(self, *args, **kwargs):
        return getattr(super(type(self), self), method)(*args, **kwargs)

    kind = type("Own", (keras.Model,), {method: own})
    inputs = keras.Input((4,))
    base = kind(inputs, keras.layers.Dense(3)(inputs))
    with pytest.raises(ValueError, match=f"`{method}` would be left out.*Received: base="):
        wrap(base, "gda")
    plain = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    wrap(plain, "gda")
    setattr(plain, method, own)
    with pytest.raises(ValueError, match=f"`{method}` would be left out"):
        RobustModel(plain, [])


def test_a_head_is_proven_once_the_inputs_have_a_shape():
    """A model of open input size whose last layer does more than it shows."""

    class Halves(keras.layers.Dense):
        def call(self, x, training=None):
            return 0.5 * super().call(x) + 1 / 6

    def build():
        inputs = keras.Input((None, 4))
        kernel = keras.initializers.RandomNormal(seed=1, stddev=3.0)
        last = Halves(3, activation="softmax", kernel_initializer=kernel)
        return keras.Model(inputs, last(keras.layers.GlobalAveragePooling1D()(inputs)))

    rng = np.random.default_rng(0)
    x, y = rng.random((8, 5, 4), np.float32), rng.integers(0, 3, 8)
    base, plain = build(), build()
    model = RobustModel(base, [])
    for one in (model, plain):
        one.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        one.fit(x, y, batch_size=8, epochs=2, verbose=0)
    for ours, theirs in zip(base.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_refusals(linear):
    base = linear()
    cases = [
        (("m.keras", "gda"), {}, TypeError, "keras.Model. Received: model='m.keras'"),
        ((base, "gdaa"), {}, ValueError, "Did you mean 'gda'.*Received: defense='gdaa'"),
        ((base, 3), {}, TypeError, "Received: defense=3"),
        ((base, {"nam": "gda"}), {}, TypeError, "Received: defense={'nam'"),
        ((base, {"name": ["gda"]}), {}, TypeError, "`defense` must be a name.*: defense={'name'"),
        ((base, {"name": "gda", "config": "N=3"}), {}, TypeError, "`defense` must be a name"),
        ((base, []), {}, ValueError, "At least one defense"),
        ((base, ["gda"]), {"N": 2}, TypeError, "belong to none of them.*Received: N"),
        ((base, "gda:Q=2"), {}, TypeError, "'gda': .*Its arguments are: sigma.*Received: Q=2"),
        ((base, GaussianDataAugmentation()), {"Q": 2}, TypeError, "arguments are.*Received: Q=2"),
        ((base, ["gda", "gda"]), {}, ValueError, "cannot be combined"),
        ((base, "gda"), {"clip_values": (1, 0)}, ValueError, r"clip_values=\(1, 0\)"),
        ((base, "brelu"), {}, ValueError, "found no ReLU"),
    ]
    for arguments, options, error, message in cases:
        with pytest.raises(error, match=message):
            wrap(*arguments, **options)
    with pytest.raises(TypeError, match="Received: model=3"):
        unwrap(3)
    assert isinstance(AdversarialTraining("fgsm"), defenses.TrainingDefense)
