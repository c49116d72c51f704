"""Fast adaptive boundary attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base, hyperplanes

# Radius within which random starts are drawn, by norm, where none is given: the authors'.
RADII = {math.inf: 0.3, 2.0: 1.0, 1.0: 5.0}
TINY_STEP = 1e-8


class FastAdaptiveBoundary(base.Attack):
    """Projects the iterate and the sample onto the nearest linearised boundary and mixes the two.

    With `d1` and `d2` the smallest steps, inside the box, from the iterate `x_i` and from the
    sample `x` onto the hyperplane of the nearest boundary at `x_i`:
    `x_{i+1} = clip((1 - a) (x_i + eta d1) + a (x + eta d2))`,
    `a = min(||d1|| / (||d1|| + ||d2||), alpha_max)`. An adversarial iterate is kept if it is the
    closest so far and then pulled back: `x + beta (x_{i+1} - x)`.

    Each step is a forward pass and a backward pass for each boundary. The authors look at all; here
    they are those to the `nb_grads` - 1 likeliest wrong classes at `x_i`, which is the same for up
    to ten classes and a hundredth of the time for a thousand.

    With `nb_target_classes` each run has one boundary only, to the second likeliest class in the
    first run, the third in the second and so on; any wrong label still counts. That is the
    targeted version in AutoAttack, which needs one backward pass per step instead of one per
    class. With `targeted` the classes to reach are given and the boundary is that to the likeliest
    other class. As in the authors' AutoAttack there is no line search at the end.

    Reference: Croce & Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive
    Boundary Attack", 2020, arXiv:1907.02044, algorithm 1.

    Args:
        model: See `Attack`.
        norm: inf, 1 or 2.
        eps: Radius for random starts in the unit of the inputs; by default 0.3, 5 or 1 (norm inf,
            1, 2) times the width of the box.
        max_iter: Steps of each run.
        restarts: Runs: the first starts at the sample, the others at random points at most half of
            `eps`, and half of the distance found, away.
        alpha_max: Largest share of the sample's projection.
        eta: Overshoot of the projections.
        beta: How far an adversarial iterate stays away from the sample.
        nb_grads: Number of likeliest classes looked at in a step, the one to leave among them;
            without a meaning where the boundary is given.
        nb_target_classes: Number of likeliest wrong classes to try one by one, with `restarts`
            runs each; None for all boundaries at once.
        early_stop: End a sample at its first adversarial point within `eps`.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = FastAdaptiveBoundary(model, norm=2, max_iter=50).generate(x, y)
    """

    name = "fab"
    kind = "minimal"
    strategy = "optimization"
    source = "AutoAttack"
    lengths = {"eps": None}
    traced = ("max_iter", "alpha_max", "eta", "beta")
    state_leaves = ("iterate", "steps", "best_distance", "targets")

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        eps: Any = None,
        max_iter: int = 100,
        restarts: int = 1,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        nb_grads: int = 10,
        nb_target_classes: int | None = None,
        early_stop: bool = False,
        **common: Unpack[base.Common],
    ):
        self.norm = norms.check_norm(norm)
        self.eps = None if eps is None else checks.check_size("eps", eps)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.restarts = checks.check_int("restarts", restarts, 1)
        self.alpha_max = checks.check_float("alpha_max", alpha_max)
        self.eta = checks.check_float("eta", eta, 1.0)
        self.beta = checks.check_float("beta", beta)
        self.nb_grads = checks.check_int("nb_grads", nb_grads, 2)
        self.nb_target_classes = nb_target_classes
        if nb_target_classes is not None:
            self.nb_target_classes = checks.check_int("nb_target_classes", nb_target_classes, 1)
        self.early_stop = checks.check_bool("early_stop", early_stop)
        for key in ("alpha_max", "beta"):
            if getattr(self, key) > 1:
                raise ValueError(f"`{key}` must be in 0..1. Received: {key}={getattr(self, key)}")
        super().__init__(model, **common)
        if self.targeted and nb_target_classes is not None:
            raise ValueError(
                "With `targeted` the classes come from `y`: leave `nb_target_classes` out. "
                f"Received: nb_target_classes={nb_target_classes}"
            )

    def check(self) -> None:
        if self._targets() >= self.bound.nb_classes:
            raise ValueError(
                f"`nb_target_classes` must be less than the number of classes. "
                f"Received: nb_target_classes={self.nb_target_classes}"
            )

    def max_steps(self) -> int:
        return self.max_iter * self._runs()

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        low, high = model.clip_values
        radius = tf.fill([rows], RADII[self.norm] * (high - low))
        state = {
            **state,
            "eps": state.get("eps", radius),
            "iterate": state["x"],
            "steps": tf.zeros([rows], tf.int32),
            "best": state["x"],
            "best_distance": tf.fill([rows], math.inf),
            "found": state["done"],
        }
        if self._targets():
            logits, state = self.score(model, state, state["x"])
            others = logits - losses.FAR * tf.one_hot(state["y"], model.nb_classes)
            state["targets"] = tf.math.top_k(others, k=self._targets()).indices
        return state

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, iterate = state["x"], state["iterate"]
        gap, normal, state = self._boundary(model, state, t // params["max_iter"])
        box = model.clip_values
        inner = tf.reduce_sum(norms.flatten(normal) * norms.flatten(iterate - x), axis=1)
        own_step = norms.project_onto_hyperplane(iterate, normal, -gap, self.norm, box)
        from_x = norms.project_onto_hyperplane(x, normal, inner - gap, self.norm, box)
        size = tf.maximum(norms.norm(own_step, self.norm), TINY_STEP)
        size_from_x = tf.maximum(norms.norm(from_x, self.norm), TINY_STEP)
        share = norms.expand(tf.minimum(size / (size + size_from_x), params["alpha_max"]), x)
        eta = params["eta"]
        moved = (1 - share) * (iterate + eta * own_step) + share * (x + eta * from_x)
        moved = self.clip(model, moved)

        logits, state = self.score(model, state, moved)
        fooled = self.fools(model, state, moved, logits)
        distance = norms.norm(moved - x, self.norm)
        closer = fooled & (distance < state["best_distance"])
        pulled = norms.expand(tf.where(fooled, params["beta"], 1.0), x)
        state = {
            **state,
            "iterate": x + pulled * (moved - x),
            "steps": state["steps"] + 1,
            "best": norms.select(closer, moved, state["best"]),
            "best_distance": tf.where(closer, distance, state["best_distance"]),
            "found": state["found"] | fooled,
        }
        if self._runs() > 1:
            ended = tf.equal((t + 1) % params["max_iter"], 0)
            run = (t + 1) // params["max_iter"]
            state = tf.cond(ended, lambda: self._restart(model, state, run, seed), lambda: state)
        return state

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        over = state["steps"] >= params["max_iter"] * self._runs()
        if self.early_stop:
            over |= state["found"] & (state["best_distance"] <= state["eps"])
        return over

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    def _targets(self) -> int:
        return self.nb_target_classes or 0

    def _runs(self) -> int:
        return self.restarts * max(self._targets(), 1)

    def _boundary(
        self, model: Any, state: base.State, run: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, base.State]:
        """Gap (positive on the adversarial side) and normal of the boundary to go to."""
        y, iterate = state["y"], state["iterate"]
        if not self._targets() and not self.targeted:
            _, *found = hyperplanes.nearest(self, model, state, iterate, self.nb_grads)
            return tuple(found)
        if self._targets():
            classes = model.nb_classes
            column = tf.minimum(run // self.restarts, self._targets() - 1)
            towards = tf.one_hot(tf.gather(state["targets"], column, axis=1), classes)
            towards -= tf.one_hot(y, classes)

            def lead(logits: tf.Tensor) -> tf.Tensor:
                return tf.reduce_sum(logits * towards, axis=1)

        else:

            def lead(logits: tf.Tensor) -> tf.Tensor:
                return losses.margin(logits, y)

        _, gap, normal, state = self.differentiate(model, state, iterate, lead)
        return gap, normal, state

    def _restart(self, model: Any, state: base.State, run: tf.Tensor, seed: Any) -> base.State:
        """The start of the next run: the sample for the first of a class, else a random point."""
        x = state["x"]
        radius = tf.minimum(state["eps"], state["best_distance"]) / 2
        delta = norms.random_in_ball(tf.shape(x), radius, self.norm, seed)
        if "mask" in state:
            delta *= state["mask"]
        start = self.clip(model, x + tf.ensure_shape(delta, x.shape))
        first = tf.equal(run % self.restarts, 0)
        return {**state, "iterate": tf.where(first, x, start)}
