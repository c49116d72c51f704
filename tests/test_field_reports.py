"""What users of other toolboxes reported, tried here: one test per report, outcomes in
`docs/field_reports.md`."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

import kerasrobust
from kerasrobust import attacks
from kerasrobust.engine.classifier import Classifier


def linear(kernel, bias=None, shape=None):
    """A linear model that returns logits."""
    kernel = np.asarray(kernel, np.float32)
    bias = np.zeros(kernel.shape[1], np.float32) if bias is None else np.asarray(bias, np.float32)
    inputs = keras.Input(shape or kernel.shape[:1])
    outputs = keras.layers.Dense(kernel.shape[1])(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def random_linear():
    """Six classes on 4x6 images, and samples with the labels that it gives them."""
    rng = np.random.default_rng(0)
    model = linear(rng.normal(size=(24, 6)), shape=(4, 6, 1))
    x = rng.uniform(0.3, 0.7, (8, 4, 6, 1)).astype(np.float32)
    return Classifier.of(model), x, model.predict(x, verbose=0).argmax(axis=1)


def left(model, x, y, spec, **settings):
    """The accuracy that an attack leaves, judged by the model alone."""
    points = attacks.get(spec, **settings).bind(model).generate(x, y)
    return (Classifier.of(model).predict(points).argmax(axis=1) == y).mean()


# ---- success and budget ---------------------------------------------------------------------


def test_a_success_on_the_edge_of_the_budget_counts():
    """ART issue 507: AutoAttack dropped adversarial samples at eps for a rounding error."""
    model = linear([[1.0, -1.0]], [0.0, 0.0])
    for eps in (0.1, 0.3, 0.7):
        x = np.array([[np.float32(eps) - np.float32(1e-6)]], np.float32) * np.ones((3, 1))
        # The boundary at 0 is 1e-6 inside the budget, and the box ends there.
        shifted = linear([[1.0, -1.0]], [-0.05, 0.05])
        result = attacks.get("pgd", eps=eps).bind(Classifier(model, (-1, 1))).run(x, [0] * 3)
        assert result.success.all()
        result = attacks.get("pgd", eps=eps).bind(shifted).run(x + 0.05, [0] * 3)
        assert result.success.all()
        assert result.linf.max() <= eps * (1 + 1e-4)


def test_a_targeted_attack_goes_on_until_the_target():
    """ART issue 512: targeted APGD took any other label for a success."""
    model = linear([[4.0, 0.0, 1.0]], [-2.0, 0.0, -0.9])
    x = np.full((2, 1), 0.9, np.float32)  # class 0; class 1 is nearest, class 2 never largest
    result = attacks.get("apgd", eps=0.9, targeted=True, max_iter=20).bind(model).run(x, [2, 2])
    assert not result.success.any()
    result = attacks.get("apgd", eps=0.9, targeted=True, max_iter=20).bind(model).run(x, [1, 1])
    assert result.success.all()
    assert (Classifier.of(model).predict(result.x_adv).argmax(axis=1) == 1).all()


def test_a_zero_budget_is_no_attack(random_linear):
    """torchattacks issue 124: PGD with eps 0 was not the clean accuracy."""
    classifier, x, y = random_linear
    y = np.where(np.arange(8) < 3, (y + 1) % 6, y)  # three wrong from the start
    for eps in (0.0, 1e-7):
        assert left(classifier, x, y, "pgd", eps=eps, num_random_init=1) == pytest.approx(5 / 8)


def test_projection_is_around_the_sample_and_inside_the_box():
    """ART issues 85 and 148, CleverHans issues 223, 823 and 1135."""
    model = linear(np.random.default_rng(1).normal(size=(20, 3)))
    x = np.random.default_rng(2).uniform(0, 1, (10, 20)).astype(np.float32)
    y = model.predict(x, verbose=0).argmax(axis=1)
    for norm, eps in ((math.inf, 0.2), (2, 0.8), (1, 2.0)):
        attack = attacks.get("pgd", eps=eps, eps_step=eps, norm=norm, num_random_init=2, max_iter=9)
        points = attack.bind(model).generate(x, y)
        assert points.min() >= 0 and points.max() <= 1
        assert np.linalg.norm(points - x, norm, axis=1).max() <= eps * (1 + 1e-5)
        assert np.linalg.norm(points - x, norm, axis=1).max() > 0.9 * eps


def test_l1_step_is_the_steepest():
    """ART pull request 2382: FGM in L1 spread its budget where one pixel is steepest."""
    kernel = np.array([[1.0, -1.0], [5.0, -5.0], [-2.0, 2.0]])
    x = np.full((1, 3), 0.5, np.float32)
    moved = attacks.get("fgsm", eps=0.4, norm=1).bind(linear(kernel)).generate(x, [0]) - x
    np.testing.assert_allclose(moved, [[0, -0.4, 0]], atol=1e-6)


# ---- gradients and losses -------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["fgsm:norm=2,eps=0.6", "pgd:norm=2,eps=0.6", "fab:norm=2", "deepfool"]
)
@pytest.mark.parametrize("scale", [1e-8, 1e4])
def test_gradients_of_any_size(random_linear, spec, scale):
    """CleverHans issue 350 and pull request 1175: an L2 step of a gradient below 1e-6 was lost."""
    classifier, x, y = random_linear
    kernel, bias = classifier.model.layers[-1].get_weights()
    other = linear(kernel * scale, bias * scale, (4, 6, 1))
    one = attacks.get(spec).bind(classifier).run(x, y)
    two = attacks.get(spec).bind(other).run(x, y)
    np.testing.assert_array_equal(one.success, two.success)
    np.testing.assert_allclose(one.l2[one.success], two.l2[two.success], rtol=0.02)


def test_momentum_is_normalised_for_each_image():
    """torchattacks issues 12 and 33: MI-FGSM took the L1 norm of a batch, or of a wrong axis."""
    rng = np.random.default_rng(3)
    hidden = keras.layers.Dense(8, activation="tanh")
    model = keras.Sequential([keras.Input((5,)), hidden, keras.layers.Dense(3)])
    x = rng.uniform(0.3, 0.7, (4, 5)).astype(np.float32)
    y = model.predict(x, verbose=0).argmax(axis=1)
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers)

    def gradient(point, label):  # of the cross-entropy
        inside = np.tanh(point @ w1 + b1)
        logits = inside @ w2 + b2
        share = np.exp(logits - logits.max())
        share = share / share.sum() - np.eye(3)[label]
        return ((share @ w2.T) * (1 - inside**2)) @ w1.T

    expected = []
    for sample, label in zip(x.astype(np.float64), y, strict=True):
        point, momentum = sample.copy(), np.zeros(5)
        for _ in range(4):
            g = gradient(point, label)
            momentum = 0.7 * momentum + g / np.abs(g).sum()
            point = np.clip(point + 0.02 * np.sign(momentum), sample - 0.05, sample + 0.05)
        expected.append(point)
    attack = attacks.get("mifgsm", eps=0.05, eps_step=0.02, max_iter=4, decay=0.7)
    result = attack.bind(model).run(x, y)
    np.testing.assert_allclose(result.x_adv, expected, atol=1e-6)


@pytest.mark.slow
def test_logits_that_are_all_negative(random_linear):
    """torchattacks issue 184, MNIST challenge issue 10: the best other logit was cut at 0."""
    classifier, x, y = random_linear
    kernel, bias = classifier.model.layers[-1].get_weights()
    shifted = linear(kernel, bias - 64, (4, 6, 1))
    few = "max_iter=20,binary_search_steps=4"
    for spec in (
        f"cwl2:{few}",
        "cwlinf:max_iter=5",
        f"ead:{few}",
        "apgd:eps=0.05,loss_type=difference_logits_ratio",
    ):
        one = attacks.get(spec).bind(classifier).run(x, y)
        two = attacks.get(spec).bind(shifted).run(x, y)
        np.testing.assert_array_equal(one.success, two.success)
        np.testing.assert_allclose(one.x_adv, two.x_adv, atol=2e-2)


def test_softmax_costs_no_strength(random_linear):
    """Foolbox issue 618: C&W took the probabilities for logits."""
    classifier, x, y = random_linear
    soft = keras.Sequential([classifier.model, keras.layers.Softmax()])
    one = attacks.get("cwl2").bind(classifier).run(x, y)
    two = attacks.get("cwl2").bind(soft).run(x, y)
    assert one.success.all() and two.success.all()
    np.testing.assert_allclose(one.l2, two.l2, rtol=1e-3)


def test_two_classes_with_the_same_logit():
    """Foolbox issue 282: on the boundary DeepFool left its class out and ran to a third one."""
    model = linear([[1.0, 0.5, -1.0], [0.0, 1.0, 1.0]])
    for x in ([[0.75, 0.375]], [[0.75, 0.125]]):  # classes 0 and 1 tie, and do not
        result = attacks.get("deepfool").bind(model).run(np.array(x, np.float32), [0])
        assert result.success.all() and (result.labels == 1).all()
        # The nearest point of class 1 is at b = a / 2.
        expected = (0.5 * x[0][0] - x[0][1]) / math.hypot(0.5, 1)
        assert result.l2[0] == pytest.approx(expected, rel=0.05, abs=1e-3)


@pytest.mark.parametrize("spec", ["deepfool", "cwl2", "fab:max_iter=20", "pgd:eps=0.4"])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_two_classes(spec, sigmoid):
    """DeepFool (LTS4) issue 4: NaN on binary models; ART issue 352: C&W left them unchanged."""
    kernel = np.array([[3.0], [-2.0]])
    model = linear(kernel, [-0.4]) if sigmoid else linear(np.hstack([-kernel, kernel]) / 2)
    if sigmoid:
        model = keras.Sequential([model, keras.layers.Activation("sigmoid")])
    x = np.array([[0.6, 0.3], [0.1, 0.7]], np.float32)
    values = x @ kernel[:, 0] - (0.4 if sigmoid else 0)
    y = (values > 0).astype(int)
    result = attacks.get(spec).bind(model).run(x, y)
    assert np.isfinite(result.x_adv).all() and result.success.all()
    if spec != "pgd:eps=0.4":
        order = math.inf if spec.startswith("fab") else 2
        dual = 1 if order == math.inf else 2
        expected = np.abs(values) / np.linalg.norm(kernel, dual)
        np.testing.assert_allclose(result.distance(order), expected, rtol=0.1)


# ---- misclassified samples ------------------------------------------------------------------


@pytest.mark.slow
def test_a_batch_that_is_wrong_throughout(random_linear):
    """AutoAttack issue 81: Square failed; Foolbox issue 670: HopSkipJump returned NaN or hung."""
    classifier, x, y = random_linear
    wrong = (y + 1) % 6
    for spec in ("square:eps=0.1", "hsja:max_iter=2", "boundary:max_iter=3", "apgd:eps=0.1"):
        result = attacks.get(spec).bind(classifier).run(x, wrong)
        assert result.initially_adversarial.all() and result.success.all()
        assert np.abs(result.x_adv - x).max() <= (0.1 + 1e-6 if "eps" in spec else 0)
        assert (result.distance(2) == 0).all()
    report = kerasrobust.evaluate(classifier, x, wrong, attacks="autoattack", eps=0.1)
    assert report.robust_accuracy == 0


def test_a_misclassified_sample_is_left_alone(random_linear):
    """torchattacks issue 51: DeepFool's perturbation of it was the image itself."""
    classifier, x, y = random_linear
    y = np.where(np.arange(8) == 2, (y + 1) % 6, y)
    moved = attacks.get("deepfool").bind(classifier).generate(x, y)
    np.testing.assert_array_equal(moved[2], x[2])
    assert (np.abs(np.delete(moved - x, 2, axis=0)).reshape(7, -1).max(axis=1) > 0).all()


