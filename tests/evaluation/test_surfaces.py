"""What models say on lines and planes, against closed forms on linear models and Keras's losses."""

import math

import keras
import numpy as np
import pytest

from kerasrobust.attacks import FastGradientMethod
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import surfaces

# Two classes: the margin of class 1 is `W x + B`.
W, B = np.array([0.8, -0.5, 0.3, -1.2]), 0.1
X = np.array([[0.7, 0.4, 0.5, 0.2], [0.5, 0.3, 0.6, 0.1]], np.float32)
Y = np.array([1, 1])


def linear(weights, bias=0.0, softmax=True):
    """The margins of the other classes than the first, whose logit is 0: `[features]` for two."""
    kernel = np.reshape(np.asarray(weights, np.float32).T, (-1, np.size(bias)))
    model = keras.Sequential(
        [
            keras.Input((len(kernel),)),
            keras.layers.Dense(np.size(bias) + 1, activation="softmax" if softmax else None),
        ]
    )
    zero = np.zeros((len(kernel), 1), np.float32)
    biases = np.concatenate([[0.0], np.atleast_1d(bias)])
    model.layers[0].set_weights([np.concatenate([zero, kernel], axis=1), biases])
    return model


@pytest.fixture(scope="module")
def model():
    model = linear(W, B)
    held = Classifier.of(model)  # compiled functions are shared by all that follows
    yield model
    del held


def loss(margin, y=1):
    """The cross-entropy of two classes."""
    return np.log1p(np.exp(-margin if y == 1 else margin))


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_a_linear_model_is_a_half_plane_at_its_margin(model, norm):
    attack = "fgsm" if norm != 1 else "pgd:max_iter=1,eps_step=0.2"
    (found,) = surfaces.planes(
        {"linear": model}, X, Y, eps=0.2, norm=norm, attack=attack, clip=False, points=21, seed=3
    ).values()
    direction = surfaces.adversarial(model, X, Y, attack, eps=0.2, norm=norm).vectors
    across, up = found.axes
    margin = X @ W + B
    # Down the gradient: the largest change of the margin at length 1 is the dual norm.
    dual = {1: np.abs(W).max(), 2: np.linalg.norm(W), math.inf: np.abs(W).sum()}[norm]
    np.testing.assert_allclose(direction @ W, -dual, rtol=1e-5)
    second = surfaces.orthogonal(direction, None, norm, seed=3)
    expected = (
        margin[:, None, None]
        - dual * across[None, :, None]
        + (second @ W)[:, None, None] * up[None, None]
    )
    np.testing.assert_allclose(found.losses, loss(expected), rtol=1e-4)
    clear = np.abs(expected) > 1e-4
    assert (found.labels == (expected > 0))[clear].all()
    certain = np.maximum(1 / (1 + np.exp(-expected)), 1 / (1 + np.exp(expected)))
    np.testing.assert_allclose(found.confidence, certain, rtol=1e-4)
    moves = across[:, None, None] * direction[0] + up[None, :, None] * second[0]
    np.testing.assert_allclose(found.sizes[0], np.linalg.norm(moves, norm, axis=-1), atol=1e-5)
    if norm == 2:  # orthogonal to the gradient nothing changes
        fooled = (found.labels != 1).any(axis=2)
        assert (fooled == (across > margin[:, None] / dual)).all()
        assert (found.labels[:, :, :1] == found.labels).all()


def test_points_stay_within_the_bounds(model):
    directions = [np.array([1.0, -1.0, 1.0, 1.0]), np.array([-1.0, -1.0, 1.0, 0.0])]
    axes = [np.linspace(-1, 1, 5), np.linspace(0, 2, 4)]
    found = surfaces.explore(model, X, Y, directions, axes, batch_size=7)
    for i, a, b in np.ndindex(2, 5, 4):
        point = X[i] + axes[0][a] * directions[0] + axes[1][b] * directions[1]
        point = np.clip(point, 0, 1)
        assert found.losses[i, a, b] == pytest.approx(loss(point @ W + B), rel=1e-4)
        if abs(point @ W + B) > 1e-6:
            assert found.labels[i, a, b] == (point @ W + B > 0)
        assert found.sizes[i, a, b] == pytest.approx(np.abs(point - X[i]).max(), abs=1e-6)
    assert found.queries == 40 and found.norm == math.inf
    whole = surfaces.explore(model, X, Y, directions, axes)
    np.testing.assert_allclose(whole.losses, found.losses, rtol=1e-6)
    np.testing.assert_array_equal(whole.labels, found.labels)
    part = found.take(1)
    assert part.losses.shape == (1, 5, 4) and part.y.tolist() == [1]
    np.testing.assert_array_equal(part.losses[0], found.losses[1])


