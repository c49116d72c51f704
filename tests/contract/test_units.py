"""The unit of the inputs changes nothing: 0..1, 0..255 and -1..1, with a layer in front.

Attacks, training defenses and presets are run on the same images in each unit, against models that
compute the same. Nothing but rounding may differ.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import test_attacks
import test_defenses

import kerasrobust
from kerasrobust import attacks, defenses
from kerasrobust.defenses import wrap
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import presets

N = 12
# Lower and upper bound, and what brings pixels from there to 0..1.
UNITS = {
    "bytes": ((0.0, 255.0), {"scale": 1 / 255}),
    "signed": ((-1.0, 1.0), {"scale": 0.5, "offset": 0.5}),
}
every_unit = pytest.mark.parametrize(
    "unit", ["bytes", pytest.param("signed", marks=pytest.mark.slow)]
)
# Attacks tried by default; the others' two runs take a minute together.
TRIED = ("fgsm", "pgd", "cwl2", "square", "hsja", "ddn")
# What makes a default attack quick enough, lengths apart.
QUICK = {
    "cwl2": {"max_iter": 20, "binary_search_steps": 4},
    "ead": {"max_iter": 20, "binary_search_steps": 5},
    "cwlinf": {"max_iter": 10},
    "cwl0": {"max_iter": 10, "binary_search_steps": 3},
    "uap": {"max_iter": 2},
    "hsja": {"max_iter": 2, "max_eval": 50, "init_eval": 50},
    "boundary": {"max_iter": 5},
    "signopt": {"max_iter": 2, "k": 20, "num_trial": 5},
    "simba": {"max_iter": 50},
    # Longer steps enlarge what rounding does to its differences.
    "zoo": {"max_iter": 10, "nb_parallel": 32, "learning_rate": 0.01},
    "apgd": {"max_iter": 10, "nb_random_init": 1},
    "fab": {"max_iter": 10},
    "ddn": {"max_iter": 20},
    "fmn": {"max_iter": 20},
    "alma": {"max_iter": 20},
    "sigma_zero": {"max_iter": 20},
}
# Beside their first rows: lengths that only these settings use.
OTHERS = [
    ("cwl2", {"max_iter": 10, "restarts": 1, "gradient_samples": 2, "binary_search_steps": 2}),
    ("fgsm", {"minimal": True}),
    ("rand_fgsm", {"noise": "gaussian"}),
]


def behind(model: keras.Model, unit: str) -> keras.Model:
    """The model, for inputs in another unit."""
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, model(keras.layers.Rescaling(**UNITS[unit][1])(inputs)))


def as_unit(x: np.ndarray, unit: str) -> np.ndarray:
    low, high = UNITS[unit][0]
    return (low + (high - low) * x.astype(np.float64)).astype(np.float32)


def scaled(settings: dict, names, unit: str) -> dict:
    """Settings with their lengths in another unit."""
    low, high = UNITS[unit][0]
    return {
        key: (high - low) * value if key in names and value is not None else value
        for key, value in settings.items()
    }


@pytest.fixture(scope="module")
def classifiers(digits_model):
    """Held for the whole module: the same model in each unit."""
    others = {unit: Classifier(behind(digits_model, unit), UNITS[unit][0]) for unit in UNITS}
    return {"unit": Classifier(digits_model, (0, 1)), **others}


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:N], digits[1][:N]


def check_same(one, other, unit):
    """Two results in 0..1 and in another unit."""
    low, high = UNITS[unit][0]
    np.testing.assert_array_equal(one.success, other.success)
    np.testing.assert_array_equal(one.labels, other.labels)
    found = (other.x_adv - low) / (high - low)
    # A rounding error at a kink of a network may send one sample another way.
    apart = np.abs(one.x_adv - found).reshape(len(found), -1).max(axis=1)
    assert np.sort(apart)[-2] < 1e-3, apart
    for norm in ("l1", "l2", "linf"):
        mine, others = getattr(one, norm), getattr(other, norm)
        finite = np.isfinite(mine)
        ratio = np.median(others[finite] / (high - low)) - np.median(mine[finite])
        assert not finite.any() or abs(ratio) < 1e-3


@test_attacks.rows(test_attacks.KINDS)
def test_attack_with_lengths_given(row, classifiers, samples):
    name, settings = row
    x, y = samples
    if name == "transfer":
        return  # below
    kind = type(attacks.get(name))
    one = attacks.get(name, **settings).bind(classifiers["unit"]).run(x, y)
    settings = scaled(settings, kind.lengths, "bytes")
    other = attacks.get(name, **settings).bind(classifiers["bytes"]).run(as_unit(x, "bytes"), y)
    check_same(one, other, "bytes")


@every_unit
@pytest.mark.parametrize(
    "row",
    [
        pytest.param((name, settings), marks=[pytest.mark.slow] * (name not in TRIED))
        for name, settings in [(n, QUICK.get(n, {})) for n, _ in test_attacks.FIRST_ROWS] + OTHERS
    ],
    ids=lambda row: "-".join([row[0], *row[1]]),
)
def test_attack_with_its_defaults(row, unit, classifiers, samples):
    name, settings = row
    x, y = samples
    if name == "transfer":
        settings = [{"sources": [classifiers[kind].model]} for kind in ("unit", unit)]
        # A source has no bounds of its own.
        settings = [{**own, "attack": "pgd:max_iter=5"} for own in settings]
    else:
        settings = [settings, settings]
    one = attacks.get(name, **settings[0]).bind(classifiers["unit"]).run(x, y)
    other = attacks.get(name, **settings[1]).bind(classifiers[unit]).run(as_unit(x, unit), y)
    check_same(one, other, unit)
    low, high = UNITS[unit][0]
    for length, share in type(attacks.get(name)).lengths.items():
        if share is not None:
            assert other.config[length] == pytest.approx(share * (high - low))


def test_what_was_not_changed_is_exactly_the_sample(classifiers, samples):
    """On the way to 0..1 and back nothing is rounded that the attack left alone."""
    x = np.random.default_rng(0).uniform(0, 255, (N, 8, 8, 1)).astype(np.float32)
    mask = np.zeros((8, 8, 1))
    mask[2:6, 2:6] = 1
    for name in ("pgd", "jsma", "hsja:max_iter=1,max_eval=20,init_eval=20"):
        moved = attacks.get(name).bind(classifiers["bytes"]).run(x, mask=mask).x_adv
        np.testing.assert_array_equal(moved[:, :2], x[:, :2])
        assert (moved[:, 2:6, 2:6] != x[:, 2:6, 2:6]).any()


def test_perturb_in_a_graph(classifiers, samples):
    import tensorflow as tf

    x, y = samples
    seed, y = tf.constant([1, 2]), tf.constant(y)
    points = []
    for unit, factor in (("unit", 1.0), ("bytes", 255.0)):
        attack = attacks.get("pgd", eps=0.2 * factor, max_iter=5, num_random_init=1)
        bound = attack.bind(classifiers[unit])
        perturb = tf.function(functools.partial(bound.perturb, y=y, seed=seed), autograph=False)
        points.append(perturb(tf.constant(factor * x)).numpy() / factor)
    np.testing.assert_allclose(points[0], points[1], atol=1e-4)
    assert np.abs(points[0] - x).max() > 0.1


# ---- training -------------------------------------------------------------------------------


@every_unit
@pytest.mark.parametrize("given", [True, False], ids=["given", "default"])
@pytest.mark.parametrize("name", test_defenses.TABLE)
def test_training(name, given, unit):
    """Two steps end at the same weights."""
    rng = np.random.default_rng(1)
    x = (rng.integers(25, 230, (6, 6, 6, 1)) / 255).astype(np.float32)
    y = rng.integers(0, 3, 6)
    kind = type(defenses.get(name))
    own = dict(test_defenses.TABLE[name].settings)
    if not given:
        own = {key: value for key, value in own.items() if key not in kind.lengths}
        if name == "adversarial_training":
            own["attack"] = "pgd:max_iter=2"
        if name == "ensemble_adversarial_training":
            own["attacks"] = ["pgd:max_iter=2", "ead:max_iter=3,binary_search_steps=2"]
    ends = []
    for other in (None, unit):
        settings = own if other is None else scaled(own, kind.lengths, other)
        if other is not None and given:
            settings = _inner_scaled(settings, other)
        base = test_defenses.make()
        if name == "distillation":
            teacher = test_defenses.make(seed=8)
            settings = {**settings, "teacher": behind(teacher, other) if other else teacher}
        bounds = (0, 1) if other is None else UNITS[other][0]
        model = wrap(
            base if other is None else behind(base, other),
            name,
            **settings,
            seed=3,
            clip_values=bounds,
        )
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.run_eagerly = True
        before = [value.numpy() for value in base.trainable_weights]
        for _ in range(2):
            model.train_on_batch(x if other is None else as_unit(x, other), y)
        after = [value.numpy() for value in base.trainable_weights]
        ends.append([new - old for new, old in zip(after, before, strict=True)])
    for one, other in zip(*ends, strict=True):
        size = np.abs(one).max()
        assert size > 0
        np.testing.assert_allclose(one, other, atol=0.01 * size + 1e-5)


def _inner_scaled(settings: dict, unit: str) -> dict:
    """The lengths of the attacks that a defense crafts with."""

    def attack(described):
        lengths = type(attacks.get(described)).lengths
        return {**described, "config": scaled(described["config"], lengths, unit)}

    if "attack" in settings:
        settings = {**settings, "attack": attack(settings["attack"])}
    if "attacks" in settings:
        settings = {**settings, "attacks": [attack(one) for one in settings["attacks"]]}
    return settings


def test_the_attacks_of_the_ensemble_by_default():
    x = np.random.default_rng(0).uniform(0.1, 0.9, (3, 6, 6, 1)).astype(np.float32)
    points = []
    for unit in (None, "bytes"):
        base = test_defenses.make()
        model = wrap(
            behind(base, unit) if unit else base,
            "ensemble_adversarial_training",
            clip_values=UNITS[unit][0] if unit else (0, 1),
        )
        link = model.defenses[0]
        link.attacks = link.attacks[:1]
        model.compile("sgd", "sparse_categorical_crossentropy")
        from kerasrobust.defenses.training import ensemble_adversarial_training as module

        assert module._of_paper(255.0)[0]["config"]["eps_step"] == pytest.approx(2.55)
        points.append(link.get_config()["attacks"])
    assert points == [None, None] and len(x) == 3


# ---- presets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preset",
    [
        name if name == "areb" else pytest.param(name, marks=pytest.mark.slow)
        for name in presets.names()
    ],
)
def test_preset(preset, classifiers, samples):
    x, y = samples
    # Twenty draws per gradient, or 10,000 steps, where that is what the preset is for.
    n = 3 if preset in ("autoattack-rand", "minimal", "nsloss") else 8
    budget = {}
    try:
        presets.get(preset, "mnist")
    except ValueError:  # it has no budget of its own
        budget = {"eps": 0.15}
    figures = []
    for unit, images in (("unit", x[:n]), ("bytes", as_unit(x[:n], "bytes"))):
        width = classifiers[unit].clip_values[1]
        own = {key: value * width for key, value in budget.items()}
        report = kerasrobust.evaluate(
            classifiers[unit], images, y[:n], attacks=preset, dataset="mnist", **own
        )
        rows = {
            name: (row.accuracy, row.success_rate, row.median_l2 / width, row.median_l1 / width)
            for name, row in report.attacks.items()
        }
        figures.append({"": (report.robust_accuracy, 0.0), **rows})
    assert figures[0].keys() == figures[1].keys()
    for name, (left, success, *far) in figures[0].items():
        np.testing.assert_allclose(figures[1][name][:2], (left, success), rtol=2e-3)
        # Rounding grows over a thousand steps; another unit would be a factor of 255.
        np.testing.assert_allclose(figures[1][name][2:], far, rtol=0.05)
