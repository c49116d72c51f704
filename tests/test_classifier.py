"""What an attack sees of a model: logits, bounds, classes, gradients; it leaves no trace."""

from __future__ import annotations

import gc
import warnings
import weakref
from concurrent import futures

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kerasrobust import attacks, losses
from kerasrobust.engine import classifier as module
from kerasrobust.engine.classifier import Classifier, ModelFailure

RNG = np.random.default_rng(0)
X = RNG.random((6, 8, 8, 1)).astype(np.float32)
ROWS = RNG.random((6, 5)).astype(np.float32)


def body():
    return [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu")]


def dense_softmax():
    return keras.Sequential([*body(), layers.Flatten(), layers.Dense(3, activation="softmax")])


def softmax_layer():
    return keras.Sequential([*body(), layers.Flatten(), layers.Dense(3), layers.Softmax()])


def activation_layer():
    last = layers.Activation("softmax")
    return keras.Sequential([*body(), layers.Flatten(), layers.Dense(3), last])


def softmax_operation():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(
        inputs, keras.ops.softmax(layers.Dense(3)(layers.Flatten()(inputs)), axis=-1)
    )


def pooled_softmax():
    return keras.Sequential(
        [*body(), layers.Conv2D(3, 3), layers.GlobalAveragePooling2D(), layers.Softmax()]
    )


def sequential_in_sequential():
    head = keras.Sequential([keras.Input((144,)), layers.Dense(3, activation="softmax")])
    return keras.Sequential([*body(), layers.Flatten(), head])


def only_nested():
    return keras.Sequential([keras.Input((8, 8, 1)), dense_softmax()])


def functional_in_functional():
    inputs, features = keras.Input((8, 8, 1)), keras.Input((64,))
    head = keras.Model(features, layers.Softmax()(layers.Dense(3)(features)))
    return keras.Model(inputs, head(layers.Flatten()(inputs)))


def nested_twice():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, only_nested()(layers.Rescaling(2.0)(inputs)))


SOFTMAX = [
    dense_softmax,
    softmax_layer,
    activation_layer,
    softmax_operation,
    pooled_softmax,
    sequential_in_sequential,
    only_nested,
    functional_in_functional,
    nested_twice,
]


class Opaque(keras.Model):
    def __init__(self, activation=None, scale=1.0, dropout=0.0):
        super().__init__()
        self.flatten, self.dropout = layers.Flatten(), layers.Dropout(dropout)
        self.dense, self.scale = layers.Dense(3, activation=activation), scale

    def call(self, x, training=False):
        return self.dense(self.dropout(self.flatten(x), training=training) * self.scale)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("build", SOFTMAX)
def test_logits_behind_a_softmax(build):
    """Large weights: probabilities saturate and their logarithm would not do."""
    model = build()
    model.set_weights([weights * 40 for weights in model.get_weights()])
    before = [len(layer._outbound_nodes) for layer in model._flatten_layers()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = Classifier(model)
    logits = classifier.predict(X)
    np.testing.assert_allclose(tf.nn.softmax(logits), model(X), atol=1e-4)
    assert (logits.max(axis=1) > 0.1).any() or (logits.min(axis=1) < -0.1).any()
    assert np.abs(logits.sum(axis=1) - np.log(np.maximum(model(X), 1e-38)).sum(axis=1)).max() > 0.1
    assert classifier.nb_classes == 3 and classifier.input_shape == (8, 8, 1)
    assert [len(layer._outbound_nodes) for layer in model._flatten_layers()] == before


@pytest.mark.parametrize("kind", ["layer", "activation", "operation"])
def test_one_sigmoid_unit_is_two_classes(kind):
    inputs = keras.Input((5,))
    if kind == "layer":
        outputs = layers.Dense(1, activation="sigmoid")(inputs)
    elif kind == "activation":
        outputs = layers.Activation("sigmoid")(layers.Dense(1)(inputs))
    else:
        outputs = keras.ops.sigmoid(layers.Dense(1)(inputs))
    model = keras.Model(inputs, outputs)
    classifier = Classifier(model)
    logits = classifier.predict(ROWS)
    z = np.log(model(ROWS) / (1 - model(ROWS)))
    np.testing.assert_allclose(logits, np.concatenate([0 * z, z], axis=1), atol=1e-5)
    assert classifier.nb_classes == 2


def test_sigmoid_units():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, activation="sigmoid")])
    np.testing.assert_allclose(tf.sigmoid(Classifier(model).predict(ROWS)), model(ROWS), atol=1e-6)


