"""Randomized smoothing: votes, abstention, certificates, and the verdict from both sides."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import kerasrobust
from kerasrobust import Classifier, attacks, evaluate, unwrap, wrap
from kerasrobust.defenses import RandomizedSmoothing
from kerasrobust.defenses.decision.randomized_smoothing import certified
from kerasrobust.metrics.certified import verdict_radii

SHAPE, SIGMA = (2, 3, 1), 0.2
KERNEL = np.array([1.0, 0.5, -0.25, 0.75, -0.5, 0.25], np.float32)
# Between two classes of a linear model: the normal and the offset of the plane.
NORMAL, OFFSET = 2 * KERNEL, -2 * 0.85


def linear(scale=1.0, activation=None):
    """Two classes by a plane, for inputs that are `scale` times as large."""
    dense = keras.layers.Dense(2, activation=activation)
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), dense])
    kernel = np.stack([KERNEL, -KERNEL], axis=1) / scale
    model.set_weights([kernel, np.array([-0.85, 0.85], np.float32)])
    return model


@pytest.fixture(scope="module")
def smoothed():
    return wrap(linear(), f"randomized_smoothing:sigma={SIGMA},n=4000,n0=50,votes=30,draws=3")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).uniform(0, 1, (25, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def certificate(smoothed, x):
    return smoothed.certify(x)


def margin(x):
    """Signed distance to the plane: the noise's share on this side is Phi(distance / sigma)."""
    return (x.reshape(len(x), -1) @ NORMAL + OFFSET) / np.linalg.norm(NORMAL)


def test_certificates_are_the_authors_formula_on_given_counts():
    guess = np.array([[60, 40, 0], [30, 70, 0], [0, 10, 90], [90, 5, 5], [34, 33, 33]])
    counts = np.array([[900, 60, 40], [100, 500, 400], [0, 0, 1000], [0, 0, 1000], [530, 400, 70]])
    found = certified(guess, counts, 1000, 0.5, 0.001)
    for i, label in enumerate([0, 1, 2, 0, 0]):
        # proportion_confint(k, n, alpha=2 * alpha, method="beta")[0], and norm.ppf of it.
        k = counts[i, label]
        lower = stats.beta.ppf(0.001, k, 1000 - k + 1) if k else 0.0
        assert found.lower[i] == pytest.approx(lower, abs=1e-12)
        if lower <= 0.5:
            assert (found.labels[i], found.radii[i]) == (-1, 0)
        else:
            assert found.labels[i] == label
            assert found.radii[i] == pytest.approx(0.5 * stats.norm.ppf(lower), abs=1e-9)
    assert found.labels.tolist() == [0, -1, 2, -1, -1]
    assert found.accuracy([0, 1, 2, 2, 0], [0.0, 0.4, 1.2, 9.0]).tolist() == [0.4, 0.4, 0.2, 0.0]


def test_the_radius_of_a_linear_model_is_the_distance_to_its_plane(smoothed, certificate, x):
    distance = margin(x)
    answered = certificate.labels >= 0
    assert answered.mean() > 0.8
    np.testing.assert_array_equal(certificate.labels[answered], (distance < 0)[answered])
    # A bound from below, and, of 4,000 draws, a close one where it is not capped.
    assert (certificate.radii <= np.abs(distance) + 1e-9).all()
    middle = answered & (np.abs(distance) < 2 * SIGMA)
    assert (certificate.radii > np.abs(distance) - 0.4 * SIGMA)[middle].all()
    cap = SIGMA * stats.norm.ppf(smoothed.alpha ** (1 / smoothed.n))
    assert certificate.radii.max() <= cap + 1e-9
    share = stats.norm.cdf(distance / SIGMA)
    np.testing.assert_allclose(smoothed.counts(x, 4000)[:, 0] / 4000, share, atol=0.035)


