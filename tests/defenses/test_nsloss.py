"""NsLoss against its formula in plain TensorFlow, and the activations that links see."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import (
    Batch,
    BoundedReLU,
    Context,
    GaussianDataAugmentation,
    Jacobian,
    NsLoss,
    RobustModel,
    TrainingDefense,
    wrap,
)

CE = "sparse_categorical_crossentropy"
SGD = keras.optimizers.SGD


def network(dtype=None, dropout=0.0, **hidden):
    """4 - 5 - 6 - 3 with two ReLUs, one as an activation and one as a layer."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="relu", bias_initializer="uniform", dtype=dtype),
            keras.layers.Dropout(dropout, seed=1),
            keras.layers.Dense(6, bias_initializer="uniform", dtype=dtype, **hidden),
            keras.layers.ReLU(dtype=dtype),
            keras.layers.Dense(3, activation="softmax", dtype=dtype),
        ]
    )
    return model


def layers_of(x, weights):
    """The two ReLU outputs and the logits of `network`, by hand."""
    first = tf.nn.relu(x @ weights[0] + weights[1])
    second = tf.nn.relu(first @ weights[2] + weights[3])
    return first, second, second @ weights[4] + weights[5]


def noise_of(model, x, step=0, jit=False):
    """What the NsLoss of `model` draws for `x`, `[batch, N, ...]`."""
    link = next(link for link in model.defenses if isinstance(link, NsLoss))

    @tf.function(jit_compile=jit)
    def draw(x, step):
        batch = Batch(x, x, x, model.clip_values)
        return link.prepare(batch, Context(model, step, x)).extras["nsloss"]

    return draw(tf.constant(x), tf.constant(step)).numpy()


def formula(x, y, noise, weights, weight, eps, jacobian=0.0):
    """CE + weight * NsLoss + jacobian * ||J||_F^2 for each sample, copy by copy."""
    clean = layers_of(x, weights)
    term = 0.0
    for i in range(noise.shape[1]):
        for before, after in zip(clean, layers_of(x + noise[:, i], weights), strict=True):
            term += tf.reduce_mean(tf.abs(after - before), axis=1) / (noise.shape[1] * eps)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, clean[-1]) + weight * term
    if jacobian:
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = layers_of(x, weights)[-1]
        loss += jacobian * tf.reduce_sum(tape.batch_jacobian(logits, x) ** 2, axis=[1, 2])
    return loss


@pytest.mark.parametrize("jacobian", [0.0, 0.3])
def test_loss_and_update_equal_the_formula(points, mode, jacobian):
    """Alone and beside the Jacobian penalty; the gradient goes through both activations."""
    x, y = points
    base = network()
    links = [NsLoss(weight=1.5, eps=0.7, N=3)] + ([Jacobian(weight=jacobian)] if jacobian else [])
    model = RobustModel(base, links, seed=4)
    model.compile(SGD(0.1), CE, **mode)
    share = np.linspace(0.5, 2.0, 9).astype("float32")
    variables = [tf.Variable(value) for value in base.get_weights()]
    noise = noise_of(model, x, jit=mode.get("jit_compile", False))
    with tf.GradientTape() as tape:
        losses = formula(tf.constant(x), y, noise, variables, 1.5, 0.7, jacobian)
        loss = tf.reduce_mean(share * losses)
    plain = formula(tf.constant(x), y, noise, variables, 0.0, 0.7)
    assert float(loss) > 1.2 * float(tf.reduce_mean(share * plain))
    gradients = tape.gradient(loss, variables)
    logged = model.fit(x, y, sample_weight=share, batch_size=9, shuffle=False, verbose=0)
    np.testing.assert_allclose(logged.history["loss"], [float(loss)], rtol=1e-5)
    for got, start, gradient in zip(base.get_weights(), variables, gradients, strict=True):
        np.testing.assert_allclose(got, start - 0.1 * gradient, atol=1e-5)


def test_directions_are_uniform_on_the_sphere(linear, points):
    x = np.repeat(points[0], 100, axis=0)
    model = RobustModel(linear(), [NsLoss(eps=2.0, N=10)])
    noise = noise_of(model, x)
    assert noise.shape == (900, 10, 4)
    np.testing.assert_allclose(np.linalg.norm(noise, axis=2), 2.0, rtol=1e-5)
    flat = noise.reshape(-1, 4)
    # Of a uniform direction in four dimensions: mean 0, covariance 1/4, fourth moment 1/8.
    assert np.abs(flat.mean(axis=0)).max() < 0.05
    np.testing.assert_allclose(flat.T @ flat / 9000 / 4, np.eye(4) / 4, atol=0.02)
    np.testing.assert_allclose((flat**4).mean(axis=0) / 16, 1 / 8, atol=0.01)
    assert ((x[:, None] + noise) < -0.5).any()  # not clipped
    np.testing.assert_array_equal(noise, noise_of(model, x))
    assert np.abs(noise - noise_of(model, x, step=1)).max() > 1


