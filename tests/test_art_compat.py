"""ART's manners around our attacks: the same calls, ART's own classes beside ours, ART's tools."""

from __future__ import annotations

import inspect
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from art.attacks import EvasionAttack, evasion
from art.defences.preprocessor import FeatureSqueezing
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import KerasClassifier, TensorFlowV2Classifier
from art.exceptions import EstimatorError

import kerasrobust
from kerasrobust import art, attacks
from kerasrobust.art import compat
from kerasrobust.engine.classifier import Classifier

# Every class, with what makes it fast and strong enough on digits.
CLASSES = {
    "FastGradientMethod": {"eps": 0.4},
    "ProjectedGradientDescent": {"eps": 0.3, "max_iter": 5},
    "BasicIterativeMethod": {"eps": 0.3, "max_iter": 5},
    "MomentumIterativeMethod": {"eps": 0.3, "max_iter": 5},
    "AutoProjectedGradientDescent": {"eps": 0.3, "max_iter": 5, "nb_random_init": 1},
    "VirtualAdversarialMethod": {"eps": 3.0, "max_iter": 2},
    "SaliencyMapMethod": {},
    "CarliniL2Method": {"binary_search_steps": 2, "max_iter": 3, "initial_const": 1.0},
    "ElasticNet": {"binary_search_steps": 2, "max_iter": 10, "initial_const": 1.0},
    "DeepFool": {"max_iter": 10},
    "UniversalPerturbation": {
        "attacker": "fgsm",
        "attacker_params": {"eps": 0.3},
        "eps": 0.6,
        "max_iter": 1,
    },
    "CarliniL0Method": {"binary_search_steps": 1, "max_iter": 2, "initial_const": 10.0},
    "CarliniLInfMethod": {"max_iter": 10, "initial_const": 5.0, "learning_rate": 0.1},
    "HopSkipJump": {"max_iter": 1, "max_eval": 20, "init_eval": 20},
    "ZooAttack": {"max_iter": 2, "nb_parallel": 16, "use_resize": False},
    "BoundaryAttack": {"max_iter": 2, "targeted": False},
    "SignOPTAttack": {"max_iter": 1, "k": 10, "num_trial": 10, "targeted": False},
    "SquareAttack": {"eps": 0.4, "max_iter": 20},
    "SimBA": {"attack": "px", "epsilon": 0.5, "max_iter": 30},
}
each = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture(scope="module")
def few(digits):
    return digits[0][:8], digits[1][:8]


@pytest.fixture(scope="module")
def theirs(digits_model):
    """ART's own estimator of the digits' model."""
    return KerasClassifier(digits_model, clip_values=(0, 1), use_logits=False)


