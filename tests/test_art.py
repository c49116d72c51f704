"""The bridge to ART against TensorFlow's tape, ART's own TensorFlow classifier and closed forms."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks import evasion
from art.estimators.classification import TensorFlowV2Classifier
from art.exceptions import EstimatorError

from kerasrobust import art, attacks
from kerasrobust.engine.classifier import Classifier

N = 12
# Few steps of each attack that fool most of the digits.
ROWS = {
    "fgsm": {"eps": 0.4},
    "pgd": {"eps": 0.3, "eps_step": 0.05, "max_iter": 8, "num_random_init": 1},
    "cwl2": {"binary_search_steps": 3, "max_iter": 10, "initial_const": 1.0},
    "ead": {"binary_search_steps": 4, "max_iter": 10, "initial_const": 0.1},
    "bim": {"eps": 0.3, "eps_step": 0.05, "max_iter": 8},
    "mifgsm": {"eps": 0.3, "eps_step": None, "max_iter": 8},
    "apgd": {"eps": 0.3, "max_iter": 8, "nb_random_init": 1},
    "vat": {"eps": 3.0, "max_iter": 2},
    "jsma": {"theta": 1.0, "gamma": 0.5},
    "deepfool": {"max_iter": 10},
    "uap": {"eps": 0.6, "max_iter": 2, "attacker": "fgsm", "attacker_params": {"eps": 0.3}},
    "cwl0": {"binary_search_steps": 2, "max_iter": 10, "initial_const": 10.0},
    "cwlinf": {"max_iter": 20, "initial_const": 5.0, "learning_rate": 0.1},
    "hsja": {"max_iter": 2, "max_eval": 30, "init_eval": 30},
    "zoo": {
        "max_iter": 20,
        "learning_rate": 0.2,
        "initial_const": 10.0,
        "nb_parallel": 32,
        "use_resize": False,
    },
    "boundary": {"max_iter": 3},
    "signopt": {"max_iter": 1, "k": 20, "num_trial": 20},
    "square": {"eps": 0.4, "max_iter": 50},
    "simba": {"attack": "px", "epsilon": 0.5, "max_iter": 200},
}
# Draw random numbers with these settings.
RANDOM = ("pgd", "apgd", "vat", "uap", "hsja", "zoo", "boundary", "signopt", "square", "simba")
AIMED = [name for name in ROWS if attacks.ATTACKS.find("art:" + name).can_target]
MASKLESS = [name for name in ROWS if not attacks.ATTACKS.find("art:" + name).takes_mask]
each = pytest.mark.parametrize("name", ROWS)

W = np.array([[1.0, -0.5, 0.2], [-0.4, 0.8, 0.1], [0.3, 0.2, -0.9], [0.0, -0.6, 0.7]], np.float32)
B = np.array([0.1, -0.2, 0.05], np.float32)


@pytest.fixture(scope="module")
def estimator(digits_model):
    return art.classifier(digits_model)


@pytest.fixture(scope="module")
def logits_model(digits_model):
    """The same network with its last layer's softmax left out, from its configuration."""
    model = keras.Sequential.from_config(digits_model.get_config())
    model.layers[-1].activation = keras.activations.linear
    model.set_weights(digits_model.get_weights())
    return model


@pytest.fixture(scope="module")
def few(digits):
    return digits[0][:N], digits[1][:N]


