"""CLEVER, loss sensitivity, psi and the others that ask the model: closed forms, SciPy, ART."""

import importlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, stats
from scipy.spatial import distance

import kerasrobust
from kerasrobust import metrics
from kerasrobust.engine.classifier import Classifier
from kerasrobust.metrics import extreme_value
from kerasrobust.metrics.clever import Clever, CleverL2

clever_module = importlib.import_module("kerasrobust.metrics.clever")
W = np.array([[1.0, -0.5, 0.2], [-0.4, 0.8, 0.1], [0.3, 0.2, -0.9], [0.0, -0.6, 0.7]], np.float32)
B = np.array([0.1, -0.2, 0.05], np.float32)
X = np.random.default_rng(0).uniform(0.3, 0.7, (6, 4)).astype(np.float32)
LOGITS = X.astype(np.float64) @ W + B
OWN = LOGITS.argmax(axis=1)
DUAL = {1: np.inf, 2: 2, np.inf: 1}


def network(activation=None, random=()):
    layers = [keras.Input((4,)), *random, keras.layers.Dense(3, activation=activation)]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([W, B])
    return model


@pytest.fixture(scope="module")
def linear():
    return Classifier(network("softmax"))


def margins(norm):
    """Distance of each sample to each class's plane, infinite to its own."""
    found = np.full((6, 3), np.inf)
    for i, j in np.ndindex(6, 3):
        if j != OWN[i]:
            slope = np.linalg.norm(W[:, OWN[i]].astype(float) - W[:, j], DUAL[norm])
            found[i, j] = (LOGITS[i, OWN[i]] - LOGITS[i, j]) / slope
    return found


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_clever_of_a_linear_model_is_its_exact_margin(norm, linear):
    """All slopes are the same: there is no distribution to fit, and the largest is the answer."""
    expected = margins(norm)
    options = dict(norm=norm, nb_batches=3, batch_size=5, chunk=4)
    scores = metrics.clever(linear, X, **options)
    np.testing.assert_allclose(scores, expected.min(axis=1), rtol=1e-5)
    worst = np.where(np.isinf(expected), -1, expected).argmax(axis=1)
    scores = metrics.clever(linear, X, worst, targeted=True, **options)
    np.testing.assert_allclose(scores, expected[np.arange(6), worst], rtol=1e-5)


def test_clever_in_another_unit_and_at_its_limits(linear):
    options = dict(nb_batches=2, batch_size=2)
    pixels = Classifier(linear, (0, 255), preprocessing=(0.0, 255.0))
    scores = metrics.clever(pixels, X * 255, radius=1000.0, **options)
    np.testing.assert_allclose(scores, 255 * margins(2).min(axis=1), rtol=1e-4)
    np.testing.assert_allclose(metrics.clever(linear, X, radius=1e-3, **options), 1e-3)
    runner_up = np.sort(LOGITS, axis=1)[:, -2:-1]
    near = np.where(runner_up == LOGITS, margins(2), np.inf).min(axis=1)
    np.testing.assert_allclose(metrics.clever(linear, X, nb_grads=1, **options), near, rtol=1e-5)


def test_clever_explains_its_arguments(linear):
    with pytest.raises(ValueError, match="targeted=True, y=None"):
        metrics.clever(linear, X, targeted=True)
    with pytest.raises(ValueError, match=r"must not be the predicted class.*\[0, 1, 2, 3, 4, 5\]"):
        metrics.clever(linear, X, OWN, targeted=True)
    with pytest.raises(TypeError, match="CLEVER needs gradients"):
        metrics.clever(lambda x: np.zeros((len(x), 3)), X)
    with pytest.raises(ValueError, match="Received: target='top'"):
        CleverL2(target="top")
    with pytest.raises(ValueError, match="preset='paper', nb_batches=3"):
        CleverL2(preset="paper", nb_batches=3)
    paper = CleverL2(preset="paper")
    assert (paper.nb_batches, paper.batch_size) == (500, 1024)
    assert issubclass(CleverL2, Clever)


