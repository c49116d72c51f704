"""Where a document can be read in several ways: each reading against its formula in NumPy."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust import attacks, defenses
from kerasrobust.defenses import Batch, Context, RobustModel
from kerasrobust.engine.classifier import Classifier

GUIDE = Path(__file__).parent.parent / "docs" / "readings.md"
W = np.array([[0.4, -0.3, 0.1], [-0.2, 0.5, 0.3], [0.6, 0.1, -0.4], [0.0, -0.5, 0.2]], np.float32)
B = np.array([0.1, -0.1, 0.05], np.float32)
ONE_HOT = np.eye(3)
# Arguments, each with its readings, the default first.
DEFENSES = {
    ("nsloss", "dropout"): ("same", "other"),
    ("nsloss", "weights"): ("neuron", "layer"),
    ("jacobian", "power"): ("square", "half_square", "norm"),
    ("superimpose", "beyond_half"): ("fold", "clip", "keep"),
    ("superimpose", "draw_per"): ("image", "batch"),
    ("superimpose", "stop_gradient"): (True, False),
    ("minimax", "norm_over"): ("sample", "batch"),
    ("minimax", "norm"): (2.0, 1.0),
    ("e2sad", "crafting_labels"): ("soft", "hard"),
    ("e2sad", "second_step"): ("entropy", "random_start", "literal"),
    ("vat", "eps"): (None, 1.6),
    ("gda", "keep_original"): (False, True),
}
SMOOTHED = ("fgsm", "bim", "pgd", "mifgsm", "rand_fgsm", "ilc", "gea")
ATTACKS = {
    ("rand_fgsm", "noise"): ("sign", "gaussian"),
    ("rand_fgsm", "alpha"): (None, 0.05),
    ("jsma", "outputs"): ("probabilities", "logits"),
    ("jsma", "theta"): (None, 0.1, -0.1),
    ("vat", "eps"): (None, 1.6),
    ("cwl2", "confidence"): (0.0, 0.05, 0.2),
    **{(name, "attack_labels"): ("hard", "smoothed") for name in SMOOTHED},
}
every_argument = pytest.mark.parametrize(
    ("registry", "key"),
    [*((defenses, key) for key in DEFENSES), *((attacks, key) for key in ATTACKS)],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)


def guide():
    """The rows of the guide: names and arguments that each is about, and its readings."""
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("| document, place "))
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            return
        cell = line.split(" | ")[2]
        subjects, _, readings = cell.partition(": ")
        first, *names = re.findall(r"`(\w+)`", subjects)
        if names:  # an argument of several
            yield [(name, first) for name in names], readings
        else:
            yield [(first, readings.split("`")[1])], readings


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return rng.uniform(0.2, 0.8, (9, 4)).astype("float32"), rng.integers(0, 3, 9)


def regression(gain=1.0):
    """Softmax regression from four inputs to three classes."""
    layer = keras.layers.Dense(3, activation="softmax")
    model = keras.Sequential([keras.Input((4,)), layer])
    model.set_weights([gain * W, gain * B])
    return model


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def predict(x, gain=1.0):
    return softmax(gain * (np.float64(x) @ W + B))


def cross_entropy(labels, x):
    return -(labels * np.log(predict(x))).sum(axis=1)


def smoothed(y, k=0.75):
    return np.where(ONE_HOT[y] > 0, k, (1 - k) / 2)


def climb(x, direction, eps):
    """A sign step along the gradient by the logits, inside the box."""
    return np.clip(x + eps * np.sign(direction @ W.T), 0, 1)


def trained(base, link, points):
    """The loss of a step, and what `prepare` made for it."""
    x, y = (tf.constant(value) for value in points)
    model = RobustModel(base, [link])
    batch = Batch(x, y, y, model.clip_values)
    extras = link.prepare(batch, Context(model, tf.constant(0), x)).extras
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", run_eagerly=True)
    loss = float(model.train_on_batch(*points))
    return loss, {name: value.numpy() for name, value in extras.items()}


# ---- arguments ------------------------------------------------------------------------------


@every_argument
def test_readings_are_told_kept_and_checked(registry, key):
    name, argument = key
    readings = {**DEFENSES, **ATTACKS}[key]
    assert registry.get(name).get_config()[argument] == readings[0]
    for reading in readings:
        config = json.loads(json.dumps(registry.get(name, **{argument: reading}).get_config()))
        assert config[argument] == reading and type(config[argument]) is type(reading)
        assert type(registry.get(name)).from_config(config).get_config() == config
    with pytest.raises(ValueError, match=f"`{argument}` must be .*Received: {argument}='third'"):
        registry.get(name, **{argument: "third"})
    (row,) = [told for subjects, told in guide() if key in subjects]
    for reading in readings:
        assert (f'`"{reading}"' if isinstance(reading, str) else f"`{reading}`") in row


def test_every_row_of_the_guide_is_checked_here():
    told = {subject for subjects, _ in guide() for subject in subjects}
    assert told == {*DEFENSES, *ATTACKS}


def test_budgets_and_confidence_are_the_documents():
    classifier = Classifier(regression())
    assert attacks.get("vat").bind(classifier).eps == 2.1
    assert attacks.get("vat", like="art").bind(classifier).eps == 0.1
    assert defenses.get("vat").length("eps", (0.0, 255.0)) == pytest.approx(2.1 * 255)
    assert attacks.get("cwl2").confidence == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0.9}, "give attack_labels='smoothed' with it. Received: k=0.9"),
        ({"attack_labels": "smoothed", "k": 1.5}, "`k` must be at most 1. Received: k=1.5"),
        ({"attack_labels": "smoothed", "k": 0}, "`k` must be .*Received: k=0"),
        ({"attack_labels": "smoothed", "k": 1 / 3}, "above 1 / 3, .*Received: k=0.33"),
    ],
)
def test_shares_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        attacks.get("pgd", **settings).bind(Classifier(regression()))


def test_the_reference_has_hard_labels_only():
    with pytest.raises(ValueError, match="is run with hard labels. Received: attack_labels='smo"):
        attacks.get("art:bim", attack_labels="smoothed").bind(Classifier(regression()))


# ---- defenses -------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", DEFENSES["nsloss", "weights"])
@pytest.mark.parametrize("dropout", DEFENSES["nsloss", "dropout"])
@pytest.mark.parametrize("mode", ["training", "stateless"])
def test_nsloss(dropout, weights, mode, points):
    x, y = points
    keras.utils.set_random_seed(3)
    hidden = keras.layers.Dense(5, activation="relu", bias_initializer="uniform")
    drop = keras.layers.Dropout(0.5, seed=1)
    base = keras.Sequential([keras.Input((4,)), hidden, drop, keras.layers.Dense(3, "softmax")])
    kernel, bias, last, offset = (np.float64(value) for value in base.get_weights())
    draws = keras.random.SeedGenerator(1)
    np.testing.assert_array_equal(draws.state, drop.seed_generator.state)

    def mask(rows):
        return np.float64(keras.random.dropout(np.ones((rows, 5), "float32"), 0.5, seed=draws))

    def activations(inputs, kept):
        first = np.maximum(inputs @ kernel + bias, 0)
        return first, (first * kept) @ last + offset

    link = defenses.NsLoss(2.0, 0.7, 3, weights=weights, dropout=dropout, batch_norm=mode)
    loss, extras = trained(base, link, points)
    kept = mask(9)
    others = np.repeat(kept, 3, axis=0) if dropout == "same" else mask(27)
    clean = activations(np.float64(x), kept)
    noisy = activations((x[:, None] + extras["nsloss"]).reshape(27, 4), others)
    term = 0.0
    for before, after in zip(clean, noisy, strict=True):
        change = np.abs(after - np.repeat(before, 3, axis=0))
        active = np.abs(before).mean(axis=0)
        term += (change * (active / active.mean() if weights == "layer" else 1)).mean() / 0.7
    entropy = -np.log(softmax(clean[1])[np.arange(9), y]).mean()
    np.testing.assert_allclose(loss, entropy + 2.0 * term, atol=1e-6)


def test_nsloss_repeats_draws_that_an_outer_link_has_made(points):
    """The Jacobian penalty makes the clean pass first; the masks are its masks."""
    terms = []
    for dropout in ("same", "other"):
        keras.utils.set_random_seed(3)
        layers = [
            keras.layers.Dense(5, activation="relu"),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(3, "softmax"),
        ]
        losses = []
        for weight in (0.0, 1.0):
            base = keras.Sequential([keras.Input((4,)), *layers])
            layers[1].seed_generator.state.assign([1, 0])
            links = [defenses.NsLoss(weight, 1e-4, 2, dropout=dropout), defenses.Jacobian()]
            model = RobustModel(base, links)
            model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
            model.optimizer.learning_rate = 0.0
            losses.append(float(model.train_on_batch(*points)))
            # One draw for the clean pass, and for other masks one for the noisy pass.
            drawn = 1 if dropout == "same" else 2
            assert int(layers[1].seed_generator.state.numpy()[1]) == drawn
        terms.append(losses[1] - losses[0])
    assert terms[0] < 3.0 < 100 < terms[1]


@pytest.mark.parametrize("power", DEFENSES["jacobian", "power"])
def test_jacobian(power, points):
    """The Jacobian of a linear model is its kernel."""
    x, y = points
    square = np.float64((W**2).sum())
    term = {"norm": np.sqrt(square), "square": square, "half_square": square / 2}[power]
    loss, _ = trained(regression(), defenses.Jacobian(0.7, power=power), points)
    np.testing.assert_allclose(loss, cross_entropy(ONE_HOT[y], x).mean() + 0.7 * term, atol=1e-6)


def test_the_norm_of_no_jacobian_has_no_gradient(points):
    base = regression(0.0)
    model = RobustModel(base, [defenses.Jacobian(0.7, power="norm")])
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(*points)
    x, y = np.float64(points[0]), points[1]
    step = x.T @ (1 / 3 - ONE_HOT[y]) / 9
    np.testing.assert_allclose(base.get_weights()[0], -step, atol=1e-6)


@pytest.mark.parametrize("beyond_half", DEFENSES["superimpose", "beyond_half"])
def test_superimpose(beyond_half, points):
    x, y = points
    drawn = trained(regression(), defenses.Superimpose(p=4, q=2, beyond_half="keep"), points)[1]
    other, alpha = drawn["superimpose"], np.float64(drawn["superimpose_alpha"])
    assert 2 < (alpha > 0.5).sum() < 9
    alpha = {
        "keep": alpha,
        "fold": np.where(alpha > 0.5, 1 - alpha, alpha),
        "clip": np.minimum(alpha, 0.5),
    }[beyond_half][:, None]
    loss, _ = trained(regression(), defenses.Superimpose(p=4, q=2, beyond_half=beyond_half), points)
    p, q = predict(x), predict((1 - alpha) * x + alpha * other)
    values = cross_entropy(ONE_HOT[y], x) + 10 * (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(loss, values.mean(), atol=1e-6)


@pytest.mark.parametrize("draw_per", DEFENSES["superimpose", "draw_per"])
def test_superimpose_draws(draw_per, points):
    """For each image, or one for all; the loss is that of the shares that were drawn."""
    x, y = points
    link = defenses.Superimpose(p=2, q=4, draw_per=draw_per)
    loss, drawn = trained(regression(), link, points)
    other, alpha = drawn["superimpose"], np.float64(drawn["superimpose_alpha"])
    assert len(np.unique(alpha)) == {"image": 9, "batch": 1}[draw_per]
    p, q = predict(x), predict((1 - alpha)[:, None] * x + alpha[:, None] * other)
    values = cross_entropy(ONE_HOT[y], x) + 10 * (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(loss, values.mean(), atol=1e-6)


@pytest.mark.parametrize("stop_gradient", DEFENSES["superimpose", "stop_gradient"])
def test_superimpose_gradient(stop_gradient, points):
    """The loss is the same; a step of SGD shows whether the clean side has a gradient."""
    x, y = np.float64(points[0]), points[1]
    base = regression()
    link = defenses.Superimpose(0.3, kl_weight=2.0, stop_gradient=stop_gradient)
    model = RobustModel(base, [link])
    batch = Batch(*(tf.constant(value) for value in (points[0], y, y)), model.clip_values)
    other = link.prepare(batch, Context(model, tf.constant(0), batch.x)).extras["superimpose"]
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(*points)
    mixed = 0.7 * x + 0.3 * np.float64(other)
    p, q = predict(x), predict(mixed)
    clean = p - ONE_HOT[y]
    if not stop_gradient:  # of sum p log(p / q) by the logits of p
        ratio = np.log(p / q)
        clean += 2.0 * p * (ratio - (p * ratio).sum(axis=1, keepdims=True))
    step = (x.T @ clean + mixed.T @ (2.0 * (q - p))) / 9
    np.testing.assert_allclose(base.get_weights()[0], W - step, atol=1e-6)


@pytest.mark.parametrize("keep_original", DEFENSES["gda", "keep_original"])
def test_gaussian_data_augmentation(keep_original, points):
    x, y = points
    link = defenses.GaussianDataAugmentation(0.2, 3, keep_original=keep_original)
    loss, drawn = trained(regression(), link, points)
    copies = np.clip(np.float64(x)[:, None] + drawn["gda"], 0, 1)
    values = [cross_entropy(ONE_HOT[y], copies[:, i]) for i in range(3)]
    if keep_original:
        values.append(cross_entropy(ONE_HOT[y], x))
    np.testing.assert_allclose(loss, np.mean(values), atol=1e-6)


def wide_regression():
    """With so many inputs that steps of 2.1 stay inside the box, and the samples in its middle."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(400, 3)).astype("float32")
    model = keras.Sequential([keras.Input((400,)), keras.layers.Dense(3, activation="softmax")])
    model.set_weights([kernel, B])
    x = (0.5 + 0.01 * rng.normal(size=(5, 400))).astype("float32")
    return model, x, lambda at: softmax(np.float64(at) @ kernel + B), np.float64(kernel)


