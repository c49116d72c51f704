"""The lambda search: where it starts, how it bisects, and what it leaves alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import (
    GaussianDataAugmentation,
    Jacobian,
    NsLoss,
    Penalty,
    RobustModel,
    search_lambda,
    wrap,
)


class Trap(Penalty):
    """A constant 1 up to a known weight; beyond it training destroys the model."""

    name = "trap"
    rank = 12

    def __init__(self, weight=0.1, limit=0.5, trap="collapse"):
        self.weight, self.limit, self.trap = weight, limit, trap

    def prepare(self, batch, context):
        self.variables = context.model.trainable_variables
        return batch

    def penalty(self, batch, inner):
        squares = tf.add_n([tf.reduce_sum(v.value**2) for v in self.variables])
        # With `weight` and a learning rate of 0.005 each step takes all weights to zero.
        rate = 100.0 / max(self.weight, 1e-9)
        harm = {"collapse": rate * squares, "nan": np.nan * squares}[self.trap]
        one = tf.ones_like(inner.logits(batch)[:, 0])
        return one + (harm if self.weight > self.limit else 0.0), batch

    def get_config(self):
        return {"weight": self.weight, "limit": self.limit, "trap": self.trap}


@pytest.fixture(scope="module")
def problem():
    """Three clusters that a softmax regression tells apart, and a trained one.

    One for all tests: a search leaves it as it was, as one of them shows.
    """
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    x = np.clip(0.5 + 0.3 * np.eye(4)[y] + 0.05 * rng.normal(size=(120, 4)), 0, 1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.Adam(0.3), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, verbose=0)
    return model, x.astype("float32"), y


FAST = {"optimizer": keras.optimizers.Adam(0.1), "batch_size": 20}
SLOW = {"optimizer": keras.optimizers.SGD(0.005), "batch_size": 20}


@pytest.mark.parametrize("trap", ["nan", pytest.param("collapse", marks=pytest.mark.slow)])
def test_bisection_closes_in_on_the_known_limit(problem, trap):
    model, x, y = problem
    found = search_lambda(model, Trap(trap=trap), x, y, **SLOW, trials=7)
    assert found.initial == pytest.approx(1.0)
    assert found.start == pytest.approx(np.log2(3))
    assert found.random_guess == pytest.approx(np.log(3))
    # Seven halvings of two decades on a logarithmic scale.
    assert found.value <= 0.5 < found.value * 100 ** (1 / 2**7)
    weights = [trial.weight for trial in found.trials]
    np.testing.assert_allclose(weights[:2], np.log2(3) * np.array([1.0, 10**-0.5]), rtol=1e-6)
    assert [trial.too_high for trial in found.trials] == [weight > 0.5 for weight in weights]
    for trial in found.trials:
        assert trial.too_high == (not trial.cross_entropy < 0.99 * np.log(3))
        assert trial.too_high or trial.accuracy > 0.95
        assert trial.validation_accuracy is None
    assert "too high" in str(found) and f"{found.value:.4g}" in str(found).splitlines()[-1]


def test_upwards_and_downwards(problem):
    model, x, y = problem
    start = np.log2(3)
    harmless = search_lambda(model, Trap(limit=1e9), x, y, **SLOW, trials=3, factor=4.0)
    np.testing.assert_allclose(
        [trial.weight for trial in harmless.trials],
        start * np.array([1.0, 2.0, 4**0.75]),
        rtol=1e-6,
    )
    assert harmless.value == harmless.trials[-1].weight
    hopeless = search_lambda(
        model, Trap(limit=1e-9, weight=0.0), x, y, **SLOW, trials=2, factor=4.0
    )
    np.testing.assert_allclose([t.weight for t in hopeless.trials], [start, start / 2], rtol=1e-6)
    assert hopeless.value is None and "none: all were too high" in str(hopeless)


def test_start_is_the_mean_over_training_and_validation_data(problem):
    """A tanh network, whose Jacobian is another one at every sample."""
    _, x, y = problem
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((4,)), dense(6, "tanh"), dense(3, "softmax")])
    w = [5 * value for value in model.get_weights()]
    model.set_weights(w)
    held_out = np.clip(x[:50] * 0.2, 0, 1)

    def norms(part):
        slope = 1 - np.tanh(part @ w[0] + w[1]) ** 2
        return np.sum(np.einsum("hc,bh,fh->bcf", w[2], slope, w[0]) ** 2, axis=(1, 2))

    options = {"batch_size": 25, "trials": 1}
    found = search_lambda(model, "jacobian", x, y, validation_data=(held_out, y[:50]), **options)
    mean = np.concatenate([norms(x), norms(held_out)]).mean()
    assert abs(mean / norms(x).mean() - 1) > 0.01
    np.testing.assert_allclose(found.initial, mean, rtol=1e-5)
    np.testing.assert_allclose(found.start, np.log2(3) / mean, rtol=1e-5)
    # Of two batches of 25 out of 170 samples: other, but of the same size.
    few = search_lambda(
        model, "jacobian", x, y, validation_data=(held_out, y[:50]), batches=2, **options
    )
    assert abs(few.initial / mean - 1) > 1e-4
    assert norms(x).min() < few.initial < norms(held_out).max()


@pytest.mark.slow
def test_a_trial_is_training_from_the_given_weights(problem):
    """Cross-entropy and accuracy of each row, trained again by hand."""
    model, x, y = problem
    order = np.random.default_rng(5).permutation(len(x))
    options = {"seed": 5, "trials": 3, "validation_data": (x[:60], y[:60])}
    found = search_lambda(model, Jacobian(), x, y, **FAST, **options)
    assert len(found.trials) == 3
    for trial in found.trials:
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
        robust = RobustModel(again, [Jacobian(trial.weight)], seed=5)
        robust.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
        robust.fit(x[order], y[order], batch_size=20, shuffle=False, verbose=0)
        p = again.predict(x, verbose=0)
        np.testing.assert_allclose(
            trial.cross_entropy, -np.log(p[np.arange(120), y]).mean(), rtol=1e-4
        )
        hits = p.argmax(axis=1) == y
        assert trial.accuracy == pytest.approx(hits.mean())
        assert trial.validation_accuracy == pytest.approx(hits[:60].mean())


@pytest.mark.slow
def test_the_model_is_left_alone(problem):
    model, x, y = problem
    before, config = model.get_weights(), model.get_config()
    optimizer, steps = model.optimizer, int(model.optimizer.iterations.numpy())
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    losses = model.evaluate(x, y, verbose=0)
    first = search_lambda(model, "nsloss:N=2", x, y, **FAST, trials=2)
    assert model.optimizer is optimizer and int(optimizer.iterations.numpy()) == steps
    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.evaluate(x, y, verbose=0) == losses
    assert search_lambda(model, "nsloss:N=2", x, y, **FAST, trials=2) == first


def test_a_wrapped_model_is_searched_with_its_defenses(problem):
    model, x, y = problem
    gda = GaussianDataAugmentation(sigma=0.1, N=2)
    plain = search_lambda(model, "jacobian", x, y, **FAST, trials=1)
    wrapped = wrap(model, gda, clip_values=(-1, 2))
    found = search_lambda(wrapped, "jacobian", x, y, **FAST, trials=1)
    # The gradient per width of the box, which is three: its square is nine times as large.
    assert found.initial == pytest.approx(9 * plain.initial, rel=1e-5)
    assert found.trials[0].cross_entropy != plain.trials[0].cross_entropy
    assert wrapped.defenses == (gda,) and int(wrapped.step.numpy()) == 0
    with pytest.raises(ValueError, match="the chain already holds 'jacobian'"):
        search_lambda(wrap(model, "jacobian"), "jacobian", x, y)


@pytest.mark.parametrize("units", [1, 3])
def test_forms_of_labels_and_endings(problem, units):
    """Logits, one unit, one-hot labels and data sets, with the default loss."""
    _, x, y = problem
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
    y = (y > 0).astype(int) if units == 1 else y
    options = {"batch_size": 20, "trials": 1}
    found = search_lambda(model, "jacobian", x, y, **options)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(50)
    assert search_lambda(model, "jacobian", data, **options) == found
    assert found.random_guess == pytest.approx(np.log(max(units, 2)))
    if units == 3:
        one_hot = keras.utils.to_categorical(y, 3)
        again = search_lambda(model, "jacobian", x, one_hot, **options)
        np.testing.assert_allclose(
            again.trials[0].cross_entropy, found.trials[0].cross_entropy, rtol=1e-5
        )


def test_refusals(linear, points):
    x, y = points
    zero = linear()
    zero.set_weights([np.zeros((4, 3)), np.zeros(3)])
    cases = [
        (
            linear(),
            "gda",
            {},
            TypeError,
            "must be a penalty with a weight. Received: defense='gda'",
        ),
        (linear(), "jacobain", {}, ValueError, "Did you mean 'jacobian'"),
        (linear(), "jacobian", {"trials": 0}, ValueError, "Received: trials=0"),
        (linear(), "jacobian", {"factor": 1.0}, ValueError, "`factor` must be a number > 1"),
        (linear(), "jacobian", {"tolerance": 1.0}, ValueError, "below 1. Received: tolerance=1.0"),
        (linear(), "jacobian", {"y": None}, ValueError, "Received: 9 samples, no labels"),
        (linear(), "jacobian", {"y": y[:3]}, ValueError, "Received: 9 samples, 3 labels"),
        (linear(), "jacobian", {"y": y + 3}, ValueError, "Labels must be integers from 0 to 2"),
        (linear(), "jacobian", {"validation_data": (x, None)}, ValueError, "`validation_data`"),
        (zero, Jacobian(), {}, ValueError, "number above 0.*Received: a mean penalty of 0"),
        (linear("sigmoid"), NsLoss(), {}, ValueError, "needs the model's logits"),
    ]
    for model, defense, options, error, message in cases:
        with pytest.raises(error, match=message):
            search_lambda(model, defense, x, **{"y": y, **options})
