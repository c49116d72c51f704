"""What every registered attack must keep, whatever it computes."""

from __future__ import annotations

import contextlib
import math
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.engine import drivers
from kerasrobust.engine.classifier import Classifier

N = 24

# Differences that float16 resolves.
ZOO = {"variable_h": 0.05, "initial_const": 1.0, "binary_search_steps": 3}
# What transfers crafts on a copy of the model, saved under this name.
SOURCE = "source.keras"
# One row per registered attack and norm, with settings that fool most digits of the small CNN.
ROWS = [
    ("fgsm", {"eps": 0.4}),
    ("fgsm", {"eps": 2.0, "norm": 2}),
    ("fgsm", {"eps": 6.0, "norm": 1}),
    ("fgsm", {"eps": 1.0, "minimal": True}),
    ("fgsm", {"eps": 6.0, "minimal": True, "norm": 2}),
    ("rand_fgsm", {"eps": 0.45}),
    ("pgd", {"eps": 0.3, "eps_step": 0.05, "max_iter": 10}),
    ("pgd", {"eps": 1.5, "eps_step": 0.3, "max_iter": 10, "norm": 2}),
    ("pgd", {"eps": 6.0, "eps_step": 1.0, "max_iter": 10, "norm": 1}),
    ("pgd", {"eps": 0.3, "eps_step": 0.05, "max_iter": 5, "num_random_init": 3}),
    ("bim", {"eps": 0.3, "eps_step": None, "max_iter": 10}),
    ("ilc", {"eps": 0.4, "eps_step": 0.05, "max_iter": 15}),
    ("mifgsm", {"eps": 0.3, "eps_step": None, "max_iter": 10}),
    ("mifgsm", {"eps": 1.5, "eps_step": 0.3, "max_iter": 10, "norm": 2}),
    ("mifgsm", {"eps": 6.0, "eps_step": 1.0, "max_iter": 10, "norm": 1}),
    ("gea", {"eps": 0.25}),
    ("gea", {"eps": 0.3, "eps_step": 0.05, "max_iter": 10, "combine": "logits"}),
    ("vat", {"eps": 4.0, "max_iter": 5}),
    ("apgd", {"eps": 0.3, "max_iter": 10, "nb_random_init": 1}),
    ("apgd", {"eps": 1.5, "max_iter": 10, "nb_random_init": 2, "norm": 2}),
    ("apgd", {"eps": 6.0, "max_iter": 20, "nb_random_init": 1, "norm": 1}),
    (
        "apgd",
        {
            "eps": 0.3,
            "max_iter": 10,
            "nb_random_init": 1,
            "loss_type": "difference_logits_ratio",
            "nb_target_classes": 3,
        },
    ),
    ("pma", {"eps": 0.3, "max_iter": 10}),
    ("pma", {"eps": 1.5, "max_iter": 10, "norm": 2}),
    ("pma", {"eps": 6.0, "max_iter": 20, "norm": 1}),
    ("jsma", {"theta": 1.0}),
    ("jsma", {"theta": 1.0, "outputs": "logits"}),
    ("jsma", {"theta": -0.5, "gamma": 0.8}),
    ("cwl2", {"max_iter": 30, "learning_rate": 0.2, "binary_search_steps": 5}),
    ("ead", {"max_iter": 20, "binary_search_steps": 6, "initial_const": 0.1}),
    ("ead", {"max_iter": 20, "binary_search_steps": 6, "decision_rule": "L1"}),
    ("deepfool", {}),
    ("fab", {"max_iter": 10}),
    ("fab", {"max_iter": 10, "norm": 2}),
    ("fab", {"max_iter": 10, "norm": 1}),
    ("ddn", {"max_iter": 20}),
    ("fmn", {"max_iter": 20}),
    ("fmn", {"max_iter": 20, "norm": 2}),
    ("fmn", {"max_iter": 20, "norm": 1}),
    ("fmn", {"max_iter": 20, "norm": 0}),
    ("alma", {"max_iter": 50}),
    ("alma", {"max_iter": 50, "norm": 1}),
    ("sigma_zero", {"max_iter": 50, "prune": 0.3}),
    ("cwlinf", {"max_iter": 20, "learning_rate": 0.1, "initial_const": 0.1}),
    ("cwl0", {"max_iter": 20, "binary_search_steps": 4, "learning_rate": 0.3}),
    ("uap", {"eps": 0.5, "delta": 0.1, "max_iter": 3}),
    ("hsja", {"max_iter": 3, "max_eval": 40, "init_eval": 40}),
    ("hsja", {"max_iter": 3, "max_eval": 40, "init_eval": 40, "norm": math.inf}),
    ("boundary", {"max_iter": 10, "sample_size": 10, "delta": 0.1, "epsilon": 0.1}),
    ("signopt", {"max_iter": 2, "k": 20, "num_trial": 5}),
    ("square", {"eps": 0.4}),
    ("square", {"eps": 2.0, "norm": 2}),
    ("simba", {"epsilon": 0.4, "max_iter": 100}),
    ("simba", {"epsilon": 0.4, "max_iter": 100, "attack": "px"}),
    ("zoo", {"max_iter": 20, "nb_parallel": 32, "learning_rate": 0.1, **ZOO}),
    ("zoo", {"max_iter": 20, "nb_parallel": 32, "learning_rate": 0.5, "solver": "newton", **ZOO}),
    ("transfer", {"attack": "pgd:eps=0.3,eps_step=0.05,max_iter=10", "sources": [SOURCE]}),
]
# What a package that is installed beside this one brings, with its defaults.
ROWS += [(name, {}) for name in attacks.ATTACKS.classes() if name not in attacks.ATTACKS.builtin]
# Fewer steps where they run outside of a graph, for claims that do not depend on their number.
EAGER = {
    "boundary": {"max_iter": 4},
    "signopt": {"max_iter": 1, "num_trial": 2},
    "zoo": {"max_iter": 8},
}
# What an attack needs that asks the model for more than the final judgement.
ASKING = ("scores", "labels")
# One row of each attack, for what costs a compilation.
FIRST_ROWS = [row for i, row in enumerate(ROWS) if row[0] not in [name for name, _ in ROWS[:i]]]


