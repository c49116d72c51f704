"""Several attacks in one step against NumPy, and the three of the AREB paper in a real one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.defenses import (
    Batch,
    Context,
    EnsembleAdversarialTraining,
    RobustModel,
    wrap,
)

CE = "sparse_categorical_crossentropy"
SMALL = [
    "pgd:eps=0.2,eps_step=0.1,max_iter=3",
    "ead:max_iter=3,binary_search_steps=2,learning_rate=0.1,initial_const=1.0",
    "hsja:max_iter=2,init_eval=10,max_eval=20,init_size=10",
]

jit_or_not = pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])


def rows(x, y, weights):
    """NumPy: loss per row."""
    z = np.float64(x) @ weights[0] + weights[1]
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(x)), y]


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("strategy", ["average", "max"])
def test_fixed_adversaries_equal_numpy(
    linear, points, softmax_step, shift, weights, strategy, alpha, mode
):
    x, y = points
    base = linear()
    link = EnsembleAdversarialTraining([shift(by) for by in (0.3, -0.2, 0.1)], strategy, alpha)
    model = RobustModel(base, [link])
    model.compile(keras.optimizers.SGD(0.1), CE, metrics=["accuracy"], **mode)
    history = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history

    x_advs = np.stack([np.clip(x + by * np.cos(np.arange(4)), 0, 1) for by in (0.3, -0.2, 0.1)])
    if strategy == "average":
        rest = x_advs.reshape(27, 4)
    else:
        winner = np.argmax([rows(x_adv, y, weights) for x_adv in x_advs], axis=0)
        assert set(winner) >= {0, 1}  # none is the strongest of all samples
        rest = x_advs[winner, np.arange(9)]
    times = len(rest) // 9
    share = np.repeat([alpha / 9, (1 - alpha) / 9 / times], [9, 9 * times])
    values, expected = softmax_step(
        np.concatenate([x, rest]).astype("float32"), np.tile(y, 1 + times), share, 0.1
    )
    np.testing.assert_allclose(history["loss"], [(values * share).sum()], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    measured, labels = (x, y) if alpha else (rest, np.tile(y, times))
    hits = (measured @ weights[0] + weights[1]).argmax(axis=1) == labels
    name = "accuracy" if alpha else "adversarial_accuracy"
    np.testing.assert_allclose(history[name], [hits.mean()], rtol=1e-6)


@pytest.mark.parametrize(("strategy", "passes"), [("average", [60]), ("max", [60, 20])])
@pytest.mark.parametrize("crafting", ["inference", "training"])
def test_passes_and_their_modes(images, shift, strategy, passes, crafting):
    """ "average" makes one pass of all points; "max" one to pick, which trains nothing, and one."""
    x, y = images
    seen = []

    class Passes(keras.layers.Layer):
        def call(self, inputs, training=False):
            seen.append((inputs.shape[0], bool(training)))
            return inputs

    layers = [Passes(), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    base = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    three = [shift(by) for by in (0.3, -0.2, 0.1)]
    model = RobustModel(base, [EnsembleAdversarialTraining(three, strategy, crafting=crafting)])
    model.compile("sgd", CE, run_eagerly=True)
    model.make_train_function()
    seen.clear()
    model.train_on_batch(x, y)
    assert [size for size, _ in seen] == passes
    assert seen[-1][1] and all(training == (crafting == "training") for _, training in seen[:-1])


@pytest.mark.parametrize("strategy", ["average", "max"])
@pytest.mark.parametrize("crafting", ["inference", "training"])
def test_statistics_know_the_adversarial_pass_alone(cnn, images, shift, strategy, crafting):
    x, y = images
    base = cnn(batch_norm=True, dropout=0.3)
    two = [shift(0.3), shift(-0.3)]
    model = RobustModel(base, [EnsembleAdversarialTraining(two, strategy, crafting=crafting)])
    model.compile(keras.optimizers.SGD(0.0), CE)
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    means = [
        features.predict(np.clip(x + by, 0, 1), verbose=0).mean(axis=(1, 2)) for by in (0.3, -0.3)
    ]
    before = base.get_layer("drop").seed_generator.state.numpy().copy()
    model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
    drawn = base.get_layer("drop").seed_generator.state.numpy() - before
    np.testing.assert_array_equal(drawn, [0, 1])
    got = 2 * base.get_layer("norm").moving_mean.numpy()
    if strategy == "average":
        np.testing.assert_allclose(got, np.mean(means, axis=(0, 1)), atol=1e-6)
    elif crafting == "inference":
        fresh = cnn(batch_norm=True, dropout=0.3)
        p = [fresh.predict(np.clip(x + by, 0, 1), verbose=0) for by in (0.3, -0.3)]
        winner = np.argmax([-q[np.arange(20), y] for q in p], axis=0)
        picked = np.stack(means)[winner, np.arange(20)]
        np.testing.assert_allclose(got, picked.mean(axis=0), atol=1e-6)


def test_the_strongest_is_that_of_the_rest_of_the_chain(linear, points, shift, weights):
    """Noisy copies of each point decide, the same ones that are trained on."""
    x, y = points
    base = linear()
    two = EnsembleAdversarialTraining([shift(0.2), shift(-0.2)], "max")
    model = wrap(base, ["gda:N=2,sigma=0.2", two])
    model.compile(keras.optimizers.SGD(0.0), CE)
    logged = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history["loss"]
    noise = tf.random.stateless_normal([9, 2, 4], Context(model, tf.constant(0), x).seed("gda"))
    by_point = []
    for by in (0.2, -0.2):
        x_adv = np.clip(x + by * np.cos(np.arange(4)), 0, 1)
        copies = np.clip(x_adv[:, None] + 0.2 * noise.numpy(), 0, 1).reshape(18, 4)
        by_point.append(rows(copies, np.repeat(y, 2), weights).reshape(9, 2).mean(axis=1))
    np.testing.assert_allclose(logged, [np.max(by_point, axis=0).mean()], rtol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "jit"),
    [
        ("max", False),
        ("average", False),
        ("average", True),
        ("max", True),
    ],
)
@pytest.mark.slow
def test_the_attacks_of_the_paper_in_one_step(cnn, images, strategy, jit):
    """With a last batch of another size."""
    model = wrap(cnn(), "ensemble_adversarial_training", attacks=SMALL, strategy=strategy)
    model.compile(keras.optimizers.SGD(0.1), CE, metrics=["accuracy"], jit_compile=jit)
    history = model.fit(*images, batch_size=8, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and set(history) == {"loss", "adversarial_accuracy"}


@jit_or_not
@pytest.mark.slow
def test_points_in_the_step_are_those_of_the_attacks(cnn, images, jit):
    """Inside the step HopSkipJump finds what is adversarial, and EAD what it finds on the host."""
    x, y = images
    base = cnn()
    link = EnsembleAdversarialTraining(SMALL)
    model = RobustModel(base, [link])
    model.compile("sgd", CE, jit_compile=jit)
    model.make_train_function()

    @tf.function(jit_compile=jit)
    def prepare(x, y):
        context = Context(model, tf.constant(0), x)
        return link.prepare(Batch(x, y, y, (0.0, 1.0)), context).extras[link.name]

    points = prepare(tf.constant(x), tf.constant(y)).numpy()
    assert points.shape == (20, 3, 6, 6, 1) and points.min() >= 0 and points.max() <= 1
    labels = base.predict(x, verbose=0).argmax(axis=1)
    for index in (0, 1):
        result = attacks.get(SMALL[index]).bind(base).run(x, y)
        found = result.success & ~result.initially_adversarial
        assert found.any()
        np.testing.assert_allclose(points[found, index], result.x_adv[found], atol=1e-5)
    right = labels == y
    moved = np.abs(points[:, 2] - x).max(axis=(1, 2, 3)) > 0
    fooled = base.predict(points[:, 2], verbose=0).argmax(axis=1) != y
    assert right.any() and (fooled | ~moved)[right].all() and (fooled & moved & right).any()


@jit_or_not
def test_an_attack_that_fails_gives_the_sample(images, jit):
    """Of a model with one answer to everything nothing is adversarial, nor any other sample."""
    x = images[0]
    y = np.full(20, 2)
    base = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    base.set_weights([np.zeros((36, 3), "float32"), np.array([0, 0, 9], "float32")])
    link = EnsembleAdversarialTraining(SMALL[1:])
    model = RobustModel(base, [link])
    model.compile(keras.optimizers.SGD(0.0), CE, jit_compile=jit)
    logged = model.fit(x, y, batch_size=20, shuffle=False, verbose=0).history
    np.testing.assert_allclose(logged["loss"], [np.log(1 + 2 * np.exp(-9))], rtol=1e-3)
    context = Context(model, tf.constant(0), tf.constant(x))
    batch = Batch(tf.constant(x), tf.constant(y), tf.constant(y), (0.0, 1.0))
    points = link.prepare(batch, context).extras[link.name].numpy()
    np.testing.assert_allclose(points, np.stack([x, x], axis=1), atol=1e-6)


def test_another_sample_is_a_start(images):
    """With no random starts HopSkipJump begins at a sample that the model gives another class."""
    x, y = np.zeros((2, 6, 6, 1), "float32"), np.array([0, 1])
    x[1] = 1.0
    base = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    )
    base.set_weights([np.full((36, 2), [0.0, 1.0], "float32"), np.array([18, 0], "float32")])
    link = EnsembleAdversarialTraining(["hsja:init_size=0,max_iter=1,init_eval=10,max_eval=10"])
    model = RobustModel(base, [link])
    batch = Batch(tf.constant(x), tf.constant(y), tf.constant(y), (0.0, 1.0))
    points = link.prepare(batch, Context(model, tf.constant(0), batch.x)).extras[link.name]
    means = points.numpy()[:, 0].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [0.5, 0.5], atol=0.02)
    np.testing.assert_array_equal(base.predict(points[:, 0], verbose=0).argmax(axis=1), [1, 0])


def test_on_the_command_line():
    link = EnsembleAdversarialTraining()
    assert [attack.name for attack in link.attacks] == ["pgd", "ead", "hsja"]
    assert link.alpha == 0 and link.strategy == "average"
    text = "attacks=[(pgd:eps=0.1,max_iter=3),ead,(hsja:max_iter=2)],strategy=max,alpha=0.5"
    model = wrap(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")]),
        f"ensemble_adversarial_training:{text}",
    )
    (link,) = model.defenses
    assert [attack.name for attack in link.attacks] == ["pgd", "ead", "hsja"]
    assert (link.attacks[0].max_iter, link.attacks[2].max_iter) == (3, 2)
    again = EnsembleAdversarialTraining.from_config(link.get_config())
    assert again.get_config() == link.get_config() and again.strategy == "max"


def test_defaults_are_the_preset():
    from kerasrobust.evaluation import presets

    preset = dict(presets.get("areb", "mnist").attacks)
    for attack in EnsembleAdversarialTraining().attacks:
        expected = attacks.get({"name": attack.name, "config": preset[attack.name]})
        assert attack.get_config() == expected.get_config()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attacks": "pgd"}, TypeError, "must be a list of attacks. Received: attacks='pgd'"),
        ({"attacks": []}, ValueError, "At least one attack"),
        ({"attacks": ["pgd", "pgq"]}, ValueError, "Did you mean 'pgd'"),
        ({"attacks": ["uap"]}, ValueError, "part of a training step"),
        ({"attacks": ["fgsm:targeted=true"]}, ValueError, "must be untargeted"),
        ({"strategy": "mean"}, ValueError, "must be one of.*strategy='mean'"),
        ({"alpha": 1.0}, ValueError, "below 1. Received: alpha=1.0"),
        ({"crafting": "stateless"}, ValueError, "must be one of.*crafting='stateless'"),
        ({"batch_norm": "off"}, ValueError, "must be one of.*batch_norm='off'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        EnsembleAdversarialTraining(**arguments)


def test_beside_adversarial_training_it_is_refused(linear):
    with pytest.raises(ValueError, match="cannot be combined: both craft adversaries"):
        wrap(linear(), ["adversarial_training", "ensemble_adversarial_training"])