def test_votes_are_repeated_by_the_seed_whatever_the_batch_size(smoothed, x):
    counts = smoothed.counts(x, 230, seed=5)
    assert (counts.sum(axis=1) == 230).all()
    for batch_size in (1, 300, 10_000):
        np.testing.assert_array_equal(
            smoothed.counts(x, 230, seed=5, batch_size=batch_size), counts
        )
    np.testing.assert_array_equal(smoothed.counts(x[7:9], 230, seed=5), counts[7:9])
    assert (smoothed.counts(x, 230, seed=6) != counts).any()
    # More draws go on where fewer ended.
    more = smoothed.counts(x, 231, seed=5) - counts
    assert (more.sum(axis=1) == 1).all() and (more >= 0).all()
    shares = smoothed.predict(x, batch_size=4, verbose=0)
    np.testing.assert_allclose(shares, smoothed.counts(x, 30) / 30, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_draws(smoothed, x, monkeypatch):
    """One graph for any number of draws, in passes of one size."""
    smoothed.counts(x[:1], 100)
    traces = smoothed._counting.__wrapped__.experimental_get_tracing_count()
    assert smoothed.counts(x[:1], 100_000).sum() == 100_000
    assert smoothed._counting.__wrapped__.experimental_get_tracing_count() == traces
    rows, inner = [], smoothed.inner.plain_logits
    monkeypatch.setattr(
        smoothed.inner, "plain_logits", lambda points: rows.append(len(points)) or inner(points)
    )
    smoothed._count(tf.constant(x[:2]), tf.constant(520), tf.constant([1, 2]))
    assert rows == [200] * 6


def test_it_abstains_where_the_vote_is_close(smoothed, x):
    for first in range(50, 101):
        counts = np.array([[first, 100 - first], [100 - first, first]])
        sure = stats.binomtest(first, 100).pvalue <= smoothed.alpha
        assert smoothed.certain(counts).numpy().tolist() == [sure, sure]
    assert smoothed.certain([[4, 0, 3], [20, 1, 1]]).numpy().tolist() == [False, True]
    labels, accepted = smoothed.decide(x)
    clear = np.abs(margin(x)) > 1.5 * SIGMA
    assert accepted[clear].all() and not accepted[np.abs(margin(x)) < 0.2 * SIGMA].any()
    np.testing.assert_array_equal(labels[clear], (margin(x) < 0)[clear])


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_saved_and_loaded_it_answers_the_same(activation, x, tmp_path):
    base = linear(activation=activation)
    model = wrap(base, "randomized_smoothing:sigma=0.1,n=300,votes=20", seed=4)
    assert unwrap(model) is base
    np.testing.assert_array_equal(model.get_weights()[0], base.get_weights()[0])
    model.save(tmp_path / "smoothed.keras")
    loaded = kerasrobust.models.load(tmp_path / "smoothed.keras")
    assert isinstance(loaded, RandomizedSmoothing)
    one, other = ({**m.get_config(), "base": None} for m in (model, loaded))
    assert one == other
    one, other = (m.certify(x) for m in (model, loaded))
    np.testing.assert_array_equal(one.radii, other.radii)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_other_units_and_precisions(certificate, x):
    grey = wrap(linear(scale=255), "randomized_smoothing", clip_values=(0, 255))
    assert grey.length("sigma") == pytest.approx(0.25 * 255)
    grey = wrap(
        linear(scale=255), grey.__class__(sigma=SIGMA * 255, n=4000, n0=50), clip_values=(0, 255)
    )
    found = grey.certify(255 * x)
    np.testing.assert_allclose(found.radii / 255, certificate.radii, atol=0.02)


def test_around_a_chain_of_training_defenses(x):
    model = wrap(linear(), ["gda:sigma=0.1,clip=False", "randomized_smoothing:sigma=0.1,n=100"])
    assert [link.name for link in model.base.defenses] == ["gda"]
    model.base.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.base.fit(x, (margin(x) < 0).astype(int), verbose=0)
    assert model.certify(x[:2]).labels.shape == (2,)
    assert unwrap(model) is unwrap(model.base)


def test_attacks_see_means_over_draws_and_are_judged_by_votes(smoothed, x):
    classifier = Classifier(smoothed)
    assert (classifier.votes, classifier.draws) == (30, 3) and classifier.rejects
    assert Classifier(smoothed, votes=1, draws=1).votes == 1
    y = (margin(x) < 0).astype(int)
    result = attacks.get("pgd:norm=2,eps=0.6,max_iter=5").bind(classifier).run(x, y)
    assert (result.gradients == 15).all()
    # Straight towards the plane: what is within reach falls, the rest does not.
    distance, sure = np.abs(margin(x)), result.accepted
    assert result.success[distance < 0.3].all() and not result.success[distance > 0.7].any()
    np.testing.assert_array_equal(result.success, sure & (result.labels != y))


@pytest.fixture(scope="module")
def report(smoothed, x, tmp_path_factory):
    y = (margin(x) < 0).astype(int)
    y[0] = 1 - y[0]  # one that is wrong already
    output = tmp_path_factory.mktemp("report")
    specs = ["pgd:norm=2,eps=0.3,max_iter=4", "fgsm:eps=0.05"]
    return evaluate(smoothed, x, y, attacks=specs, output=output), output, y


def test_the_verdict_has_two_sides(report, certificate, x):
    found, output, y = report
    verdict = found.robust["verdict"]
    radius, lower, upper = (np.array(verdict[k]) for k in ("radius", "certified", "robust"))
    assert 0.3 in radius and radius[-1] >= certificate.radii.max()
    right = np.where(certificate.labels == y, certificate.radii, -1)
    np.testing.assert_allclose(lower, (right >= radius[:, None]).mean(axis=1))
    assert (lower <= upper).all() and (np.diff(upper) <= 0).all()
    assert upper[0] == 1 - 1 / 25 and upper[-1] < lower[0]
    row = found.attacks["pgd"]
    assert row.certified_accuracy == lower[radius == 0.3][0] <= row.accuracy
    assert found.clean["certified_accuracy"] == lower[0]
    assert found.attacks["fgsm"].certified_accuracy is None  # of another norm
    assert "certificate_violated" not in [finding.code for finding in found.findings]
    text, markdown = str(found), (output / "report.md").read_text()
    for part in ("Two-sided verdict", "certified % (at least)", "robust % (at most)"):
        assert part in text and part in markdown
    assert (output / "certified.png").exists() and "![certified.png]" in markdown
    again = kerasrobust.evaluation.Report.load(output)
    assert again.robust["verdict"] == verdict


def test_a_finished_certificate_is_read_and_not_made_again(report, smoothed, x, monkeypatch):
    found, output, y = report
    monkeypatch.setattr(RandomizedSmoothing, "certify", None)
    specs = ["pgd:norm=2,eps=0.3,max_iter=4", "fgsm:eps=0.05"]
    again = evaluate(smoothed, x, y, attacks=specs, output=output)
    assert again.robust == found.robust


def test_a_broken_certificate_is_a_finding(smoothed, x, monkeypatch):
    """The base is certified as if it were smooth, for more than it holds."""
    honest = smoothed.certify

    def boast(x):
        found = honest(x)
        return type(found)(found.labels, found.radii + 1, found.lower)

    monkeypatch.setattr(smoothed, "certify", boast)
    y = (margin(x) < 0).astype(int)
    found = evaluate(smoothed, x, y, attacks="pgd:norm=2,eps=0.6,max_iter=3")
    assert found.findings[0].code == "certificate_violated"


def test_radii_of_a_verdict():
    assert verdict_radii(1.9, [0.4]).tolist() == [0, 0.25, 0.4, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    assert verdict_radii(0.0).tolist() == [0]
    assert verdict_radii(510.0)[1] == 100 and len(verdict_radii(999.0)) <= 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sigma=0", "`sigma` must be a number > 0. Received: sigma=0"),
        ("alpha=1.5", "`alpha` must be a number between 0 and 1. Received: alpha=1.5"),
        ("alpha=0", "`alpha` must be a number > 0. Received: alpha=0"),
        ("n=0", "`n` must be an integer >= 1. Received: n=0"),
        ("n0=0", "`n0` must be an integer >= 1. Received: n0=0"),
        ("sigma=30", "`sigma` does not fit inputs in"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        wrap(linear(), f"randomized_smoothing:{arguments}")


def test_bad_calls(smoothed, x):
    for arguments in ({"n": 0}, {"n0": 0}, {"alpha": 2.0}):
        with pytest.raises(ValueError, match="Received: "):
            smoothed.certify(x, **arguments)
    with pytest.raises(ValueError, match="must have the model's input shape"):
        smoothed.certify(x[:, :1])
    with pytest.raises(ValueError, match="has no model yet"):
        RandomizedSmoothing().certify(x)
    with pytest.raises(ValueError, match="fit that one, `model.base`"):
        smoothed.fit(x, np.zeros(len(x)))
    with pytest.raises(ValueError, match="the last one around a model"):
        wrap(smoothed, "gda")
    with pytest.raises(ValueError, match="there is one of them"):
        wrap(linear(), ["randomized_smoothing", "randomized_smoothing"])
    with pytest.raises(ValueError, match="there is one of them"):
        RandomizedSmoothing(smoothed)