def row_id(row):
    name, settings = row
    told = (
        "norm",
        "decision_rule",
        "num_random_init",
        "minimal",
        "theta",
        "attack",
        "solver",
        "outputs",
        "loss_type",
        "combine",
    )
    return "-".join([name, *(f"{key}={settings[key]}" for key in told if key in settings)])


def is_random(row):
    attack = attacks.get(row[0], **row[1])
    return attack.random or attack.get_config().get("num_random_init", 0) > 0


def rows(fast, every=ROWS):
    """Every row, those but `fast` ones among the slow tests."""
    marked = [row if row in fast else pytest.param(row, marks=pytest.mark.slow) for row in every]
    return pytest.mark.parametrize("row", marked, ids=row_id)


every_attack = pytest.mark.parametrize("row", FIRST_ROWS, ids=row_id)
# By default the claims about an attack itself are tried on one row of each attack.
one_of_each = rows(FIRST_ROWS)
# And those that hold by what attacks share on one attack of each kind: along the gradient, to the
# smallest norm, by scores, by labels.
KINDS = [row for row in FIRST_ROWS if row[0] in ("pgd", "cwl2", "square", "hsja")]
one_of_a_kind = rows(KINDS, FIRST_ROWS)
# XLA takes seconds to compile an attack.
every_compilation = rows(KINDS[:1], FIRST_ROWS)


@pytest.fixture(scope="module", autouse=True)
def source(digits_model, tmp_path_factory):
    """Runs the module in a folder that holds a copy of the model."""
    folder = tmp_path_factory.mktemp("models")
    digits_model.save(folder / SOURCE)
    with contextlib.chdir(folder):
        yield


@pytest.fixture(scope="module")
def state(digits_model):
    """All of the model that an attack could change: a function that reads it."""
    digits_model.compile("sgd", "sparse_categorical_crossentropy")

    def read():
        model = digits_model
        nodes = [len(layer._outbound_nodes) for layer in model.layers]
        flags = [layer.trainable for layer in model.layers]
        return model.optimizer, model.loss, model.get_config(), nodes, flags, model.get_weights()

    return read


@pytest.fixture(autouse=True)
def the_model_is_not_changed(state):
    """By no test of this module: weights, statistics, graph, flags, compile state."""
    *before, old = state()
    yield
    *after, new = state()
    assert after == before
    for one, other in zip(old, new, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def classifier(digits_model):
    """Held for the whole module, so that all tests share its compiled functions."""
    return Classifier.of(digits_model)


@pytest.fixture(scope="module")
def answer(digits_model):
    """The model's scores as a service gives them: Keras takes far longer outside of a graph."""
    specs = [tf.TensorSpec([None, 8, 8, 1])]
    scores = tf.function(lambda x: digits_model(x, training=False), input_signature=specs)
    return lambda batch: scores(tf.constant(batch)).numpy()


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:N], digits[1][:N]