def test_points_of_a_sample_depend_on_its_place_alone():
    """A curved model: other samples of the batch, and the split into chunks, change nothing."""
    rng = np.random.default_rng(3)
    hidden = keras.layers.Dense(8, activation="tanh")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3)])
    model.set_weights([rng.normal(0, 2, w.shape) for w in model.get_weights()])
    curved = Classifier(model)
    options = dict(nb_batches=10, batch_size=4, radius=2.0)
    whole = metrics.clever(curved, X, **options)
    part = metrics.clever(curved, X[4:], places=np.array([4, 5]), **options)
    np.testing.assert_allclose(part, whole[4:], rtol=1e-4)
    assert len(set(whole)) == 6
    assert not np.allclose(metrics.clever(curved, X, seed=1, **options), whole, rtol=1e-4)


@pytest.mark.parametrize("shape", [2.5, 4.0])
def test_the_endpoint_is_that_of_the_distribution(shape):
    """Of 2,000 maxima with a known endpoint; SciPy's own fit, begun at the truth, agrees."""
    maxima = 5.0 - stats.weibull_min.rvs(shape, size=2000, random_state=1)
    found = extreme_value.right_endpoint(maxima)
    assert found >= maxima.max()
    assert found == pytest.approx(5.0, abs=0.1)
    _, location, _ = stats.weibull_min.fit(-maxima, shape, loc=-5.0, scale=1.0)
    assert found == pytest.approx(-location, abs=0.02)
    assert extreme_value.right_endpoint(100.0 * maxima) == pytest.approx(100.0 * found, rel=1e-6)


def test_a_fit_is_the_least_loss_that_scipy_finds():
    """Of many samples at once, each as alone; and L-BFGS-B on the same loss gets no lower."""
    rng = np.random.default_rng(5)
    maxima = rng.normal(10, 1, (6, 50, 20)).max(axis=2)
    maxima[0] = 3.0
    found = extreme_value.right_endpoint(maxima)
    alone = [extreme_value.right_endpoint(row) for row in maxima]
    np.testing.assert_allclose(found, alone, rtol=1e-9)
    assert found[0] == 3.0
    spread = np.ptp(maxima[1])
    below = np.sort(maxima[1].max() - maxima[1])[None] / spread
    losses = lambda logs: extreme_value._loss(np.asarray(logs)[None], below)[0][0]  # noqa: E731
    gap = np.log((found[1] - maxima[1].max()) / spread)
    ours = optimize.minimize_scalar(lambda shape: losses([shape, gap])).x
    theirs = optimize.minimize(losses, [ours, gap], method="Nelder-Mead", options={"xatol": 1e-8})
    np.testing.assert_allclose(theirs.x, [ours, gap], atol=1e-4)


def test_maxima_without_a_distribution_end_at_the_largest():
    assert extreme_value.right_endpoint([3.0] * 9) == 3.0
    assert extreme_value.right_endpoint([2.5]) == 2.5
    assert extreme_value.right_endpoint([0.0, 0.0]) == 0.0
    # Two values only are no Weibull distribution: no fit passes the test.
    assert extreme_value.right_endpoint([1.0, 2.0] * 200) == 2.0
    with pytest.raises(ValueError, match="Received: maxima="):
        extreme_value.right_endpoint([1.0, np.nan])


def test_loss_sensitivity_takes_one_hot_labels_and_draws(linear):
    y = np.array([0, 1, 2, 0, 1, 2])
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    slope = (p - np.eye(3)[y]) @ W.T
    for norm in (1, 2, np.inf):
        found = metrics.loss_sensitivity(linear, X, np.eye(3)[y], norm=norm, batch_size=4)
        np.testing.assert_allclose(found, np.linalg.norm(slope, norm, axis=1), rtol=1e-5)
    with pytest.raises(TypeError, match="Loss sensitivity needs gradients"):
        metrics.loss_sensitivity(lambda x: np.zeros((len(x), 3)), X, y)