@pytest.mark.parametrize("eps", DEFENSES["vat", "eps"])
def test_virtual_adversarial_training(eps):
    """One power iteration from the direction that was drawn, and the loss there."""
    base, x, of, kernel = wide_regression()
    y = np.arange(5) % 3
    link = defenses.VirtualAdversarialTraining(eps, max_iter=1)
    model = RobustModel(base, [link])
    context = Context(model, tf.constant(0), tf.constant(x))
    drawn = tf.random.stateless_normal(x.shape, context.seed("vat")).numpy().astype(float)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    # The divergence of linear logits, by the inputs: W (p(x + r) - p(x)).
    gradient = (of(x + 0.1 * drawn) - of(x)) @ kernel.T
    length = 2.1 if eps is None else eps
    moved = x + length * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    loss, extras = trained(base, link, (x, y))
    np.testing.assert_allclose(extras["vat"], moved, atol=1e-6)
    p, q = of(x), of(extras["vat"])
    values = -np.log(p[np.arange(5), y]) + (p * np.log(p / q)).sum(axis=1)
    np.testing.assert_allclose(loss, values.mean(), rtol=1e-6)


@pytest.mark.parametrize("norm", DEFENSES["minimax", "norm"])
@pytest.mark.parametrize("norm_over", DEFENSES["minimax", "norm_over"])
def test_minimax(norm_over, norm, points):
    x, y = points
    moved = climb(x, predict(x) - ONE_HOT[y], 0.3)
    gradient = (predict(moved) - ONE_HOT[y]) @ W.T
    if norm_over == "sample":
        length = np.linalg.norm(gradient, norm, axis=1).mean()
    else:  # eq. 2.8: N times the norm of the gradient of the mean
        length = 9 * np.linalg.norm((gradient / 9).reshape(-1), norm)
    loss, _ = trained(regression(), defenses.Minimax(0.3, 0.25, norm, norm_over=norm_over), points)
    clean, adversarial = (cross_entropy(ONE_HOT[y], at).mean() for at in (x, moved))
    expected = 0.25 * clean + 0.75 * (adversarial + 0.3 / 2 * length)
    np.testing.assert_allclose(loss, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("crafting_labels", "second_step"),
    # What the soft ones do at a random start and to the letter is in the tests of the defense.
    [("soft", "entropy"), ("hard", "entropy"), ("hard", "literal"), ("hard", "random_start")],
)
def test_e2sad(crafting_labels, second_step, points):
    x, y = points
    soft, hard = smoothed(y, 0.6), ONE_HOT[y]
    first = climb(x, predict(x) - (soft if crafting_labels == "soft" else hard), 0.2)
    p = predict(first)
    if crafting_labels == "soft":  # the gradient of the entropy by the logits
        direction = -p * (np.log(p) - (p * np.log(p)).sum(axis=1, keepdims=True))
    else:  # away from the class that is likeliest at the first point; at another one, hardly moved
        direction = p - ONE_HOT[p.argmax(axis=1)]
    second = climb(first, direction, 0.1)
    link = defenses.E2sad(
        0.3, 0.4, 0.2, 0.1, 0.6, second_step, crafting_labels=crafting_labels, xi=1e-3
    )
    loss, extras = trained(regression(), link, points)
    np.testing.assert_allclose(extras["e2sad_first"], first, atol=1e-6)
    np.testing.assert_allclose(extras["e2sad_second"], second, atol=1e-6)
    apart = -(p * np.log(predict(second))).sum(axis=1)
    values = 0.3 * cross_entropy(soft, x) + 0.7 * cross_entropy(soft, first) + 0.4 * apart
    np.testing.assert_allclose(loss, values.mean(), atol=1e-6)