@pytest.fixture
def linear():
    """Softmax regression from 4 inputs to 3 classes, with weights W and B."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.set_weights([W, B])
    return model


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(0.3, 0.7, (6, 4)).astype(np.float32)


def logits_of(points):
    return points.astype(np.float64) @ W + B


# ---- the estimator --------------------------------------------------------------------------


def test_predictions_are_the_logits(estimator, logits_model, few):
    x, _ = few
    expected = logits_model(x, training=False).numpy()
    np.testing.assert_allclose(estimator.predict(x), expected, atol=1e-5)
    np.testing.assert_allclose(estimator.predict(x, batch_size=5), expected, atol=1e-5)
    assert estimator.predict(x.astype(np.float64)).dtype == np.float32
    assert np.abs(expected.sum(axis=1) - 1).max() > 1  # logits, not probabilities


def test_loss_gradient_equals_the_tape_and_arts_own_classifier(estimator, logits_model, few):
    x, y = few
    variable = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits_model(variable))
    expected = tape.gradient(loss, variable).numpy()
    theirs = TensorFlowV2Classifier(
        logits_model,
        nb_classes=10,
        input_shape=x.shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum"),
    ).loss_gradient(x, np.eye(10, dtype=np.float32)[y])
    ours = estimator.loss_gradient(x, y)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(estimator.loss_gradient(x, np.eye(10)[y]), ours, atol=1e-7)


def test_a_samples_gradient_does_not_depend_on_the_batch(estimator, few):
    x, y = few
    alone = np.concatenate([estimator.loss_gradient(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(estimator.loss_gradient(x, y)[:3], alone, atol=1e-6)


def test_class_gradients_equal_the_jacobian(estimator, logits_model, few):
    x, y = few
    variable = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        logits = logits_model(variable)
    jacobian = tape.batch_jacobian(logits, variable).numpy()
    np.testing.assert_allclose(estimator.class_gradient(x), jacobian, atol=1e-5)
    np.testing.assert_allclose(estimator.class_gradient(x, 3), jacobian[:, 3:4], atol=1e-5)
    own = jacobian[np.arange(N), y][:, None]
    np.testing.assert_allclose(estimator.class_gradient(x, y), own, atol=1e-5)
    np.testing.assert_allclose(estimator.class_gradient(x, y.tolist()), own, atol=1e-5)


def test_loss_and_its_reductions(linear, points):
    y = np.array([0, 1, 2, 0, 1, 2])
    z = logits_of(points)
    expected = np.log(np.exp(z).sum(axis=1)) - z[np.arange(6), y]
    estimator = art.classifier(linear)
    np.testing.assert_allclose(estimator.compute_loss(points, y), expected, rtol=1e-5)
    assert estimator.compute_loss(points, y, "mean") == pytest.approx(expected.mean(), rel=1e-5)
    assert estimator.compute_loss(points, y, "sum") == pytest.approx(expected.sum(), rel=1e-5)
    with pytest.raises(ValueError, match="Received: reduction='max'"):
        estimator.compute_loss(points, y, "max")


def test_passes_are_counted_and_nothing_retraces(digits_model, few):
    x, y = few
    model = Classifier(digits_model)
    estimator = art.classifier(model)
    estimator.predict(x, batch_size=5)
    estimator.predict(x[:3])
    estimator.class_gradient(x[:2])
    estimator.loss_gradient(x, y)
    assert (estimator.queries, estimator.gradients) == (N + 3, 2 * 10 + N)
    assert (estimator.executed_queries, estimator.executed_gradients) == (N + 3, 2 * 10 + N)
    traces = {key: n for key, n in model.traces.items() if key.startswith("art:")}
    assert traces == {"art:logits": 1, "art:class_gradient": 1, "art:loss_gradient": 1}


def test_xla_pads_to_powers_of_two(digits_model, estimator, few):
    x, y = few
    compiled = art.classifier(Classifier(digits_model, jit_compile=True))
    np.testing.assert_allclose(compiled.predict(x[:5]), estimator.predict(x[:5]), atol=1e-4)
    assert (compiled.queries, compiled.executed_queries) == (5, 8)


def test_what_art_needs_to_know(estimator, digits_model, few):
    assert estimator.input_shape == (8, 8, 1)
    assert estimator.nb_classes == 10
    assert tuple(estimator.clip_values) == (0.0, 1.0)
    assert estimator.channels_first is False
    assert tuple(art.classifier(digits_model, (-1, 1)).clip_values) == (-1.0, 1.0)
    hidden = estimator.get_activations(few[0], -2)
    assert hidden.shape == (N, 32)
    kernel, bias = digits_model.get_weights()[-2:]
    np.testing.assert_allclose(hidden @ kernel + bias, estimator.predict(few[0]), atol=1e-4)
    with pytest.raises(NotImplementedError, match="call `fit` on the keras.Model"):
        estimator.fit(few[0], few[1])


def test_it_goes_back_into_our_classifier(estimator, digits_model, few):
    again = Classifier(estimator)
    assert again.model is digits_model
    np.testing.assert_array_equal(again.predict(few[0]), estimator.predict(few[0], batch_size=N))


def test_a_callable_has_no_gradient_and_serves_arts_black_box_attacks(digits_model, few):
    x, y = few
    model = Classifier(
        lambda z: digits_model(z, training=False).numpy(), nb_classes=10, input_shape=(8, 8, 1)
    )
    estimator = art.classifier(model)
    assert not hasattr(estimator, "loss_gradient")
    with pytest.raises(EstimatorError):
        evasion.ProjectedGradientDescent(estimator)
    before = estimator.queries
    x_adv = evasion.SquareAttack(estimator, eps=0.4, max_iter=20, verbose=False).generate(x, y)
    assert estimator.queries > before
    assert (estimator.predict(x_adv).argmax(axis=1) != y).sum() > N // 2


def test_a_model_of_unknown_input_shape_is_refused():
    with pytest.raises(ValueError, match=r"Classifier\(model, input_shape=...\)"):
        art.classifier(Classifier(lambda z: np.eye(3)[np.zeros(len(z), int)], nb_classes=3))


# ---- the attacks ----------------------------------------------------------------------------


@each
def test_the_native_configuration_runs_art(name, digits_model, few):
    x, y = few
    native = attacks.get(name, seed=3, **ROWS[name])
    recipe = attacks.get("art:" + name, **native.get_config())
    assert recipe.get_config() == native.get_config()
    assert attacks.get({"name": recipe.name, "config": recipe.get_config()}).seed == 3
    result = recipe.bind(digits_model).run(x, y)
    assert (result.name, result.x_adv.shape) == ("art:" + name, x.shape)
    assert result.success.sum() > N // 2
    labels = digits_model.predict(result.x_adv, verbose=0).argmax(axis=1)
    np.testing.assert_array_equal(result.success, labels != y)
    assert result.x_adv.min() >= 0 and result.x_adv.max() <= 1
    if native.kind == "budget":
        assert result.distance(native.norm)[result.success].max() <= native.eps + 1e-5
    assert np.isinf(result.l2[~result.success]).all()
    if attacks.get(name).kind == "minimal":
        np.testing.assert_array_equal(result.x_adv[~result.success], x[~result.success])


@pytest.mark.slow
@each
def test_same_seed_same_result_and_numpys_generator_is_put_back(name, digits_model, few):
    x, y = few
    attack = attacks.get("art:" + name, **ROWS[name]).bind(digits_model)
    np.random.seed(7)
    expected = np.random.uniform(size=3)
    np.random.seed(7)
    first = attack.generate(x, y)
    np.testing.assert_array_equal(np.random.uniform(size=3), expected)
    np.testing.assert_array_equal(attack.generate(x, y), first)
    if name in RANDOM:
        other = attacks.get(attack, seed=1).bind(digits_model).generate(x, y)
        assert np.abs(other - first).max() > 1e-3


@pytest.mark.parametrize("name", AIMED)
def test_targets_are_reached(name, digits_model, few):
    x, y = few
    rows = {**ROWS[name], "targeted": True}
    if name in ("hsja", "boundary"):
        rows["init_size"] = 500  # a uniform image of a given class is rare
    target = digits_model.predict(x, verbose=0).argsort(axis=1)[:, -2]
    result = attacks.get("art:" + name, **rows).bind(digits_model).run(x, target)
    labels = digits_model.predict(result.x_adv, verbose=0).argmax(axis=1)
    np.testing.assert_array_equal(result.success, labels == target)
    if name not in ("hsja", "boundary"):
        assert result.success.sum() >= N // 3
    with pytest.raises(ValueError, match="needs the target classes"):
        attacks.get("art:" + name, **rows).bind(digits_model).run(x)


def test_a_specification_names_an_attack_of_art():
    attack = attacks.get("art:pgd:eps=0.1,max_iter=20")
    assert isinstance(attack, art.ArtProjectedGradientDescent)
    assert (attack.eps, attack.max_iter) == (0.1, 20)
    assert set(art.ATTACKS) == set(ROWS)
    with pytest.raises(ValueError, match="Did you mean 'art:pgd'"):
        attacks.get("art:pdg")
    with pytest.raises(TypeError, match="Its arguments are: .*eps_step"):
        attacks.get("art:pgd", epsilon=0.1)


def test_it_computes_what_art_computes(digits_model, estimator, few):
    x, y = few
    settings = {"eps": 0.2, "eps_step": 0.05, "max_iter": 4}
    direct = evasion.ProjectedGradientDescent(estimator, **settings, verbose=False)
    expected = direct.generate(x, y)
    result = attacks.get("art:pgd", **settings).bind(digits_model).run(x, y)
    np.testing.assert_allclose(result.x_adv[result.success], expected[result.success], atol=1e-6)
    np.testing.assert_array_equal(result.gradients, 4)
    assert result.executed_gradients == 4 * N


def test_counts_add_up_to_the_passes_made(digits_model, few):
    x, y = few
    calls = []

    def model(batch):
        calls.append(len(batch))
        return digits_model(batch, training=False).numpy()

    result = (
        attacks.get("art:hsja", **ROWS["hsja"]).bind(Classifier(model, nb_classes=10)).run(x, y)
    )
    assert result.queries.sum() == result.executed_queries == sum(calls)
    assert result.success.all() and not result.gradients.any()


def test_eps_per_sample(digits_model, few):
    x, y = few
    eps = np.linspace(0.05, 0.4, N).astype(np.float32)
    result = attacks.get("art:fgsm", eps=eps).bind(digits_model).run(x, y)
    good = result.success & ~result.initially_adversarial
    np.testing.assert_allclose(result.linf[good], eps[good], atol=1e-6)
    assert good.sum() > 2


@pytest.mark.parametrize("name", ["fgsm", "pgd", "bim", "mifgsm", "hsja"])
def test_a_mask_is_kept(name, digits_model, few):
    x, y = few
    mask = np.zeros((8, 8, 1))
    mask[:6] = 1
    result = attacks.get("art:" + name, **ROWS[name]).bind(digits_model).run(x, y, mask=mask)
    moved = np.abs(result.x_adv - x)
    assert moved[:, :6].max() > 0.01
    assert moved[:, 6:].max() <= 1e-7


@pytest.mark.parametrize("name", MASKLESS)
def test_a_mask_that_art_would_ignore_is_refused(name, digits_model, few):
    with pytest.raises(ValueError, match="takes no mask. Received: mask"):
        attacks.get("art:" + name, **ROWS[name]).bind(digits_model).run(
            *few, mask=np.ones((8, 8, 1))
        )


@pytest.mark.parametrize("name", ["ead", "cwlinf", "signopt", "deepfool", "uap"])
def test_bounds_that_art_would_break_are_refused(name, digits_model):
    attack = attacks.get("art:" + name, **({"eps": 100} if name == "uap" else {}))
    assert name != "uap" or attack.inner.name == "deepfool"
    with pytest.raises(ValueError, match=r"Received: clip_values=\(0.0, 255.0\)"):
        attack.bind(Classifier(digits_model, (0, 255)))


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("apgd", {"loss_type": "difference_logits_ratio"}, "loss_type='difference_logits_ratio'"),
        ("apgd", {"nb_target_classes": 3}, "nb_target_classes=3"),
        ("cwl2", {"restarts": 2}, "no restarts and no mean gradients. Received: restarts=2, "),
        ("cwl2", {"restart_radius": 2.0}, "Received: .*restart_radius=2.0"),
        ("cwl2", {"gradient_samples": 10}, "Received: .*gradient_samples=10"),
        ("cwl2", {"gradient_radius": 0.1}, "Received: .*gradient_radius=0.1"),
        ("uap", {"attacker": "square"}, "attacker='square'"),
        ("uap", {"attacker": "cwl2", "attacker_params": {"restarts": 1}}, "restarts=1"),
        ("zoo", {"solver": "newton"}, "solver='newton'"),
        ("square", {"p_init": 0.95}, "p_init=0.95"),
        ("square", {"norm": 2}, "ten pixels"),
        ("simba", {"stride": 3}, "freq_dim=4, stride=3"),
    ],
)
def test_settings_that_art_lacks_are_refused(name, settings, message, digits_model):
    with pytest.raises(ValueError, match=message):
        attacks.get("art:" + name, **settings).bind(digits_model)


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(AIMED)))
def test_targets_that_art_does_not_aim_at_are_refused(name):
    with pytest.raises(ValueError, match="cannot aim at a class"):
        attacks.get("art:" + name, targeted=True)


def test_images_are_asked_for(linear):
    for name in ("square", "simba", "cwl0"):
        with pytest.raises(ValueError, match=r"Received: .* \(4,\)"):
            attacks.get("art:" + name).bind(linear)
    two = Classifier(lambda z: np.eye(2)[np.zeros(len(z), int)], nb_classes=2)
    with pytest.raises(ValueError, match="more than two classes"):
        attacks.get("art:signopt").bind(two)


def test_a_universal_perturbation_is_one_whatever_the_batch(digits_model, few):
    x, y = few
    attack = attacks.get("art:uap", **ROWS["uap"], batch_size=5).bind(digits_model)
    result = attack.run(x, y)
    expected = np.clip(x + attack.noise, 0, 1)
    np.testing.assert_allclose(result.x_adv[result.success], expected[result.success], atol=1e-6)
    labels = digits_model.predict(expected, verbose=0).argmax(axis=1)
    assert attack.fooling_rate == pytest.approx(np.mean(labels != y))
    assert attack.converged == (attack.fooling_rate >= 0.8)


@pytest.mark.parametrize("name", ["zoo", "boundary", "signopt", "square", "simba"])
def test_black_box_attacks_of_art_count_what_a_callable_is_asked(name, digits_model, few):
    x, y = few[0][:3], few[1][:3]
    asked = []

    def model(batch):
        asked.append(len(batch))
        return digits_model(batch, training=False).numpy()

    remote = Classifier(model, nb_classes=10, input_shape=(8, 8, 1))
    result = attacks.get("art:" + name, **ROWS[name]).bind(remote).run(x, y)
    assert result.queries.sum() == result.executed_queries == sum(asked)
    assert result.success.any() and not result.gradients.any()


def test_scores_that_art_wants_as_probabilities(digits_model, few):
    estimator = attacks.get("art:simba").estimator(Classifier.of(digits_model), (8, 8, 1))
    expected = digits_model.predict(few[0], verbose=0)
    np.testing.assert_allclose(estimator.predict(few[0]), expected, atol=1e-5)


def test_gradient_attacks_refuse_a_callable():
    with pytest.raises(TypeError, match="needs gradients"):
        attacks.get("art:pgd").bind(lambda z: np.zeros((len(z), 3)))


def test_art_is_not_part_of_a_graph(digits_model, few):
    attack = attacks.get("art:pgd").bind(digits_model)
    with pytest.raises(TypeError, match="use 'pgd'. Received: attack='art:pgd'"):
        attack.perturb(*map(tf.constant, few), seed=tf.constant([0, 0]))


def test_arts_endless_search_is_given_up():
    """A model that changes its mind: no step of ART's is ever adversarial again."""
    asked = []

    def model(batch):
        asked.append(len(batch))
        return np.eye(2)[np.full(len(batch), int(3 <= len(asked) <= 15))]

    settings = {"max_iter": 1, "max_eval": 10, "init_eval": 10, "init_size": 5}
    attack = attacks.get("art:hsja", **settings)
    bound = attack.bind(Classifier(model, nb_classes=2))
    result = bound.run(np.full((1, 4), 0.5, np.float32), np.array([0]))
    assert result.gave_up.all() and not result.success.any()
    assert attack.limit() <= sum(asked) <= attack.limit() + 20