def test_kl_divergence_is_keras_own():
    p, q = np.random.default_rng(1).dirichlet(np.ones(4), (2, 5))
    q[0], p[1] = [1, 0, 0, 0], [0, 0, 0, 1]
    expected = keras.losses.kl_divergence(p.astype(np.float32), q.astype(np.float32))
    np.testing.assert_allclose(metrics.kl_divergence(p, q), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="Received: p of shape"):
        metrics.kl_divergence(p, q[:2])


def test_the_nearest_training_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("kerasrobust.metrics.training_distance.VALUES_PER_PASS", 7 * 9)
    rng = np.random.default_rng(2)
    x, reference = rng.uniform(0, 1, (5, 3, 3, 1)), rng.uniform(0, 1, (40, 3, 3, 1))
    x[2] = reference[33]
    expected = distance.cdist(x.reshape(5, -1), reference.reshape(40, -1)).min(axis=1)
    np.testing.assert_allclose(metrics.nearest_distance(x, reference), expected, atol=1e-12)
    np.save(tmp_path / "train.npy", reference)
    stored = metrics.get(f"training_distance:reference={tmp_path / 'train.npy'}")
    assert stored.get_config() == metrics.TrainingDistance(reference).get_config()
    with pytest.raises(ValueError, match="Received: reference of shape"):
        metrics.nearest_distance(x, reference[:, :2])
    with pytest.raises(TypeError, match="Received: reference=list"):
        metrics.TrainingDistance([1.0])


def test_a_model_without_gradients_or_scores_is_refused_before_any_work():
    asked = []

    def scores(x):
        asked.append(len(x))
        return x @ W + B

    for name in ("clever_l2", "loss_sensitivity_l1"):
        with pytest.raises(TypeError, match=f"metric '{name}' needs gradients"):
            kerasrobust.evaluate(scores, X, OWN, attacks="simba", metrics=name)
    with pytest.raises(ValueError, match="needs the training samples"):
        kerasrobust.evaluate(scores, X, OWN, attacks="simba", metrics="training_distance")
    assert not asked
    with pytest.raises(TypeError, match="metric 'psi' needs scores"):
        kerasrobust.evaluate(
            Classifier(lambda x: scores(x).argmax(axis=1), nb_classes=3),
            *(X, OWN),
            attacks="hsja",
            metrics="psi",
        )


NAMES = ("clever_l2:nb_batches=2,batch_size=2", "psi", "loss_sensitivity_l2")


def test_empirical_robustness_of_a_linear_model_is_its_closed_form(linear, tmp_path):
    """And measured values are read where they are stored, whatever has become of the metric."""
    robust = metrics.get("empirical_robustness")
    chosen = [*NAMES, robust, metrics.TrainingDistance(X)]
    call = dict(attacks="deepfool:epsilon=1e-4", metrics=chosen, output=tmp_path, batch_size=4)
    report = kerasrobust.evaluate(linear, X, OWN, **call)
    row = report.attacks["deepfool"]
    expected = np.mean(margins(2).min(axis=1) / np.linalg.norm(X, axis=1))
    assert row.empirical_robustness == pytest.approx(expected, rel=0.02)
    assert row.empirical_robustness_fooled_share == 1.0
    assert report.clean["clever_l2"] == pytest.approx(margins(2).min(axis=1).mean(), rel=1e-5)
    assert report.clean["training_distance"] == 0.0 < row.training_distance
    assert 0 < row.psi < np.inf and report.robust["psi"] == row.psi
    assert report.clean["loss_sensitivity_l2"] > 0 and row.loss_sensitivity_l2 > 0
    assert "CLEVER L2" in str(report) and "clever_l2" not in report.robust
    again = kerasrobust.evaluation.Report.load(tmp_path)
    assert again.clean == report.clean

    class Lost(type(metrics.get("psi"))):
        def measure(self, points):
            raise AssertionError("measured twice")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("clever:CleverL2", "psi:Psi", "loss_sensitivity:LossSensitivityL2"):
            module, _, made = name.partition(":")
            module = importlib.import_module(f"kerasrobust.metrics.{module}")
            patch.setattr(getattr(module, made), "measure", Lost.measure)
        resumed = kerasrobust.evaluate(linear, X, OWN, **call)
        assert resumed.clean == report.clean and resumed.attacks == report.attacks
        with pytest.raises(AssertionError, match="measured twice"):
            kerasrobust.evaluate(linear, X, OWN, **{**call, "seed": 1})


