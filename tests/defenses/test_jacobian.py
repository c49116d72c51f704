"""The Jacobian penalty against closed forms and against `batch_jacobian`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import Batch, Context, Jacobian, RobustModel, TrainingDefense

CE = "sparse_categorical_crossentropy"
SGD = keras.optimizers.SGD


def curved(dtype=None, gain=1.0):
    """4 - 6 - 3 with a tanh, whose Jacobian depends on the sample and on every weight."""
    keras.utils.set_random_seed(3)
    base = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="tanh", dtype=dtype, bias_initializer="uniform"),
            keras.layers.Dense(3, activation="softmax", dtype=dtype),
        ]
    )
    base.set_weights([gain * value for value in base.get_weights()])
    return base


def jacobian_of(x, weights):
    """d z / d x of `curved` by hand, `[batch, classes, features]`."""
    slope = 1.0 - tf.tanh(x @ weights[0] + weights[1]) ** 2
    return tf.einsum("hc,bh,fh->bcf", weights[2], slope, weights[0])


def cross_entropy(x, y, weights):
    logits = tf.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3]
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


def directions_of(model, x, step=0, jit=False):
    """The unit vectors that the penalty of `model` draws, `[batch, projections, classes]`."""

    @tf.function(jit_compile=jit)
    def draw(x, step):
        batch = Batch(x, x, x, model.clip_values)
        return model.defenses[0].prepare(batch, Context(model, step, x)).extras["jacobian"]

    return draw(tf.constant(x), tf.constant(step)).numpy()


def test_linear_model_equals_closed_form(linear, points, weights, softmax_step, mode):
    """The Jacobian is the kernel, whatever the sample."""
    x, y = points
    base = linear()
    model = RobustModel(base, [Jacobian(weight=0.7)])
    model.compile(SGD(0.1), CE, **mode)
    share = np.linspace(0.5, 2.0, 9)
    loss, expected = softmax_step(x, y, share / 9, 0.1)
    expected[0] -= 0.1 * share.mean() * 0.7 * 2 * weights[0]
    logged = model.fit(x, y, sample_weight=share, batch_size=9, shuffle=False, verbose=0)
    norm = np.sum(weights[0] ** 2)
    np.testing.assert_allclose(
        logged.history["loss"], [(share * (loss + 0.7 * norm)).mean()], rtol=1e-5
    )
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("projections", [None, 1, 4])
def test_update_is_the_second_order_gradient(points, mode, projections):
    x, y = points
    base = curved()
    model = RobustModel(base, [Jacobian(weight=0.5, projections=projections)], seed=6)
    model.compile(SGD(0.1), CE, **mode)
    variables = [tf.Variable(value) for value in base.get_weights()]
    with tf.GradientTape() as tape:
        rows, factor = jacobian_of(x, variables), 1.0
        if projections is not None:
            v = directions_of(model, x, jit=mode.get("jit_compile", False))
            rows, factor = tf.einsum("bkc,bcf->bkf", v, rows), 3 / projections
        penalty = factor * tf.reduce_sum(rows**2, axis=[1, 2])
        loss = tf.reduce_mean(cross_entropy(x, y, variables) + 0.5 * penalty)
    gradients = tape.gradient(loss, variables)
    logged = model.fit(x, y, batch_size=9, shuffle=False, verbose=0)
    assert float(tf.reduce_mean(penalty)) > 0.1
    np.testing.assert_allclose(logged.history["loss"], [float(loss)], rtol=1e-5)
    for got, start, gradient in zip(base.get_weights(), variables, gradients, strict=True):
        np.testing.assert_allclose(got, start - 0.1 * gradient, atol=1e-5)


def test_projections_estimate_the_norm_without_bias(linear):
    x = np.full((4000, 4), 0.5, "float32")
    model = RobustModel(linear(), [Jacobian(projections=2)])
    v = directions_of(model, x)
    assert v.shape == (4000, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(v, axis=2), 1.0, rtol=1e-5)
    # classes * E[v v^T] is the identity: what the factor rests on.
    moment = 3 * np.einsum("bki,bkj->ij", v, v) / 8000
    np.testing.assert_allclose(moment, np.eye(3), atol=0.05)
    assert np.abs(v.mean(axis=(0, 1))).max() < 0.03
    assert abs(np.corrcoef(v[:, 0, 0], v[:, 1, 0])[0, 1]) < 0.06
    np.testing.assert_array_equal(v, directions_of(model, x))
    assert np.abs(v - directions_of(model, x, step=1)).max() > 0.5


@pytest.mark.parametrize(
    ("pooling", "jit"),
    # XLA's second derivative of max pooling compares entries in bfloat16.
    [
        (keras.layers.MaxPooling2D, False),
        (keras.layers.AveragePooling2D, False),
        (keras.layers.AveragePooling2D, True),
    ],
)
def test_convolution_and_pooling(images, pooling, jit):
    x, y = images
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, activation="softplus"),
            pooling(2),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model = RobustModel(base, [Jacobian(weight=2.0)])
    model.compile(
        SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=jit
    )
    images = tf.constant(x)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = base(images, training=True)
        penalty = tf.reduce_sum(tape.batch_jacobian(logits, images) ** 2, axis=[1, 2, 3, 4])
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        loss = tf.reduce_mean(entropy + 2.0 * penalty)
    gradients = outer.gradient(loss, [v.value for v in base.trainable_variables])
    expected = [w - 0.1 * g for w, g in zip(base.get_weights(), gradients, strict=True)]
    logged = model.fit(x, y, batch_size=20, shuffle=False, verbose=0)
    np.testing.assert_allclose(logged.history["loss"], [float(loss)], rtol=1e-5)
    for got, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_one_output_unit_is_two_classes(points):
    x, y = points[0], (points[1] > 0).astype("float32")
    kernel = np.array([[0.4], [-0.3], [0.1], [0.8]], "float32")
    for projections in (None, 3):
        losses = []
        for links in ([], [Jacobian(weight=2.0, projections=projections)]):
            base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            base.set_weights([kernel, np.zeros(1)])
            model = RobustModel(base, links)
            model.compile(SGD(0.0), keras.losses.BinaryCrossentropy(from_logits=True))
            fit = {"batch_size": 9, "shuffle": False, "verbose": 0}
            losses.append(model.fit(x, y, **fit).history["loss"][0])
        term = 2.0 * np.sum(kernel**2)
        if projections:
            term *= np.mean(2 * directions_of(model, x)[..., 1] ** 2)
        np.testing.assert_allclose(losses[1] - losses[0], term, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 2.0**15])
def test_mixed_precision_equals_single(points, scale):
    x, y = points
    results = {}
    for policy in ("float32", "mixed_float16"):
        base = curved(policy, gain=2.0)
        start = base.get_weights()
        model = RobustModel(base, [Jacobian(weight=0.2)])
        optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=scale)
        model.compile(optimizer, CE)
        model.fit(x, y, batch_size=9, shuffle=False, verbose=0)
        results[policy] = base.get_weights()
    for single, mixed, before in zip(*results.values(), start, strict=True):
        assert np.abs(single - before).max() > 1e-3
        np.testing.assert_allclose(mixed, single, atol=2e-3)


def test_small_jacobians_do_not_underflow_in_half_precision(points):
    """Entries near 2e-8, which float16 knows as zero."""
    x, y = points
    base = curved("mixed_float16")
    first, _, last, _ = base.get_weights()
    base.set_weights([first * 2e-4, np.zeros(6), last * 2e-4, np.zeros(3)])
    jacobian = jacobian_of(x, [tf.constant(v) for v in base.get_weights()])
    assert 2e-9 < float(tf.reduce_max(tf.abs(jacobian))) < 6e-8
    expected = 1e14 * float(tf.reduce_mean(tf.reduce_sum(jacobian**2, axis=[1, 2])))
    model = RobustModel(base, [Jacobian(weight=1e14)])
    model.compile(keras.optimizers.LossScaleOptimizer(SGD(0.0), initial_scale=1.0), CE)
    logged = model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history["loss"][0]
    assert expected > 0.01
    np.testing.assert_allclose(logged - np.log(3), expected, rtol=0.05)


def test_statistics_and_dropout_are_drawn_once(cnn, images):
    """The penalty's pass is the pass of the loss."""
    x, y = images
    outcomes = []
    for links in ([], [Jacobian(weight=0.0)]):
        base = cnn(batch_norm=True, dropout=0.5)
        model = RobustModel(base, links)
        model.compile(SGD(0.1), CE, metrics=["accuracy"])
        history = model.fit(x, y, batch_size=20, shuffle=False, verbose=0).history
        outcomes.append(
            [history["loss"], history["accuracy"], *(v.numpy() for v in base.variables)]
        )
    for plain, regularised in zip(*outcomes, strict=True):
        np.testing.assert_allclose(plain, regularised, atol=1e-6)


