"""Recipes against the documents and Keras's own schedules, and what fit makes of them."""

import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust import models
from kerasrobust.datasets import Dataset
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.pixel_range import pixel_range
from kerasrobust.models import Recipe, augmentation, recipes
from kerasrobust.models.training import _batches

ADAM = {"optimizer": "adam", "learning_rate": 0.001}

# What is printed, and in the second part what is not and was taken.
DOCUMENTS = {
    "areb_mnist": (
        {"epochs": 30, "batch_size": 32, "optimizer": "adam"},
        {"learning_rate": 0.001, "schedule": "plateau:patience=5", "early_stopping": 10},
    ),
    "areb_cifar10": (
        {"epochs": 100, "batch_size": 32, "optimizer": "adam"},
        {"learning_rate": 0.001, "schedule": "plateau:patience=5", "early_stopping": 10},
    ),
    "e2sad_mnist": ({"steps": 30_000, "batch_size": 256}, {**ADAM, "schedule": "constant"}),
    "e2sad_svhn": (
        {"epochs": 20, "batch_size": 256, **ADAM, "standardize": True},
        {"schedule": "constant"},
    ),
    "nsloss_mnist": (
        {"epochs": 20, "optimizer": "adam", "learning_rate": 1e-4},
        {"batch_size": 128, "schedule": "constant"},
    ),
    "nsloss_cifar10": (
        {"epochs": 100, "optimizer": "adam", "learning_rate": 1e-4},
        {"batch_size": 128, "schedule": "constant"},
    ),
    "brelu_gda": ({}, {"batch_size": 64, **ADAM, "schedule": "cosine"}),
    "gea": ({}, {"batch_size": 64, **ADAM, "schedule": "cosine"}),
}


def pictures(n=12, shape=(5, 6, 1), seed=0, bounds=(0.0, 1.0)):
    rng = np.random.default_rng(seed)
    x = rng.uniform(*bounds, (n, *shape)).astype(np.float32)
    return Dataset("noise", "train", x, np.arange(n) % 2, ("even", "odd"), bounds)