def test_hard_and_soft_labels_craft_different_points(points):
    """Where the model is surer of the class than the labels."""
    x, _ = points
    y = predict(x, 20).argmax(axis=1)
    first = {}
    for how in ("soft", "hard"):
        link = defenses.E2sad(eps1=0.1, crafting_labels=how)
        first[how] = trained(regression(20.0), link, (x, y))[1]["e2sad_first"]
    sure = predict(x, 20).max(axis=1) > 0.75
    apart = np.abs(first["soft"] - first["hard"]).max(axis=1) > 0.1
    assert sure.any() and apart[sure].all()


# ---- attacks --------------------------------------------------------------------------------


def crafted(model, x, y, spec, **settings):
    attack = attacks.get(spec, **settings).bind(model)
    seed = tf.constant([0, 0])
    return attack.perturb(tf.constant(x), tf.constant(y), seed=seed).numpy()


@pytest.mark.parametrize("attack_labels", ["hard", "smoothed"])
@pytest.mark.parametrize("gain", [1.0, 20.0])
@pytest.mark.parametrize("name", SMOOTHED)
def test_labels_of_an_attack(name, gain, attack_labels, points):
    """Two steps of 0.02 by the gradient `p - q`; below and above the share that labels give."""
    x, _ = points
    y = predict(x).argmax(axis=1)
    settings = {"attack_labels": attack_labels, "eps": 0.2}
    if attack_labels == "smoothed":
        settings["k"] = 0.6
    steps, length, sign, goal = 2, 0.02, 1, y
    if name in ("fgsm", "rand_fgsm"):
        steps, length = 1, 0.2
    else:
        settings |= {"eps_step": 0.02, "max_iter": 2}
    if name == "ilc":
        sign, goal = -1, predict(x).argmin(axis=1)
    if name == "mifgsm":
        settings["decay"] = 0.0
    if name == "rand_fgsm":
        settings["alpha"] = 0.0
    q = ONE_HOT[goal] if attack_labels == "hard" else smoothed(goal, 0.6)
    expected = np.float64(x)
    for _ in range(steps):
        expected = climb(expected, sign * (predict(expected, gain) - q), length)
    model = Classifier(regression(gain))
    model = [model] if name == "gea" else model
    np.testing.assert_allclose(crafted(model, x, y, name, **settings), expected, atol=1e-6)