def line():
    """Two classes in the plane that the diagonal parts, logits `(0, 4 (x_1 + x_2) - 4)`."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.set_weights([np.array([[0, 4], [0, 4]], np.float32), np.array([0, -4], np.float32)])
    return model


def service():
    """The same for black-box attacks, which compile nothing of it."""

    def scores(x):
        return np.stack([np.zeros(len(x)), 4 * x.sum(axis=1) - 4], axis=1)

    return Classifier(scores, input_shape=(2,), nb_classes=2, from_logits=True)


def wrapped(model, **options):
    options = {"clip_values": (0, 1), "optimizer": keras.optimizers.Adam(1e-3), **options}
    return TensorFlowV2Classifier(
        model,
        nb_classes=model.output_shape[-1],
        input_shape=model.input_shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        **options,
    )


# ---- the classes ----------------------------------------------------------------------------


def test_every_shared_class_is_here():
    assert set(CLASSES) == set(compat.__all__) - {"CompatAttack"}
    assert {getattr(compat, name).name for name in CLASSES} == set(art.ATTACKS)


@each
def test_a_class_takes_what_arts_takes_and_behaves_like_it(name, theirs, few):
    made, original = getattr(compat, name), getattr(evasion, name)
    accepted = [*inspect.signature(original).parameters]
    assert set(accepted[1:]) <= set(made.attack_params)
    # The model by position and by ART's name for it; the second argument by position where it is
    # one of the values below.
    attack = made(theirs, **CLASSES[name])
    assert isinstance(attack, EvasionAttack) and attack.estimator is theirs
    by_name = made(**{accepted[0]: theirs, **CLASSES[name]})
    assert by_name.native.get_config() == attack.native.get_config()
    for key, value in CLASSES[name].items():
        assert getattr(attack, key) == value
    assert attack.targeted is bool(CLASSES[name].get("targeted", False))
    attack.set_params(verbose=False, batch_size=16)
    assert attack.batch_size == 16 == attack.native.batch_size
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1"):
        attack.set_params(batch_size=0)
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1"):
        attack.batch_size = 0
    assert attack.batch_size == 16  # nothing half done
    with pytest.raises(TypeError, match="Received: epsilo"):
        attack.set_params(epsilo=1)


@pytest.mark.parametrize("name", ["FastGradientMethod", "CarliniL2Method", "SquareAttack"])
def test_generate_is_the_native_attack(name, theirs, digits_model, few):
    x, y = few
    attack = getattr(compat, name)(theirs, **CLASSES[name])
    found = attack.generate(x, np.eye(10)[y])
    np.testing.assert_array_equal(found, attack.native.generate(x, y))
    assert attack.result.success.mean() > 0.5
    own = getattr(compat, name)(digits_model, **CLASSES[name])
    np.testing.assert_allclose(own.generate(x=x, y=y), found, atol=1e-6)
    assert own.estimator.predict(x).shape == (8, 10)
    assert attack.generate(x[:0]).shape == (0, 8, 8, 1)


def test_fast_gradient_equals_arts(theirs, few):
    x, y = few
    arguments = (theirs, 2, 0.7)  # estimator, norm, eps
    expected = evasion.FastGradientMethod(*arguments).generate(x, y)
    np.testing.assert_allclose(
        compat.FastGradientMethod(*arguments).generate(x, y), expected, atol=1e-5
    )


@pytest.mark.parametrize("name", ["BoundaryAttack", "SignOPTAttack"])
def test_labels_are_targets_where_they_are_in_art(name, theirs):
    assert getattr(compat, name)(theirs).targeted is True
    x = np.array([[0.2, 0.1], [0.9, 0.8]], np.float32)
    limit = {"query_limit": 200} if name == "SignOPTAttack" else {}
    attack = getattr(compat, name)(service(), max_iter=1, **limit)
    attack.generate(x, np.array([1, 0]))
    np.testing.assert_array_equal(attack.estimator.predict(attack.result.x_adv).argmax(1), [1, 0])
    # The labels that the model gives are reached already: said, not passed over in silence.
    with pytest.warns(UserWarning, match="adversarial before"):
        attack.generate(x, np.array([0, 1]))
    with pytest.raises(ValueError, match="needs the target classes"):
        attack.generate(x)


def test_labels_are_targets_in_the_saliency_map_method(theirs, few):
    x, y = few
    targets = (y + 1) % 10
    attack = compat.SaliencyMapMethod(theirs, theta=1.0)
    reached = theirs.predict(attack.generate(x, targets)).argmax(axis=1)
    assert (reached == targets).mean() > 0.5 and attack.result.targeted
    left = theirs.predict(attack.generate(x)).argmax(axis=1)
    assert (left != theirs.predict(x).argmax(axis=1)).all()


def test_what_is_written_wrongly():
    model = line()
    with pytest.raises(TypeError, match="takes one model"):
        compat.DeepFool(max_iter=3)
    with pytest.raises(TypeError, match="takes one model"):
        compat.DeepFool(model, estimator=model)
    with pytest.raises(TypeError, match="each argument once"):
        compat.DeepFool(model, 10, max_iter=10)
    with pytest.raises(TypeError, match="at most 6 positional"):
        compat.DeepFool(model, 1, 1e-6, 2, 1, False, 3)
    with pytest.raises(EstimatorError):
        compat.DeepFool(object)
    attack = compat.DeepFool(model)
    with pytest.raises(TypeError, match="Received: maks"):
        attack.generate(np.zeros((1, 2)), maks=1)
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        attack.foo  # noqa: B018


def test_what_to_write_instead():
    with pytest.raises(ImportError, match='kerasrobust.wrap.*"adversarial_training"'):
        from kerasrobust.art.compat import AdversarialTrainer  # noqa: F401
    with pytest.raises(ImportError, match="NewtonFool has no counterpart"):
        from kerasrobust.art.compat import NewtonFool  # noqa: F401
    with pytest.raises(AttributeError, match="NoSuchThing"):
        compat.NoSuchThing  # noqa: B018
    assert compat.ProjectedGradientDescentNumpy is compat.ProjectedGradientDescent
    with pytest.raises(TypeError, match="ensemble_adversarial_training"):
        kerasrobust.wrap(line(), "adversarial_training", attack=["fgsm", "pgd"])


# ---- parameters that ART has ----------------------------------------------------------------


def test_line_searches_are_counted_as_steps():
    model = line()
    assert compat.CarliniL2Method(model).native.max_iter == 100
    assert compat.CarliniL2Method(model, max_iter=10).native.max_iter == 100
    attack = compat.CarliniL2Method(model, max_iter=3, max_halving=2, max_doubling=4)
    assert (attack.max_iter, attack.native.max_iter) == (3, 18)
    with pytest.raises(ValueError, match="`max_halving` must be an integer"):
        attack.max_halving = -1


def test_decay_is_momentum():
    model = line()
    attack = compat.ProjectedGradientDescent(model, eps=0.1, decay=0.5, max_iter=3)
    momentum = attacks.get("mifgsm", eps=0.1, decay=0.5, max_iter=3).bind(model)
    x, y = np.array([[0.2, 0.3], [0.6, 0.7]], np.float32), np.array([0, 1])
    np.testing.assert_array_equal(attack.generate(x, y), momentum.generate(x, y))
    with pytest.raises(ValueError, match="`num_random_init` must be 0 beside `decay`"):
        attack.num_random_init = 2


def test_a_random_budget_is_drawn_anew_for_each_call_and_keeps_the_share_of_the_step():
    attack = compat.ProjectedGradientDescent(
        line(), eps=0.2, eps_step=0.2, max_iter=1, random_eps=True
    )
    x, y = np.full((1, 2), 0.3, np.float32), np.array([0])
    sizes = np.array([np.abs(attack.generate(x, y) - x).max() for _ in range(6)])
    assert (sizes <= 0.2 + 1e-6).all() and np.ptp(sizes) > 0.02
    assert attack.eps == 0.2


def test_sizes_in_arrays():
    model = line()
    assert compat.FastGradientMethod(model, eps=np.full((3, 2), 0.2)).native.eps == 0.2
    attack = compat.FastGradientMethod(model, eps=np.array([[0.1, 0.1], [0.2, 0.2]]))
    x = np.full((2, 2), 0.4, np.float32)
    moved = np.abs(attack.generate(x, np.array([0, 0])) - x).max(axis=1)
    np.testing.assert_allclose(moved, [0.1, 0.2], atol=1e-6)
    with pytest.raises(ValueError, match="one number or one per sample"):
        compat.FastGradientMethod(model, eps=np.array([[0.1, 0.2], [0.2, 0.2]]))
    # Beyond the box, which a search for the shortest step may be.
    nearest = compat.FastGradientMethod(model, eps=5.0, eps_step=0.1, minimal=True)
    found = nearest.generate(x, np.array([0, 0]))
    np.testing.assert_allclose(np.abs(found - x).max(axis=1), 0.1, atol=1e-3)


def test_the_squares_criterion_cannot_be_replaced(digits_model):
    with pytest.raises(ValueError, match="`adv_criterion` must be None"):
        compat.SquareAttack(digits_model, adv_criterion=lambda p, y: p > y)


def test_the_universal_perturbation_keeps_what_it_found(theirs, few):
    attack = compat.UniversalPerturbation(theirs, **CLASSES["UniversalPerturbation"])
    found = attack.generate(few[0])
    assert attack.noise.shape == (8, 8, 1) and 0 <= attack.fooling_rate <= 1
    np.testing.assert_allclose(found, np.clip(few[0] + attack.noise, 0, 1), atol=1e-6)
    assert compat.UniversalPerturbation(theirs, "carlini").native.inner.name == "cwl2"


def test_performance_is_noted(caplog):
    attack = compat.SignOPTAttack(service(), eval_perform=True, **CLASSES["SignOPTAttack"])
    x = np.array([[0.2, 0.1], [0.9, 0.8]], np.float32)
    with caplog.at_level(logging.INFO, compat.__name__):
        found = attack.generate(x)
    assert "median L2" in caplog.text
    distances = np.sqrt(((found - x) ** 2).sum(axis=1))
    np.testing.assert_allclose(attack.logs, distances[attack.result.success], rtol=1e-5)


def test_tensorboard_shows_each_call(tmp_path):
    x, y = np.full((2, 2), 0.45, np.float32), np.array([0, 0])
    attack = compat.FastGradientMethod(line(), eps=0.2, summary_writer=str(tmp_path))
    for _ in range(2):
        attack.generate(x, y)
    (file,) = tmp_path.iterdir()
    seen = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            seen.setdefault(value.tag, []).append(
                (event.step, float(tf.make_ndarray(value.tensor)))
            )
    assert seen["fgsm/fooled"] == [(1, 1.0), (2, 1.0)]
    assert seen["fgsm/gradients"] == [(1, 2.0), (2, 2.0)]
    assert seen["fgsm/median_linf"][0][1] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="`summary_writer` must be"):
        attack.summary_writer = 3


# ---- where to begin -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HopSkipJump", "BoundaryAttack", "SignOPTAttack"])
def test_a_start_is_where_the_attack_begins(name):
    made = getattr(compat, name)
    x = np.array([[0.2, 0.1], [0.1, 0.2]], np.float32)
    start = np.array([[1.0, 0.1], [0.1, 1.0]], np.float32)  # along one axis each
    options = {} if name == "SignOPTAttack" else {"init_size": 5}
    if name == "HopSkipJump":
        options |= {"max_eval": 4, "init_eval": 4, "max_iter": 0}
    elif name == "SignOPTAttack":
        options |= {"max_iter": 1, "k": 1, "alpha": 1e-3, "query_limit": 1}
    attack = made(service(), **{"max_iter": 1, "targeted": False, **options})
    found = attack.generate(x, x_adv_init=start)
    assert attack.result.success.all()
    if name != "BoundaryAttack":  # whose steps leave the line
        np.testing.assert_allclose(found[0, 1], 0.1, atol=0.02)
        np.testing.assert_allclose(found[1, 0], 0.1, atol=0.02)


def test_points_to_start_from_are_chosen_for_each_sample():
    x = np.array([[0.2, 0.1], [0.1, 0.2], [0.9, 0.9]], np.float32)
    pool = np.array([[1.0, 0.1], [0.1, 1.0], [0.0, 0.0]], np.float32)
    attack = compat.HopSkipJump(service(), max_iter=0, init_size=1)
    found = attack.generate(x, x_init=pool)
    np.testing.assert_allclose(found[0, 1], 0.1, atol=0.02)
    np.testing.assert_allclose(found[1, 0], 0.1, atol=0.02)
    assert found[2, 0] == pytest.approx(found[2, 1], abs=0.02)  # towards (0, 0)


def test_hop_skip_jump_goes_on():
    x = np.array([[0.2, 0.1], [0.1, 0.2], [0.3, 0.0]], np.float32)
    attack = compat.HopSkipJump(service(), max_iter=0, max_eval=20, init_eval=10, init_size=20)
    found, distances = None, []
    for _ in range(3):
        found = attack.generate(x, x_adv_init=found, resume=True)
        distances.append(attack.result.l2)
        attack.max_iter = 4
    assert (np.diff(distances, axis=0) <= 1e-5).all()
    assert distances[2].mean() < 0.99 * distances[0].mean()
    # 10 * sqrt(t + 1), at most 20, points in iterations 5 to 8, not 1 to 4.
    assert attack.result.queries.min() > 4 * 20
    fresh = compat.HopSkipJump(service(), max_iter=4, max_eval=20, init_eval=10, init_size=20)
    fresh.generate(x, x_adv_init=found)
    assert fresh.result.queries.max() < attack.result.queries.min()
    with pytest.raises(ValueError, match="`resume` must be False"):
        compat.DeepFool(line()).generate(x, resume=True)


def test_masks():
    x, y = np.full((1, 2), 0.45, np.float32), np.array([0])
    attack = compat.FastGradientMethod(line(), eps=0.2)
    found = attack.generate(x, y, mask=np.array([0.3, 0.0]))  # where it is not 0, as in ART
    np.testing.assert_allclose(found, [[0.65, 0.45]], atol=1e-6)
    with pytest.raises(ValueError, match="Give `mask != 0`"):
        attack.native.generate(x, y, mask=np.array([0.3, 0.0]))


# ---- ART's estimators -----------------------------------------------------------------------


def test_mean_and_deviation_of_an_estimator_are_seen():
    mean, deviation = np.array([0.1, 0.3]), np.array([0.5, 0.25])
    estimator = wrapped(line(), preprocessing=(mean, deviation))
    attack = compat.FastGradientMethod(estimator, eps=0.05)
    x, y = np.array([[0.3, 0.4], [0.2, 0.6]], np.float32), np.array([0, 0])
    logits = attack.native.bound.predict(x)
    np.testing.assert_allclose(logits, estimator.predict(x), rtol=1e-5)
    np.testing.assert_allclose(logits[:, 1], 4 * ((x - mean) / deviation).sum(1) - 4, rtol=1e-4)
    expected = evasion.FastGradientMethod(estimator, eps=0.05).generate(x, y)
    np.testing.assert_allclose(attack.generate(x, y), expected, atol=1e-6)
    # The compiled functions of the model serve the next attack too.
    assert compat.DeepFool(estimator).native.bound is attack.native.bound


def test_defences_are_seen_by_black_box_attacks_and_named_to_the_others(digits_model):
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=1)
    estimator = wrapped(digits_model, preprocessing_defences=[squeezing])
    with pytest.raises(TypeError, match="FastGradientMethod needs gradients: .*FeatureSqueezing"):
        compat.FastGradientMethod(estimator)
    attack = compat.SquareAttack(estimator)
    x = np.full((1, 8, 8, 1), 0.4, np.float32)
    np.testing.assert_allclose(
        attack.native.bound.predict(x), attack.native.bound.predict(0 * x), rtol=1e-5
    )


def test_bounds_of_an_estimator():
    model = line()
    with pytest.raises(ValueError, match="without `clip_values` has no bounds"):
        compat.DeepFool(wrapped(model, clip_values=None))
    bounded = Classifier(wrapped(model, clip_values=None), clip_values=(-2, 3))
    assert compat.DeepFool(bounded).native.bound.clip_values == (-2.0, 3.0)
    same = wrapped(model, clip_values=(np.zeros(2), np.ones(2)))
    assert compat.DeepFool(same).native.bound.clip_values == (0.0, 1.0)
    with pytest.raises(ValueError, match="must be the same for all input values"):
        compat.DeepFool(wrapped(model, clip_values=(np.zeros(2), np.array([1.0, 2.0]))))


def test_samples_a_rounding_error_outside_the_box_are_taken():
    x = np.array([[1.0 + 3e-6, 0.3], [-3e-6, 0.2]], np.float32)
    found = compat.FastGradientMethod(line(), eps=0.1).generate(x, np.array([1, 0]))
    assert found.min() >= 0 and found.max() <= 1


# ---- ART's tools ----------------------------------------------------------------------------


@pytest.mark.slow
def test_arts_trainer_takes_several_attacks(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    x, y = digits[0][:128], digits[1][:128]
    model.fit(x, y, epochs=10, verbose=0)
    estimator = wrapped(model, optimizer=keras.optimizers.Adam(0.02))
    fgsm = compat.FastGradientMethod(estimator, eps=0.2)
    pgd = compat.ProjectedGradientDescent(estimator, eps=0.2, max_iter=3)
    before = (estimator.predict(pgd.generate(x, y)).argmax(axis=1) == y).mean()
    trainer = AdversarialTrainer(estimator, [fgsm, pgd], ratio=1.0)
    trainer.fit(x, np.eye(10, dtype=np.float32)[y], nb_epochs=4, batch_size=64)
    after = (estimator.predict(pgd.generate(x, y)).argmax(axis=1) == y).mean()
    assert fgsm.result.success.any() and after > before + 0.1