class Watched(keras.layers.Layer):
    """Writes down how it was called; eager mode only."""

    seen: list = []

    def call(self, inputs, training=False):
        Watched.seen.append((inputs.shape[0], bool(training)))
        return inputs


@pytest.mark.parametrize(
    ("mode", "passes"),
    [
        ("training", [(9, True), (18, True)]),
        ("stateless", [(9, True), (18, True)]),
        ("inference", [(9, False), (18, False), (9, True)]),
    ],
)
@pytest.mark.parametrize("both", [False, True])
def test_passes_are_shared(points, mode, passes, both):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="relu")(Watched()(inputs))
    base = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    model = RobustModel(base, [NsLoss(N=2, batch_norm=mode)] + ([Jacobian()] if both else []))
    model.compile("sgd", CE, metrics=["accuracy"], run_eagerly=True)
    Watched.seen = []
    logs = model.train_on_batch(*points, return_dict=True)
    assert sorted(Watched.seen) == sorted(passes)
    assert set(logs) == {"loss", "accuracy"}  # measured on the clean pass


@pytest.mark.parametrize("mode", ["training", "stateless", "inference"])
def test_batch_norm_of_the_noisy_pass(cnn, images, mode):
    """The statistics it moves, and the activations it is compared with."""
    x, y = images
    base = cnn(batch_norm=True)
    norm = base.get_layer("norm")
    norm.moving_mean.assign([0.3, -0.2, 0.1, 0.5])
    start = norm.moving_mean.numpy()
    model = RobustModel(base, [NsLoss(weight=1.0, eps=1.0, N=1, batch_norm=mode)])
    noisy = (x[:, None] + noise_of(model, x))[:, 0]
    inner = keras.Model(base.input, norm.input)
    means = [inner.predict(part, verbose=0).mean(axis=(0, 1, 2)) for part in (x, noisy)]
    shown = keras.Model(
        base.input, [base.get_layer("conv").output, base.layers[-2].output]
    )  # the second is the flattened output of the ReLU layer
    kernel, bias = base.layers[-1].get_weights()
    training = mode != "inference"

    def activations(part):
        first, second = (np.array(value) for value in shown(part, training=training))
        return first.reshape(20, -1), second, second @ kernel + bias

    pairs = list(zip(activations(x), activations(noisy), strict=True))
    term = sum(np.abs(after - before).mean() for before, after in pairs)
    norm.moving_mean.assign(start)
    norm.moving_variance.assign(np.ones(4))
    plain = RobustModel(base, [])
    losses = []
    for one in (plain, model):
        norm.moving_mean.assign(start)
        norm.moving_variance.assign(np.ones(4))
        one.compile(SGD(0.0), CE)
        losses.append(one.fit(x, y, batch_size=20, shuffle=False, verbose=0).history["loss"][0])
    np.testing.assert_allclose(losses[1] - losses[0], term, rtol=1e-4)
    expected = 0.5 * start + 0.5 * means[0]
    if mode == "training":
        expected = 0.5 * expected + 0.5 * means[1]
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected, atol=1e-5)


def test_other_dropout_counts_in_training_mode_alone(points):
    """With d next to nothing all that is left of the term is the dropout."""
    x, y = points
    values = {}
    for mode in ("training", "inference"):
        base = network(dropout=0.5)
        link = NsLoss(weight=1.0, eps=1e-3, N=1, dropout="other", batch_norm=mode)
        losses = []
        for links in ([], [link]):
            model = RobustModel(base, links)
            base.layers[1].seed_generator.state.assign([1, 0])
            model.compile(SGD(0.0), CE)
            losses.append(model.fit(x, y, batch_size=9, verbose=0, shuffle=False).history["loss"])
        values[mode] = losses[1][0] - losses[0][0]
    assert values["inference"] < 2.0 < 50 < values["training"]