def test_smoothed_labels_in_l2_towards_a_target_and_with_the_whole_share(points):
    x, y = points
    target = (y + 1) % 3
    classifier = Classifier(regression())
    gradient = (predict(x) - smoothed(target)) @ W.T
    expected = x - 0.1 * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    settings = {"eps": 0.1, "norm": 2, "targeted": True, "attack_labels": "smoothed"}
    got = crafted(classifier, x, target, "fgsm", **settings)  # k is 0.75
    np.testing.assert_allclose(got, expected, atol=1e-6)
    hard = crafted(classifier, x, y, "fgsm", eps=0.1)
    whole = crafted(classifier, x, y, "fgsm", eps=0.1, attack_labels="smoothed", k=1.0)
    np.testing.assert_array_equal(whole, hard)


@pytest.mark.parametrize("noise", ATTACKS["rand_fgsm", "noise"])
def test_random_fgsm(noise, points):
    x, y = points
    classifier = Classifier(regression())
    settings = {"alpha": 0.05, "noise": noise}
    start = crafted(classifier, x, y, "rand_fgsm", eps=0.05, **settings)  # nothing is left
    size = np.abs(start - x)
    assert size.max() <= 0.05 + 1e-6
    at_most = np.isclose(size, 0.05, atol=1e-6).mean()
    # Half a normal number is beyond one with a probability of 0.046.
    assert at_most == 1.0 if noise == "sign" else at_most < 0.3
    expected = climb(start, predict(start) - ONE_HOT[y], 0.15)
    got = crafted(classifier, x, y, "rand_fgsm", eps=0.2, **settings)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("alpha", ATTACKS["rand_fgsm", "alpha"])
