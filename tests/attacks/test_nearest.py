"""DDN, FMN, ALMA and sigma-zero: closed forms, the papers' first steps, beside FAB, C&W and EAD."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks, norms
from kerasrobust.attacks import nearest
from kerasrobust.engine.drivers import Machine
from kerasrobust.evaluation import evaluate

N = 32
INF = np.inf
DUAL = {1: INF, 2: 2, INF: 1}
FEW = {"max_iter": 200}


@pytest.fixture(scope="module")
def affine():
    """A linear model of three classes on 20 values, of which one is out of reach, and samples."""
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(20, 3)), rng.uniform(0.3, 0.7, (16, 20)).astype(np.float32)
    bias = np.array([0.3, 0.0, -9.0]) - 0.5 * kernel.sum(axis=0)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(3)])
    model.layers[-1].set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    scores = model.predict(x, verbose=0)
    return model, x, scores.argmax(axis=1), np.abs(scores[:, 0] - scores[:, 1]), kernel


CLOSED = [
    ("ddn", 2),
    ("fmn", INF),
    ("fmn", 2),
    ("fmn", 1),
    ("alma", 2),
    ("alma", 1),
]


def settings(name, norm):
    """What makes it an attack in that norm."""
    return {} if len(attacks.get(name).norms) == 1 else {"norm": norm}


@pytest.mark.parametrize(("name", "norm"), CLOSED)
def test_the_distance_to_the_hyperplane(name, norm, affine):
    """`|f(x)| / ||w||_q`, where the box leaves the way to it free."""
    model, x, y, gaps, kernel = affine
    normal = kernel[:, 0] - kernel[:, 1]
    exact = gaps / np.linalg.norm(normal, DUAL[norm])
    few = {} if name == "alma" else FEW  # its multiplier has to grow to the slope of the norm
    result = attacks.get(name, **settings(name, norm), **few).bind(model).run(x, y)
    assert result.success.all()
    free = exact < 0.3 if norm == 1 else np.ones(16, bool)
    assert free.sum() >= 8
    ratio = (result.distance(norm) / exact)[free]
    assert ratio.min() >= 1 - 1e-4 and ratio.max() <= 1.02


@pytest.mark.parametrize("name", ["fmn", "sigma_zero"])
def test_as_few_values_as_there_is_need_of(name, affine):
    """By falling effect, each to its edge of the box, until the hyperplane is crossed."""
    model, x, y, gaps, kernel = affine
    normal = np.where(y == 0, 1, -1)[:, None] * (kernel[:, 1] - kernel[:, 0])
    effect = np.abs(normal) * np.where(normal > 0, 1 - x, x)
    gained = np.cumsum(np.sort(effect, axis=1)[:, ::-1], axis=1)
    fewest = (gained < gaps[:, None]).sum(axis=1) + 1
    assert len(set(fewest)) > 1
    result = attacks.get(name, **settings(name, 0), **FEW).bind(model).run(x, y)
    assert result.success.all() and (result.l0 >= fewest).all()
    assert (result.l0 == fewest).mean() >= 0.9


def test_sigma_zero_spares_what_can_be_spared(digits_model, digits):
    """It ends early only where no value can be left out while the others go to their edges."""
    x, y = digits[0][:N], digits[1][:N]
    own, papers = (
        attacks.get("sigma_zero", max_iter=60, prune=share).bind(digits_model).run(x, y)
        for share in (0.5, 0.0)
    )
    assert papers.gradients.max() == 60
    walked = attacks.get("sigma_zero", max_iter=30, prune=0.0).bind(digits_model).run(x, y)
    assert (own.l0 <= walked.l0).all() and own.l0.sum() < walked.l0.sum()
    early = np.flatnonzero(own.success & (own.gradients < 60) & (own.l0 > 0))
    assert len(early) >= N / 2
    for i in early:
        point, sample = own.x_adv[i].ravel(), x[i].ravel()
        places = np.flatnonzero(point != sample)
        tries = np.repeat(
            np.where(point > sample, 1, np.where(point < sample, 0, sample))[None], len(places), 0
        ).astype(np.float32)
        tries[np.arange(len(places)), places] = sample[places]
        labels = digits_model.predict(tries.reshape(-1, *x.shape[1:]), verbose=0).argmax(axis=1)
        assert (labels == y[i]).all()


def test_projection_onto_few_entries():
    delta = tf.constant([[0.5, -2.0, 0.0, 2.0], [1.0, 1.0, 1.0, -1.0], [1.0, 2.0, 3.0, 4.0]])
    found = norms.project(delta, tf.constant([1.0, 2.7, 0.0]), 0)
    np.testing.assert_array_equal(
        found, [[0.0, -2.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    )
    np.testing.assert_array_equal(norms.project(delta, tf.fill([3], 9.0), 0), delta)


def test_a_step_of_ddn_is_the_papers(affine):
    """Two steps in NumPy: to the sphere `1 + gamma` times as large, and back from there."""
    model, x, y, _, kernel = affine
    weights, bias = model.get_weights()

    def direction(points):
        scores = points @ weights + bias
        scores[np.arange(16), y] = -INF
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        gradient = (share / share.sum(axis=1, keepdims=True) - np.eye(3)[y]) @ weights.T
        return gradient / np.linalg.norm(gradient, axis=1, keepdims=True)

    first = np.clip(x + 0.05 * 1.1 * direction(x), 0, 1)
    fooled = (first @ weights + bias).argmax(axis=1) != y
    second = first - x + (0.01 + 0.99 / 2) * direction(first)
    radius = 0.05 * 1.1 * np.where(fooled, 0.9, 1.1)[:, None]
    second = x + radius * second / np.linalg.norm(second, axis=1, keepdims=True)
    attack = attacks.get("ddn", gamma=0.1, init_eps=0.05, max_iter=2).bind(model)
    state = run_steps(attack, x, y)
    np.testing.assert_allclose(state["iterate"], second, atol=1e-5)
    np.testing.assert_array_equal(state["found"], fooled)


def run_steps(attack, x, y):
    """The state after all steps."""
    machine, seed = Machine(attack, attack.bound), tf.constant([0, 0])
    leaves = {"x": tf.constant(x), "y": tf.constant(y, tf.int32), "done": tf.zeros(len(x), tf.bool)}
    params = attack.params()
    state = machine.initialise(leaves, params, seed)
    for t in range(attack.max_steps()):
        state = attack.step(machine._view(seed), state, params, seed, tf.constant(t))
    return state


def test_a_zero_gradient_leads_somewhere(digits):
    """A step where the model is blind has the length of any other, and keeps to the mask."""
    mask = np.zeros((8, 8, 1), np.float32)
    mask[2:6] = 1
    x = tf.constant(digits[0][:2])
    state = {"x": x, "mask": tf.constant(np.stack([mask, mask]))}
    gradient = tf.concat([tf.zeros_like(x[:1]), tf.ones_like(x[:1]) * state["mask"][1:]], 0)
    moved = nearest.direction(state, gradient, tf.constant([0, 1]))
    np.testing.assert_allclose(norms.norm(moved, 2), 1.0, rtol=1e-5)
    moved = moved.numpy()
    assert not np.any(moved[:, mask == 0])
    np.testing.assert_allclose(moved[1], mask / np.sqrt(32), rtol=1e-5)


class Broken(keras.layers.Layer):
    """No numbers where the input is farther than 2 from the middle of the box, in L2."""

    def call(self, x):
        far = tf.norm(x - 0.5, axis=1, keepdims=True) > 2.0
        return tf.where(far, np.nan, x)


@pytest.mark.parametrize(("name", "norm"), [("ddn", 2), ("fmn", 0), ("fab", INF)])
def test_scores_that_are_no_numbers_are_no_adversarial_point(name, norm, affine):
    """The same points as without them, which lie nearer; none where there is nothing else."""
    model, x, y, _, _ = affine
    broken = keras.Sequential([keras.Input((20,)), Broken(), *model.layers])
    options = {**settings(name, norm), "max_iter": 100}
    found, whole = (attacks.get(name, **options).bind(m).run(x, y) for m in (broken, model))
    assert whole.success.all() and found.success.all()
    np.testing.assert_allclose(found.distance(norm), whole.distance(norm), rtol=0.02)


def test_a_report_says_where_scores_are_no_numbers(affine):
    """The label is that of the first class there, which no attack has brought about."""
    model, x, _, _, _ = affine
    sure = keras.Sequential([keras.Input((20,)), Broken(), keras.layers.Dense(3)])
    bias = np.array([0.0, 0.0, 99.0], np.float32)  # one class everywhere
    sure.layers[-1].set_weights([model.get_weights()[0], bias])
    options = {"attacks": "pgd:eps=1.0,max_iter=5", "probes": False, "keep_adversaries": True}
    report = evaluate(sure, x, np.full(16, 2), **options)
    found = report.samples.results["pgd"]
    count = int(np.isnan(found.confidence).sum())
    assert count and not found.success.any()
    (told,) = [one for one in report.findings if one.code == "non_finite_scores"]
    assert told.value == count / 16 and f"pgd ({count} samples)" in told.message


# Ours and what it is to be as near as, on the same passes.
SHORT = [
    ("ddn", 2, 200, "cwl2:max_iter=20"),
    ("alma", 1, 180, "ead:decision_rule=L1,max_iter=20"),
]
LONG = [
    ("ddn", 2, 1000, "cwl2"),
    ("ddn", 2, 1000, "fab:norm=2"),
    ("alma", 2, 1000, "cwl2"),
    ("alma", 1, 900, "ead:decision_rule=L1"),
    ("fmn", INF, 1000, "fab"),
    ("fmn", 2, 1000, "fab:norm=2"),
    ("fmn", 1, 900, "ead:decision_rule=L1"),
    ("fmn", 0, 1000, "cwl0"),
    ("sigma_zero", 0, 1000, "cwl0"),
]


@pytest.mark.parametrize(
    ("name", "norm", "passes", "other"),
    [*SHORT, *(pytest.param(*row, marks=pytest.mark.slow) for row in LONG)],
)
def test_as_near_as_our_best_at_equal_passes(name, norm, passes, other, digits_model, digits):
    x, y = digits[0][:N], digits[1][:N]
    own = attacks.get(name, **settings(name, norm), max_iter=passes).bind(digits_model).run(x, y)
    theirs = attacks.get(other).bind(digits_model).run(x, y)
    assert own.success.all()
    right = ~own.initially_adversarial
    # Sigma-zero ends where no value can be spared.
    least = 0.95 * passes if name == "sigma_zero" else passes
    assert (own.gradients[right] >= least).all() and own.gradients.max() <= passes
    # C&W's L0 attack takes as many as it needs.
    assert theirs.gradients[right].max() >= passes * (0.9 if norm else 0.5)
    assert np.median(own.distance(norm)[right]) <= 1.01 * np.median(theirs.distance(norm)[right])


def test_messages():
    with pytest.raises(ValueError, match="`prune` must be a number < 1. Received: prune=1.0"):
        attacks.get("sigma_zero", prune=1.0)
    for name in ("ddn", "fmn"):
        with pytest.raises(ValueError, match="`gamma` must be a number < 1. Received: gamma=1.0"):
            attacks.get(name, gamma=1.0)
    for name in ("ddn", "fmn", "alma", "sigma_zero", "cwl2"):  # one step never leaves the sample
        with pytest.raises(ValueError, match="`max_iter` must be an integer >= 2. Received"):
            attacks.get(name, max_iter=1)
    with pytest.raises(ValueError, match="`alpha` must be a number < 1. Received: alpha=1.0"):
        attacks.get("alma", alpha=1.0)
    with pytest.raises(ValueError, match="cannot aim at a class. Received: targeted=True"):
        attacks.get("sigma_zero", targeted=True)
    with pytest.raises(ValueError, match="`norm` must be one of 2, 1. Received: norm=0"):
        attacks.get("alma", norm=0)
    with pytest.raises(ValueError, match="`norm` must be one of inf, 2, 1, 0. Received: norm=3"):
        attacks.get("fmn", norm=3)