@pytest.mark.parametrize("units", [1, 3])
def test_models_that_return_logits(units):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(units)])
    scores = model(ROWS).numpy()
    expected = scores if units > 1 else np.concatenate([0 * scores, scores], axis=1)
    np.testing.assert_allclose(Classifier(model).predict(ROWS), expected, atol=1e-6)


def test_an_opaque_model_with_softmax_is_warned_of():
    model = Opaque("softmax")
    probabilities = model(X)
    with pytest.warns(UserWarning, match="probabilities and its logits cannot be reached"):
        classifier = Classifier(model, input_shape=(8, 8, 1))
    np.testing.assert_allclose(classifier.predict(X), np.log(probabilities), atol=1e-5)


def test_an_opaque_model_with_logits_is_not():
    model = Opaque()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = Classifier(model)
        classifier.prepare((8, 8, 1))
    np.testing.assert_allclose(classifier.predict(X), model(X), atol=1e-6)
    assert classifier.nb_classes == 3


@pytest.mark.filterwarnings("ignore:.*returns probabilities")
def test_probabilities_of_zero_give_finite_logits_and_losses():
    model = Opaque("softmax", scale=1e5)
    assert (model(X).numpy() == 0).any()
    classifier = Classifier(model, input_shape=(8, 8, 1))
    for loss in (losses.margin, losses.cross_entropy):
        logits, value, gradient = classifier.gradient(
            tf.constant(X), lambda z, loss=loss: loss(z, tf.zeros(6, tf.int32))
        )
        for array in (logits, value, gradient):
            assert np.isfinite(array).all()


def test_unbuilt_models():
    with pytest.raises(ValueError, match="must be built before it is used.*Received: model="):
        Classifier(keras.Sequential([layers.Flatten(), layers.Dense(3)]))
    result = attacks.get("fgsm", eps=0.1).bind(Opaque()).run(X)
    assert result.x_adv.shape == X.shape and result.queries.min() > 0


def test_several_inputs_or_outputs():
    a, b = keras.Input((5,)), keras.Input((5,))
    with pytest.raises(ValueError, match="one input and one output. Received: 2 inputs and 1 out"):
        Classifier(keras.Model([a, b], a + b))
    with pytest.raises(ValueError, match="Received: 1 inputs and 2 outputs"):
        Classifier(keras.Model(a, [a * 2, a * 3]))


def test_scores_that_are_no_rows():
    inputs = keras.Input((5, 4))
    for last in (layers.Dense(3), layers.ReLU()):
        with pytest.raises(ValueError, match=r"one row of scores per sample.*output shape"):
            Classifier(keras.Model(inputs, last(inputs)))


def test_a_model_may_name_its_logits():
    class Declared(Opaque):
        clip_values = (-1.0, 3.0)

        @property
        def logits_model(self):
            return lambda x, training=False: self.flatten(x)[:, :3] * 7

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = Classifier(Declared("softmax"))
    np.testing.assert_allclose(classifier.predict(X), X.reshape(6, -1)[:, :3] * 7, rtol=1e-6)
    assert classifier.clip_values == (-1.0, 3.0)
    assert Classifier(Declared(), (0, 1)).clip_values == (0.0, 1.0)
    model = dense_softmax()
    model.clip_values = np.array([0.0, 255.0])
    assert Classifier(model).clip_values == (0.0, 255.0)


