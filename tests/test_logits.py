"""Logits that are read from a graph are those of the function that the model computes."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kerasrobust
from kerasrobust import attacks
from kerasrobust.defenses import RobustModel
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.logits import logits_head, prove, unpack_output

X = np.random.default_rng(0).random((12, 5)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
OPAQUE = "returns probabilities and its logits cannot be reached"


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def linear(activation="softmax", scale=1.0, **options):
    inputs = keras.Input((5,))
    layer = layers.Dense(3, activation=activation, use_bias=False, **options)
    model = keras.Model(inputs, layer(inputs))
    model.set_weights([scale * KERNEL])
    return model


class Mirrored(keras.Model):
    def call(self, x, training=None):
        return super().call(0.75 - x)


class MirroredChain(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return super().call(0.75 - x)


class MirroredOutside(keras.Model):
    def __call__(self, x, **options):
        return super().__call__(0.75 - x, **options)


def mirrored():
    inputs = keras.Input((5,))
    return Mirrored(inputs, layers.Dense(3, activation="softmax", use_bias=False)(inputs))


def mirrored_chain():
    return MirroredChain([keras.Input((5,)), layers.Dense(3, activation="softmax", use_bias=False)])


def mirrored_outside():
    inputs = keras.Input((5,))
    return MirroredOutside(inputs, layers.Dense(3, activation="softmax", use_bias=False)(inputs))


def mirrored_inside():
    inputs = keras.Input((5,))
    return keras.Model(inputs, mirrored()(inputs))


def mirrored_on_the_instance():
    model = linear()
    plain = model.call
    model.call = lambda x, training=None, mask=None: plain(0.75 - x, training=training)
    return model


MIRRORED = [
    mirrored,
    mirrored_chain,
    mirrored_outside,
    mirrored_inside,
    mirrored_on_the_instance,
]


@pytest.mark.parametrize("build", MIRRORED)
def test_a_call_beside_the_graph_is_what_counts(build):
    model = build()
    model.set_weights([3 * KERNEL])
    labels = (-X @ KERNEL + 0.75 * KERNEL.sum(axis=0)).argmax(axis=1)
    assert (labels == model.predict(X, verbose=0).argmax(axis=1)).all()
    with pytest.warns(UserWarning, match=OPAQUE):
        classifier = Classifier(model)
    np.testing.assert_allclose(tf.nn.softmax(classifier.predict(X)), model(X), atol=1e-5)
    assert (classifier.judge(X)[0] == labels).all()
    # The gradient is that of the function too: the attack works where it has the budget.
    result = attacks.get("pgd", eps=0.75, eps_step=0.1, max_iter=20).bind(classifier).run(X, labels)
    assert (model.predict(result.x_adv, verbose=0).argmax(axis=1) != labels).mean() > 0.9


@pytest.mark.parametrize("build", MIRRORED)
def test_wrapped_training_trains_what_the_model_computes(build):
    y = np.arange(12) % 3
    base = build()
    base.set_weights([KERNEL])
    model = RobustModel(base, [])
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    history = model.fit(X, y, batch_size=12, verbose=0).history
    z = (0.75 - X) @ KERNEL
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(history["loss"], [-np.log(p[np.arange(12), y]).mean()], rtol=1e-5)
    expected = KERNEL - 0.5 * (0.75 - X).T @ (p - np.eye(3)[y]) / 12
    np.testing.assert_allclose(base.get_weights()[0], expected, atol=1e-5)


@keras.saving.register_keras_serializable("kerasrobust_tests")
class Tempered(layers.Softmax):
    def call(self, x):
        return super().call(x / 4)


class Shrinking(layers.Dense):
    def call(self, x, training=None):
        return super().call(x) * 0.5 + 1 / 6


class Intercepting(layers.Dense):
    def __call__(self, x, **options):
        return super().__call__(x, **options)[:, ::-1]


@pytest.mark.parametrize(
    "last",
    [
        lambda: [layers.Dense(3), Tempered()],
        lambda: [Shrinking(3, activation="softmax")],
        lambda: [Intercepting(3, activation="softmax")],
        lambda: [layers.Dense(3), layers.Lambda(lambda x: x), layers.Softmax(axis=1), Tempered()],
    ],
)
def test_layers_that_do_more_than_they_show_are_found_out(last):
    model = keras.Sequential([keras.Input((5,)), *last()])
    with pytest.warns(UserWarning, match=OPAQUE):
        classifier = Classifier(model)
    np.testing.assert_allclose(tf.nn.softmax(classifier.predict(X)), model(X), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_half_precision_is_no_difference(policy, gain, quiet):
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(8, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dense(10, activation="softmax"),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights([gain * weight for weight in model.get_weights()])
    classifier = Classifier(model)
    logits = classifier.predict(np.random.default_rng(0).random((4, 8, 8, 1), np.float32))
    assert np.abs(logits.mean(axis=1)).max() > 1e-3  # logits, not their softmax's logarithm


class Noise(layers.Layer):
    """Noise at inference, by Keras's generators or by TensorFlow's own."""

    def __init__(self, scale, kind):
        super().__init__()
        self.scale, self.kind = scale, kind
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, x):
        if self.kind == "tensorflow":
            return x + self.scale * tf.random.normal(tf.shape(x))
        seed = self.seeds if self.kind == "held" else None
        return x + self.scale * keras.random.normal(keras.ops.shape(x), seed=seed)


class AlwaysDropout(layers.Layer):
    def __init__(self):
        super().__init__()
        self.dropout = layers.Dropout(0.5)

    def call(self, x):
        return self.dropout(x, training=True)


@pytest.mark.parametrize("kind", ["held", "global", "tensorflow", "dropout"])
def test_a_model_that_draws_is_seen_and_read_all_the_same(kind, quiet):
    noise = AlwaysDropout() if kind == "dropout" else Noise(0.3, kind)
    model = keras.Sequential([keras.Input((5,)), noise, layers.Dense(3, activation="softmax")])
    model.set_weights([KERNEL if w.shape == (5, 3) else w for w in model.get_weights()])
    before = [variable.numpy() for variable in model.variables]
    classifier = Classifier(model)
    assert classifier.randomised is True
    scores = np.mean([classifier.predict(X, key=(0, i)) for i in range(300)], axis=0)
    np.testing.assert_allclose(scores, X @ KERNEL, atol=0.25)  # logits, not log p
    fresh = Classifier(model)
    del fresh
    if kind == "held":  # building a classifier draws nothing
        model = keras.Sequential([keras.Input((5,)), Noise(0.3, kind), layers.Dense(3, "softmax")])
        before = [variable.numpy() for variable in model.variables]
        Classifier(model)
        for old, new in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(old, new.numpy())


@pytest.mark.parametrize("kind", ["held", "global", "tensorflow"])
def test_a_model_that_draws_and_is_another_than_its_graph(kind):
    model = keras.Sequential([keras.Input((5,)), Noise(0.01, kind), layers.Dense(3), Tempered()])
    model.set_weights([5 * KERNEL if w.shape == (5, 3) else w for w in model.get_weights()])
    with pytest.warns(UserWarning, match=OPAQUE):
        assert Classifier(model).randomised is True


def test_most_models_do_not_draw():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dropout(0.5), layers.GaussianNoise(1.0), layers.Dense(3)]
    )
    assert Classifier(model).randomised is False
    assert Classifier(lambda x: x).randomised is None
    inputs = keras.Input((None, 2))
    open_shape = keras.Model(inputs, layers.GlobalMaxPooling1D()(inputs))
    classifier = Classifier(open_shape)
    assert classifier.randomised is None
    classifier.prepare((4, 2))
    assert classifier.randomised is False


def behind(*after, activation="softmax", kernel=KERNEL):
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, activation=activation, use_bias=False), *after]
    )
    model.set_weights([kernel])
    return model


def by_operations(cast):
    inputs = keras.Input((5,))
    p = keras.ops.softmax(layers.Dense(3, use_bias=False)(inputs))
    p = keras.ops.cast(p, "float32") if cast else keras.ops.reshape(p, (-1, 3))
    model = keras.Model(inputs, p)
    model.set_weights([KERNEL])
    return model


def nested_then_cast():
    return keras.Sequential(
        [keras.Input((5,)), behind(), layers.Activation("linear", dtype="float32")]
    )


THROUGH = {
    "linear": lambda: behind(layers.Activation("linear", dtype="float32")),
    "identity": lambda: behind(layers.Identity()),
    "dropout": lambda: behind(layers.Dropout(0.4)),
    "noise": lambda: behind(layers.GaussianNoise(0.1), layers.GaussianDropout(0.1)),
    "alpha": lambda: behind(layers.AlphaDropout(0.2)),
    "penalty": lambda: behind(layers.ActivityRegularization(l2=0.1)),
    "shapes": lambda: behind(layers.Reshape((3,)), layers.Flatten()),
    "several": lambda: behind(layers.Flatten(), layers.Dropout(0.1), layers.Activation("linear")),
    "layer": lambda: behind(layers.Softmax(), layers.Identity(), activation=None),
    "cast": lambda: by_operations(cast=True),
    "reshape": lambda: by_operations(cast=False),
    "nested": nested_then_cast,
}


@pytest.mark.parametrize("name", THROUGH)
def test_what_changes_nothing_is_looked_through(name, quiet):
    model = THROUGH[name]()
    np.testing.assert_allclose(Classifier(model).predict(X), X @ KERNEL, atol=1e-5)
    assert logits_head(model).activation == "softmax"
    assert logits_head(model).in_training is (
        name not in ("dropout", "noise", "alpha", "penalty", "several")
    )


def test_attacks_see_through_it_too():
    """DeepFool on a linear model: the distance to the nearest plane; C&W fools every sample."""
    kernel = 8 * KERNEL
    model = behind(layers.Activation("linear", dtype="float32"), kernel=kernel)
    z = X @ kernel
    labels = z.argmax(axis=1)
    nearest = []
    for row, k in zip(z, labels, strict=True):
        gaps = [
            (row[k] - row[j]) / np.linalg.norm(kernel[:, k] - kernel[:, j])
            for j in range(3)
            if j != k
        ]
        nearest.append(min(gaps))
    classifier = Classifier(model, [-10.0, 10.0])
    result = attacks.get("deepfool").bind(classifier).run(X)
    assert result.success.all()
    np.testing.assert_allclose(result.distance(2), nearest, rtol=0.05)
    carlini = attacks.get("cwl2", max_iter=100, learning_rate=0.1, binary_search_steps=5)
    assert carlini.bind(classifier).run(X).success.all()


def test_wrap_knows_the_right_loss_behind_it():
    y = np.arange(12) % 3
    for name in ("linear", "dropout", "penalty", "nested"):
        wrong = kerasrobust.wrap(THROUGH[name](), "gda")
        wrong.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with pytest.raises(
            ValueError, match="expects logits, but the model (returns prob|ends in)"
        ):
            wrong.fit(X, y, verbose=0)
        right = RobustModel(THROUGH[name](), [])
        right.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        plain = THROUGH[name]()
        plain.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        if name == "dropout":
            assert np.isfinite(right.fit(X, y, verbose=0).history["loss"]).all()
            continue
        for model in (right, plain):
            model.fit(X, y, batch_size=12, verbose=0)
        for ours, theirs in zip(right.base.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_dropout_after_the_softmax_is_drawn_in_training():
    """What is looked through at inference is trained through as it stands."""
    model = RobustModel(behind(layers.Dropout(0.5)), [])
    model.compile("sgd", "mse", jit_compile=False)
    y = np.eye(3, dtype="float32")[np.arange(12) % 3]
    plain = float(np.mean((behind()(X) - y) ** 2))
    loss = model.fit(X, y, batch_size=12, verbose=0).history["loss"][0]
    assert loss > plain + 0.02


def test_what_cannot_be_looked_through_is_not_taken_for_logits():
    inputs = keras.Input((5,))
    p = layers.Dense(3, activation="softmax", use_bias=False)(inputs)
    squared = layers.Reshape((3, 1))(p)
    model = keras.Model(inputs, layers.Flatten()(squared))
    with pytest.warns(UserWarning, match=OPAQUE):
        classifier = Classifier(model)
    np.testing.assert_allclose(tf.nn.softmax(classifier.predict(X)), model(X), atol=1e-5)
    wrapped = kerasrobust.wrap(model, "gda")
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    wrapped.fit(X, np.arange(12) % 3, verbose=0)

    class Ends(layers.Layer):
        activation = staticmethod(keras.activations.linear)

        def call(self, x):
            return keras.ops.softmax(x)

    ends = keras.Sequential([keras.Input((5,)), layers.Dense(3), Ends()])
    with pytest.warns(UserWarning, match=OPAQUE):
        Classifier(ends)


class Free(keras.Model):
    """A subclassed model: `last` on one dense layer, `give` around what that returns."""

    def __init__(self, units=3, activation=None, give=lambda scores: scores, last=None):
        super().__init__()
        self.dense = layers.Dense(units, activation=activation, use_bias=False)
        self.give, self.last = give, last or (lambda z: z)

    def call(self, x):
        return self.give(self.last(self.dense(x)))


def free(**options):
    model = Free(**options)
    model(X)
    units = model.dense.units
    model.set_weights([np.tile(KERNEL, (1, 4))[:, :units]])
    return model


def test_several_sigmoids_are_warned_of_where_they_cannot_be_read(quiet):
    readable = keras.Sequential([keras.Input((5,)), layers.Dense(3, "sigmoid", use_bias=False)])
    readable.set_weights([KERNEL])
    np.testing.assert_allclose(Classifier(readable).predict(X), X @ KERNEL, atol=1e-5)
    hidden = free(activation="sigmoid")
    with pytest.warns(UserWarning, match=OPAQUE):
        classifier = Classifier(hidden, input_shape=(5,))
    np.testing.assert_allclose(classifier.predict(X), X @ KERNEL, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has been said
        again = Classifier(classifier, (0, 2))
    np.testing.assert_allclose(again.predict(X), X @ KERNEL, atol=1e-4)


def test_logits_that_happen_to_lie_in_the_unit_interval_are_logits(quiet):
    model = free()
    model.set_weights([np.abs(KERNEL) / 20])
    assert ((model(X) >= 0) & (model(X) <= 1)).numpy().all()
    classifier = Classifier(model, input_shape=(5,))
    np.testing.assert_allclose(classifier.predict(X), model(X), atol=1e-6)


def test_one_logit_in_the_unit_interval_is_a_logit(quiet):
    """Noise is all alike to many models: its one logit easily lies in 0..1."""
    model = free(units=1)
    model.set_weights([np.abs(KERNEL[:, :1]) / 20])
    z = model(X).numpy()
    assert ((z > 0) & (z < 0.5)).all()
    classifier = Classifier(model, input_shape=(5,))
    np.testing.assert_allclose(classifier.predict(X), np.concatenate([0 * z, z], axis=1))
    # What noise cannot tell, however large, samples do.
    bounded = free(units=1, last=lambda z: tf.where(z < 0.5, -0.7, 0.3))
    bounded.set_weights([np.full((5, 1), 10.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = Classifier(bounded, input_shape=(5,))
    with pytest.raises(ValueError, match="give `from_logits=True`.*scores from -0.7 to 0.3"):
        classifier.look_for_draws(np.stack([np.zeros(5), np.ones(5)]).astype(np.float32))


def test_logits_that_are_said_to_be_probabilities_are_refused():
    with pytest.raises(ValueError, match="none: give `from_logits=True`.*Received: from_logits=F"):
        Classifier(free(), input_shape=(5,), from_logits=False)
    said = Classifier(free(activation="softmax"), input_shape=(5,), from_logits=False)
    np.testing.assert_allclose(said.predict(X), np.log(free(activation="softmax")(X)), rtol=1e-5)


def test_a_sequential_model_that_keras_could_not_trace():
    """It is built, and has no graph: what is wrong shows when it is called."""
    names = layers.Lambda(lambda v: v + of_a_notebook_long_gone)  # noqa: F821
    model = keras.Sequential([keras.Input((5,)), names, layers.Dense(3)])
    assert model.built and logits_head(model) is None
    with pytest.raises(NameError, match="of_a_notebook_long_gone"):
        Classifier(model, input_shape=(5,))


def test_a_softmax_over_one_unit_is_refused():
    message = "A softmax over one unit is 1 for every input.*Received: model="
    inputs = keras.Input((5,))
    models = [
        keras.Sequential([inputs, layers.Dense(1, activation="softmax")]),
        keras.Sequential([inputs, layers.Dense(1), layers.Softmax(), layers.Dropout(0.1)]),
        keras.Model(inputs, keras.ops.softmax(layers.Dense(1)(inputs))),
        free(units=1, activation="softmax"),
    ]
    for model in models:
        with pytest.raises(ValueError, match=message):
            Classifier(model, input_shape=(5,))
    with pytest.raises(ValueError, match=message):
        kerasrobust.wrap(models[0], "gda")
    one = free(units=1, activation="sigmoid")
    one.set_weights([50 + 0 * one.get_weights()[0]])  # 1 for all noise there is, and no softmax
    with pytest.warns(UserWarning, match=OPAQUE):
        assert Classifier(one, input_shape=(5,)).nb_classes == 2


def in_a_dictionary():
    inputs = keras.Input((5,))
    outputs = layers.Dense(3, activation="softmax", use_bias=False)(inputs)
    model = keras.Model(inputs, {"scores": outputs})
    model.set_weights([KERNEL])
    return model


def in_a_list():
    model = behind()
    return keras.Model(model.inputs, [model.outputs[0]])


@pytest.mark.parametrize(
    "build",
    [
        in_a_dictionary,
        in_a_list,
        lambda: free(give=lambda z: {"y": z}),
        lambda: free(give=lambda z: [z]),
        lambda: free(give=lambda z: (z,)),
    ],
)
def test_one_output_is_unpacked(build, quiet):
    model = build()
    classifier = Classifier(model, input_shape=(5,))
    np.testing.assert_allclose(classifier.predict(X), X @ KERNEL, atol=1e-5)
    result = attacks.get("pgd", eps=0.9, eps_step=0.2, max_iter=20).bind(classifier).run(X)
    assert result.success.any()


def test_a_dictionary_is_wrapped_trained_and_saved(tmp_path):
    y = np.arange(12) % 3
    results = []
    for base in (in_a_dictionary(), behind()):
        model = kerasrobust.wrap(base, "adversarial_training:attack=fgsm")
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.fit(X, y, batch_size=12, validation_data=(X, y), verbose=0)
        results.append([*model.base.get_weights(), model.predict(X, verbose=0)])
    for ours, plain in zip(*results, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_several_outputs_are_an_error():
    two = free(give=lambda z: {"b": z, "a": z})
    with pytest.raises(ValueError, match=r"must have one output. Received: outputs=\['a', 'b'\]"):
        Classifier(two, input_shape=(5,))
    with pytest.raises(ValueError, match="must have one output. Received: outputs=2"):
        unpack_output([X, X])
    inputs = keras.Input((5,))
    with pytest.raises(ValueError, match="Received: 1 inputs and 2 outputs"):
        Classifier(keras.Model(inputs, {"a": inputs * 2, "b": inputs}))


@pytest.mark.parametrize("form", ["layer", "only layer", "functional", "signature"])
def test_a_loaded_saved_model(form, tmp_path):
    behind(kernel=4 * KERNEL).export(tmp_path / "served", verbose=False)
    endpoint = "serving_default" if form == "signature" else "serve"
    layer = layers.TFSMLayer(tmp_path / "served", call_endpoint=endpoint)
    inputs = keras.Input((5,))
    if form == "only layer":
        model = keras.Sequential([inputs, layer])
    else:
        model = keras.Model(inputs, layer(inputs)) if form == "functional" else layer
    with pytest.warns(UserWarning, match=OPAQUE):
        classifier = Classifier(model, input_shape=(5,))
    assert classifier.nb_classes == 3 and classifier.has_gradient
    np.testing.assert_allclose(
        tf.nn.softmax(classifier.predict(X)), tf.nn.softmax(4 * X @ KERNEL), atol=1e-5
    )
    gradient = classifier.gradient(tf.constant(X), lambda z: z[:, 0] - z[:, 1])[2]
    expected = np.tile(4 * (KERNEL[:, 0] - KERNEL[:, 1]), (12, 1))
    np.testing.assert_allclose(gradient, expected, atol=1e-3)
    labels = (X @ KERNEL).argmax(axis=1)
    result = attacks.get("pgd", eps=0.8, eps_step=0.2, max_iter=20).bind(classifier).run(X, labels)
    assert result.success.mean() > 0.5


@pytest.mark.parametrize("bounds", [[-2, 3], np.array([-2.0, 3.0]), (-2, 3)])
def test_bounds_in_any_form(bounds):
    model = linear()
    assert Classifier(model, bounds).clip_values == (-2.0, 3.0)
    shared = Classifier.of(model, bounds)
    assert shared.clip_values == (-2.0, 3.0)
    assert Classifier.of(model, (-2.0, 3.0)) is shared
    assert Classifier.of(shared, bounds) is shared
    with pytest.raises(ValueError, match="has its bounds and options already"):
        Classifier.of(shared, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="two finite numbers"):
        Classifier.of(model, [0, 1, 2])


def test_a_proof_names_what_it_found():
    model = linear(scale=2.0)
    head = logits_head(model)
    proof = prove(model, head, tf.constant(X))
    assert proof.head is head and not proof.randomised
    np.testing.assert_allclose(proof.scores, 2 * X @ KERNEL, atol=1e-5)
    other = logits_head(linear(scale=1.9))
    proof = prove(model, other, tf.constant(X))
    assert proof.head is not other and proof.head.activation is None
    np.testing.assert_allclose(proof.scores, model(X), atol=1e-6)