@pytest.mark.parametrize("scale", [1.0, 2.0**15])
def test_mixed_precision_equals_single(points, scale):
    x, y = points
    results = {}
    for policy in ("float32", "mixed_float16"):
        base = network(dtype=policy)
        start = base.get_weights()
        model = RobustModel(base, [NsLoss(weight=2.0, N=4)])
        optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=scale)
        model.compile(optimizer, CE)
        model.fit(x, y, batch_size=9, shuffle=False, verbose=0)
        results[policy] = base.get_weights()
    for single, mixed, before in zip(*results.values(), start, strict=True):
        assert np.abs(single - before).max() > 1e-3
        np.testing.assert_allclose(mixed, single, atol=3e-4)


def test_activity_and_weight_regularizers_stay_as_they_are(points):
    """The pass that shows activations is the pass of the base, losses of its layers included."""
    plain, base = (network(activity_regularizer="l2", kernel_regularizer="l2") for _ in range(2))
    for model in (plain, RobustModel(base, [NsLoss(weight=0.0, batch_norm="stateless")])):
        model.compile(SGD(0.1), CE)
        model.fit(*points, batch_size=9, shuffle=False, verbose=0)
    for got, wanted in zip(base.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_copies_of_another_defense_are_regularised_around_the_sample(points):
    """GDA comes after NsLoss in the chain: its copies meet the loss, not the penalty."""
    x, y = points
    base = network()
    gda, link = GaussianDataAugmentation(sigma=0.1, N=2), NsLoss(weight=3.0, eps=0.5, N=2)
    losses = []
    for links in ([gda], [gda, link]):
        model = RobustModel(base, links)
        model.compile(SGD(0.0), CE)
        losses.append(model.fit(x, y, batch_size=9, shuffle=False, verbose=0).history["loss"][0])
    arguments = (tf.constant(x), y, noise_of(model, x), base.get_weights())
    term = formula(*arguments, 3.0, 0.5) - formula(*arguments, 0.0, 0.5)
    np.testing.assert_allclose(losses[1] - losses[0], np.mean(term), rtol=1e-4)


# ---- what is seen --------------------------------------------------------------------------


def seen_in(model, x, mode="inference"):
    robust = RobustModel(model, [NsLoss()])
    seen: list = []
    outputs, logits = robust.forward(tf.constant(x), mode, seen)
    return np.array(outputs), np.array(logits), [np.array(value) for value in seen]


def dense(units, seed, activation=None, **options):
    start = keras.initializers.GlorotUniform(seed)
    return keras.layers.Dense(units, activation, kernel_initializer=start, **options)


def kinds():
    inputs = keras.Input((4,))
    x = dense(5, 1, "relu")(inputs)
    x = keras.layers.Activation("relu")(dense(5, 2)(x))
    x = keras.layers.ReLU()(dense(5, 3)(x))
    x = keras.ops.relu(dense(5, 4)(x))
    x = BoundedReLU(t=0.3)(dense(5, 5)(x))
    x = dense(5, 6, keras.layers.ReLU())(x)
    x = dense(5, 7, BoundedReLU(t=0.2))(x)
    x = keras.layers.LeakyReLU()(dense(5, 8, "relu6")(x))  # neither is a plain ReLU
    x = keras.layers.ReLU(max_value=6.0)(dense(5, 9, "tanh")(x))
    return keras.Model(inputs, dense(3, 10, "softmax")(x))


def test_every_kind_of_relu_is_seen(points):
    x, _ = points
    model = kinds()
    outputs, logits, seen = seen_in(model, x)
    kernels = [layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")]
    h, expected = x, []
    for kernel, bound in zip(kernels[:7], [9, 9, 9, 9, 0.3, 9, 0.2], strict=True):
        h = np.clip(h @ kernel, 0, bound)
        expected.append(h)
    assert len(seen) == 7
    for got, wanted in zip(seen, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert np.ptp(expected[4]) > 0.1
    np.testing.assert_allclose(outputs, np.array(model(x)), atol=1e-6)
    np.testing.assert_allclose(tf.nn.softmax(logits), outputs, atol=1e-6)


def test_relus_of_nested_and_shared_models_are_seen(points):
    x, _ = points
    shared = keras.Sequential([keras.Input((4,)), dense(4, 1, "relu"), keras.layers.ReLU()])
    deep = keras.Sequential([keras.Input((4,)), shared, dense(4, 2)])
    inputs = keras.Input((4,))
    middle = shared(deep(inputs))
    ending = keras.Sequential([keras.Input((4,)), dense(5, 3, "relu"), dense(3, 4, "softmax")])
    model = keras.Model(inputs, ending(middle))
    names = [layer.name for layer in model._flatten_layers()]
    outputs, _, seen = seen_in(model, x)
    one, two = shared.layers[0].kernel.numpy(), deep.layers[1].kernel.numpy()
    first = np.maximum(x @ one, 0)
    second = np.maximum(first @ two @ one, 0)
    last = np.maximum(second @ ending.layers[0].kernel.numpy(), 0)
    expected = [first, first, second, second, last]
    assert len(seen) == 5
    for got, wanted in zip(seen, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    np.testing.assert_allclose(outputs, np.array(model(x)), atol=1e-6)
    assert [layer.name for layer in model._flatten_layers()] == names


def test_relus_over_time_are_seen(points):
    x, _ = points
    inner = dense(3, 1, "relu")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Reshape((2, 2)),
            keras.layers.TimeDistributed(inner),
            keras.layers.Flatten(),
            dense(3, 2),
        ]
    )
    _, _, seen = seen_in(model, x)
    expected = np.maximum(x.reshape(9, 2, 2) @ inner.kernel.numpy(), 0)
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["training", "stateless", "inference"])
def test_the_pass_that_shows_them_is_the_same_pass(cnn, images, mode):
    x = tf.constant(images[0])
    outcomes = []
    for links in ([], [NsLoss()]):
        base = cnn(batch_norm=True, dropout=0.5)
        model = RobustModel(base, links)
        seen = [] if links else None
        outputs = model.forward(x, mode, seen)
        state = [v.numpy() for v in base.variables]
        outcomes.append([*map(np.array, outputs), *state])
    assert len(seen) == 2
    for plain, shown in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(plain, shown)


def test_activations_are_float32_and_end_with_the_logits(points):
    class Looks(TrainingDefense):
        name = "looks"
        sees_activations = True

        def objective(self, batch, inner):
            self.seen = inner.activations(batch)
            self.logits = inner.logits(batch)
            return inner(batch)

        def get_config(self):
            return {}

    link = Looks()
    model = RobustModel(network(dtype="mixed_float16"), [link])
    model.compile("sgd", CE, run_eagerly=True)
    model.train_on_batch(*points)
    assert [tuple(one.shape) for one in link.seen] == [(9, 5), (9, 6), (9, 3)]
    assert all(one.dtype == "float32" for one in link.seen)
    np.testing.assert_array_equal(link.seen[-1], link.logits)


# ---- bad input -----------------------------------------------------------------------------


class Opaque(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = dense(3, 1, "softmax")

    def call(self, inputs):
        return self.inner(inputs)


def test_models_that_do_not_show_their_activations_are_refused_at_once(linear, points):
    opaque = Opaque()
    opaque(points[0])
    inside = keras.Sequential([keras.Input((4,)), opaque, dense(3, 1, "softmax")])
    time = keras.layers.Reshape((2, 2))
    recurrent = keras.layers.SimpleRNN(3, activation="relu", name="steps")
    loop = keras.Sequential([keras.Input((4,)), time, recurrent, dense(3, 2)])
    cases = [
        (opaque, r"must be functional or sequential.*Received: model='opaque(_\d+)?'"),
        (inside, "where 'opaque.*' cannot be read"),
        (loop, r"those inside this layer cannot be reached.*layer 'steps' \(SimpleRNN\)"),
        (linear("sigmoid"), "needs the model's logits"),
    ]
    for model, message in cases:
        with pytest.raises(ValueError, match=message):
            wrap(model, "nsloss")
        wrap(model, "gda")


def test_a_link_that_declares_nothing_sees_nothing(points):
    class Curious(TrainingDefense):
        name = "curious"

        def objective(self, batch, inner):
            return inner(batch) + tf.reduce_sum(inner.activations(batch)[-1], axis=1)

        def get_config(self):
            return {}

    model = RobustModel(network(), [Curious()])
    model.compile("sgd", CE)
    with pytest.raises(ValueError, match="sees_activations = True.*Received: defenses="):
        model.fit(*points, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1}, r"`weight` must be a number >= 0. Received: weight=-1"),
        ({"eps": 0.0}, r"`eps` must be a number > 0. Received: eps=0.0"),
        ({"eps": np.nan}, "Received: eps=nan"),
        ({"N": 0}, "integer >= 1. Received: N=0"),
        ({"batch_norm": "off"}, "must be one of.*Received: batch_norm='off'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        NsLoss(**arguments)