def test_a_failing_callable_leaves_what_was_found(digits_model, few):
    x, y = few
    calls = []

    def model(batch):
        calls.append(len(batch))
        if len(calls) > 250:
            raise OSError("connection lost")
        return digits_model(batch, training=False).numpy()

    attack = attacks.get("art:hsja", **ROWS["hsja"]).bind(Classifier(model, nb_classes=10))
    with pytest.raises(attacks.AttackInterrupted, match="connection lost") as caught:
        attack.run(x, y)
    assert 0 < caught.value.success.sum() < N
    labels = digits_model.predict(caught.value.x_adv, verbose=0).argmax(axis=1)
    assert (labels != y)[caught.value.success].all()
    assert caught.value.queries == sum(calls)


# ---- the metrics ----------------------------------------------------------------------------


# All slopes of a linear model are equal, which SciPy's fit remarks on.
@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
@pytest.mark.parametrize("norm, dual", [(1, np.inf), (2, 2), (np.inf, 1)])
def test_clever_of_a_linear_model_is_margin_over_slope(norm, dual, linear, points):
    z = logits_of(points)
    best = z.argmax(axis=1)
    expected = np.full((6, 3), np.inf)
    for i, j in np.ndindex(6, 3):
        if j != best[i]:
            slope = np.linalg.norm(W[:, best[i]] - W[:, j], ord=dual)
            expected[i, j] = (z[i, best[i]] - z[i, j]) / slope
    scores = art.clever(linear, points, norm=norm)
    np.testing.assert_allclose(scores, expected.min(axis=1), rtol=1e-3)
    worst = np.where(np.isinf(expected), -1, expected).argmax(axis=1)
    scores = art.clever(linear, points, worst, targeted=True, norm=norm)
    np.testing.assert_allclose(
        scores, expected.max(axis=1, where=expected < np.inf, initial=0), 1e-3
    )
    capped = art.clever(linear, points, radius=1e-3, norm=norm)
    np.testing.assert_allclose(capped, 1e-3, rtol=1e-6)


