"""Attacks that are found by entry points: by a name of their own, and as a member of a mapping."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import Attack


class PluginAttack(Attack):
    """Sign steps of equal length inside the Linf ball."""

    name = "plugin-attack"
    kind = "budget"
    norm, norms = math.inf, (math.inf,)
    strategy = "sensitivity"
    source = "plugin"
    traced = ("max_iter",)
    state_leaves = ("iterate", "steps")
    lengths = {"eps": 0.4}
    length = 1 / 5  # of the budget

    def __init__(self, model: Any = None, *, eps: Any = None, max_iter: int = 10, **common: Any):
        self.eps = None if eps is None else checks.check_size("eps", eps)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model, state, params, seed):
        return {**state, "iterate": state["x"], "steps": tf.zeros_like(state["y"])}

    def step(self, model, state, params, seed, t):
        sign = -1.0 if self.targeted else 1.0
        _, _, gradient, state = self.differentiate(
            model, state, state["iterate"], lambda z: sign * losses.cross_entropy(z, state["y"])
        )
        length = norms.expand(self.length * state["eps"], gradient)
        moved = self.clip(model, state["iterate"] + length * tf.sign(gradient))
        delta = norms.project(moved - state["x"], state["eps"], self.norm)
        return {**state, "iterate": state["x"] + delta, "steps": state["steps"] + 1}

    def done(self, state, params):
        return state["steps"] >= params["max_iter"]

    def finish(self, model, state, params):
        return state["iterate"]


class Twice(PluginAttack):
    """The same with steps of twice the length; of a budget that is no number it says so itself."""

    name = "plugin:twice"
    length = 2 / 5

    def __init__(self, model: Any = None, *, eps: Any = None, max_iter: int = 10, **common: Any):
        eps = None if eps is None else float(eps)
        super().__init__(model, eps=eps, max_iter=max_iter, **common)