def test_random_step_of_fgsm(alpha, points):
    """The budget less the random step, which is a tenth of it where it is left out."""
    x, y = points
    classifier = Classifier(regression())
    length = 0.02 if alpha is None else alpha
    start = crafted(classifier, x, y, "rand_fgsm", eps=length, alpha=length)  # nothing is left
    np.testing.assert_allclose(np.abs(start - x), length, atol=1e-6)
    expected = climb(start, predict(start) - ONE_HOT[y], 0.2 - length)
    got = crafted(classifier, x, y, "rand_fgsm", eps=0.2, alpha=alpha)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("eps", ATTACKS["vat", "eps"])
def test_virtual_adversary(eps):
    """As long as the budget, in a direction that one more power iteration does not change."""
    base, x, of, kernel = wide_regression()
    settings = {"eps": eps, "max_iter": 40, "finite_diff": 0.1}
    got = crafted(Classifier(base), x, np.zeros(5, int), "vat", **settings)
    delta = np.float64(got) - x
    length = np.linalg.norm(delta, axis=1, keepdims=True)
    np.testing.assert_allclose(length, 2.1 if eps is None else eps, atol=1e-6)
    # Of a direction and its opposite the attack takes the one that moves the prediction more.
    gaps = []
    for direction in (delta / length, -delta / length):
        gradient = (of(x + 0.1 * direction) - of(x)) @ kernel.T
        gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
        gaps.append(np.abs(gradient - direction).max(axis=1))
    np.testing.assert_allclose(np.minimum(*gaps), 0, atol=1e-6)