def test_clever_is_repeatable_and_explains_its_arguments(digits_model, few, linear, points):
    first, again, other = (art.clever(digits_model, few[0][:1], seed=s) for s in (0, 0, 1))
    assert first == again != other
    with pytest.raises(ValueError, match="targeted=True, y=None"):
        art.clever(linear, points, targeted=True)
    with pytest.raises(ValueError, match="targeted=False, y=given"):
        art.clever(linear, points, np.zeros(6, int))
    predicted = logits_of(points).argmax(axis=1)
    with pytest.raises(ValueError, match="must not be the predicted class"):
        art.clever(linear, points, predicted, targeted=True)
    with pytest.raises(TypeError, match="This metric needs gradients"):
        art.clever(lambda z: np.zeros((len(z), 3)), points)


def test_empirical_robustness_of_a_binary_linear_model():
    """The smallest multiple of the step that crosses the plane, over the size of the sample."""
    weights = np.array([[-1.0, 1.0], [0.5, -0.5]], np.float32)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.set_weights([weights, np.zeros(2, np.float32)])
    x = np.array([[0.8, 0.33], [0.2, 0.91]], np.float32)
    slope = weights[:, 0] - weights[:, 1]
    needed = np.abs(x @ slope) / np.abs(slope).sum()
    steps = np.ceil(needed / 0.02) * 0.02
    ours = art.empirical_robustness(model, x, eps_step=0.02)
    assert ours == pytest.approx(np.mean(steps / np.abs(x).max(axis=1)), rel=1e-4)
    assert art.empirical_robustness(model, x, eps=0.01, eps_step=0.01) == 0
    with pytest.raises(ValueError, match="Received: eps_step=0"):
        art.empirical_robustness(model, x, eps_step=0)


def test_loss_sensitivity_of_softmax_regression(linear, points):
    y = np.array([0, 1, 2, 0, 1, 2])
    p = np.exp(logits_of(points))
    p /= p.sum(axis=1, keepdims=True)
    expected = np.linalg.norm((p - np.eye(3)[y]) @ W.T, axis=1).mean()
    assert art.loss_sensitivity(linear, points, y) == pytest.approx(expected, rel=1e-5)
    assert art.loss_sensitivity(linear, points, np.eye(3)[y]) == pytest.approx(expected, rel=1e-5)