def run(row, model, x, y=None, mask=None, **changes):
    name, settings = row
    return attacks.get(name, **{**settings, **changes}).bind(model).run(x, y, mask=mask)


def linear(kernel):
    """A linear model on 8x8 images."""
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.layers[-1].set_weights([kernel, np.zeros(10, np.float32)])
    return model


def test_every_registered_attack_has_a_row():
    assert set(attacks.ATTACKS.builtin) <= {name for name, _ in ROWS}


@one_of_each
def test_box_budget_and_bookkeeping(row, classifier, samples):
    x, y = samples
    result = run(row, classifier, x, y)
    assert result.x_adv.shape == x.shape and result.x_adv.dtype == np.float32
    assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1
    assert result.success.mean() >= 0.7
    # Judged independently, one sample at a time; two labels that tie within the rounding that a
    # batch of another size brings are both right.
    logits = np.concatenate([classifier.predict(sample[None]) for sample in result.x_adv])
    chosen = logits[np.arange(N), result.labels]
    np.testing.assert_allclose(chosen, logits.max(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.labels != y, result.success)
    delta = (result.x_adv - x).reshape(N, -1).astype(np.float64)
    for order, distance in ((1, result.l1), (2, result.l2), (np.inf, result.linf)):
        expected = np.linalg.norm(delta, order, axis=1)
        expected[result.initially_adversarial] = 0
        expected[~result.success] = np.inf
        np.testing.assert_allclose(distance, expected, rtol=1e-6)
    attack = attacks.get(row[0], **row[1]).bind(classifier)
    if attack.kind == "budget":
        assert np.linalg.norm(delta, attack.norm, axis=1).max() <= attack.eps * (1 + 1e-5)
    else:
        assert (delta[result.initially_adversarial] == 0).all()
    counted = result.queries - 2 if attack.access in ASKING else result.gradients
    assert (counted[~result.initially_adversarial] > 0).all()


@contextlib.contextmanager
def other_weights(model, change):
    """The shared model with other weights for a while, so that its graphs serve once more."""
    weights = model.get_weights()
    model.set_weights(change([value.copy() for value in weights]))
    try:
        yield
    finally:
        model.set_weights(weights)


def constant(weights):
    return [*weights[:-2], 0 * weights[-2], np.arange(10)[::-1]]


def blind(weights):
    """Looks only at patches that are white nearly throughout: elsewhere the gradient is zero."""
    kernel, bias, scale, offset, mean, variance, *dense = weights
    first = [np.ones_like(kernel), np.full_like(bias, -8.5)]
    plain = [np.ones_like(scale), 0 * offset, 0 * mean, np.ones_like(variance)]
    return [*first, *plain, *dense]


@one_of_each
def test_what_a_failure_returns(row, classifier, samples):
    """A minimal-norm attack the clean sample, a budget attack a point inside its budget."""
    x, y = samples
    with np.errstate(all="raise"), other_weights(classifier.model, constant):
        result = run(row, classifier, x, np.zeros(N, int))
    assert not result.success.any()
    attack = attacks.get(row[0], **row[1]).bind(classifier)
    if attack.kind == "minimal":
        np.testing.assert_array_equal(result.x_adv, x)
    else:
        delta = (result.x_adv - x).reshape(N, -1).astype(np.float64)
        assert np.linalg.norm(delta, attack.norm, axis=1).max() <= attack.eps * (1 + 1e-5)
    assert np.isinf(result.distance(2)).all()


@one_of_each
def test_no_nan_on_a_model_with_zero_gradient(row, classifier, samples):
    """There the gradient is exactly zero, although the answer depends on the input."""
    x, _ = samples
    with other_weights(classifier.model, blind):
        scores = classifier.predict(np.concatenate([x, np.ones_like(x[:1])]))
        assert (scores[:N] == scores[0]).all() and (scores[N] != scores[0]).any()
        result = run(row, classifier, x, None)
    assert np.isfinite(result.x_adv).all()
    assert np.isfinite(result.confidence).all()


@one_of_a_kind
def test_no_nan_on_black_images(row, classifier):
    black = np.zeros((4, 8, 8, 1), np.float32)
    result = run(row, classifier, black)
    assert np.isfinite(result.x_adv).all()
    assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1


@one_of_a_kind
def test_mask(row, classifier, samples):
    x, y = samples
    mask = np.zeros((8, 8, 1))
    mask[:, 2:7] = 1
    result = run(row, classifier, x, y, mask=mask)
    np.testing.assert_array_equal(result.x_adv[:, mask == 0], x[:, mask == 0])
    assert result.success.mean() >= 0.4


@one_of_a_kind
def test_targeted(row, classifier, samples):
    x, y = samples
    targets = (y + 1) % 10
    attack = attacks.get(row[0], **row[1])
    if not attack.can_target:
        with pytest.raises(ValueError, match="cannot aim at a class. Received: targeted=True"):
            run(row, classifier, x, targets, targeted=True)
        return
    changes = {}
    if "eps" in row[1]:
        largest = 1.0 if attack.norm == math.inf else math.inf
        changes["eps"] = min(row[1]["eps"] * 1.5, largest)
    if "nb_target_classes" in row[1]:
        changes["nb_target_classes"] = None
    elif hasattr(attack, "init_size"):
        changes["init_size"] = 200
    result = run(row, classifier, x, targets, targeted=True, **changes)
    reached = classifier.predict(result.x_adv).argmax(axis=1) == targets
    np.testing.assert_array_equal(reached, result.success)
    one_step = getattr(attack, "max_iter", None) == 1
    assert result.success.mean() >= (0.15 if one_step else 0.5)
    with pytest.raises(ValueError, match="targeted attack needs the target"):
        run(row, classifier, x, targeted=True, **changes)


@one_of_a_kind
def test_labels_in_every_form(row, classifier, samples):
    x, y = samples
    forms = [y, y.tolist(), y[:, None], np.eye(10)[y], tf.constant(y), y.astype(np.float32)]
    results = [run(row, classifier, x, form).x_adv for form in forms]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    own = classifier.predict(x).argmax(axis=1)
    np.testing.assert_array_equal(run(row, classifier, x).x_adv, run(row, classifier, x, own).x_adv)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    np.testing.assert_array_equal(run(row, classifier, data).x_adv, results[0])


class Poison:
    """Stands for a hyperparameter that must not be looked at."""

    def refuse(self, *args):
        raise AssertionError("a traced hyperparameter was read from the attack, not from `params`")

    __bool__ = __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __add__ = __mul__ = refuse
    __radd__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __float__ = refuse
    __int__ = __index__ = __pow__ = __rpow__ = __neg__ = __array__ = refuse


def poison(attack):
    """Leaves nothing of what may change without a new graph but what is handed over."""
    params, most = attack.params(), attack.max_steps()
    for name in (*attack.traced, "eps", "eps_step"):
        if getattr(attack, name, None) is not None:
            vars(attack)[name] = Poison()
    vars(attack).update(params=lambda: params, max_steps=lambda: most)


@rows(KINDS)
def test_in_graph_driver_equals_host_driver(row, classifier, samples, monkeypatch):
    """On samples that the model gets right; with packing and batches on the host side."""
    x, y = samples
    right = classifier.predict(x).argmax(axis=1) == y
    x, y = x[right], y[right]
    attack = attacks.get(row[0], **row[1]).bind(classifier)
    if not attack.in_graph:
        with pytest.raises(TypeError, match="cannot be part of a graph"):
            attack.perturb(tf.constant(x), tf.constant(y), seed=tf.constant([0, 0]))
        return
    host = attack.run(x, y)

    in_graph = drivers.in_graph

    def poisoned(attack, *rest):
        poison(attack)
        return in_graph(attack, *rest)

    # What is frozen into the graph, instead of being read from `params` or the state, shows.
    monkeypatch.setattr(drivers, "in_graph", in_graph if row[0] == "transfer" else poisoned)

    @tf.function
    def graph(x, y):
        return attack.perturb(x, y, seed=tf.constant([attack.seed, 0]))

    points = graph(tf.constant(x), tf.constant(y)).numpy()
    fooled = classifier.predict(points).argmax(axis=1) != y
    assert points.min() >= 0 and points.max() <= 1
    np.testing.assert_array_equal(fooled, host.success)
    np.testing.assert_allclose(points[fooled], host.x_adv[fooled], atol=2e-5)


@one_of_a_kind
def test_same_seed_same_result_bit_for_bit(row, classifier, samples):
    x, y = samples
    first = run(row, classifier, x, y, seed=3, batch_size=10)
    second = run(row, classifier, x, y, seed=3, batch_size=10)
    np.testing.assert_array_equal(first.x_adv, second.x_adv)
    np.testing.assert_array_equal(first.queries, second.queries)
    if is_random(row):
        other = run(row, classifier, x, y, seed=4, batch_size=10)
        assert (other.x_adv != first.x_adv).any()


@rows(KINDS)
def test_batch_sizes_agree(row, classifier, samples):
    x, y = samples
    if is_random(row):
        pytest.skip("random draws are keyed by batch")
    results = [run(row, classifier, x, y, batch_size=size) for size in (1, 7, N)]
    for other in results[:-1]:
        assert (other.success != results[-1].success).sum() <= 1
        both = other.success & results[-1].success
        own = attacks.get(row[0], **row[1]).norm
        # ALMA descends along the sign of each change, which rounding turns round next to zero.
        rtol = 2e-3 if (row[0], own) == ("alma", 1) else 1e-4
        np.testing.assert_allclose(
            other.distance(own)[both], results[-1].distance(own)[both], rtol=rtol
        )


@rows([row for row in FIRST_ROWS if row in KINDS or row[0] in ("deepfool", "jsma")], FIRST_ROWS)
def test_nothing_retraces_after_the_first_batch(row, classifier, samples):
    x, y = samples
    attack = attacks.get(row[0], **row[1])
    if attack.access == "none":
        pytest.skip("runs on another model's functions")
    name = getattr(attack, "inner", attack).name  # of a universal perturbation
    run(row, classifier, x[:16], y[:16], batch_size=8)
    before = dict(classifier.traces)
    for role in ("init", "advance", "finish"):
        assert before[f"{name}:{role}"] >= 1
    changes = {"eps": 0.21} if "eps" in row[1] else {}
    run(row, classifier, x, y, batch_size=8, seed=5, **changes)
    run(row, classifier, x[:3], y[:3], batch_size=8)
    assert {key: value for key, value in classifier.traces.items() if key != "predict"} == {
        key: value for key, value in before.items() if key != "predict"
    }


@every_compilation
def test_xla_gives_the_same_success(row, classifier, digits_model, samples):
    x, y = samples
    plain = run(row, classifier, x, y)
    compiled = run(row, Classifier(digits_model, jit_compile=True), x, y, jit_compile=True)
    assert (plain.success != compiled.success).sum() <= 1


@pytest.fixture(scope="module")
def half(digits_model):
    """The same model in half precision."""
    config = digits_model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] != "InputLayer":
            layer["config"]["dtype"] = "mixed_float16"
    model = keras.Sequential.from_config(config)
    model.set_weights(digits_model.get_weights())
    return Classifier(model)