def art_estimator(model, **options):
    estimators = pytest.importorskip("art.estimators.classification")
    return estimators.TensorFlowV2Classifier(
        model, nb_classes=3, input_shape=(8, 8, 1), clip_values=(0.0, 2.0), **options
    )


def test_an_art_estimator_is_the_model_inside():
    model = softmax_layer()
    classifier = Classifier(art_estimator(model))
    assert classifier.has_gradient and classifier.model is model
    assert classifier.clip_values == (0.0, 2.0)


def test_an_art_estimator_with_preprocessing_is_what_it_predicts():
    estimator = art_estimator(softmax_layer(), preprocessing=(0.5, 0.1))
    classifier = Classifier(estimator)
    assert classifier.has_gradient and classifier.preprocessing == pytest.approx((0.5, 0.1))
    np.testing.assert_allclose(
        tf.nn.softmax(classifier.predict(X)), estimator.predict(X), atol=1e-5
    )


def test_callables():
    weights = RNG.normal(size=(5, 3))
    classifier = Classifier(lambda x: x @ weights)
    with pytest.raises(ValueError, match="number of classes is not known"):
        classifier.nb_classes  # noqa: B018
    np.testing.assert_allclose(classifier.predict(ROWS), ROWS @ weights, rtol=1e-5)
    assert classifier.nb_classes == 3 and not classifier.has_gradient and classifier.queries == 6
    probabilities = Classifier(lambda x: tf.nn.softmax(x @ weights.astype(np.float32)))
    difference = probabilities.predict(ROWS) - ROWS @ weights
    np.testing.assert_allclose(difference - difference[:, :1], 0, atol=1e-5)
    with pytest.raises(TypeError, match="needs gradients"):
        classifier.gradient(tf.constant(ROWS), lambda z: z[:, 0])


def test_a_callable_with_one_column_of_probabilities():
    classifier = Classifier(lambda x: x[:, :1])
    p = ROWS[:, :1]
    np.testing.assert_allclose(
        classifier.predict(ROWS), np.log(np.concatenate([1 - p, p], axis=1)), rtol=1e-5
    )


def test_one_column_of_logits_is_read_alike_in_every_batch():
    """Even where a batch happens to lie in 0..1."""
    z = np.array([[-2.0], [0.3], [0.6], [4.0]])
    table = {float(i): row for i, row in enumerate(z)}
    classifier = Classifier(lambda x: np.stack([table[float(v)] for v in x[:, 0]]))
    samples = np.arange(4.0)[:, None]
    whole = classifier.predict(samples)
    np.testing.assert_allclose(whole, np.concatenate([0 * z, z], axis=1), rtol=1e-6)
    np.testing.assert_array_equal(classifier.predict(samples, batch_size=1), whole)
    told = Classifier(lambda x: np.full((len(x), 1), 0.3), from_logits=True)
    np.testing.assert_allclose(told.predict(samples[:1]), [[0, 0.3]], rtol=1e-6)


def test_a_callable_whose_first_logits_lay_in_the_unit_interval():
    """What the first call seemed to tell is contradicted by a later one: no silent guess."""
    classifier = Classifier(lambda x: x[:, :1])
    classifier.predict(np.full((2, 3), 0.3))
    classifier.predict(np.array([[1.0 + 1e-6], [-1e-6]]))  # rounding
    with pytest.raises(ModelFailure, match="give `from_logits=True`.*scores from -2 to 0.3"):
        classifier.predict(np.array([[0.3], [-2.0]]))
    with pytest.raises(ModelFailure, match="give `from_logits=True`"):
        Classifier(lambda x: 4 - x, from_logits=False).predict(ROWS)


def test_a_classifier_of_a_classifier():
    first = Classifier(dense_softmax(), (0, 2))
    assert Classifier(first).clip_values == (0.0, 2.0)
    other = Classifier(first, (0, 3), votes=2)
    assert other.model is first.model and other.clip_values == (0.0, 3.0) and other.votes == 2
    np.testing.assert_array_equal(other.predict(X), first.predict(X))


