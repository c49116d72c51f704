"""Metrics against closed forms, NumPy and scikit-image."""

import numpy as np
import pytest

from kerasrobust import metrics
from kerasrobust.metrics.proportion import clustered


def wilson(k, n, z=1.959963984540054):
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    return centre - half, centre + half


@pytest.mark.parametrize("k, n", [(0, 100), (3, 100), (50, 100), (100, 100), (1, 1)])
def test_proportion_is_the_wilson_interval(k, n):
    p = metrics.proportion(np.arange(n) < k)
    assert (p.hits, p.total, p.value) == (k, n, k / n)
    np.testing.assert_allclose([p.low, p.high], wilson(k, n), atol=1e-12)
    assert 0.0 <= p.low <= p.value <= p.high <= 1.0


def test_entries_of_a_sample_that_are_alike_count_as_one():
    for k in (0, 7, 25):
        flags = np.arange(25) < k
        alone = metrics.proportion(flags)
        assert clustered(flags[:, None]) == pytest.approx(alone)
        together = clustered(np.repeat(flags[:, None], 9, axis=1))
        assert together[:3] == pytest.approx(alone[:3]) and together[3:] == (9 * k, 225)
    # All samples the same share: as many entries as there are.
    flags = np.tile([True, False, False], (25, 1))
    assert clustered(flags) == pytest.approx(metrics.proportion(flags.ravel()))
    assert clustered(np.zeros((0, 9), bool)) is None
    with pytest.raises(ValueError, match="matrix of booleans"):
        clustered([True])


def test_intervals_of_clusters_cover_what_they_should():
    """113 samples of nine entries whose shares differ, by simulation."""
    rng = np.random.default_rng(0)
    shares = rng.beta(0.7, 0.3, (500, 113, 1))
    found = rng.random((500, 113, 9)) < shares
    for interval, low, high in (
        (clustered, 0.92, 0.98),
        (lambda flags: metrics.proportion(flags.ravel()), 0.0, 0.7),
    ):
        ends = np.array([interval(flags)[1:3] for flags in found])
        assert low < ((ends[:, 0] < 0.7) & (ends[:, 1] > 0.7)).mean() < high


def test_proportion_of_nothing_and_bad_input():
    assert metrics.proportion(np.zeros(0, bool)) is None
    with pytest.raises(ValueError, match=r"vector of booleans.*Received: flags"):
        metrics.proportion([0.2, 0.7])
    with pytest.raises(ValueError, match=r"Received: level=95"):
        metrics.proportion([True], level=95)


def test_accuracy_and_class_accuracy():
    y = np.array([0, 0, 1, 1, 1, 3])
    labels = np.array([0, 1, 1, 1, 0, 3])
    assert metrics.accuracy(labels, y).value == pytest.approx(4 / 6)
    np.testing.assert_allclose(
        metrics.class_accuracy(labels, y, nb_classes=4), [1 / 2, 2 / 3, np.nan, 1.0]
    )
    with pytest.raises(ValueError, match="Received: labels of shape"):
        metrics.accuracy(labels[:3], y)
    with pytest.raises(ValueError, match=r"\[0, 3\).*Received: y between 0 and 3"):
        metrics.class_accuracy(labels, y, nb_classes=3)


def test_success_rate_leaves_out_what_was_wrong_already():
    initial = np.array([True, False, False, False, False])
    success = np.array([True, True, True, True, False])
    rate = metrics.success_rate(success, initial)
    assert (rate.hits, rate.total, rate.value) == (3, 4, 0.75)
    assert metrics.success_rate(success, np.ones(5, bool)) is None
    with pytest.raises(ValueError, match="Received: success of shape"):
        metrics.success_rate(success, initial[:2])


def test_average_confidence():
    c = np.array([0.9, 0.5, 0.1])
    assert metrics.average_confidence(c) == pytest.approx(0.5)
    assert metrics.average_confidence(c, np.array([True, True, False])) == pytest.approx(0.7)
    assert np.isnan(metrics.average_confidence(c, np.zeros(3, bool)))
    with pytest.raises(ValueError, match=r"\[0, 1\].*Received: confidence between"):
        metrics.average_confidence([0.5, 90.0])