@one_of_a_kind
def test_half_precision_models_agree(row, classifier, half, samples):
    x, y = samples
    full = run(row, classifier, x, y)
    result = run(row, half, x, y)
    assert abs(int(full.success.sum()) - int(result.success.sum())) <= 1


@pytest.fixture(scope="module")
def guarded(digits_model, samples):
    """The model with a detector, and the mean above which that rejects.

    It rejects four of the clean samples, and much of what attacks make.
    """
    brightest = float(np.sort(samples[0].mean(axis=(1, 2, 3)))[-4])

    def accepts(points):
        return tf.reduce_mean(points, axis=(1, 2, 3)) < brightest

    return Classifier(digits_model, detector=accepts), brightest


@one_of_a_kind
def test_what_a_detector_rejects_is_defended(row, guarded, samples):
    x, y = samples
    guarded, brightest = guarded
    result = run(row, guarded, x, y)
    accepted = result.x_adv.mean(axis=(1, 2, 3)) < brightest
    clear = np.abs(result.x_adv.mean(axis=(1, 2, 3)) - brightest) > 1e-6
    np.testing.assert_array_equal(result.accepted[clear], accepted[clear])
    np.testing.assert_array_equal(result.success, result.accepted & (result.labels != y))
    clean = guarded.predict(x).argmax(axis=1)
    np.testing.assert_array_equal(
        result.initially_adversarial, (clean != y) & (x.mean(axis=(1, 2, 3)) < brightest)
    )
    assert np.isinf(result.l2[~result.accepted]).all()