def test_the_models_own_labels_can_be_attacked(random_linear):
    """Foolbox issue 55: samples that the model gets wrong could not be attacked at all."""
    classifier, x, y = random_linear
    result = attacks.get("deepfool").bind(classifier).run(x)
    assert not result.initially_adversarial.any() and result.success.all()
    assert (result.labels != y).all()


# ---- shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        "hsja:max_iter=2,max_eval=40,init_eval=20",
        pytest.param("boundary:max_iter=5", marks=pytest.mark.slow),
        pytest.param("signopt:max_iter=1,k=10,num_trial=5", marks=pytest.mark.slow),
        "square:eps=0.3",
        "square:eps=0.9,norm=2",
        "simba:max_iter=60",
        "zoo:max_iter=20,learning_rate=0.1,initial_const=1",
    ],
)
def test_images_that_are_not_square(random_linear, spec):
    """ART issues 288, 297, 924 and 998: HopSkipJump and SimBA wanted squares."""
    classifier, x, y = random_linear
    result = attacks.get(spec).bind(classifier).run(x, y)
    assert result.x_adv.shape == x.shape and result.success.any()


@pytest.mark.parametrize(
    "spec", ["apgd:eps=0.2", "pgd:eps=0.2", "deepfool", "cwl2", "hsja:max_iter=2", "jsma"]
)
def test_one_row_of_a_table(spec):
    """ART issue 2165: APGD failed on a single sample of 29 features."""
    rng = np.random.default_rng(4)
    model = linear(rng.normal(size=(29, 10)))
    x = rng.uniform(0.4, 0.6, (1, 29)).astype(np.float32)
    result = attacks.get(spec).bind(model).run(x, model.predict(x, verbose=0).argmax(axis=1))
    assert result.x_adv.shape == (1, 29) and result.success.all()


