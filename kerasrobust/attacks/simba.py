"""SimBA."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import tensorflow as tf
from scipy import fft

from kerasrobust import checks, losses, norms
from kerasrobust.attacks.base import Params, State
from kerasrobust.attacks.query_attack import QueryAttack, QueryCommon


class SimBA(QueryAttack):
    """Steps of `+-epsilon` along the vectors of an orthonormal basis, kept where they help.

    For one basis vector `q` after the other: `x + delta + epsilon * q`, or else
    `x + delta - epsilon * q`, is kept if it lowers the probability of the class to leave (raises
    that of the target). A sample ends when it is fooled. The basis is that of the pixels or of the
    image's discrete cosine transform, lowest frequencies first. Steps that the box swallows whole
    are not asked for.

    The order of the basis is drawn for each sample at the start; after the last vector it begins
    again. ART's class of this name asks for both signs each time and takes the better one; here
    as in the paper (Algorithm 1) the second is asked for only if the first does not help.

    Reference: Guo, Gardner, You, Wilson & Weinberger, "Simple Black-box Adversarial Attacks", 2019,
    arXiv:1905.07121.

    Args:
        model: See `Attack`; inputs must be images `[height, width, channels]`.
        attack: ``"dct"`` or ``"px"``, the basis.
        max_iter: Basis vectors tried.
        order: Of the pixels: ``"random"``, or ``"diag"`` for diagonal after diagonal.
        epsilon: Length of a step, in the unit of the inputs. Default: 0.1 of the width of the box.
        freq_dim: Side of the square of lowest frequencies that the DCT order begins with.
        stride: Frequencies that it grows by when it is exhausted.
        **common: `max_queries`: see `QueryAttack`; `targeted`, `batch_size`, `seed`, `verbose`,
            `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = SimBA(model, attack="px", epsilon=0.2).generate(x, y)
    """

    name = "simba"
    kind = "minimal"
    norm = 2.0
    norms = (2.0,)
    strategy = "optimization"
    source = "AREB"
    lengths = {"epsilon": 0.1}
    traced = ("max_iter", "epsilon")
    state_leaves = ("order", "odds", "steps")

    def __init__(
        self,
        model: Any = None,
        *,
        attack: str = "dct",
        max_iter: int = 3000,
        order: str = "random",
        epsilon: float | None = None,
        freq_dim: int = 4,
        stride: int = 1,
        **common: Unpack[QueryCommon],
    ):
        for name, value, known in (
            ("attack", attack, ("dct", "px")),
            ("order", order, ("random", "diag")),
        ):
            if value not in known:
                raise ValueError(
                    f"`{name}` must be {known[0]!r} or {known[1]!r}. Received: {name}={value!r}"
                )
        self.attack = attack
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.order = order
        self.epsilon = (
            None if epsilon is None else checks.check_float("epsilon", epsilon, above=True)
        )
        self.freq_dim = checks.check_int("freq_dim", freq_dim, 1)
        self.stride = checks.check_int("stride", stride, 1)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def check(self) -> None:
        super().check()
        checks.check_images("SimBA", self.bound.input_shape)

    def init(self, model: Any, state: State, params: Params, seed: Any) -> State:
        x = state["x"]
        checks.check_images("SimBA", tuple(x.shape[1:]))
        drawn = tf.random.stateless_uniform(tf.shape(norms.flatten(x)), seed)
        logits, fooled, _, state = self.scores(model, state, x[:, None])
        odds = self._odds(logits, state)
        return {
            **state,
            # A random order within groups, the groups one after the other.
            "order": tf.argsort(drawn + self._groups(x.shape[1:])),
            "best": x,
            "odds": odds[:, 0],
            "found": fooled[:, 0] | state["done"],
            "steps": tf.zeros_like(state["y"]),
        }

    def step(self, model: Any, state: State, params: Params, seed: Any, t: Any) -> State:
        best, improved = state["best"], tf.zeros_like(state["done"])
        index = tf.gather(state["order"], t % state["order"].shape[1], axis=1)
        direction = params["epsilon"] * self._basis(index, best.shape[1:])
        if "mask" in state:
            direction *= state["mask"]
        for sign in (1.0, -1.0):
            candidate = self.clip(model, state["best"] + sign * direction)
            moves = tf.reduce_any(norms.flatten(candidate != state["best"]), axis=1)
            needed = ~improved & ~state["done"] & moves
            logits, fooled, granted, state = self.scores(
                model, state, candidate[:, None], needed[:, None]
            )
            odds = self._odds(logits, state)
            better = granted[:, 0] & (fooled[:, 0] | (odds[:, 0] < state["odds"]))
            improved |= better
            best = norms.select(better, candidate, best)
            state = {
                **state,
                "odds": tf.where(better, odds[:, 0], state["odds"]),
                "found": state["found"] | fooled[:, 0],
            }
        return {**state, "best": best, "steps": state["steps"] + 1}

    def done(self, state: State, params: Params) -> tf.Tensor:
        return state["found"] | (state["steps"] >= params["max_iter"])

    def finish(self, model: Any, state: State, params: Params) -> tf.Tensor:
        return state["best"]

    def _odds(self, logits: tf.Tensor, state: State) -> tf.Tensor:
        """What falls on the way to an adversarial point.

        The logarithm of the odds of the class: it rises with the probability, and unlike it does
        not stick to one where the model is very confident.
        """
        own = tf.one_hot(state["y"], tf.shape(logits)[-1])[:, None]
        rest = tf.reduce_logsumexp(logits - losses.FAR * own, axis=-1)
        odds = tf.reduce_sum(logits * own, axis=-1) - rest
        return -odds if self.targeted else odds

    def _groups(self, shape: Any) -> np.ndarray:
        """Number of the group of each basis vector, `[features]`."""
        i, j, _ = np.indices(tuple(shape))
        if self.attack == "dct":
            groups = np.maximum(-(-(np.maximum(i, j) + 1 - self.freq_dim) // self.stride), 0)
        else:
            groups = i + j if self.order == "diag" else np.zeros_like(i)
        return groups.reshape(-1).astype(np.float32)

    def _basis(self, index: tf.Tensor, shape: Any) -> tf.Tensor:
        """The basis vectors of some indices, `[batch, height, width, channels]`."""
        height, width, channels = shape
        if self.attack == "px":
            return tf.reshape(tf.one_hot(index, height * width * channels), [-1, *shape])
        rows, columns = (
            tf.constant(fft.idct(np.eye(size), axis=1, norm="ortho"), tf.float32)
            for size in (height, width)
        )
        position = index // channels
        return (
            tf.gather(rows, position // width)[:, :, None, None]
            * tf.gather(columns, position % width)[:, None, :, None]
            * tf.one_hot(index % channels, channels)[:, None, None, :]
        )