def test_along_fgsm_lie_the_points_of_fgsm_and_keras_losses(digits_model, digits):
    x, y = (part[:12] for part in digits)
    (found,) = surfaces.lines(digits_model, x, y, eps=0.1, across=(0, 0.2), points=3).values()
    for place, eps in ((0, None), (1, 0.1), (2, 0.2)):
        points = x if eps is None else FastGradientMethod(digits_model, eps=eps).generate(x, y)
        scores = digits_model(points)
        expected = keras.losses.sparse_categorical_crossentropy(y, scores).numpy()
        # Keras leaves no probability below 1e-7.
        np.testing.assert_allclose(found.losses[:, place], expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(found.labels[:, place], scores.numpy().argmax(axis=1))
    assert found.eps == 0.1 and found.names == ("fgsm",)
    # A forward pass over each point; FGSM's backward passes, and its forward ones if it counts any.
    assert found.gradients == 12 and found.queries >= 36


def test_the_direction_of_a_source_beside_the_models_own(model):
    """GEA, Figure 5: x + e1 sign(grad L1) + e2 sign(grad L2)."""
    source, x = linear(np.array([1.0, 1.0, -1.0, -1.0]), -0.1), np.full((1, 4), 0.5, np.float32)
    (found,) = surfaces.planes(
        model, x, [0], eps=0.1, source=source, across=(-0.2, 0.2), up=(-0.1, 0.4), points=6
    ).values()
    across, up = (axis[:, None] for axis in found.axes)
    # The label 0 is left up the margin.
    first, second = across * np.array([1, 1, -1, -1]), up * np.sign(W)
    points = np.clip(x[0] + first[:, None] + second[None], 0, 1)
    np.testing.assert_allclose(found.losses[0], loss(points @ W + B, y=0), rtol=1e-4)
    assert found.names == ("fgsm of the source", "fgsm of the model") and found.gradients == 2


def test_towards_another_class():
    """Three classes: the second direction is the part of the other class's that is orthogonal."""
    kernel = np.array([[1.0, 0.0, -0.5, 0.2], [0.1, 1.0, 0.3, -0.4]])
    model = linear(kernel, [0.2, 0.1])
    x = np.array([[0.1, 0.1, 0.6, 0.5]], np.float32)
    kind = {"norm": 2, "second": "class", "clip": False}
    (found,) = surfaces.planes(model, x, [2], eps=0.3, up=(-1, 1), **kind).values()
    assert found.names == ("fgsm", "another class, orthogonal")
    assert set(found.labels.ravel()) == {0, 1, 2}
    with pytest.raises(ValueError, match="Received: second='class'"):
        surfaces.planes(linear(W, B), X, Y, eps=0.3, second="class")


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("shape", [(5, 2), (3, 4, 4, 3)])
def test_orthogonal_directions(norm, shape):
    draw = np.random.default_rng(0)
    first = np.sign(draw.normal(size=shape)).astype(np.float32)
    for second in (None, draw.normal(size=shape)):
        found = surfaces.orthogonal(first, second, norm).reshape(shape[0], -1)
        flat = first.reshape(found.shape)
        lengths = np.linalg.norm(found, norm, axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
        np.testing.assert_allclose((found * flat).sum(axis=1), 0, atol=1e-4)
        if second is not None:
            assert ((found * second.reshape(found.shape)).sum(axis=1) > 0).all()
    with pytest.raises(ValueError, match="parallel, for all"):
        surfaces.orthogonal(first, -2 * first, norm)
    mixed = draw.normal(size=shape)
    mixed[0] = first[0]
    found = surfaces.orthogonal(first, mixed, norm)
    assert not found[0].any() and np.isfinite(found).all()


def test_callables_detectors_and_votes(model):
    """A service with scores, one with labels, a model that rejects, one that votes."""
    directions, axes = [-np.sign(W)], [np.linspace(0, 0.5, 5)]
    plain = surfaces.explore(model, X, Y, directions, axes)
    sent = []

    def service(x):
        sent.append(len(x))
        return model(x).numpy()

    scores = surfaces.explore(Classifier(service), X, Y, directions, axes, batch_size=4)
    np.testing.assert_allclose(scores.losses, plain.losses, rtol=1e-4)
    assert sum(sent) == scores.queries == 10 and max(sent) == 4
    labels = Classifier(lambda x: model(x).numpy().argmax(axis=1), nb_classes=2)
    told = surfaces.explore(labels, X, Y, directions, axes)
    assert np.isnan(told.losses).all() and (told.labels == plain.labels).all()
    low = Classifier(model, detector=lambda x: x[:, 0] > 0.4)
    rejected = surfaces.explore(low, X, Y, directions, axes)
    points = np.clip(X[:, None] - np.linspace(0, 0.5, 5)[:, None] * np.sign(W), 0, 1)
    expected = np.where(points[..., 0] > 0.4, plain.labels, -1)
    np.testing.assert_array_equal(rejected.labels, expected)
    assert (expected == -1).any() and (expected != -1).any()
    voted = surfaces.explore(Classifier(model, votes=3), X, Y, directions, axes)
    np.testing.assert_allclose(voted.losses, plain.losses, rtol=1e-6)
    assert voted.queries == 3 * plain.queries


def test_a_map_of_two_inputs():
    weights, bias = np.array([2.0, -1.0]), -0.3
    (found,) = surfaces.maps({"linear": linear(weights, bias)}, points=11).values()
    first, second = np.meshgrid(*found.axes, indexing="ij")
    margin = weights[0] * first + weights[1] * second + bias
    assert found.axes[0][[0, -1]].tolist() == [0, 1] and found.labels.shape == (1, 11, 11)
    clear = np.abs(margin) > 1e-5
    assert (found.labels[0] == (margin > 0))[clear].all()
    probability = 1 / (1 + np.exp(-np.abs(margin)))
    np.testing.assert_allclose(found.confidence[0], probability, rtol=1e-5)
    with pytest.raises(ValueError, match="two inputs"):
        surfaces.maps(linear(W, B))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "eps=0.0"),
        ({"second": "up"}, "second='up'"),
        ({"second": "own"}, "second='own', source=None"),
        ({"across": (1, 0)}, r"across=\(1, 0\)"),
        ({"points": 1}, "points=1"),
        ({"norm": 0}, "norm=0"),
        ({"attack": "areb"}, "one attack"),
    ],
)
def test_bad_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=f"Received.*{message}|{message}.*Received"):
        surfaces.planes(model, X, Y, **{"eps": 0.1, **arguments})


def test_bad_directions_and_models(model):
    axis = [0.0, 0.1]
    for directions, axes, message in (
        ([W], [axis, axis], "1 directions and 2 axes"),
        ([], [], "0 directions"),
        ([W[:2]], [axis], r"array of shape \(2,\)"),
        ([W * np.nan], [axis], "must be finite"),
        ([W], [[0.1, 0.0]], "increasing"),
    ):
        with pytest.raises(ValueError, match=message):
            surfaces.explore(model, X, Y, directions, axes)
    with pytest.raises(ValueError, match="at least one model"):
        surfaces.lines({}, X, Y, eps=0.1)
    with pytest.raises(ValueError, match="'fgsm' leaves all 2 samples as they are"):
        surfaces.lines(linear(0 * W, B), X, Y, eps=0.1)
    with pytest.raises(TypeError, match="needs gradients"):
        surfaces.lines(Classifier(lambda x: model(x).numpy()), X, Y, eps=0.1)
