"""Boundary attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks.base import Params, State
from kerasrobust.attacks.query_attack import QueryAttack, QueryCommon

# Halvings of the way from the sample to the start.
START_HALVINGS = 10
# Shares of successful proposals between which a step length is left as it is (section 2.4).
FEWEST, MOST = 0.2, 0.5
# Relative difference of squared distances that rounding may make.
TIE = 1e-4


class BoundaryAttack(QueryAttack):
    """Walks along the decision boundary by rejection sampling, on labels alone.

    Each iteration draws `sample_size` orthogonal steps: Gaussian directions, orthogonal to the way
    to the sample `x`, of length `delta * ||x_t - x||_2`, projected back onto the sphere around `x`.
    Those that stay adversarial make a step of `epsilon` of the way towards `x`; the nearest point
    that is still adversarial is the next iterate. Both lengths are adapted for each sample to the
    shares of steps that succeed: multiplied by `step_adapt` below 0.2, divided by it above 0.5. Of
    either kind up to `num_trial` rounds are made until one step succeeds; a sample for which none
    does has ended.

    Starts are `init_size` uniform images; where none of them is adversarial the nearest one of the
    other data points of the call that is, and where there is none either, the attack gives up on
    the sample and says so (`AttackResult.gave_up`). The directions of a round are drawn once and
    used for all samples of a batch; each sample's own steps are distributed as in the paper, and
    packing cannot change the result.

    Before the first iteration the start is drawn to the boundary by a binary search, which ART
    does not do, nor the paper; the authors' program blends it with the sample likewise. ART's steps
    leave the sphere by the part of the Gaussian that is parallel.

    Reference: Brendel, Rauber & Bethge, "Decision-Based Adversarial Attacks: Reliable Attacks
    Against Black-Box Machine Learning Models", 2018, arXiv:1712.04248.

    Args:
        model: See `Attack`; a callable that returns scores or one-hot decisions will do. Memory
            holds `batch_size * sample_size` points, in as many passes as they need.
        delta: First length of the orthogonal step, relative to the distance.
        epsilon: First length of the step towards the sample, likewise.
        step_adapt: Factor of the adaptation, between 0 and 1.
        max_iter: Iterations.
        num_trial: Rounds of either kind per iteration.
        sample_size: Orthogonal steps per round.
        init_size: Random starts tried.
        min_epsilon: A sample ends when its `epsilon` is smaller.
        **common: `max_queries`: see `QueryAttack`; `targeted`, `batch_size`, `seed`, `verbose`,
            `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = BoundaryAttack(model, max_iter=500).generate(x, y)
    """

    name = "boundary"
    kind = "minimal"
    access = "labels"
    norm = 2.0
    norms = (2.0,)
    art_defaults = {"targeted": True}
    strategy = "optimization"
    source = "AREB"
    traced = ("delta", "epsilon", "step_adapt", "max_iter", "num_trial", "init_size", "min_epsilon")
    needs_starts = True
    chunk = 4
    state_leaves = ("delta", "epsilon", "stuck", "steps")

    def __init__(
        self,
        model: Any = None,
        *,
        delta: float = 0.01,
        epsilon: float = 0.01,
        step_adapt: float = 0.667,
        max_iter: int = 5000,
        num_trial: int = 25,
        sample_size: int = 20,
        init_size: int = 100,
        min_epsilon: float = 0.0,
        **common: Unpack[QueryCommon],
    ):
        self.delta = checks.check_float("delta", delta, above=True)
        self.epsilon = checks.check_float("epsilon", epsilon, above=True)
        self.step_adapt = checks.check_float("step_adapt", step_adapt, above=True)
        if self.step_adapt >= 1:
            raise ValueError(
                f"`step_adapt` must be smaller than 1. Received: step_adapt={step_adapt!r}"
            )
        self.max_iter = checks.check_int("max_iter", max_iter, 0)
        self.num_trial = checks.check_int("num_trial", num_trial, 1)
        self.sample_size = checks.check_int("sample_size", sample_size, 1)
        self.init_size = checks.check_int("init_size", init_size, 0)
        self.min_epsilon = checks.check_float("min_epsilon", min_epsilon)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: State, params: Params, seed: Any) -> State:
        wanted = ~state["done"]
        start, found, state = self.find_start(model, state, params, seed)
        best, state = self._blend(model, state, start, found)
        return {
            **state,
            "best": norms.select(found, best, state["x"]),
            "delta": tf.fill([tf.shape(best)[0]], params["delta"]),
            "epsilon": tf.fill([tf.shape(best)[0]], params["epsilon"]),
            "found": found | ~wanted,
            "gave_up": wanted & ~found,
            "stuck": tf.zeros_like(found),
            "steps": tf.zeros_like(state["y"]),
        }

    def step(self, model: Any, state: State, params: Params, seed: Any, t: Any) -> State:
        x = state["x"][:, None]
        here = tf.repeat(state["best"][:, None], self.sample_size, axis=1)
        everyone = tf.ones(tf.shape(here)[:2], tf.bool)

        def sideways(i: Any, state: State) -> tuple[tf.Tensor, tf.Tensor]:
            return self._on_sphere(model, state, tf.random.fold_in(seed, i)), everyone

        walkers, survivors, state = self._trials(
            model, state, params, "delta", sideways, here, ~state["done"]
        )

        def inwards(i: Any, state: State) -> tuple[tf.Tensor, tf.Tensor]:
            return walkers + norms.expand(state["epsilon"], walkers) * (x - walkers), survivors

        at_work = tf.reduce_any(survivors, axis=1)
        points, fits, state = self._trials(
            model, state, params, "epsilon", inwards, walkers, at_work
        )
        distance = tf.reduce_sum(tf.square(points - x), axis=list(range(2, x.shape.rank)))
        distance = tf.where(fits, distance, math.inf)
        least = tf.reduce_min(distance, axis=1)
        # Where the box cuts nothing off all are equally near, within rounding: the first is taken.
        near = tf.cast(distance <= least[:, None] * (1 + TIE), tf.int32)
        nearest = tf.gather(points, tf.argmax(near, axis=1), axis=1, batch_dims=1)
        closer = least < norms.norm(state["best"] - state["x"], 2) ** 2
        return {
            **state,
            "best": norms.select(closer, nearest, state["best"]),
            "stuck": ~tf.reduce_any(fits, axis=1),
            "steps": state["steps"] + 1,
        }

    def done(self, state: State, params: Params) -> tf.Tensor:
        small = state["epsilon"] < params["min_epsilon"]
        return state["gave_up"] | state["stuck"] | small | (state["steps"] >= params["max_iter"])

    def finish(self, model: Any, state: State, params: Params) -> tf.Tensor:
        return state["best"]

    def _trials(
        self,
        model: Any,
        state: State,
        params: Params,
        length: str,
        propose: Callable[[Any, State], tuple[tf.Tensor, tf.Tensor]],
        points: tf.Tensor,
        at_work: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, State]:
        """Rounds of proposals, adapting the length, until one of each sample's is adversarial.

        Returns:
            The proposals of each sample's last round `[batch, sample_size, ...]`, bool
            `[batch, sample_size]` which of them are adversarial, and the new state.
        """

        def trial(state: State, i: Any, at_work: Any, points: Any, fits: Any) -> tuple[Any, ...]:
            proposals, wanted = propose(i, state)
            proposals, wanted = self.clip(model, proposals), wanted & at_work[:, None]
            adversarial, state = self.ask(model, state, proposals, wanted)
            asked = tf.reduce_sum(tf.cast(wanted, tf.float32), axis=1)
            share = tf.reduce_sum(tf.cast(adversarial, tf.float32), axis=1) / tf.maximum(asked, 1.0)
            shorter = at_work & (share < FEWEST)
            longer = at_work & (share > MOST)
            value = tf.where(shorter, state[length] * params["step_adapt"], state[length])
            # A step of the whole way would end in the sample itself.
            value = tf.where(longer, tf.minimum(value / params["step_adapt"], 1.0), value)
            return (
                {**state, length: value},
                i + 1,
                at_work & ~tf.reduce_any(adversarial, axis=1),
                tf.cond(
                    tf.reduce_all(at_work),
                    lambda: tf.identity(proposals),
                    lambda: norms.select(at_work, proposals, points),
                ),
                tf.where(at_work[:, None], adversarial, fits),
            )

        none = tf.zeros_like(tf.reduce_sum(points, axis=list(range(2, points.shape.rank))), tf.bool)
        state, _, _, points, fits = self.loop(
            state,
            lambda i, at_work, *_: (i < params["num_trial"]) & tf.reduce_any(at_work),
            trial,
            (0, at_work, points, none),
            changes=(length,),
        )
        return points, fits, state

    def _on_sphere(self, model: Any, state: State, seed: Any) -> tf.Tensor:
        """Steps from the iterate, orthogonal to the way to the sample, back on its sphere."""
        x, best = state["x"], state["best"]
        outwards = norms.flatten(best - x)
        distance = norms.norm(outwards, 2)[:, None]
        unit = norms.normalize(outwards, 2)
        noise = tf.random.stateless_normal([self.sample_size, outwards.shape[1]], seed)
        along = tf.matmul(unit, noise, transpose_b=True)
        if "mask" in state:
            mask = norms.flatten(state["mask"])
            square = tf.matmul(mask, tf.square(noise), transpose_b=True)
            noise = noise[None] * mask[:, None]
        else:
            square = tf.reduce_sum(tf.square(noise), axis=1)[None]
            noise = noise[None]
        delta = state["delta"][:, None]
        # Of the part of the noise that is orthogonal, which is never written out: the rest of it
        # is taken off the way outwards.
        size = tf.sqrt(tf.maximum(square - tf.square(along), 0.0))
        scale = tf.math.divide_no_nan(delta * distance, size) / tf.sqrt(1 + tf.square(delta))
        share = 1 / tf.sqrt(1 + tf.square(delta)) - tf.math.divide_no_nan(scale * along, distance)
        base = norms.flatten(x)[:, None] + share[:, :, None] * outwards[:, None]
        points = base + scale[:, :, None] * noise
        return tf.reshape(points, [-1, self.sample_size, *x.shape[1:]])

    def _blend(
        self, model: Any, state: State, start: tf.Tensor, found: tf.Tensor
    ) -> tuple[tf.Tensor, State]:
        """The start, drawn towards the sample until it is about to lose its label."""
        x = state["x"]
        lower = tf.zeros_like(state["y"], tf.float32)
        upper = tf.ones_like(lower)
        for _ in range(START_HALVINGS):
            middle = (lower + upper) / 2
            point = x + norms.expand(middle, x) * (start - x)
            fits, state = self.ask(model, state, point[:, None], found[:, None])
            lower = tf.where(fits[:, 0], lower, middle)
            upper = tf.where(fits[:, 0], middle, upper)
        # At the upper end it is the start itself, without rounding.
        share = norms.expand(upper, x)
        return tf.where(share < 1, x + share * (start - x), start), state