@every_attack
def test_recipe_and_config_round_trip(row):
    attack = attacks.get(row[0], **row[1], seed=7)
    again = attacks.get({"name": attack.name, "config": attack.get_config()})
    assert type(again) is type(attack) and again.get_config() == attack.get_config()
    with pytest.raises(ValueError, match="has no model yet"):
        attack.generate(np.zeros((1, 8, 8, 1)))


@one_of_a_kind
def test_black_box_attacks_run_on_a_callable_with_an_exact_query_count(
    row, digits_model, answer, samples
):
    x, y = samples
    counted = []

    def service(batch):
        assert isinstance(batch, np.ndarray)
        counted.append(len(batch))
        return answer(batch)

    attack = attacks.get(row[0], **row[1])
    if attack.access == "gradient":
        with pytest.raises(TypeError, match="needs gradients"):
            attack.bind(service)
        return
    result = attack.bind(service).run(x, y)
    assert result.queries.sum() == sum(counted) == result.executed_queries
    compiled = attack.bind(digits_model).run(x, y)
    assert abs(int(compiled.success.sum()) - int(result.success.sum())) <= 1
    assert (
        abs(np.median(compiled.distance(attack.norm)) - np.median(result.distance(attack.norm)))
        < 0.05
    )


@one_of_a_kind
def test_a_query_budget_is_never_exceeded(row, digits_model, answer, samples):
    """Counted by the service itself, for each sample: they are told apart by a mark in a corner."""
    x, y = samples
    attack = attacks.get(row[0], **row[1])
    if attack.access not in ASKING:
        pytest.skip("asks nothing, or needs gradients")
    x, mask = x.copy(), np.ones((8, 8, 1))
    mask[0, 0] = 0
    x[:, 0, 0, 0] = np.linspace(0, 0.2, N)
    counted = np.zeros(N, int)

    def service(batch):
        mark = np.round(batch[:, 0, 0, 0] / 0.2 * (N - 1)).astype(int)
        np.add.at(counted, mark, 1)
        return answer(batch)

    options = {"mask": mask, **EAGER.get(row[0], {})}
    free = run(row, service, x, y, **options)
    np.testing.assert_array_equal(free.queries, counted)
    least = 3 if attack.needs_starts else 2  # a starting point for others has a label, too
    for budget in (least, 17, int(free.queries.max()) - 1):
        counted[:] = 0
        result = run(row, service, x, y, max_queries=budget, **options)
        assert counted.max() == budget
        np.testing.assert_array_equal(result.queries, counted)
        again = run(row, digits_model, x, y, max_queries=budget, **options)
        assert again.queries.max() <= budget
    with pytest.raises(ValueError, match=f"at least {least}"):
        run(row, service, x, y, max_queries=least - 1)