@pytest.mark.slow
def test_a_model_that_draws_is_measured_by_its_key():
    noisy = Classifier(network(random=[DrawnNoise()]), draws=2, votes=2)
    chosen = ["clever_l2:nb_batches=3,batch_size=2", "psi", "loss_sensitivity_l2"]
    one, other = (
        kerasrobust.evaluate(noisy, X, OWN, attacks="fgsm:eps=0.1", metrics=chosen, seed=3)
        for _ in range(2)
    )
    for key in ("clever_l2", "loss_sensitivity_l2"):
        assert one.clean[key] == other.clean[key] > 0
    assert one.attacks["fgsm"].psi == other.attacks["fgsm"].psi > 0


@keras.saving.register_keras_serializable("test_of_the_model")
class DrawnNoise(keras.layers.GaussianNoise):
    """Noise at inference too."""

    def __init__(self, stddev=0.05, **kwargs):
        super().__init__(stddev, **kwargs)

    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


@pytest.mark.slow
def test_beside_art_at_its_own_points(digits_model, digits):
    """The same points give the same longest gradients, and scores within what those allow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.metrics import metrics as art_metrics

        from kerasrobust import art
    x, y = (part[:2] for part in digits)
    pools, fits, draw = [], [], art_metrics.random_sphere

    def sphere(**options):
        pools.append(draw(**options).astype(np.float32))
        return pools[0].copy()  # one pool for all classes

    class Recorder:
        @staticmethod
        def fit(values, *args, **kwargs):
            fits.append((-values, stats.weibull_min.fit(values, *args, **kwargs)))
            return fits[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(art_metrics, "random_sphere", sphere)
        patch.setattr(art_metrics, "weibull_min", Recorder)
        options = dict(nb_batches=400, batch_size=20, radius=0.5)
        art.clever(digits_model, x, pool_factor=10, **options)
    with pytest.MonkeyPatch.context() as patch:
        pool = pools[0].reshape(200, 8, 8, 1)
        patch.setattr("kerasrobust.norms.random_in_ball", lambda *_: tf.constant(pool))
        own = Classifier(digits_model, jit_compile=False)
        best, *others = np.argsort(-own.predict(x)[0])
        maxima = clever_module._maxima(
            own, x[0], np.int32(best), np.int32(others), 1, 200, 0.5, 2.0, 200, (0, 0)
        )
    # 400 times 20 of 200: ART's longest of all maxima is the longest of the pool.
    longest = [maxima.max() for maxima, _ in fits[:9]]
    np.testing.assert_allclose(np.sort(maxima[0]), np.sort(longest), rtol=1e-4)
    # ART's fit, from one start, may end anywhere; with the largest of its maxima in its place its
    # score is a bound of ours, whose 8,000 points are fresh, and no factor of two above it.
    ours = metrics.clever(digits_model, x, **options)
    for i, logits in enumerate(own.predict(x)):
        best = logits.argmax()
        margins = logits[best] - np.delete(logits, best)
        endpoints = [maxima.max() for maxima, _ in fits[9 * i : 9 * i + 9]]
        bound = (margins / endpoints).min()
        assert 0.4 * bound < ours[i] < 1.05 * bound
    sensitivity = metrics.loss_sensitivity(digits_model, x, y).mean()
    assert sensitivity == pytest.approx(art.loss_sensitivity(digits_model, x, y), rel=1e-5)
