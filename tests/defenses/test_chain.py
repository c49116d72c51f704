"""The chain and its one training step, proved with trivial defenses first."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import GaussianDataAugmentation, RobustModel, TrainingDefense, wrap

SGD = keras.optimizers.SGD
CE = keras.losses.SparseCategoricalCrossentropy


def one_step(model, x, y, **fit):
    return model.fit(x, y, batch_size=len(x), epochs=1, shuffle=False, verbose=0, **fit).history


def assert_weights(model, expected, atol=1e-6):
    for got, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=atol)


def test_affine_chain_equals_numpy(linear, affine, points, softmax_step, mode):
    x, y = points
    base = linear()
    model = RobustModel(base, [affine(2.0, 0.5), affine(3.0, 1.0, rank=4)])
    model.compile(SGD(0.1), "sparse_categorical_crossentropy", **mode)
    loss, expected = softmax_step(x, y, np.full(9, 6 / 9), 0.1)
    history = one_step(model, x, y)
    # The outer link has the higher rank: 2 * (3 * loss + 1) + 0.5.
    np.testing.assert_allclose(history["loss"], [6 * loss.mean() + 2.5], rtol=1e-6)
    assert_weights(base, expected)


def test_perturbed_weights_are_restored_before_the_update(
    linear, stale, points, weights, softmax_step, mode
):
    x, y = points
    base = linear()
    model = RobustModel(base, [stale(0.1)])
    model.compile(SGD(0.1), "sparse_categorical_crossentropy", **mode)
    moved = [w + 0.1 for w in weights]
    loss, after = softmax_step(x, y, np.full(9, 1 / 9), 0.1, moved)
    history = one_step(model, x, y)
    np.testing.assert_allclose(history["loss"], [loss.mean()], rtol=1e-6)
    assert_weights(base, [w - 0.1 for w in after])


def test_weights_are_restored_when_the_objective_fails(linear, stale, points, weights):
    class Broken(TrainingDefense):
        name = "broken"

        def objective(self, batch, inner):
            raise RuntimeError("broken")

        def get_config(self):
            return {}

    base = linear()
    model = RobustModel(base, [stale(0.1), Broken()])
    model.compile(SGD(0.1), "sparse_categorical_crossentropy", run_eagerly=True)
    with pytest.raises(RuntimeError, match="broken"):
        one_step(model, *points)
    assert_weights(base, weights)


def test_prepare_can_differentiate_the_inner_chain(linear, affine, points, softmax_step):
    class Sees(TrainingDefense):
        name = "sees"
        rank = 30

        def prepare(self, batch, context):
            kernel = context.model.trainable_weights[0].value
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(context.inner(batch.replace(mode="stateless")))
            return batch.with_extra("gradient", tape.gradient(loss, kernel))

        def objective(self, batch, inner):
            return inner(batch) + tf.reduce_sum(batch.extras["gradient"])

        def get_config(self):
            return {}

    x, y = points
    model = RobustModel(linear(), [Sees(), affine(2.0, 0.0)])
    model.compile(SGD(0.1), "sparse_categorical_crossentropy")
    start = linear().get_weights()[0]
    loss, after = softmax_step(x, y, np.full(9, 2.0), 1.0)
    history = one_step(model, x, y)
    gradient = (start - after[0]).sum()
    np.testing.assert_allclose(history["loss"], [2 * loss.mean() + gradient], rtol=1e-5)


def test_prepare_sees_the_weights_of_the_moment(linear, affine, points, softmax_step, mode):
    """Steps along the weight gradient, as weight perturbation takes them: each sees the last."""

    class Descends(TrainingDefense):
        name = "descends"
        rank = 30

        def prepare(self, batch, context):
            kernel = context.model.trainable_weights[0].value
            old = tf.identity(kernel)
            losses = []
            for _ in range(3):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(context.inner(batch))
                kernel.assign_sub(tape.gradient(loss, kernel))
                losses.append(loss)
            context.defer(lambda: kernel.assign(old))
            return batch.with_extra("losses", tf.stack(losses)[None])

        def objective(self, batch, inner):
            return 0.0 * inner(batch) + tf.reduce_sum(batch.extras["losses"] * [1.0, 10.0, 100.0])

        def get_config(self):
            return {}

    x, y = points
    model = RobustModel(linear(), [Descends(), affine(2.0, 0.0)])
    model.compile(SGD(0.0), "sparse_categorical_crossentropy", **mode)
    kernel, bias = linear().get_weights()
    losses = []
    for _ in range(3):
        loss, (kernel, _) = softmax_step(x, y, np.full(9, 2 / 9), 1.0, (kernel, bias))
        losses.append(2 * loss.mean())
    expected = np.dot(losses, [1.0, 10.0, 100.0])
    np.testing.assert_allclose(one_step(model, x, y)["loss"], [expected], rtol=1e-5)


@pytest.mark.parametrize(
    ("activation", "loss", "one_hot"),
    [
        ("softmax", "sparse_categorical_crossentropy", False),
        ("softmax", "categorical_crossentropy", True),
        ("softmax", "ce", False),
        ("softmax", "crossentropy", True),
        ("softmax", CE(), False),
        ("softmax", CE(reduction="sum"), False),
        ("softmax", CE(reduction="mean_with_sample_weight"), False),
        ("softmax", keras.losses.sparse_categorical_crossentropy, False),
        ("softmax", keras.losses.CategoricalCrossentropy(label_smoothing=0.1), True),
        ("softmax", "mse", True),
        ("sigmoid", "binary_crossentropy", True),
        (None, CE(from_logits=True), False),
        (None, "mse", True),
    ],
)
@pytest.mark.parametrize("weighted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_empty_chain_equals_keras(linear, points, activation, loss, one_hot, weighted):
    x, y = points
    y = keras.utils.to_categorical(y, 3) if one_hot else y
    fit = {"sample_weight": np.linspace(0.5, 2, 9)} if weighted else {}
    plain = linear(activation, kernel_regularizer="l2")
    base = linear(activation, kernel_regularizer="l2")
    robust = RobustModel(base, [])
    logs = []
    for model in (plain, robust):
        model.compile(
            SGD(0.1),
            loss,
            metrics=["mae"] if one_hot else None,
            weighted_metrics=["accuracy"],
            run_eagerly=loss != "ce",  # one graph of two is enough, each takes a while
        )
        logs.append(
            model.fit(x, y, batch_size=4, shuffle=False, verbose=0, epochs=2, **fit).history
        )
    assert set(logs[0]) == set(logs[1])
    for name in logs[0]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-5, err_msg=name)
    assert_weights(base, plain.get_weights())


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("loss", ["binary_crossentropy", "ce", keras.losses.BinaryCrossentropy()])
def test_one_output_unit_equals_keras(points, loss, columns):
    x, y = points[0], (points[1] > 0).astype("float32")
    results = []
    for links in (None, []):
        base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
        base.set_weights([np.array([[0.4], [-0.3], [0.1], [0.8]]), np.array([0.1])])
        model = base if links is None else RobustModel(base, links)
        model.compile(SGD(0.5), loss)
        one_step(model, x, y[:, None] if columns else y)
        results.append(base.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_loss_weight_and_class_weight_equal_keras(linear, points):
    plain, base = linear(), linear()
    for model in (plain, RobustModel(base, [])):
        model.compile(SGD(0.1), "sparse_categorical_crossentropy", loss_weights=2.5)
        one_step(model, *points, class_weight={0: 1.0, 1: 2.0, 2: 0.25})
    assert_weights(base, plain.get_weights())


def test_reduction_left_open_is_the_mean(linear, points):
    closed, left_open = linear(), linear()
    for base, reduction in ((closed, "sum_over_batch_size"), (left_open, None)):
        model = RobustModel(base, [])
        model.compile(SGD(0.1), CE(reduction=reduction))
        one_step(model, *points)
    assert_weights(left_open, closed.get_weights(), atol=0)


def test_activity_regularizers_count_once(linear, affine, points):
    plain = linear(activity_regularizer="l2")
    base = linear(activity_regularizer="l2")
    for model in (plain, RobustModel(base, [affine(1.0, 0.0)])):
        model.compile(SGD(0.1), "sparse_categorical_crossentropy")
        one_step(model, *points)
    assert_weights(base, plain.get_weights())


def test_loss_is_taken_from_the_logits(linear):
    """Where softmax is exactly 1 and 0 in float32, the loss still tells how wrong it is."""
    base = linear()
    base.set_weights([base.get_weights()[0] * 0, np.array([0, 200, 0], np.float32)])
    model = RobustModel(base, [])
    model.compile(SGD(0.1), CE())
    history = one_step(model, np.zeros((2, 4), "float32"), np.array([0, 2]))
    np.testing.assert_allclose(history["loss"], [200.0], rtol=1e-6)


class Passes(keras.layers.Layer):
    """Writes down how it was called; eager mode only."""

    seen: list = []

    def call(self, inputs, training=False):
        Passes.seen.append((inputs.shape[0], bool(training)))
        return inputs


def test_no_hidden_pass_and_passes_are_shared(affine):
    class Twice(TrainingDefense):
        name = "twice"
        rank = 6

        def objective(self, batch, inner):
            logits = inner.logits(batch)
            return inner(batch) + tf.reduce_sum(logits, axis=1) * 0

        def get_config(self):
            return {}

    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, activation="softmax")(Passes()(inputs))
    gda = GaussianDataAugmentation(sigma=0.1, N=3)
    for links, passes in (([Twice(), affine()], [(9, True)]), ([gda, Twice()], [(27, True)])):
        model = RobustModel(keras.Model(inputs, outputs), links)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["acc"], run_eagerly=True)
        model.train_on_batch(np.zeros((9, 4), "float32"), np.zeros(9, int))
        Passes.seen.clear()
        model.train_on_batch(np.zeros((9, 4), "float32"), np.zeros(9, int))
        assert Passes.seen == passes


def test_metrics_say_what_they_were_measured_on(linear, points):
    x, y = points
    names = {}
    for keep in (False, True):
        model = RobustModel(linear(), [GaussianDataAugmentation(0.1, N=2, keep_original=keep)])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, verbose=0, batch_size=4, validation_data=(x, y)).history
        names[keep] = set(history)
        clean = np.mean(model.predict(x, verbose=0).argmax(1) == y)
        np.testing.assert_allclose(history["val_accuracy"], [clean], rtol=1e-6)
    assert names[False] == {"loss", "noisy_accuracy", "val_loss", "val_accuracy"}
    assert names[True] == {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_clean_metric_is_of_the_clean_pass(linear, points):
    x, y = points
    base = linear()
    before = np.mean(base.predict(x, verbose=0).argmax(1) == y)
    model = RobustModel(base, [GaussianDataAugmentation(1.0, N=2, keep_original=True)])
    model.compile(SGD(0.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    np.testing.assert_allclose(one_step(model, x, y)["accuracy"], [before], rtol=1e-6)


class Extra(TrainingDefense):
    """One more pass, in the mode that is asked for."""

    name = "extra"

    def __init__(self, mode):
        self.mode = mode

    def objective(self, batch, inner):
        return inner(batch) + 0.0 * inner(batch.derive(batch.x * 0.5, "dimmed", self.mode))

    def get_config(self):
        return {"mode": self.mode}


@pytest.mark.parametrize("extra", ["training", "inference", "stateless"])
def test_batch_norm_mode_of_an_extra_pass(cnn, images, extra, mode):
    x, y = images
    base = cnn(batch_norm=True, dropout=0.5)
    features = keras.Model(base.inputs, base.get_layer("norm").input)
    model = RobustModel(base, [Extra(extra)])
    model.compile(SGD(0.0), "sparse_categorical_crossentropy", **mode)
    means = [features.predict(part, verbose=0).mean(axis=(0, 1, 2)) for part in (x, 0.5 * x)]
    seed = base.get_layer("drop").seed_generator.state.numpy().copy()
    one_step(model, x, y)
    expected = 0.5 * means[0]  # momentum 0.5 from a moving mean of 0
    if extra == "training":
        expected = 0.5 * expected + 0.5 * means[1]
    np.testing.assert_allclose(base.get_layer("norm").moving_mean.numpy(), expected, atol=1e-6)
    draws = base.get_layer("drop").seed_generator.state.numpy() - seed
    np.testing.assert_array_equal(draws, [0, 2 if extra == "training" else 1])


def test_stateless_pass_computes_as_in_training(cnn, images):
    x = tf.constant(images[0])
    model = RobustModel(cnn(batch_norm=True, dropout=0.5), [])
    stateless = model.forward(x, "stateless")[1]
    again = model.forward(x, "stateless")[1]
    training = model.forward(x, "training")[1]
    np.testing.assert_array_equal(stateless, again)
    np.testing.assert_array_equal(stateless, training)
    assert np.abs(training - model.forward(x, "inference")[1]).max() > 0.1


def test_outer_mode_wins_over_an_inner_one(points):
    from kerasrobust.defenses import Batch

    x = tf.constant(points[0])
    batch = Batch(x, x, x, (0.0, 1.0)).derive(x + 9, "adversarial", "stateless")
    noisy = batch.derive(batch.x, "noisy", "training")
    assert (noisy.mode, noisy.origin) == ("stateless", "adversarial_noisy")
    assert float(tf.reduce_max(noisy.x)) == 1.0


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_loss_scale_does_not_change_the_update(affine, points, policy, weights):
    x, y = points
    results = []
    for scale in (1.0, 2.0**15):
        layer = keras.layers.Dense(3, activation="softmax", dtype=policy)
        base = keras.Sequential([keras.Input((4,)), layer])
        base.set_weights(weights)
        model = RobustModel(base, [affine(2.0, 0.5)])
        optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=scale)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        one_step(model, x, y)
        assert optimizer.dynamic_scale.numpy() == scale
        results.append(base.get_weights())
    for a, b, start in zip(*results, weights, strict=True):
        assert np.abs(a - start).max() > 1e-2
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_policy_comes_from_the_base(linear, points):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    finally:
        keras.config.set_dtype_policy("float32")
    model = RobustModel(base, [GaussianDataAugmentation(0.1, N=2)])
    model.compile(SGD(0.1), "sparse_categorical_crossentropy")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(one_step(model, *points)["loss"]).all()


def test_step_counts_batches_and_survives_compile(linear, points):
    model = RobustModel(linear(), [GaussianDataAugmentation(0.1, N=2)])
    for total in (3, 6):
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(*points, batch_size=3, verbose=0)
        assert int(model.step.numpy()) == total


def test_noise_differs_from_step_to_step(linear, points):
    x, y = points
    model = RobustModel(linear(), [GaussianDataAugmentation(0.3, N=1)])
    model.compile(SGD(0.0), "sparse_categorical_crossentropy")
    losses = [model.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(1)]
    model.reset_metrics()
    losses.append(model.train_on_batch(x, y, return_dict=True)["loss"])
    assert abs(losses[0] - losses[1]) > 1e-5


def test_callbacks_and_dataset_with_weights(linear, points):
    x, y = points
    data = tf.data.Dataset.from_tensor_slices((x, y, np.ones(9, "float32"))).batch(4)
    model = RobustModel(linear(), [GaussianDataAugmentation(0.1, N=2)])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1)
    history = model.fit(data, epochs=5, validation_data=data, callbacks=[stop], verbose=0)
    assert len(history.history["loss"]) == 2
    assert set(model.evaluate(data, verbose=0, return_dict=True)) == {"loss", "accuracy"}


def test_opaque_subclassed_model_trains_on_its_outputs(linear, points, softmax_step):
    class Opaque(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def call(self, inputs):
            return self.inner(inputs)

    x, y = points
    base = Opaque()
    base(x)
    model = RobustModel(base, [])
    model.compile(SGD(0.1), "sparse_categorical_crossentropy")
    loss, expected = softmax_step(x, y, np.full(9, 1 / 9), 0.1)
    np.testing.assert_allclose(one_step(model, x, y)["loss"], [loss.mean()], rtol=1e-5)
    assert_weights(base, expected, atol=1e-5)


# ---- bad input -----------------------------------------------------------------------------


def test_refusals_of_the_constructor(linear, affine):
    two = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(TypeError, match=r"`base` must be a keras.Model. Received: base='m'"):
        RobustModel("m", [])
    with pytest.raises(TypeError, match=r"training defenses.*Received: 'gda'"):
        RobustModel(linear(), ["gda"])
    with pytest.raises(TypeError, match=r"must be a list.*Received: defenses='gda'"):
        RobustModel(linear(), "gda")
    with pytest.raises(ValueError, match=r"clip_values=\(1, 0\)"):
        RobustModel(linear(), [], clip_values=(1, 0))
    for seed in (-1, 1.5, True, 2**31):
        with pytest.raises(ValueError, match=rf"`seed` must be .*seed={seed}"):
            RobustModel(linear(), [], seed=seed)
    with pytest.raises(ValueError, match="must be built.*Received: base='raw', not built"):
        RobustModel(keras.Sequential([keras.layers.Dense(3)], name="raw"), [])
    with pytest.raises(ValueError, match="one input and one output"):
        RobustModel(keras.Model(two, keras.layers.Add()(two)), [])
    gda = GaussianDataAugmentation()
    with pytest.raises(ValueError, match="'gda' and 'gda' cannot be combined: the chain already"):
        RobustModel(linear(), [gda, affine(), gda])


def test_refusals_of_fit(linear, points):
    x, y = points
    model = RobustModel(linear(), [GaussianDataAugmentation(0.1, N=2)])
    cases = [
        (
            "sparse_categorical_crossentropy",
            255 * x,
            r"clip_values=\(0.0, 1.0\).*Received: x in \[",
        ),
        ("sparse_categorical_crossentropy", x * np.nan, r"Received: x in \[nan, nan\]"),
        (CE(from_logits=True), x, "model ends in a softmax.*Received: from_logits=True"),
        ([CE(), CE()], x, "`loss` must be a single one"),
        (lambda t, p: tf.reduce_mean(p), x, r"one value per sample, \[batch\].*scalar"),
        (None, x, "compiled with a loss. Received: loss=None"),
    ]
    for loss, inputs, message in cases:
        model.loss = None
        model.compile("sgd", loss)
        with pytest.raises(ValueError, match=message):
            one_step(model, inputs, y)
    logits = RobustModel(linear(None), [])
    for loss in ("ce", "sparse_categorical_crossentropy", CE()):
        logits.compile("sgd", loss)
        with pytest.raises(ValueError, match="the model returns logits.*from_logits=False"):
            one_step(logits, x, y)
    BCE = keras.losses.BinaryCrossentropy
    for activation, losses, message in [
        (None, ["ce", "binary_crossentropy", BCE()], "the model returns logits.*BinaryCross"),
        ("sigmoid", [BCE(from_logits=True)], "the model ends in a sigmoid.*from_logits=True"),
    ]:
        unit = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation)])
        single = RobustModel(unit, [])
        for loss in losses:
            single.compile("sgd", loss)
            with pytest.raises(ValueError, match=message):
                one_step(single, x, y > 0)
    grey = RobustModel(linear(), [], clip_values=(0, 255))
    grey.compile("sgd", CE())
    with pytest.raises(ValueError, match=r"values in 0..1, the bounds are clip_values=\(0, 255\)"):
        one_step(grey, x, y)
    model.compile("sgd", CE())
    with pytest.raises(ValueError, match="needs batches"):
        model.fit(x, verbose=0)


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 3

    def __getitem__(self, i):
        return self.x[3 * i : 3 * i + 3], self.y[3 * i : 3 * i + 3]


def batches(x, y):
    for start in range(0, len(x), 3):
        yield x[start : start + 3], y[start : start + 3]


SOURCES = {
    "data set": lambda x, y: (tf.data.Dataset.from_tensor_slices((x, y)).batch(3),),
    "weighted": lambda x, y: (
        tf.data.Dataset.from_tensor_slices((x, y, np.ones(len(x)))).batch(3),
    ),
    "sequence": lambda x, y: (Sequence(x, y),),
    "generator": lambda x, y: (batches(x, y),),
    "arrays": lambda x, y: (x, y),
}


@pytest.mark.parametrize("source", SOURCES)
def test_data_out_of_bounds_are_stopped(linear, points, weights, source, mode):
    """The first batch is not trained on, whatever runs the step."""
    x, y = points
    base = linear()
    model = RobustModel(base, [GaussianDataAugmentation(0.1, N=2)])
    model.compile("sgd", "sparse_categorical_crossentropy", **mode)
    message = r"Inputs must lie within the bounds clip_values=\(0.0, 1.0\). Received: x in \[\d"
    with pytest.raises(ValueError, match=message):
        model.fit(*SOURCES[source](255 * x, y), verbose=0)
    assert_weights(base, weights, atol=0)
    history = model.fit(*SOURCES[source](x, y), verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_batches_by_hand_are_checked_too(linear, points, mode):
    x, y = points
    model = RobustModel(linear(), [])
    model.compile("sgd", "sparse_categorical_crossentropy", **mode)
    with pytest.raises(ValueError, match="Inputs must lie within the bounds"):
        model.train_on_batch(20 * x, y)
    assert np.isfinite(model.train_on_batch(x, y))


def test_a_data_set_is_drawn_once_and_in_its_order(linear, points):
    """The check reads nothing ahead: the order of an epoch is the one of plain Keras."""
    x, y = points
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(9, seed=3).batch(4)
    base, plain = linear(), linear()
    model = RobustModel(base, [])
    for one in (model, plain):
        one.compile(SGD(0.1), "sparse_categorical_crossentropy", jit_compile=True)
    for one in (model, plain):
        # A data set goes on with its shuffling from one iterator to the next.
        fresh = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(9, seed=3).batch(4)
        one.fit(fresh, epochs=3, verbose=0)
    assert_weights(base, plain.get_weights(), atol=1e-6)
    assert data.element_spec == data.map(model._assert_batch).element_spec


CRAFTING = [
    "adversarial_training:attack=fgsm",
    "ensemble_adversarial_training",
    "fast",
    "minimax",
    "trades",
    "mart",
    "e2sad",
]
SEVERAL = {
    "two classes": [[0, 1, 1], [1, 0, 0], [0, 0, 1]],
    "none": [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
    "negative": [[0, 1, 0], [1, 0, 0], [-1, 1, 1]],
}


@pytest.mark.parametrize("source", ["arrays", "data set", "sequence", "generator"])
@pytest.mark.parametrize("rows", SEVERAL)
def test_labels_of_several_classes_are_refused(linear, points, weights, rows, source, mode):
    """A sample is crafted against one class."""
    y = np.tile(np.array(SEVERAL[rows], "float32"), (3, 1))
    base = linear()
    model = wrap(base, "minimax")
    model.compile("sgd", "categorical_crossentropy", **mode)
    message = "must be one-hot, or probabilities that add up to 1. Received: y with sums of rows"
    with pytest.raises(ValueError, match=message):
        model.fit(*SOURCES[source](points[0], y), verbose=0)
    assert_weights(base, weights, atol=0)


@pytest.mark.parametrize(
    "name", [*CRAFTING[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in CRAFTING[3:])]
)
def test_labels_of_one_class_or_soft_ones_are_what_crafting_takes(linear, points, name):
    x, y = points
    config = {"attacks": ["fgsm:eps=0.1"]} if name.startswith("ensemble") else {}
    model = wrap(linear(), name, **config)
    model.compile("sgd", "categorical_crossentropy")
    hard = np.eye(3, dtype="float32")[y]
    several = hard.copy()
    several[4] = [1, 0, 1]
    with pytest.raises(ValueError, match="must be one-hot, or probabilities"):
        model.fit(x, several, verbose=0)
    for good in (hard, 0.8 * hard + 0.2 / 3):
        assert np.isfinite(model.fit(x, good, verbose=0).history["loss"]).all()


def test_other_defenses_leave_multi_labels_alone(linear, points):
    x, _ = points
    y = np.tile(np.array(SEVERAL["two classes"], "float32"), (3, 1))
    model = wrap(linear("sigmoid"), "gda")
    model.compile("sgd", "binary_crossentropy")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()


def test_bounds_in_the_units_of_the_data(linear, points):
    x, y = points
    model = RobustModel(linear(), [GaussianDataAugmentation(2.0, N=2)], clip_values=(0, 255))
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = tf.data.Dataset.from_tensor_slices((tf.cast(255 * x, tf.uint8), y)).batch(3)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    "spec", ["gda:sigma=0.3", "e2sad:eps1=0.2", "e2sad:eps2=0.1", "fast:eps=0.2", "minimax:eps=0.1"]
)
def test_lengths_in_another_unit_than_the_inputs_are_refused(linear, points, spec):
    """Those that are given; the defaults are shares of the width of the box."""
    x, y = points
    name, length = spec.split("=")[0].split(":")
    with pytest.raises(ValueError, match=f"`{length}` does not fit inputs in .0.0, 255.0."):
        wrap(linear(), spec, clip_values=(0, 255))
    model = wrap(linear(), name, clip_values=(0, 255))
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(model.fit(255 * x, y, verbose=0).history["loss"]).all()


def test_logits_are_refused_where_they_cannot_be_had(linear, points):
    class Needs(TrainingDefense):
        name = "needs"

        def objective(self, batch, inner):
            return inner(batch) + tf.reduce_sum(inner.logits(batch), axis=1)

        def get_config(self):
            return {}

    model = RobustModel(linear("sigmoid"), [Needs()])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs the model's logits"):
        one_step(model, points[0], keras.utils.to_categorical(points[1], 3))