class Drawn(keras.layers.Layer):
    """Images times a number that is drawn."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def call(self, x):
        return x * self.draw()


def linear(shape=(5, 6, 1), seed=0):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(
                2, "softmax", kernel_initializer=keras.initializers.GlorotUniform(seed)
            ),
        ]
    )


def gradient(classifier, data):
    labels = tf.constant(data.y)
    return classifier.gradient(
        tf.constant(data.x), lambda z: kerasrobust.losses.cross_entropy(z, labels)
    )[2]


# ---- presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_presets_are_the_documents(name):
    printed, taken = DOCUMENTS[name]
    recipe = recipes.get(name)
    expected = {**Recipe().get_config(), **printed, **taken}
    if name.startswith("areb"):
        expected["augment"] = recipe.get_config()["augment"]
    assert recipe.get_config() == expected


@pytest.mark.parametrize(
    ("name", "degrees", "shift"), [("areb_mnist", 20, 0.1), ("areb_cifar10", 30, 0.15)]
)
def test_arebs_augmentation(name, degrees, shift):
    layers = augmentation.layers(recipes.get(name).augment, (0.0, 1.0))
    rotation, translation, shear, zoom, flip = layers
    assert rotation.get_config()["factor"] == pytest.approx((-degrees / 360, degrees / 360))
    assert translation.height_factor == translation.width_factor == shift
    # ImageDataGenerator's shear is an angle in degrees.
    assert shear.x_factor == pytest.approx(
        (-math.tan(math.pi / 1800), math.tan(math.pi / 1800)), rel=1e-3
    )
    assert shear.y_factor == pytest.approx((0, 0))
    assert zoom.height_factor == zoom.width_factor == 0.1
    assert flip.mode == "horizontal"
    assert {layer.fill_mode for layer in layers[:4]} == {"nearest"}


def test_presets_by_the_images():
    grey, colour = (28, 28, 1), (None, None, 3)
    for name, one, other in (
        ("areb", "areb_mnist", "areb_cifar10"),
        ("e2sad", "e2sad_mnist", "e2sad_svhn"),
        ("nsloss", "nsloss_mnist", "nsloss_cifar10"),
    ):
        assert recipes.get(name, grey) == recipes.get(one)
        assert recipes.get(name, colour) == recipes.get(other)
    assert set(recipes.names()) == {*DOCUMENTS, "plain", "areb", "e2sad", "nsloss"}


def test_what_is_given_counts():
    recipe = recipes.get("areb:epochs=3,batch_size=64", batch_size=8, learning_rate=None)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (3, 8, 0.001)
    assert recipes.get("e2sad_mnist:epochs=2").steps is None
    assert recipes.get("e2sad_mnist", epochs=2).epochs == 2
    assert recipes.get("areb:steps=7").epochs is None
    alone = recipes.get("schedule=(step:at=[2,3]),augment=[(RandomFlip:mode=vertical),RandomShear]")
    assert alone == Recipe(
        schedule="step:at=[2,3]", augment=("RandomFlip:mode=vertical", "RandomShear")
    )
    assert recipes.get({"name": "gea", "config": {"epochs": 4}}) == Recipe(epochs=4)
    assert recipes.get(alone, epochs=5).augment == alone.augment
    assert recipes.get() == recipes.get("plain") == Recipe()


def test_length():
    # 30,000 steps of MNIST's 60,000 samples in batches of 256 are 127.7 epochs.
    assert recipes.get("e2sad_mnist").epochs_for(235) == 128
    assert Recipe(epochs=4).epochs_for(9) == 4
    assert (Recipe().epochs_for(1000), Recipe().epochs_for(20)) == (3, 30)


# ---- rates --------------------------------------------------------------------------------------


def rates(recipe, steps, epochs):
    optimizer = recipe.optimizer_for(steps, epochs)
    found = []
    for number in range(steps * epochs):
        optimizer.iterations.assign(number)
        found.append(float(optimizer.learning_rate))
    return np.array(found)


def test_cosine():
    number = np.arange(24)
    for alpha in (0, 0.1):
        found = rates(Recipe(schedule=f"cosine:alpha={alpha}", learning_rate=0.5), 4, 6)
        expected = 0.5 * (alpha + (1 - alpha) * (1 + np.cos(np.pi * number / 24)) / 2)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
        keras_own = keras.optimizers.schedules.CosineDecay(0.5, 24, alpha=alpha)
        np.testing.assert_array_equal(found, [float(keras_own(n)) for n in number])


def test_step_decay_begins_with_an_epoch():
    epoch = np.arange(24) // 4
    found = rates(Recipe(schedule="step:at=[1,3],factor=0.5", learning_rate=0.5), 4, 6)
    np.testing.assert_allclose(found, 0.5 * 0.5 ** ((epoch >= 1) * 1 + (epoch >= 3) * 1.0))
    # By default at the half and at three quarters.
    found = rates(Recipe(schedule="step", learning_rate=1.0), 4, 8)
    epoch = np.arange(32) // 4
    np.testing.assert_allclose(found, 0.1 ** ((epoch >= 4) * 1 + (epoch >= 6) * 1.0), rtol=1e-6)


def test_optimizer_by_name_and_weight_decay():
    recipe = Recipe(
        optimizer="sgd:momentum=0.5", learning_rate=0.1, weight_decay=0.5, schedule="constant"
    )
    optimizer = recipe.optimizer_for(1, 1)
    assert type(optimizer) is keras.optimizers.SGD and optimizer.momentum == 0.5
    weight = keras.Variable([2.0, -4.0])
    optimizer.apply([tf.zeros(2)], [weight])
    # Without a gradient what is left is the share taken off: 1 - rate * decay.
    np.testing.assert_allclose(weight.numpy(), np.array([2.0, -4.0]) * (1 - 0.1 * 0.5), rtol=1e-6)
    assert Recipe().optimizer_for(1, 1).weight_decay is None


def test_every_optimizer_that_is_told_of_is_known():
    with pytest.raises(ValueError) as error:
        recipes.get("optimizer=none_such")
    names = str(error.value).partition("Known names: ")[2].partition(". ")[0].split(", ")
    assert {"adam", "lamb", "sgd"} < set(names)
    for name in names:
        # As 1, not as 1.0, which Keras's optimizers want.
        recipe = Recipe(optimizer=name, learning_rate=1, schedule="constant", weight_decay=0.1)
        optimizer = recipe.optimizer_for(1, 1)
        assert type(optimizer).__name__.lower() == name and optimizer.weight_decay == 0.1
        assert float(optimizer.learning_rate) == 1.0


def test_plateau_and_early_stopping_count_as_keras_does():
    """Steps too small to move a weight: the accuracy stands still from the first epoch on."""
    recipe = Recipe(
        epochs=9, learning_rate=1e-12, schedule="plateau:patience=2,factor=0.5", early_stopping=3,
        monitor="accuracy",
    )  # fmt: skip
    history = models.fit(linear(), pictures(), recipe=recipe, verbose=0).history
    # The fourth epoch is the third one without a better accuracy; Keras logs the rate it had.
    np.testing.assert_allclose(history["learning_rate"], [1e-12, 1e-12, 1e-12, 5e-13], rtol=1e-5)


def test_callbacks_and_their_direction():
    plateau, stop = recipes.get("areb").callbacks_for(validated=True)
    assert (plateau.monitor, plateau.mode, plateau.factor) == ("val_loss", "min", 0.1)
    assert (plateau.patience, stop.patience, stop.restore_best_weights) == (5, 10, True)
    (stop,) = Recipe(early_stopping=2, monitor="val_robust_accuracy").callbacks_for(True, False)
    assert (stop.mode, stop.restore_best_weights) == ("max", False)
    assert recipes.get("areb").callbacks_for(validated=False)[0].monitor == "loss"
    assert recipes.get("areb").needs_validation and not Recipe().needs_validation
    assert not Recipe(early_stopping=1, monitor="loss").needs_validation


# ---- augmentation -------------------------------------------------------------------------------


def batches(data, recipe, epochs, seed=0):
    layers = augmentation.layers(recipe.augment, data.clip_values)
    steps = -(-len(data) // 5)
    numbers = range(steps * epochs.start, steps * epochs.stop)
    made = _batches(data, 5, numbers=numbers, seed=seed, augment=layers)
    return [x.numpy() for x, _ in made]


def test_flips_image_by_image_as_a_function_of_seed_and_epoch():
    data = pictures(32)
    recipe = Recipe(augment=["RandomFlip:mode=horizontal"])
    states = random.getstate(), np.random.get_state()[1].copy()
    found = batches(data, recipe, range(2))
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    plain = batches(data, Recipe(), range(2))
    flipped = [
        np.array_equal(image, original[:, ::-1])
        for a, b in zip(found, plain, strict=True)
        for image, original in zip(a, b, strict=True)
        if np.array_equal(image, original) or np.array_equal(image, original[:, ::-1])
    ]
    assert len(flipped) == 64 and 10 < sum(flipped) < 54
    # An epoch is what it is, whether the run began with it or before.
    later = batches(data, recipe, range(1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(found[7:], later, strict=True))
    other = batches(data, recipe, range(2), seed=1)
    assert not all(np.array_equal(a, b) for a, b in zip(found, other, strict=True))


def test_epochs_of_any_length_pass_over_the_same_batches(tmp_path):
    """Batches in a row, whatever the epochs; schedules and callbacks go by these."""
    data = pictures(12)
    whole = [x.numpy() for x, _ in _batches(data, 5, numbers=range(9), seed=2)]
    assert [len(x) for x in whole] == [5, 5, 2] * 3
    for start, stop in ((0, 2), (2, 6), (7, 9)):
        part = [x.numpy() for x, _ in _batches(data, 5, numbers=range(start, stop), seed=2)]
        assert all(map(np.array_equal, part, whole[start:stop])) and len(part) == stop - start
    for n in range(3):  # each a pass: all samples, once
        rows = np.concatenate(whole[3 * n : 3 * n + 3]).reshape(12, -1)
        np.testing.assert_array_equal(
            np.unique(rows, axis=0), np.unique(data.x.reshape(12, -1), axis=0)
        )
    assert not np.array_equal(whole[0], whole[3])

    recipe = "steps=8,batch_size=5,schedule=cosine,learning_rate=0.1"
    once, often = linear(), linear()
    models.fit(once, data, recipe=f"{recipe},steps_per_epoch=8", verbose=0)
    kept = tmp_path / "run"
    history = models.fit(
        often, data, recipe=f"{recipe},steps_per_epoch=2", verbose=0, checkpoint=kept
    )
    assert len(history.history["loss"]) == 4
    np.testing.assert_array_equal(*(model.get_weights()[0] for model in (once, often)))


def test_a_run_at_a_constant_rate_may_be_made_longer(tmp_path):
    data, whole, parts = pictures(12), linear(), linear()
    recipe = "batch_size=5,schedule=constant,steps_per_epoch=2"
    models.fit(whole, data, recipe=f"{recipe},steps=6", verbose=0)
    for steps in (2, 6):
        kept = tmp_path / "constant"
        models.fit(parts, data, recipe=f"{recipe},steps={steps}", verbose=0, checkpoint=kept)
    np.testing.assert_array_equal(*(model.get_weights()[0] for model in (whole, parts)))
    with pytest.raises(ValueError, match="a longer run.*after 3 epochs, epochs=1"):
        models.fit(parts, data, recipe=f"{recipe},steps=2", verbose=0, checkpoint=kept)
    falling = recipe.replace("constant", "cosine")
    kept = tmp_path / "cosine"
    models.fit(linear(), data, recipe=f"{falling},steps=2", verbose=0, checkpoint=kept)
    with pytest.raises(ValueError, match=r"epochs=2 \(was 1\)"):
        models.fit(linear(), data, recipe=f"{falling},steps=4", verbose=0, checkpoint=kept)


def test_no_two_draws_are_alike():
    """Several layers, several draws in one of them, and the next batch."""
    layers = augmentation.layers(
        ["RandomTranslation:height_factor=0.4,width_factor=0.4", "RandomBrightness:factor=0.4"],
        (-1.0, 1.0),
    )
    x = tf.repeat(pictures(1, (9, 9, 1), bounds=(-0.3, 0.3)).x, 6, 0)
    found = [augmentation.apply(layers, x, (3, n), (-1.0, 1.0)).numpy() for n in range(3)]
    rows = np.concatenate(found).reshape(18, -1)
    assert len(np.unique(rows.round(5), axis=0)) == 18
    again = augmentation.apply(layers, x, (3, 1), (-1.0, 1.0)).numpy()
    np.testing.assert_array_equal(again, found[1])


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0)])
def test_augmented_images_stay_in_the_range_of_the_data(bounds):
    data = pictures(8, bounds=bounds)
    layers = augmentation.layers(["RandomBrightness:factor=[1.0,1.0]"], bounds)
    assert tuple(layers[0].value_range) == bounds
    x = augmentation.apply(layers, tf.constant(data.x), (0, 0), bounds).numpy()
    np.testing.assert_allclose(x, bounds[1])  # as bright as it can be


def test_augmentation_is_not_seen_in_inference():
    """Neither where fit applies it nor where a model of one's own has it in front."""
    base = linear()
    data = pictures(4)
    before = [type(layer) for layer in base.layers]
    models.fit(base, data, recipe="epochs=1,augment=[RandomFlip]", verbose=0)
    assert [type(layer) for layer in base.layers] == before
    front = [keras.Input((5, 6, 1)), keras.layers.RandomFlip(), keras.layers.RandomRotation(0.3)]
    model = keras.Sequential([*front, base])
    assert pixel_range(
        keras.Sequential([*front, keras.layers.Rescaling(1 / 255), base])
    ).bounds == (0, 255)
    one, other = Classifier(base, (0, 1)), Classifier(model, (0, 1))
    np.testing.assert_allclose(other.logits(data.x), one.logits(data.x), rtol=1e-5)
    np.testing.assert_allclose(gradient(other, data), gradient(one, data), rtol=1e-4, atol=1e-7)
    # Logits, not the logarithm of probabilities: they do not add up as these do.
    assert np.abs(np.log(np.exp(other.logits(data.x)).sum(axis=1))).max() > 1e-3


