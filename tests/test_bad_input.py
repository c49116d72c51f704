"""Every wrong input gets one clear error before any work is done.

Another Keras backend is in `test_package.py`.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kerasrobust
from kerasrobust import attacks, models
from kerasrobust.checks import check_folder
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation.tuning import Trainer

X = np.random.default_rng(0).random((4, 6, 6, 1)).astype(np.float32)
Y = np.array([0, 1, 2, 0])


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")]
    )


@pytest.fixture(scope="module")
def bytes_model():
    """For pixels of 0..255."""
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)]
    )
    return Classifier(model, (0, 255))


def recipe(name, model, **arguments):
    """An attack; what crafts elsewhere crafts on the model itself here."""
    if attacks.get(name).access == "none":
        arguments["sources"] = [model]
    return attacks.get(name, **arguments)


CHANGED = {"nan": np.where(X > 0.5, np.nan, X), "inf": np.where(X > 0.5, np.inf, X)}

SAMPLES = {
    "shape": (X[:, :5], r"input shape \(n, 6, 6, 1\). Received: x of shape \(4, 5, 6, 1\)"),
    "no channel": (X[..., 0], r"input shape \(n, 6, 6, 1\). Received: x of shape \(4, 6, 6\)"),
    "one sample": (X[0], r"input shape \(n, 6, 6, 1\). Received: x of shape \(6, 6, 1\)"),
    "empty": (X[:0], r"with n >= 1. Received: x of shape \(0, 6, 6, 1\)"),
    "scalar": (0.5, r"batch of samples.*Received: x of shape \(\)"),
    "bytes": ((X * 255).astype(np.uint8), r"bounds clip_values=\(0, 1\). Received: values from"),
    "negative": (X - 0.5, r"bounds clip_values=\(0, 1\). Received: values from -0\.\d+ to"),
    "nan": (CHANGED["nan"], "`x` must be finite. Received: x with NaN or inf"),
    "inf": (CHANGED["inf"], "`x` must be finite. Received: x with NaN or inf"),
    "ragged": ([[1.0, 2.0], [3.0]], "`x` must be an array or a tensor. Received: list"),
}


@pytest.mark.parametrize("case", SAMPLES)
@pytest.mark.parametrize("name", attacks.ATTACKS.builtin)
def test_samples(name, case, model):
    x, message = SAMPLES[case]
    with pytest.raises(ValueError, match=message):
        recipe(name, model).bind(model).generate(x)


@pytest.mark.parametrize("x", [X.astype(str), X.astype(object), X.astype(complex), None])
def test_dtype(x, model):
    with pytest.raises(TypeError, match="`x` must hold numbers. Received: x of dtype"):
        attacks.get("fgsm").bind(model).generate(x)


def test_unit_data_on_a_model_of_bytes(bytes_model):
    attack = attacks.get("fgsm", eps=8).bind(bytes_model)
    message = r"looks like values in 0..1.*clip_values=\(0, 255\):.*Received: values from"
    with pytest.raises(ValueError, match=message):
        attack.generate(X)
    attack.generate(np.zeros_like(X))  # a black image is one in either unit
    attack.generate(np.round(X * 255))


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
@pytest.mark.parametrize("eps", [8 / 255, 0.3, [0.1, 0.2, 0.3, 0.1]])
def test_eps_of_the_unit_range_beside_bytes(name, eps, bytes_model):
    message = r"`eps` does not fit inputs in \(0.0, 255.0\).*Received: eps="
    with pytest.raises(ValueError, match=message):
        attacks.get(name, eps=eps).bind(bytes_model)


def test_eps_of_bytes_beside_the_unit_range(model, bytes_model):
    with pytest.raises(ValueError, match=r"does not fit inputs in \(0.0, 1.0\).*Received: eps=8"):
        attacks.FastGradientMethod(model, eps=8)
    attacks.FastGradientMethod(bytes_model, eps=8)
    attacks.FastGradientMethod(bytes_model, eps=0)
    attacks.FastGradientMethod(model, eps=8, norm=1)  # within reach of 36 pixels


ONE_HOT = "must be one-hot: an attack leaves or reaches one class. .* Received: y of shape"
LABELS = {
    "out of range": ([0, 1, 2, 3], "integers from 0 to 2. Received: labels from 0 to 3"),
    "negative": ([0, 1, 2, -1], "integers from 0 to 2. Received: labels from -1 to 2"),
    "too few": ([0, 1], r"4 integer labels or one-hot rows. Received: y of shape \(2,\)"),
    "scalar": (1, r"4 integer labels or one-hot rows. Received: y of shape \(\)"),
    "columns": (np.eye(4)[[0, 1, 2, 3]], r"must have 3 columns. Received: y of shape \(4, 4\)"),
    "soft": (np.full((4, 3), 1 / 3), ONE_HOT),
    "two hot": (np.ones((4, 3), int), ONE_HOT),
    "fraction": ([0.5, 1, 2, 0], "must hold integer labels. Received: y of shape"),
    "nan": ([np.nan, 1, 2, 0], "must hold integer labels. Received: y of shape"),
    "text": (["a", "b", "c", "d"], "4 integer labels or one-hot rows. Received: y of shape"),
    "rank": (np.zeros((4, 3, 1)), r"4 integer labels or one-hot.*shape \(4, 3, 1\)"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(case, model):
    y, message = LABELS[case]
    with pytest.raises(ValueError, match=message):
        attacks.get("fgsm").bind(model).generate(X, y)


@pytest.mark.parametrize("shape", [(6, 6, 2), (5, 6, 6, 1), (4,), (2, 4, 6, 6, 1)])
def test_mask_of_a_wrong_shape(shape, model):
    message = r"`mask` must have the shape \(4, 6, 6, 1\) or \(6, 6, 1\). Received: mask of shape"
    with pytest.raises(ValueError, match=message):
        attacks.get("fgsm").bind(model).generate(X, Y, mask=np.ones(shape))


@pytest.mark.parametrize("mask", [np.full((6, 6, 1), 0.5), np.full((6, 6, 1), np.nan), "all"])
def test_mask_values(mask, model):
    with pytest.raises(ValueError, match="`mask` must hold zeros and ones only: .* Received:"):
        attacks.get("fgsm").bind(model).generate(X, Y, mask=mask)


ARGUMENTS = {
    "negative eps": ("pgd", {"eps": -0.1}, "`eps` must be a number >= 0. Received: eps=-0.1"),
    "negative eps of one": ("pgd", {"eps": [0.1, -1]}, "`eps` must hold finite numbers >= 0"),
    "nan eps": ("pgd", {"eps": np.nan}, "`eps` must be a number >= 0. Received: eps=nan"),
    "text eps": ("fgsm", {"eps": "big"}, "`eps` must be a number >= 0. Received: eps='big'"),
    "eps_step": ("pgd", {"eps_step": -1}, "`eps_step` must be a number >= 0. Received: eps_step"),
    "norm": ("pgd", {"norm": 3}, "`norm` must be one of 1, 2, inf. Received: norm=3"),
    "norm of hsja": ("hsja", {"norm": 1}, "`norm` must be one of 2, inf. Received: norm=1"),
    "max_iter": ("pgd", {"max_iter": 0}, "`max_iter` must be an integer >= 1. Received: max_iter"),
    "seed": ("pgd", {"seed": -1}, "`seed` must be an integer >= 0. Received: seed=-1"),
    "large seed": ("pgd", {"seed": 2**32}, r"smaller than 2\*\*32. Received: seed=4294967296"),
    "batch_size": ("pgd", {"batch_size": 0}, "`batch_size` must be an integer >= 1. Received:"),
    "targeted": ("pgd", {"targeted": "yes"}, "`targeted` must be True or False. Received:"),
    "jit": ("pgd", {"jit_compile": "on"}, "must be True, False or 'auto'. Received: jit_compile"),
    "confidence": ("cwl2", {"confidence": -1}, "`confidence` must be a number >= 0. Received:"),
    "rate": ("cwl2", {"learning_rate": 0}, "`learning_rate` must be a number > 0. Received:"),
    "rule": ("ead", {"decision_rule": "L0"}, "must be one of EN, L1, L2. Received: decision_rule"),
    "evaluations": (
        "hsja",
        {"init_eval": 10, "max_eval": 5},
        "`max_eval` must be at least `init_eval`. Received: init_eval=10, max_eval=5",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case):
    name, arguments, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        attacks.get(name, **arguments)


def test_unknown_names():
    with pytest.raises(ValueError, match="Did you mean 'pgd'.*Known names:.*attack='pdg'"):
        attacks.get("pdg")
    with pytest.raises(ValueError, match="Did you mean 'art:pgd'.*Received: attack='art:pdg'"):
        attacks.get("art:pdg")
    with pytest.raises(TypeError, match="`attack` must be a name.*Received: attack=3"):
        attacks.get(3)
    with pytest.raises(TypeError, match="`attack` must be a name"):
        attacks.get({"name": ["pgd"]})
    with pytest.raises(TypeError, match="'epsilon'. Its arguments are: norm, eps, eps_step"):
        attacks.get("pgd:epsilon=0.1")


def test_unknown_defense(model):
    with pytest.raises(ValueError, match="Did you mean 'brelu'.*Received: defense='brelo'"):
        kerasrobust.wrap(model, defense="brelo")


@pytest.mark.parametrize("name", attacks.ATTACKS.builtin)
def test_targets_are_needed(name, model):
    if not attacks.get(name).can_target:
        with pytest.raises(ValueError, match="targeted"):
            attacks.get(name, targeted=True)
        return
    with pytest.raises(ValueError, match="needs the target classes `y`. Received: y=None"):
        recipe(name, model, targeted=True).bind(model).generate(X)


def test_a_model_with_no_gradient_path():
    inputs = keras.Input((6, 6, 1))
    cut = keras.ops.cast(inputs > 0.5, "float32")
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(cut)))
    with pytest.raises(ValueError, match=r"no gradient path.*black-box attack. Received: model="):
        attacks.get("pgd").bind(model).generate(X, Y)
    attacks.get("hsja", max_iter=1).bind(model).generate(X, Y)
    with pytest.raises(TypeError, match=r"needs gradients.*black-box attack. Received: model="):
        attacks.get("pgd").bind(lambda x: np.zeros((len(x), 3)))


def test_a_model_of_tokens():
    """A black-box attack would move from word to word by thirds of one."""
    ends = [layers.Flatten(), layers.Dense(2)]
    tokens = keras.Sequential([keras.Input((6,)), layers.Embedding(9, 4), *ends])
    with pytest.raises(ValueError, match="an Embedding looks up whole numbers.*Received: model="):
        kerasrobust.evaluate(tokens, X[:, :, 0, 0], Y, attacks="hsja", clip_values=(0, 8))
    # Positions are looked up by themselves, in front of a transformer's patches say.
    inputs = keras.Input((6, 4))
    places = layers.Embedding(6, 4)(keras.ops.arange(6))
    patches = keras.Sequential([layers.Dense(4), *[layers.Flatten(), layers.Dense(3)]])
    assert Classifier(keras.Model(inputs, patches(inputs + places))).nb_classes == 3


def test_a_model_that_returns_nan():
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(3)])
    model.layers[-1].bias.assign([0.0, np.nan, 0.0])
    with pytest.raises(
        ValueError, match="finite scores. Received: NaN or infinite scores for 4 of"
    ):
        attacks.get("pgd").bind(model).generate(X, Y)


def test_a_recipe_without_a_model():
    with pytest.raises(ValueError, match=r"has no model yet.*`bind\(model\)`"):
        attacks.get("pgd").generate(X)


@pytest.mark.parametrize("given", [3, "model.keras", X])
def test_no_model(given):
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model.*Received: model="):
        attacks.get("pgd").bind(given)


def test_a_file_that_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a Keras model file.*Received: path="):
        models.load(tmp_path / "missing.keras")
    broken = tmp_path / "broken.keras"
    broken.write_text("no zip")
    with pytest.raises(ValueError, match=r"damaged or cut short.*Received: path=.*broken.keras"):
        models.load(broken)
    other = tmp_path / "picture.png"
    other.write_text("no model")
    with pytest.raises(ValueError, match=r"ending in .keras or .h5. Received: path=.*picture.png"):
        models.load(other)


def test_nothing_is_asked_of_a_callable_before_the_checks():
    asked = []

    def service(x):
        asked.append(len(x))
        return np.zeros((len(x), 3))

    attack = attacks.get("hsja").bind(Classifier(service, nb_classes=3))
    for x, y, mask in (
        (X * 255, Y, None),
        (X, Y + 5, None),
        (X, Y, np.ones(7)),
        (X[:0], None, None),
    ):
        with pytest.raises(ValueError, match="Received: "):
            attack.generate(x, y, mask=mask)
    assert asked == []


def test_a_graph_takes_one_eps(model):
    attack = attacks.get("fgsm", eps=[0.1] * 4).bind(model)
    with pytest.raises(ValueError, match="must be one number where an attack is part of a graph"):
        attack.perturb(tf.constant(X), tf.constant(Y), seed=tf.constant([0, 0]))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd", {"max_iter": 2**31}),
        ("cwl2", {"max_iter": 2**33}),
        ("hsja", {"max_queries": 2**31}),
        ("signopt", {"query_limit": 2**31}),
        ("square", {"nb_restarts": 2**32}),
    ],
)
def test_numbers_beyond_32_bits(name, settings):
    (argument,) = settings
    with pytest.raises(ValueError, match=rf"`{argument}` must be an integer <= 2147483647"):
        attacks.get(name, **settings)


def test_steps_beyond_32_bits_in_all(model):
    attack = attacks.get("pgd", max_iter=2**20, num_random_init=2**11)
    with pytest.raises(ValueError, match="at most 2147483647 steps in all. Received: 2147483648"):
        attack.bind(model)


def test_saliency_map_of_a_single_value():
    lone = keras.Sequential([keras.Input((1,)), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"needs at least two. Received: input shape \(1,\)"):
        attacks.get("jsma").bind(lone)


@pytest.mark.parametrize("name", ["pgd", "square", "apgd", "fgsm"])
def test_budgets_of_samples_or_of_channels(name):
    """Three budgets for three colour images: one for each image, or for each channel?"""
    inputs = keras.Input((6, 6, 3))
    # With weights on which the square attack's three queries find something.
    dense = layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(1))
    colour = keras.Model(inputs, dense(layers.Flatten()(inputs)))
    x = np.random.default_rng(0).uniform(0.3, 0.7, (3, 6, 6, 3)).astype(np.float32)
    eps = [0.02, 0.1, 0.2]
    with pytest.raises(ValueError, match=r"`eps` must say.*Received: eps of shape \(3,\) beside"):
        attacks.get(name, eps=eps).bind(colour).run(x)
    for shape in ((3, 1), (3, 1, 1, 1)):
        given = np.reshape(eps, shape)
        result = (
            attacks.get(name, eps=given, max_iter=3)
            if name != "fgsm"
            else attacks.get(name, eps=given)
        )
        moved = np.abs(result.bind(colour).run(x).x_adv - x).reshape(3, -1).max(axis=1)
        np.testing.assert_allclose(moved, eps, rtol=1e-4)
    # Two images cannot be meant for three channels, nor one budget for all.
    attacks.get("fgsm", eps=eps[:2]).bind(colour).run(x[:2])
    attacks.get("fgsm", eps=0.1).bind(colour).run(x)


@pytest.mark.parametrize("shape", [(1, 1, 3), (6, 6, 3), (3, 6, 6, 3), (2, 3)])
def test_a_budget_for_each_channel_or_pixel_is_refused(shape):
    for argument in ("eps", "eps_step"):
        with pytest.raises(ValueError, match=f"`{argument}` must be one number or one per sample"):
            attacks.get("pgd", **{argument: np.full(shape, 0.1)})


def test_a_url_is_no_folder_of_this_machine(tmp_path):
    """It would be a path: `s3:/bucket` below the working folder."""
    with pytest.raises(ValueError, match="`output` must be a folder of this machine"):
        Trainer(None, (0.0, 1.0), None, None, 0, "s3://bucket/tuning")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="`output` must be a folder"):
        Trainer(None, (0.0, 1.0), None, None, 0, tmp_path / "file")
    assert check_folder("output", tmp_path / "new") == tmp_path / "new"
