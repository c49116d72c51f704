"""Fast adversarial training: its step against NumPy, and the guard that switches to PGD."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.defenses import Context, Fast, RobustModel, wrap

CE = "sparse_categorical_crossentropy"


def signs(x, y, weights):
    """NumPy: signs of the gradient of the cross-entropy of softmax regression."""
    z = x @ weights[0] + weights[1]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return np.sign((p - np.eye(3)[y]) @ weights[0].T)


def start(model, x, eps, step=0):
    """The random starts of a step, drawn again."""
    seed = Context(model, tf.constant(step), tf.constant(x)).seed("fast")
    return np.clip(x + tf.random.stateless_uniform(x.shape, seed, -eps, eps).numpy(), 0, 1)


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {}])
@pytest.mark.parametrize("eps_step", [None, 0.05])
@pytest.mark.parametrize("guard_every", [0, 100])
def test_step_equals_numpy(linear, points, softmax_step, weights, eps_step, guard_every, mode):
    x, y = points
    base = linear()
    model = wrap(base, "fast", eps=0.25, eps_step=eps_step, guard_every=guard_every)
    model.compile(keras.optimizers.SGD(0.1), CE, metrics=["accuracy"], **mode)
    history = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history

    first = start(model, x, 0.25)
    moved = first + (eps_step or 1.25 * 0.25) * signs(first, y, weights)
    x_adv = np.clip(np.clip(moved, x - 0.25, x + 0.25), 0, 1).astype("float32")
    assert (np.abs(first - x) < 0.25).any() and (np.abs(x_adv - x) < 0.24).any()
    values, expected = softmax_step(x_adv, y, np.full(9, 1 / 9), 0.1)
    np.testing.assert_allclose(history["loss"], [values.mean()], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert set(history) == {"loss", "adversarial_accuracy"}


def test_guard_switches_to_pgd_and_back(linear, points, weights, mode, tmp_path):
    """A model that knew better once: PGD from the look that sees it until one that does not."""
    x, eps = points[0], 0.2
    y = (x @ weights[0] + weights[1]).argmax(axis=1)  # it is right about all of them
    # Of a linear model with these margins the signs are the same in the whole ball, and five steps
    # of eps / 2 end in its corner.
    corner = np.clip(x + eps * signs(x, y, weights), 0, 1)
    z = corner @ weights[0] + weights[1]
    at_corner = np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(9), y])
    robust = np.mean(z.argmax(axis=1) == y)
    assert 0 < robust < 1
    link = Fast(eps, eps_step=0.01, guard_every=2, guard_max_iter=5)
    model = RobustModel(linear(), [link])
    model.compile(keras.optimizers.SGD(0.0), CE, **mode)
    assert link.guard(model) == {"active": False, "accuracy": 0.0, "best": 0.0}

    def trains_on_pgd():
        logged = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history["loss"]
        return bool(abs(logged[0] - at_corner) < 1e-5)

    def knows(accuracy, best):
        np.testing.assert_allclose(model.fast_guard.numpy(), [accuracy, best], rtol=1e-6)
        return True

    assert not trains_on_pgd() and knows(robust, robust)  # step 0 looks: the best so far
    model.fast_guard.assign([2.2 * robust, 2.2 * robust])
    assert not trains_on_pgd() and knows(2.2 * robust, 2.2 * robust)  # step 1 does not look
    assert trains_on_pgd() and knows(robust, 2.2 * robust)  # step 2 does: below a half
    assert link.guard(model)["active"]
    assert trains_on_pgd() and knows(robust, 2.2 * robust)  # step 3 stays at it

    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    model.run_eagerly = "run_eagerly" in mode
    assert knows(robust, 2.2 * robust) and link.guard(model)["active"]
    assert trains_on_pgd()  # step 4 looks: no better
    assert trains_on_pgd()  # step 5
    model.fast_guard.assign([0.0, 1.8 * robust])
    assert not trains_on_pgd() and knows(robust, 1.8 * robust)  # step 6 looks: recovered
    assert not link.guard(model)["active"]


def test_guard_measures_under_pgd(cnn, images):
    """Of a model that is no linear one: the library's PGD from the same start."""
    x = images[0]
    base = cnn(batch_norm=True, dropout=0.5)
    y = base.predict(x, verbose=0).argmax(axis=1)
    link = Fast(0.05, guard_max_iter=4)
    model = RobustModel(base, [link])
    model.compile(keras.optimizers.SGD(0.0), CE)
    pgd = attacks.get("pgd", eps=0.05, eps_step=0.03125, max_iter=4).bind(base)
    begin = {"seed": tf.constant([0, 0]), "start": tf.constant(start(model, x, 0.05))}
    x_adv = pgd.perturb(tf.constant(x), tf.constant(y), **begin)
    expected = np.mean(base.predict(x_adv, verbose=0).argmax(axis=1) == y)
    assert 0 < expected < 1
    model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
    assert link.guard(model)["accuracy"] == pytest.approx(expected)
    # One pass drew dropout, and moved the statistics: that of the training.
    assert base.get_layer("drop").seed_generator.state.numpy()[1] == 1
    mean = base.get_layer("norm").moving_mean.numpy()
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    single = attacks.get("pgd", eps=0.05, eps_step=0.0625, max_iter=1).bind(cnn(batch_norm=True))
    trained = single.perturb(tf.constant(x), tf.constant(y), **begin)
    seen = features.predict(trained, verbose=0).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, 0.5 * seen, atol=1e-5)


def test_config_and_messages():
    link = Fast(8 / 255, guard_every=7, guard_fraction=0.25, crafting="training")
    assert Fast.from_config(link.get_config()).get_config() == link.get_config()
    for arguments, message in (
        ({"eps": 0.0}, "Received: eps=0.0"),
        ({"eps_step": 0.0}, "Received: eps_step=0.0"),
        ({"guard_every": -1}, "Received: guard_every=-1"),
        ({"guard_max_iter": 0}, "Received: guard_max_iter=0"),
        ({"guard_fraction": 1.0}, "below 1. Received: guard_fraction=1.0"),
        ({"crafting": "stateless"}, "crafting='stateless'"),
        ({"batch_norm": "off"}, "batch_norm='off'"),
    ):
        with pytest.raises(ValueError, match=message):
            Fast(**arguments)