def test_a_pass_made_before_is_made_again(points):
    """An outer link may ask for the logits first, where the penalty does not see it."""

    class First(TrainingDefense):
        name, rank = "first", 20

        def objective(self, batch, inner):
            return inner(batch) + 0.0 * tf.reduce_sum(inner.logits(batch), axis=1)

        def get_config(self):
            return {}

    class Before(First):
        def objective(self, batch, inner):
            logits = inner.logits(batch)
            return inner(batch) + 0.0 * tf.reduce_sum(logits, axis=1)

    x, y = points
    outcomes = []
    for links in ([], [First()], [Before()]):
        base = curved()
        model = RobustModel(base, [*links, Jacobian(weight=0.7)])
        model.compile(SGD(0.1), CE)
        model.fit(x, y, batch_size=9, shuffle=False, verbose=0)
        outcomes.append(base.get_weights())
    for other in outcomes[1:]:
        for got, wanted in zip(other, outcomes[0], strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_refusals(linear, points):
    class Cut(keras.layers.Layer):
        def call(self, inputs):
            return tf.stop_gradient(inputs)

    x, y = points
    base = keras.Sequential([keras.Input((4,)), Cut(), keras.layers.Dense(3, "softmax")])
    model = RobustModel(base, [Jacobian()])
    model.compile("sgd", CE)
    with pytest.raises(ValueError, match="needs a gradient path"):
        model.fit(x, y, verbose=0)
    for projections in (None, 2):
        model = RobustModel(linear("sigmoid"), [Jacobian(projections=projections)])
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match="needs the model's logits"):
            model.fit(x, keras.utils.to_categorical(y, 3), verbose=0)
    for arguments, message in [
        ({"weight": -0.1}, r"`weight` must be a number >= 0. Received: weight=-0.1"),
        ({"projections": 0}, "integer >= 1. Received: projections=0"),
        ({"projections": 1.5}, "Received: projections=1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            Jacobian(**arguments)