@pytest.mark.parametrize("given", [3, "model.keras", None])
def test_no_model(given):
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model.*Received: model="):
        Classifier(given)


def half_precision(policy, gain):
    """A confident linear model whose input gradient is far below float16's smallest number."""
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="float32"),
            layers.Dense(2, dtype=policy, use_bias=False),
            layers.Activation("softmax", dtype="float32"),
        ]
    )
    model.layers[0].set_weights([np.stack([np.linspace(1, 2, 5), -np.ones(5)], axis=1) * gain])
    return model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_gradients_do_not_underflow_in_low_precision(policy):
    x, y = tf.constant(ROWS), tf.zeros(6, tf.int32)
    classifier = Classifier(half_precision(policy, 5.5))

    def loss(z):
        return losses.cross_entropy(z, y)

    logits, value, gradient = classifier.gradient(x, loss)
    assert logits.dtype == gradient.dtype == value.dtype == tf.float32
    # The gradient at the logits that this model has, through its kernel. In float32 `p - 1` would
    # be zero, hence the probability of the other class.
    other = 1 / (1 + np.exp(np.subtract(*logits.numpy().astype(np.float64).T)))
    expected = np.stack([-other, other], axis=1) @ classifier.model.layers[0].kernel.numpy().T
    assert 0 < np.abs(expected).max() < 2.0**-24
    np.testing.assert_allclose(gradient, expected, rtol=0.02)
    if policy == "mixed_float16":
        with tf.GradientTape() as tape:
            tape.watch(x)
            naive = loss(classifier.logits(x))
        assert (tape.gradient(naive, x).numpy() == 0).all()


def test_inference_mode():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(momentum=0.5),
            layers.Dropout(0.9),
            layers.GaussianNoise(1.0),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [value.numpy() for value in model.variables]
    optimizer, nodes = model.optimizer, [len(layer._outbound_nodes) for layer in model.layers]
    classifier = Classifier(model)
    first = classifier.predict(ROWS)
    np.testing.assert_array_equal(classifier.predict(ROWS), first)
    np.testing.assert_allclose(tf.nn.softmax(first), model.predict(ROWS, verbose=0), atol=1e-6)
    attacks.get("pgd", eps=0.1, max_iter=3).bind(classifier).run(ROWS)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert model.optimizer is optimizer and model.compiled
    assert [len(layer._outbound_nodes) for layer in model.layers] == nodes


class Coin(keras.layers.Layer):
    """Noise at inference, of a seed of its own."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.seeds = scale, keras.random.SeedGenerator(0)

    def call(self, x):
        return x + self.scale * keras.random.normal(keras.ops.shape(x), seed=self.seeds)


def test_votes_settle_a_random_model():
    """One draw of `0.5 + noise` is wrong 31 % of the time; 41 votes are wrong about 1 %."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False), Coin(0.7071)])
    model.layers[0].set_weights([np.eye(2)])
    x = np.tile([[0.5, 0.0]], (400, 1)).astype(np.float32)
    one, _, _ = Classifier(model).judge(x)
    many, confidence, _ = Classifier(model, votes=41).judge(x)
    assert 0.2 < one.mean() < 0.42
    assert many.mean() < 0.05
    assert ((confidence > 0.4) & (confidence < 0.8)).all()
    decided = Classifier(model, votes=41).decide(tf.constant(x))[0].numpy()
    assert decided.mean() < 0.05
    result = attacks.get("fgsm", eps=1e-6).bind(Classifier(model, votes=5)).run(x[:4], [0] * 4)
    assert result.queries.min() >= 5


def test_of_shares_while_it_is_held():
    model = dense_softmax()
    first = Classifier.of(model)
    assert Classifier.of(model) is first and Classifier.of(first) is first
    assert Classifier.of(model, (0, 2)) is not first
    assert attacks.get("fgsm").bind(model).classifier is first
    assert Classifier.of(dense_softmax()) is not first