@pytest.mark.parametrize("spec", ["square:eps=0.3", "simba", "zoo"])
def test_what_is_made_for_images_says_so(spec):
    """ART issues 60 and 945: Square and ZOO failed inside on rows of a table."""
    model = linear(np.random.default_rng(4).normal(size=(29, 10)))
    x = np.full((2, 29), 0.5, np.float32)
    try:
        result = attacks.get(spec).bind(model).run(x, [0, 0])
    except ValueError as error:
        assert "Received" in str(error) and "image" in str(error)
    else:
        assert result.x_adv.shape == x.shape


@pytest.mark.parametrize(
    "classes", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 8))]
)
def test_autoattack_on_few_classes(classes):
    """AutoAttack issues 70, 76, 79 and 110: nine targets, an index error, no attack that works."""
    rng = np.random.default_rng(5)
    model = linear(rng.normal(size=(24, classes)), shape=(4, 6, 1))
    x = rng.uniform(0.4, 0.6, (6, 4, 6, 1)).astype(np.float32)
    y = model.predict(x, verbose=0).argmax(axis=1)
    # The exact distance says who can be broken.
    kernel = model.layers[-1].get_weights()[0]
    logits = x.reshape(6, -1) @ kernel
    others = np.arange(classes) != y[:, None]
    gaps = logits[np.arange(6), y][:, None] - logits
    weights = np.abs(kernel[:, y].T[:, :, None] - kernel[None]).sum(axis=1)
    distance = np.where(others, gaps / np.where(others, weights, 1), np.inf).min(axis=1)
    eps = float(np.median(distance))
    report = kerasrobust.evaluate(model, x, y, attacks="autoattack", eps=eps, batch_size=6)
    assert report.robust_accuracy == pytest.approx((distance > eps).mean())
    alone = attacks.get("apgd", eps=eps, loss_type="difference_logits_ratio", nb_target_classes=9)
    with pytest.raises(ValueError, match="needs at least 10 classes"):
        alone.bind(model)