@pytest.mark.parametrize("confidence", ATTACKS["cwl2", "confidence"])
def test_confidence_of_carlini(confidence, points):
    """Adam on the squared distance and the hinge: the nearest iterate that leads by so much."""
    x, _ = points
    y = predict(x).argmax(axis=1)
    rate, steps, constant = 0.4, 6, 4.0
    kept = float(np.float32(0.999))  # 1 - kept is the first correction: rounding shows there
    w = np.arctanh((2 * np.float64(x) - 1) * 0.999999)
    mean, square = np.zeros_like(w), np.zeros_like(w)
    best, nearest = np.float64(x), np.full(9, np.inf)
    for k in range(1, steps + 1):
        at = (np.tanh(w) + 1) / 2
        logits = at @ np.float64(W) + B
        others = np.where(ONE_HOT[y] > 0, -np.inf, logits)
        second, rows = others.argmax(axis=1), np.arange(9)
        hinge = logits[rows, y] - logits[rows, second] + confidence
        far = np.linalg.norm(at - x, axis=1)
        closer = (hinge < 0) & (far < nearest)
        best[closer], nearest[closer] = at[closer], far[closer]
        slope = (W[:, y] - W[:, second]).T * (constant * (hinge > 0))[:, None] + 2 * (at - x)
        slope = slope * (1 - np.tanh(w) ** 2) / 2
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        scaled = (mean / (1 - 0.9**k)) / (np.sqrt(square / (1 - kept**k)) + 1e-8)
        w = w - rate * scaled
    assert np.isfinite(nearest).sum() >= 3
    settings = {"learning_rate": rate, "max_iter": steps, "initial_const": constant}
    settings |= {"binary_search_steps": 1, "abort_early": False, "confidence": confidence}
    got = crafted(Classifier(regression()), x, y, "cwl2", **settings)
    np.testing.assert_allclose(got, best, atol=1e-6)