# ---- standardisation ----------------------------------------------------------------------------


def standardized(x, epsilon):
    x = x.astype(np.float64)
    axes = (1, 2, 3)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def test_standardize_values_and_gradient(tmp_path):
    data = pictures(6, (4, 5, 3))
    kernel = np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32)
    base = linear((4, 5, 3))
    base.layers[-1].set_weights([kernel, np.zeros(2, np.float32)])
    model = models.standardize(base, epsilon=1e-2)
    z = standardized(data.x, 1e-2)
    scores = z.reshape(6, 60) @ kernel
    classifier = Classifier(model, (0, 1))
    np.testing.assert_allclose(classifier.logits(data.x), scores, rtol=1e-3, atol=1e-4)
    # The gradient of sum(w z) is (w - mean(w) - z mean(w z)) / deviation; w of the cross-entropy.
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    w = ((p - np.eye(2)[data.y]) @ kernel.T).reshape(data.x.shape)
    axes = (1, 2, 3)
    deviation = np.sqrt(data.x.astype(np.float64).var(axes, keepdims=True) + 1e-2)
    expected = (w - w.mean(axes, keepdims=True) - z * (w * z).mean(axes, keepdims=True)) / deviation
    np.testing.assert_allclose(gradient(classifier, data), expected, rtol=1e-3, atol=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(data.x), model(data.x), rtol=1e-6)
    assert models.standardize(again) is again  # it does so already
    assert all(type(layer).__module__.startswith("keras.") for layer in (again, *again.layers))