# ---- models ---------------------------------------------------------------------------------


def test_a_model_whose_answer_depends_on_its_batch():
    """TRADES issue 3, torchattacks issue 21: batch normalization left in training mode."""

    class Left(keras.layers.BatchNormalization):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    model = keras.Sequential([keras.Input((6,)), Left(), keras.layers.Dense(3)])
    x = np.random.default_rng(6).uniform(0, 1, (40, 6)).astype(np.float32)
    y = model.predict(x, batch_size=40, verbose=0).argmax(axis=1)
    report = kerasrobust.evaluate(model, x, y, attacks="fgsm:eps=0.1", batch_size=8)
    codes = [finding.code for finding in report.findings]
    assert "mixes_samples" in codes and "randomised" not in codes
    # Statistics of a batch that are nearly those of any other, until a sample is alone.
    whole = keras.layers.Lambda(lambda v: (v - keras.ops.mean(v)) / keras.ops.std(v))
    model = keras.Sequential([keras.Input((6,)), whole, keras.layers.Dense(3)])
    alike = np.tile(x[:1], (40, 1)) + np.linspace(0, 1e-3, 40, dtype=np.float32)[:, None]
    x = np.concatenate([x[:4], np.clip(alike, 0, 1)])
    report = kerasrobust.evaluate(model, x, None, attacks="fgsm:eps=0.1")
    assert "mixes_samples" in [finding.code for finding in report.findings]
    # Keras calls its own layer in the mode of the model, whatever mode it was built in.
    inputs = keras.Input((6,))
    hidden = keras.layers.BatchNormalization()(inputs, training=True)
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    report = kerasrobust.evaluate(model, x, None, attacks="fgsm:eps=0.1", batch_size=8)
    assert "mixes_samples" not in [finding.code for finding in report.findings]


