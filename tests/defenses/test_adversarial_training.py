"""Adversarial training against NumPy, with a fixed adversary and with real attacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.defenses import AdversarialTraining, Batch, Context, RobustModel, wrap

CE = "sparse_categorical_crossentropy"


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("one_hot", [False, True])
def test_fixed_adversary_equals_numpy(linear, points, softmax_step, shift, alpha, mode, one_hot):
    x, y = points
    base = linear()
    model = RobustModel(base, [AdversarialTraining(shift(0.3), alpha)])
    loss = "categorical_crossentropy" if one_hot else CE
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], **mode)
    labels = keras.utils.to_categorical(y, 3) if one_hot else y
    history = model.fit(x, labels, batch_size=9, shuffle=False, verbose=0).history

    x_adv = np.clip(x + 0.3 * np.cos(np.arange(4)), 0, 1)
    share = np.repeat([alpha / 9, (1 - alpha) / 9], 9)
    values, expected = softmax_step(
        np.concatenate([x, x_adv]).astype("float32"), np.tile(y, 2), share, 0.1
    )
    np.testing.assert_allclose(history["loss"], [(values * share).sum()], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    measured = x if alpha else x_adv
    name = "accuracy" if alpha else "adversarial_accuracy"
    hits = linear().predict(measured, verbose=0).argmax(1) == y
    np.testing.assert_allclose(history[name], [hits.mean()], rtol=1e-6)


@pytest.mark.parametrize("one_hot", [False, True])
def test_fgsm_equals_numpy(linear, points, softmax_step, weights, one_hot):
    x, y = points
    base = linear()
    recipe = attacks.get("fgsm", eps=0.1)
    model = RobustModel(base, [AdversarialTraining(recipe, alpha=0.5)])
    labels = keras.utils.to_categorical(y, 3) if one_hot else y[:, None]
    model.compile(keras.optimizers.SGD(0.1), "ce")
    history = model.fit(x, labels, batch_size=9, shuffle=False, verbose=0).history

    z = x @ weights[0] + weights[1]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    x_adv = np.clip(x + 0.1 * np.sign((p - np.eye(3)[y]) @ weights[0].T), 0, 1)
    share = np.full(18, 0.5 / 9)
    values, expected = softmax_step(np.concatenate([x, x_adv]), np.tile(y, 2), share, 0.1)
    np.testing.assert_allclose(history["loss"], [(values * share).sum()], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_pgd_in_the_step_is_the_attack_of_the_library(cnn, images):
    x, y = images
    base = cnn()
    recipe = attacks.get("pgd", eps=0.1, eps_step=0.03, max_iter=5)
    model = RobustModel(base, [AdversarialTraining(recipe, alpha=0.0)])
    batch = Batch(tf.constant(x), tf.constant(y), tf.constant(y), (0.0, 1.0))
    context = Context(model, tf.constant(0), tf.constant(x))
    crafted = model.defenses[0].prepare(batch, context).extras["adversarial_training"].numpy()
    result = recipe.bind(base).run(x, y)
    fooled = result.success & ~result.initially_adversarial
    assert fooled.any()
    np.testing.assert_allclose(crafted[fooled], result.x_adv[fooled], atol=1e-6)
    model.compile(keras.optimizers.SGD(0.0), CE)
    logged = model.fit(x, y, batch_size=20, shuffle=False, verbose=0).history["loss"]
    p = base.predict(crafted, verbose=0)
    np.testing.assert_allclose(logged, [-np.log(p[np.arange(20), y]).mean()], rtol=1e-5)


@pytest.mark.parametrize("crafting", ["inference", "training"])
def test_crafting_moves_no_statistic(cnn, images, crafting):
    """After the step the moving mean knows the clean pass alone, dropout has drawn once."""
    x, y = images
    base = cnn(batch_norm=True, dropout=0.3)
    recipe = attacks.get("pgd", eps=0.1, eps_step=0.05, max_iter=3)
    link = AdversarialTraining(recipe, 0.5, crafting=crafting, batch_norm="stateless")
    model = RobustModel(base, [link])
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    mean = features.predict(x, verbose=0).mean(axis=(0, 1, 2))
    before = base.get_layer("drop").seed_generator.state.numpy().copy()
    model.compile(keras.optimizers.SGD(0.0), CE)
    model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
    np.testing.assert_allclose(base.get_layer("norm").moving_mean.numpy(), 0.5 * mean, atol=1e-6)
    drawn = base.get_layer("drop").seed_generator.state.numpy() - before
    np.testing.assert_array_equal(drawn, [0, 1])


def test_crafting_mode_is_what_the_attack_sees(cnn, images):
    x, y = images
    base = cnn(batch_norm=True)
    base.get_layer("norm").moving_mean.assign([5.0, -5.0, 3.0, -3.0])
    crafted = {}
    for crafting in ("inference", "training"):
        model = RobustModel(base, [AdversarialTraining("fgsm:eps=0.1", crafting=crafting)])
        batch = Batch(tf.constant(x), tf.constant(y), tf.constant(y), (0.0, 1.0))
        context = Context(model, tf.constant(0), tf.constant(x))
        crafted[crafting] = model.defenses[0].prepare(batch, context).extras[model.defenses[0].name]
        view = model.classifier(crafting)
        expected = base(x, training=crafting == "training") if crafting == "inference" else None
        if expected is not None:
            np.testing.assert_allclose(
                tf.nn.softmax(view.logits(tf.constant(x))), expected, atol=1e-6
            )
    assert np.mean(crafted["inference"] != crafted["training"]) > 0.05


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("batch_norm", ["training", "inference", "stateless"])
def test_batch_norm_modes(cnn, images, shift, batch_norm, alpha):
    """What the adversarial pass normalises by, and which passes move the statistics."""
    x, y = images
    base = cnn(batch_norm=True)
    norm = base.get_layer("norm")
    norm.moving_mean.assign([0.2, -0.1, 0.3, 0.0])
    model = RobustModel(base, [AdversarialTraining(shift(0.3), alpha, batch_norm=batch_norm)])
    model.compile(keras.optimizers.SGD(0.0), CE)
    x_adv = np.clip(x + 0.3, 0, 1)  # of one channel, where cos(0) is 1
    features = keras.Model(base.inputs, norm.input)
    mean, mean_adv = (features.predict(z, verbose=0).mean(axis=(0, 1, 2)) for z in (x, x_adv))
    expected = norm.moving_mean.numpy()
    losses = []
    with keras.StatelessScope():  # in which the clean pass, if there is one, moves the statistics
        for z, training in [(x, True)] * bool(alpha) + [(x_adv, batch_norm != "inference")]:
            p = np.asarray(base(z, training=training))
            losses.append(-np.log(p[np.arange(20), y]).mean())
    logged = model.fit(x, y, batch_size=20, shuffle=False, verbose=0).history["loss"]
    if alpha:
        expected = 0.5 * expected + 0.5 * mean
    if batch_norm == "training":
        expected = 0.5 * expected + 0.5 * mean_adv
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected, atol=1e-6)
    wanted = alpha * losses[0] + (1 - alpha) * losses[-1]
    np.testing.assert_allclose(logged, [wanted], rtol=1e-4)


@pytest.mark.parametrize("attack", ["fgsm:eps=0.2", "pgd:eps=0.2,eps_step=0.1,max_iter=2"])
def test_the_attack_grows_over_the_first_steps(linear, points, weights, attack, mode, tmp_path):
    """The corner of the ball, for a linear model, at quarters of eps; saved between."""
    x, y = points
    model = wrap(linear(), f"adversarial_training:attack=({attack}),alpha=0,warmup_steps=4")
    model.compile(keras.optimizers.SGD(0.0), CE, **mode)
    z = x @ weights[0] + weights[1]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    # PGD looks twice; at these points the signs of the second look are those of the first.
    sign = np.sign((p - np.eye(3)[y]) @ weights[0].T)
    losses = []
    for step in range(6):
        if step == 2:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
            model.run_eagerly = "run_eagerly" in mode
        eps = 0.2 * min((step + 1) / 4, 1)
        z = np.clip(x + eps * sign, 0, 1) @ weights[0] + weights[1]
        losses.append(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(9), y]))
        logged = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history["loss"]
        np.testing.assert_allclose(logged, losses[-1:], rtol=1e-5)
    assert losses[0] < losses[1] < losses[2] < losses[3] == losses[5]


def test_a_recipe_leaves_the_model_it_has(cnn, images):
    """The attack sees the model in training, and XLA or not as that model says."""
    recipe = attacks.get("pgd:eps=0.1,max_iter=1").bind(cnn(seed=5))
    classifier = recipe.classifier
    link = AdversarialTraining(recipe)
    model = RobustModel(cnn(), [link])
    model.compile("sgd", CE)
    x, y = (tf.constant(part) for part in images)
    context = Context(model, tf.constant(0), x)
    crafted = link.prepare(Batch(x, y, y, (0.0, 1.0)), context).extras[link.name]
    own = attacks.get("pgd:eps=0.1,max_iter=1").bind(model.base)
    np.testing.assert_array_equal(crafted, own.perturb(x, y, seed=tf.constant([0, 0])))
    assert recipe.classifier is classifier


def test_training_lowers_the_worst_loss():
    """Of a linear model FGSM finds the worst point: the loss there is what training minimises."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    side = (2 * y - 1)[:, None]
    x = 0.5 + side * [0.09, 0.2] + rng.normal(size=(400, 2)) * [0.005, 0.2]
    x = np.clip(x, 0, 1).astype("float32")
    recipe = attacks.get("fgsm", eps=0.1)
    worst = {}
    for name, links in (("plain", []), ("robust", [AdversarialTraining(recipe, alpha=0.0)])):
        base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
        base.set_weights([np.zeros((2, 2), "float32"), np.zeros(2, "float32")])
        model = RobustModel(base, links)
        model.compile(keras.optimizers.Adam(0.3), CE)
        # A hundred epochs of one batch each, without what Keras does between two epochs.
        epochs = np.tile(x, (100, 1)), np.tile(y, 100)
        model.fit(*epochs, batch_size=400, shuffle=False, verbose=0)
        (w, b), sign = base.get_weights(), 1 - 2 * y
        gap = w[:, 0] - w[:, 1]  # the margin of class 0 over class 1 is x @ gap + bias
        margin = sign * (x @ gap + b[0] - b[1]) - 0.1 * np.abs(gap).sum()
        worst[name] = np.log1p(np.exp(-margin)).mean()
    assert worst["robust"] < 0.9 * worst["plain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.0}, "below 1. Received: alpha=1.0"),
        ({"alpha": -0.1}, "Received: alpha=-0.1"),
        ({"alpha": "x"}, "Received: alpha='x'"),
        ({"attack": "pgq"}, "Did you mean 'pgd'"),
        ({"attack": "fgsm:targeted=true"}, "must be untargeted.*Received: attack="),
        ({"crafting": "stateless"}, "must be one of.*crafting='stateless'"),
        ({"batch_norm": "off"}, "must be one of.*batch_norm='off'"),
        ({"warmup_steps": -1}, "Received: warmup_steps=-1"),
        ({"warmup_steps": 5, "attack": "hsja"}, "'hsja' has not. Received: warmup_steps=5"),
        ({"attack": "uap"}, "part of a training step.*'uap'"),
        ({"attack": {"name": "pgd", "config": {"eps": [0.1, 0.2]}}}, "`eps` of `attack` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdversarialTraining(**arguments)
