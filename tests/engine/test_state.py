"""Leaves of the state are declared, and a hyperparameter that is traced is frozen nowhere."""

import numpy as np
import pytest
import tensorflow as tf

from kerasrobust import attacks
from kerasrobust.engine import drivers


class Leaky(attacks.ProjectedGradientDescent):
    """Keeps a leaf that it does not declare."""

    def init(self, model, state, params, seed):
        state = super().init(model, state, params, seed)
        return {**state, "momentun": state["iterate"]}


class Growing(attacks.ProjectedGradientDescent):
    """Makes up a leaf on its way."""

    state_leaves = ("late",)

    def step(self, model, state, params, seed, t):
        return {**super().step(model, state, params, seed, t), "late": state["iterate"]}


def test_an_undeclared_leaf_is_an_error(digits_model, digits):
    x, y = digits[0][:4], digits[1][:4]
    with pytest.raises(ValueError, match="`state_leaves`.*Received: momentun"):
        Leaky(digits_model, max_iter=2).run(x, y)
    with pytest.raises(ValueError, match=r"Received: \['late'\] more"):
        Growing(digits_model, max_iter=2).run(x, y)


def test_leaves_are_inherited():
    attack = attacks.get("mifgsm")
    assert {"iterate", "best_loss", "momentum"} <= set(attack.own_leaves())


def test_what_the_drivers_ask_is_what_they_hand_over(digits_model, digits):
    """The state after `init` holds the given leaves and counters that start at zero."""
    x, y = digits[0][:4], digits[1][:4]
    attack = attacks.get("pgd", eps=0.1).bind(digits_model)
    given = {
        "x": tf.constant(x),
        "y": tf.constant(y, tf.int32),
        "done": tf.zeros([4], tf.bool),
        "eps": tf.fill([4], 0.1),
        "eps_step": tf.fill([4], 0.01),
    }
    machine = drivers.Machine(attack, attack.bound)
    state = machine.initialise(given, attack.params(), tf.constant([0, 0]))
    assert set(given) <= set(state)
    assert not np.any([state[key] for key in ("queries", "gradients", "executed_gradients")])


def test_a_hyperparameter_that_is_assigned(digits_model, digits):
    """Is checked, and no graph of what the attack was before is taken for what it is now."""
    x, y = digits[0][:24], digits[1][:24]
    settings = {"eps": 0.3, "eps_step": 0.1, "max_iter": 4}
    living = attacks.get("pgd", norm=2, **settings).bind(digits_model)
    weak = living.run(x, y)
    living.norm = "inf"
    fresh = attacks.get("pgd", norm=np.inf, **settings).bind(digits_model).run(x, y)
    np.testing.assert_array_equal(living.run(x, y).x_adv, fresh.x_adv)
    assert weak.success.mean() < fresh.success.mean()
    for name, value in {"eps": -0.1, "max_iter": 0, "norm": 3}.items():
        with pytest.raises(ValueError, match=f"`?{name}`? .*Received: {name}="):
            setattr(living, name, value)
    with pytest.raises(ValueError, match="Received: eps=30"):
        living.eps = 30
    np.testing.assert_array_equal(living.run(x, y).x_adv, fresh.x_adv)