def test_weights_and_statistics_stay(digits_model, digits):
    """torchattacks issue 21, ART pull request 2663: an attack changed the model's mode."""
    x, y = digits[0][:10], digits[1][:10]
    moving = [value.numpy().copy() for value in digits_model.non_trainable_variables]
    before = digits_model.predict(x, verbose=0)
    kerasrobust.evaluate(digits_model, x, y, attacks="fgsm:eps=0.3")
    for old, new in zip(moving, digits_model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    np.testing.assert_array_equal(before, digits_model.predict(x, verbose=0))


def test_noise_in_the_model_gives_no_nan():
    """ART issue 307: HopSkipJump divided by a gradient estimate of zero."""

    class Noise(keras.layers.GaussianNoise):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    layers = [Noise(0.3, seed=1), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    x = np.random.default_rng(7).uniform(0.2, 0.8, (5, 4, 4, 1)).astype(np.float32)
    result = attacks.get("hsja:max_iter=3,max_eval=20,init_eval=10").bind(model).run(x)
    assert np.isfinite(result.x_adv).all()


def test_normalised_images_are_told():
    """torchattacks issue 75: images of mean 0 beside a box of 0..1, and 97 % withstood FGSM."""
    model = linear(np.ones((4, 2)))
    x = np.random.default_rng(8).normal(size=(5, 4)).astype(np.float32)
    with pytest.raises(ValueError, match="clip_values"):
        kerasrobust.evaluate(model, x, [0] * 5, attacks="fgsm:eps=0.1")


# ---- what is returned -----------------------------------------------------------------------


def test_the_boundary_attack_keeps_its_nearest_point(random_linear):
    """ART issue 923, Foolbox issue 243: the last point came back, not the nearest; or none."""
    classifier, x, y = random_linear
    reached = []
    for steps in (0, 5, 20, 60):
        result = attacks.get("boundary", max_iter=max(1, steps), seed=3).bind(classifier).run(x, y)
        labels = classifier.predict(result.x_adv).argmax(axis=1)
        np.testing.assert_array_equal(labels != y, result.success)
        reached.append(result.l2)
    assert result.success.all()
    for earlier, later in zip(reached, reached[1:], strict=False):
        assert (later <= earlier + 1e-6).all()


def test_one_perturbation_for_all(random_linear):
    """ART issue 758: the universal perturbation itself, inside its eps, on other samples too."""
    classifier, x, y = random_linear
    result = attacks.get("uap", eps=0.15, delta=0.1, max_iter=3).bind(classifier).run(x, y)
    moved = (result.x_adv - x).reshape(8, -1)
    attacked = ~result.initially_adversarial & result.success
    assert np.abs(moved).max() <= 0.15 * (1 + 1e-5)
    np.testing.assert_allclose(
        moved[attacked], moved[attacked][:1].repeat(attacked.sum(), 0), atol=1e-6
    )


def test_the_worst_case_is_taken_per_sample():
    """AutoAttack issue 45: which of four accuracies is the robust one?"""
    model = linear([[5.0, -5.0], [0.5, -0.5]], [-3.0, 3.0])
    x = np.array([[0.9, 0.9], [0.5, 0.2]], np.float32)
    y = Classifier.of(model).predict(x).argmax(axis=1)
    specs = ["fgsm:eps=0.01", "pgd:eps=0.25"]
    report = kerasrobust.evaluate(model, x, y, attacks=specs)
    rows = np.array([result.success for result in report.samples.results.values()])
    assert rows.any() and not rows[0].all()
    assert report.robust_accuracy == pytest.approx((~rows.any(axis=0)).mean())


def test_the_models_batches_are_those_asked_for(digits):
    """ART issue 105: predictions in batches of 128 whatever the attack's batch size."""
    sizes = []

    def service(batch):
        sizes.append(len(batch))
        return np.eye(10)[digits[1][: len(batch)]] + batch.reshape(len(batch), -1)[:, :10]

    attacks.get("square", eps=0.1, max_iter=5, batch_size=4).bind(service).run(digits[0][:10])
    assert max(sizes) <= 4