def test_median_distance_counts_failures_as_infinite():
    assert metrics.median_distance([0.0, 1.0, 2.0, np.inf, np.inf]) == 2.0
    assert metrics.median_distance([1.0, 2.0, np.inf, np.inf]) == np.inf
    assert metrics.median_distance([1.0, 2.0, 4.0, np.inf]) == 3.0
    for bad in ([], [-1.0], [np.nan]):
        with pytest.raises(ValueError, match="Received: distances="):
            metrics.median_distance(bad)


def test_a_weaker_attack_never_has_a_smaller_median():
    rng = np.random.default_rng(0)
    for _ in range(200):
        strong = rng.exponential(size=rng.integers(1, 12))
        weak = np.where(rng.random(strong.size) < 0.4, np.inf, strong * rng.uniform(1, 2))
        assert metrics.median_distance(weak) >= metrics.median_distance(strong)


def test_altered_pixels_counts_positions():
    x = np.zeros((3, 4, 5, 3), np.float32)
    x_adv = x.copy()
    x_adv[0, 0, 0] = 1.0  # three channels of one pixel
    x_adv[1, :2, :, 1] = 0.5  # ten pixels, one channel each
    x_adv[2] = 5e-7  # rounding of a change of variables
    np.testing.assert_allclose(metrics.altered_pixels(x, x_adv), [5.0, 50.0, 0.0])
    np.testing.assert_allclose(
        metrics.altered_pixels(np.zeros((1, 4)), np.array([[0, 0, 0, 1.0]])), [25.0]
    )
    with pytest.raises(ValueError, match="same shape"):
        metrics.altered_pixels(x, x_adv[:2])


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 9, 9), (9, 12, 3)])
def test_channels_may_come_first(shape):
    """What is measured of images does not depend on where their channels lie."""
    last = (*shape[1:], shape[0]) if shape[0] == 1 else shape
    x, x_adv = image_pairs(last, 1.0)
    keep = np.random.default_rng(0).random(x.shape) < 0.1
    pair = x, np.where(keep, x_adv, x)
    turned = [np.moveaxis(part, -1, 1) for part in pair]
    y, far = np.zeros(4, int), {"value_range": 1.0}
    for name in ("median_l0", "ssim"):
        metric = metrics.get(name)
        here, there = (metric.measure(metrics.Points(*xs, y, **far)) for xs in (pair, turned))
        np.testing.assert_allclose(there, here, rtol=1e-5)
    altered = 100 * keep.any(axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(metrics.altered_pixels(*turned), altered)


def image_pairs(shape, value_range):
    rng = np.random.default_rng(1)
    x = rng.random((4, *shape), dtype=np.float32) * value_range
    noise = rng.normal(size=x.shape) * 0.1 * value_range
    return x, np.clip(x + noise, 0, value_range).astype(np.float32)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (11, 20, 3)])