@pytest.mark.parametrize("name", ["pgd", "cwl2", "hsja"])
def test_a_model_is_not_kept_alive(name):
    model = dense_softmax()
    settings = {"hsja": {"max_eval": 100}}.get(name, {})
    attack = attacks.get(name, max_iter=2, **settings).bind(model)
    attack.generate(X)
    gone = weakref.ref(model), weakref.ref(attack.classifier)
    del model, attack
    gc.collect()
    assert gone[0]() is None and gone[1]() is None


def test_threads_share_a_classifier():
    classifier = Classifier(dense_softmax())

    def work(_):
        attack = attacks.get("pgd", eps=0.2, max_iter=4, num_random_init=2, seed=1)
        return attack.bind(classifier).generate(X)

    with futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_predict_of_any_number_traces_at_most_twice():
    classifier = Classifier(dense_softmax())
    whole = classifier.predict(np.tile(X, (3, 1, 1, 1)))
    for n in (1, 2, 5, 7, 18):
        part = classifier.predict(np.tile(X, (3, 1, 1, 1))[:n], batch_size=4)
        np.testing.assert_allclose(part, whole[:n], atol=1e-6)
    assert classifier.traces["predict"] <= 2


def test_open_image_sizes():
    inputs = keras.Input((None, None, 1))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(features))
    attack = attacks.get("pgd", eps=1.0, eps_step=0.2, max_iter=10).bind(model)
    assert attack.classifier.input_shape == (None, None, 1)
    for size in (6, 9):
        result = attack.run(RNG.random((3, size, size, 1)))
        assert result.x_adv.shape == (3, size, size, 1) and result.success.any()


@pytest.fixture(scope="module")
def variants(digits_model):
    """The same weights with a softmax, without it, and out of sight."""
    config = digits_model.get_config()
    config["layers"][-1]["config"]["activation"] = "linear"
    plain = keras.Sequential.from_config(config)
    plain.set_weights(digits_model.get_weights())

    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = digits_model

        def call(self, x, training=False):
            return self.inner(x, training=training)

    return {"softmax": digits_model, "logits": plain, "opaque": Hidden()}


@pytest.mark.parametrize(
    "name, settings",
    [
        ("pgd", {"eps": 0.15, "eps_step": 0.02, "max_iter": 10}),
        ("cwl2", {"max_iter": 60, "learning_rate": 0.1, "binary_search_steps": 6}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*returns probabilities")
def test_a_softmax_makes_no_difference(name, settings, variants, digits):
    x, y = digits[0][:60], digits[1][:60]
    runs = {
        kind: attacks.get(name, **settings).bind(model).run(x, y)
        for kind, model in variants.items()
    }
    np.testing.assert_array_equal(runs["softmax"].success, runs["logits"].success)
    both = runs["softmax"].success & ~runs["softmax"].initially_adversarial
    assert both.sum() >= 20
    norm = 2 if name == "cwl2" else np.inf
    ours, theirs = (runs[kind].distance(norm)[both] for kind in ("softmax", "logits"))
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
    hidden = runs["opaque"].success
    assert abs(int(hidden.sum()) - int(runs["softmax"].success.sum())) <= 2


def test_the_choice_of_a_compiler_is_logged_once_with_its_reason(monkeypatch, caplog):
    class Device:
        name, device_type = "/physical_device:GPU:0", "GPU"

    details = {"device_name": "a device"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    for devices, chosen, told in (([], False, "three times as long"), ([Device], True, "a device")):
        kinds = {"GPU": devices, "TPU": []}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, k=kinds: k[kind])
        module._on_accelerator.cache_clear()
        caplog.clear()
        with caplog.at_level("INFO", "kerasrobust"):
            assert module.use_jit("auto") is chosen is module.use_jit("auto")
        (message,) = [record.getMessage() for record in caplog.records]
        assert told in message and ("TF32" in message) is chosen
    module._on_accelerator.cache_clear()
