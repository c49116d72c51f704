"""Chains of several defenses: what they mean, whatever the order, and what is refused why.

Further pairs are recomputed beside one of the two: label smoothing with adversarial training in
test_label_smoothing, NsLoss with the Jacobian in test_nsloss, weight perturbation with TRADES in
test_awp.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import defenses
from kerasrobust.defenses import Batch, Context, TrainingDefense, unwrap, wrap

CE = "sparse_categorical_crossentropy"
RATE = 0.2
FGSM = {"attack": {"name": "fgsm", "config": {"eps": 0.1}}, "alpha": 0.25}
# Of every registered training defense, what makes its step cheap.
SETTINGS = {
    "adversarial_training": FGSM,
    "e2sad": {"soft": 1.0},
    "ensemble_adversarial_training": {"attacks": [FGSM["attack"]]},
    "gda": {"N": 2},
    "mart": {"max_iter": 1},
    "nsloss": {"N": 2},
    "trades": {"max_iter": 1},
    "vat": {"max_iter": 1},
}
NAMES = [
    name
    for name in defenses.DEFENSES.builtin
    if issubclass(defenses.DEFENSES.find(name), TrainingDefense)
]
PAIRS = list(itertools.combinations(NAMES, 2))


def named(name):
    return {"name": name, "config": SETTINGS.get(name, {})}


def prepared(model, name, x, y):
    """What the link called `name` draws in the first step."""
    batch = Batch(tf.constant(x), tf.constant(y), tf.constant(y), (0.0, 1.0))
    (link,) = [link for link in model.defenses if link.name == name]
    return link.prepare(batch, Context(model, tf.constant(0), batch.x)).extras


def fit(model, x, y):
    model.compile(keras.optimizers.SGD(RATE), CE)
    return model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0).history["loss"][0]


def descend(variables, loss):
    """The value of a formula, and its variables one step down."""
    with tf.GradientTape() as tape:
        value = loss(*variables)
    gradients = tape.gradient(value, variables)
    return value, [v - RATE * g for v, g in zip(variables, gradients, strict=True)]


def test_gda_trains_a_network_of_bounded_relus(cnn, images):
    x, y = images
    model = wrap(cnn(), ["brelu:t=0.3", "gda:sigma=0.2,N=3"], seed=4)
    noise = prepared(model, "gda", x, y)["gda"]

    def loss(kernel, bias, dense, offset):
        copies = tf.clip_by_value(x[:, None] + noise, 0, 1)
        hidden = tf.nn.conv2d(tf.reshape(copies, [-1, 6, 6, 1]), kernel, 1, "VALID") + bias
        bounded = tf.minimum(tf.nn.relu(hidden), 0.3)
        assert 0.05 < np.mean(hidden > 0.3) < 0.95
        z = tf.reshape(bounded, [60, -1]) @ dense + offset
        labels = np.repeat(y, 3)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z))

    start = [tf.Variable(weight) for weight in cnn().get_weights()]
    value, expected = descend(start, loss)
    np.testing.assert_allclose(fit(model, x, y), value, rtol=1e-5)
    for got, wanted in zip(unwrap(model).get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("variant", ["gda", "superimpose"])
def test_three_links(linear, points, weights, variant):
    """Variants of the clean and of the adversarial sample alike, judged by smoothed labels."""
    x, y = points
    base = linear()
    names = ["label_smoothing:k=0.7", {"gda": "gda:N=2", "superimpose": "superimpose"}[variant]]
    model = wrap(base, [{"name": "adversarial_training", "config": FGSM}, *names], seed=2)
    drawn = prepared(model, variant, x, y)

    def variants(points):
        if variant == "gda":
            return tf.clip_by_value(points[:, None] + drawn["gda"], 0, 1)
        return (0.6 * points + 0.4 * drawn["superimpose"])[:, None]

    targets = np.where(np.eye(3)[y] == 1, 0.7, 0.15)[:, None]
    p = tf.nn.softmax(x @ weights[0] + weights[1])
    x_adv = np.clip(x + 0.1 * np.sign((p - np.eye(3)[y]) @ weights[0].T), 0, 1)

    def loss(kernel, bias):
        def J(points):
            z = tf.nn.log_softmax(variants(points) @ kernel + bias)
            return -tf.reduce_mean(tf.reduce_sum(targets * z, axis=2))

        return 0.25 * J(x) + 0.75 * J(x_adv)

    value, expected = descend([tf.Variable(weight) for weight in weights], loss)
    np.testing.assert_allclose(fit(model, x, y), value, rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


class Passes(keras.layers.Layer):
    """Counts its calls; eager mode only."""

    seen = 0

    def call(self, inputs):
        Passes.seen += 1
        return inputs


@pytest.mark.parametrize("name", ["adversarial_training", "e2sad", "minimax", "trades", "vat"])
def test_the_jacobian_penalty_makes_no_pass_of_its_own(images, name):
    x, y = images
    counts = []
    for names in ([named(name)], [named(name), "jacobian"]):
        layers = [keras.layers.Flatten(), Passes(), keras.layers.Dense(3, activation="softmax")]
        model = wrap(keras.Sequential([keras.Input((6, 6, 1)), *layers]), names)
        model.compile("sgd", CE, run_eagerly=True)
        model.train_on_batch(x, y)
        Passes.seen = 0
        model.train_on_batch(x, y)
        counts.append(Passes.seen)
    assert counts[0] == counts[1] > 1


@pytest.mark.parametrize(
    "names",
    [
        ["awp", "trades"],
        ["nsloss", "jacobian"],
        ["adversarial_training", "gda", "label_smoothing"],
        ["awp", "vat", "jacobian", "nsloss", "superimpose", "gda", "label_smoothing"],
    ],
    ids="-".join,
)
def test_any_order_gives_the_same_chain(cnn, names):
    expected = [link.name for link in wrap(cnn(), [named(name) for name in names]).defenses]
    assert sorted(expected) == sorted(names)
    rest = ["label_smoothing", "gda", "superimpose", "nsloss", "jacobian"]
    assert [name for name in rest if name in names] == [n for n in expected[::-1] if n in rest]
    for order in list(itertools.permutations(names))[:: max(1, len(names) ** 4 // 8)]:
        model = wrap(cnn(), [named(name) for name in order])
        assert [link.name for link in model.defenses] == expected


def test_of_two_with_the_same_place_one_is_refused():
    """Otherwise the order of the names would decide."""
    for first, second in PAIRS:
        one, other = (defenses.get(named(name)) for name in (first, second))
        if one.rank == other.rank:
            assert one.conflict(other) or other.conflict(one), (first, second)


CRAFT = "both craft adversaries; `ensemble_adversarial_training` takes several attacks"
END = "each is an end of the chain, with a loss of its own"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["gda", "gda"], "the chain already holds 'gda'"),
        (["awp", "trades", "awp"], "the chain already holds 'awp'"),
        (["mart", "distillation"], END),
        (["adversarial_training", "trades"], CRAFT),
        (["fast", "vat"], CRAFT),
        (["e2sad", "minimax"], CRAFT),
        (["ensemble_adversarial_training", "adversarial_training"], CRAFT),
        (["mart", "label_smoothing"], "'mart' .* would never call 'label_smoothing'"),
        (["mart", "gda"], "'mart' .* would never call 'gda'"),
        (["mart", "nsloss"], "'mart' .* would never call 'nsloss'"),
        (["distillation", "label_smoothing"], "'distillation' .* would never call 'label_sm"),
        (["e2sad:soft=0.75", "label_smoothing"], "both smooth the labels"),
    ],
    ids=str,
)
def test_nonsense_is_refused_with_a_reason(cnn, names, reason):
    for order in (names, names[::-1]):
        with pytest.raises(ValueError, match=f"cannot be combined: {reason}.*Received: defenses="):
            wrap(cnn(), order)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_pair_is_refused_or_trains(cnn, images, first, second):
    x, y = images
    names = [named(first), named(second)]
    try:
        model = wrap(cnn(), names)
    except ValueError as error:
        assert "cannot be combined" in str(error)
        return
    before = unwrap(model).get_weights()
    if "distillation" in (first, second):
        model.teacher.take(cnn(seed=5).get_weights())
    model.compile(keras.optimizers.SGD(RATE), CE, run_eagerly=True)
    assert np.isfinite(model.train_on_batch(x, y))
    for old, new in zip(before, unwrap(model).get_weights(), strict=True):
        assert np.isfinite(new).all() and (new != old).any()