@one_of_a_kind
def test_a_failing_callable_loses_nothing(row, digits_model, answer, samples):
    x, y = samples
    attack = attacks.get(row[0], **{**row[1], **EAGER.get(row[0], {}), "batch_size": 8})
    if attack.access not in ASKING:
        pytest.skip("asks nothing, or needs gradients")
    # Another run takes as many queries; this one fails in the second of three batches.
    last = attack.bind(digits_model).run(x, y).queries.sum() // 2
    failures = {
        "raise": "The model raised OSError: connection lost",
        "nan": "scores that are not finite",
        "classes": r"scores of shape \(\d+, 10\) or .*Received: answers of shape \(\d+, 3\)",
        "sleep": "The model raised TimeoutError: no answer within 1 s",
    }
    for failure, message in failures.items():
        sent, over = [0], threading.Event()

        def service(batch, failure=failure, sent=sent, over=over):
            sent[0] += len(batch)
            scores = answer(batch)
            if sent[0] < last:
                return scores
            if failure == "raise":
                raise OSError("connection lost")
            if failure == "sleep":
                over.wait(60)
            return scores * np.nan if failure == "nan" else scores[:, :3]

        timeout = 1 if failure == "sleep" else None
        with pytest.raises(attacks.AttackInterrupted, match=message + ".*x_adv") as caught:
            attack.bind(Classifier(service, timeout=timeout)).run(x, y)
        over.set()
        error = caught.value
        assert error.queries == sent[0]
        assert 0 < error.success.sum() < N
        # Up to the rounding of a batch of another size, which a point on the boundary may feel.
        scores, own = answer(error.x_adv)[error.success], y[error.success][:, None]
        others = np.where(np.arange(10) == own, -np.inf, scores).max(axis=1)
        assert (others >= np.take_along_axis(scores, own, axis=1)[:, 0] - 1e-5).all()
        np.testing.assert_array_equal(error.x_adv[~error.success], x[~error.success])