@pytest.mark.parametrize("theta", ATTACKS["jsma", "theta"])
@pytest.mark.parametrize("outputs", ATTACKS["jsma", "outputs"])
def test_saliency_map(outputs, theta, points):
    """The first pair; a step that is left out goes to the upper end of the range."""
    x, y = points
    goal, step = (y + 1) % 3, 1.0 if theta is None else theta
    p = predict(x)
    jacobian = np.tile(np.float64(W.T), (9, 1, 1))
    if outputs == "probabilities":
        jacobian = p[:, :, None] * (jacobian - (p @ W.T)[:, None])
    attack = attacks.get("jsma", theta=theta, gamma=0.5, targeted=True, outputs=outputs)
    attack = attack.bind(Classifier(regression()))
    attack.max_steps = lambda: 1
    got = attack.perturb(tf.constant(x), tf.constant(goal), seed=tf.constant([0, 0])).numpy()
    for row in range(9):
        if predict(x[row : row + 1]).argmax() == goal[row]:
            np.testing.assert_array_equal(got[row], x[row])
            continue
        gain = np.sign(step) * jacobian[row, goal[row]]
        loss = -np.sign(step) * (jacobian[row].sum(axis=0) - jacobian[row, goal[row]])
        sums = [
            (gain[list(pair)].sum(), loss[list(pair)].sum(), pair)
            for pair in itertools.combinations(range(4), 2)
        ]
        # Pairs that gain and take from the others before those that do both together.
        ranked = [(1, a * b, pair) if a > 0 and b > 0 else (0, a + b, pair) for a, b, pair in sums]
        proper, salience, pair = max(ranked)
        expected = np.float64(x[row])
        expected[list(pair)] += step if proper or salience > 0 else 0.0
        np.testing.assert_allclose(got[row], expected.clip(0, 1), atol=1e-6)


# ---- what an evaluation says of it ----------------------------------------------------------


def test_an_attack_on_smoothed_labels_is_told_to_be_weaker():
    rng = np.random.default_rng(1)
    x = rng.uniform(0.2, 0.8, (60, 4)).astype("float32")
    y = predict(x, 20).argmax(axis=1)
    left = {}
    for how, q in (("hard", ONE_HOT[y]), ("smoothed", smoothed(y))):
        moved = climb(x, predict(x, 20) - q, 0.15)
        left[how] = predict(moved, 20).argmax(axis=1) == y
    asked = np.arange(60)[::2]  # on 32 at most
    assert left["smoothed"][asked].sum() > left["hard"][asked].sum() + 5
    specs = ["fgsm:eps=0.15,attack_labels=smoothed", "fgsm:eps=0.15"]
    report = kerasrobust.evaluate(regression(20.0), x, y, attacks=specs)
    assert report.attacks["fgsm"].accuracy == pytest.approx(left["smoothed"].mean())
    assert report.attacks["fgsm_2"].accuracy == pytest.approx(left["hard"].mean())
    (finding,) = [found for found in report.findings if found.code == "smoothed_labels"]
    counts = (left[how][asked].sum() for how in ("smoothed", "hard"))
    assert "fgsm climbed the loss of labels that give the class only 0.75" in finding.message
    assert "Of 30 samples it left {}, and the same attack with hard labels {}.".format(*counts) in (
        finding.message
    )


def test_smoothed_labels_of_samples_that_were_lost_before():
    """Nothing is left to compare with, and the finding says no figures."""
    x = np.random.default_rng(1).uniform(0.2, 0.8, (6, 4)).astype("float32")
    wrong = (predict(x).argmax(axis=1) + 1) % predict(x).shape[1]
    report = kerasrobust.evaluate(
        regression(), x, wrong, attacks="fgsm:eps=0.1,attack_labels=smoothed"
    )
    (finding,) = [found for found in report.findings if found.code == "smoothed_labels"]
    assert "it left" not in finding.message