@pytest.mark.parametrize("value_range", [1.0, 255.0])
def test_ssim_agrees_with_scikit_image(shape, value_range):
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    x, x_adv = image_pairs(shape, value_range)
    expected = [
        similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=value_range,
            channel_axis=-1,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for a, b in zip(x, x_adv, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(x, x_adv, value_range), expected, atol=2e-5)


@pytest.mark.parametrize("shape, window", [((8, 8, 1), 7), ((9, 20, 3), 9), ((3, 4, 1), 3)])
def test_ssim_of_small_images_is_the_formula(shape, window):
    x, x_adv = image_pairs(shape, 1.0)
    ramp = np.exp(-((np.arange(window) - window // 2) ** 2) / (2 * 1.5**2))
    weights = np.outer(ramp, ramp) / ramp.sum() ** 2

    def mean(values):
        views = np.lib.stride_tricks.sliding_window_view(values, (window, window), axis=(1, 2))
        return (views * weights).sum(axis=(-2, -1))

    a, b = x.astype(np.float64), x_adv.astype(np.float64)
    mu_a, mu_b = mean(a), mean(b)
    cov = mean(a * b) - mu_a * mu_b
    var = mean(a * a) - mu_a**2 + mean(b * b) - mu_b**2
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var + c2))
    np.testing.assert_allclose(metrics.ssim(x, x_adv), similarity.mean(axis=(1, 2, 3)), atol=2e-5)


def test_ssim_limits():
    x = np.random.default_rng(2).random((600, 8, 8, 1), dtype=np.float32)  # more than one chunk
    np.testing.assert_allclose(metrics.ssim(x, x), np.ones(600), atol=1e-6)
    assert metrics.ssim(x[:0], x[:0]).shape == (0,)
    with pytest.raises(ValueError, match="at least 3 x 3"):
        metrics.ssim(x[:, :2], x[:, :2])
    with pytest.raises(ValueError, match="Received: value_range=0"):
        metrics.ssim(x, x, 0)


def test_accuracy_against_budget_is_the_plain_count():
    rng = np.random.default_rng(3)
    d = np.concatenate([rng.exponential(size=40), np.zeros(5), np.full(5, np.inf)])
    budgets = np.linspace(0, 4, 50)
    expected = [(d > b).mean() for b in budgets]
    np.testing.assert_allclose(metrics.accuracy_against_budget(d, budgets), expected)
    # An eps that equals a distance breaks that sample.
    assert metrics.accuracy_against_budget([0.5], [0.5]).tolist() == [0.0]
    with pytest.raises(ValueError, match="Received: budgets="):
        metrics.accuracy_against_budget(d, [-1.0])
    with pytest.raises(ValueError, match="Received: distances="):
        metrics.accuracy_against_budget([], [1.0])


def test_every_metric_is_declared_once_under_its_own_name():
    further = [metrics.get(name) for name in metrics.registry.FURTHER]
    declared = [*metrics.registry.resolve(), *further]
    assert [metric.key for metric in declared] == metrics.names()
    shown = [m.header for m in declared if m.header is not None]
    assert len(set(shown)) == len(shown)
    for metric in declared:
        assert type(metric).__doc__ and metric.table in ("main", "counts", "classes")


def test_further_metrics_by_name_or_object():
    class Own(metrics.Metric):
        key = "own"

    own = Own()
    for further in (own, [own], ["accuracy", own]):
        assert metrics.registry.resolve(further)[-1] is own
    assert len(metrics.registry.resolve("ssim")) == len(metrics.registry.STANDARD)
    with pytest.raises(ValueError, match="Did you mean 'ssim'.*Received: metric='ssmi'"):
        metrics.registry.resolve(["ssmi"])
    with pytest.raises(TypeError, match="Received: metrics=3"):
        metrics.registry.resolve([3])
    with pytest.raises(ValueError, match="Received: two with key='own'"):
        metrics.registry.resolve([own, Own()])
    with pytest.raises(NotImplementedError, match="Own must define `compute`"):
        own.compute(None)


def test_cells_of_numbers_and_shares():
    class Number(metrics.Metric):
        key, digits = "number", 2

    class Part(metrics.Share):
        key = "part"

    number, part = Number(), Part()
    for value, text in ((1.239, "1.24"), (None, "-"), (np.inf, "inf"), (np.nan, "-"), (7, "7")):
        assert number.cell({"number": value}, 10) == text
    assert number.cell({}, 10) == ""
    row = {"part": 0.5, "part_interval": [0.4041, 0.6]}
    assert part.cell(row, 10) == "50.0 [40, 60]"
    assert part.cell(row, 1000) == "50.0 [40.4, 60.0]"
    assert part.cell(row, 10, narrow=True) == "50.0"
    assert part.cell({"part": None, "part_interval": None}, 10) == "-"
    assert part.cell({}, 10) == ""


def test_a_metric_must_measure_one_value_per_sample():
    class Wrong(metrics.Metric):
        key = "wrong"

        def measure(self, points):
            return np.zeros(3)

    x = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"'wrong' must measure.*Received: values of shape \(3,\)"):
        metrics.registry.measure([Wrong()], metrics.Points(x, x, np.zeros(2, int)))