def test_standardized_models_know_no_range_of_pixels():
    data = pictures(6, (4, 5, 3))
    model = models.standardize(linear((4, 5, 3)))
    np.testing.assert_allclose(model(255 * data.x), model(data.x), rtol=1e-3, atol=1e-5)
    assert pixel_range(model) is None
    assert np.isfinite(model(np.full((1, 4, 5, 3), 0.5))).all()
    wrapped = kerasrobust.wrap(model, ["feature_squeezing:bit_depth=1", "gda:N=1"])
    assert models.standardize(wrapped) is wrapped
    z = standardized((data.x > 0.5).astype(np.float32), 1e-6)
    np.testing.assert_allclose(
        wrapped(data.x), model.layers[-1](z.astype(np.float32)), rtol=1e-3, atol=1e-5
    )
    history = models.fit(wrapped, data, recipe="e2sad_svhn:epochs=1", verbose=0)
    assert len(history.epoch) == 1


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: kerasrobust.wrap(linear(), "gda"), ValueError, "before it is wrapped"),
        (
            lambda: keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Rescaling(1 / 255)]),
            ValueError,
            "Rescaling",
        ),
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
            ValueError,
            r"input_shape=\(None, 4\)",
        ),
        (lambda: "model", TypeError, "model='model'"),
    ],
)
def test_models_that_cannot_be_standardized(model, error, message):
    with pytest.raises(error, match=message):
        models.standardize(model())


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        (3, TypeError, "recipe=3"),
        ("arebb", ValueError, "Did you mean 'areb'.*recipe='arebb'"),
        ("areb:epoch=3", TypeError, "The fields of a recipe are epochs.*epoch=3"),
        ("epochs=0", ValueError, "epochs=0"),
        ("epochs=2,steps=3", ValueError, "epochs=2, steps=3"),
        ("batch_size=0", ValueError, "batch_size=0"),
        ("learning_rate=-1", ValueError, "learning_rate=-1"),
        ("weight_decay=0", ValueError, "weight_decay=0"),
        ("early_stopping=0", ValueError, "early_stopping=0"),
        ("monitor=lr", ValueError, "monitor='lr'"),
        ("standardize=1", ValueError, "standardize=1"),
        ("schedule=cosinus", ValueError, "Did you mean 'cosine'.*schedule='cosinus'"),
        ("schedule=(cosine:alfa=1)", TypeError, "takes alpha. Received: alfa=1"),
        ("schedule=(step:at=[3,2])", ValueError, r"ascend. Received: at=\[3, 2\]"),
        ("schedule=(step:factor=2)", ValueError, "factor=2"),
        ("schedule=(plateau:patience=0)", ValueError, "patience=0"),
        ("optimizer=adan", ValueError, "Did you mean 'adam'.*optimizer='adan'"),
        ("optimizer=lossscaleoptimizer", ValueError, "Unknown optimizer"),
        ("optimizer=optimizermap", ValueError, "Unknown optimizer"),
        ("optimizer=(adamw:weight_decay=0.1),weight_decay=0.2", ValueError, "weight_decay=0.2, op"),
        ("optimizer=(sgd:momentun=1)", TypeError, "'SGD' takes momentum.*momentun=1"),
        ("augment=[RandomFlop]", ValueError, "Did you mean 'RandomFlip'.*augment='RandomFlop'"),
        ("augment=[(RandomFlip:way=up)]", TypeError, "RandomFlip takes mode.*way='up'"),
        ("augment=[RandomRotation]", ValueError, "RandomRotation: .*factor"),
        ("augment=[3]", TypeError, "augment=3"),
    ],
)
def test_bad_recipes(recipe, error, message):
    with pytest.raises(error, match=message):
        recipes.get(recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"standardize": True}, "kerasrobust.models.standardize"),
        ({"early_stopping": 2, "monitor": "val_loss"}, "monitor='val_loss' and validation=None"),
        ({"augment": ["RandomCrop:height=2,width=2"]}, r"make \(2, 2, 1\) of \(5, 6, 1\)"),
        (
            {"augment": [keras.layers.RandomBrightness(0.1)]},
            r"leave its value_range out. Received: value_range=\(0, 255\)",
        ),
        ({"augment": ["RandomHue:factor=0.1"]}, "takes no images of this kind"),
        ({"augment": ["BatchNormalization"]}, "no weights. Received: BatchNormalization"),
        ({"augment": ["RandomFlip", "MixUp"]}, "take each image by itself.*RandomFlip and MixUp"),
        ({"augment": ["CutMix"]}, "each image by itself.*Received: CutMix"),
        ({"augment": [Drawn(lambda: random.random())]}, "Keras's seed.*Received: Drawn"),
        ({"augment": [Drawn(lambda: np.random.uniform())]}, "Keras's seed.*Received: Drawn"),
        ({"augment": [Drawn(lambda: tf.random.uniform([]))]}, "Keras's seed.*Received: Drawn"),
        ({"early_stopping": 1, "monitor": "val_top_accuracy"}, "one of the logs.*'val_top_ac"),
        ({"schedule": "plateau", "monitor": "noisy_accuracy"}, "one of the logs.*'noisy_accu"),
    ],
)
def test_recipes_that_do_not_fit(recipe, message):
    before = random.getstate(), np.random.get_state(legacy=False)
    validation = pictures() if recipe.get("monitor", "").startswith("val_top") else None
    with pytest.raises(ValueError, match=message):
        models.fit(linear(), pictures(), recipe=Recipe(**recipe), validation=validation, verbose=0)
    assert random.getstate() == before[0]
    np.testing.assert_equal(np.random.get_state(legacy=False), before[1])


def test_monitor_that_only_training_shows_to_be_missing():
    """A defense puts a word in front of the accuracy."""
    model = kerasrobust.wrap(linear(), "gda:N=1")
    recipe = "epochs=3,batch_size=12,early_stopping=1,monitor=accuracy"
    with pytest.raises(ValueError, match="the logs, loss, noisy_acc.*monitor='accuracy'"):
        models.fit(model, pictures(), recipe=recipe, verbose=0)


@pytest.mark.slow
def test_monitor_that_is_logged_every_few_epochs():
    data = pictures()
    robust = kerasrobust.callbacks.RobustAccuracy(data, attacks="fgsm:eps=0.1", freq=2)
    recipe = "epochs=3,batch_size=12,early_stopping=3,monitor=val_robust_accuracy"
    with pytest.warns(UserWarning, match="not available"):  # by Keras, after the first epoch
        history = models.fit(
            linear(), data, recipe=recipe, validation=data, callbacks=[robust], verbose=0
        )
    assert len(history.epoch) == 3
